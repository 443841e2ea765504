"""The sampler proposes only what may be trained, in a plain Optuna study too."""

from itertools import product
from pathlib import Path

import optuna
import pytest

from gmsearch.errors import ArchitectureError
from gmsearch.sampler import BudgetSampler
from gmsearch.space import SearchSpace
from gmsearch.space_file import read_space

SPACES = Path(__file__).parents[1] / "search_spaces"

pytestmark = pytest.mark.filterwarnings("ignore::optuna.exceptions.ExperimentalWarning")


@pytest.fixture(autouse=True)
def quiet():
    optuna.logging.set_verbosity(optuna.logging.ERROR)


def plain_study(sampler: BudgetSampler) -> optuna.Study:
    return optuna.create_study(sampler=sampler, directions=["maximize", "minimize"])


def propose(study, sampler, space):
    """Asks once; returns the trial and its network, told to the study as `id`."""
    trial = study.ask(sampler.distributions())
    architecture = space.decode(trial.params)
    trial.set_user_attr("id", architecture.id)
    return trial, architecture


def feasible_ids(space: SearchSpace, budget: int) -> set[str]:
    """Brute force."""
    found = set()
    for options in product(*(choice.options for choice in space.choices)):
        picks = dict(zip((choice.name for choice in space.choices), options, strict=True))
        try:
            architecture = space.decode(picks)
        except ArchitectureError:
            continue
        if space.cost(architecture).macs <= budget:
            found.add(architecture.id)
    return found


@pytest.mark.parametrize("name", ["random", "tpe", "nsga2"])
def test_every_network_within_the_budget_is_proposed_once_until_none_is_left(name):
    space = read_space(SPACES / "tiny.yaml")
    budget = 8_400_000
    expected = feasible_ids(space, budget)
    assert 20 < len(expected) < 120
    sampler = BudgetSampler(name, space, budget, seed=0)
    study = plain_study(sampler)
    proposed = []
    while sampler.fresh(study) is not None:
        trial, architecture = propose(study, sampler, space)
        proposed.append(architecture.id)
        macs = space.cost(architecture).macs
        study.tell(trial, [macs / 1e6 % 7, macs])
    assert len(proposed) == len(expected)
    assert set(proposed) == expected
    with pytest.raises(RuntimeError, match="no network within the budget is left"):
        study.ask(sampler.distributions())


@pytest.mark.parametrize("name", ["random", "tpe", "nsga2"])
def test_proposals_from_a_huge_space_fit_the_budget_while_others_run(name):
    space = read_space(SPACES / "gated.yaml")
    budget = 120_000_000  # few random draws fit
    sampler = BudgetSampler(name, space, budget, seed=0)
    study = plain_study(sampler)
    baseline = study.ask()  # a trial without choices, as the baselines are
    baseline.set_user_attr("id", "baseline")
    study.tell(baseline, [50.0, 1e8])
    waiting, ids = [], []
    for _ in range(45):
        trial, architecture = propose(study, sampler, space)
        assert space.cost(architecture).macs <= budget
        ids.append(architecture.id)
        waiting.append((trial, architecture))
        if len(waiting) == 4:  # as with four workers, results come late
            done, network = waiting.pop(0)
            study.tell(done, [network.stages[0].width, space.cost(network).macs])
    assert len(set(ids)) == len(ids)


def test_tpe_learns_what_is_good():
    """Where the width of the last stage alone is rewarded, later proposals are wider."""
    space = read_space(SPACES / "gated.yaml")
    sampler = BudgetSampler("tpe", space, 10**9, seed=1)
    study = plain_study(sampler)
    widths = []
    for _ in range(60):
        trial, architecture = propose(study, sampler, space)
        widths.append(architecture.stages[3].width)
        study.tell(trial, [architecture.stages[3].width, 1.0])
    assert sum(widths[40:]) / 20 > sum(widths[:20]) / 20 + 40


@pytest.mark.parametrize("name", ["random", "tpe", "nsga2"])
def test_proposals_depend_on_the_seed_and_the_study_alone(name):
    """A sampler made anew for each proposal, as after a restart, proposes the same."""
    space = read_space(SPACES / "gated.yaml")

    def proposals(anew: bool):
        sampler = BudgetSampler(name, space, 300_000_000, seed=5)
        study = plain_study(sampler)
        ids = []
        for _ in range(25):
            if anew:
                study.sampler = sampler = BudgetSampler(name, space, 300_000_000, seed=5)
            trial, architecture = propose(study, sampler, space)
            ids.append(architecture.id)
            study.tell(trial, [architecture.stages[0].depth, space.cost(architecture).macs])
        return ids

    assert proposals(anew=False) == proposals(anew=True)


def test_a_budget_just_above_the_smallest_network_still_gets_proposals():
    space = read_space(SPACES / "gated.yaml")
    budget = space.cost(space.cheapest.architecture).macs + 1_000_000
    sampler = BudgetSampler("tpe", space, budget, seed=0)
    study = plain_study(sampler)
    for _ in range(5):
        trial, architecture = propose(study, sampler, space)
        assert space.cost(architecture).macs <= budget
        study.tell(trial, [1.0, 1.0])
