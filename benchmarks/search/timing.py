"""What the search `gated` takes to decide, on one core.

    python benchmarks/search/timing.py
    python benchmarks/search/timing.py --workers 256 --seconds 20 --trainings 600

The first table has the time of the CPU with so many trainings known, of which two in three were
stopped: for a proposal, as a worker begins what was proposed before, and for what is asked where
that one comes to its first rung; medians, and a proposal from a new model of all results, with
hyperparameters as they were and fitted. The second says how long simulated workers wait for one
driver that takes the time that it does take. A worker waits at each of its epochs until the driver
has heard of it. The study is in memory: a storage on disk, the log of decisions and Ray's messages
come on top.
"""

import argparse
import heapq
import os
import time
from collections.abc import Callable
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")  # before NumPy is imported

import numpy as np  # noqa: E402
from methods import METHODS  # noqa: E402
from problems import BUDGET, NUM_EPOCHS, SPACE, stand_in  # noqa: E402
from standin import StandIn  # noqa: E402

from gmsearch.cli.flags import natural, whole  # noqa: E402
from gmsearch.designs import Design, Designs, network_designs  # noqa: E402
from gmsearch.space_file import read_space  # noqa: E402
from gmsearch.stopping import rungs_of  # noqa: E402
from gmsearch.strategy import Strategy  # noqa: E402

KNOWN = (100, 1_000, 10_000)
NUM_TIMED = 60


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--known", type=whole, nargs="*", default=KNOWN, metavar="N")
    parser.add_argument(
        "--workers", type=natural, default=256, metavar="N", help="0: no second table"
    )
    parser.add_argument("--seconds", type=whole, default=20, help="of an epoch")
    parser.add_argument("--trainings", type=whole, default=600, help="whose epochs are spent")
    arguments = parser.parse_args()
    proposals(arguments.known)
    if arguments.workers:
        driver(arguments.workers, arguments.seconds, arguments.trainings)


def proposals(numbers: list[int]) -> None:
    print("| known | a proposal | a decision at a rung | with a new model | with a fit too |")
    print("| --- | --- | --- | --- | --- |")
    space = read_space(SPACE)
    designs = network_designs(space, BUDGET, {"macs": float(BUDGET)})
    accuracy = StandIn(space, NUM_EPOCHS, 0)

    def curve(design: Design) -> list[float]:
        return accuracy.curve(space.decode(design.picks), design.picks)

    for number in numbers:
        strategy = Strategy(designs, rungs_of(NUM_EPOCHS), 0)
        for place, design in enumerate(_distinct(designs, number)):
            epochs = (NUM_EPOCHS, *strategy.rungs[:-1])[place % 3]
            state = "complete" if epochs == NUM_EPOCHS else "stopped"
            strategy.observe(design, curve(design)[:epochs], state)
        strategy.propose()  # and the pool, which is drawn once
        strategy._forget("_models", "_present", "_proposal")
        with_model, _ = _timed(strategy.propose)
        strategy._to_fit = list(strategy.known.values())
        strategy._forget("_models", "_present", "_proposal")
        with_fit, _ = _timed(strategy.propose)
        asks, rungs = [], []
        for _ in range(NUM_TIMED):
            design = strategy.propose().design
            strategy.observe(design, [], "running")
            asks.append(_timed(strategy.propose)[0])
            reached = curve(design)[: strategy.rungs[0]]
            strategy.observe(design, reached, "running")
            rungs.append(_timed(_decide, strategy, design.known.id)[0])
            strategy.observe(design, reached, "stopped")
        told = (np.median(asks), np.median(rungs), with_model, with_fit)
        cells = " | ".join(f"{1000 * seconds:,.0f} ms" for seconds in told)
        print(f"| {number:,} | {cells} |", flush=True)
    print()


def _decide(strategy: Strategy, design_id: str) -> None:
    """What is asked where a training comes to a rung."""
    strategy.worth(design_id)
    strategy.stopped()
    strategy.propose()


def _distinct(designs: Designs, number: int) -> list[Design]:
    rng = np.random.default_rng(1)
    found: dict[str, Design] = {}
    while len(found) < number:
        design = designs.draw(rng)
        if design is not None:
            found[design.known.id] = design
    return list(found.values())


def driver(num_workers: int, seconds: int, trainings: int) -> None:
    """Simulates workers and one driver, which answers one of them after the other."""
    problem = stand_in(0)
    queue: list[tuple[float, int, int]] = []  # when a worker has an epoch of a trial
    clock = waited = busy = deciding = 0.0  # of the driver; of the workers; of the driver
    with METHODS["gated"].jobs(problem, 0, trainings) as jobs:

        def give_work(since: float) -> bool:
            """To a worker that is free since then."""
            nonlocal clock, waited, busy, deciding
            took, job = _timed(jobs.ask)
            clock, deciding = max(clock, since) + took, deciding + took
            if job is None:
                return False
            waited += clock - since
            busy += seconds
            epochs = jobs.records[job.number].epochs
            heapq.heappush(queue, (clock + seconds, job.number, epochs + 1))
            return True

        for _ in range(num_workers):
            give_work(0.0)
        while queue:
            ready, number, epoch = heapq.heappop(queue)
            record = jobs.records[number]
            curve = problem.curve(record)
            took, goes_on = _timed(jobs.report, number, curve[:epoch])
            if epoch == problem.num_epochs or not goes_on:
                end = jobs.tell if goes_on else jobs.tell_stopped
                took += _timed(end, number)[0]
                goes_on = False
            clock, deciding = max(clock, ready) + took, deciding + took
            if goes_on:
                waited += clock - ready
                busy += seconds
                heapq.heappush(queue, (clock + seconds, number, epoch + 1))
            elif not give_work(ready):
                break  # the search runs out: from here on workers wait for its end
        num_begun = len(jobs.records)
    print(
        f"{num_workers} workers, epochs of {seconds} s, {num_begun:,} networks begun, "
        f"{trainings:,} trainings' worth of epochs: workers idle {waited / (waited + busy):.1%}, "
        f"the driver busy {deciding / clock:.0%} of {clock / 60:.0f} minutes"
    )


def _timed(question: Callable[..., Any], *about: Any) -> tuple[float, Any]:
    """Seconds of the CPU, and the answer."""
    began = time.process_time()
    answer = question(*about)
    return time.process_time() - began, answer


if __name__ == "__main__":
    main()
