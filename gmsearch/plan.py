"""What a run would take, from three of its candidates: `gmsearch plan`."""

import heapq
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from rich import box
from rich.console import Console
from rich.table import Table

from gmsearch.architecture import Architecture
from gmsearch.console import clock
from gmsearch.experiment import Experiment
from gmsearch.gmnet import gmnet_within
from gmsearch.session import load_searched
from gmsearch.space import SearchSpace, format_size
from gmsearch.survey import draw_within
from gmsearch.timing import Timing

SECONDS = 45.0  # of measuring; the rest of the minute goes to first steps and last ones
NUM_DRAWS = 300  # candidates that stand for those that a search proposes
ROLES = ("smallest", "median", "largest")


@dataclass(frozen=True)
class Candidate:
    """A network that was trained for some seconds, by all workers at once."""

    role: str
    id: str
    macs: int  # where the space counts them
    timing: Timing  # mean over the workers


@dataclass(frozen=True)
class Range:
    """What is expected, and what it would be if all candidates were as the fastest, or the
    slowest, of the three.
    """

    expected: float
    low: float
    high: float


@dataclass(frozen=True)
class Plan:
    """What a run takes. Times are in seconds."""

    trials: int
    epochs: int
    workers: int
    threads: int  # of a worker
    device: str  # what device-hours are hours of: a GPU or a worker
    candidates: list[Candidate]
    start_up: float  # data, Ray and the workers, until they can train
    closing: float  # of Ray
    wall: Range
    device_hours: Range  # as --device-hours counts them
    max_hours: float | None
    most_device_hours: float | None

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON types, for a program to read."""
        return asdict(self)

    def in_words(self) -> str:
        """The prediction, and the limits that it does not keep."""
        wall, hours = self.wall, self.device_hours
        lines = [
            f"{self.trials} trials of {self.epochs} epochs on {self.workers} workers: about "
            f"{clock(wall.expected)} ({clock(wall.low)} to {clock(wall.high)}), "
            f"{hours.expected:.3g} {self.device}-hours ({hours.low:.3g} to {hours.high:.3g}); "
            "in brackets, if all were as the fastest or the slowest of the three"
        ]
        if self.max_hours is not None and wall.expected > 3600 * self.max_hours:
            lines.append(f"--max-hours {self.max_hours:g} would stop it before its end")
        limit = self.most_device_hours
        if limit is not None and hours.expected > limit:
            lines.append(f"--device-hours {limit:g} would stop it before its end")
        return "\n".join(lines)


def plan_run(experiment: Experiment, console: Console) -> Plan:
    """Measures for up to about a minute, and reads the data as the run would, which packs original
    images on first use. No run folder is made. Raises UserError.
    """
    from gmsearch import cluster, nodes  # two seconds to import
    from gmsearch.rehearsal import Rehearsal

    began = time.time()
    space = experiment.search_space(Path("--space"))
    pool = sorted(
        draw_within(space, experiment.budget, NUM_DRAWS, seed=experiment.seed),
        key=lambda each: space.cost(each).macs,
    )
    three = {
        each.id: (role, each)
        for role, each in zip(
            ROLES,
            (space.cheapest.architecture, pool[len(pool) // 2], pool[-1]),
            strict=True,
        )
    }
    dataset = load_searched(experiment, console)
    with cluster.connected(experiment.address):
        nodes.share_data(dataset, lambda line: console.print(line, soft_wrap=True))
        resources = cluster.plan_resources(experiment, cluster.live_nodes())
        rehearsal = Rehearsal(experiment, resources, dataset)
        start_up = time.time() - began
        candidates = []
        for role, network in three.values():
            with console.status(f"training the {role} candidate …"):
                timings = rehearsal.time(network, SECONDS / len(three))
            macs = space.cost(network).macs
            candidates.append(Candidate(role, network.id, macs, Timing.mean(timings)))
        closing = time.time()
    closing = time.time() - closing
    trials = macs_of_trials(experiment, space, pool)
    wall, device_seconds = predict(
        candidates, trials, experiment.recipe.num_epochs, resources.workers
    )
    around = start_up + closing
    return Plan(
        trials=len(trials),
        epochs=experiment.recipe.num_epochs,
        workers=resources.workers,
        threads=resources.threads,
        device="GPU" if resources.gpus else "worker",
        candidates=candidates,
        start_up=start_up,
        closing=closing,
        wall=Range(*(around + each for each in wall)),
        device_hours=Range(*(resources.devices * each / 3600 for each in device_seconds)),
        max_hours=experiment.max_hours,
        most_device_hours=experiment.device_hours,
    )


def macs_of_trials(
    experiment: Experiment, space: SearchSpace, pool: Sequence[Architecture]
) -> list[int]:
    """MACs of the trials of a run, in their order: the two baselines, then random candidates."""
    gmnet = gmnet_within(
        experiment.budget, resolution=space.resolution, num_classes=space.num_classes
    )
    baselines = [] if gmnet is None else [space.cost(gmnet).macs] * 2
    known = [space.cost(each).macs for each in pool]
    rng = np.random.default_rng(experiment.seed)
    count = experiment.trials
    if len(pool) < NUM_DRAWS:  # a space of which nothing more is left
        count = min(count, len(pool) + len(baselines))
    drawn = rng.choice(known, count, replace=count > len(known)).tolist()
    return [*baselines, *drawn][:count]


def predict(
    candidates: Sequence[Candidate], macs: Sequence[int], epochs: int, workers: int
) -> tuple[tuple[float, float, float], tuple[float, float, float]]:
    """Seconds from the first training to the last, and of all trainings together: expected, where
    what is measured holds for the MACs between, and as the fastest and the slowest.
    """
    by_macs = sorted(candidates, key=lambda each: each.macs)
    known = [each.macs for each in by_macs]

    def between(values: list[float]) -> list[float]:
        return np.interp(macs, known, values).tolist()

    counted = [epochs * each.timing.epoch for each in by_macs]
    whole = [
        each.timing.start + epochs * (each.timing.epoch + each.timing.checkpoint)
        for each in by_macs
    ]
    count = len(macs)
    return (
        (
            makespan(between(whole), workers),
            makespan([min(whole)] * count, workers),
            makespan([max(whole)] * count, workers),
        ),
        (sum(between(counted)), count * min(counted), count * max(counted)),
    )


def makespan(durations: Sequence[float], workers: int) -> float:
    """When all trials have ended, where each goes to the first worker that is free."""
    free = [0.0] * workers
    for duration in durations:
        heapq.heappush(free, heapq.heappop(free) + duration)
    return max(free)


def plan_table(plan: Plan) -> Table:
    """Seconds of each part, for each candidate."""
    table = Table(
        box=box.SIMPLE_HEAD,
        title=f"seconds, on {plan.workers} workers at once of {plan.threads} threads each",
        title_justify="left",
    )
    table.add_column("part")
    for candidate in plan.candidates:
        table.add_column(candidate.role, justify="right")
    table.add_column("times", justify="right")
    each = plan.trials * plan.epochs

    def row(part: str, values: list[str], times: str) -> None:
        table.add_row(part, *values, times)

    def seconds(name: str) -> list[str]:
        return [f"{getattr(c.timing, name):.2f}" for c in plan.candidates]

    row("MACs", [format_size(c.macs) for c in plan.candidates], "")
    row("a training starts", seconds("start"), f"{plan.trials:,}")
    row("an epoch of training", seconds("training"), f"{each:,}")
    row("evaluation after it", seconds("evaluation"), f"{each:,}")
    row("its checkpoint", seconds("checkpoint"), f"{each:,}")
    blank = [""] * (len(plan.candidates) - 1)
    row("start-up", [f"{plan.start_up:.1f}", *blank], "1")
    row("closing", [f"{plan.closing:.1f}", *blank], "1")
    return table
