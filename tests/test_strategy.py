"""How a search spends its epochs: proposals, early stops, continuations, and their replay.

Accuracies are made up, by a function of the network; the study, its storage and its log are real.
"""

import hashlib
import json
import math
import random
import shutil
import sqlite3
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from optuna.storages import InMemoryStorage

from gmsearch.decisions import DecisionLog, read_decisions
from gmsearch.designs import Design, network_designs
from gmsearch.errors import SettingsError
from gmsearch.experiment import Experiment, make_settings
from gmsearch.outlook import Observation
from gmsearch.pareto import hypervolume
from gmsearch.recipe import Recipe
from gmsearch.record import TrialRecord
from gmsearch.replay import replay
from gmsearch.run import RunData, RunFolder, write_settings, write_trial
from gmsearch.simulator import Simulation, simulate
from gmsearch.space_file import read_space, read_space_data
from gmsearch.spending import has_spent_all
from gmsearch.stopping import ByGain, Halving, rungs_of
from gmsearch.strategy import Strategy
from gmsearch.study import SearchStudy

GATED = Path(__file__).parents[1] / "search_spaces" / "gated.yaml"
SPACE = read_space(GATED)
BUDGET = 200_000_000
NUM_EPOCHS = 9


def quality(network) -> float:
    """Larger is better, gates with relu6 are better, and no network is quite as it should be."""
    gates = sum(2.0 * (s.activation == "relu6") + 1.5 * (s.form == "self") for s in network.stages)
    digest = hashlib.sha256(network.id.encode()).digest()
    macs = SPACE.cost(network).macs
    return 30 + 12 * math.log10(macs / 1e7) + gates + digest[0] / 256


def curve_of(network) -> list[dict]:
    tops = [quality(network) * (1 - 0.6 * 0.7**epoch) for epoch in range(1, NUM_EPOCHS)]
    tops.append(quality(network))
    seconds = SPACE.cost(network).macs / 1e8
    return [
        {"epoch": i + 1, "top1": t, "loss": 1.0, "train_loss": 1.0, "seconds": seconds}
        for i, t in enumerate(tops)
    ]


def designs():
    return network_designs(SPACE, BUDGET, {"macs": BUDGET})


def tops_of(design: Design) -> list[float]:
    return [epoch["top1"] for epoch in curve_of(SPACE.decode(design.picks))]


@pytest.fixture(scope="module")
def learned() -> Strategy:
    """A strategy that has seen thirty networks to their end."""
    strategy = Strategy(designs(), rungs_of(NUM_EPOCHS), seed=0)
    for _ in range(30):
        design = strategy.propose().design
        strategy.observe(design, tops_of(design), "complete")
    return strategy


def test_the_first_designs_spread_over_the_costs():
    strategy = Strategy(designs(), (1,), seed=3)
    costs = []
    for _ in range(8):
        design = strategy.propose().design
        costs.append(math.log(design.known.costs[0]))
        strategy.observe(design, [], "running")
    drawn = [math.log(d.known.costs[0]) for d in strategy._candidates.pool(0)]
    span = max(drawn) - min(drawn)
    assert max(b - a for a, b in pairwise(sorted(costs))) < 0.35 * span


@pytest.mark.parametrize("seed", range(3))
def test_it_finds_more_than_random_search(seed):
    strategy = Strategy(designs(), (1,), seed)
    rng = np.random.default_rng(seed)
    ours, random = [], []
    for _ in range(30):
        design = strategy.propose().design
        strategy.observe(design, tops_of(design)[-1:], "complete")
        ours.append(design)
        random.append(designs().draw(rng))
    assert len({design.known.id for design in ours}) == 30
    assert max(design.known.costs[0] for design in ours) <= 1
    held = [
        hypervolume([(tops_of(d)[-1], d.known.costs[0]) for d in found], 1.0)
        for found in (ours, random)
    ]
    assert held[0] > held[1] + 2


