"""Which trainings go on: rungs, and the rules that may stop a training at one."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Protocol

from gmsearch.pareto import front
from gmsearch.record import TrialRecord, is_learned
from gmsearch.strategy import Strategy

REDUCTION = 3  # from a rung to the next there are so many more epochs
MOST_RUNGS = 3


@dataclass(frozen=True)
class Verdict:
    """Whether a training goes on, and why, in words that a log can keep."""

    goes_on: bool
    why: str


class Stopping(Protocol):
    """A rule that may stop a training at a rung."""

    def verdict(self, record: TrialRecord, records: Iterable[TrialRecord], left: int) -> Verdict:
        """Whether a training at a rung goes on; `left` are the epochs that are not yet promised to
        any training.
        """


def rungs_of(num_epochs: int) -> tuple[int, ...]:
    """The epochs after which a training may be stopped, its end included: 3, 10, 30 of 30."""
    rungs = [num_epochs]
    while len(rungs) < MOST_RUNGS and rungs[0] >= REDUCTION:
        rungs.insert(0, round(rungs[0] / REDUCTION))
    return tuple(rungs)


class ByGain:
    """A training goes on where what it is expected to add to the front, for each epoch that it
    still needs, is at least what a new network or a stopped training is expected to add beside it:
    to the front as it would be then, so that what is alike does not take its place.
    """

    def __init__(self, strategy: Strategy) -> None:
        self._strategy = strategy

    def verdict(self, record: TrialRecord, records: Iterable[TrialRecord], left: int) -> Verdict:
        if not self._strategy.may_stop(record.id):
            return Verdict(True, "too few trainings went on to tell")
        own = self._strategy.worth(record.id)
        freed = left + own.epochs
        rivals = [self._strategy.stopped(freed)]
        if freed >= self._strategy.num_epochs:
            rivals.append(self._strategy.propose())
        rates = [rival.rate for rival in rivals if rival is not None]
        best = max(rates, default=0.0)
        why = (
            f"{own.rate:.3g} points of hypervolume expected for each epoch left, "
            f"{best:.3g} elsewhere"
        )
        return Verdict(own.rate >= best, why)


class Halving:
    """Asynchronous successive halving (Li et al. 2020, arXiv 1810.05934) on fronts: a training goes
    on where it is among the best third at its rung, by the number of trainings there that beat it
    in all objectives, with the costs known exactly.
    """

    def __init__(self, objectives: Sequence[str]) -> None:
        self._objectives = objectives

    def verdict(self, record: TrialRecord, records: Iterable[TrialRecord], left: int) -> Verdict:
        there = [r for r in records if r.epochs >= record.epochs and not r.baseline]
        points = [[r.figure(o, record.epochs) for o in self._objectives] for r in there]
        ranks = _ranks(points, [is_learned(objective) for objective in self._objectives])
        own = next(rank for rank, r in zip(ranks, there, strict=True) if r.number == record.number)
        better = sum(rank < own for rank in ranks)
        why = f"{better} of {len(there)} trainings at this rung are on better fronts"
        return Verdict(better < len(there) / REDUCTION, why)


def _ranks(points: Sequence[Sequence[float]], maximize: Sequence[bool]) -> list[int]:
    """The front that each point is on: 0 is the first, 1 the first without that, …"""
    ranks = [0] * len(points)
    left = list(range(len(points)))
    rank = 0
    while left:
        best = {left[i] for i in front([points[i] for i in left], maximize)}
        for index in best:
            ranks[index] = rank
        left = [index for index in left if index not in best]
        rank += 1
    return ranks
