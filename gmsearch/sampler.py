"""Optuna samplers that propose only what may be trained: within the budget, and never a network
twice. All of this happens within the one ask, so no trial is born dead.

`gated` knows costs beforehand (`strategy`); the others are Optuna's own and regularized evolution,
each held to the budget in the same way, so that a comparison is fair.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from itertools import chain
from threading import Lock
from typing import Any

import numpy as np
from optuna.distributions import BaseDistribution, CategoricalDistribution, IntDistribution
from optuna.samplers import BaseSampler, GPSampler, NSGAIISampler, RandomSampler, TPESampler
from optuna.study import Study, StudyDirection, create_study
from optuna.trial import FrozenTrial, TrialState

from gmsearch.designs import Design, Designs, Known
from gmsearch.outlook import Worth
from gmsearch.pareto import front
from gmsearch.space import Picks
from gmsearch.strategy import Strategy

NUM_PROPOSALS = 8  # of the inner sampler, before a random draw
NUM_DRAWS = 50  # for a design that is new, before others are looked for one by one
TAKEN = "gmsearch:taken"  # of a trial: what it is about to have as parameters, as Optuna stores it
NUM_STARTUP = 10  # random ones, before a model of Optuna's
POPULATION = 50  # the last trainings, among which evolution looks for parents
TOURNAMENT = 10  # of these, drawn for each parent


class WholeSampler(BaseSampler):
    """A sampler that proposes all choices of a design at once."""

    def __init__(self, designs: Designs) -> None:
        self._designs = designs

    def distributions(self) -> dict[str, BaseDistribution]:
        """One categorical parameter for each choice, with all options that it ever had: Optuna
        takes no parameter that changes.
        """
        declared = self._designs.declared or self._designs.options
        return {name: CategoricalDistribution(options) for name, options in declared.items()}

    def infer_relative_search_space(
        self, study: Study, trial: FrozenTrial
    ) -> dict[str, BaseDistribution]:
        return self.distributions()

    def sample_independent(
        self, study: Study, trial: FrozenTrial, name: str, distribution: BaseDistribution
    ) -> Any:
        raise RuntimeError(f"'{name}' is not a choice of this search")


class StrategySampler(WholeSampler):
    """Proposes what a strategy does, which somebody else keeps up to date."""

    def __init__(self, designs: Designs, strategy: Strategy) -> None:
        super().__init__(designs)
        self._strategy = strategy

    def preview(self, study: Study) -> Worth | None:
        """What the next ask proposes; None where nothing is left."""
        return self._strategy.propose()

    def sample_relative(
        self, study: Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        if not search_space:
            return {}
        worth = self._strategy.propose()
        if worth is None:
            raise RuntimeError("nothing that is allowed and new was found")
        return worth.design.picks


class GatedSampler(StrategySampler):
    """The sampler `gated` for any Optuna study of categorical and integer parameters whose costs
    are known before a trial runs.

        sampler = GatedSampler(space, describe, seed=0)
        study = optuna.create_study(sampler=sampler, directions=["maximize", "minimize"])
        study.optimize(objective, n_trials=100)

    The first value of a trial is the one that costs training, and is maximised; it should be about
    0 to 100. `describe` maps parameters to `Known`: an identity, the exact costs as shares of what
    is allowed (one at least), and physical features; or to None where they are not allowed.
    Integers count as ordered choices, each of its values as an option: give a wide range a step. A
    trial that is pruned, fails or has an infinite value counts
    as the worst so far, so that its like is not proposed for ever. Threads and processes that share
    a study get different designs: each writes what it takes into its trial. Where nothing is left
    to propose, the next trial is a RuntimeError; where one in ten thousand settings is allowed, or
    fewer, none may be found, and a trial of one that is (`study.enqueue_trial`) shows the way.
    """

    def __init__(
        self,
        space: Mapping[str, BaseDistribution],
        describe: Callable[[Picks], Known | None],
        *,
        seed: int = 0,
    ) -> None:
        options = {name: _options(name, each) for name, each in space.items()}
        integers = frozenset(n for n, each in space.items() if isinstance(each, IntDistribution))
        designs = Designs(options, partial(_checked, describe), integers)
        super().__init__(designs, Strategy(designs, (1,), seed))
        self._space = dict(space)
        self._seed = seed
        self._of: tuple[Any, int] | None = None  # the study that the strategy knows
        self._seen: dict[int, TrialState] = {}
        self._lock = Lock()  # threads of one `optimize` share a sampler

    def distributions(self) -> dict[str, BaseDistribution]:
        return self._space

    def sample_relative(
        self, study: Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        if study.directions[0] != StudyDirection.MAXIMIZE:
            raise ValueError("the first direction of the study must be to maximize")
        enqueued = trial.system_attrs.get("fixed_params", {})
        fixed = {name: option for name, option in enqueued.items() if name in self._space}
        with self._lock:
            self._turn_to(study)
            taken = self._take_in(study, trial.number)
            while True:
                picks = {**super().sample_relative(study, trial, search_space), **fixed}
                design = self._designs.design(picks)
                if design is not None and design.known.id in taken and fixed:
                    design = self._free(fixed, taken, trial.number) or design
                if design is None or self._designs.still_allowed(picks) != picks:
                    return picks  # what was enqueued is not allowed: the user's own affair
                stored = {
                    name: each.to_internal_repr(design.picks[name])
                    for name, each in self._space.items()
                }
                study._storage.set_trial_system_attr(trial._trial_id, TAKEN, stored)
                taken = self._take_in(study, trial.number)
                is_taken = design.known.id in taken
                self._observe(design, [], "running")
                if not is_taken or fixed:
                    return design.picks

    def _turn_to(self, study: Study) -> None:
        """Forgets what it knows of another study."""
        asked = study._storage, study._study_id
        if self._of is not None and asked != self._of:
            self._strategy = Strategy(self._designs, (1,), self._seed)
            self._seen = {}
        self._of = asked

    def _free(self, fixed: Picks, taken: set[str], number: int) -> Design | None:
        """A random design that has what was enqueued, and that no trial has; None where none is
        left, or found.
        """
        rng = np.random.default_rng([self._seed, number])
        drawn = ({**self._designs.any_picks(rng), **fixed} for _ in range(NUM_DRAWS))
        found = chain(map(self._designs.design, drawn), self._designs.listed())
        return next(
            (
                d
                for d in found
                if d and d.known.id not in taken and fixed.items() <= d.picks.items()
            ),
            None,
        )

    def _take_in(self, study: Study, own: int) -> set[str]:
        """Learns what became of the other trials; which designs these have, or are about to."""
        taken = set()
        for other in study.get_trials(deepcopy=False):
            picks = self._picks_of(other)
            if other.number == own or picks is None:
                continue
            design = self._designs.design(picks)
            if design is None:
                continue
            taken.add(design.known.id)
            if self._seen.get(other.number) != other.state:
                self._seen[other.number] = other.state
                tops = other.values[:1] if other.state == TrialState.COMPLETE else []
                is_known = all(map(math.isfinite, tops))
                state = _STATES.get(other.state, "failed") if is_known else "failed"
                self._observe(design, tops if is_known else [], state)
        return taken

    def _picks_of(self, trial: FrozenTrial) -> Picks | None:
        """None for a trial of another space, or that was not yet asked for."""
        stored = trial.system_attrs.get(TAKEN, {})
        if set(stored) == set(self._space):
            return {name: each.to_external_repr(stored[name]) for name, each in self._space.items()}
        return trial.params if set(trial.params) == set(self._space) else None

    def _observe(self, design: Design, tops: Sequence[float], state: str) -> None:
        """Takes in what became of a design; a result stays while it is tried again."""
        before = self._strategy.known.get(design.known.id)
        if before is None or state == "complete" or before.state != "complete":
            self._strategy.observe(design, tops, state)


def _checked(describe: Callable[[Picks], Known | None], picks: Picks) -> Known | None:
    known = describe(picks)
    if known is not None and not known.costs:
        raise ValueError(f"describe({picks!r}) has no costs; it needs one, as a share of 1")
    return known


_STATES = {
    TrialState.COMPLETE: "complete",
    TrialState.RUNNING: "running",
    TrialState.WAITING: "running",
}


def _options(name: str, distribution: BaseDistribution) -> Sequence[Any]:
    """All options of a parameter. Raises ValueError for one of real numbers."""
    if isinstance(distribution, CategoricalDistribution):
        return distribution.choices
    if isinstance(distribution, IntDistribution):
        return range(distribution.low, distribution.high + 1, distribution.step)
    raise ValueError(f"parameter {name!r} is neither categorical nor an integer")


class EvolutionSampler(WholeSampler):
    """Regularized evolution (Real et al. 2019, arXiv 1802.01548) of several objectives: a neighbour
    of the best of some recent trainings, of several that none beats a random one.
    """

    def __init__(self, designs: Designs, seed: int) -> None:
        super().__init__(designs)
        self._rng = np.random.default_rng(seed)

    def sample_relative(
        self, study: Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        complete = study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
        recent = [other for other in complete if other.params][-POPULATION:]
        if len(recent) < TOURNAMENT:
            return {}
        drawn = self._rng.choice(len(recent), TOURNAMENT, replace=False)
        contestants = [recent[index] for index in drawn]
        maximize = [direction == StudyDirection.MAXIMIZE for direction in study.directions]
        best = front([other.values for other in contestants], maximize)
        parent = self._designs.design(contestants[int(self._rng.choice(best))].params)
        child = None if parent is None else self._designs.mutate(parent, self._rng, most=1)
        return {} if child is None else child.picks


class InItsView(BaseSampler):
    """A sampler of Optuna's in a study of its own, which has the trials that it is `told` of. Until
    NUM_STARTUP of these are complete it proposes nothing: its own random ones know no budget.
    """

    def __init__(
        self, inner: BaseSampler, told: Callable[[Sequence[FrozenTrial]], list[FrozenTrial]]
    ) -> None:
        self._inner = inner
        self._told = told

    def infer_relative_search_space(
        self, study: Study, trial: FrozenTrial
    ) -> dict[str, BaseDistribution]:
        return {}

    def sample_relative(
        self, study: Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        trials = [t for t in study.get_trials(deepcopy=False) if set(t.params) == set(search_space)]
        told = self._told(trials)
        if sum(trial.state == TrialState.COMPLETE for trial in told) < NUM_STARTUP:
            return {}
        view = create_study(directions=study.directions, sampler=self._inner)
        view.add_trials(told)
        return view.ask(search_space).params

    def sample_independent(
        self, study: Study, trial: FrozenTrial, name: str, distribution: BaseDistribution
    ) -> Any:
        raise RuntimeError("it proposes all parameters at once")


def _gp(designs: Designs, seed: int) -> BaseSampler:
    """Optuna's GP takes no trials that have other parameters, as the baselines have none."""
    states = (TrialState.COMPLETE, TrialState.RUNNING)
    inner = GPSampler(seed=seed, n_startup_trials=NUM_STARTUP)
    return InItsView(inner, lambda trials: [trial for trial in trials if trial.state in states])