def test_workers_that_run_at_once_get_different_designs(learned):
    """They are further apart than the best ones are that nobody keeps apart."""
    strategy = Strategy(designs(), (NUM_EPOCHS,), seed=0)
    for seen in learned.known.values():
        strategy.observe(seen.design, [0.0] * (NUM_EPOCHS - 1) + [seen.tops[-1]], "complete")
    outlook = strategy._outlook()
    pool = [learned_observation(design) for design in strategy._candidates.pool(0)]
    alike = sorted(outlook.worths(pool), key=lambda worth: -worth.gain)[:4]
    chosen = []
    for _ in range(4):
        fresh = [each for each in pool if each.design.known.id not in strategy.known]
        best = max(strategy._outlook().worths(fresh), key=lambda worth: worth.gain)
        chosen.append(best)
        strategy.observe(best.design, [], "running")
    assert chosen[0].design == alike[0].design
    # In the outlook of before, what is chosen later is worth less than the next best of the same.
    later = outlook.worths([learned_observation(worth.design) for worth in chosen])
    assert sum(worth.gain for worth in later) < sum(worth.gain for worth in alike)
    assert [worth.gain for worth in chosen[1:]] != [worth.gain for worth in alike[1:]]


def test_what_is_believed_of_running_designs_makes_their_like_more_certain(learned):
    outlook = learned._outlook()
    like = outlook.worths([learned_observation(learned.propose().design)])[0]
    strategy = Strategy(designs(), rungs_of(NUM_EPOCHS), seed=0)
    for seen in learned.known.values():
        strategy.observe(seen.design, tops_of(seen.design), "complete")
    strategy.observe(like.design, [], "running")
    beside = strategy._outlook().worths([learned_observation(like.design)])[0]
    assert beside.mean == pytest.approx(like.mean, abs=1e-6)
    assert beside.std < 0.9 * like.std


def test_what_went_away_with_a_narrowed_space_is_not_taken_up_again(learned):
    whole = designs()
    stopped = learned.propose().design
    name = next(n for n, options in whole.options.items() if len(options) > 1)
    left = tuple(o for o in whole.options[name] if o != stopped.picks[name])
    narrowed = replace(whole, options={**whole.options, name: left}, declared=whole.options)

    def taken_up(space):
        strategy = Strategy(space, rungs_of(NUM_EPOCHS), seed=0)
        for seen in learned.known.values():
            strategy.observe(seen.design, tops_of(seen.design), "complete")
        strategy.observe(stopped, tops_of(stopped)[:1], "stopped")
        return strategy.stopped()

    assert taken_up(whole).design == stopped
    assert taken_up(narrowed) is None


def test_the_first_trainings_go_on_and_tell_what_early_epochs_are_worth():
    strategy = Strategy(designs(), rungs_of(NUM_EPOCHS), seed=0)

    def train(epochs, state):
        design = strategy.propose().design
        strategy.observe(design, tops_of(design)[:epochs], state)
        return design.known.id

    for name in ("GmNet", "no gates"):  # not modelled
        known = strategy.propose().design.known._replace(id=name)
        strategy.observe(Design({}, (), known), [50.0] * NUM_EPOCHS, "complete")
    train(1, "stopped")
    train(NUM_EPOCHS, "complete")
    assert not strategy.may_stop(train(3, "running"))
    assert not strategy.may_stop(train(1, "running"))  # two others are beyond it
    assert strategy.may_stop(train(1, "running"))  # three are there or beyond


def test_a_space_narrowed_to_networks_of_one_size_still_learns_from_the_others():
    """Their features are far from all that is left, and must not drown the rest."""
    wide = read_space(GATED.with_name("tiny.yaml"))
    fixed = {
        c.name: c.options[:1] for c in wide.choices if c.axis in ("base_width", "ratio", "form")
    }
    left = tuple(c._replace(options=fixed.get(c.name, c.options)) for c in wide.choices)
    narrow = replace(wide, choices=left, before=wide.choices)
    every = network_designs(wide, BUDGET, {"macs": BUDGET})
    strategy = Strategy(network_designs(narrow, BUDGET, {"macs": BUDGET}), (1,), seed=0)
    rng = np.random.default_rng(0)
    for _ in range(12):
        design = every.draw(rng)
        strategy.observe(design, [quality(wide.decode(design.picks))], "complete")
    features = strategy.points_of(list(strategy.known.values())).features
    assert abs(features).max() < 10
    found = strategy.propose()
    assert found.gain > 0
    assert 20 < found.mean < 60


