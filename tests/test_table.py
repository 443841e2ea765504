"""Tables of trainings: one that is trained, and figures against scipy and numpy."""

import re
import subprocess
import sys

import numpy as np
import pandas as pd
import pytest
from made_runs import SPACE
from scipy.stats import kendalltau

from gmsearch.errors import SettingsError
from gmsearch.experiment import Tabulation, make_settings
from gmsearch.space_file import read_space, read_space_data
from gmsearch.table import EPOCH, TrialTable, in_words, noise, plan, read_table, write_table

PATIENCE = 600  # seconds, on a busy machine


def tabulation(**settings) -> Tabulation:
    said = {"name": "t", "space": read_space_data(SPACE), "networks_wanted": 6, "seed": 7}
    return make_settings(Tabulation, {**said, **settings})


def made_table(tops: dict[str, dict[int, list[float]]]) -> TrialTable:
    """From top1 by network, seed and epoch."""
    rows = [
        {"id": name, "seed": seed, "macs": 1000 * len(name), "params": 10, "activations": 5}
        | {"epoch": epoch, "top1": top1, "train_loss": 1.0, "loss": 2.0, "seconds": 0.5}
        for name, by_seed in tops.items()
        for seed, curve in by_seed.items()
        for epoch, top1 in enumerate(curve, 1)
    ]
    return TrialTable(tabulation(), pd.DataFrame(rows))


@pytest.fixture
def table() -> TrialTable:
    rng = np.random.default_rng(2)
    seeds = {"a": (7, 8, 9), "bb": (7, 8), "ccc": (7,), "dddd": (7,), "eeeee": (7, 9)}
    return made_table(
        {
            name: {seed: rng.uniform(10, 60, 3).round(1).tolist() for seed in those}
            for name, those in seeds.items()
        }
    )


# Figures


def test_noise_is_the_pooled_deviation_of_the_last_epochs_between_seeds(table):
    squares, freedom = 0.0, 0
    for by_seed in table.curves.values():
        last = [curve[-1]["top1"] for curve in by_seed.values()]
        squares += np.sum((last - np.mean(last)) ** 2)
        freedom += len(last) - 1
    assert freedom == 4
    assert noise(table) == pytest.approx(np.sqrt(squares / freedom))
    assert f"one network: {noise(table):.2f} points" in in_words(table)


def test_a_table_of_one_seed_has_no_noise(table):
    alone = {name: {7: [e["top1"] for e in seeds[7]]} for name, seeds in table.curves.items()}
    assert noise(made_table(alone)) is None
    assert "between seeds" not in in_words(made_table(alone))


def test_taus_are_scipys_over_the_first_seed(table):
    tops = np.array([[epoch["top1"] for epoch in by[7]] for by in table.curves.values()])
    expected = [kendalltau(tops[:, epoch], tops[:, 2]).statistic for epoch in (0, 1)]
    told = re.search(
        r"tau with the last epoch: (\S+) of epoch 1, (\S+) of epoch 2", in_words(table)
    )
    assert told is not None
    assert [float(tau) for tau in told.groups()] == pytest.approx(expected, abs=0.005)


# The plan


def test_networks_of_several_seeds_come_first_and_the_seed_decides_which():
    settings = tabulation(repeated=2, seeds=3)
    planned = list(plan(settings, read_space(SPACE)))
    ids = [training.network.id for training in planned]
    assert [training.seed for training in planned] == [7, 8, 9, 7, 8, 9, 7, 7, 7, 7]
    assert len(set(ids)) == 6 and ids[0] == ids[1] == ids[2] != ids[3] == ids[5]
    assert [t.network.id for t in plan(settings, read_space(SPACE))] == ids
    other = tabulation(seed=8, repeated=2, seeds=3)
    assert {t.network.id for t in plan(other, read_space(SPACE))} != set(ids)


