"""Plans: arithmetic against brute force, timings against the training they are of."""

import json
import subprocess
import sys
import time

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from made_runs import BUDGET, SPACE

from gmsearch import data
from gmsearch.cli import main
from gmsearch.data.records import Dataset, Split
from gmsearch.gmnet import gmnet
from gmsearch.plan import Candidate, makespan, predict
from gmsearch.recipe import Recipe
from gmsearch.space_file import read_space
from gmsearch.timing import Timing, time_training
from gmsearch.training import start, train

SMALL = gmnet("gmnet_s1", base_width=4)
durations = st.lists(st.integers(1, 9).map(float), min_size=1, max_size=20)


@given(durations, st.integers(1, 5))
def test_the_makespan_is_that_of_workers_watched_second_by_second(each, workers):
    waiting, busy, now = list(each), [0.0] * workers, 0
    while waiting or any(busy):
        for worker in range(workers):
            if not busy[worker] and waiting:
                busy[worker] = waiting.pop(0)
        busy = [max(0.0, left - 1) for left in busy]
        now += 1
    assert makespan(each, workers) == now


def test_a_prediction_is_exact_for_what_was_measured_and_straight_between():
    timings = [Timing(1.0, 2.0, 1.0, 0.5), Timing(1.0, 5.0, 1.0, 0.5), Timing(1.0, 3.0, 1.0, 0.5)]
    candidates = [Candidate("", "", macs, t) for macs, t in zip((10, 20, 40), timings, strict=True)]
    wall, counted = predict(candidates, [10, 20, 40, 30], epochs=2, workers=1)
    # A training is 1 + 2 x (training + evaluation + checkpoint): 8, 14, 10 and, between, 12.
    assert wall == (pytest.approx(44.0), 4 * 8.0, 4 * 14.0)
    assert counted == (pytest.approx(6 + 12 + 8 + 10), 4 * 6.0, 4 * 12.0)
    assert predict(candidates, [5, 99], epochs=2, workers=2)[0][0] == 10.0


@pytest.fixture(scope="module")
def dataset():
    whole = data.load("bands", resolution=32, seed=0)

    def part(split: Split, count: int) -> Split:
        return Split.of(split.images.arrays[0][:count], split.labels[:count])

    sizes = part(whole.train, 320), part(whole.minival, 300)
    return Dataset(whole.name, whole.classes, whole.resolution, *sizes)


@pytest.mark.parametrize("seconds", [0.01, 4.0], ids=["a few steps", "whole epochs"])
def test_a_timing_is_that_of_the_training(dataset, tmp_path, seconds):
    recipe = Recipe(num_epochs=4, ema_decay=0.9)
    state = start(SMALL, 12, recipe, seed=0, resolution=32)
    known = [result.seconds for result in train(state, dataset, recipe, seed=0)][1:]
    began = time.perf_counter()
    timing = time_training(
        SMALL, dataset, recipe, seed=0, seconds=seconds, device="cpu", scratch=tmp_path
    )
    assert time.perf_counter() - began < seconds + 20 * np.mean(known)
    assert np.mean(known) / 4 < timing.epoch < 4 * np.mean(known)  # the machine may be shared
    assert 0 < timing.evaluation < timing.training and timing.start > 0 < timing.checkpoint


def test_a_batch_of_all_images_is_timed_too(dataset, tmp_path):
    recipe = Recipe(num_epochs=2, batch_size=320)
    timing = time_training(
        SMALL, dataset, recipe, seed=0, seconds=0.01, device="cpu", scratch=tmp_path
    )
    assert timing.training > 0 and timing.evaluation > 0


@pytest.mark.slow
def test_a_plan_is_near_what_the_run_takes(tmp_path):
    """Within a factor of three: the machine of a test may be shared."""
    words = f"--space {SPACE} --budget 30M --trials 4 --epochs 2 --device-hours 0.0001"
    program = "from gmsearch import cli, plan; import sys; plan.SECONDS = 3; sys.exit(cli.main())"
    done = subprocess.run(
        [sys.executable, "-c", program, "plan", *words.split(), "--json"],
        capture_output=True,
        text=True,
        timeout=600,
        cwd=tmp_path,
    )
    assert done.returncode == 0, done.stderr
    plan = json.loads(done.stdout)
    assert list(tmp_path.iterdir()) == []  # no run is begun
    assert (plan["trials"], plan["epochs"]) == (4, 2)
    macs = [candidate["macs"] for candidate in plan["candidates"]]
    assert macs == sorted(macs) and macs[-1] <= BUDGET
    assert macs[0] == read_space(SPACE).cost(read_space(SPACE).cheapest.architecture).macs
    for told in (plan["wall"], plan["device_hours"]):
        assert 0 < told["low"] <= told["expected"] <= told["high"]

    line = f"run {words} --device-hours 9 --runs-dir {tmp_path} --name r".split()
    began = time.monotonic()
    done = subprocess.run([sys.executable, "-m", "gmsearch", *line], timeout=600)
    wall = time.monotonic() - began
    assert done.returncode == 0
    seconds = sum(
        json.loads(row)["seconds"]
        for file in tmp_path.glob("r/trials/*/metrics.jsonl")
        for row in file.read_text().splitlines()
    )
    assert 1 / 3 < plan["device_hours"]["expected"] * 3600 / seconds < 3
    assert 1 / 3 < plan["wall"]["expected"] / wall < 3


def test_limits_that_would_end_the_run_are_said():
    from gmsearch.plan import Plan, Range

    candidate = Candidate("smallest", "x", 10, Timing(1.0, 1.0, 1.0, 1.0))
    plan = Plan(4, 2, 2, 1, "GPU", [candidate], 1, 1, Range(7200, 1, 2), Range(3, 1, 2), 1.0, 2.0)
    assert plan.in_words().splitlines()[1:] == [
        "--max-hours 1 would stop it before its end",
        "--device-hours 2 would stop it before its end",
    ]
    assert "4 trials of 2 epochs on 2 workers: about 2:00:00" in plan.in_words()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("--budget 1K", "is below the smallest network"),
        ("--budget 30M --data nowhere", "--data nowhere: no such data"),
        ("--budget 30M --workers 0", "--workers: '0' is not a whole number"),
    ],
)
def test_a_mistake_is_told_in_a_line(capsys, words, message):
    assert main(["plan", "--space", str(SPACE), *words.split()]) == 2
    error = capsys.readouterr().err
    assert message in error and error.count("\n") == 1