def test_hyperparameters_do_not_hang_on_who_asks_and_when(learned):
    asked, unasked = (Strategy(designs(), rungs_of(NUM_EPOCHS), seed=0) for _ in range(2))
    for seen in learned.known.values():
        for tops in (tops_of(seen.design)[:1], tops_of(seen.design)):
            state = "running" if len(tops) == 1 else "complete"
            asked.observe(seen.design, tops, state)
            unasked.observe(seen.design, tops, state)
            asked.propose()
    assert asked.propose() == unasked.propose()


def test_between_models_a_kept_outlook_says_what_a_new_one_or_a_resumed_search_does(monkeypatch):
    """The model is given results in steps, and what begins between them is believed one by one."""
    monkeypatch.setattr("gmsearch.strategy.EVERY", 16)
    monkeypatch.setattr("gmsearch.strategy.SHARE", 4)
    monkeypatch.setattr("gmsearch.candidates.POOL", 150)
    strategy = Strategy(designs(), rungs_of(NUM_EPOCHS), seed=0)

    def answers(design_id: str) -> list:
        found = strategy.worth(design_id), strategy.stopped(90), strategy.propose()
        return [w and (w.design.known.id, pytest.approx((w.gain, w.mean, w.std))) for w in found]

    num_kept = 0
    for number in range(20):
        design = strategy.propose().design
        tops = tops_of(design)
        strategy.observe(design, [], "running")
        last = NUM_EPOCHS if number < 4 else (1, 1, 3, NUM_EPOCHS)[number % 4]
        for epochs in (1, 3, 9)[: (1, 3, 9).index(last) + 1]:
            strategy.observe(design, tops[:epochs], "running")
            if number >= 4:
                kept = answers(design.known.id)
                num_kept += strategy._num_given < strategy._num_results
                strategy._forget("_present", "_proposal")
                anew = answers(design.known.id)
                assert [w and (w[0], w[1].expected) for w in kept] == anew
        state = "complete" if last == NUM_EPOCHS else "stopped"
        strategy.observe(design, tops[:last], state)
        resumed = Strategy(designs(), rungs_of(NUM_EPOCHS), seed=0)
        for seen in strategy.known.values():
            resumed.observe(seen.design, tops_of(seen.design)[: seen.epochs], seen.state)
        ours, theirs = strategy.propose(), resumed.propose()
        assert ours.design == theirs.design
        assert ours.gain == pytest.approx(theirs.gain)
    assert num_kept > 8


def test_of_many_that_run_the_model_waits_for_several_results(monkeypatch):
    monkeypatch.setattr("gmsearch.candidates.POOL", 150)
    strategy = Strategy(designs(), rungs_of(NUM_EPOCHS), seed=0)
    drawn = {d.known.id: d for d in strategy._candidates.pool(0)}.values()
    for design in drawn:
        strategy.observe(design, [], "running")
    given = []
    for design in drawn:
        strategy.observe(design, tops_of(design)[:1], "running")
        given.append(strategy._num_given)
    steps = [b - a for a, b in pairwise(sorted({*given}))]
    assert steps[:3] == [1, 1, 1]
    assert len(drawn) // 32 < steps[-1] <= len(drawn) // 16


def test_what_runs_already_is_worth_less_to_do_again(learned):
    """A copy of a running design with other hands: its like gains less than before it ran."""
    before = learned.propose()
    others = [s for s in learned.known.values()]
    strategy = Strategy(designs(), rungs_of(NUM_EPOCHS), seed=0)
    for seen in others:
        strategy.observe(seen.design, tops_of(seen.design), "complete")
    strategy.observe(before.design, [], "running")
    again = strategy._outlook().worths([learned_observation(before.design)])[0]
    assert again.gain < before.gain


