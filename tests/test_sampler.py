"""The sampler proposes only what may be trained, in a plain Optuna study too."""

import math
import time
from concurrent.futures import ProcessPoolExecutor
from itertools import product
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import optuna
import pytest
from optuna.distributions import CategoricalDistribution, IntDistribution

from gmsearch.designs import Designs, Known, network_designs
from gmsearch.errors import ArchitectureError
from gmsearch.gated_sampler import GatedSampler
from gmsearch.sampler import BudgetSampler
from gmsearch.space import SearchSpace
from gmsearch.space_file import read_space

SPACES = Path(__file__).parents[1] / "search_spaces"

pytestmark = pytest.mark.filterwarnings("ignore::optuna.exceptions.ExperimentalWarning")


@pytest.fixture(autouse=True)
def quiet():
    optuna.logging.set_verbosity(optuna.logging.ERROR)


NAMES = ["random", "tpe", "nsga2", "evolution"]


def sampler_of(name: str, space: SearchSpace, budget: int, seed: int) -> BudgetSampler:
    designs = network_designs(space, budget, {"macs": budget})
    return BudgetSampler(name, designs, num_epochs=1, seed=seed)


def plain_study(sampler: optuna.samplers.BaseSampler) -> optuna.Study:
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


@pytest.mark.parametrize("name", NAMES)
def test_every_network_within_the_budget_is_proposed_once_until_none_is_left(name):
    space = read_space(SPACES / "tiny.yaml")
    budget = 8_400_000
    expected = feasible_ids(space, budget)
    assert 20 < len(expected) < 120
    sampler = sampler_of(name, space, budget, seed=0)
    study = plain_study(sampler)
    proposed = []
    while sampler.preview(study) is not None:
        trial, architecture = propose(study, sampler, space)
        proposed.append(architecture.id)
        macs = space.cost(architecture).macs
        study.tell(trial, [macs / 1e6 % 7, macs])
    assert len(proposed) == len(expected)
    assert set(proposed) == expected
    with pytest.raises(RuntimeError, match="no network within the budget is left"):
        study.ask(sampler.distributions())


@pytest.mark.parametrize("name", NAMES)
def test_proposals_from_a_huge_space_fit_the_budget_while_others_run(name):
    space = read_space(SPACES / "gated.yaml")
    budget = 120_000_000  # few random draws fit
    sampler = sampler_of(name, space, budget, seed=0)
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
    sampler = sampler_of("tpe", space, 10**9, seed=1)
    study = plain_study(sampler)
    widths = []
    for _ in range(60):
        trial, architecture = propose(study, sampler, space)
        widths.append(architecture.stages[3].width)
        study.tell(trial, [architecture.stages[3].width, 1.0])
    assert sum(widths[40:]) / 20 > sum(widths[:20]) / 20 + 40


@pytest.mark.parametrize("name", NAMES)
def test_proposals_depend_on_the_seed_and_the_study_alone(name):
    """A sampler made anew for each proposal, as after a restart, proposes the same."""
    space = read_space(SPACES / "gated.yaml")

    def proposals(anew: bool):
        sampler = sampler_of(name, space, 300_000_000, seed=5)
        study = plain_study(sampler)
        ids = []
        for _ in range(25):
            if anew:
                study.sampler = sampler = sampler_of(name, space, 300_000_000, seed=5)
            trial, architecture = propose(study, sampler, space)
            ids.append(architecture.id)
            study.tell(trial, [architecture.stages[0].depth, space.cost(architecture).macs])
        return ids

    assert proposals(anew=False) == proposals(anew=True)


def test_a_budget_just_above_the_smallest_network_still_gets_proposals():
    space = read_space(SPACES / "gated.yaml")
    budget = space.cost(space.cheapest.architecture).macs + 1_000_000
    sampler = sampler_of("tpe", space, budget, seed=0)
    study = plain_study(sampler)
    for _ in range(5):
        trial, architecture = propose(study, sampler, space)
        assert space.cost(architecture).macs <= budget
        study.tell(trial, [1.0, 1.0])


