"""An Optuna sampler that proposes only what may be trained: within the budget, and never a network
twice.

It asks one of Optuna's own samplers, takes a proposal that is over the budget into it, and falls
back on a random draw where the proposal is a repeat. All of this happens within the one ask, so no
trial is born dead.
"""

import math
from collections.abc import Callable
from typing import Any

import numpy as np
from optuna.distributions import BaseDistribution, CategoricalDistribution
from optuna.samplers import BaseSampler, NSGAIISampler, RandomSampler, TPESampler
from optuna.study import Study
from optuna.trial import FrozenTrial

from gmsearch.errors import ArchitectureError
from gmsearch.space import Candidate, Picks, SearchSpace

NUM_PROPOSALS = 8  # of the inner sampler, before a random draw
NUM_DRAWS = 2000  # uniform draws for one that is within the budget and new
NUM_DESCENTS = (
    200  # draws that are taken into the budget, where it is so small that uniform draws miss it
)
LARGEST_ENUMERATION = (
    50_000  # settings; in a smaller space the last new networks are found by listing all
)

_INNER: dict[str, Callable[[int], BaseSampler]] = {
    "random": lambda seed: RandomSampler(seed),
    "tpe": lambda seed: TPESampler(seed=seed, multivariate=True),
    "nsga2": lambda seed: NSGAIISampler(seed=seed, population_size=20),
}


class BudgetSampler(BaseSampler):
    """Wraps the sampler `name` for studies whose trials carry the user attribute `id`, also running
    ones.

    What is proposed depends on the seed and the stored trials alone, so a resumed search goes on as
    it would have.
    """

    def __init__(self, name: str, space: SearchSpace, budget: int, seed: int) -> None:
        self._name = name
        self._space = space
        self._budget = budget
        self._seed = seed

    def distributions(self) -> dict[str, BaseDistribution]:
        """One categorical parameter for each choice of the space."""
        return {c.name: CategoricalDistribution(c.options) for c in self._space.choices}

    def fresh(self, study: Study) -> Candidate | None:
        """A random candidate that may be trained, or None where none is left."""
        trials = study.get_trials(deepcopy=False)
        seen = {trial.user_attrs.get("id") for trial in trials}
        rng = np.random.default_rng([self._seed, sum("id" in t.user_attrs for t in trials)])
        for _ in range(NUM_DRAWS):
            candidate = self._space.draw(rng)
            if self._fits(candidate) and candidate.architecture.id not in seen:
                return candidate
        for _ in range(NUM_DESCENTS):
            candidate = self._space.descend(self._space.draw(rng).picks, self._budget, rng)
            if candidate.architecture.id not in seen:
                return candidate
        return self._listed(seen)

    def infer_relative_search_space(
        self, study: Study, trial: FrozenTrial
    ) -> dict[str, BaseDistribution]:
        return self.distributions()

    def sample_relative(
        self, study: Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        """Picks of a network within the budget that is not in the study.

        Raises RuntimeError where none is left; ask `fresh` first.
        """
        if not search_space:
            return {}
        seen = {other.user_attrs.get("id") for other in study.get_trials(deepcopy=False)}
        rng = np.random.default_rng([self._seed, trial.number])
        inner = _INNER[self._name](self._seed + trial.number)
        for _ in range(NUM_PROPOSALS):
            proposal = inner.sample_relative(study, trial, search_space)
            if not proposal:  # as at the start, before there is anything to learn from
                break
            candidate = self._completed(proposal, rng)
            if candidate is not None and candidate.architecture.id not in seen:
                return candidate.picks
        candidate = self.fresh(study)
        if candidate is None:
            raise RuntimeError("no network within the budget is left")
        return candidate.picks

    def sample_independent(
        self, study: Study, trial: FrozenTrial, name: str, distribution: BaseDistribution
    ) -> Any:
        raise RuntimeError(f"'{name}' is not a choice of space '{self._space.name}'")

    def _completed(self, proposal: Picks, rng: np.random.Generator) -> Candidate | None:
        """The proposal as a candidate within the budget; None where it is no network."""
        picks = {**self._space.draw(rng).picks, **proposal}  # NSGA-II leaves out what it mutates
        try:
            candidate = Candidate(picks, self._space.decode(picks))
        except ArchitectureError:
            return None
        return candidate if self._fits(candidate) else self._space.descend(picks, self._budget, rng)

    def _fits(self, candidate: Candidate) -> bool:
        return self._space.cost(candidate.architecture).macs <= self._budget

    def _listed(self, seen: set[Any]) -> Candidate | None:
        """The first new candidate in a list of all, in a space that is small enough to list."""
        if math.prod(len(c.options) for c in self._space.choices) > LARGEST_ENUMERATION:
            return None
        for candidate in self._space.candidates():
            if self._fits(candidate) and candidate.architecture.id not in seen:
                return candidate
        return None