def learned_observation(design: Design):
    return Observation(design)


def record(strategy: Strategy, design: Design, tops: list[float]) -> TrialRecord:
    strategy.observe(design, tops, "running")
    network = SPACE.decode(design.picks)
    cost = SPACE.cost(network)
    return TrialRecord(
        number=99,
        id=network.id,
        state="running",
        network=network,
        macs=cost.macs,
        params=cost.params,
        activations=cost.activations,
        picks=design.picks,
        curve=[{"top1": top1, "seconds": 1.0} for top1 in tops],
    )


def test_a_training_goes_on_by_what_it_promises_and_not_by_its_size(learned):
    """At one third of the way: what is far better than the front goes on and what is far below is
    stopped, large or small.
    """
    front = sorted(learned.known.values(), key=lambda seen: seen.design.known.costs[0])
    verdicts = {}
    for name, seen in (("small", front[2]), ("large", front[-2])):
        for promise in (0.7, 1.3):
            neighbour = None
            rng = np.random.default_rng(0)
            while neighbour is None or neighbour.known.id in learned.known:
                neighbour = designs().mutate(seen.design, rng, most=1)
            tops = [promise * top1 for top1 in tops_of(seen.design)[:3]]
            told = record(learned, neighbour, tops)
            verdict = ByGain(learned).verdict(told, [], left=90)
            verdicts[name, promise] = verdict.goes_on
            assert "points of hypervolume expected for each epoch left" in verdict.why
            del learned.known[neighbour.known.id]
            learned.__dict__.pop("_proposal", None)
    assert verdicts == {
        ("small", 0.7): False,
        ("small", 1.3): True,
        ("large", 0.7): False,
        ("large", 1.3): True,
    }


@pytest.mark.parametrize(
    "epochs, rungs", [(1, (1,)), (2, (2,)), (3, (1, 3)), (6, (2, 6)), (30, (3, 10, 30))]
)
def test_rungs(epochs, rungs):
    assert rungs_of(epochs) == rungs


def test_halving_ranks_by_fronts():
    """Brute force: layers of fronts peeled off one by one."""
    rng = np.random.default_rng(0)
    network = SPACE.cheapest.architecture
    records = [
        TrialRecord(
            number=n,
            id=str(n),
            state="running",
            network=network,
            macs=int(rng.integers(1, 9)),
            params=1,
            activations=1,
            curve=[{"top1": float(rng.integers(1, 9)), "seconds": 1.0}],
        )
        for n in range(20)
    ]
    layer, left, ranks = 0, list(records), {}
    while left:
        free = [
            r
            for r in left
            if not any(
                (o.top1 >= r.top1 and o.macs <= r.macs) and (o.top1, o.macs) != (r.top1, r.macs)
                for o in left
            )
        ]
        ranks |= {r.number: layer for r in free}
        left = [r for r in left if r not in free]
        layer += 1
    rule = Halving(("top1", "macs"))
    for r in records:
        better = sum(ranks[o.number] < ranks[r.number] for o in records)
        assert rule.verdict(r, records, left=0).goes_on == (better < 20 / 3)


def settings(**said) -> Experiment:
    base = {"name": "r", "space": read_space_data(GATED), "budget": BUDGET, "trials": 11}
    return make_settings(Experiment, {**base, "recipe": Recipe(num_epochs=NUM_EPOCHS), **said})


def run(study: SearchStudy, workers: int = 3, stop_after=lambda done: False) -> Simulation:
    return simulate(
        study, lambda job: curve_of(job.network), workers=workers, stop_after=stop_after
    )


