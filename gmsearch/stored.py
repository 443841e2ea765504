"""Trials as they are stored in a study, read as records; nothing is written."""

import gc
import sys
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, NamedTuple, cast

from optuna.trial import FrozenTrial, TrialState

from gmsearch.architecture import Architecture
from gmsearch.errors import ArchitectureError, SettingsError
from gmsearch.experiment import COSTS, Experiment
from gmsearch.record import TrialRecord
from gmsearch.run import RunFolder, read_curve
from gmsearch.space import SearchSpace
from gmsearch.storage import (
    READ_ERRORS,
    ReadTrial,
    open_to_read,
    place_of,
    read_trials,
    unreadable,
)

SETTINGS = "settings"  # the attribute of a study with the digest of its run's
_STATES = {
    TrialState.COMPLETE: "complete",
    TrialState.RUNNING: "running",
    TrialState.FAIL: "failed",
    TrialState.PRUNED: "stopped",
}
MOST_TOLD = 40  # characters of a value that is wrong
# What the figures of an epoch may be, where there are any.
_SHARE = (0.0, 100.0)
_LEAST, _MOST = -sys.float_info.max, sys.float_info.max  # finite
_OF_AN_EPOCH: dict[str, tuple[float, float]] = {
    **dict.fromkeys(("top1", "top5", "raw_top1"), _SHARE),
    **dict.fromkeys(("loss", "train_loss"), (_LEAST, _MOST)),
    **dict.fromkeys(("seconds", "evaluation_seconds", "band_seconds"), (0.0, _MOST)),
    **dict.fromkeys(("images_per_second", "band_images"), (0.0, _MOST)),
}


class Stored(NamedTuple):
    """What a study has of a run."""

    records: list[TrialRecord]  # by number
    num_foreign: int  # trials that the run did not write
    successors: dict[int, int]  # the trial that goes on with a stopped one, which has no record


class StudyReader:
    """Reads the trials of a run, which may go on meanwhile; writes nothing. Trials that have ended
    are read once, and the records have no `picks`.

    `storage` is where the study lies if not where the run says, as `open_storage` takes it. Raises
    SettingsError where there is no study, or another one.
    """

    def __init__(
        self, folder: RunFolder, experiment: Experiment, storage: str | None = None
    ) -> None:
        self._folder = folder
        self._experiment = experiment
        storage = experiment.storage if storage is None else storage
        self._place = place_of(folder, storage)
        self._space = experiment.search_space(folder.experiment_file)
        self._ended: dict[int, TrialRecord | None] = {}
        self._successors: dict[int, int] = {}
        self.storage = open_to_read(folder, storage)
        try:
            self.study_id = self.storage.get_study_id_from_name(experiment.name)
            attributes = self.storage.get_study_user_attrs(self.study_id)
        except KeyError:
            raise SettingsError(
                f"{self._place}: no study {experiment.name!r} in it; it is another run's"
            ) from None
        except READ_ERRORS as error:
            raise unreadable(self._place, error) from None
        check_owner(attributes, experiment, self._place)

    def read(self) -> Stored:
        """The trials as they stand."""
        with _nothing_collected():
            try:
                trials = read_trials(self.storage, self.study_id, self._ended)
            except (*READ_ERRORS, LookupError) as error:  # such as a state that is none
                raise unreadable(self._place, error) from None
            told = self._folder, self._experiment, self._space
            new = {trial.number: record_of(trial, *told) for trial in trials}
        every = self._ended | new
        for trial in trials:
            before, record = trial.user_attrs.get("continues", -1), new[trial.number]
            if record is not None and goes_on_with(every.get(before), record):
                self._successors[before] = trial.number
            if trial.state.is_finished():
                self._ended[trial.number] = record
        known = [
            record
            for number, record in sorted(every.items())
            if record is not None and number not in self._successors
        ]
        num_others = max(every, default=-1) + 1 - len(known) - len(self._successors)
        return Stored(known, num_others, dict(self._successors))

    def check(self) -> None:
        """Raises SettingsError for a trial of ours that is not as a search leaves it; its
        parameters are held to its architecture too, which `read` does not take the time for.
        """
        try:
            trials = self.storage.get_all_trials(self.study_id, deepcopy=False)
        except (*READ_ERRORS, LookupError) as error:
            raise unreadable(self._place, error) from None
        check_trials(trials, self._folder, self._experiment, self._space, self._place)


