"""What searches are compared on: the stand-in, of which each seed is another, or a table."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from standin import StandIn

from gmsearch.architecture import Architecture
from gmsearch.pareto import hypervolume
from gmsearch.record import EpochDict, TrialRecord
from gmsearch.space import SearchSpace
from gmsearch.space_file import read_space, read_space_data
from gmsearch.table import TrialTable

SPACE = Path(__file__).parents[2] / "search_spaces" / "gated.yaml"
BUDGET = 300_000_000  # MACs
NUM_EPOCHS = 9  # so that the rungs are 1, 3 and 9
SECONDS = 0.3, 1e-8  # of an epoch: of its own, and for each of the network's MACs


@dataclass(frozen=True, kw_only=True)
class Problem:
    """Trainings that a search may ask for."""

    space: SearchSpace
    space_data: dict[str, Any]  # the space file's contents
    budget: int  # MACs
    num_epochs: int  # of a training to its end
    curve: Callable[[TrialRecord], list[EpochDict]]  # what a search sees
    score: Callable[[TrialRecord], float]  # top1 in per cent that a complete training counts as
    allowed: Callable[[Architecture], bool] = lambda network: True


def stand_in(seed: int) -> Problem:
    """The analytic accuracy number `seed` over the gated space; a training counts without its
    noise.
    """
    space = read_space(SPACE)
    accuracy = StandIn(space, NUM_EPOCHS, seed)

    def curve(record: TrialRecord) -> list[EpochDict]:
        seconds = SECONDS[0] + SECONDS[1] * record.macs
        tops = accuracy.curve(record.network, record.picks)
        return [{"epoch": i, "top1": t, "seconds": seconds} for i, t in enumerate(tops, 1)]

    return Problem(
        space=space,
        space_data=read_space_data(SPACE),
        budget=BUDGET,
        num_epochs=NUM_EPOCHS,
        curve=curve,
        score=lambda record: accuracy.final(record.network, record.picks),
    )


def of_table(table: TrialTable) -> Problem:
    """The networks of a table. A search sees the trainings of its first seed; a training counts as
    the mean of the network's last epoch over its seeds.
    """
    settings = table.tabulation
    largest = int(table.frame["macs"].max())
    return Problem(
        space=table.space,
        space_data=settings.space,
        budget=largest if settings.budget is None else settings.budget,
        num_epochs=settings.recipe.num_epochs,
        curve=lambda record: table.curves[record.id][settings.seed],
        score=lambda record: mean_top1(table, record.id),
        allowed=lambda network: settings.seed in table.curves.get(network.id, {}),
    )


def ceiling(table: TrialTable) -> tuple[int, float]:
    """How many networks a search of a table may train, and the hypervolume of all of them."""
    settings = table.tabulation
    costs = table.frame.groupby("id")["macs"].first()
    allowed = [id for id in costs.index if settings.seed in table.curves[id]]
    budget = of_table(table).budget
    points = [(mean_top1(table, id), costs[id] / budget) for id in allowed]
    return len(allowed), hypervolume(points, 1.0)


def mean_top1(table: TrialTable, id: str) -> float:
    """After the last epoch, over the seeds that a network was trained with."""
    by_seed = table.curves[id].values()
    return sum(curve[-1]["top1"] for curve in by_seed) / len(by_seed)
