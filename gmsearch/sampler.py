"""Optuna samplers that propose only what may be trained: within the budget, and never a network
twice. All of this happens within the one ask, so no trial is born dead.

`gated` knows costs beforehand (`strategy`); the others are Optuna's own and regularized evolution,
each held to the budget in the same way, so that a comparison is fair.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from optuna.distributions import BaseDistribution, CategoricalDistribution
from optuna.samplers import BaseSampler, GPSampler, NSGAIISampler, RandomSampler, TPESampler
from optuna.study import Study, StudyDirection, create_study
from optuna.trial import FrozenTrial, TrialState

from gmsearch.designs import Design, Designs
from gmsearch.outlook import Worth
from gmsearch.pareto import front
from gmsearch.space import Picks
from gmsearch.strategy import Strategy

NUM_PROPOSALS = 8  # of the inner sampler, before a random draw
NUM_DRAWS = 50  # for a design that is new, before others are looked for one by one
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
        declared = self._designs.undiminished.options
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
        if parent is None:
            return {}
        born = (self._designs.mutate(parent, self._rng, most=1) for _ in range(NUM_DRAWS))
        return next((child.picks for child in born if child is not None), {})


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
    asked again, and then one of the nearest designs that are new is taken, or a random one where
    there are too many to list. What is proposed depends on the seed and the stored trials alone, so
    a resumed search goes on as it would have.
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
        found = self._nearest(wanted, seen, rng) or self.fresh(study)
        if found is None:
            raise RuntimeError("no network within the budget is left")
        return found.picks

    def _nearest(self, picks: Picks, seen: set[Any], rng: np.random.Generator) -> Design | None:
        """The design, not seen yet, that differs in the fewest choices, of several a random one;
        None without picks, or where there are too many to list.
        """
        listed = self._designs.listed() if picks else ()
        new = [design for design in listed if design.known.id not in seen]
        if not new:
            return None
        distances = np.array([sum(d.picks[n] != picks[n] for n in picks) for d in new])
        return new[int(rng.choice(np.flatnonzero(distances == distances.min())))]


def _ids(study: Study) -> set[Any]:
    """The networks that a study has met."""
    trials = study.get_trials(deepcopy=False)
    return {trial.user_attrs["id"] for trial in trials if "id" in trial.user_attrs}
