"""Trains the best networks of a run in full: `gmsearch retrain`.

RUN/retrained/ID/   settings.yaml, and what `retraining` leaves
"""

from itertools import cycle

from rich.console import Console

from gmsearch import data
from gmsearch.agreement import correlation_in_words, finalists_table
from gmsearch.band_cost import warning_of_cost
from gmsearch.band_picture import Line, draw_bands
from gmsearch.errors import SettingsError
from gmsearch.experiment import FullTraining, read_full_training
from gmsearch.files import write_atomically
from gmsearch.finalists import Finalist
from gmsearch.palette import LOOKS
from gmsearch.progress import following
from gmsearch.run import RunFolder, read_curve


def compare_classes(run: RunFolder, dataset: data.AnyDataset, source: str) -> str | None:
    """How the classes of the data differ from those of the search, in words; None where they are
    the same.

    Raises SettingsError where some that the search told apart are not there.
    """
    searched, now = run.classes, dataset.classes
    if searched is None or set(searched) == set(now):
        return None
    missing = [each for each in searched if each not in now]
    if missing:
        raise SettingsError(
            f"--data {source}: {len(missing):,} of the search's {len(searched):,} classes are not "
            f"in it, such as {missing[0]!r}; give data that has them, or --other-classes"
        )
    return f"{source} has {len(now):,} classes, the search's {len(searched):,} among them"


def check(finalists: list[Finalist], settings: FullTraining, dataset: data.AnyDataset) -> None:
    """Raises SettingsError where a batch is larger than the data, and where a training was begun
    with other settings.
    """
    if settings.recipe.batch_size > len(dataset.train):
        raise SettingsError(
            f"--batch-size {settings.recipe.batch_size}: there are {len(dataset.train):,} images "
            "to train on; give a smaller one"
        )
    for finalist in finalists:
        file = finalist.folder / "settings.yaml"
        if not file.exists():
            if finalist.result is not None:
                raise SettingsError(
                    f"{finalist.folder} has a result but no settings.yaml that says of what; "
                    "remove the folder"
                )
            continue
        differences = read_full_training(file).differences(settings)
        if differences:
            raise SettingsError(
                f"{finalist.folder} was begun with other settings ({'; '.join(differences[:3])}); "
                "give the same, or remove the folder"
            )


def retrain_finalists(
    finalists: list[Finalist],
    settings: FullTraining,
    dataset: data.AnyDataset,
    console: Console,
    address: str | None,
) -> None:
    """Trains what is not trained yet, one after the other, and prints the table."""
    left = [finalist for finalist in finalists if finalist.result is None]
    if left:
        warning = warning_of_cost(settings.watch, dataset, settings.recipe)
        if warning is not None:
            console.print(warning, soft_wrap=True)
        _train(left, settings, dataset, console, address)
    console.print(finalists_table(finalists))
    console.print(correlation_in_words(finalists), soft_wrap=True)
    if settings.watch is not None:
        picture = finalists[0].folder.parent / "bands.png"
        draw_bands(
            picture,
            [
                Line(finalist.id, colour, [read_curve(finalist.folder)], style=style)
                for finalist, (style, colour) in zip(finalists, cycle(LOOKS), strict=False)
            ],
        )
        console.print(f"{picture} has the bands over training", soft_wrap=True)


def _train(
    finalists: list[Finalist],
    settings: FullTraining,
    dataset: data.AnyDataset,
    console: Console,
    address: str | None,
) -> None:
    from gmsearch import cluster, launch, nodes
    from gmsearch.retraining import Retraining

    with cluster.connected(address):
        nodes.share_data(dataset, lambda line: console.print(line, soft_wrap=True))
        cpus, gpu = cluster.plan_workers(settings.workers, cluster.live_nodes())
        if settings.synchronised and not gpu:
            raise SettingsError("--sync-norms: torch synchronises norms on GPUs only")
        for finalist in finalists:
            finalist.folder.mkdir(parents=True, exist_ok=True)
            write_atomically(finalist.folder / "settings.yaml", settings.to_yaml())
            job = Retraining(
                finalist.network,
                dataset,
                settings.recipe,
                finalist.folder.absolute(),
                seed=settings.seed,
                compiled=settings.compiled,
                synchronised=settings.synchronised,
                teacher=settings.teacher,
                watch=settings.watch,
            )
            with following(console, finalist.id, finalist.folder, settings.recipe.num_epochs):
                launch.train_together(
                    job,
                    workers=settings.workers,
                    cpus=cpus,
                    gpu=gpu,
                    accumulate=settings.accumulate,
                )
