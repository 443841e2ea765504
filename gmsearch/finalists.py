"""The best networks of a run, trained in full: `gmsearch retrain`.

RUN/retrained/ID/   settings.yaml, and what `retraining` leaves
"""

import csv
import json
import math
from dataclasses import dataclass
from itertools import cycle, product
from pathlib import Path
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table
from scipy.stats import kendalltau

from gmsearch import data
from gmsearch.band_picture import STYLES, Line, draw_bands
from gmsearch.errors import SettingsError
from gmsearch.experiment import FullTraining, read_full_training
from gmsearch.files import write_atomically
from gmsearch.network import Network, read_network
from gmsearch.palette import RUNS
from gmsearch.progress import following
from gmsearch.run import RunFolder, read_curve


@dataclass(frozen=True)
class Finalist:
    """A network of a run that is trained in full, and how it did before and after."""

    id: str
    network: Network
    folder: Path
    searched: float | None  # top1 on minival after the search's few epochs
    baseline: str | None = None

    @property
    def result(self) -> dict[str, Any] | None:
        """What result.json has; None before the training is done. Raises SettingsError."""
        file = self.folder / "result.json"
        if not file.is_file():
            return None
        try:
            result = json.loads(file.read_text(encoding="utf-8"))
            float(figures(result)["top1"])
            return result
        except (OSError, ValueError, TypeError, LookupError, AttributeError):
            raise SettingsError(
                f"{file}: not what a full training wrote; remove it, and retrain writes it again"
            ) from None

    @property
    def top1(self) -> float | None:
        """On val after the full training."""
        return None if self.result is None else figures(self.result)["top1"]

    @property
    def words(self) -> str:
        words = self.network.in_words()
        return f"{words} [{self.baseline} baseline]" if self.baseline else words


def choose(
    run: RunFolder, *, top: int | None, ids: list[str], with_baselines: bool
) -> list[Finalist]:
    """The networks of a run that are asked for, the best of its front first.

    Raises SettingsError for a run without a front, and for an id that it does not have.
    """
    if not run.experiment_file.exists():
        raise SettingsError(f"{run.path} is not a run, it has no experiment.yaml")
    rows, front = _rows(run), run.front_ids()
    if top is not None and not front:
        raise SettingsError(f"{run.path} has no front yet; let it finish a trial, or give --id")
    chosen = list(dict.fromkeys([*front[: top or 0], *ids]))
    if with_baselines:
        chosen += [each for each, row in rows.items() if row["baseline"] and each not in chosen]
    return [_finalist(run, each, rows) for each in chosen]


def trained_in_full(run: RunFolder) -> list[Finalist]:
    """The networks of a run whose full training is done, best top1 first."""
    rows = _rows(run)
    done = sorted(run.path.glob("retrained/*/result.json"))
    found = [_finalist(run, file.parent.name, rows) for file in done]
    return sorted(found, key=lambda each: -(each.top1 or 0.0))


def _rows(run: RunFolder) -> dict[str, dict[str, str]]:
    """trials.csv by id."""
    file = run.path / "trials.csv"
    if not file.exists():
        return {}
    try:
        with file.open(encoding="utf-8", newline="") as opened:
            return {row["id"]: row for row in csv.DictReader(opened) if row["baseline"] is not None}
    except (KeyError, UnicodeDecodeError):
        raise SettingsError(
            f"{file}: not what a run wrote; `gmsearch resume {run.path}` writes it again"
        ) from None


def _finalist(run: RunFolder, network_id: str, rows: dict[str, dict[str, str]]) -> Finalist:
    trial = None if "/" in network_id else run.find_trial(network_id)
    if trial is None:
        raise SettingsError(f"{run.path} has no network {network_id!r}; its trials.csv lists them")
    curve = read_curve(trial)
    return Finalist(
        network_id,
        read_network(trial / "architecture.json"),
        run.path / "retrained" / network_id,
        curve[-1]["top1"] if curve else None,
        rows.get(network_id, {}).get("baseline") or None,
    )


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
        _train(left, settings, dataset, console, address)
    console.print(finalists_table(finalists))
    console.print(correlation_in_words(finalists), soft_wrap=True)
    if settings.watch is not None:
        picture = finalists[0].folder.parent / "bands.png"
        looks = cycle(product(STYLES, RUNS))
        draw_bands(
            picture,
            [
                Line(finalist.id, colour, [read_curve(finalist.folder)], style=style)
                for finalist, (style, colour) in zip(finalists, looks, strict=False)
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


def finalists_table(finalists: list[Finalist]) -> Table:
    """Networks that were trained in full, beside what the search found of them."""
    table = Table(
        box=box.SIMPLE_HEAD,
        caption="top1 and top5 on val, of the average of the weights where there is one",
        caption_justify="left",
    )
    for column in ("id", "top1 in search", "top1", "top5", "top1 raw", "epochs", "gates"):
        table.add_column(column, justify="left" if column in ("id", "gates") else "right")
    for finalist in finalists:
        searched = "" if finalist.searched is None else f"{finalist.searched:.1f}"
        told = [""] * 4
        if result := finalist.result:
            best = figures(result)
            told = [f"{v:.1f}" for v in (best["top1"], best["top5"], result["raw"]["top1"])]
            told.append(str(result["epochs"]))
        table.add_row(finalist.id, searched, *told, finalist.words)
    return table


def correlation_in_words(finalists: list[Finalist]) -> str:
    """How well the search's order agrees with that of the full trainings."""
    pairs = [
        (finalist.searched, finalist.top1)
        for finalist in finalists
        if finalist.searched is not None and finalist.top1 is not None
    ]
    if len(pairs) < 3:
        return "a rank correlation between search and full training needs three networks"
    searched, retrained = zip(*pairs, strict=True)
    tau, p = kendalltau(searched, retrained)
    if math.isnan(tau):
        return "no rank correlation: one of the two orders has ties only"
    return (
        f"Kendall's tau between search and full training: {tau:.2f} "
        f"({len(pairs)} networks, p = {p:.2f})"
    )


def figures(result: dict[str, Any]) -> dict[str, float]:
    """The figures of the average of the weights, or of the weights where there is none."""
    return result.get("average") or result["raw"]