def test_more_networks_are_the_same_and_others_and_all_fit_the_budget():
    space, budget = read_space(SPACE), 12_000_000
    few, many = (
        [t.network.id for t in plan(tabulation(networks_wanted=n, budget=budget), space)]
        for n in (5, 9)
    )
    assert many[:5] == few
    networks = [t.network for t in plan(tabulation(networks_wanted=9, budget=budget), space)]
    assert all(space.cost(network).macs <= budget for network in networks)


def test_a_space_that_is_used_up_is_planned_once():
    space = read_space(SPACE)
    ids = [t.network.id for t in plan(tabulation(networks_wanted=10**6, budget=8_400_000), space)]
    assert 20 < len(ids) == len(set(ids)) < 120


# The file


def test_a_table_is_read_as_it_was_written(tmp_path, table):
    file = tmp_path / "table.parquet"
    write_table(file, table)
    found = read_table(file)
    pd.testing.assert_frame_equal(found.frame, table.frame)
    assert (found.tabulation, found.curves) == (table.tabulation, table.curves)
    assert found.space.choices == read_space(SPACE).choices
    assert list(found.curves["bb"][8][0]) == list(EPOCH)


def foreign(file):
    pd.DataFrame({"id": ["a"]}).to_parquet(file)


def without_seeds(file):
    whole = made_table({"a": {7: [1.0]}})
    write_table(file, TrialTable(whole.tabulation, whole.frame.drop(columns="seed")))


@pytest.mark.parametrize(
    ("write", "message"),
    [
        (lambda file: None, "no such table; `gmsearch table build` makes one"),
        (lambda file: file.write_text("id,seed\n"), "not a table of gmsearch: "),
        (lambda file: file.write_bytes(b""), "not a table of gmsearch: "),
        (lambda file: file.mkdir(), "not a table of gmsearch: "),
        (foreign, "not a table of gmsearch: "),
        (without_seeds, "not a table of gmsearch: no seed"),
    ],
)
def test_a_file_that_is_no_table_is_told_in_a_line(tmp_path, write, message):
    file = tmp_path / "x.parquet"
    write(file)
    with pytest.raises(SettingsError) as caught:
        read_table(file)
    assert str(caught.value).startswith(f"{file}: {message}")
    assert "\n" not in str(caught.value)


# The whole


def test_a_table_is_trained_and_goes_on_with_more_networks_and_seeds(tmp_path):
    def build(*words: str) -> str:
        line = [sys.executable, "-m", "gmsearch", "table", "build", "--space", str(SPACE)]
        line += ["--epochs", "2", "--runs-dir", str(tmp_path), "--name", "t", *words]
        done = subprocess.run(line, capture_output=True, text=True, timeout=PATIENCE)
        assert done.returncode == 0, done.stderr
        return done.stdout

    build("--networks", "2")
    first = read_table(tmp_path / "t" / "table.parquet")
    curves = list((tmp_path / "t" / "trials").glob("*/metrics.jsonl"))
    trained = {path: path.stat().st_mtime_ns for path in curves}
    assert len(trained) == 2 and len(first.frame) == 4

    told = build("--networks", "3", "--repeated", "1", "--seeds", "2")
    assert "going on with" in told and "2 are trained" in told
    assert {path: path.stat().st_mtime_ns for path in trained} == trained
    table = read_table(tmp_path / "t" / "table.parquet")
    assert sorted(sorted(by_seed) for by_seed in table.curves.values()) == [[0], [0], [0, 1]]
    assert len(table.frame) == 8 and set(table.frame["epoch"]) == {1, 2}
    for name, by_seed in first.curves.items():
        assert table.curves[name][0] == by_seed[0]
    assert "3 networks" in told and f"one network: {noise(table):.2f} points" in told
    assert not list((tmp_path / "t" / "trials").glob("*/checkpoint.pt"))
    space = read_space(SPACE)
    for network in (training.network for training in plan(table.tabulation, space)):
        rows = table.frame[table.frame["id"] == network.id]
        assert set(rows["macs"]) == {space.cost(network).macs}
        assert rows["top1"].between(0, 100).all() and (rows["seconds"] > 0).all()
