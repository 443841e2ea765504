"""A band as an objective: what a search proposes, keeps and tells, against brute force."""

import hashlib
import json
import math
import sqlite3
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from optuna.study import StudyDirection
from test_bands_told import record

from gmsearch.cli import main
from gmsearch.decisions import DecisionLog
from gmsearch.designs import network_designs
from gmsearch.errors import SettingsError
from gmsearch.experiment import Experiment, make_settings, read_settings
from gmsearch.gain import Staircase
from gmsearch.history import read_history
from gmsearch.outlook import Observation
from gmsearch.radii import Watch
from gmsearch.recipe import Recipe
from gmsearch.replay import replay
from gmsearch.run import RunData, RunFolder, write_settings
from gmsearch.simulator import simulate
from gmsearch.space_file import read_space, read_space_data
from gmsearch.stopping import Halving, rungs_of
from gmsearch.strategy import Strategy
from gmsearch.study import SearchStudy

GATED = Path(__file__).parents[1] / "search_spaces" / "gated.yaml"
SPACE = read_space(GATED)
BUDGET = 200_000_000
NUM_EPOCHS = 9
pytestmark = pytest.mark.filterwarnings("ignore::optuna.exceptions.ExperimentalWarning")


def ends_of(network) -> tuple[float, float]:
    """top1 and high12 at the end: plain networks are good at the one, gated ones at the other."""
    gates = sum(stage.placement != "none" for stage in network.stages)
    size = 12 * math.log10(SPACE.cost(network).macs / 1e7)
    noise = hashlib.sha256(network.id.encode()).digest()[0] / 256
    return 40 + size - gates + noise, 10 + size + 5 * gates + noise


def curve_of(network) -> list[dict]:
    top1, high = ends_of(network)
    shares = [1 - 0.6 * 0.7**epoch for epoch in range(1, NUM_EPOCHS)] + [1.0]
    return [
        {
            **{"epoch": i, "top1": top1 * share, "loss": 1.0, "train_loss": 1.0, "seconds": 1.0},
            "bands": {"low12": 5.0, "high12": high * share},
            **{"band_images": 50, "band_seconds": 0.1},
        }
        for i, share in enumerate(shares, start=1)
    ]


def experiment(name="r", **settings) -> Experiment:
    told = {
        **{"name": name, "space": read_space_data(GATED), "budget": BUDGET, "trials": 14},
        **{"recipe": Recipe(num_epochs=NUM_EPOCHS), "objectives": ("top1", "macs", "high12")},
    }
    return make_settings(Experiment, {**told, **settings})


def searched(path: Path, **settings) -> tuple[RunFolder, SearchStudy]:
    """A search whose trainings are looked up."""
    folder, said = RunFolder(path), experiment(path.name, **settings)
    write_settings(folder, said, RunData(1000, 500, ("a", "b")))
    log = DecisionLog(folder.decisions_file)
    study = SearchStudy(folder, said, said.search_space(folder.experiment_file), log=log)
    simulate(study, lambda job: curve_of(job.network), 2)
    return folder, study


def observed(strategy: Strategy, count: int) -> None:
    for _ in range(count):
        design = strategy.propose().design
        curve = curve_of(SPACE.decode(design.picks))
        tops, high = ([e["top1"] for e in curve], [e["bands"]["high12"] for e in curve])
        strategy.observe(design, tops, "complete", [high])


def designs():
    return network_designs(SPACE, BUDGET, {"macs": BUDGET})


@pytest.fixture(scope="module")
def learned() -> Strategy:
    strategy = Strategy(designs(), rungs_of(NUM_EPOCHS), 0, 2)
    observed(strategy, 14)
    return strategy


def test_a_gain_is_the_sum_of_those_of_two_searches_for_one_accuracy_each(learned):
    """Two strategies that know one of the accuracies each expect what one that knows both does."""
    alone = [Strategy(designs(), rungs_of(NUM_EPOCHS), 0) for _ in range(2)]
    for index, strategy in enumerate(alone):
        for seen in learned.known.values():
            curve = curve_of(SPACE.decode(seen.design.picks))
            values = [[e["top1"] for e in curve], [e["bands"]["high12"] for e in curve]]
            strategy.observe(seen.design, values[index], "complete")
    # hyperparameters are those of the last fit, which came after as many results in the one
    for surrogate, strategy in zip(learned._surrogates, alone, strict=True):
        strategy._surrogates[0] = surrogate
        strategy._num_fitted = 10**9
        strategy.__dict__.pop("_models", None)
    learned._num_fitted = 10**9
    learned.__dict__.pop("_models", None)
    fresh = [Observation(design) for design in learned._candidates.pool(0)[:25]]
    both = learned._outlook().worths(fresh)
    parts = [strategy._outlook().worths(fresh) for strategy in alone]
    for worth, one, other in zip(both, *parts, strict=True):
        assert worth.gain == pytest.approx(one.gain + other.gain)
        assert (worth.mean, worth.std) == (one.mean, one.std)
    assert any(one.gain < 0.5 * both[i].gain for i, one in enumerate(parts[0]))