_INNER: dict[str, Callable[[Designs, int], BaseSampler]] = {
    "random": lambda designs, seed: RandomSampler(seed),
    "tpe": lambda designs, seed: TPESampler(seed=seed, multivariate=True),
    "nsga2": lambda designs, seed: NSGAIISampler(seed=seed, population_size=20),
    "gp": _gp,
    "evolution": EvolutionSampler,
}


class BudgetSampler(WholeSampler):
    """Wraps the sampler `name` for studies whose trials carry the user attribute `id`, also running
    ones.

    A proposal over the budget is taken into it; where a proposal is a repeat or not allowed, it is
    asked again, and then the nearest design that is new is taken, or a random one where there are
    too many to list. What is proposed depends on the seed and the stored trials alone, so a resumed
    search goes on as it would have.
    """

    def __init__(self, name: str, designs: Designs, num_epochs: int, seed: int) -> None:
        super().__init__(designs)
        self._name = name
        self._num_epochs = num_epochs
        self._seed = seed

    def preview(self, study: Study) -> Worth | None:
        """Something as good as what the next ask proposes, of a gain that is not known and so comes
        first; None where nothing is left.
        """
        design = self.fresh(study)
        return design and Worth(design, self._num_epochs, math.inf, math.nan, math.nan)

    def fresh(self, study: Study) -> Design | None:
        """A random design that may be trained, or None where none is left."""
        seen = _ids(study)
        rng = np.random.default_rng([self._seed, len(seen)])
        drawn = []
        for _ in range(NUM_DRAWS):
            design = self._designs.draw(rng)
            if design is not None and design.known.id not in seen:
                return design
            drawn += [] if design is None else [design]
        others = self._designs.others(drawn)
        return next((design for design in others if design.known.id not in seen), None)

    def sample_relative(
        self, study: Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        """Picks of a network within the budget that is not in the study.

        Raises RuntimeError where none is left; ask `preview` first.
        """
        if not search_space:
            return {}
        seen = _ids(study)
        rng = np.random.default_rng([self._seed, trial.number])
        inner = _INNER[self._name](self._designs, self._seed + trial.number)
        wanted: Picks = {}
        for _ in range(NUM_PROPOSALS):
            proposal = inner.sample_relative(study, trial, search_space)
            if not proposal:  # as at the start, before there is anything to learn from
                break
            # NSGA-II leaves out what it mutates.
            wanted = {**self._designs.any_picks(rng), **self._designs.still_allowed(proposal)}
            design = self._designs.completed(wanted, rng)
            if design is not None and design.known.id not in seen:
                return design.picks
        found = self._nearest(wanted, seen) or self.fresh(study)
        if found is None:
            raise RuntimeError("no network within the budget is left")
        return found.picks

    def _nearest(self, picks: Picks, seen: set[Any]) -> Design | None:
        """The design, not seen yet, that differs in the fewest choices; None without picks, or
        where there are too many to list.
        """
        new = (d for d in self._designs.listed() if d.known.id not in seen) if picks else iter(())
        return min(new, key=lambda d: sum(d.picks[n] != picks[n] for n in picks), default=None)


def _ids(study: Study) -> set[Any]:
    """The networks that a study has met."""
    trials = study.get_trials(deepcopy=False)
    return {trial.user_attrs["id"] for trial in trials if "id" in trial.user_attrs}
