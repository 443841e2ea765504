"""The main job, from settings to a front: check, read the data, train what the study asks for,
answer.
"""

import shutil
import time
from collections.abc import Iterable
from dataclasses import dataclass
from enum import Enum

from rich.console import Console

from gmsearch import data
from gmsearch.console import Display, answer, make_console
from gmsearch.errors import SettingsError, UserError
from gmsearch.experiment import Experiment
from gmsearch.picture import draw_front
from gmsearch.record import TrialRecord, front_of
from gmsearch.run import RunFolder, check_run, write_experiment
from gmsearch.space import SearchSpace, format_size
from gmsearch.study import STORAGE_ERRORS, SearchStudy


class Ending(Enum):
    """How a session of a search ended."""

    FINISHED = "all trials are done"
    OUT_OF_TIME = "max_hours are over"
    STOPPED = "stopped by the user"


@dataclass(frozen=True)
class Account:
    """Where the wall time of a session went, in seconds; `trained` is summed over the workers."""

    wall: float
    start_up: float
    trained: float
    workers: int

    def in_words(self) -> str:
        available = self.wall * self.workers
        trained, start_up = self.trained / available, self.start_up / self.wall
        return (
            f"{self.wall:.0f} s on {self.workers} workers: "
            f"training {trained:.1%}, start-up {start_up:.1%}, "
            f"the rest {max(0.0, 1 - trained - start_up):.1%}"
        )


def run_search(experiment: Experiment, folder: RunFolder) -> Ending:
    """Runs a search to its end, or goes on with one.

    Raises UserError, with no run folder left behind where nothing was trained yet, and
    TrainingError where every trial fails.
    """
    began = time.time()
    console = make_console()
    space = experiment.search_space(folder.experiment_file)
    space.check_budget(experiment.budget)
    check_run(folder, experiment)
    with console.status(f"reading {experiment.data} …"):
        dataset = data.load(experiment.data, resolution=experiment.resolution, seed=experiment.seed)
    experiment = experiment.model_copy(update={"data_digest": dataset.digest})
    with folder.locked():
        existed = check_run(folder, experiment)  # again: another driver may have made it meanwhile
        write_experiment(folder, experiment)
        try:
            return _search(experiment, folder, space, dataset, console, began)
        except UserError:
            if not existed and not folder.trials_folder.exists():  # what is trained is never lost
                shutil.rmtree(folder.path)
            raise
        except STORAGE_ERRORS as error:
            cause = (str(error.__cause__ or error).strip() or type(error).__name__).splitlines()[0]
            raise SettingsError(f"{folder.study_file}: cannot be used: {cause}") from None


def _search(
    experiment: Experiment,
    folder: RunFolder,
    space: SearchSpace,
    dataset: data.Dataset,
    console: Console,
    began: float,
) -> Ending:
    """What is done while the run is locked: train what is left to train, and answer."""
    study = SearchStudy(folder, experiment, space)
    console.print(
        f"{experiment.name}: up to {experiment.trials} networks within "
        f"{format_size(experiment.budget)} MACs, {experiment.fidelity_in_words()} each",
        soft_wrap=True,
    )
    if study.records:
        console.print(f"going on with {folder.path}: {study.num_finished} trials are done")
    account = None
    if not study.is_finished:
        account = _train(experiment, folder, study, space, dataset, console, began)
    _answer(experiment, folder, study, space, len(dataset.minival), account, console)
    if study.is_finished:
        return Ending.FINISHED
    hours = experiment.max_hours
    timed_out = hours is not None and account is not None and account.wall >= 3600 * hours
    return Ending.OUT_OF_TIME if timed_out else Ending.STOPPED


class _Keeper:
    """Shows a search while it runs, and writes its tables whenever a trial ends."""

    def __init__(
        self, experiment: Experiment, folder: RunFolder, space: SearchSpace, display: Display
    ) -> None:
        self._experiment = experiment
        self._folder = folder
        self._space = space
        self._display = display
        self._records: list[TrialRecord] = []

    def update(self, records: Iterable[TrialRecord]) -> None:
        self._records = list(records)
        self._display.update(self._records)

    def finished(self, record: TrialRecord) -> None:
        self._display.finished(record)
        _write_tables(self._experiment, self._folder, self._space, self._records)


def _write_tables(
    experiment: Experiment, folder: RunFolder, space: SearchSpace, records: list[TrialRecord]
) -> None:
    folder.write_trials(records, [choice.name for choice in space.choices])
    folder.write_front(front_of(records, experiment.objectives))


def _train(
    experiment: Experiment,
    folder: RunFolder,
    study: SearchStudy,
    space: SearchSpace,
    dataset: data.Dataset,
    console: Console,
    began: float,
) -> Account:
    """Trains what is left to train on a Ray cluster; returns where the time went."""
    from gmsearch import tune  # takes two seconds to import, and a finished run does without

    trained_before = sum(record.seconds for record in study.records.values())
    with tune.cluster(experiment.address):
        resources = tune.plan_resources(experiment, tune.live_nodes())
        console.print(
            f"{len(dataset.train):,} training and {len(dataset.minival):,} minival images of "
            f"{len(dataset.classes)} classes; "
            f"trials at once: {resources.workers}, cores for each: {resources.cpus:.2g}"
            + (f", GPUs for each: {resources.gpus:g}" if resources.gpus else "")
        )
        with Display(console, experiment) as display:
            keeper = _Keeper(experiment, folder, space, display)
            first_trial = tune.run_trials(experiment, resources, folder, study, dataset, keeper)
    wall = time.time() - began
    trained = sum(record.seconds for record in study.records.values()) - trained_before
    return Account(wall, (first_trial or time.time()) - began, trained, resources.workers)


def _answer(
    experiment: Experiment,
    folder: RunFolder,
    study: SearchStudy,
    space: SearchSpace,
    num_minival: int,
    account: Account | None,
    console: Console,
) -> None:
    """Writes front.json, trials.csv and front.png, and prints the table, the account and what to
    type next.
    """
    records = list(study.records.values())
    _write_tables(experiment, folder, space, records)
    draw_front(folder.front_picture, experiment, records, num_minival)
    console.print(answer(experiment, records, num_minival))
    if account:
        console.print(account.in_words())
    console.print(f"wrote front.json, trials.csv and front.png to {folder.path}")
    if study.is_finished and study.is_exhausted:
        console.print("nothing is left to try: the space has no other network within the budget")
        return
    more = f" --trials {2 * experiment.trials}" if study.is_finished else ""
    console.print(f"next: gmsearch resume {folder.path}{more}", markup=False, soft_wrap=True)