def test_the_gain_of_each_part_is_what_draws_from_its_model_say(learned):
    """Brute force: the hypervolume that is added, over many draws of what a design may reach."""
    seen = [Observation(design) for design in learned._candidates.pool(0)[:4]]
    rng = np.random.default_rng(0)
    sums = np.zeros(len(seen))
    for accuracy, model in enumerate(learned._models):
        part = learned._outlook()._parts[accuracy]
        mean, std = model.predict(learned.points_of(seen), learned.tops_of(seen, accuracy))
        low, high, level = (getattr(part._staircase, n) for n in ("low", "high", "level"))
        for index, each in enumerate(seen):
            cost = each.design.known.costs[0]
            drawn = rng.normal(mean[index], std[index], 20_000)
            widths = np.maximum(0, high[:, 0] - np.maximum(low[:, 0], cost))
            gained = (widths * np.maximum(0, drawn[:, None] - level)).sum(1)
            sums[index] += gained.mean()
    gains = [worth.gain for worth in learned._outlook().worths(seen)]
    assert gains == pytest.approx(sums, rel=0.05, abs=0.02)


def test_parents_come_from_both_fronts(learned):
    parts = learned._outlook()._parts
    firsts = {part.front(1)[0].known.id for part in parts}
    assert firsts <= {design.known.id for design in learned._outlook().front(10)}
    assert len(learned._outlook().front(10)) <= 10


def test_with_one_accuracy_a_strategy_is_what_it_was():
    """The sum over one front is that front's gain, for any order of observations."""
    strategy = Strategy(designs(), (1,), 0)
    for design in strategy._candidates.pool(0)[:12]:
        strategy.observe(design, [ends_of(SPACE.decode(design.picks))[0]], "complete")
    [part] = strategy._outlook()._parts
    fresh = [Observation(design) for design in strategy._candidates.pool(0)[12:30]]
    assert strategy._outlook().worths(fresh) == part.worths(fresh)
    assert strategy._outlook().front(10) == part.front(10)


def test_halving_keeps_what_is_best_at_a_band():
    """At a rung: of two networks of one cost, one with the better top1 and one with the better
    high12 are on the same front, and a third that is worse at both is stopped.
    """
    three = [record(0, 60.0, 100, 10.0), record(1, 50.0, 100, 30.0), record(2, 45.0, 100, 5.0)]
    rule = Halving(("top1", "macs", "high12"))
    verdicts = [rule.verdict(r, three, 0).goes_on for r in three]
    assert verdicts == [True, True, False]
    assert [Halving(("top1", "macs")).verdict(r, three, 0).goes_on for r in three] == [
        *(True, False, False)
    ]


@pytest.mark.parametrize("sampler", ["gated", "random", "tpe", "nsga2", "evolution"])
def test_every_sampler_searches_with_a_band(tmp_path, sampler, capsys, monkeypatch):
    monkeypatch.setattr("gmsearch.candidates.POOL", 200)  # what is searched among, not how
    monkeypatch.setattr("gmsearch.candidates.NUM_SCORED", 100)
    early_stop = "gated" if sampler == "gated" else "asha" if sampler == "random" else "off"
    trials = 14 if sampler == "gated" else 5
    folder, study = searched(tmp_path / "r", sampler=sampler, early_stop=early_stop, trials=trials)
    assert study.is_finished
    minimize, maximize = StudyDirection.MINIMIZE, StudyDirection.MAXIMIZE
    assert study._study.directions == [maximize, minimize, maximize]
    history = read_history(folder.path)
    assert history.complete
    for r in history.complete:
        top1, high = ends_of(r.network)
        assert study._study.trials[r.number].values == [top1, r.macs, high]
    points = [(-r.top1, r.macs, -r.bands["high12"]) for r in history.complete]
    best = {
        r.id
        for r, p in zip(history.complete, points, strict=True)
        if not any(all(a <= b for a, b in zip(q, p, strict=True)) and q != p for q in points)
    }
    assert {r.id for r in history.front} == best
    if sampler != "gated":
        return
    again = replay(folder.path)
    assert not again.differences and again.num_decisions > 10
    assert main(["report", str(folder.path)]) == 0
    page = (folder.path / "report.html").read_text(encoding="utf-8")
    assert "The same front in each accuracy" in page
    table = pd.read_csv(folder.path / "report" / "front.csv")
    assert list(table.high12) == [r.bands["high12"] for r in history.front]
    assert (folder.path / "report" / "objectives.png").stat().st_size > 10_000
    capsys.readouterr()
    assert main(["report", str(folder.path), "--text"]) == 0
    assert "front: top1 and high12 against macs, best first" in capsys.readouterr().out


