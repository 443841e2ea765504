"""One search on one problem, and what is kept of it."""

import json
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from methods import METHODS
from problems import Problem

from gmsearch.jobs import Jobs
from gmsearch.pareto import hypervolume
from gmsearch.record import EpochDict, Job, TrialRecord
from gmsearch.simulator import Simulation, simulate


class Key(NamedTuple):
    """Which search it is; `bench` is the stand-in, or the name of a table."""

    bench: str
    method: str
    seed: int
    workers: int


@dataclass(frozen=True)
class Result:
    """A search that is done. Times are of the CPU, in milliseconds."""

    bench: str
    method: str
    seed: int
    workers: int
    trainings: int  # whose epochs it was to spend
    num_epochs: int  # of one
    epochs: int  # that it spent: fewer where it ran out of networks
    steps: list[tuple[int, float]]  # (epochs spent, hypervolume in points of top1), where it grew
    ask_ms: list[float]  # of each proposal
    report_ms: float  # of all that is not a proposal, for each epoch
    idle: float  # share of the workers' time, until the last is done; to decide takes none
    states: dict[str, int]

    @property
    def key(self) -> Key:
        return Key(self.bench, self.method, self.seed, self.workers)

    @property
    def end(self) -> int:
        """The full-training equivalents that it came to."""
        return min(self.trainings, -(-self.epochs // self.num_epochs))

    def at(self, trainings: np.ndarray) -> np.ndarray:
        """The hypervolume after as many full-training equivalents; NaN beyond the end."""
        spent, volumes = np.array(self.steps).T
        place = np.searchsorted(spent / self.num_epochs, trainings + 1e-9, side="right")
        found = np.append(0.0, volumes)[place]
        return np.where(trainings <= self.end, found, np.nan)


class Timed:
    """Jobs, with the time that each question takes."""

    def __init__(self, jobs: Jobs) -> None:
        self._jobs = jobs
        self.ask_ms: list[float] = []
        self.report_ms: list[float] = []

    @property
    def records(self) -> dict[int, TrialRecord]:
        return self._jobs.records

    @property
    def is_finished(self) -> bool:
        return self._jobs.is_finished

    def ask(self) -> Job | None:
        job = _timed(self.ask_ms, self._jobs.ask)
        if job is None:
            self.ask_ms.pop()
        return job

    def report(self, number: int, curve: list[EpochDict]) -> bool:
        return _timed(self.report_ms, self._jobs.report, number, curve)

    def tell(self, number: int) -> TrialRecord:
        return _timed(self.report_ms, self._jobs.tell, number)

    def tell_stopped(self, number: int) -> TrialRecord:
        return _timed(self.report_ms, self._jobs.tell_stopped, number)

    def tell_failed(self, number: int, reason: str) -> TrialRecord:
        return _timed(self.report_ms, self._jobs.tell_failed, number, reason)


def _timed(times: list[float], question: Callable[..., Any], *about: Any) -> Any:
    began = time.process_time()
    answer = question(*about)
    times.append(1000 * (time.process_time() - began))
    return answer


def contest(key: Key, problem: Problem, trainings: int) -> Result:
    """Searches until the epochs of so many trainings are spent."""
    points: list[tuple[float, float]] = []
    steps = [(0, 0.0)]
    with METHODS[key.method].jobs(problem, key.seed, trainings) as untimed:
        jobs = Timed(untimed)

        def watch(simulation: Simulation) -> bool:
            epochs, number = simulation.endings[-1]
            record = jobs.records[number]
            if record.state == "complete":
                points.append((problem.score(record), record.macs / problem.budget))
                volume = hypervolume(points, 1.0)
                if volume > steps[-1][1]:
                    steps.append((epochs, volume))
            return False

        done = simulate(
            jobs, lambda job: problem.curve(jobs.records[job.number]), key.workers, stop_after=watch
        )
        states = Counter(record.state for record in jobs.records.values())
    return Result(
        *key,
        trainings=trainings,
        num_epochs=problem.num_epochs,
        epochs=done.epochs,
        steps=steps,
        ask_ms=[round(ms, 2) for ms in jobs.ask_ms],
        report_ms=sum(jobs.report_ms) / done.epochs,
        idle=1 - done.busy / (done.seconds * key.workers),
        states=dict(states),
    )


def read_results(file: Path) -> Iterator[Result]:
    """What is there already; a line that was cut off counts for nothing."""
    if not file.is_file():
        return
    for line in file.read_bytes().splitlines():
        try:
            result = Result(**json.loads(line))
        except (ValueError, TypeError):
            continue
        if result.steps:
            yield result


def best_of(results: Iterable[Result]) -> dict[Key, Result]:
    """Of several of one search the one that was to go farthest, and of these the last."""
    found: dict[Key, Result] = {}
    for result in results:
        if result.key not in found or result.trainings >= found[result.key].trainings:
            found[result.key] = result
    return found


def append_result(file: Path, result: Result) -> None:
    """One line, written at once, and never behind one that was cut off."""
    with file.open("a+b") as opened:
        if opened.tell() and not _ends_well(opened):
            opened.write(b"\n")
        opened.write(json.dumps(asdict(result)).encode() + b"\n")


def _ends_well(opened: Any) -> bool:
    opened.seek(-1, 2)
    return opened.read(1) == b"\n"
