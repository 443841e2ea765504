"""The sampler `gated` for any Optuna study of categorical and integer parameters."""

import math
import warnings
from collections.abc import Callable, Mapping, Sequence
from itertools import chain
from threading import Lock
from typing import Any

import numpy as np
from optuna.distributions import BaseDistribution, CategoricalDistribution, IntDistribution
from optuna.study import Study, StudyDirection
from optuna.trial import FrozenTrial, TrialState

from gmsearch.designs import Design, Designs, Known
from gmsearch.outlook import Worth
from gmsearch.sampler import StrategySampler
from gmsearch.space import Picks
from gmsearch.strategy import Strategy

MOST_OPTIONS = 10_000  # of an integer: each is a column of what the model sees
NUM_DRAWS = 50  # for a design that is new and has what was enqueued, before all are listed
TAKEN = "gmsearch:taken"  # of a trial: what it is about to have as parameters, as Optuna stores it


class GatedSampler(StrategySampler):
    """The sampler `gated` for any Optuna study of categorical and integer parameters whose costs
    are known before a trial runs.

        sampler = GatedSampler(space, describe, seed=0)
        study = optuna.create_study(sampler=sampler, directions=["maximize", "minimize"])
        study.optimize(objective, n_trials=100)

    The first value of a trial is the one that costs training, and is maximised, on any scale; other
    directions minimise. What lies above `floor` counts: set it to a value that all trials reach,
    below 0 where values are negative. `describe` maps parameters to `Known`: an identity, the exact
    costs as shares of what is allowed (one at least, the same ones always), and physical features;
    or to None where they are not allowed, as those are that cost more than 1. Integers count as
    ordered choices, each of its values as an option.

    A trial that is pruned, fails or has an infinite value counts as the worst so far, so that its
    like is not proposed for ever. Threads and processes that share a study get different designs:
    each writes what it takes into its trial. Where nothing is left to propose, the next trial is a
    RuntimeError; where one in ten thousand settings is allowed, or fewer, none may be found, and a
    trial of one that is (`study.enqueue_trial`) shows the way.
    """

    def __init__(
        self,
        space: Mapping[str, BaseDistribution],
        describe: Callable[[Picks], Known | None],
        *,
        seed: int = 0,
        floor: float = 0.0,
    ) -> None:
        """Raises ValueError for a space that has other parameters, or one of too many values."""
        options = {name: _options(name, each) for name, each in space.items()}
        integers = frozenset(n for n, each in space.items() if isinstance(each, IntDistribution))
        designs = Designs(options, _Checked(describe), integers)
        super().__init__(designs, Strategy(designs, (1,), seed))
        self._space = dict(space)
        self._seed = seed
        self._floor = floor
        self._has_warned = False
        self._of: tuple[Any, int] | None = None  # the study that the strategy knows
        self._seen: dict[int, TrialState] = {}
        self._lock = Lock()  # threads of one `optimize` share a sampler

    def distributions(self) -> dict[str, BaseDistribution]:
        return self._space

    def preview(self, study: Study) -> Worth | None:
        with self._lock:
            self._turn_to(study)
            self._take_in(study)
            return super().preview(study)

    def sample_relative(
        self, study: Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        first, *others = study.directions
        if first != StudyDirection.MAXIMIZE or StudyDirection.MAXIMIZE in others:
            raise ValueError("the first direction of the study must be to maximize, no other may")
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

    def _take_in(self, study: Study, own: int | None = None) -> set[str]:
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
                tops = self._above_floor(other) if other.state == TrialState.COMPLETE else []
                is_known = all(map(math.isfinite, tops))
                state = _STATES.get(other.state, "failed") if is_known else "failed"
                self._observe(design, tops if is_known else [], state)
        return taken

    def _above_floor(self, trial: FrozenTrial) -> list[float]:
        value = trial.values[0]
        if value < self._floor and math.isfinite(value) and not self._has_warned:
            self._has_warned = True
            warnings.warn(
                f"trial {trial.number} has {value:g}, less than the floor of GatedSampler "
                f"({self._floor:g}): all that is below counts alike; give a lower floor",
                stacklevel=2,
            )
        return [value - self._floor]

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


class _Checked:
    """What is known of designs, as the user describes them. Raises ValueError for what no search
    could go by.
    """

    def __init__(self, describe: Callable[[Picks], Known | None]) -> None:
        self._describe = describe
        self._numbers: tuple[int, int] | None = None  # of costs and features

    def __call__(self, picks: Picks) -> Known | None:
        known = self._describe(picks)
        if known is None:
            return None
        if not known.costs:
            raise ValueError(f"describe({picks!r}) has no costs; it needs one, as a share of 1")
        numbers = len(known.costs), len(known.features)
        self._numbers = self._numbers or numbers
        if numbers != self._numbers:
            raise ValueError(
                f"describe({picks!r}) has {numbers[0]} costs and {numbers[1]} features, others "
                f"have {self._numbers[0]} and {self._numbers[1]}"
            )
        if not all(map(math.isfinite, (*known.costs, *known.features))) or min(known.costs) < 0:
            raise ValueError(
                f"describe({picks!r}) has costs {known.costs} and features {known.features}; all "
                "must be finite, and no cost negative"
            )
        return known if max(known.costs) <= 1 else None


_STATES = {
    TrialState.COMPLETE: "complete",
    TrialState.RUNNING: "running",
    TrialState.WAITING: "running",
}


def _options(name: str, distribution: BaseDistribution) -> Sequence[Any]:
    """All options of a parameter. Raises ValueError for one of real numbers, or of too many."""
    if isinstance(distribution, CategoricalDistribution):
        return distribution.choices
    if isinstance(distribution, IntDistribution):
        options = range(distribution.low, distribution.high + 1, distribution.step)
        if len(options) > MOST_OPTIONS:
            raise ValueError(
                f"parameter {name!r} has {len(options):,} values, at most {MOST_OPTIONS:,} are "
                "possible; give it a step"
            )
        return options
    raise ValueError(f"parameter {name!r} is neither categorical nor an integer")
