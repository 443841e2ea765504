"""The Optuna study of a run: the one memory of what was tried. Only the driver of the run writes
it.
"""

import warnings
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any, NamedTuple, cast

import optuna
from optuna.exceptions import ExperimentalWarning
from optuna.storages import BaseStorage
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, Trial, TrialState

from gmsearch.architecture import Architecture
from gmsearch.designs import Design, known_of, network_designs
from gmsearch.errors import SettingsError
from gmsearch.experiment import Experiment
from gmsearch.gmnet import gmnet_within, without_gates
from gmsearch.outlook import Worth
from gmsearch.record import Job, TrialRecord, is_learned
from gmsearch.run import RunFolder
from gmsearch.sampler import BudgetSampler, StrategySampler
from gmsearch.space import SearchSpace
from gmsearch.spending import epochs_left
from gmsearch.stopping import ByGain, Halving, Stopping, rungs_of
from gmsearch.storage import READ_ERRORS, open_to_write, place_of, unusable
from gmsearch.stored import SETTINGS, check_owner, check_trials, owner_of, record_of
from gmsearch.strategy import Strategy

# Attributes of a trial that ended, which the one that goes on with it does not have.
_OF_AN_ENDING = ("epochs", "seconds", "top1", "reason")


class Again(NamedTuple):
    """A stopped training that may be taken up again."""

    record: TrialRecord
    worth: Worth