def test_gp_proposes_within_the_budget_and_never_twice():
    space = read_space(SPACES / "tiny.yaml")
    sampler = sampler_of("gp", space, 8_400_000, seed=0)
    study = plain_study(sampler)
    baseline = study.ask()
    baseline.set_user_attr("id", "baseline")
    study.tell(baseline, [50.0, 1e6])
    ids = []
    for _ in range(14):  # ten of them before the model
        trial, architecture = propose(study, sampler, space)
        macs = space.cost(architecture).macs
        assert macs <= 8_400_000
        ids.append(architecture.id)
        study.tell(trial, [macs / 1e6 % 7, macs])
    assert len(set(ids)) == len(ids)


def test_gated_finds_the_front_of_a_plain_study():
    """Ten choices, of which two matter; the true front is known, and random search is far off."""
    space: dict[str, optuna.distributions.BaseDistribution] = {
        f"c{i}": CategoricalDistribution(["a", "b", "c"]) for i in range(6)
    }
    space |= {f"n{i}": IntDistribution(1, 4) for i in range(4)}

    def cost(params) -> int:
        return sum(params[f"n{i}"] for i in range(4))  # 4 to 16

    def describe(params) -> Known | None:
        if cost(params) > 14:
            return None
        return Known("-".join(map(str, params.values())), (cost(params) / 14,), (cost(params),))

    def objective(trial: optuna.Trial) -> tuple[float, float]:
        categorical = {
            f"c{i}": trial.suggest_categorical(f"c{i}", ["a", "b", "c"]) for i in range(6)
        }
        whole = {f"n{i}": trial.suggest_int(f"n{i}", 1, 4) for i in range(4)}
        params = categorical | whole
        good = 10 * (params["c0"] == "b") + 6 * (params["c3"] == "c")
        return 30 + good + 3 * params["n1"], cost(params)

    study = plain_study(GatedSampler(space, describe, seed=0))
    study.optimize(objective, n_trials=45)
    seen = ["-".join(map(str, trial.params.values())) for trial in study.trials]
    assert len(set(seen)) == len(seen)
    assert max(trial.values[1] for trial in study.trials) <= 14
    best = {}
    for trial in study.trials:
        top1, spent = trial.values
        best[spent] = max(top1, best.get(spent, 0))
    for spent, n1 in ((4, 1), (5, 2), (6, 3), (7, 4)):  # the true front
        assert max(top1 for s, top1 in best.items() if s <= spent) == 30 + 16 + 3 * n1


@pytest.mark.parametrize("at_once", [1, 4])
def test_gated_proposes_nothing_twice_to_threads_of_one_study(at_once):
    space = {name: IntDistribution(1, 5) for name in "abc"}

    def describe(picks):
        total = sum(picks.values())
        return Known(str(sorted(picks.items())), (total / 15,), (float(total),))

    sampler = GatedSampler(space, describe, seed=0)
    study = optuna.create_study(sampler=sampler, directions=["maximize", "minimize"])

    def objective(trial):
        picks = [trial.suggest_int(name, 1, 5) for name in "abc"]
        time.sleep(0.002)  # others ask meanwhile
        return float(np.prod(picks)), float(sum(picks))

    study.optimize(objective, n_trials=24, n_jobs=at_once)
    assert len({tuple(trial.params.values()) for trial in study.trials}) == 24


def test_gated_proposes_nothing_twice_where_many_are_asked_before_they_suggest():
    space = {name: IntDistribution(1, 3) for name in "ab"}

    def describe(picks):
        return Known(str(sorted(picks.items())), (sum(picks.values()) / 6,), (0.0,))

    sampler = GatedSampler(space, describe, seed=0)
    study = optuna.create_study(sampler=sampler, directions=["maximize", "minimize"])
    asked = [study.ask() for _ in range(5)]
    found = [tuple(trial.suggest_int(name, 1, 3) for name in "ab") for trial in asked]
    asked = [study.ask() for _ in range(4)]
    found += [tuple(trial.suggest_int(name, 1, 3) for name in "ab") for trial in asked]
    assert len(set(found)) == 9


