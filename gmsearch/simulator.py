"""Runs jobs on a clock of its own: trainings are looked up, and hours of a cluster pass in seconds.

The jobs see what they would see of Ray (`tune`): results in the order in which workers have them,
stops, and new questions as soon as a worker is free.
"""

import heapq
import time
from collections.abc import Callable
from dataclasses import dataclass, field

from gmsearch.jobs import Jobs
from gmsearch.record import EpochDict, Job


@dataclass
class Simulation:
    """What happened, and what it took."""

    epochs: int = 0  # trained, by all workers
    seconds: float = 0.0  # of the simulated clock
    busy: float = 0.0  # of the simulated clock, summed over the workers
    deciding: float = 0.0  # of this machine: what the jobs took to answer
    endings: list[tuple[int, int]] = field(default_factory=list)  # (epochs so far, number)


def simulate(
    jobs: Jobs,
    curve_of: Callable[[Job], list[EpochDict]],
    workers: int,
    *,
    stop_after: Callable[[Simulation], bool] = lambda simulation: False,
) -> Simulation:
    """Runs jobs until there are no more, or `stop_after` says so.

    `curve_of` has the whole curve of a job; each epoch takes its `seconds`. A job that was trained
    in part goes on from there.
    """
    done = Simulation()
    queue: list[tuple[float, int, int]] = []  # when a worker is done with an epoch of a trial
    curves: dict[int, list[EpochDict]] = {}

    def start(now: float) -> None:
        """Gives free workers something to do."""
        while len(queue) < workers:
            asked = time.perf_counter()
            job = jobs.ask()
            done.deciding += time.perf_counter() - asked
            if job is None:
                return
            curves[job.number] = curve_of(job)
            # A kill may have come between a last epoch and its ending: it is told once more.
            trained = min(jobs.records[job.number].epochs, len(curves[job.number]) - 1)
            push(now, job.number, trained + 1)

    def push(now: float, number: int, epoch: int) -> None:
        seconds = curves[number][epoch - 1]["seconds"]
        done.busy += seconds
        heapq.heappush(queue, (now + seconds, number, epoch))

    start(0.0)
    while queue:
        now, number, epoch = heapq.heappop(queue)
        done.seconds = now
        done.epochs += 1
        told = time.perf_counter()
        goes_on = jobs.report(number, curves[number][:epoch])
        if epoch == len(curves[number]):
            jobs.tell(number)
        elif not goes_on:
            jobs.tell_stopped(number)
        done.deciding += time.perf_counter() - told
        if goes_on and epoch < len(curves[number]):
            push(now, number, epoch + 1)
        else:
            done.endings.append((done.epochs, number))
            if stop_after(done):
                break
        start(now)
    return done
