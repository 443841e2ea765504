"""Tables of trainings: one that is trained, and figures against scipy and numpy."""

import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import yaml
from in_process import gmsearch
from made_runs import SPACE, curve
from pictures import make_folder
from scipy.stats import kendalltau

from gmsearch.cli import main
from gmsearch.errors import SettingsError
from gmsearch.experiment import Tabulation, make_settings
from gmsearch.record import TrialRecord
from gmsearch.space_file import read_space, read_space_data
from gmsearch.table import (
    EPOCH,
    TrialTable,
    in_words,
    noise,
    plan,
    read_table,
    tabulate,
    write_table,
)

GATED = SPACE.parent / "gated.yaml"
BENCHMARKS = Path(__file__).parents[1] / "benchmarks" / "search"
NUM_EPOCHS = 4


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


@pytest.fixture
def trained() -> TrialTable:
    """Of networks of the space, as trainings leave it; some have two seeds."""
    space = read_space(SPACE)
    settings = tabulation(repeated=2, seeds=2, recipe={"num_epochs": NUM_EPOCHS})
    rng = np.random.default_rng(3)
    records = []
    for number, (_, network, seed) in enumerate(plan(settings, space)):
        macs, params, activations, _ = space.cost(network)
        epochs = curve(*rng.uniform(10, 60, NUM_EPOCHS).round(1).tolist())
        epochs[0]["loss"] = None  # of a network that answers nothing yet
        costs = {"macs": macs, "params": params, "activations": activations}
        told = {"id": network.id, "state": "complete", "network": network, "seed": seed}
        records.append(TrialRecord(number=number, curve=epochs, **told, **costs))
    return tabulate(settings, records)


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


@pytest.mark.parametrize("budget", [8_400_000, None])
def test_a_space_that_is_used_up_is_planned_once(budget):
    """Listing all of the space is the referee."""
    space = read_space(SPACE)
    ids = [t.network.id for t in plan(tabulation(networks_wanted=10**6, budget=budget), space)]
    all_of_it = {
        each.architecture.id
        for each in space.candidates()
        if budget is None or space.cost(each.architecture).macs <= budget
    }
    assert len(ids) == len(set(ids)) and set(ids) == all_of_it


def test_few_networks_of_a_space_may_fit_and_are_found_all_the_same():
    """Of 4,000 draws from the gated space none has 35M MACs."""
    space = read_space(GATED)
    settings = tabulation(space=read_space_data(GATED), networks_wanted=20, budget=35_000_000)
    networks = {training.network.id: training.network for training in plan(settings, space)}
    assert len(networks) == 20
    assert all(space.cost(network).macs <= 35_000_000 for network in networks.values())


# The file


def test_a_table_is_read_as_it_was_written(tmp_path, trained):
    file = tmp_path / "table.parquet"
    write_table(file, trained)
    found = read_table(file)
    pd.testing.assert_frame_equal(found.frame, trained.frame)
    assert found.tabulation == trained.tabulation
    assert found.space.choices == read_space(SPACE).choices
    several = [by_seed for by_seed in found.curves.values() if len(by_seed) == 2]
    assert len(found.curves) == 6 and len(several) == 2
    assert list(several[0][8][0]) == list(EPOCH)


def test_a_table_without_any_finite_loss_is_one(tmp_path, trained):
    nowhere = trained.frame.assign(loss=np.nan)
    write_table(tmp_path / "table.parquet", TrialTable(trained.tabulation, nowhere))
    assert read_table(tmp_path / "table.parquet").frame["loss"].isna().all()


@pytest.mark.parametrize("seed", range(5))
def test_rows_in_any_order_are_the_same_table(tmp_path, trained, seed):
    mixed = trained.frame.sample(frac=1, random_state=seed)
    assert mixed["epoch"].tolist() != trained.frame["epoch"].tolist()
    write_table(tmp_path / "table.parquet", TrialTable(trained.tabulation, mixed))
    found = read_table(tmp_path / "table.parquet")
    pd.testing.assert_frame_equal(found.frame, trained.frame)
    for by_seed in found.curves.values():
        for epochs in by_seed.values():
            assert [epoch["epoch"] for epoch in epochs] == [*range(1, NUM_EPOCHS + 1)]


def test_the_table_that_ships_is_one():
    assert read_table(BENCHMARKS / "grid.parquet").frame["id"].nunique() == 220


def in_row_5(frame: pd.DataFrame, **values) -> pd.DataFrame:
    changed = frame.copy()
    for name, value in values.items():
        changed.loc[5, name] = value
    return changed


def other_id(frame: pd.DataFrame) -> pd.DataFrame:
    return frame.replace({"id": {frame["id"][0]: "0123456789"}})


