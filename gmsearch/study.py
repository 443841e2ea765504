"""The Optuna study of a run: the one memory of what was tried. Only the driver of the run writes
it.
"""

import math
import warnings
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import optuna
from optuna.exceptions import ExperimentalWarning, OptunaError
from optuna.storages import BaseStorage, JournalStorage, RDBStorage, get_storage
from optuna.storages.journal import JournalFileBackend
from optuna.trial import FrozenTrial, Trial, TrialState
from sqlalchemy import URL, event, make_url
from sqlalchemy.exc import SQLAlchemyError

from gmsearch.architecture import Architecture
from gmsearch.errors import ArchitectureError, SettingsError
from gmsearch.experiment import Experiment
from gmsearch.gmnet import gmnet_within, without_gates
from gmsearch.record import Job, TrialRecord
from gmsearch.run import RunFolder, read_curve
from gmsearch.sampler import BudgetSampler
from gmsearch.space import SearchSpace

_STATES = {
    TrialState.COMPLETE: "complete",
    TrialState.RUNNING: "running",
    TrialState.FAIL: "failed",
    TrialState.PRUNED: "stopped",
}


STORAGE_ERRORS = (OptunaError, SQLAlchemyError)  # what a broken or locked study.db ends in
# Of another version, of a database without a driver, or no storage at all.
READ_ERRORS = (*STORAGE_ERRORS, RuntimeError, ImportError, ValueError, OSError)