def owner_of(experiment: Experiment) -> str:
    """What a study says of its run: the settings, whether or not the data was read yet."""
    return experiment.model_copy(update={"data_digest": None}).digest


def check_owner(attributes: Mapping[str, Any], experiment: Experiment, place: str) -> None:
    """Raises SettingsError where the attributes of a study are of a run with other settings."""
    if attributes.get(SETTINGS, owner_of(experiment)) != owner_of(experiment):
        raise SettingsError(
            f"{place}: the study {experiment.name!r} in it is another run's; give the --storage "
            "that this one began with, or choose another --name"
        )


@contextmanager
def _nothing_collected() -> Iterator[None]:
    """Leaves garbage alone meanwhile. A long study is a dozen objects for each trial, and all of
    them live: looking for dead ones among them takes as long as reading them.
    """
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()


def read_records(folder: RunFolder, experiment: Experiment) -> Stored:
    """The trials of a run, which may go on meanwhile. Nothing is written.

    Raises SettingsError where there is no study, or another one.
    """
    return StudyReader(folder, experiment).read()


def check_trials(
    trials: Iterable[FrozenTrial],
    folder: RunFolder,
    experiment: Experiment,
    space: SearchSpace,
    place: str,
) -> None:
    """Raises SettingsError for a trial of ours that is not as a search leaves it, or is not there;
    those of other programs, and of a driver that was killed while it asked, have no `id`.
    """
    records: dict[int, TrialRecord] = {}
    for number, trial in enumerate(sorted(trials, key=lambda trial: trial.number)):
        found: TrialRecord | str | None = None
        if trial.number != number:
            found = f"there is no trial {number} before it"
        elif trial.state == TrialState.FAIL and trial.user_attrs.get("id", "") is None:
            continue  # another program wanted it, and the search refused
        elif trial.state != TrialState.WAITING and "id" in trial.user_attrs:
            found = _read(trial, folder, experiment, space)
        if isinstance(found, TrialRecord):
            before = trial.user_attrs.get("continues")
            if before is None or goes_on_with(records.pop(before, None), found):
                records[number] = found
                continue
            found = f"it goes on with trial {before}, which was not stopped, or has gone on already"
        if found is not None:
            raise SettingsError(
                f"{place}: trial {trial.number} was changed by another program: {found}; restore "
                "it from a copy, or start a run with another --name"
            )


def goes_on_with(before: TrialRecord | None, record: TrialRecord) -> bool:
    """Whether a trial can be what became of one that was stopped before."""
    return before is not None and before.state == "stopped" and before.id == record.id


def record_of(
    trial: FrozenTrial | ReadTrial,
    folder: RunFolder,
    experiment: Experiment,
    space: SearchSpace | None = None,
) -> TrialRecord | None:
    """A stored trial; None for one that another program wrote or changed, or that was cut off.
    Costs and parameters are held to the architecture where the space is given.
    """
    found = _read(trial, folder, experiment, space)
    return found if isinstance(found, TrialRecord) else None


def _read(
    trial: FrozenTrial | ReadTrial,
    folder: RunFolder,
    experiment: Experiment,
    space: SearchSpace | None,
) -> TrialRecord | str:
    """A stored trial, or what is wrong with it."""
    notes = trial.user_attrs
    missing = [name for name in ("id", "architecture", *COSTS, "baseline") if name not in notes]
    if missing or trial.state not in _STATES:
        return f"it has no {missing[0]}" if missing else "it waits"
    for name, kind in (("continues", int), ("curve", list)):
        if not isinstance(notes.get(name, kind()), kind):
            return f"{name} is {_told(notes[name])}"
    try:
        network = Architecture.from_dict(notes["architecture"])
    except (TypeError, ArchitectureError) as error:
        return f"architecture: {error}"
    curve = notes.get("curve", [])
    is_known = trial.state != TrialState.RUNNING and (bool(curve) or notes.get("epochs") == 0)
    if not is_known:  # the folder may have more of it
        curve = max(curve, read_curve(folder.trial_folder(network.id)), key=len)
    record = TrialRecord(
        number=trial.number,
        id=notes["id"],
        state=_STATES[trial.state],
        network=network,
        seed=experiment.seed,
        macs=notes["macs"],
        params=notes["params"],
        activations=notes["activations"],
        baseline=notes["baseline"],
        picks=dict(trial.params),
        curve=curve,
        # That of an ending which a kill cut off is none: the training goes on.
        reason=None if trial.state == TrialState.RUNNING else notes.get("reason"),
    )
    return next(_faults(record, trial, experiment, space), None) or record