WRONG = [
    (lambda f: f[:0], "it has no rows"),
    (lambda f: f[f["epoch"] < 4], "[0-9a-f]{10} with seed 7 has the epochs 1, 2, 3, not 1 to 4"),
    (lambda f: pd.concat([f, f]), "with seed 7 has the epochs 1, 1, 2, 2, 3, 3, 4, 4, not 1 to 4"),
    (lambda f: f.drop(index=5), "with seed . has the epochs 1, 3, 4, not 1 to 4"),
    (lambda f: in_row_5(f, epoch=9), "with seed . has the epochs 1, 3, 4, 9, not 1 to 4"),
    (lambda f: in_row_5(f, top1=np.nan), "top1 is nan in epoch 2 of [0-9a-f]{10} with seed"),
    (lambda f: in_row_5(f, top1=np.inf), "top1 is inf in epoch 2 of"),
    (lambda f: in_row_5(f, top1=100.5), "top1 is 100.5 in epoch 2 of"),
    (lambda f: in_row_5(f, top1=-1.0), "top1 is -1 in epoch 2 of"),
    (lambda f: in_row_5(f, seconds=-1.0), "seconds is -1 in epoch 2 of"),
    (lambda f: in_row_5(f, train_loss=np.nan), "train_loss is nan in epoch 2 of"),
    (lambda f: in_row_5(f, loss=np.inf), "loss is inf in epoch 2 of"),
    (lambda f: f.astype({"top1": str}), "top1 is (str|object), not numbers"),
    (lambda f: f.astype({"top1": bool}), "top1 is bool, not numbers"),
    (lambda f: f.astype({"seed": "Int64"}), "seed is Int64, not whole numbers"),
    (lambda f: f.astype({"epoch": float}), "epoch is float64, not whole numbers"),
    (lambda f: f.assign(id=range(len(f))), "id is not text in every row"),
    (lambda f: in_row_5(f, macs=7), "[0-9a-f]{10} has more than one cost"),
    (lambda f: f.assign(macs=f["macs"] + 1), "macs of [0-9a-f]{10} is [0-9,]+, the network has"),
    (other_id, "0123456789 is no network of its space 'tiny'"),
]


@pytest.mark.parametrize(("change", "message"), WRONG)
def test_rows_that_no_training_wrote_are_told_in_a_line(tmp_path, trained, change, message):
    file = tmp_path / "x.parquet"
    write_table(file, TrialTable(trained.tabulation, change(trained.frame)))
    with pytest.raises(SettingsError) as caught:
        read_table(file)
    remedy = "; restore the table from a copy, or build it again with `gmsearch table build`"
    said = str(caught.value)
    assert re.fullmatch(f"{re.escape(str(file))}: .*{message}.*{remedy}", said), said


def test_a_comparison_refuses_a_table_of_other_networks(tmp_path, trained):
    file = tmp_path / "x.parquet"
    write_table(file, TrialTable(trained.tabulation, other_id(trained.frame)))
    line = [sys.executable, str(BENCHMARKS / "compare.py"), "--table", str(file), "--seeds", "1"]
    done = subprocess.run([*line, "--folder", str(tmp_path)], capture_output=True, text=True)
    assert done.returncode == 2 and done.stdout == ""
    assert re.fullmatch(r".*: 0123456789 is no network of .*\n", done.stderr)


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


@pytest.fixture(scope="module")
def images(tmp_path_factory) -> list[object]:
    """What to train on, in flags, and one worker: a second takes longer to start than it saves."""
    folder = make_folder(tmp_path_factory.mktemp("images") / "set", per_class=24, side=32)
    return ["--data", folder, "--resolution", 32, "--workers", 1]


def test_a_budget_that_no_network_fits_is_refused_before_anything_is_written(tmp_path, capsys):
    line = ["table", "build", "--space", str(GATED), "--budget", "20M", "--name", "t"]
    assert main([*line, "--runs-dir", str(tmp_path)]) == 2
    said = capsys.readouterr()
    assert "budget 20M is below the smallest network of space 'gated'" in said.err
    assert said.out == "" and not list(tmp_path.iterdir())


def test_fewer_networks_than_were_asked_for_are_told_and_are_all(tmp_path, images):
    few = tmp_path / "few.yaml"
    tiny = read_space_data(SPACE)
    axes = {name: options[:1] for name, options in tiny["per_network"].items()}
    axes["base_width"], axes["placement"] = tiny["per_network"]["base_width"][:2], ["expand"]
    few.write_text(yaml.safe_dump({**tiny, "name": "few", "per_network": axes, "per_stage": {}}))
    line = ["table", "build", "--space", few, *images, "--epochs", 1, "--networks", 5]
    done = gmsearch(*line, "--runs-dir", tmp_path, "--name", "t")
    assert done.returncode == 0, done.stderr
    assert "of 5 networks asked for there are 2: the space has no more\n" in done.stdout
    assert "next:" not in done.stdout  # it is finished
    assert len(read_table(tmp_path / "t" / "table.parquet").curves) == 2


def test_a_table_is_trained_and_goes_on_with_more_networks_and_seeds(tmp_path, images):
    def build(*words: str) -> str:
        line = ["table", "build", "--space", SPACE, *images, "--epochs", 2]
        done = gmsearch(*line, "--runs-dir", tmp_path, "--name", "t", *words)
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
