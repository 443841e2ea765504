"""One session of a run: its folder checked and locked, its data read, its trainings done by Ray."""

import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from enum import Enum
from pathlib import Path
from typing import Generic

from rich.console import Console
from rich.markup import escape

from gmsearch import data
from gmsearch.band_cost import warning_of_cost
from gmsearch.console import Display, make_console
from gmsearch.errors import UserError
from gmsearch.experiment import Experiment, FullTraining, Run, Settings
from gmsearch.jobs import Jobs, Listener
from gmsearch.progress import pack_in_words, reading
from gmsearch.run import RunData, RunFolder, check_run, write_settings
from gmsearch.spending import Meter
from gmsearch.tensorboard import TensorBoard, check_place
from gmsearch.trackers import check_trackers
from gmsearch.wall_time import WallTime, session_begins


class Ending(Enum):
    """How a session of a run ended."""

    FINISHED = "all trials are done"
    LIMITED = "max_hours are over, or device_hours spent"
    STOPPED = "stopped by the user"


@dataclass(frozen=True)
class Account:
    """What a session took, and what all sessions of its run have spent."""

    wall_time: WallTime
    device_hours: float  # of the run, earlier sessions included
    device: str  # what these are hours of: a GPU or a worker
    limit: str | None = None  # what ended the session, if a limit did

    def in_words(self) -> str:
        return (
            f"{self.wall_time.in_words()}; "
            f"{self.device_hours:.3g} {self.device}-hours of training in all sessions"
            + ("" if self.limit is None else f"\nstopped: {self.limit}")
        )


@dataclass(frozen=True)
class Session(Generic[Run]):
    """What the parts of a run share while it is open."""

    settings: Run
    folder: RunFolder
    dataset: data.AnyDataset
    console: Console
    began: float  # on the clock of `time.time`; the first of a command, with its process
    seconds_of_data: float  # in which the images were read

    def train(self, jobs: Jobs, listener: Listener) -> Account | None:
        """Trains all jobs that are left on a Ray cluster; returns where the time went, or None
        where nothing is left.

        Raises TrainingError where every trial fails.
        """
        if jobs.is_finished:
            self.folder.note_session({"wall_time": None})
            for board in self._boards():
                with board:
                    board.update(jobs.records.values())
            return None
        # Two seconds to import, and a finished run does without.
        from gmsearch import cluster, nodes, tune

        before, hours = _spent(jobs), self.settings.max_hours
        with cluster.connected(self.settings.address):
            nodes.share_data(self.dataset, self.say)
            resources = cluster.plan_resources(self.settings, cluster.live_nodes())
            self.console.print(
                f"{len(self.dataset.train):,} training and {len(self.dataset.minival):,} minival "
                f"images of {len(self.dataset.classes)} classes; "
                f"trials at once: {resources.workers}, cores for each: {resources.cpus:.2g}"
                + (f", GPUs for each: {resources.gpus:g}" if resources.gpus else "")
            )
            warning = warning_of_cost(self.settings.watch, self.dataset, self.settings.recipe)
            if warning is not None:
                self.say(warning)
            meter = Meter(self.settings.device_hours, resources.devices, jobs.records)
            with ExitStack() as stack:
                listeners = [stack.enter_context(Display(self.console, self.settings)), listener]
                listeners += [stack.enter_context(board) for board in self._boards()]
                driver = tune.run_trials(
                    self.settings,
                    resources,
                    self.folder,
                    jobs,
                    self.dataset,
                    listeners,
                    meter,
                    self.say,
                    until=None if hours is None else self.began + 3600 * hours,
                )
                # Before Ray takes its time to end.
                device_hours, limit = meter.hours, self._limit(jobs, meter)
        training, evaluation = (now - then for now, then in zip(_spent(jobs), before, strict=True))
        wall_time = WallTime(
            wall=time.time() - self.began,
            workers=resources.workers,
            data=self.seconds_of_data,
            start_up=driver.first_training - self.began - self.seconds_of_data,
            training=training,
            evaluation=evaluation,
            idle=driver.idle.seconds,
        )
        return Account(
            self._note(wall_time),  # a first time, since what follows may be cut off
            device_hours=device_hours,
            device="GPU" if resources.gpus else "worker",
            limit=limit,
        )

    def _limit(self, jobs: Jobs, meter: Meter) -> str | None:
        """The limit that ends the session now, in words; None where there is none."""
        hours = self.settings.max_hours
        if jobs.is_finished:
            return None
        if meter.is_spent:
            return f"--device-hours {self.settings.device_hours:g} are spent"
        if hours is not None and time.time() - self.began >= 3600 * hours:
            return f"--max-hours {hours:g} are over"
        return None

    def settle(self, account: Account | None) -> Account | None:
        """Notes and returns the account up to now, the answer included, as a report will say it."""
        if account is None:
            return None
        spent, wall = account.wall_time, time.time() - self.began
        spent = replace(spent, wall=wall, answer=spent.answer + wall - spent.wall)
        return replace(account, wall_time=self._note(spent))

    def _note(self, wall_time: WallTime) -> WallTime:
        """Writes it to environment.json; returns what is there, to the last digit."""
        noted = wall_time.to_dict()
        self.folder.note_session({"wall_time": noted})
        return WallTime.from_dict(noted) or wall_time

    def _boards(self) -> list[TensorBoard]:
        """One where it is asked for."""
        if not self.settings.tensorboard:
            return []
        objectives = self.settings.objectives if isinstance(self.settings, Experiment) else ()
        return [TensorBoard(self.folder.tensorboard_folder, objectives)]

    def say(self, line: str) -> None:
        self.console.print(line, soft_wrap=True)

    def ending(self, finished: bool, account: Account | None) -> Ending:
        """How the session ended, where `account` is None if nothing was left to train."""
        if finished:
            return Ending.FINISHED
        is_limited = account is not None and account.limit is not None
        return Ending.LIMITED if is_limited else Ending.STOPPED


