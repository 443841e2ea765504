"""Proxies: their figures against brute force and scipy, and one that is killed and goes on."""

import json
import math
import os
import signal
import subprocess
import sys
import time
from itertools import combinations

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from in_process import gmsearch
from made_runs import BUDGET, SPACE, make_run
from scipy.stats import kendalltau

from gmsearch import ranking
from gmsearch.certificate import Trained, certify, read_certificate, write_certificate
from gmsearch.cli import main
from gmsearch.errors import SettingsError
from gmsearch.experiment import Experiment, make_settings
from gmsearch.history import read_history
from gmsearch.proxy import FULLER, SEARCH, fidelities, of_run, of_space, spread
from gmsearch.ranking import kendall, regret, tau_of_best
from gmsearch.recipe import Recipe
from gmsearch.report.page import proxy_note
from gmsearch.space_file import read_space, read_space_data

PATIENCE = 600  # seconds, on a busy machine
few = st.integers(0, 6).map(float)  # so few values that ties come up
pairs = st.lists(st.tuples(few, few), min_size=4, max_size=12)


# Figures


@given(pairs)
def test_tau_is_scipys_and_nan_where_one_ranking_has_ties_only(drawn):
    one, other = zip(*drawn, strict=True)
    expected = kendalltau(one, other).statistic
    found = kendall(one, other)
    assert found.tau == pytest.approx(expected, nan_ok=True)
    assert math.isnan(found.tau) or found.low <= found.high


def test_the_interval_is_the_bootstrap_done_one_resample_at_a_time(monkeypatch):
    monkeypatch.setattr(ranking, "NUM_RESAMPLES", 400)
    rng = np.random.default_rng(3)
    one, other = rng.integers(0, 8, (2, 9)).astype(float)
    times = np.random.default_rng(5).multinomial(9, np.full(9, 1 / 9), 400)
    taus = []
    for counts in times:
        index = np.repeat(np.arange(9), counts)
        taus.append(kendalltau(one[index], other[index]).statistic)
    found = kendall(one, other, seed=5)
    assert [found.low, found.high] == pytest.approx(np.nanpercentile(taus, (2.5, 97.5)).tolist())


@pytest.mark.parametrize("sign", [1, -1])
def test_rankings_that_agree_in_all_have_an_exact_bound(sign):
    values = np.arange(9.0)
    found = kendall(values, sign * values)
    # Four pairs that share no network agree with probability (1 + tau)/2 each.
    nearer, farther = sorted((sign * found.low, sign * found.high))
    assert farther == 1 and ((1 + nearer) / 2) ** 4 == pytest.approx(0.025)
    assert found.includes_zero  # 9 networks: tau may be as low as -0.2


@pytest.mark.parametrize("count", [4, 8, 20])
def test_the_interval_holds_the_truth(count, monkeypatch):
    monkeypatch.setattr(ranking, "NUM_RESAMPLES", 300)
    rng, hits = np.random.default_rng(0), 0
    for _ in range(200):
        one = rng.standard_normal(count)
        other = 0.8 * one + 0.6 * rng.standard_normal(count)
        found = kendall(one, other)
        hits += found.low <= 2 / math.pi * math.asin(0.8) <= found.high
    assert hits >= 0.91 * 200  # 95 %, less two and a half standard deviations


@given(pairs, st.integers(1, 4))
def test_regret_is_the_worst_over_all_orders_that_the_proxy_allows(drawn, k):
    proxy, full = map(list, zip(*drawn, strict=True))
    allowed = [
        chosen
        for chosen in combinations(range(len(proxy)), k)
        if min(proxy[i] for i in chosen)
        >= max((p for i, p in enumerate(proxy) if i not in chosen), default=-math.inf)
    ]
    worst = max(max(full) - max(full[i] for i in chosen) for chosen in allowed)
    assert regret(proxy, full, k) == worst


def test_tau_among_the_best_is_of_the_best_by_the_fuller_ranking():
    full = [9.0, 8.0, 7.0, 6.0, 5.0, 4.0, 3.0, 2.0, 1.0]
    proxy = [1.0, 2.0, 3.0, 9.0, 8.0, 7.0, 6.0, 5.0, 4.0]
    assert tau_of_best(proxy, full, 1 / 3) == (3, -1.0)
    count, tau = tau_of_best(proxy, full, 1 / 5)
    assert count == 2 and math.isnan(tau)  # two networks have no tau worth telling