def test_a_trial_without_its_band_is_not_one_of_this_run(tmp_path):
    folder, study = searched(tmp_path / "r", sampler="random", early_stop="off", trials=3)
    [*_, number] = study.records
    trial = study._study.trials[number]
    curve = [{**epoch, "bands": None} for epoch in trial.user_attrs["curve"]]
    storage = study._study._storage
    storage.remove_session()
    with sqlite3.connect(folder.study_file) as database:
        database.execute(
            "UPDATE trial_user_attributes SET value_json = ? WHERE key = 'curve' AND trial_id = ?",
            (json.dumps(curve), trial._trial_id),
        )
    said = read_settings(folder.experiment_file)
    with pytest.raises(SettingsError, match=f"trial {number} was changed by another program"):
        SearchStudy(folder, said, said.search_space(folder.experiment_file))


def test_a_band_that_is_an_objective_is_watched_on_all_of_minival():
    assert experiment().watch == Watch((12.0,), 1.0)
    assert experiment(frequency=(36, 24)).watch == Watch((12.0, 24.0, 36.0), 1.0)
    assert experiment(frequency_share=0.5).watch == Watch((12.0,), 0.5)
    assert experiment(objectives=("top1", "macs")).watch is None
    both = experiment(objectives=("top1", "params", "low7.5", "macs", "high12"))
    assert both.accuracies == ("top1", "low7.5", "high12") and both.costs == ("params", "macs")
    assert both.watch.radii == (7.5, 12.0)


def test_help_says_that_a_band_as_an_objective_has_no_limit_of_cost(capsys):
    said = {}
    for verb in ("run", "compare"):
        with pytest.raises(SystemExit):
            main([verb, "--help"])
        said[verb] = " ".join(capsys.readouterr().out.split())
    assert "all of them, whatever it costs, where a band is an objective" in said["run"]
    assert "less than a tenth of an epoch)" in said["compare"]  # which has no objectives


@pytest.mark.parametrize(
    ("objectives", "message"),
    [
        ("top1,high12", "allowed: top1, then one of macs, params, activations, and then more"),
        ("top1,high12,macs", "allowed: top1, then one of"),
        ("high12,macs", "allowed: top1, then one of"),
        ("top1,macs,high12,high12", "allowed: top1, then one of"),
        ("top1,macs,high", "objective 'high'; allowed: top1, macs, params, activations, and bands"),
        ("top1,macs,high12.0", "objective 'high12.0': write high12, as tables have it"),
        ("top1,macs,high12,high12.0", "objective 'high12.0': write high12"),
        ("top1,macs,high0", "radius 0: no frequency is lower"),
        ("top1,macs,high200", "radius 200 at 224 px: the highest frequency lies at 158.4"),
        ("top1", "allowed: top1, then one of"),
    ],
)
def test_objectives_that_make_no_sense_are_refused(objectives, message):
    with pytest.raises(SettingsError, match=message):
        experiment(objectives=tuple(objectives.split(",")))


def test_without_doubt_the_sum_is_of_the_hypervolumes_gained():
    """Two accuracies with nothing in doubt: the sum of what each front gains."""
    costs = np.array([[0.2], [0.6]])
    gains = [
        Staircase.of(np.array(levels), costs).expected_gain(
            np.array([new]), np.array([1e-9]), np.array([[0.4]])
        )[0]
        for levels, new in (([30.0, 50.0], 40.0), ([10.0, 11.0], 21.0))
    ]
    assert sum(gains) == pytest.approx((40 - 30) * 0.2 + (21 - 10) * 0.2 + (21 - 11) * 0.4)