def test_a_peer_whose_proposal_is_taken_gets_any_of_the_nearest_that_are_new():
    """Against all designs of a small space, by brute force."""
    space = read_space(SPACES / "tiny.yaml")
    sampler = sampler_of("evolution", space, 10**9, seed=0)
    every = list(sampler._designs.listed())
    rng = np.random.default_rng(0)
    for _ in range(5):
        seen = {every[i].known.id for i in rng.choice(len(every), len(every) // 2)}
        picks = every[int(rng.integers(len(every)))].picks
        apart = {
            design.known.id: sum(design.picks[name] != picks[name] for name in picks)
            for design in every
            if design.known.id not in seen
        }
        nearest = {i for i, distance in apart.items() if distance == min(apart.values())}
        found = {sampler._nearest(picks, seen, rng).known.id for _ in range(20 * len(nearest))}
        assert found == nearest
    assert sampler._nearest(picks, {design.known.id for design in every}, rng) is None


@pytest.mark.parametrize("directions", [["minimize", "minimize"], ["maximize", "maximize"]])
def test_gated_wants_a_study_that_maximises_its_first_value_alone(directions):
    space = {"a": IntDistribution(1, 3)}
    sampler = GatedSampler(space, lambda params: Known(str(params["a"]), (0.5,), (1.0,)))
    study = optuna.create_study(sampler=sampler, directions=directions)
    with pytest.raises(ValueError, match="first direction"):
        study.ask(sampler.distributions())
    floats = {"a": optuna.distributions.FloatDistribution(0, 1)}
    with pytest.raises(ValueError, match="neither categorical nor an integer"):
        GatedSampler(floats, lambda params: None)


def test_gated_says_when_nothing_is_left():
    space = {"a": IntDistribution(1, 3)}
    sampler = GatedSampler(space, lambda params: Known(str(params["a"]), (0.5,), (1.0,)))
    study = plain_study(sampler)
    study.optimize(lambda trial: (trial.suggest_int("a", 1, 3), 0.5), n_trials=3)
    assert {trial.params["a"] for trial in study.trials} == {1, 2, 3}
    with pytest.raises(RuntimeError, match="nothing that is allowed and new was found"):
        study.ask(sampler.distributions())


def sums(number: int, most: int, budget: int):
    """A space of whole numbers whose sum is the cost: few of its settings are within the budget."""
    space = {f"n{i}": IntDistribution(1, most) for i in range(number)}

    def describe(picks):
        total = sum(picks.values())
        return None if total > budget else Known(str(picks), (total / budget,), (math.log(total),))

    def objective(trial):
        picks = [trial.suggest_int(name, 1, most) for name in space]
        return float(sum((i + 1) * n for i, n in enumerate(picks))), float(sum(picks))

    return space, describe, objective


def test_what_is_near_to_designs_is_all_that_is_allowed():
    space, describe, _ = sums(4, 5, 9)
    options = {name: range(1, 6) for name in space}
    designs = Designs(options, describe)
    found = [
        design.known.id for design in designs.around([designs.design(dict.fromkeys(space, 1))])
    ]
    every = {design.known.id for design in designs.listed()}
    assert len(found) == len(set(found)) == len(every) - 1
    assert set(found) < every


def test_all_that_is_allowed_is_listed_once_however_often_it_is_asked_for():
    """Beyond what is remembered of single designs: 32,768 settings, of which 5 are allowed."""
    space, describe, objective = sums(5, 8, 6)
    described = []
    study = plain_study(GatedSampler(space, lambda p: described.append(p) or describe(p), seed=0))
    for num_trials in (1, 4):
        study.optimize(objective, n_trials=num_trials)
        most = 2 * 8**5 if num_trials == 1 else 8**4
        assert 0 < len(described) < most
        described.clear()
    assert len({tuple(trial.params.values()) for trial in study.trials}) == 5


def test_gated_finds_the_few_that_are_allowed_of_very_many():
    """165 of 1.7 million: draws find two or three of them."""
    space, describe, objective = sums(8, 6, 11)
    study = plain_study(GatedSampler(space, describe, seed=0))
    study.optimize(objective, n_trials=30)
    assert len({tuple(trial.params.values()) for trial in study.trials}) == 30
    assert max(trial.values[1] for trial in study.trials) <= 11


def test_a_trial_that_is_enqueued_shows_the_way_where_draws_find_nothing():
    space, describe, objective = sums(8, 6, 9)  # nine of 1.7 million
    study = plain_study(GatedSampler(space, describe, seed=0))
    study.enqueue_trial(dict.fromkeys(space, 1))
    study.optimize(objective, n_trials=9)
    assert {int(trial.values[1]) for trial in study.trials} == {8, 9}
    with pytest.raises(RuntimeError, match="nothing that is allowed and new was found"):
        study.ask(space)


def test_processes_that_share_a_study_get_different_designs(tmp_path):
    storage = f"sqlite:///{tmp_path}/study.db"
    directions = ["maximize", "minimize"]
    optuna.create_study(study_name="s", storage=storage, directions=directions)
    with ProcessPoolExecutor(3, get_context("spawn")) as pool:
        list(pool.map(search_beside_others, [storage] * 3))
    trials = optuna.load_study(study_name="s", storage=storage).trials
    assert len(trials) == len({tuple(trial.params.values()) for trial in trials}) == 30


def search_beside_others(storage: str) -> None:
    space, describe, objective = sums(3, 4, 12)
    sampler = GatedSampler(space, describe, seed=0)  # all with the same seed
    study = optuna.load_study(study_name="s", storage=storage, sampler=sampler)
    study.optimize(objective, n_trials=10)


def test_what_was_enqueued_in_part_is_taken_as_it_will_be():
    space, describe, objective = sums(3, 4, 12)
    sampler = GatedSampler(space, describe, seed=0)
    study = plain_study(sampler)
    for number in (1, 2, 3, 4):
        study.enqueue_trial({"n0": number})
    study.optimize(objective, n_trials=9)
    assert [trial.params["n0"] for trial in study.trials[:4]] == [1, 2, 3, 4]
    assert set(sampler._strategy.known) == {str(trial.params) for trial in study.trials}


def test_what_is_enqueued_in_part_is_no_repeat_while_others_have_it():
    space, describe, objective = sums(2, 6, 12)
    study = plain_study(GatedSampler(space, describe, seed=0))
    for _ in range(8):
        study.enqueue_trial({"n0": 3})
    study.optimize(objective, n_trials=16)
    assert [trial.params["n0"] for trial in study.trials[:8]] == [3] * 8
    # Six there are; what is wanted more often than that is tried again.
    assert {trial.params["n1"] for trial in study.trials[:8]} == set(range(1, 7))
    assert len({tuple(trial.params.values()) for trial in study.trials}) == 14


def test_one_sampler_serves_one_study_after_the_other():
    space, describe, objective = sums(2, 4, 8)  # sixteen
    sampler = GatedSampler(space, describe, seed=0)
    first, second = plain_study(sampler), plain_study(sampler)
    first.optimize(objective, n_trials=10)
    second.optimize(objective, n_trials=16)
    first.optimize(objective, n_trials=6)
    for study in (first, second):
        assert len({tuple(trial.params.values()) for trial in study.trials}) == 16


@pytest.mark.filterwarnings("ignore:Choices for a categorical distribution:UserWarning")
def test_options_may_be_what_json_does_not_know(tmp_path):
    space = {"pair": CategoricalDistribution([(1, 2), (3, 4), (5, 6)]), "n": IntDistribution(1, 3)}
    sampler = GatedSampler(space, lambda p: Known(str(p), (p["pair"][0] / 5,), ()), seed=0)
    study = optuna.create_study(
        storage=f"sqlite:///{tmp_path}/study.db",
        directions=["maximize", "minimize"],
        sampler=sampler,
    )
    for number in range(9):
        trial = study.ask(space)
        study.tell(trial, [trial.params["n"] + number % 2, trial.params["pair"][0]])
    with pytest.raises(RuntimeError, match="nothing that is allowed and new"):
        study.ask(space)


def test_what_is_known_stays_while_the_same_is_trained_again():
    space, describe, objective = sums(3, 4, 12)
    sampler = GatedSampler(space, describe, seed=0)
    study = plain_study(sampler)
    for _ in range(2):
        study.enqueue_trial({"n0": 2, "n1": 3, "n2": 4, "beside": 1})
    study.optimize(objective, n_trials=1)
    again, other = study.ask(space), study.ask(space)
    assert again.params == study.trials[0].params
    assert sampler._strategy.known[str(again.params)].tops == (study.trials[0].values[0],)
    assert sampler._strategy.known[str(other.params)].state == "running"


@pytest.mark.parametrize("value", [math.inf, -math.inf])
def test_an_infinite_value_counts_as_the_worst(value):
    space, describe, objective = sums(3, 4, 12)
    sampler = GatedSampler(space, describe, seed=0)
    study = plain_study(sampler)

    def sometimes(trial):
        top1, cost = objective(trial)
        return (value if trial.number == 3 else top1), cost

    study.optimize(sometimes, n_trials=12)
    found = sampler._strategy.propose()
    assert math.isfinite(found.gain)
    assert 0 < found.mean < 25


def test_costs_are_needed_and_features_are_not():
    space, _, objective = sums(3, 4, 12)
    study = plain_study(GatedSampler(space, lambda p: Known(str(p), (), ()), seed=0))
    with pytest.raises(ValueError, match="has no costs"):
        study.optimize(objective, n_trials=1)
    study = plain_study(GatedSampler(space, lambda p: Known(str(p), (0.5,), ()), seed=0))
    study.optimize(objective, n_trials=12)
    assert max(trial.values[0] for trial in study.trials) >= 22  # of 24


@pytest.mark.parametrize("name", ["gp", "tpe", "nsga2", "evolution"])
def test_a_peer_begins_as_random_search_does(name):
    """Before it has learned anything, no peer may be held back by draws of its own."""
    space = read_space(SPACES / "gated.yaml")

    def first(which: str) -> list[str]:
        sampler = sampler_of(which, space, 300_000_000, seed=3)
        study = plain_study(sampler)
        return [propose(study, sampler, space)[1].id for _ in range(6)]

    assert first(name) == first("random")


@pytest.mark.parametrize(
    "known, message",
    [
        (Known("x", (0.5,), (math.nan,)), "all must be finite"),
        (Known("x", (0.5,), (-math.inf,)), "all must be finite"),
        (Known("x", (math.inf,), (1.0,)), "all must be finite"),
        (Known("x", (-0.1,), (1.0,)), "no cost negative"),
        (Known("x", (0.5, 0.5), (1.0,)), "2 costs and 1 features, others have 1 and 1"),
        (Known("x", (0.5,), ()), "1 costs and 0 features, others have 1 and 1"),
    ],
)
def test_a_description_that_no_search_can_go_by_is_refused(known, message):
    space = {"a": IntDistribution(1, 50)}

    def describe(picks):
        return known if picks["a"] == 7 else Known(str(picks["a"]), (0.5,), (float(picks["a"]),))

    study = plain_study(GatedSampler(space, describe, seed=0))
    with pytest.raises(ValueError, match=message) as error:
        study.optimize(lambda trial: (trial.suggest_int("a", 1, 50), 0.5), n_trials=50)
    assert "'a': 7" in str(error.value)


def test_what_costs_more_than_all_is_never_proposed():
    space, describe, objective = sums(3, 4, 12)

    def dearer(picks):
        known = describe(picks)
        return known and known._replace(costs=(1.5 * known.costs[0],))

    study = plain_study(GatedSampler(space, dearer, seed=0))
    study.optimize(objective, n_trials=20)
    assert all(dearer(trial.params) for trial in study.trials)
    assert max(describe(trial.params).costs[0] for trial in study.trials) <= 1 / 1.5


@pytest.mark.parametrize("shift", [-100.0, 5.0])
def test_values_below_0_are_searched_as_well_with_a_floor(shift):
    """The same values above the floor, and so the same proposals."""
    space, describe, objective = sums(3, 4, 12)

    def shifted(trial):
        top1, cost = objective(trial)
        return top1 + shift, cost

    plain = plain_study(GatedSampler(space, describe, seed=0))
    floored = plain_study(GatedSampler(space, describe, seed=0, floor=shift))
    plain.optimize(objective, n_trials=15)
    floored.optimize(shifted, n_trials=15)
    assert [t.params for t in floored.trials] == [t.params for t in plain.trials]


@pytest.mark.parametrize("scale", [2.0**-33, 2.0**30])
def test_values_and_features_may_be_on_any_scale(scale):
    """The same proposals; by a power of two no digit is lost."""
    space, describe, objective = sums(3, 4, 12)

    def scaled(trial):
        top1, cost = objective(trial)
        return scale * top1, cost

    def described(params):
        known = describe(params)
        return known and known._replace(features=tuple(scale * x for x in known.features))

    plain = plain_study(GatedSampler(space, describe, seed=0))
    other = plain_study(GatedSampler(space, described, seed=0))
    plain.optimize(objective, n_trials=15)
    other.optimize(scaled, n_trials=15)
    assert [t.params for t in other.trials] == [t.params for t in plain.trials]


def test_a_value_below_the_floor_is_told():
    space, describe, objective = sums(3, 4, 12)
    study = plain_study(GatedSampler(space, describe, seed=0))

    def negative(trial):
        top1, cost = objective(trial)
        return top1 - 100, cost

    with pytest.warns(UserWarning, match="less than the floor of GatedSampler") as told:
        study.optimize(negative, n_trials=8)
    assert len(told) == 1


def test_a_range_of_too_many_values_is_refused():
    with pytest.raises(ValueError, match="'a' has 1,000,000 values.*give it a step"):
        GatedSampler({"a": IntDistribution(1, 10**6)}, lambda picks: None)
    GatedSampler({"a": IntDistribution(0, 10**6, step=1000)}, lambda picks: None)


def test_a_preview_is_of_the_study_that_it_is_asked_about():
    space, describe, objective = sums(3, 4, 12)
    sampler = GatedSampler(space, describe, seed=0)
    one, other = plain_study(sampler), plain_study(sampler)
    one.optimize(objective, n_trials=15)
    assert not math.isnan(sampler.preview(one).mean)
    assert math.isnan(sampler.preview(other).mean)


def test_evolution_proposes_neighbours_where_few_are_allowed():
    """One choice away from a training, by brute force; it falls back on a random draw nowhere."""
    space = read_space(SPACES / "tiny.yaml")
    few = set(np.random.default_rng(0).permutation(sorted(feasible_ids(space, 30_000_000)))[:150])
    designs = network_designs(space, 30_000_000, {"macs": 3e7}, lambda net: net.id in few)
    sampler = BudgetSampler("evolution", designs, num_epochs=1, seed=0)
    study = plain_study(sampler)
    apart = []
    for number in range(60):
        before = [trial.params for trial in study.trials]
        trial, network = propose(study, sampler, space)
        if number >= 20:
            changed = [sum(p[n] != trial.params[n] for n in p) for p in before]
            apart.append(min(changed))
        study.tell(trial, [network.stages[0].width, space.cost(network).macs])
    assert np.mean(np.array(apart) == 1) > 0.9