# What is compared


def settings(**changes) -> Experiment:
    said = {"name": "r", "space": read_space_data(SPACE), "budget": BUDGET, **changes}
    return make_settings(Experiment, said)


@pytest.mark.parametrize("resolution", [32, 48, 64, 128, 224])
@pytest.mark.parametrize("share", [1.0, 0.5])
def test_the_alternatives_cost_what_the_search_costs(resolution, share):
    recipe = Recipe(num_epochs=6, train_share=share)
    own, *others, fuller = fidelities(settings(resolution=resolution, recipe=recipe), 24)
    assert (own.name, own.epochs, own.train_share, own.resolution) == (SEARCH, 6, share, resolution)
    assert (fuller.name, fuller.epochs, fuller.train_share) == (FULLER, 24, share)
    for other in others:
        cost = other.epochs * other.train_share * other.resolution**2
        assert cost / (6 * share * resolution**2) == pytest.approx(1, rel=0.1)
    lower = {other.name for other in others if other.resolution < resolution}
    assert bool(lower) == (resolution > 32)  # no network has fewer pixels than its stride
    assert ("low-resolution-more-images" in lower) == (resolution > 48 and share == 0.5)


def test_points_are_spread_and_hold_the_front():
    points = [(float(x), float(y)) for x in range(6) for y in range(6)]
    taken = spread(points, [35], 5)
    assert taken[0] == 35 and len(set(taken)) == 5
    assert {0, 5, 30} <= set(taken)  # the corners
    assert spread(points, list(range(9)), 3) == [0, 4, 8]


def test_networks_of_a_run_are_its_front_and_others(tmp_path):
    folder, _ = make_run(tmp_path / "r", [30.0, 20.0, 41.0, 12.0, 45.0, 33.0, 8.0])
    subject = of_run(folder.path, 5)
    front = {record.id for record in read_history(folder.path).front}
    assert len(subject.networks) == 5 and front <= set(subject.networks)
    assert {r.id: r.network for r in subject.searched.values()} == subject.networks


def test_networks_of_a_space_fit_the_budget_and_are_spread(tmp_path):
    first, again = (of_space(settings(), tmp_path, 8) for _ in range(2))
    assert list(first.networks) == list(again.networks)
    space = read_space(SPACE)
    macs = [space.cost(network).macs for network in first.networks.values()]
    assert macs == list(first.macs.values()) and max(macs) <= BUDGET and len(set(macs)) > 5
    assert max(macs) > 2 * min(macs)
    assert set(of_space(settings(seed=1), tmp_path, 8).networks) != set(first.networks)


# What is told


def trained(name: str, top1: list[float], spent: float) -> Trained:
    return Trained(name, f"{name}, 32 px", 6 if name == SEARCH else 24, 1.0, 32, top1, spent, spent)


def test_a_certificate_is_read_as_it_was_written(tmp_path):
    ids, macs = list("abcde"), [1, 2, 3, 4, 5]
    fuller = [50.0, 60.0, 55.0, 70.0, 65.0]
    rows = [trained(SEARCH, fuller[:3] + [66.0, 60.0], 10.0), trained("flat", [1.0] * 5, 10.0)]
    made = certify(ids, macs, [*rows, trained(FULLER, fuller, 40.0)], num_minival=9, chosen="x")
    write_certificate(made, tmp_path)
    found = read_certificate(tmp_path)
    assert str(found) == str(made)  # NaN included
    assert [proxy.name for proxy in found.proxies] == [SEARCH, "flat", "MACs alone"]
    assert found.proxies[0].saved == 0.75 and found.proxies[-1].saved == 1
    assert math.isnan(found.proxies[1].tau)
    table = pd.read_csv(tmp_path / "proxy.csv")
    assert table.id.tolist() == ids and table.top1_fuller.tolist() == fuller
    (tmp_path / "proxy.json").write_text("{}")
    with pytest.raises(SettingsError, match="not what `gmsearch proxy` wrote"):
        read_certificate(tmp_path)


