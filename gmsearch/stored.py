"""Trials as they are stored in a study, read as records; nothing is written."""

import gc
import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, NamedTuple

from optuna.trial import FrozenTrial, TrialState

from gmsearch.architecture import Architecture
from gmsearch.errors import ArchitectureError, SettingsError
from gmsearch.experiment import Experiment
from gmsearch.record import TrialRecord
from gmsearch.run import RunFolder, read_curve
from gmsearch.storage import (
    READ_ERRORS,
    ReadTrial,
    first_line,
    open_to_read,
    place_of,
    read_trials,
)

SETTINGS = "settings"  # the attribute of a study with the digest of its run's
_STATES = {
    TrialState.COMPLETE: "complete",
    TrialState.RUNNING: "running",
    TrialState.FAIL: "failed",
    TrialState.PRUNED: "stopped",
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
            raise self._unreadable(error) from None
        check_owner(attributes, experiment, self._place)

    def read(self) -> Stored:
        """The trials as they stand."""
        with _nothing_collected():
            try:
                trials = read_trials(self.storage, self.study_id, self._ended)
            except (*READ_ERRORS, LookupError) as error:  # such as a state that is none
                raise self._unreadable(error) from None
            new = {t.number: record_of(t, self._folder, self._experiment) for t in trials}
        for trial in trials:
            before = trial.user_attrs.get("continues")
            if isinstance(before, int):
                self._successors[before] = trial.number
            if trial.state.is_finished():
                self._ended[trial.number] = new[trial.number]
        every = sorted((self._ended | new).items())
        records = [record for number, record in every if number not in self._successors]
        known = [record for record in records if record is not None]
        return Stored(known, len(records) - len(known), dict(self._successors))

    def _unreadable(self, error: Exception) -> SettingsError:
        return SettingsError(f"{self._place}: cannot be read: {first_line(error)}")


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


def record_of(
    trial: FrozenTrial | ReadTrial, folder: RunFolder, experiment: Experiment
) -> TrialRecord | None:
    """A stored trial; None for one that another program wrote, or that was cut off."""
    notes = trial.user_attrs
    if not isinstance(notes.get("continues", 0), int):
        return None
    try:
        network = Architecture.from_dict(notes["architecture"])
        curve = notes.get("curve", [])
        if not curve or trial.state == TrialState.RUNNING:  # the folder may have more of it
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
            reason=notes.get("reason"),
        )
    except (LookupError, TypeError, ValueError, ArchitectureError):
        return None
    return record if _is_whole(record, experiment) else None


def _is_whole(record: TrialRecord, experiment: Experiment) -> bool:
    """Whether a trial has what a search writes of one."""
    costs = (record.macs, record.params, record.activations)
    return (
        record.id == record.network.id
        and all(isinstance(cost, int) and cost >= 0 for cost in costs)
        and record.baseline in (None, "GmNet", "no gates")
        and isinstance(record.curve, list)
        and all(_is_epoch(epoch) for epoch in record.curve)
        and all(
            record.figure(name, epoch) is not None
            for name in experiment.accuracies
            for epoch in range(1, record.epochs + 1)
        )
        and (record.state != "complete" or bool(record.curve))
        and (record.state != "stopped" or record.epochs < experiment.recipe.num_epochs)
    )


def _is_epoch(epoch: Any) -> bool:
    try:
        return math.isfinite(epoch["top1"]) and math.isfinite(epoch["seconds"])
    except (KeyError, TypeError):
        return False
