"""How a search that knows costs beforehand spends its epochs.

Costs are exact before a network is trained, and only accuracy is modelled (`surrogate`). A network
is worth what it is expected to add to the front (`gain`), for each epoch that it still needs. This
one measure chooses new networks, decides at each rung which trainings go on, and takes up stopped
ones again. A large network gets no favour: what it adds counts from its own cost on.

There may be several accuracies, such as top1 and that on the high frequencies. Each has a model and
a front of its own, against the costs, and a network is worth the sum of what it is expected to add
to each of these fronts. That is not the hypervolume of all objectives together: a network between
two accuracies, best at neither for its cost, is worth nothing by it.

While there are few results, and few trainings run, the model is given each result at once. Later
it is given several together; with one worker after numbers of them that are fixed, so that a
resumed search decides as one that was never killed. Until then it learns nothing of others from new
results, but the front and the verdicts count what each training has reached; and new networks are
from candidates that are looked for once for each model.
"""

import math
from collections.abc import Iterable, Sequence
from functools import cached_property

import numpy as np

from gmsearch.candidates import Candidates
from gmsearch.designs import Design, Designs
from gmsearch.outlook import Observation, Outlook, Outlooks, Worth
from gmsearch.surrogate import Chain, Encoding, Points, Surrogate

NUM_SPREAD = 5  # designs with a first result, before the model chooses; they spread over the costs
NUM_COMPLETE = 3  # trainings that go on from a rung, before any is stopped at it
GROWTH = 1.125  # hyperparameters are fitted again when there are so many more results
EVERY = 300  # results, below which the model is given each at once
SHARE = 64  # beyond, it is given new ones when there is one for so many that it has
CROWD = 16  # trainings that run, for each of which it waits for one result more
LEAST_SHARE = 4  # but never longer than until there is one for so many
MOST_STOPPED = 300  # stopped trainings, the last that were begun: any may be taken up again
MOST_DEVIATIONS = 10.0  # of a feature from its mean, for a design that is far from all drawn


