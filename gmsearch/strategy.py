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
it is given several together: with few workers after numbers of them that are fixed, so that a
resumed search decides as one that was never killed. Until then, what began since counts as running,
whatever has become of it; a verdict on a training always counts what that one has reached. New
networks are from candidates that are looked for once for each model.
"""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import islice, zip_longest

import numpy as np

from gmsearch.designs import Design, Designs
from gmsearch.gain import Staircase
from gmsearch.surrogate import Chain, Encoding, Points, Surrogate, Watched

NUM_SPREAD = 5  # designs with a first result, before the model chooses; they spread over the costs
NUM_COMPLETE = 3  # trainings that go on from a rung, before any is stopped at it
GROWTH = 1.125  # hyperparameters are fitted again when there are so many more results
EVERY = 300  # results, below which the model is given each at once
SHARE = 64  # beyond, it is given new ones when there is one for so many that it has
CROWD = 16  # trainings that run, for each of which it waits for one result more
LEAST_SHARE = 4  # but never longer than until there is one for so many
POOL = 1500  # designs that are drawn at once
RENEWAL = 1000  # designs that are known, after which others are drawn
NUM_SCORED = 400  # of these, drawn for each proposal
NUM_PARENTS = 20
NUM_CHILDREN = 5  # of each parent, in each round
NUM_ROUNDS = 2  # of children, the second of the best of the first
MOST_STOPPED = 300  # stopped trainings, the last that were begun: any may be taken up again
MOST_DEVIATIONS = 10.0  # of a feature from its mean, for a design that is far from all drawn
LEAST_COST = 1e-6  # of what is allowed, below which costs are alike
NUM_NEAR = 12  # designs nearest to a cost, among which the spread start draws


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
        self._designs = designs
        self._seed = seed
        self._encoding = Encoding(designs.sizes, designs.is_ordered)
        self._surrogates = [
            Surrogate(self._encoding, len(self.rungs)) for _ in range(num_accuracies)
        ]
        self._pools: dict[int, list[Design]] = {}
        self._num_results = self._num_fitted = 0  # what hyperparameters may be from, and are
        self._to_fit: list[Observation] = []  # what they are next from
        self._num_given = 0  # results that the model is given
        self._given: dict[str, Observation] | None = None  # these; None where it has all there are
        self._num_running = 0
        self._candidates: list[Design] = []  # what is proposed from until it is given more

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
        reached = [rung for rung in self.rungs if rung <= len(tops)]
        at_rungs, *others = (tuple(each[rung - 1] for rung in reached) for each in (tops, *also))
        before = self.known.get(design.known.id, Observation(design))
        given_before = self._as_given(before)
        now = Observation(design, at_rungs, len(tops), state, tuple(others))
        self.known[design.known.id] = now
        self._num_results += now.num_results - before.num_results
        is_failure = "failed" in (state, before.state)
        model = _last_model(self._num_results)
        self._num_running += (state == "running") - (before.state == "running")
        is_each = self._num_results < EVERY and self._num_running < 2 * CROWD
        is_renewed = is_failure or (model > self._num_given and self._is_due)
        if is_each or is_renewed or self._given is None:
            if is_renewed or not is_each or self._given is not None or at_rungs != before.tops:
                self._forget("_models")
            is_whole = is_failure or self._num_running >= CROWD
            self._given = None if is_each else self._as_of(model, now, is_whole)
            self._num_given = model
            # Whoever asks, and when, has no influence on what they are from; nor has a session that
            # hears of whole trainings at once.
            if (fit := _last_fit(model)) > self._num_fitted:
                self._to_fit, self._num_fitted = list(self._as_of(fit, now).values()), fit
            self._forget("_present", "_stopped", "_proposal")
        elif self._as_given(now) != given_before:
            is_ready = "_present" in self.__dict__
            if is_ready and not self._present.begin(self._as_given(now)):
                self._forget("_present")
            self._forget("_stopped", "_proposal")

    @property
    def _is_due(self) -> bool:
        """Whether there are as many new results as is worth a new model, of many that run."""
        most = max(1, self._num_given // LEAST_SHARE)
        return self._num_results - self._num_given >= min(self._num_running // CROWD, most)

    def _forget(self, *names: str) -> None:
        """Leaves to be made anew what hangs on what is known."""
        for name in names:
            self.__dict__.pop(name, None)

    def _as_of(
        self, num_results: int, now: Observation, whole: bool = False
    ) -> dict[str, Observation]:
        """What was known with so many results, the last of them being some that `now` has; or all
        that is known, the `whole` of it.
        """
        known = dict(self.known)
        if now.num_results and not whole:
            left = max(0, len(now.tops) - (self._num_results - num_results))
            also = tuple(each[:left] for each in now.also)
            cut = replace(now, tops=now.tops[:left], also=also, state="running")
            known[now.design.known.id] = cut
        return known

    def _as_given(self, seen: Observation) -> Observation:
        """A training as it was when the model was given results; those that began or were taken up
        since then run, whatever has become of them.
        """
        if self._given is None:
            return seen
        given = self._given.get(seen.design.known.id)
        if given is None:
            is_new = seen.state == "new"
            return seen if is_new else Observation(seen.design, state="running")
        went_on = seen.state == "running" or seen.epochs > given.epochs
        return replace(given, state="running") if given.state == "stopped" and went_on else given

    def propose(self) -> Worth | None:
        """The new design that is most worth its epochs; None where all are known. It stays the same
        until something is observed that changes the outlook.
        """
        return self._proposal

    @cached_property
    def _proposal(self) -> Worth | None:
        rng = np.random.default_rng([self._seed, len(self.known)])
        fresh = self._fresh()
        if not fresh:
            return None
        if sum(bool(seen.design.row and seen.tops) for seen in self.known.values()) < NUM_SPREAD:
            design = self._spread(fresh, rng)
            return Worth(design, self.num_epochs, 0.0, float("nan"), float("nan"))
        if self._given is not None:
            outlook = self._present
            left = [Observation(d) for d in self._candidates if d.known.id not in self.known]
            if left:
                return outlook.best(left)
        scored = self._scored(self._present, fresh, self.known, rng)
        return max(scored, key=lambda worth: worth.gain)

    def _fresh(self) -> list[Design]:
        """Designs to choose from, none of them known."""
        pool = self._pool
        fresh = [design for design in pool if design.known.id not in self.known]
        if len(fresh) < NUM_SCORED:
            known = [s.design for s in self.known.values() if self._is_of_space(s.design)]
            met = {design.known.id for design in fresh} | set(self.known)
            others = (d for d in self._designs.others(pool + known) if d.known.id not in met)
            fresh += islice(others, NUM_SCORED - len(fresh))
        return fresh

    def _is_of_space(self, design: Design) -> bool:
        """Whether it is modelled, and not outside of a space that was narrowed."""
        is_whole = self._designs.declared is None
        return bool(design.row) and (
            is_whole or self._designs.still_allowed(design.picks) == design.picks
        )

    def worth(self, design_id: str) -> Worth:
        """Of going on with a training that runs, beside the others."""
        seen = self.known[design_id]
        if self._given is not None:
            return self._present.worth_beside(seen, self._as_given(seen))
        return self._outlook(leave_out=seen).worths([seen])[0]

    def stopped(self, most_epochs: float = np.inf) -> Worth | None:
        """The stopped training that is most worth going on with, of those that need at most so many
        epochs more; None where there is none. What lies outside of a narrowed space stays stopped.
        """
        left = [
            seen
            for seen in self.known.values()
            if seen.state == "stopped"
            and self.num_epochs - seen.epochs <= most_epochs
            and self._is_of_space(seen.design)
        ]
        if not left:
            return None
        left = left[-MOST_STOPPED:]
        missing = [seen for seen in left if seen.design.known.id not in self._stopped]
        worths = self._present.worths(missing)
        self._stopped.update((worth.design.known.id, worth) for worth in worths)
        return max((self._stopped[s.design.known.id] for s in left), key=lambda worth: worth.rate)

    @cached_property
    def _stopped(self) -> dict[str, Worth]:
        """What stopped trainings are worth at present, of those that were asked for."""
        return {}

    def _spread(self, fresh: Sequence[Design], rng: np.random.Generator) -> Design:
        """A design in the widest gap between the costs that are taken, on a logarithmic scale."""
        costs = _log([design.known.costs[0] for design in fresh])
        ends = [costs.min() - 1e-9, costs.max() + 1e-9]
        taken = _log([seen.design.known.costs[0] for seen in self.known.values()])
        edges = np.unique(np.clip([*ends, *taken], *ends))
        widest = int(np.argmax(np.diff(edges)))
        middle = (edges[widest] + edges[widest + 1]) / 2
        nearest = np.argsort(abs(costs - middle), kind="stable")[:NUM_NEAR]
        return fresh[int(rng.choice(nearest))]

    def _scored(
        self,
        outlook: "Outlooks",
        fresh: Sequence[Design],
        known: Iterable[str],
        rng: np.random.Generator,
    ) -> list[Worth]:
        """Some designs of the pool, neighbours of the front and neighbours of the best so far."""
        scored = rng.choice(len(fresh), min(NUM_SCORED, len(fresh)), replace=False)
        worths = outlook.worths([Observation(fresh[i]) for i in sorted(scored.tolist())])
        parents = outlook.front(NUM_PARENTS // 2)
        for _ in range(NUM_ROUNDS):
            worths.sort(key=lambda worth: -worth.gain)
            parents = parents + [worth.design for worth in worths[: NUM_PARENTS - len(parents)]]
            met = {*known, *(worth.design.known.id for worth in worths)}
            born = [self._designs.mutate(p, rng) for p in parents for _ in range(NUM_CHILDREN)]
            children = {c.known.id: c for c in born if c is not None and c.known.id not in met}
            worths += outlook.worths([Observation(child) for child in children.values()])
            parents = []
        return worths

    @cached_property
    def _present(self) -> "Outlooks":
        """The outlook, until something is observed that changes it. Where the model waits for more
        results, what may be asked for until then is looked at once, and what begins is added.
        """
        outlook = self._outlook()
        if self._given is None:
            return outlook
        rng = np.random.default_rng([self._seed, self._num_given, 1])
        fresh = [d for d in self._pool_at(len(self._given)) if d.known.id not in self._given]
        scored = self._scored(outlook, fresh, self._given, rng)
        self._candidates = [worth.design for worth in scored]
        modelled = [seen for seen in self.known.values() if seen.design.row]
        given = [self._as_given(seen) for seen in modelled]
        begun = [s for s in given if s != self._given.get(s.design.known.id)]
        running = [s for s in given if s.state == "running"]
        stopped = [s for s in modelled if s.state == "stopped"][-MOST_STOPPED:]
        watched = [*self._candidates, *(s.design for s in (*begun, *running, *stopped))]
        outlook.watch({design.known.id: design for design in watched}.values())
        for then in begun:
            outlook.begin(then)
        return outlook

    def _outlook(self, leave_out: Observation | None = None) -> "Outlooks":
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

    @property
    def _pool(self) -> list[Design]:
        """Designs to choose from; fewer where the space has fewer."""
        return self._pool_at(len(self.known))

    def _pool_at(self, num_known: int) -> list[Design]:
        age = num_known // RENEWAL
        if age not in self._pools:
            self._pools = {age: _drawn(self._designs, np.random.default_rng([self._seed, age]))}
        return self._pools[age]

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
        is_whole = self._designs.declared is None
        rng = np.random.default_rng([self._seed, 0])
        drawn = self._pool_at(0) if is_whole else _drawn(self._designs.undiminished, rng)
        designs = drawn or [seen.design for seen in self.known.values()]
        features = np.array([design.known.features for design in designs])
        deviation = features.std(axis=0)
        return features.mean(axis=0), np.where(deviation > 1e-9, deviation, 1.0)

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


def _last_model(num_results: int) -> int:
    """How many results, of so many, the model has been given."""
    last = min(num_results, EVERY)
    while (following := last + last // SHARE) <= num_results and last >= EVERY:
        last = following
    return last


def _drawn(designs: Designs, rng: np.random.Generator) -> list[Design]:
    """Different designs of as many draws as make a pool; where few are allowed, others too."""
    drawn = (designs.draw(rng) for _ in range(POOL))
    found = {design.known.id: design for design in drawn if design is not None}
    if len(found) < NUM_SCORED:
        others = islice(designs.others(list(found.values())), NUM_SCORED)
        found |= {design.known.id: design for design in others}
    return list(found.values())


def _log(costs: Sequence[float]) -> np.ndarray:
    """Of shares of what is allowed; a cost of nothing is as small as can be told."""
    return np.log(np.maximum(costs, LEAST_COST))


class Outlooks:
    """What designs are expected to add to the fronts of all accuracies."""

    def __init__(self, parts: "Sequence[Outlook]") -> None:
        self._parts = parts

    def worths(self, seen: Sequence[Observation]) -> list[Worth]:
        """What going on with each is expected to bring, whatever became of the others; mean and
        deviation are of top1.
        """
        if not seen:
            return []
        return _added_up([part.worths(seen) for part in self._parts])

    def best(self, seen: Sequence[Observation]) -> Worth:
        """The one of which most is expected."""
        gains = sum(part.figures(seen)[0] for part in self._parts)
        return self.worths([seen[int(np.argmax(gains))]])[0]

    def watch(self, designs: Iterable[Design]) -> None:
        """Has ready what is expected of some designs, also when more begin."""
        watched = list(designs)
        for part in self._parts:
            part.watch(watched)

    def begin(self, seen: Observation) -> bool:
        """Counts a design as running from now on; False where it is not watched."""
        return all([part.begin(seen) for part in self._parts])

    def worth_beside(self, seen: Observation, given: Observation) -> Worth:
        """What going on with one of those that run is expected to bring beside the others; `given`
        is what the outlook has of it.
        """
        [worth] = _added_up([[part.worth_beside(seen, given)] for part in self._parts])
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
        strategy: Strategy,
        model: Chain,
        accuracy: int,
        done: Sequence[Observation],
        running: Sequence[Observation],
    ) -> None:
        self._strategy = strategy
        self._accuracy = accuracy
        points, tops = strategy.points_of(running), strategy.tops_of(running, accuracy)
        modelled = [seen for seen in done if seen.design.row]
        given = [seen for seen in done if not seen.design.row]
        at_last = strategy.tops_of(modelled, accuracy)
        at_last[:, -1] = np.nan  # the front is of what is expected, not of lucky results
        smooth, _ = model.predict(strategy.points_of(modelled), at_last)
        expected, _ = model.predict(points, tops)
        self._model = model.believing(points, tops)
        self._watched: Watched | None = None
        self._places: dict[str, int] = {}  # of designs among those that are watched
        self._done = modelled
        self._smooth = smooth
        levels = np.concatenate([smooth, expected, [seen.at_rungs(accuracy)[-1] for seen in given]])
        costs = [seen.design.known.costs for seen in (*modelled, *running, *given)]
        self._ids = [seen.design.known.id for seen in (*modelled, *running, *given)]
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

    def _expected(
        self, seen: Sequence[Observation], believed: np.ndarray | None = None
    ) -> tuple[np.ndarray, np.ndarray]:
        """Mean and deviation at the end; where they are `believed`, that is left out."""
        tops = self._strategy.tops_of(seen, self._accuracy)
        places = np.array([self._places.get(each.design.known.id, -1) for each in seen])
        if self._watched is None or (places < 0).any():
            return self._model.predict(self._strategy.points_of(seen), tops)
        return self._watched.predict(places, tops, believed)

    def watch(self, designs: Sequence[Design]) -> None:
        """Has ready what is expected of some designs, also when more begin."""
        points = self._strategy.points_of([Observation(design) for design in designs])
        self._watched = Watched(self._model, points)
        self._places = {design.known.id: place for place, design in enumerate(designs)}

    def begin(self, seen: Observation) -> bool:
        """Counts a design as running from now on; False where it is not watched."""
        place = self._places.get(seen.design.known.id)
        if self._watched is None or (place is None and seen.design.row):
            return False
        if place is None:
            return True
        level, _ = self._expected([seen])
        self._watched.believe(place, np.isnan(self._strategy.tops_of([seen], self._accuracy)[0]))
        self._ids.append(seen.design.known.id)
        self._levels = np.append(self._levels, level)
        self._costs = np.concatenate([self._costs, [seen.design.known.costs]])
        self._staircase = Staircase.of(self._levels, self._costs)
        return True

    def worth_beside(self, seen: Observation, given: Observation) -> Worth:
        """What going on with one of those that run is expected to bring beside the others."""
        if given.state != "running" or seen.design.known.id not in self._places:
            return self.worths([seen])[0]
        believed = np.isnan(self._strategy.tops_of([given], self._accuracy))
        mean, std = self._expected([seen], believed)
        own = self._ids.index(seen.design.known.id)
        levels, costs = np.delete(self._levels, own), np.delete(self._costs, own, axis=0)
        stairs = Staircase.of(levels, costs)
        gain = stairs.expected_gain(mean, std, np.array([seen.design.known.costs]))
        return self._worths([seen], gain, mean, std)[0]

    def _worths(self, seen: Sequence[Observation], *figures: np.ndarray) -> list[Worth]:
        return [
            Worth(each.design, self._strategy.num_epochs - each.epochs, *map(float, told))
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