class SearchStudy:
    """Asks for jobs and takes their results; `records` has every trial by number, the running ones'
    curves included.

    A trial is COMPLETE only if it was trained to its last epoch; one that failed is FAIL with the
    reason. What a killed driver left RUNNING is handed out again under its own number.
    """

    def __init__(self, folder: RunFolder, experiment: Experiment, space: SearchSpace) -> None:
        optuna.logging.set_verbosity(optuna.logging.ERROR)
        warnings.simplefilter("ignore", ExperimentalWarning)  # multivariate TPE
        self._folder = folder
        self._experiment = experiment
        self._space = space
        self._sampler = BudgetSampler(experiment.sampler, space, experiment.budget, experiment.seed)
        self._study = optuna.create_study(
            storage=_open_storage(folder),
            study_name=experiment.name,
            sampler=self._sampler,
            directions=["maximize" if o == "top1" else "minimize" for o in experiment.objectives],
            load_if_exists=True,
        )
        self._study.set_metric_names(list(experiment.objectives))
        self.records: dict[int, TrialRecord] = {}
        self._trials: dict[int, Trial] = {}
        for frozen in self._study.get_trials(deepcopy=False):
            self._remember(frozen)
        self._unfinished = [self._job(r) for r in self._with_state("running")]
        self._baselines = list(self._missing_baselines())

    @property
    def num_finished(self) -> int:
        """Trials that are complete or failed."""
        return len(self.records) - len(self._with_state("running"))

    @property
    def is_finished(self) -> bool:
        """Whether all trials that are wanted, or possible, have ended."""
        if self._with_state("running"):
            return False
        return len(self.records) >= self._experiment.trials or self.is_exhausted

    @property
    def is_exhausted(self) -> bool:
        """Whether nothing new is left to try within the budget."""
        return not self._baselines and self._sampler.fresh(self._study) is None

    def ask(self) -> Job | None:
        """The next job: unfinished ones first, then the baselines, then what the sampler proposes.

        None where the run has as many trials as it wants, or nothing new is left in the budget.
        """
        if self._unfinished:
            return self._unfinished.pop(0)
        if len(self.records) >= self._experiment.trials:
            return None
        if self._baselines:
            name, architecture = self._baselines.pop(0)
            return self._describe(self._study.ask(), architecture, baseline=name)
        if self._sampler.fresh(self._study) is None:
            return None
        trial = self._study.ask(self._sampler.distributions())
        return self._describe(trial, self._space.decode(trial.params))

    def report(self, number: int, curve: list[dict[str, Any]]) -> None:
        """Notes the curve of a running trial, epochs before a restart included; the study has it
        from `tell` on.
        """
        self.records[number] = replace(self.records[number], curve=curve)

    def tell(self, number: int) -> TrialRecord:
        """Marks a trial as trained to its last epoch."""
        record = replace(self.records[number], state="complete")
        self._note_curve(record)
        self._study.tell(number, [getattr(record, name) for name in self._experiment.objectives])
        return self._finish(record)

    def tell_failed(self, number: int, reason: str) -> TrialRecord:
        """Marks a trial as failed, with the reason in one line."""
        record = replace(self.records[number], state="failed", reason=" ".join(reason.split()))
        self._note_curve(record)
        self._trials[number].set_user_attr("reason", record.reason)
        self._study.tell(number, state=TrialState.FAIL)
        return self._finish(record)

    def _note_curve(self, record: TrialRecord) -> None:
        """Attributes must be there before `tell`: a finished trial cannot be changed."""
        trial = self._trials[record.number]
        trial.set_user_attr("curve", record.curve)
        trial.set_user_attr("epochs", record.epochs)
        trial.set_user_attr("seconds", round(record.seconds, 3))

    def _finish(self, record: TrialRecord) -> TrialRecord:
        self.records[record.number] = record
        return record

    def _describe(
        self, trial: Trial, architecture: Architecture, baseline: str | None = None
    ) -> Job:
        """Notes what a trial is. `id` comes last: a trial without it was cut off here and counts
        for nothing.
        """
        cost = self._space.cost(architecture)
        attributes = {
            "architecture": architecture.to_dict(),
            "macs": cost.macs,
            "params": cost.params,
            "activations": cost.activations,
            "baseline": baseline,
            "id": architecture.id,
        }
        # The form that the dashboard reads too; of `set_constraint` it knows nothing.
        within = [cost.macs / self._experiment.budget - 1]
        trial.storage.set_trial_system_attr(trial._trial_id, "constraints", within)
        for name, value in attributes.items():
            trial.set_user_attr(name, value)
        self._trials[trial.number] = trial
        self.records[trial.number] = TrialRecord(
            number=trial.number,
            id=architecture.id,
            state="running",
            network=architecture,
            seed=self._experiment.seed,
            macs=cost.macs,
            params=cost.params,
            activations=cost.activations,
            baseline=baseline,
            picks=dict(trial.params),
        )
        return self._job(self.records[trial.number])

    def _job(self, record: TrialRecord) -> Job:
        folder = self._folder.trial_folder(record.id)
        return Job(record.number, record.network, record.seed, folder)

    def _remember(self, frozen: FrozenTrial) -> None:
        """Takes a stored trial into `records`."""
        record = _record_of(frozen, self._folder, self._experiment)
        if record is None:
            if frozen.state == TrialState.RUNNING:
                self._study.tell(frozen.number, state=TrialState.FAIL)
            return
        self.records[frozen.number] = record
        if frozen.state == TrialState.RUNNING:
            self._trials[frozen.number] = Trial(self._study, frozen._trial_id)

    def _missing_baselines(self) -> Iterator[tuple[str, Architecture]]:
        """GmNet scaled to the budget, and the same without gates, where they are missing."""
        gmnet = gmnet_within(
            self._experiment.budget,
            resolution=self._space.resolution,
            num_classes=self._space.num_classes,
        )
        if gmnet is None:
            return
        known = {record.id for record in self.records.values()}
        for name, architecture in (("GmNet", gmnet), ("no gates", without_gates(gmnet))):
            if architecture.id not in known:
                yield name, architecture

    def _with_state(self, state: str) -> list[TrialRecord]:
        return [record for record in self.records.values() if record.state == state]


class StudyReader:
    """Reads the trials of a run, which may go on meanwhile; writes nothing. Trials that have ended
    are read once.

    `storage` is where the study lies if not in the run's folder, as `open_storage` takes it. Raises
    SettingsError where there is no study, or another one.
    """

    def __init__(
        self, folder: RunFolder, experiment: Experiment, storage: str | None = None
    ) -> None:
        self._folder = folder
        self._experiment = experiment
        self._place = str(folder.study_file) if storage is None else "--storage"
        self._ended: dict[int, TrialRecord | None] = {}
        if storage is None and not folder.study_file.is_file():
            raise SettingsError(f"{folder.path} has no study.db yet; let it start its first trial")
        try:
            url = _url_of(folder)
            self.storage = (
                get_storage(RDBStorage(url, skip_table_creation=True))
                if storage is None
                else open_storage(storage)
            )
            self.study_id = self.storage.get_study_id_from_name(experiment.name)
        except KeyError:
            raise SettingsError(
                f"{self._place}: no study {experiment.name!r} in it; it is another run's"
            ) from None
        except READ_ERRORS as error:
            raise self._unreadable(error) from None

    def read(self) -> tuple[list[TrialRecord], int]:
        """The trials by number, and how many there are that the run did not write."""
        try:
            trials = self.storage.get_all_trials(self.study_id, deepcopy=False)
        except READ_ERRORS as error:
            raise self._unreadable(error) from None
        records = [self._record(trial) for trial in trials]
        known = [record for record in records if record is not None]
        return known, len(records) - len(known)

    def _record(self, trial: FrozenTrial) -> TrialRecord | None:
        if trial.number not in self._ended:
            record = _record_of(trial, self._folder, self._experiment)
            if not trial.state.is_finished():
                return record
            self._ended[trial.number] = record
        return self._ended[trial.number]

    def _unreadable(self, error: Exception) -> SettingsError:
        return SettingsError(f"{self._place}: cannot be read: {first_line(error)}")