@pytest.mark.parametrize("stops", ["gated", "asha", "off"])
def test_a_search_spends_what_it_was_given_and_no_more(stops, tmp_path):
    study = SearchStudy(
        RunFolder(tmp_path), settings(early_stop=stops), SPACE, storage=InMemoryStorage()
    )

    def told_as_it_is(_) -> bool:
        told = has_spent_all(study._experiment, list(study.records.values()))
        assert told == study.is_finished  # the study asks for more until it is
        return False

    done = run(study, stop_after=told_as_it_is)
    spent = sum(record.epochs for record in study.records.values())
    assert done.epochs == spent <= 11 * NUM_EPOCHS
    assert spent > 10 * NUM_EPOCHS  # what is left is less than any training needs
    assert study.is_finished
    ids = [record.id for record in study.records.values()]
    assert len(set(ids)) == len(ids)
    states = {record.state for record in study.records.values()}
    assert states == ({"complete"} if stops == "off" else {"complete", "stopped"})
    assert len(ids) == 11 if stops == "off" else len(ids) > 11


def test_stopped_trials_are_pruned_with_curve_and_reason_and_may_be_taken_up(tmp_path):
    storage = InMemoryStorage()
    study = SearchStudy(RunFolder(tmp_path), settings(trials=18), SPACE, storage=storage)
    run(study)
    (frozen,) = storage.get_all_studies()
    trials = storage.get_all_trials(frozen._study_id)
    pruned = [trial for trial in trials if trial.state.name == "PRUNED"]
    assert pruned
    for trial in pruned:
        curve = trial.user_attrs["curve"]
        assert len(curve) in rungs_of(NUM_EPOCHS)[:-1]
        assert trial.user_attrs["top1"] == curve[-1]["top1"]
        assert "for each epoch left" in trial.user_attrs["reason"]
    continued = [trial for trial in trials if "continues" in trial.user_attrs]
    for trial in continued:
        before = trials[trial.user_attrs["continues"]]
        assert before.state.name == "PRUNED" and before.params == trial.params
        assert before.number not in study.records
        if trial.state.name == "COMPLETE":
            assert len(trial.user_attrs["curve"]) == NUM_EPOCHS


def test_a_continuation_that_a_kill_cut_short_goes_on(tmp_path, monkeypatch):
    """The kill comes between the two steps of taking a training up again."""
    storage = InMemoryStorage()
    folder = RunFolder(tmp_path)
    study = SearchStudy(folder, settings(early_stop="asha"), SPACE, storage=storage)
    run(study, stop_after=lambda d: any(r.state == "stopped" for r in study.records.values()))
    stopped = next(r for r in study.records.values() if r.state == "stopped")

    class Killed(Exception):
        pass

    def kill(self):
        raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(SearchStudy, "_start_what_waits", kill)
        with pytest.raises(Killed):
            study._take_up(stopped)
    again = SearchStudy(folder, settings(early_stop="asha"), SPACE, storage=storage)
    taken = [r for r in again.records.values() if r.id == stopped.id]
    assert [r.state for r in taken] == ["running"]
    assert taken[0].number in {again.ask().number for _ in range(len(again._unfinished))}


@pytest.mark.parametrize(
    ("stops", "every", "seed"), [("gated", 300, 0), ("gated", 12, 3), ("asha", 300, 0)]
)
def test_one_worker_trains_the_same_however_often_it_is_killed(
    tmp_path, monkeypatch, stops, every, seed
):
    """A kill before the driver hears of an epoch, or before it does what it decided on it; also
    where the model waits for several results.
    """
    monkeypatch.setattr("gmsearch.candidates.POOL", 100)
    monkeypatch.setattr("gmsearch.strategy.EVERY", every)
    monkeypatch.setattr("gmsearch.strategy.SHARE", 4)
    # So many that the model chooses some of them.
    experiment = settings(trials=9, early_stop=stops, seed=seed)

    def trained(name: str, kills: random.Random | None) -> dict[str, tuple[str, int]]:
        folder = RunFolder(tmp_path / name)
        write_settings(folder, experiment, RunData(90, 500, ("a", "b")))

        def opened() -> SearchStudy:
            return SearchStudy(folder, experiment, SPACE, log=DecisionLog(folder.decisions_file))

        def is_killed() -> bool:
            return kills is not None and kills.random() < 0.2

        study = opened()
        while (job := study.ask()) is not None:
            whole = curve_of(job.network)
            for epoch in range(study.records[job.number].epochs + 1, NUM_EPOCHS + 1):
                write_trial(job.folder, job.network, whole[:epoch])
                if is_killed():
                    study = opened()
                    break
                goes_on = study.report(job.number, whole[:epoch])
                if is_killed():
                    study = opened()
                    break
                if not goes_on:
                    study.tell_stopped(job.number)
                    break
            else:
                study.tell(job.number)
        assert (study._strategy._given is not None) == (every < 300)
        return {record.id: (record.state, record.epochs) for record in study.records.values()}

    alone = trained("alone", None)
    assert {state for state, _ in alone.values()} == {"complete", "stopped"}
    for kills in range(3):
        assert trained(f"killed-{kills}", random.Random(kills)) == alone
        assert replay(tmp_path / f"killed-{kills}").differences == ()