class Strategy:
    """Proposes designs, and says what trainings are worth; both depend on the seed and on what it
    has observed, in order.

    `rungs` are the epochs after which a training may be stopped, the last being its end. Designs
    without a row, such as networks from outside of the space, are on the front and not modelled.
    """

    def __init__(
        self, designs: Designs, rungs: Sequence[int], seed: int, num_accuracies: int = 1
    ) -> None:
        self.known: dict[str, Observation] = {}
        self.rungs = tuple(rungs)
        self._candidates = Candidates(designs, seed)
        self._seed = seed
        self._encoding = Encoding(designs.sizes, designs.is_ordered)
        self._surrogates = [
            Surrogate(self._encoding, len(self.rungs)) for _ in range(num_accuracies)
        ]
        self._num_results = self._num_fitted = 0  # what hyperparameters may be from, and are
        self._to_fit: list[Observation] = []  # what they are next from
        self._num_running = self._num_given = 0  # trainings, and results that the model has
        self._given: dict[str, Observation] | None = None  # what it is from; None for all, always

    @property
    def num_epochs(self) -> int:
        """Of a training to its end."""
        return self.rungs[-1]

    def may_stop(self, design_id: str) -> bool:
        """Whether enough trainings went on from where this one stands, and so will tell what early
        epochs are worth. Of many workers that begin together only the first ones need to.
        """
        own = self.known[design_id]
        others = (s for s in self.known.values() if s is not own and s.design.row)
        went_on = [s for s in others if s.state in ("running", "complete")]
        return sum(len(seen.tops) >= len(own.tops) for seen in went_on) >= NUM_COMPLETE

    def observe(
        self,
        design: Design,
        tops: Sequence[float],
        state: str,
        also: Sequence[Sequence[float]] = (),
    ) -> None:
        """Takes in a training as it stands: top1 in per cent after each epoch so far, and the other
        accuracies alike.
        """
        told = (tops, *also)

        def at(epochs: int, state: str) -> Observation:
            reached = [rung for rung in self.rungs if rung <= epochs]
            at_rungs, *others = (tuple(each[rung - 1] for rung in reached) for each in told)
            return Observation(design, at_rungs, epochs, state, tuple(others))

        before = self.known.get(design.known.id, Observation(design))
        # One by one, as a search hears of them that is not resumed.
        for rung in self.rungs[len(before.tops) :]:
            if rung <= len(tops):
                self._take_in(at(rung, "running"))
        self._take_in(at(len(tops), state))

    def _take_in(self, now: Observation) -> None:
        """Takes in what is at most one result more, and gives it to the model if it is time."""
        before = self.known.get(now.design.known.id, Observation(now.design))
        self.known[now.design.known.id] = now
        self._num_results += now.num_results - before.num_results
        self._num_running += (now.state == "running") - (before.state == "running")
        is_each = self._num_results < EVERY and self._num_running < 2 * CROWD
        is_failure = "failed" in (now.state, before.state)
        if is_each or is_failure or self._given is None or self._is_due:
            given = None if is_each else dict(self.known)
            if now.tops != before.tops or is_failure or given is not self._given:
                self._forget("_models")
            self._given, self._num_given = given, self._num_results
            # Whoever asks, and when, has no influence on what they are from.
            if (fit := _last_fit(self._num_results)) > self._num_fitted:
                self._to_fit, self._num_fitted = list(self.known.values()), fit
            self._forget("_present", "_proposal")
        elif (now.tops, now.state) != (before.tops, before.state):
            if "_present" in self.__dict__ and not self._present.take_in(now, self._as_given(now)):
                self._forget("_present")
            self._forget("_proposal")

    @property
    def _is_due(self) -> bool:
        """Whether there are as many new results as are worth a new model."""
        crowd = min(self._num_running // CROWD, self._num_given // LEAST_SHARE)
        wait = max(1, self._num_given // SHARE, crowd)
        return self._num_results - self._num_given >= wait

    def _forget(self, *names: str) -> None:
        """Leaves to be made anew what hangs on what is known."""
        for name in names:
            self.__dict__.pop(name, None)

    def _as_given(self, seen: Observation) -> Observation:
        """A training as it was when the model was given results."""
        assert self._given is not None
        return self._given.get(seen.design.known.id, Observation(seen.design))

    def propose(self) -> Worth | None:
        """The new design that is most worth its epochs; None where all are known. It stays the same
        until something is observed that changes the outlook.
        """
        return self._proposal

    @cached_property
    def _proposal(self) -> Worth | None:
        num_told = sum(bool(seen.design.row and seen.tops) for seen in self.known.values())
        is_learned = num_told >= NUM_SPREAD
        if is_learned and self._given is not None:
            if (best := self._present.best(self.known)) is not None:
                return best
        fresh = self._candidates.fresh(self.known)
        if not fresh:
            return None
        rng = np.random.default_rng([self._seed, len(self.known)])
        if not is_learned:
            met = (seen.design for seen in self.known.values())
            design = self._candidates.spread(fresh, met, rng)
            return Worth(design, self.num_epochs, 0.0, float("nan"), float("nan"))
        scored = self._candidates.scored(self._present, fresh, self.known, rng)
        return max(scored, key=lambda worth: worth.gain)

    def worth(self, design_id: str) -> Worth:
        """Of going on with a training that runs, beside the others."""
        seen = self.known[design_id]
        if self._given is not None:
            return self._present.worth_beside(seen)
        return self._outlook(leave_out=seen).worths([seen])[0]

    def stopped(self, most_epochs: float = np.inf) -> Worth | None:
        """The stopped training that is most worth going on with, of those that need at most so many
        epochs more; None where there is none. What lies outside of a narrowed space stays stopped.
        """
        left = self._resumable(most_epochs)
        return max(self._present.worths(left), key=lambda worth: worth.rate) if left else None

    def _resumable(self, most_epochs: float = np.inf) -> list[Observation]:
        """The stopped trainings that may be taken up again, those that were begun last."""
        return [
            seen
            for seen in self.known.values()
            if seen.state == "stopped"
            and self.num_epochs - seen.epochs <= most_epochs
            and self._candidates.is_of_space(seen.design)
        ][-MOST_STOPPED:]

    @cached_property
    def _present(self) -> Outlooks:
        """The outlook, until something is observed that changes it. Where the model waits for more
        results, what may be asked for until then is looked at once, and what begins is added.
        """
        outlook = self._outlook()
        if self._given is None:
            return outlook
        rng = np.random.default_rng([self._seed, self._num_given, 1])
        fresh = self._candidates.fresh(self._given)
        scored = self._candidates.scored(outlook, fresh, self._given, rng)
        known = self.known.values()
        since = [(now, given) for now in known if now != (given := self._as_given(now))]
        running = [seen for seen in known if seen.state == "running" and seen.design.row]
        others = (*(now for now, _ in since if now.design.row), *running, *self._resumable())
        outlook.watch([worth.design for worth in scored], [seen.design for seen in others])
        for now, given in since:
            outlook.take_in(now, given)
        return outlook

    def _outlook(self, leave_out: Observation | None = None) -> Outlooks:
        """What is expected, given all that the model has. What runs counts as if it came out as the
        model expects, so that workers do not do the same beside each other.
        """
        known = self.known if self._given is None else self._given
        seen = [s for s in known.values() if s is not leave_out]
        done = [s for s in seen if s.state == "complete"]
        running = [s for s in seen if s.state == "running" and s.design.row]
        return Outlooks(
            [
                Outlook(self, model, accuracy, done, running)
                for accuracy, model in enumerate(self._models)
            ]
        )

    @cached_property
    def _models(self) -> list[Chain]:
        """What all results tell of each accuracy; hyperparameters are fitted anew as these grow."""
        to_fit, self._to_fit = self._to_fit, []
        models = []
        for accuracy, surrogate in enumerate(self._surrogates):
            if to_fit:
                surrogate.fit(*self._learned(to_fit, accuracy))
            given = self.known if self._given is None else self._given
            models.append(surrogate.given(*self._learned(given.values(), accuracy)))
        return models

    def _learned(self, known: Iterable[Observation], accuracy: int) -> tuple[Points, np.ndarray]:
        """Designs that tell something, and one of their accuracies at each rung."""
        telling = [s for s in known if s.num_results]
        seen = [s for s in telling if s.state != "failed"]
        tops = self.tops_of(seen, accuracy)
        if seen:  # what failed is as bad as the worst, so that its like is not proposed for ever
            failed = [s for s in telling if s.state == "failed"]
            bad = np.full((len(failed), len(self.rungs)), np.nan)
            bad[:, 0] = tops[:, 0].min()
            seen, tops = seen + failed, np.concatenate([tops, bad])
        return self.points_of(seen), tops

    @cached_property
    def _feature_scale(self) -> tuple[np.ndarray, np.ndarray]:
        """Mean and deviation of the features over what could ever be trained: what is known may
        lie outside of a space that was narrowed.
        """
        drawn = self._candidates.undiminished()
        designs = drawn or [seen.design for seen in self.known.values()]
        features = np.array([design.known.features for design in designs])
        deviation = features.std(axis=0)
        least = 1e-9 * np.abs(features).max(axis=0)
        return features.mean(axis=0), np.where(deviation > least, deviation, 1.0)

    def points_of(self, seen: Sequence[Observation]) -> Points:
        """Designs as the model sees them; the first feature counts squared too."""
        num_choices, num_features = len(self._encoding.sizes), len(self._feature_scale[0])
        rows = np.array([s.design.row for s in seen], int).reshape(len(seen), num_choices)
        features = np.array([s.design.known.features for s in seen], float)
        mean, deviation = self._feature_scale
        scaled = (features.reshape(len(seen), num_features) - mean) / deviation
        scaled = scaled.clip(-MOST_DEVIATIONS, MOST_DEVIATIONS)
        return Points(
            self._encoding.bits(rows), np.concatenate([scaled, scaled[:, :1] ** 2], axis=1)
        )

    def tops_of(self, seen: Sequence[Observation], accuracy: int) -> np.ndarray:
        """(N, rungs) of an accuracy, NaN beyond the last rung that was reached."""
        tops = np.full((len(seen), len(self.rungs)), np.nan)
        for row, each in zip(tops, seen, strict=True):
            reached = each.at_rungs(accuracy)
            row[: len(reached)] = reached
        return tops


def _last_fit(num_results: int) -> int:
    """After how many results, of so many, hyperparameters are fitted last."""
    last, following = 0, 1
    while following <= num_results:
        last, following = following, max(following + 1, math.ceil(GROWTH * following))
    return last