def read_records(folder: RunFolder, experiment: Experiment) -> tuple[list[TrialRecord], int]:
    """The trials of a run, which may go on meanwhile, and the number of those in its study that it
    did not write. Nothing is written.

    Raises SettingsError where there is no study, or another one.
    """
    return StudyReader(folder, experiment).read()


def open_storage(storage: str) -> BaseStorage:
    """A storage to read, given by its URL or as a journal file of Optuna's. None is made.

    Raises SettingsError for what is none, or cannot be read.
    """
    said = f"--storage {storage}"
    try:
        if Path(storage).is_file():
            if not _is_sqlite(Path(storage)):
                return JournalStorage(JournalFileBackend(storage))
            storage = f"sqlite:///{storage}"
        url = make_url(storage)
        said = f"--storage {url.render_as_string(hide_password=True)}"
        if url.get_backend_name() == "sqlite" and not Path(url.database or "").is_file():
            raise SettingsError(f"{said}: no such file; give one that a study was written to")
        return get_storage(RDBStorage(storage, skip_table_creation=True))
    except READ_ERRORS as error:
        raise SettingsError(
            f"{said}: cannot be read: {first_line(error)}; "
            "give a URL such as sqlite:///PATH/study.db, or a journal file"
        ) from None


def _is_sqlite(file: Path) -> bool:
    with file.open("rb") as opened:
        return opened.read(6) == b"SQLite"


def first_line(error: Exception) -> str:
    """What a storage stumbled over."""
    return (str(error.__cause__ or error).strip() or type(error).__name__).splitlines()[0]


def _record_of(
    frozen: FrozenTrial, folder: RunFolder, experiment: Experiment
) -> TrialRecord | None:
    """A stored trial; None for one that another program wrote, or that was cut off."""
    notes = frozen.user_attrs
    try:
        record = TrialRecord(
            number=frozen.number,
            id=notes["id"],
            state=_STATES[frozen.state],
            network=Architecture.from_dict(notes["architecture"]),
            seed=experiment.seed,
            macs=notes["macs"],
            params=notes["params"],
            activations=notes["activations"],
            baseline=notes["baseline"],
            picks=dict(frozen.params),
            curve=notes.get("curve") or read_curve(folder.trial_folder(notes["id"])),
            reason=notes.get("reason"),
        )
    except (KeyError, TypeError, ArchitectureError):
        return None
    return record if _is_whole(record) else None


def _is_whole(record: TrialRecord) -> bool:
    """Whether a trial has what a search writes of one."""
    costs = (record.macs, record.params, record.activations)
    return (
        all(isinstance(cost, int) for cost in costs)
        and record.baseline in (None, "GmNet", "no gates")
        and all(_is_epoch(epoch) for epoch in record.curve)
        and (record.state != "complete" or bool(record.curve))
    )


def _is_epoch(epoch: Any) -> bool:
    try:
        return math.isfinite(epoch["top1"]) and math.isfinite(epoch["seconds"])
    except (KeyError, TypeError):
        return False


def _url_of(folder: RunFolder) -> str:
    """Where the study of a run is; the path may hold a `?`."""
    return URL.create("sqlite", database=str(folder.study_file)).render_as_string()


def _open_storage(folder: RunFolder) -> RDBStorage:
    """SQLite with a write-ahead log: a dashboard reads while the search writes, and a commit costs
    one sync less.

    What is committed survives a kill of the process; only a power cut may lose the last commits.
    """
    storage = RDBStorage(_url_of(folder))

    @event.listens_for(storage.engine, "connect")
    def set_pragmas(connection: Any, _record: Any) -> None:
        connection.execute("PRAGMA journal_mode=WAL")
        connection.execute("PRAGMA synchronous=NORMAL")

    storage.engine.dispose()  # connections from before the listener
    return storage