class SearchStudy:
    """Asks for jobs and takes their results; `records` has every training by number, the running
    ones' curves included.

    A trial is COMPLETE only if it was trained to its last epoch; one that was stopped early is
    PRUNED with its curve, one that failed is FAIL with the reason. A stopped training that is taken
    up again is a new trial of the same network, which stands for the old one from then on. What a
    killed driver left RUNNING is handed out again under its own number.

    A search may spend `trials` times the epochs of a training: the fewer trainings go to their end,
    the more networks it tries.
    """

    def __init__(
        self,
        folder: RunFolder,
        experiment: Experiment,
        space: SearchSpace,
        *,
        storage: BaseStorage | None = None,
        allowed: Callable[[Architecture], bool] = lambda network: True,
        log: Callable[[dict[str, Any]], None] = lambda event: None,
    ) -> None:
        optuna.logging.set_verbosity(optuna.logging.ERROR)
        warnings.simplefilter("ignore", ExperimentalWarning)  # multivariate TPE
        self._folder = folder
        self._experiment = experiment
        self._space = space
        self._log = log
        self._limits = limits_of(experiment, space)
        self._designs = network_designs(space, experiment.budget, self._limits, allowed)
        rungs = (
            (self._num_epochs,) if experiment.early_stop == "off" else rungs_of(self._num_epochs)
        )
        num_accuracies = len(experiment.accuracies)
        self._strategy = Strategy(self._designs, rungs, experiment.seed, num_accuracies)
        self._stopping = _stopping_of(experiment, self._strategy)
        self._sampler: StrategySampler | BudgetSampler
        if experiment.sampler == "gated":
            self._sampler = StrategySampler(self._designs, self._strategy)
        else:
            self._sampler = BudgetSampler(
                experiment.sampler, self._designs, self._num_epochs, experiment.seed
            )
        self._study = self._open(storage)
        self._check_stored()  # before anything is written
        self._study.set_metric_names(list(experiment.objectives))
        self.records: dict[int, TrialRecord] = {}
        self._trials: dict[int, Trial] = {}
        self._start_what_waits()
        for frozen in self._study.get_trials(deepcopy=False):
            self._remember(frozen)
        self._unfinished = [self._job(r) for r in self._with_state("running")]
        self._baselines = list(self._missing_baselines())
        known = {number: [r.state, r.epochs] for number, r in self.records.items()}
        effort = {"wanted": experiment.trials, "narrowed": experiment.narrowed}
        self._log({"event": "session", **effort, "trials": known})

    @property
    def num_finished(self) -> int:
        """Trainings that are complete, stopped or failed."""
        return len(self.records) - len(self._with_state("running"))

    @property
    def num_spent(self) -> int:
        """Of whole trainings: those to spend, or more where more was spent before."""
        return self._experiment.trials - min(0, self._epochs_left // self._num_epochs)

    @property
    def is_finished(self) -> bool:
        """Whether all that is wanted, or possible, is done."""
        if self._with_state("running"):
            return False
        return self._next() is None and not (self._baselines and self._may_start)

    @property
    def is_exhausted(self) -> bool:
        """Whether nothing is left within the budget: nothing new, and nothing to take up again."""
        takes_up = isinstance(self._stopping, ByGain)
        if self._baselines or (takes_up and self._strategy.stopped() is not None):
            return False
        return self._sampler.preview(self._study) is None

    def ask(self) -> Job | None:
        """The next job: unfinished ones first, then the baselines, then what is most worth it: a
        new network, or a stopped training.

        None where all epochs are promised, or nothing is left in the budget; a training that is
        stopped or fails may change the first.
        """
        while self._unfinished:
            job = self._unfinished.pop(0)
            if self._goes_on(job.number):
                return self._logged(job, "go on")
        if self._baselines and self._may_start:
            name, architecture = self._baselines.pop(0)
            job = self._describe(self._new_trial(), architecture, baseline=name)
            return self._logged(job, "baseline")
        found = self._next()
        if found is None:
            return None
        if isinstance(found, Again):
            return self._logged(self._take_up(found.record), "take up", found.worth)
        trial = self._new_trial()
        for choice, options in self._designs.undiminished.options.items():
            trial.suggest_categorical(choice, options)
        job = self._describe(trial, self._space.decode(trial.params))
        return self._logged(job, "new", found)

    def _new_trial(self) -> Trial:
        """A trial that nobody has said anything of, whatever another program wants tried."""
        self._start_what_waits()
        while True:
            trial = self._study.ask()
            frozen = trial.storage.get_trial(trial._trial_id)
            if not (frozen.params or frozen.user_attrs or "fixed_params" in frozen.system_attrs):
                return trial
            self._refuse(frozen)  # it came in between

    def _goes_on(self, number: int) -> bool:
        """Whether a training that was under way is to go on. A verdict may have been lost with the
        session that ended there; that it was taken up again is one.
        """
        record, notes = self.records[number], self._trials[number].user_attrs
        is_taken_up = "continues" in notes and len(notes.get("curve", [])) == record.epochs
        if record.state == "running" and record.curve and not is_taken_up:
            if not self.report(number, record.curve):
                self.tell_stopped(number)
        return self.records[number].state == "running"

    def _logged(self, job: Job, what: str, worth: Worth | None = None) -> Job:
        """Notes why a job was chosen."""
        event = {"event": "ask", "what": what, "number": job.number, "id": job.network.id}
        if worth is not None:
            expected = {"gain": worth.gain, "mean": worth.mean, "std": worth.std}
            event |= {**expected, "epochs": worth.epochs}
        self._log(event)
        return job

    def report(self, number: int, curve: list[dict[str, Any]]) -> bool:
        """Notes the curve of a running trial, epochs before a restart included; the study has it
        from `tell` on. Returns whether the training goes on.

        A training that lost epochs with a worker is known as far as it was until it is there
        again.
        """
        if len(curve) < self.records[number].epochs:
            return True
        record = self._take_in(replace(self.records[number], curve=curve))
        at_rung = record.epochs in self._strategy.rungs[:-1] and record.baseline is None
        if self._stopping is None or not at_rung:
            return True
        verdict = self._stopping.verdict(record, self.records.values(), self._epochs_left)
        self._log(
            {
                "event": "rung",
                "number": number,
                "id": record.id,
                "epochs": record.epochs,
                **{name: record.figure(name) for name in self._experiment.accuracies},
                "goes_on": verdict.goes_on,
                "why": verdict.why,
            }
        )
        if not verdict.goes_on:
            self.records[number] = replace(record, reason=verdict.why)
        return verdict.goes_on

    def tell(self, number: int) -> TrialRecord:
        """Marks a trial as trained to its last epoch."""
        record = replace(self.records[number], state="complete", reason=None)
        self._note_ending(record)
        self._study.tell(number, [record.figure(name) for name in self._experiment.objectives])
        return self._finish(record)

    def tell_stopped(self, number: int) -> TrialRecord:
        """Marks a trial as stopped early, after `report` said so; its checkpoint is kept."""
        record = replace(self.records[number], state="stopped")
        self._note_ending(record, "top1", "reason")
        self._study.tell(number, state=TrialState.PRUNED)
        return self._finish(record)

    def tell_failed(self, number: int, reason: str) -> TrialRecord:
        """Marks a trial as failed, with the reason in one line."""
        record = replace(self.records[number], state="failed", reason=" ".join(reason.split()))
        self._note_ending(record, "reason")
        self._study.tell(number, state=TrialState.FAIL)
        return self._finish(record)

    @property
    def _num_epochs(self) -> int:
        return self._experiment.recipe.num_epochs

    @property
    def _epochs_left(self) -> int:
        """Epochs that are not yet spent, nor promised to a training that runs."""
        return epochs_left(self._experiment, self.records.values())

    @property
    def _may_start(self) -> bool:
        """Whether a whole training is left to spend."""
        return self._epochs_left >= self._num_epochs

    def _next(self) -> "Again | Worth | None":
        """What is most worth its epochs: a training to take up again, or something new; None where
        nothing fits.
        """
        left = self._epochs_left
        new = self._sampler.preview(self._study) if self._may_start else None
        again = self._strategy.stopped(left) if isinstance(self._stopping, ByGain) else None
        if again is None or (new is not None and new.rate >= again.rate):
            return new
        stopped = (r for r in self.records.values() if r.id == again.design.known.id)
        return Again(next(stopped), again)

    def _take_up(self, record: TrialRecord) -> Job:
        """A stopped training as a new trial, in one step of the storage that a kill cannot halve:
        the trial waits, with all that is known of it, until it is asked for.
        """
        trials = self._study.get_trials(deepcopy=False)
        stopped = next(trial for trial in trials if trial.number == record.number)
        attributes = {k: v for k, v in stopped.user_attrs.items() if k not in _OF_AN_ENDING}
        waiting = optuna.trial.create_trial(
            state=TrialState.WAITING,
            params=stopped.params,
            distributions=stopped.distributions,
            user_attrs={**attributes, "continues": record.number},
            system_attrs={"constraints": stopped.system_attrs.get("constraints")},
        )
        self._study.add_trial(waiting)
        started = self._start_what_waits()
        for frozen in started:
            self._remember(frozen)
        ours = (f for f in started if f.user_attrs.get("continues") == record.number)
        return self._job(self.records[next(ours).number])

    def _start_what_waits(self) -> list[FrozenTrial]:
        """Starts the trials that wait, and returns those of ours; outside of `_take_up` there is
        one after a kill alone.
        """
        waiting = self._study.get_trials(deepcopy=False, states=(TrialState.WAITING,))
        if not waiting:
            return []
        numbers = {self._study.ask().number for _ in waiting}
        stored = self._study.get_trials(deepcopy=False)
        started = [frozen for frozen in stored if frozen.number in numbers]
        ours = [
            frozen
            for frozen in started
            if "continues" in frozen.user_attrs and "fixed_params" not in frozen.system_attrs
        ]
        for frozen in started:
            if frozen not in ours:
                self._refuse(frozen)
        return ours

    def _refuse(self, frozen: FrozenTrial) -> None:
        """Ends a trial that another program wants: it may cost too much, or be trained already.
        Without an `id` it counts for nothing.
        """
        trial = Trial(self._study, frozen._trial_id)
        trial.set_user_attr("id", None)
        self._study.tell(trial, state=TrialState.FAIL)

    def _design_of(self, record: TrialRecord) -> Design:
        """A training as the strategy sees it: one from outside of the space has no row."""
        design = self._designs.design(record.picks) if record.picks else None
        if design is None:
            network = cast(Architecture, record.network)
            design = Design({}, (), known_of(network, self._space.cost(network), self._limits))
        return design

    def _open(self, given: BaseStorage | None) -> optuna.Study:
        """The study of this run, made where the run is new. Raises SettingsError."""
        name, place = self._experiment.name, place_of(self._folder, self._experiment.storage)
        storage = given or open_to_write(self._folder, self._experiment.storage)
        try:
            existing = {study.study_name: study for study in storage.get_all_studies()}.get(name)
            objectives = self._experiment.objectives
            directions = [
                StudyDirection.MAXIMIZE if is_learned(name) else StudyDirection.MINIMIZE
                for name in objectives
            ]
            if existing is None:
                if given is None and any(self._folder.trials_folder.glob("*")):
                    raise SettingsError(
                        f"{place}: no study {name!r} in it, and {self._folder.path} has trials; "
                        "give the --storage that it began with"
                    )
            elif existing.directions != directions:
                raise SettingsError(
                    f"{place}: the study {name!r} has other objectives than this run; "
                    "choose another --name"
                )
            elif self._experiment.storage is not None and len(self._folder.sessions()) == 1:
                raise SettingsError(
                    f"{place}: has a study {name!r} of another run already; choose another --name"
                )
            study = optuna.create_study(
                storage=storage,
                study_name=name,
                sampler=self._sampler,
                directions=directions,
                load_if_exists=True,
            )
            check_owner(study.user_attrs, self._experiment, place)
            study.set_user_attr(SETTINGS, owner_of(self._experiment))
            return study
        except READ_ERRORS as error:
            raise unusable(place, error) from None

    def _check_stored(self) -> None:
        """Raises SettingsError for a trial of ours that is not as a search leaves it."""
        place = place_of(self._folder, self._experiment.storage)
        try:
            stored = self._study.get_trials(deepcopy=False)
        except (*READ_ERRORS, LookupError) as error:  # what Optuna cannot read has many forms
            raise unusable(place, error) from None
        check_trials(stored, self._folder, self._experiment, self._space, place)

    def _note_ending(self, record: TrialRecord, *names: str) -> None:
        """Attributes must be there before `tell`: a finished trial cannot be changed. Those of an
        ending that a kill cut off, after which the trial went on, become those of this one.
        """
        trial = self._trials[record.number]
        before = trial.user_attrs
        trial.set_user_attr("curve", record.curve)
        trial.set_user_attr("epochs", record.epochs)
        trial.set_user_attr("seconds", round(record.seconds, 3))
        for name in ("top1", "reason"):
            if name in names or name in before:
                trial.set_user_attr(name, getattr(record, name))

    def _finish(self, record: TrialRecord) -> TrialRecord:
        """Takes in how a trial ended."""
        told = {"event": record.state, "number": record.number, "id": record.id}
        self._log({**told, "epochs": record.epochs, "top1": record.top1})
        return self._take_in(record)

    def _take_in(self, record: TrialRecord) -> TrialRecord:
        """Takes in what is new of a record, or stored."""
        self.records[record.number] = record
        epochs = range(1, record.epochs + 1)
        tops, *also = (
            [record.figure(name, epoch) for epoch in epochs] for name in self._experiment.accuracies
        )
        self._strategy.observe(self._design_of(record), tops, record.state, also)
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
        record = TrialRecord(
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
        return self._job(self._take_in(record))

    def _job(self, record: TrialRecord) -> Job:
        folder = self._folder.trial_folder(record.id)
        return Job(record.number, record.network, record.seed, folder)

    def _remember(self, frozen: FrozenTrial) -> None:
        """Takes a stored trial into `records`."""
        record = record_of(frozen, self._folder, self._experiment)
        if record is None:
            if frozen.state == TrialState.RUNNING:
                self._study.tell(frozen.number, state=TrialState.FAIL)
            return
        self.records.pop(frozen.user_attrs.get("continues", -1), None)  # this one stands for it
        self._take_in(record)
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


def limits_of(experiment: Experiment, space: SearchSpace) -> dict[str, float]:
    """What of each cost that counts is all of it: the budget of MACs, and of other costs the most
    that a network of the space has.
    """
    return {
        name: float(experiment.budget if name == "macs" else space.most(name))
        for name in experiment.costs
    }


def _stopping_of(experiment: Experiment, strategy: Strategy) -> Stopping | None:
    if experiment.early_stop == "gated":
        return ByGain(strategy)
    return Halving(experiment.objectives) if experiment.early_stop == "asha" else None
