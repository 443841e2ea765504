"""What trainings are expected to bring, beside all that is done and all that runs."""

from collections.abc import Container, Iterable, Sequence
from dataclasses import dataclass, replace
from itertools import zip_longest
from typing import Protocol

import numpy as np

from gmsearch.designs import Design
from gmsearch.gain import Staircase
from gmsearch.surrogate import Chain, Points
from gmsearch.watched import Watched


@dataclass(frozen=True)
class Observation:
    """What a search knows of a design that it has met."""

    design: Design
    tops: tuple[float, ...] = ()  # top1 in per cent at the rungs that it has reached
    epochs: int = 0
    state: str = "new"  # then running, stopped, complete or failed
    also: tuple[tuple[float, ...], ...] = ()  # other accuracies at the rungs, one after the other

    def at_rungs(self, accuracy: int) -> tuple[float, ...]:
        """One of the accuracies at the rungs that are reached; 0 is top1."""
        return ((self.tops, *self.also)[accuracy]) if self.tops else ()

    @property
    def num_results(self) -> int:
        """What the model learns of it: accuracies, or that it failed."""
        if not self.design.row:
            return 0
        return 1 if self.state == "failed" else len(self.tops)


@dataclass(frozen=True)
class Worth:
    """A design, and what training it to the end is expected to bring."""

    design: Design
    epochs: int  # that it still needs
    gain: float  # expected, in points of hypervolume, of all fronts; 0 before there is a model
    mean: float  # of its top1 at the end; NaN before there is a model
    std: float

    @property
    def rate(self) -> float:
        """Expected gain for each epoch."""
        return self.gain / self.epochs


class Sight(Protocol):
    """Designs as the model sees them."""

    @property
    def num_epochs(self) -> int:
        """Of a training to its end."""

    def points_of(self, seen: Sequence[Observation]) -> Points:
        """Their choices and features."""

    def tops_of(self, seen: Sequence[Observation], accuracy: int) -> np.ndarray:
        """(N, rungs) of an accuracy, NaN beyond the last rung that was reached."""


