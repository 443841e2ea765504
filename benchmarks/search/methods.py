"""The searches that are compared: ours, ours with one part switched off each, and its peers.

All of them keep the budget, repeat no network and ask the same jobs' interface.
"""

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
from optuna.samplers import BaseSampler, TPESampler
from optuna.storages import InMemoryStorage
from optuna.study import Study
from optuna.trial import FrozenTrial, TrialState, create_trial
from problems import Problem

from gmsearch import candidates, sampler, strategy, study
from gmsearch.candidates import Candidates
from gmsearch.designs import Design, Designs
from gmsearch.experiment import Experiment, make_settings
from gmsearch.jobs import Jobs
from gmsearch.recipe import Recipe
from gmsearch.run import RunFolder
from gmsearch.sampler import NUM_STARTUP, BudgetSampler, InItsView
from gmsearch.strategy import Strategy
from gmsearch.study import SearchStudy

NOWHERE = Path("/nonexistent")  # where no training has left anything


@dataclass(frozen=True)
class Method:
    """`make` has the jobs of a search on a problem, with a seed and a number of trainings that it
    may spend. `parts` are replaced meanwhile: what is switched off.
    """

    words: str
    make: Callable[[Problem, int, int], Jobs]
    most: int = 300  # trainings' worth of epochs that are spent where nothing else is said
    parts: tuple[tuple[Any, str, Any], ...] = ()
    needs: str = ""  # a module that does not come with gmsearch

    @contextmanager
    def jobs(self, problem: Problem, seed: int, trainings: int) -> Iterator[Jobs]:
        with ExitStack() as stack:
            for owner, name, value in self.parts:
                stack.enter_context(patch.object(owner, name, value))
            yield self.make(problem, seed, trainings)


def search(sampler: str, early_stop: str) -> Callable[[Problem, int, int], Jobs]:
    """A search as `gmsearch run` does it, without the baselines."""

    def make(problem: Problem, seed: int, trainings: int) -> Jobs:
        experiment = make_settings(
            Experiment,
            {
                "name": "bench",
                "space": problem.space_data,
                "budget": problem.budget,
                "sampler": sampler,
                "early_stop": early_stop,
                "trials": trainings,
                "recipe": Recipe(num_epochs=problem.num_epochs),
                "seed": seed,
            },
        )
        with patch.object(SearchStudy, "_missing_baselines", lambda study: ()):
            return SearchStudy(
                RunFolder(NOWHERE),
                experiment,
                problem.space,
                storage=InMemoryStorage(),
                allowed=problem.allowed,
            )

    return make


def moasha(is_corrected: bool) -> Callable[[Problem, int, int], Jobs]:
    """Syne Tune is imported when it is asked for: the other methods do without."""

    def make(problem: Problem, seed: int, trainings: int) -> Jobs:
        from moasha import MoAsha

        return MoAsha(problem, seed, trainings, is_corrected)

    return make


def _as_ray_tells(designs: Designs, seed: int) -> BaseSampler:
    """TPE that hears of a stopped training what Ray's OptunaSearch tells: that it is complete, with
    what it last had.
    """

    def told(trials: Sequence[FrozenTrial]) -> list[FrozenTrial]:
        return [_as_complete(t) if t.state == TrialState.PRUNED else t for t in trials]

    inner = TPESampler(seed=seed, multivariate=True, n_startup_trials=NUM_STARTUP)
    return InItsView(inner, told)


def _spread_start(self: BudgetSampler, study: Study) -> Design | None:
    """The first networks of a peer spread over MACs as ours do, which costs no training."""
    trials = study.get_trials(deepcopy=False)
    seen = {trial.user_attrs["id"] for trial in trials if "id" in trial.user_attrs}
    if len(seen) >= NUM_STARTUP:
        return _any_fresh(self, study)
    pool = Candidates(self._designs, self._seed)
    fresh = [design for design in pool.fresh({}) if design.known.id not in seen]
    told = (trial.params for trial in trials if trial.params)
    known = [design for params in told if (design := self._designs.design(params))]
    return pool.spread(fresh, known, np.random.default_rng([self._seed, len(seen)]))


_any_fresh = BudgetSampler.fresh
SPREAD_START = ((BudgetSampler, "fresh", _spread_start),)


def _as_complete(trial: FrozenTrial) -> FrozenTrial:
    last = [trial.user_attrs["top1"], trial.user_attrs["macs"]]
    return create_trial(params=trial.params, distributions=trial.distributions, values=last)


def _any_design(
    self: Candidates, fresh: list[Design], known: Iterable[Design], rng: np.random.Generator
) -> Design:
    return fresh[int(rng.integers(len(fresh)))]


def _without_features(self: Strategy, seen: list[Any]) -> Any:
    points = _points_of(self, seen)
    return type(points)(points.bits, 0 * points.features)


_points_of = Strategy.points_of
_ours = search("gated", "gated")

METHODS = {
    "gated": Method("ours", _ours),
    "gated/asha": Method("ours, stopped by ASHA on fronts", search("gated", "asha"), 100),
    "gated/off": Method("ours, last epochs alone: no rungs, no stops", search("gated", "off"), 100),
    "no-stop": Method(
        "ours, rungs in the model, no stops",
        _ours,
        100,
        ((study, "_stopping_of", lambda experiment, strategy: None),),
    ),
    "no-mutation": Method(
        "ours, without neighbours of the front", _ours, 100, ((candidates, "NUM_CHILDREN", 0),)
    ),
    "no-features": Method(
        "ours, without MACs, params and depth in the model",
        _ours,
        100,
        ((Strategy, "points_of", _without_features),),
    ),
    "no-spread": Method(
        "ours, with a random start", _ours, 100, ((Candidates, "spread", _any_design),)
    ),
    "random": Method("random", search("random", "off")),
    "random-spread": Method(
        "random, spread over MACs as our first ones are",
        search("gated", "off"),
        parts=((strategy, "NUM_SPREAD", math.inf),),
    ),
    "random/asha": Method("random, ASHA on fronts", search("random", "asha")),
    "tpe": Method("Optuna TPE, multivariate", search("tpe", "off")),
    "tpe/asha": Method(
        "Optuna TPE and ASHA on fronts, joined as Ray joins them",
        search("tpe", "asha"),
        parts=((sampler, "_INNER", {**sampler._INNER, "tpe": _as_ray_tells}),),
    ),
    "tpe/spread": Method(
        "Optuna TPE, multivariate, with our spread start",
        search("tpe", "off"),
        parts=SPREAD_START,
    ),
    "nsga2": Method("Optuna NSGA-II", search("nsga2", "off")),
    "nsga2/spread": Method(
        "Optuna NSGA-II, with our spread start",
        search("nsga2", "off"),
        parts=SPREAD_START,
    ),
    "gp": Method("Optuna GP", search("gp", "off"), 60),
    "evolution": Method("regularized evolution", search("evolution", "off")),
    "moasha": Method("Syne Tune MO-ASHA, ranking corrected", moasha(True), needs="syne_tune"),
    "moasha-shipped": Method("Syne Tune MO-ASHA, as shipped", moasha(False), needs="syne_tune"),
}
PEERS = (
    "random",
    "random-spread",
    "random/asha",
    "tpe",
    "tpe/asha",
    "tpe/spread",
    "nsga2",
    "nsga2/spread",
    "gp",
    "evolution",
    "moasha",
)
PARTS = ("no-stop", "gated/off", "gated/asha", "no-mutation", "no-features", "no-spread")
