"""Trained networks that a user names: those of runs, of full retrainings, of exports, and weights
from files.
"""

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import NamedTuple

from gmsearch.errors import SettingsError
from gmsearch.experiment import Comparison, Experiment, read_settings
from gmsearch.exporting.pretrained import CONFIG, WEIGHTS, read_export
from gmsearch.exporting.subject import Subject, find_subject, trained_subject
from gmsearch.files import as_word
from gmsearch.network import network_from_dict
from gmsearch.run import RunFolder, read_curve


class Trained(NamedTuple):
    """A trained network to look at, which is read when it is its turn."""

    name: str  # what the user calls it
    read: Callable[[], Subject]
    folder: Path  # of its training or export, or the file of its weights
    run: Path | None = None  # whose training it is


def find_trained(
    what: str,
    *,
    weights: Path | None = None,
    resolution: int | None = None,
    everything: bool = False,
) -> list[Trained]:
    """The networks that one word names:

    RUN                 the front of a search and its baselines, or all that are trained to their
                        end; all trainings of a comparison
    RUN:ID              one of them: as retrained in full where it was, else as the run trained it
    RUN/retrained       all full retrainings; RUN/retrained/ID one of them
    a folder of export  what it has
    a network           with `weights` from a file, for images of `resolution` px

    Raises UserError where it names none.
    """
    path = Path(what)
    if weights is not None:
        read = partial(find_subject, what, weights=weights, resolution=resolution)
        return [Trained(what, read, weights)]
    if (path / CONFIG).is_file() and (path / WEIGHTS).is_file():
        return [Trained(path.name, partial(read_export, path), path)]
    for folder in (path, path.parent):
        if folder.name == "retrained" and RunFolder(folder.parent).experiment_file.exists():
            return _retrained(RunFolder(folder.parent), path)
    run = RunFolder(path)
    if run.experiment_file.exists():
        return list(_of_run(run, everything))
    of_run, colon, network_id = what.rpartition(":")
    run = RunFolder(Path(of_run))
    if not colon or not run.experiment_file.exists():
        raise SettingsError(
            f"{what!r}: no run, no export and no weights; give RUN, RUN:ID, RUN/retrained, an "
            "export's folder, or a network with --weights FILE"
        )
    if (run.path / "retrained" / network_id / "result.json").is_file():
        return _retrained(run, run.path / "retrained" / network_id)
    found = [each for each in _trials(run) if each.network_id == network_id]
    if not found:
        raise SettingsError(f"{run.path} has no network {network_id!r}; its trials.csv lists them")
    return [_trained(run, trial) for trial in found]


class Named(NamedTuple):
    """A trained network under a name that no other has beside it."""

    name: str
    run: str  # whose training it is; nothing where it is of none
    trained: Trained


def tell_apart(found: Sequence[Trained]) -> list[Named]:
    """Each of these once, by its own name, or by RUN:NAME where others have that name too. A run is
    called by the name of its folder, or by its path where another has that name; an export that
    shares its name by its path.
    """
    distinct = list({each.folder.resolve(): each for each in found}.values())
    runs = {each.run.resolve(): each.run for each in distinct if each.run is not None}
    shared = Counter(place.name for place in runs)
    labels = {
        place: place.name if shared[place.name] == 1 else str(run) for place, run in runs.items()
    }
    known = Counter(each.name for each in distinct)
    told = []
    for each in distinct:
        run = "" if each.run is None else labels[each.run.resolve()]
        longer = f"{run}:{each.name}" if run else str(each.folder)
        told.append(Named(each.name if known[each.name] == 1 else longer, run, each))
    return told


def _retrained(run: RunFolder, path: Path) -> list[Trained]:
    """What was trained in full: all of a folder, or one."""
    results = path.glob("result.json") if path.name != "retrained" else path.glob("*/result.json")
    folders = sorted(result.parent for result in results)
    if not folders:
        raise SettingsError(f"{path}: nothing there is trained in full; see gmsearch retrain")
    names = [f"{folder.name} retrained" for folder in folders]
    return [
        Trained(name, partial(trained_subject, run, folder, name), folder, run.path)
        for name, folder in zip(names, folders, strict=True)
    ]


class _Trial(NamedTuple):
    folder: Path
    network_id: str
    name: str


def _of_run(run: RunFolder, everything: bool) -> Iterator[Trained]:
    """The trainings of a run, the best of a search first."""
    settings = read_settings(run.experiment_file)
    trials = list(_trials(run))
    if isinstance(settings, Experiment):
        front, baselines = run.front_ids(), run.baseline_ids()
        order = {name: place for place, name in enumerate([*front, *baselines])}
        trials.sort(key=lambda trial: order.get(trial.network_id, len(order)))
        if not everything:
            trials = [trial for trial in trials if trial.network_id in order]
    done = [t for t in trials if len(read_curve(t.folder)) >= settings.recipe.num_epochs]
    if not done:
        raise SettingsError(
            f"{run.path}: no training is done yet; `gmsearch resume {as_word(run.path)}` goes on"
        )
    for trial in done:
        yield _trained(run, trial)


def _trained(run: RunFolder, trial: _Trial) -> Trained:
    read = partial(trained_subject, run, trial.folder, trial.name)
    return Trained(trial.name, read, trial.folder, run.path)


def _trials(run: RunFolder) -> Iterator[_Trial]:
    """All trainings of a run with their ids and the names that the user gave them."""
    settings = read_settings(run.experiment_file)
    names: dict[str, str] = {}
    several = isinstance(settings, Comparison) and settings.seeds > 1
    if isinstance(settings, Comparison):
        for name, told in settings.networks.items():
            names.setdefault(network_from_dict(told).id, name)
    for folder in sorted(run.trials_folder.glob("*")):
        if not (folder / "architecture.json").is_file():
            continue
        network_id, dash, seed = folder.name.rpartition("-seed")
        network_id = network_id if dash else folder.name
        name = names.get(network_id, network_id)
        yield _Trial(folder, network_id, f"{name}, seed {seed}" if several else name)