class Outlooks:
    """What designs are expected to add to the fronts of all accuracies."""

    def __init__(self, parts: "Sequence[Outlook]") -> None:
        self._parts = parts
        self._candidates: list[Observation] = []

    def worths(self, seen: Sequence[Observation]) -> list[Worth]:
        """What going on with each is expected to bring, whatever became of the others; mean and
        deviation are of top1.
        """
        if not seen:
            return []
        return _added_up([part.worths(seen) for part in self._parts])

    def best(self, known: Container[str]) -> Worth | None:
        """The best candidate that is not known yet; None where none is left."""
        left = [each for each in self._candidates if each.design.known.id not in known]
        if not left:
            return None
        gains = sum(part.figures(left)[0] for part in self._parts)
        return self.worths([left[int(np.argmax(gains))]])[0]

    def watch(self, candidates: Sequence[Design], others: Iterable[Design]) -> None:
        """Has ready what is expected of candidates, and of others, also when more is taken in."""
        self._candidates = [Observation(design) for design in candidates]
        watched = {design.known.id: design for design in (*candidates, *others)}
        for part in self._parts:
            part.watch(list(watched.values()))

    def take_in(self, now: Observation, given: Observation) -> bool:
        """Counts what became of a design that the model has as it was `given`; False where it is
        not watched.
        """
        return all([part.take_in(now, given) for part in self._parts])

    def worth_beside(self, seen: Observation) -> Worth:
        """What going on with one of those that run is expected to bring beside the others."""
        [worth] = _added_up([[part.worth_beside(seen)] for part in self._parts])
        return worth

    def front(self, number: int) -> list[Design]:
        """Designs on the fronts, as many of each, the largest steps first."""
        found = [part.front(-(-number // len(self._parts))) for part in self._parts]
        known = {
            design.known.id: design
            for designs in zip_longest(*found)
            for design in designs
            if design
        }
        return list(known.values())[:number]


def _added_up(parts: Sequence[Sequence[Worth]]) -> list[Worth]:
    """Of the same designs, with what they are worth for all accuracies."""
    of_top1, *others = parts
    if not others:
        return list(of_top1)
    return [
        replace(worth, gain=worth.gain + sum(other.gain for other in beside))
        for worth, *beside in zip(of_top1, *others, strict=True)
    ]


class Outlook:
    """What designs are expected to add to the front of what is `done` and `running`, in one of the
    accuracies.
    """

    def __init__(
        self,
        sight: Sight,
        model: Chain,
        accuracy: int,
        done: Sequence[Observation],
        running: Sequence[Observation],
    ) -> None:
        self._sight = sight
        self._accuracy = accuracy
        points, tops = sight.points_of(running), sight.tops_of(running, accuracy)
        modelled = [seen for seen in done if seen.design.row]
        given = [seen for seen in done if not seen.design.row]
        at_last = sight.tops_of(modelled, accuracy)
        at_last[:, -1] = np.nan  # the front is of what is expected, not of lucky results
        smooth, _ = model.predict(sight.points_of(modelled), at_last)
        expected, _ = model.predict(points, tops)
        self._model = model.believing(points, tops)
        self._running = running
        self._watched: Watched | None = None
        self._places: dict[str, int] = {}  # of designs among those that are watched
        self._done = modelled
        self._smooth = smooth
        levels = np.concatenate([smooth, expected, [seen.at_rungs(accuracy)[-1] for seen in given]])
        counted = (*modelled, *running, *given)
        costs = [seen.design.known.costs for seen in counted]
        self._rows = {seen.design.known.id: row for row, seen in enumerate(counted)}
        self._levels, self._costs = levels, np.array(costs).reshape(len(levels), -1)
        self._staircase = Staircase.of(self._levels, self._costs)

    def worths(self, seen: Sequence[Observation]) -> list[Worth]:
        """What going on with each is expected to bring, whatever became of the others."""
        return self._worths(seen, *self.figures(seen))

    def figures(self, seen: Sequence[Observation]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """(N,) expected gain, mean and deviation at the end of each."""
        mean, std = self._expected(seen)
        costs = np.array([each.design.known.costs for each in seen])
        return self._staircase.expected_gain(mean, std, costs), mean, std

    def _expected(self, seen: Sequence[Observation]) -> tuple[np.ndarray, np.ndarray]:
        """Mean and deviation at the end."""
        tops = self._sight.tops_of(seen, self._accuracy)
        places = np.array([self._places.get(each.design.known.id, -1) for each in seen])
        if self._watched is None or (places < 0).any():
            return self._model.predict(self._sight.points_of(seen), tops)
        return self._watched.predict(places, tops)

    def watch(self, designs: Sequence[Design]) -> None:
        """Has ready what is expected of some designs, also when more is taken in."""
        self._places = {design.known.id: place for place, design in enumerate(designs)}
        believed = np.zeros((len(designs), len(self._model.processes)), bool)
        for seen, unknown in zip(self._running, self._unknown(self._running), strict=True):
            if (place := self._places.get(seen.design.known.id)) is not None:
                believed[place] = unknown
        points = self._sight.points_of([Observation(design) for design in designs])
        self._watched = Watched(self._model, points, believed)

    def _unknown(self, given: Sequence[Observation]) -> np.ndarray:
        """(N, rungs) whether the model has no result."""
        return np.isnan(self._sight.tops_of(given, self._accuracy))

    def take_in(self, now: Observation, given: Observation) -> bool:
        """Counts what became of a design that the model has as it was `given`: its level on the
        front is what is expected by all its results. False where it is not watched.
        """
        key = now.design.known.id
        place = self._places.get(key)
        if self._watched is None or (place is None and now.design.row):
            return False
        if place is None:
            level = now.at_rungs(self._accuracy)[-1] if now.state == "complete" else 0.0
        else:
            self._watched.believe(place, self._unknown([given])[0])
            level = 0.0 if now.state == "stopped" else self._level(now)
        row = self._rows.setdefault(key, len(self._levels))
        if row == len(self._levels):
            self._costs = np.concatenate([self._costs, [now.design.known.costs]])
            self._levels = np.append(self._levels, level)
        self._levels[row] = level
        self._staircase = Staircase.of(self._levels, self._costs)
        return True

    def _level(self, seen: Observation) -> float:
        """What is expected of it at the end, also where it is there."""
        most = len(self._model.processes) - 1  # the front is of what is expected, not of luck
        before = replace(seen, tops=seen.tops[:most], also=tuple(e[:most] for e in seen.also))
        return float(self._expected([before])[0][0])

    def worth_beside(self, seen: Observation) -> Worth:
        """What going on with one of those that run is expected to bring beside the others."""
        mean, std = self._expected([seen])
        others = self._levels.copy()
        if (row := self._rows.get(seen.design.known.id)) is not None:
            others[row] = 0.0
        stairs = Staircase.of(others, self._costs)
        gain = stairs.expected_gain(mean, std, np.array([seen.design.known.costs]))
        return self._worths([seen], gain, mean, std)[0]

    def _worths(self, seen: Sequence[Observation], *figures: np.ndarray) -> list[Worth]:
        return [
            Worth(each.design, self._sight.num_epochs - each.epochs, *map(float, told))
            for each, *told in zip(seen, *figures, strict=True)
        ]

    def front(self, number: int) -> list[Design]:
        """Designs that are done and on the front as the model sees it, its largest steps first."""
        best, steps = 0.0, []
        for index in np.argsort([s.design.known.costs[0] for s in self._done], kind="stable"):
            if self._smooth[index] > best:
                steps.append((best - self._smooth[index], int(index)))
                best = self._smooth[index]
        return [self._done[index].design for _, index in sorted(steps)[:number]]