def _faults(
    record: TrialRecord,
    trial: FrozenTrial | ReadTrial,
    experiment: Experiment,
    space: SearchSpace | None,
) -> Iterator[str]:
    """In what a trial is not as a search leaves it; each holds only where those before do not."""
    network, notes = record.network, trial.user_attrs
    if record.id != network.id:
        yield f"id is {_told(record.id)}, its architecture has {network.id}"
    if record.baseline not in (None, "GmNet", "no gates"):
        yield f"baseline is {_told(record.baseline)}"
    if space is not None:
        yield from _faults_of_network(record, trial, space)
    for number, epoch in enumerate(record.curve, 1):
        yield from epoch_faults(epoch, number, experiment.accuracies)
    whole = experiment.recipe.num_epochs
    if record.state == "complete" and not record.curve:
        yield "it is complete without a curve"
    if record.epochs > whole:
        yield f"its curve has {record.epochs} epochs, of {whole} in all"
    if record.state == "stopped" and record.epochs == whole:
        yield f"it was stopped after the last of its {whole} epochs"
    if record.state in ("complete", "stopped"):
        for name in ("epochs", "top1"):
            if notes.get(name, getattr(record, name)) != getattr(record, name):
                yield f"{name} is {_told(notes[name])}, its curve has {getattr(record, name)}"
    is_complete = record.state == "complete"
    values = [record.figure(name) for name in experiment.objectives] if is_complete else None
    if trial.values != values:
        told, known = (", ".join(map(_told, each or ["none"])) for each in (trial.values, values))
        yield f"values are {told}; its curve and costs have {known}"


def _faults_of_network(
    record: TrialRecord, trial: FrozenTrial | ReadTrial, space: SearchSpace
) -> Iterator[str]:
    """What disagrees with the architecture."""
    network = cast(Architecture, record.network)
    cost = space.cost(network)
    for name in COSTS:
        told, known = getattr(record, name), getattr(cost, name)
        if type(told) is not int or told != known:
            yield f"{name} is {_told(told)}, its architecture has {known:,}"
    if isinstance(trial, ReadTrial) or (record.baseline and not record.picks):
        return  # read without parameters, or from outside of the space
    try:
        meant = space.decode(record.picks)
    except (LookupError, TypeError, ValueError, ArchitectureError):
        yield "its parameters are no network of the space"
        return
    if meant != network:
        yield f"its parameters are those of {meant.id}, its architecture is {network.id}"


def epoch_faults(epoch: Any, number: int, accuracies: Iterable[str] = ()) -> Iterator[str]:
    """What is wrong with a line of a curve, the epoch of that number from 1; `accuracies` are those
    that it must have.
    """
    if not isinstance(epoch, dict) or epoch.get("epoch", number) != number:
        told = _told(epoch.get("epoch") if isinstance(epoch, dict) else epoch)
        yield f"epoch {number} of its curve is {told}"
        return
    bands = epoch.get("bands") or {}
    if not isinstance(bands, dict):
        yield f"epoch {number}: bands is {_told(bands)}"
        return
    wanted = {"top1", "seconds", *accuracies}
    limits = _OF_AN_EPOCH | dict.fromkeys(bands, _SHARE) if bands else _OF_AN_EPOCH
    for name, (low, high) in limits.items():
        value = bands[name] if name in bands else epoch.get(name)
        if value is not None and not (type(value) in (int, float) and low <= value <= high):
            yield f"epoch {number}: {name} is {_told(value)}"
        if value is not None:
            wanted.discard(name)
    for name in sorted(wanted):
        yield f"epoch {number}: there is no {name}"


def _told(value: Any) -> str:
    """A value that may be anything, in a line."""
    text = f"{value:,}" if type(value) in (int, float) else str(value)
    text = " ".join(text.split())
    return text if len(text) <= MOST_TOLD else f"{text[:MOST_TOLD]}…"
