"""What is known of one trial, in the terms that tables, pictures and files share."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

from gmsearch.interval import wilson_interval
from gmsearch.network import Network
from gmsearch.pareto import front
from gmsearch.radii import is_band

# Of an epoch, what those who follow a run are told beside its number.
SCALARS = ("top1", "train_loss", "loss")

EpochDict = dict[str, Any]  # a line of metrics.jsonl: the fields of training.EpochResult


class Job(NamedTuple):
    """One training to do; `folder` has what it left on disk before it was stopped."""

    number: int
    network: Network
    seed: int
    folder: Path
    weights: Path | None = None  # to start from


@dataclass(frozen=True)
class TrialRecord:
    """One trial of a search or comparison, whatever became of it.

    `top1` is a percentage of minival after the last epoch.
    """

    number: int
    id: str
    state: str  # complete, running, failed, or stopped before its last epoch
    network: Network
    macs: int
    params: int
    activations: int
    name: str = ""  # what the user calls it; nothing in a search
    seed: int = 0
    baseline: str | None = None  # "GmNet" and "no gates" for the two that are trained first
    picks: dict[str, int | str] = field(default_factory=dict)  # empty for a baseline
    curve: list[EpochDict] = field(default_factory=list)  # one epoch result each
    reason: str | None = None  # why it failed or was stopped

    @property
    def words(self) -> str:
        """What the network is: its name, if it has one that is not its id, or its gates."""
        words = self.name if self.name not in ("", self.id) else self.network.in_words()
        return f"{words} [{self.baseline} baseline]" if self.baseline else words

    @property
    def top1(self) -> float | None:
        return self.curve[-1]["top1"] if self.curve else None

    @property
    def bands(self) -> dict[str, float]:
        """top1 on parts of some minival images after the last epoch, where they were watched."""
        return (self.curve[-1].get("bands") or {}) if self.curve else {}

    def figure(self, name: str, epoch: int | None = None) -> Any:
        """A field, or a band by its name; an accuracy after an epoch, or after the last. None where
        it is not known.
        """
        if not is_learned(name):
            return getattr(self, name)
        there = self.curve[(epoch or self.epochs) - 1] if self.curve else {}
        return (there.get("bands") or {}).get(name) if is_band(name) else there.get(name)

    def interval(self, accuracy: str, num_minival: int | None) -> "Interval | None":
        """The 95 % interval of an accuracy after the last epoch, from its number of images: those
        of minival, or for a band those that were looked at. None where it is not known.
        """
        value = self.figure(accuracy)
        if value is None:
            return None
        num_images = self.curve[-1].get("band_images") if is_band(accuracy) else num_minival
        return interval_of(value, num_images) if num_images else None

    @property
    def epochs(self) -> int:
        return len(self.curve)

    @property
    def seconds(self) -> float:
        """Of training and evaluation."""
        return round(sum(result["seconds"] for result in self.curve), 3)

    @property
    def evaluation_seconds(self) -> float:
        """Of evaluation, as far as it is on record."""
        return sum(result.get("evaluation_seconds") or 0.0 for result in self.curve)


@dataclass(frozen=True, kw_only=True)
class ComparedNetwork:
    """A row of a comparison. `top1` is the mean over seeds, `spread` their standard deviation."""

    name: str  # what the user calls it
    id: str
    words: str
    top1s: list[float]  # by seed
    top1: float | None
    spread: float | None
    macs: int
    params: int
    activations: int
    eager_ms: float | None  # one image on one core, PyTorch; None while the run goes on
    onnx_ms: float | None  # the same in ONNX Runtime
    images_per_second: float | None  # of one worker in training, the median over epochs
    published: float | None = None
    bands: dict[str, float] = field(default_factory=dict)  # the means over seeds


def is_learned(objective: str) -> bool:
    """Whether an objective is an accuracy: it is known after training, and more of it is better."""
    return objective == "top1" or is_band(objective)


def band_names_of(records: Iterable[TrialRecord]) -> list[str]:
    """The bands that any of these trials has, in their order."""
    return list(dict.fromkeys(name for record in records for name in record.bands))


def band_cost_in_words(records: Iterable[TrialRecord]) -> str | None:
    """How many images bands are of, and what it cost to look; None where nothing was watched."""
    epochs = [epoch for record in records for epoch in record.curve if epoch.get("bands")]
    if not epochs:
        return None
    looking = sum(epoch["band_seconds"] for epoch in epochs)
    whole = sum(epoch["seconds"] for epoch in epochs) - looking
    num_images = max(epoch["band_images"] for epoch in epochs)
    return (
        f"bands: of {num_images:,} images, the same in every epoch and for every network; looking "
        f"at them took {looking / whole:.1%} of the rest of an epoch"
    )


class Interval(NamedTuple):
    """The ends of a 95 % interval, in per cent; near 0 and 100 % one is closer than the other."""

    low: float
    high: float


def interval_of(top1: float, num_images: int) -> Interval:
    """Where a top1 in per cent may lie, from the number of images alone; holds the top1 itself."""
    _, low, high = wilson_interval(round(top1 / 100 * num_images), num_images)
    return Interval(min(top1, 100 * low), max(top1, 100 * high))


def half_interval(top1: float, num_images: int) -> float:
    """Half the width of that interval: how small a difference a run may resolve, in points."""
    low, high = interval_of(top1, num_images)
    return (high - low) / 2


def tied(front: Sequence[TrialRecord], num_minival: int | None, accuracy: str = "top1") -> set[str]:
    """The ids of a front whose 95 % interval of an accuracy overlaps that of the next better or the
    next worse at it; none where the number of images is not known.
    """
    spans = [
        (record.figure(accuracy), record.id, span)
        for record in front
        if (span := record.interval(accuracy, num_minival)) is not None
    ]
    spans.sort(key=lambda each: -each[0])  # equal ones stay in the order of the front
    return {
        name
        for (_, one, a), (_, other, b) in pairwise(spans)
        if a.low < b.high and b.low < a.high
        for name in (one, other)
    }


def front_of(records: Iterable[TrialRecord], objectives: tuple[str, ...]) -> list[TrialRecord]:
    """The complete trials that no other dominates, best top1 first; accuracies are maximised, costs
    minimised.
    """
    complete = [record for record in records if record.state == "complete"]
    points = [[record.figure(name) for name in objectives] for record in complete]
    on_front = [complete[i] for i in front(points, [is_learned(name) for name in objectives])]
    return sorted(on_front, key=lambda record: (-record.curve[-1]["top1"], record.macs))
