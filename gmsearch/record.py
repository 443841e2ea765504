"""What is known of one trial, in the terms that tables, pictures and files share."""

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from gmsearch.architecture import Architecture
from gmsearch.interval import wilson_interval
from gmsearch.pareto import front


@dataclass(frozen=True)
class TrialRecord:
    """One trial of a search, whatever became of it. `top1` is a percentage of minival after the
    last epoch.
    """

    number: int
    id: str
    state: str  # complete, running or failed
    architecture: Architecture
    macs: int
    params: int
    activations: int
    baseline: str | None = None  # "GmNet" and "no gates" for the two that are trained first
    picks: dict[str, int | str] = field(default_factory=dict)  # empty for a baseline
    curve: list[dict[str, Any]] = field(default_factory=list)  # one epoch result each
    reason: str | None = None  # why it failed

    @property
    def top1(self) -> float | None:
        return self.curve[-1]["top1"] if self.curve else None

    @property
    def epochs(self) -> int:
        return len(self.curve)

    @property
    def seconds(self) -> float:
        """Of training and evaluation."""
        return round(sum(result["seconds"] for result in self.curve), 3)


def half_interval(top1: float, num_images: int) -> float:
    """Half of the 95 % interval of a top1 in per cent, from the number of images alone."""
    _, low, high = wilson_interval(round(top1 / 100 * num_images), num_images)
    return 50 * (high - low)


def front_of(records: Iterable[TrialRecord], objectives: tuple[str, ...]) -> list[TrialRecord]:
    """The complete trials that no other dominates, best top1 first; top1 is maximised, every cost
    minimised.
    """
    complete = [record for record in records if record.state == "complete"]
    points = [[getattr(record, name) for name in objectives] for record in complete]
    on_front = [complete[i] for i in front(points, [name == "top1" for name in objectives])]
    return sorted(on_front, key=lambda record: (-record.curve[-1]["top1"], record.macs))