@pytest.mark.parametrize(("searched", "includes"), [(range(12), False), ([1, 0] * 6, True)])
def test_an_interval_that_includes_zero_is_said(searched, includes):
    top1 = [float(value) for value in searched]
    rows = [trained(SEARCH, top1, 1.0), trained(FULLER, [*map(float, range(12))], 4.0)]
    certificate = certify(list("abcdefghijkl"), [1] * 12, rows, num_minival=9, chosen="x")
    words = certificate.in_words()
    assert words.startswith("the search's 6 epochs rank networks as 24 do: tau ")
    assert ("the interval includes 0" in words) is includes


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("RUN --architectures 3", "--architectures 3: give 4 or more"),
        ("RUN --architectures 6 --fuller-epochs 2", "--fuller-epochs 2: the search has 2"),
        ("RUN --architectures 99", "--architectures 99: "),
        ("nowhere", "nowhere is not a run"),
        ("RUN --epochs 3", "--epochs: "),
        ("RUN --data x", "--data: "),
        ("RUN --device-hours 1", "--device-hours: each part of a proxy counts alone"),
        ("RUN --epochs 6", "--epochs: "),  # the default is said too
        (f"RUN --space {SPACE}", "give either a run"),
        ("", "give either a run"),
        (f"--space {SPACE}", "--space needs --budget"),
        (f"--space {SPACE} --budget 30M --fuller-epochs 6", "--fuller-epochs 6: the search has 6"),
    ],
)
def test_a_mistake_is_told_in_a_line(tmp_path, capsys, words, message):
    folder, _ = make_run(
        tmp_path / "r", [1.0, 2.0, 3.0, 4.0, 5.0, 6.0], recipe=Recipe(num_epochs=2)
    )
    line = words.replace("RUN", str(folder.path)).split() + ["--runs-dir", str(tmp_path)] * (
        "--space" in words
    )
    assert main(["proxy", *line]) == 2
    error = capsys.readouterr().err
    assert message in error and error.count("\n") == 1
    assert not (tmp_path / "r" / "proxy").exists()


# The whole


def test_a_proxy_of_a_run_goes_on_after_a_kill_and_its_figures_are_of_its_trainings(tmp_path):
    top1s = [30.0, 20.0, 41.0, 12.0, 45.0]
    folder, _ = make_run(tmp_path / "r", top1s, recipe=Recipe(num_epochs=1, train_share=0.25))
    line = ["proxy", str(folder.path), "--architectures", "4", "--fuller-epochs", "2"]
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    process = [sys.executable, "-m", "gmsearch", *line]
    killed = subprocess.Popen(process, **quiet, start_new_session=True)
    deadline = time.monotonic() + PATIENCE
    while not list(folder.path.glob("proxy/half-images/trials/*/metrics.jsonl")):
        assert killed.poll() is None and time.monotonic() < deadline
        time.sleep(0.05)
    os.killpg(killed.pid, signal.SIGKILL)
    killed.wait()
    begun = {p: p.stat().st_mtime for p in folder.path.glob("proxy/*/trials/*/architecture.json")}
    assert begun

    done = gmsearch(*line)
    assert done.returncode == 0, done.stderr
    assert "the search's 1 epoch ranks networks as 2 do: tau" in done.stdout
    told = json.loads((folder.path / "proxy.json").read_text())
    assert [each["name"] for each in told["trained"]] == [SEARCH, "half-images", FULLER]
    searched = {record.id: record.top1 for record in read_history(folder.path).complete}
    assert told["trained"][0]["top1"] == [searched[each] for each in told["ids"]]
    for each in told["trained"][1:]:
        for network, top1 in zip(told["ids"], each["top1"], strict=True):
            metrics = folder.path / "proxy" / each["name"] / "trials" / f"{network}-seed0"
            last = json.loads((metrics / "metrics.jsonl").read_text().splitlines()[-1])
            assert (last["epoch"], last["top1"]) == (2, top1)
    own = told["proxies"][0]
    table = pd.read_csv(folder.path / "proxy.csv")
    expected = kendalltau(table.top1_search, table.top1_fuller).statistic
    assert own["tau"] == pytest.approx(expected) and own["saved"] == 0.5
    assert "the search's 1 epoch ranks networks as 2 do" in proxy_note(read_history(folder.path))
    costs = pd.read_csv(folder.path / "proxy" / FULLER / "trials.csv").set_index("id").macs
    assert costs.to_dict() == table.set_index("id").macs.to_dict()  # where the budget counts

    other = gmsearch(*line[:-1], "3")
    assert other.returncode == 2
    assert "--fuller-epochs 3: " in other.stderr and " has 2; give" in other.stderr