def _spent(jobs: Jobs) -> tuple[float, float]:
    """Seconds of all trainings in steps, and in evaluation."""
    evaluation = sum(record.evaluation_seconds for record in jobs.records.values())
    return sum(record.seconds for record in jobs.records.values()) - evaluation, evaluation


def load_searched(settings: Run, console: Console) -> data.AnyDataset:
    """The data of a search, packed on first use. Raises DataError."""
    if settings.stream:
        with console.status(escape(f"listing {settings.data} …")):
            return data.stream(settings.data, resolution=settings.resolution)
    return _read(data.load, settings, console)


def load_official(settings: FullTraining, console: Console) -> data.AnyDataset:
    """The data of full trainings, packed on first use. Raises DataError."""
    if settings.stream:
        with console.status(escape(f"listing {settings.data} …")):
            return data.stream(settings.data, resolution=settings.resolution, official=True)
    return _read(data.load_official, settings, console)


def _read(
    load: Callable[..., data.Dataset], settings: Settings | FullTraining, console: Console
) -> data.Dataset:
    with reading(console, settings.data) as progress:
        dataset = load(
            settings.data,
            resolution=settings.resolution,
            seed=settings.seed,
            cache=None if settings.cache is None else Path(settings.cache),
            progress=progress,
        )
    if progress.rate is not None and isinstance(dataset, data.PackedDataset):
        words = pack_in_words(dataset.pack, progress.rate)
        console.print(f"packed once, for all runs to come: {words}", soft_wrap=True)
    return dataset


def _in_figures(dataset: data.AnyDataset) -> RunData:
    return RunData(len(dataset.train), len(dataset.minival), dataset.classes)


@contextmanager
def open_session(settings: Run, folder: RunFolder) -> Iterator[Session[Run]]:
    """Checks the folder, reads the data, and holds the run against a second driver.

    Raises UserError; no folder is left behind by one where nothing was trained yet.
    """
    began = session_begins()
    console = make_console()
    check_trackers(settings)
    check_run(folder, settings)
    if settings.tensorboard:
        check_place(folder.tensorboard_folder)
    reads = time.time()
    dataset = load_searched(settings, console)
    seconds_of_data = time.time() - reads
    settings = settings.model_copy(update={"data_digest": dataset.digest})
    with folder.locked():
        existed = check_run(folder, settings)  # again: another driver may have made it meanwhile
        try:
            write_settings(folder, settings, _in_figures(dataset))
            yield Session(settings, folder, dataset, console, began, seconds_of_data)
        except UserError:
            if not existed and not folder.trials_folder.exists():  # what is trained is never lost
                folder.remove_beginnings()
            raise
