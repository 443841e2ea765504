"""The driver of a run: which job comes next, what becomes of a result, and what of a worker that
was lost. It knows nothing of Ray, which asks and tells it (`tune`).
"""

import errno
import os
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from typing import Any

from gmsearch.errors import SettingsError, TrainingError
from gmsearch.experiment import Settings
from gmsearch.jobs import Jobs, Listener
from gmsearch.lookout import Lookout
from gmsearch.record import Job, TrialRecord
from gmsearch.run import write_trial
from gmsearch.shelf import CHECKPOINT, OwnShelf, Shelf
from gmsearch.spending import Meter
from gmsearch.wall_time import IdleTime

MOST_FAILURES = 5  # trials that fail before one is complete: the cause is not in the networks
FULL = tuple(os.strerror(number) for number in (errno.ENOSPC, errno.EDQUOT, errno.EROFS))
FINISHED = "FINISHED"  # instead of a configuration: nothing is left


class Driver:
    """The jobs, and which of them run.

    A training whose worker dies is tried again from its last epoch; where it dies twice after the
    same epoch, the trial fails. A lost node is not its fault, and does not count; neither is a full
    disk under the run folder, which ends the session.
    """

    def __init__(
        self,
        settings: Settings,
        lookout: Lookout,
        jobs: Jobs,
        listeners: Sequence[Listener],
        meter: Meter,
        ways: Mapping[str, str | None],
        shelf: Shelf | None,
    ) -> None:
        self.settings = settings
        self.lookout = lookout
        self.jobs = jobs
        self.listeners = listeners
        self.is_dry = False  # nothing more to do, until a training ends
        self.meter = meter
        self.ways = ways  # of a worker to the run folder
        self.shelf = shelf  # where checkpoints are, if not in the run folder
        self.running: dict[int, Job] = {}
        self.again: list[Job] = []
        self.reached: dict[int, int] = {}  # epochs by trial, as its worker last said
        self.died_after: dict[int, int] = {}  # of these
        self.hung: dict[int, str] = {}
        self.idle = IdleTime()
        self._first_start: float | None = None  # of a worker, on the clock of `time.time`
        self._first_training: float | None = None  # as workers tell with the first epoch
        self.error: Exception | None = None

    @property
    def first_training(self) -> float:
        """When the first training began, on the clock of `time.time`; now, if none did. A worker
        that ended no epoch is known from its start, which is before its imports.
        """
        return self._first_training or self._first_start or time.time()

    @contextmanager
    def keeping_errors(self) -> Iterator[None]:
        """Keeps an error as it is, beside what Ray makes of it."""
        try:
            yield
        except Exception as error:
            self.error = self.error or error
            raise

    def next_config(self) -> dict[str, Any] | str | None:
        """The configuration of the next trial; None while all workers are busy, FINISHED when
        nothing is left.
        """
        if len(self.running) >= self.lookout.resources.workers:
            return None  # a proposal waits until the results before it are in
        if self.meter.is_spent:
            return FINISHED
        if self.is_dry and not self.again:
            return None
        job = self.again.pop(0) if self.again else self.jobs.ask()
        if job is None:
            # What runs may have to be done again, and what ends may leave room for more.
            self.is_dry = bool(self.running)
            num_idle = self.lookout.resources.workers - len(self.running)
            self.idle.changed(num_idle if self.running else 0)
            return None if self.running else FINISHED
        self.running[job.number] = job
        self.update()
        saved = job.folder / CHECKPOINT
        if self.shelf is not None and saved.is_file() and self.shelf.load(job.folder.name) is None:
            self.shelf.save(job.folder.name, saved.read_bytes())
        return {
            "number": job.number,
            "network": job.network.to_dict(),
            "recipe": asdict(self.settings.recipe),
            "watch": None if self.settings.watch is None else asdict(self.settings.watch),
            "seed": job.seed,
            "folder": str(job.folder.absolute()),
            "weights": None if job.weights is None else str(job.weights),
            "threads": self.lookout.resources.threads,
            "gpu": self.lookout.resources.gpus > 0,
            **self.ways,
        }

    def update(self) -> None:
        for listener in self.listeners:
            listener.update(self.jobs.records.values())

    def on_started(self, number: int, trial: Any) -> None:
        """A worker took up a training, which is `trial` for Ray."""
        self._first_start = self._first_start or time.time()
        self.lookout.began(number, trial)

    def on_result(self, number: int, result: dict[str, Any]) -> bool:
        """Takes in a result; returns whether the training goes on."""
        if number not in self.running:
            return True  # Ray repeats the last result when a trial ends
        if "failed" in result:
            self.finish(number, self.jobs.tell_failed(number, result["failed"]))
            return True
        self._first_training = min(self._first_training or result["began"], result["began"])
        curve = result["curve"]
        self.lookout.heard(number, curve[-1]["seconds"])
        if result["away"]:
            job = self.running[number]
            write_trial(job.folder, job.network, curve)
        self.reached[number] = len(curve)
        goes_on = self.jobs.report(number, curve)
        self.meter.heard(number)
        if len(curve) >= self.settings.recipe.num_epochs:
            self.finish(number, self.jobs.tell(number))
        elif goes_on:
            self.update()
        else:
            self.finish(number, self.jobs.tell_stopped(number))
        return goes_on

    def on_lost(self, number: int, reason: str, *, with_its_node: bool) -> None:
        """A worker died, or its machine failed it."""
        if number not in self.running:
            return
        reason = self.hung.pop(number, reason)
        own_disk = str(self.running[number].folder.parent.absolute())
        if own_disk in reason and any(words in reason for words in FULL):
            raise SettingsError(f"{reason}; make room, and `gmsearch resume` goes on")
        epochs = self.reached.get(number, self.jobs.records[number].epochs)
        if not with_its_node:
            if self.died_after.get(number) == epochs:
                reason += f" (twice, after epoch {epochs})"
                self.finish(number, self.jobs.tell_failed(number, reason))
                return
            self.died_after[number] = epochs
        self.lookout.ended(number)
        self.meter.ended(number)
        self.again.append(self.running.pop(number))

    def step(self) -> None:
        self.hung |= self.lookout.step()

    def finish(self, number: int, record: TrialRecord) -> None:
        job = self.running.pop(number)
        self.is_dry = False
        self.idle.changed(0)  # until Ray asks what is next
        self.meter.ended(number)
        self.lookout.ended(number)
        if self.shelf is not None and record.epochs:
            self._fetch(job, self.shelf)
        self.update()
        for listener in self.listeners:
            listener.finished(record)
        states = [other.state for other in self.jobs.records.values()]
        if states.count("failed") >= MOST_FAILURES and "complete" not in states:
            raise TrainingError(
                f"the first {MOST_FAILURES} trials failed, the last because: {record.reason}"
            )

    def _fetch(self, job: Job, shelf: Shelf) -> None:
        """Brings the last checkpoint to the run folder, where exports look for the weights."""
        checkpoint = shelf.load(job.folder.name)
        if checkpoint is not None:
            OwnShelf(job.folder.parent).save(job.folder.name, checkpoint)
