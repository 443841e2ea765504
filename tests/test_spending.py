"""Device-hours: what is counted, and that a run stops at its limit and loses nothing by it."""

import io
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest
from made_runs import curve, make_run
from rich.console import Console

from gmsearch.console import answer
from gmsearch.gmnet import gmnet
from gmsearch.history import read_history
from gmsearch.record import TrialRecord
from gmsearch.spending import Meter, spent_in_words

SPACE = Path(__file__).parents[1] / "search_spaces" / "tiny.yaml"


def record(number: int, epochs: int) -> TrialRecord:
    """A trial with so many epochs of 2 seconds."""
    network = gmnet("gmnet_s1", base_width=2)
    done = curve(*range(epochs))
    return TrialRecord(number, network.id, "running", network, 1, 1, 1, seed=number, curve=done)


@pytest.mark.parametrize("trials", [1, 2])
def test_one_is_told_as_one(tmp_path, trials):
    """Nothing that a search of one trial says of itself is in the plural."""
    folder, study = make_run(tmp_path / "r", [50.0] * trials, early_stop="off", trials=trials)
    history = read_history(folder.path)
    console = Console(width=200, record=True, file=io.StringIO(), markup=False, highlight=False)
    console.print(spent_in_words(history.experiment, history.records))
    console.print(answer(history.experiment, history.records, 500))
    told = console.export_text()
    one = ["1 of 1 trial has ended", "; 1 network trained"]
    two = ["2 of 2 trials have ended", "; 2 networks trained"]
    for words in one if trials == 1 else two:
        assert words in told
    assert trials == 2 or not re.search(r"\b1 (trial|training|network|seed)s\b", told)


def test_finished_epochs_count_of_all_sessions_and_what_is_under_way_since():
    now, records = 0.0, {0: record(0, 5)}  # of an earlier session
    meter = Meter(None, 0.5, records, clock=lambda: now)
    assert meter.hours == pytest.approx(0.5 * 10 / 3600)
    records[1] = record(1, 0)
    now = 100.0
    assert meter.hours == pytest.approx(0.5 * 10 / 3600)  # a first epoch counts when it is done
    records[1] = replace(records[1], curve=curve(1.0))
    meter.heard(1)
    now = 103.0
    assert meter.hours == pytest.approx(0.5 * (10 + 2 + 3) / 3600)
    records[1] = replace(records[1], curve=curve(1.0, 2.0))
    meter.heard(1)
    meter.ended(1)
    now = 200.0
    assert meter.hours == pytest.approx(0.5 * (10 + 4) / 3600)
    assert not meter.is_spent


def test_a_stopped_training_that_another_trial_goes_on_with_counts_once():
    records = {0: record(0, 5)}
    meter = Meter(None, 1.0, records, clock=lambda: 0.0)
    records[7] = replace(records.pop(0), number=7, curve=curve(*range(6)))
    meter.heard(7)
    assert meter.hours == pytest.approx(6 * 2 / 3600)


@pytest.mark.parametrize(("limit", "is_spent"), [(10 / 3600, True), (10.1 / 3600, False)])
def test_a_limit_is_reached_by_what_was_done_before(limit, is_spent):
    assert Meter(limit, 1.0, {0: record(0, 5)}).is_spent is is_spent


@pytest.mark.slow
def test_a_run_stops_at_its_device_hours_and_goes_on_with_more(tmp_path):
    limit = 6 / 3600
    words = f"run --space {SPACE} --budget 30M --trials 3 --epochs 12 --device-hours {limit}"

    def gmsearch(line: str) -> str:
        command = [sys.executable, "-m", "gmsearch", *line.split()]
        done = subprocess.run(command, capture_output=True, text=True, timeout=600)
        assert done.returncode == 0, done.stderr
        return done.stdout

    said = gmsearch(f"{words} --runs-dir {tmp_path} --name r")
    assert f"stopped: --device-hours {limit:g} are spent" in said
    before = pd.read_csv(tmp_path / "r" / "trials.csv")
    assert "running" in set(before.state)
    longest = (before.seconds / before.epochs).max()
    # Each worker may have an epoch under way that counts and is cut off, or ends late.
    assert limit * 3600 - 3 * longest <= before.seconds.sum() <= limit * 3600 + 3 * longest
    said = gmsearch(f"resume {tmp_path / 'r'} --device-hours 1")
    assert "are spent" not in said
    after = pd.read_csv(tmp_path / "r" / "trials.csv")
    assert after.state.tolist() == ["complete"] * 3 and set(after.epochs) == {12}
    assert after.id[: len(before)].tolist() == before.id.tolist()