@pytest.mark.parametrize("seed", range(3))
def test_a_run_whose_workers_lost_epochs_is_replayed(tmp_path, monkeypatch, seed):
    """Six workers, some of which begin again from an earlier epoch, and a driver that is killed."""
    monkeypatch.setattr("gmsearch.candidates.POOL", 100)
    folder = RunFolder(tmp_path / "r")
    experiment = settings(trials=8, seed=seed)
    write_settings(folder, experiment, RunData(90, 500, ("a", "b")))
    chance = random.Random(seed)

    def opened() -> SearchStudy:
        return SearchStudy(folder, experiment, SPACE, log=DecisionLog(folder.decisions_file))

    study, running, num_lost = opened(), {}, 0  # the epochs of each job that runs
    while True:
        while len(running) < 6 and (job := study.ask()) is not None:
            running[job] = study.records[job.number].epochs
        if not running:
            break
        job = chance.choice(list(running))
        if running[job] > 1 and chance.random() < 0.2:
            running[job] = chance.randrange(running[job])
            num_lost += 1
        running[job] += 1
        reached = curve_of(job.network)[: running[job]]
        write_trial(job.folder, job.network, reached)
        if chance.random() < 0.03:
            study, running = opened(), {}
        elif not study.report(job.number, reached):
            study.tell_stopped(job.number)
            del running[job]
        elif running[job] == NUM_EPOCHS:
            study.tell(job.number)
            del running[job]
    assert num_lost > 5
    assert replay(folder.path).differences == ()


@pytest.fixture(scope="module")
def logged(tmp_path_factory):
    """A run whose driver was killed twice, with trainings under way."""
    folder = RunFolder(tmp_path_factory.mktemp("runs") / "r")
    for trials, endings in ((8, 6), (8, 3), (11, 99)):
        experiment = settings(trials=trials)
        write_settings(folder, experiment, RunData(90, 500, ("a", "b")))
        log = DecisionLog(folder.decisions_file)
        study = SearchStudy(folder, experiment, SPACE, log=log)
        run(study, stop_after=lambda done, most=endings: len(done.endings) >= most)
        study._study._storage.remove_session()
    return folder


def test_a_run_is_replayed_from_its_log(logged):
    found = replay(logged.path)
    assert found.differences == ()
    assert found.num_decisions > 15


@pytest.mark.parametrize("sampler", ["gated", "tpe"])
def test_a_run_that_was_killed_within_an_ask_is_replayed(tmp_path, monkeypatch, sampler):
    """The trial that was cut off has a number and no network."""
    monkeypatch.setattr("gmsearch.candidates.POOL", 100)
    folder, experiment = RunFolder(tmp_path / "r"), settings(trials=14, sampler=sampler)
    write_settings(folder, experiment, RunData(90, 500, ("a", "b")))

    class Killed(BaseException):
        pass

    def kill(*_: object) -> None:
        raise Killed

    for at in (3, 12, None):  # trials that are known when it is killed
        log = DecisionLog(folder.decisions_file)
        study = SearchStudy(folder, experiment, SPACE, log=log)
        with monkeypatch.context() as patch:

            def ask(study=study, at=at, patch=patch):
                if at is not None and len(study.records) == at:
                    patch.setattr(SearchStudy, "_describe", kill)
                return SearchStudy.ask(study)

            patch.setattr(study, "ask", ask)
            try:
                run(study)
            except Killed:
                for each in study.records.values():  # as their workers left them
                    if each.state == "running":
                        write_trial(folder.trial_folder(each.id), each.network, each.curve)
        study._study._storage.remove_session()
    cut_off = len(study._study.trials) - len(study.records)
    assert cut_off >= 2
    assert replay(folder.path).differences == ()


@pytest.mark.parametrize("sampler", ["gated", "evolution"])
def test_a_run_that_was_narrowed_is_replayed(tmp_path, monkeypatch, sampler):
    monkeypatch.setattr("gmsearch.candidates.POOL", 100)
    folder, whole = RunFolder(tmp_path / "r"), settings(trials=10, sampler=sampler)
    stem = whole.space["per_network"]["stem_width"]
    part = {**whole.space, "per_network": {**whole.space["per_network"], "stem_width": stem[:2]}}
    for update in ({}, {"trials": 14, "narrowed": part}):
        experiment = whole.model_copy(update=update)
        write_settings(folder, experiment, RunData(90, 500, ("a", "b")))
        log = DecisionLog(folder.decisions_file)
        space = experiment.space_left(folder.experiment_file)
        study = SearchStudy(folder, experiment, space, log=log)
        before = set(study.records)
        run(study)
        study._study._storage.remove_session()
    new = [r for number, r in study.records.items() if number not in before]
    assert new and {record.picks["stem_width"] for record in new} <= set(stem[:2])
    assert replay(folder.path).differences == ()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("UPDATE trial_user_attributes SET value_json='999' WHERE key='macs'", "macs is 999, its"),
        ("UPDATE trial_values SET value=99 WHERE objective=0", "values are 99.0, .*; its curve"),
        ("DELETE FROM trial_params", "its parameters are no network of the space"),
    ],
)
def test_what_another_program_changed_is_not_replayed(logged, tmp_path, change, message):
    copy = RunFolder(Path(shutil.copytree(logged.path, tmp_path / "r")))
    with sqlite3.connect(copy.study_file) as opened:
        opened.execute(change)
    with pytest.raises(SettingsError, match=f"changed by another program: {message}"):
        replay(copy.path)


def test_a_replay_sees_another_decision(logged):
    """Last: it spoils the log."""
    events = read_decisions(logged.decisions_file)
    asked = [event for event in events if event["event"] == "ask" and event["what"] == "new"]
    asked[-1]["id"] = "0123456789"
    lines = "".join(json.dumps(event) + "\n" for event in events)
    logged.decisions_file.write_text(lines)
    assert any("instead of 0123456789" in line for line in replay(logged.path).differences)


def test_a_log_survives_a_line_that_was_cut_off(tmp_path):
    log = DecisionLog(tmp_path / "log")
    log({"event": "session", "wanted": 3, "trials": {}, "gain": math.inf})
    with (tmp_path / "log").open("ab") as file:
        file.write(b'{"event": "ask", "numb\xff')
    log({"event": "ask", "what": "new", "number": 1, "id": "a"})
    assert [event["event"] for event in read_decisions(tmp_path / "log")] == ["session", "ask"]
    with pytest.raises(SettingsError, match="no such log"):
        read_decisions(tmp_path / "none")


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ('{"event": "session", "wanted": 3}', "line 1: trials is None"),
        ('{"event": "ask", "what": "new", "number": "x", "id": "a"}', "line 1: number is 'x'"),
        ('{"event": "rung", "number": 1, "id": "a", "epochs": 1}', "line 1: top1 is None"),
        ('{"event": "stopped", "number": 1, "id": "a"}', "line 1: epochs is None"),
    ],
)
def test_a_line_of_a_log_that_was_changed_is_told(tmp_path, line, message):
    (tmp_path / "log").write_text(line + "\n")
    with pytest.raises(SettingsError, match=message):
        read_decisions(tmp_path / "log")
