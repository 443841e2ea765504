"""The picture in text: every dot of braille is read back by its name in Unicode, and is a trial or
a part of the front's line; every trial has its dot.
"""

import re
import time
import unicodedata
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gmsearch.experiment import Experiment, make_settings
from gmsearch.gmnet import gmnet_within
from gmsearch.record import TrialRecord
from gmsearch.scatter import scatter
from gmsearch.space_file import read_space_data

SPACE = read_space_data(Path(__file__).parents[1] / "search_spaces" / "tiny.yaml")
NETWORK = gmnet_within(300_000_000)
ACROSS, DOWN = 48, 10
# (across, up) within a character, of the dots as Unicode numbers them
NUMBERED = {"1": (0, 3), "2": (0, 2), "3": (0, 1), "7": (0, 0)}
NUMBERED |= {"4": (1, 3), "5": (1, 2), "6": (1, 1), "8": (1, 0)}


def experiment(budget: int = 300_000_000, **more) -> Experiment:
    base = {"name": "r", "space": SPACE, "budget": budget}
    return make_settings(Experiment, base | more)


def trial(number: int, top1: float, macs: int, **more) -> TrialRecord:
    fields = {"id": str(number), "state": "complete", "network": NETWORK, "params": macs // 100}
    fields |= {"activations": macs // 90, "curve": [{"top1": 0.0}, {"top1": top1}]}
    return TrialRecord(number=number, macs=macs, **fields | more)


def area(lines: list[str], rules: str = "│┤") -> list[str]:
    """The ten lines of the area, from the bottom, each as wide as it may be."""
    found = [re.split(f"[{rules}]", line, maxsplit=1)[1] for line in lines[1:-2]]
    assert len(found) == DOWN and all(len(line) <= ACROSS for line in found)
    return [line.ljust(ACROSS) for line in reversed(found)]


def dots(lines: list[str]) -> set[tuple[int, int]]:
    found = set()
    for row, line in enumerate(area(lines)):
        for column, character in enumerate(line):
            name = unicodedata.name(character)
            for number in name.removeprefix("BRAILLE PATTERN DOTS-") if "BRAILLE" in name else "":
                x, y = NUMBERED[number]
                found.add((2 * column + x, 4 * row + y))
    return found


def letters(lines: list[str]) -> dict[str, tuple[int, int]]:
    """Where a letter stands, as (column, row)."""
    return {
        character: (column, row)
        for row, line in enumerate(area(lines))
        for column, character in enumerate(line)
        if character in "GN"
    }


def near(dot: int, value: float, low: float, high: float, size: int) -> bool:
    """Whether no place is nearer to the value's own."""
    if low == high:
        return dot in (size // 2, (size - 1) // 2)
    return abs(dot - (value - low) / (high - low) * (size - 1)) <= 0.5 + 1e-9


def place(value: float, low: float, high: float, size: int) -> int:
    return next(dot for dot in range(size) if near(dot, value, low, high, size))


def undominated(points: list[tuple[int, float]]) -> list[tuple[int, float]]:
    return sorted(
        (x, y)
        for x, y in points
        if not any(a <= x and b >= y and (a < x or b > y) for a, b in points)
    )


TRIALS = st.tuples(st.integers(1, 300_000_000), st.floats(0, 100))
FEW = st.tuples(st.sampled_from([1, 2, 10, 300_000_000]), st.sampled_from([0.0, 33.3, 100.0]))


@given(st.lists(TRIALS, min_size=1, max_size=40) | st.lists(FEW, min_size=1, max_size=8))
@settings(deadline=None)
def test_every_trial_has_its_dot_and_every_dot_is_a_trials_or_the_lines(points):
    lines = scatter(experiment(), [trial(i, y, x) for i, (x, y) in enumerate(points)])
    found = dots(lines)
    left, low = min(x for x, _ in points), min(y for _, y in points)
    high = max(y for _, y in points)

    def at(x: int, y: float) -> tuple[int, int]:
        return place(x, left, 300_000_000, 2 * ACROSS), place(y, low, high, 4 * DOWN)

    own = {(x, y): any_of(found, x, y, left, low, high) for x, y in points}
    assert all(own.values())
    corners = [at(x, y) for x, y in undominated(points)]
    for dot in found - set().union(*own.values()):
        assert on_steps(dot, corners), dot


def any_of(found, x, y, left, low, high) -> set[tuple[int, int]]:
    """The dots that may stand for a trial."""
    return {
        dot
        for dot in found
        if near(dot[0], x, left, 300_000_000, 2 * ACROSS) and near(dot[1], y, low, high, 4 * DOWN)
    }


def on_steps(dot, corners) -> bool:
    """Within one dot, since a value between two places may go to either."""
    x, y = dot
    return any(
        (x0 - 1 <= x <= x1 + 1 and abs(y - y0) <= 1) or (abs(x - x1) <= 1 and y0 - 1 <= y <= y1 + 1)
        for (x0, y0), (x1, y1) in zip(corners, corners[1:], strict=False)
    )


def test_the_front_is_a_step_line_from_its_cheapest_to_its_best():
    lines = scatter(experiment(97), [trial(0, 10.0, 2), trial(1, 49.0, 50), trial(2, 20.0, 97)])
    along = {(x, 0) for x in range(49)} | {(48, y) for y in range(40)}
    assert dots(lines) == along | {(95, 10)}


def test_nothing_that_is_not_complete_is_drawn():
    running, failed = trial(0, 5.0, 10, state="running"), trial(1, 5.0, 10, state="failed")
    nothing_yet = trial(2, 5.0, 10, state="running", curve=[])
    assert scatter(experiment(), [running, failed, nothing_yet]) == []
    assert scatter(experiment(), []) == []
    one = [trial(3, 7.0, 100_000_000)]
    assert scatter(experiment(), [*one, running, failed]) == scatter(experiment(), one)


def test_one_trial_stands_in_the_middle_and_its_top1_beside_it():
    lines = scatter(experiment(300), [trial(0, 42.0, 300)])
    assert dots(lines) == {(47, 19)}
    assert [line for line in lines if line.startswith("42.0 ┤")] == [lines[1 + 5]]
    assert lines[-1].strip() == "budget 300 MACs"


def test_axes_tell_the_lowest_and_the_highest_with_their_units():
    records = [trial(0, 8.25, 78_900_000), trial(1, 65.6, 190_000_000)]
    lines = scatter(experiment(), records)
    assert lines[0] == "top1 in % against MACs: dots trials, line front"
    assert lines[1].startswith("65.6 ┤") and lines[10].startswith(" 8.2 ┤")
    assert all(line.startswith("     │") for line in lines[2:10])
    assert lines[12].split() == ["78.9M", "budget", "300M", "MACs"]
    assert len(lines[11]) == len(lines[12]) == len("65.6 ┤") + ACROSS
    by_params = scatter(experiment(objectives=("top1", "params", "macs")), records)
    assert by_params[12].split() == ["789K", "1.9M", "params"]
    assert by_params[0].endswith("line front of these two")


def test_baselines_are_letters_where_they_stand():
    records = [trial(0, 0.0, 0), trial(1, 100.0, 300), trial(2, 53.0, 160, baseline="GmNet")]
    records.append(trial(3, 25.0, 300, baseline="no gates"))
    lines = scatter(experiment(300), records)
    assert letters(lines) == {"G": (25, 5), "N": (47, 2)}
    assert lines[0].endswith(", G GmNet, N no gates")
    records = [
        trial(0, 0.0, 0),
        *(trial(1, 9.0, 30, baseline=name) for name in ("GmNet", "no gates")),
    ]
    lines = scatter(experiment(30), records)
    assert lines[0].endswith(": dots trials, line front, B both baselines")
    assert area(lines)[-1].endswith("B")


def test_ten_thousand_trials_take_the_same_lines_and_little_time():
    rng = np.random.default_rng(0)
    points = [(int(x), float(y)) for x, y in rng.uniform((1e6, 1), (3e8, 90), (10_000, 2))]
    records = [trial(i, y, x) for i, (x, y) in enumerate(points)]
    began = time.process_time()
    lines = scatter(experiment(), records)
    assert time.process_time() - began < 2
    assert len(lines) == 13 and max(map(len, lines)) <= 60
    found = dots(lines)
    left, low, high = min(points)[0], min(y for _, y in points), max(y for _, y in points)
    for x, y in points:
        assert (
            place(x, left, 300_000_000, 2 * ACROSS),
            place(y, low, high, 4 * DOWN),
        ) in found


def test_without_unicode_there_is_a_character_for_each_trial():
    rng = np.random.default_rng(1)
    points = [(int(x), float(y)) for x, y in rng.uniform((1e6, 1), (3e8, 90), (30, 2))]
    records = [trial(i, y, x) for i, (x, y) in enumerate(points)]
    records.append(trial(30, 0.5, 300_000_000, baseline="GmNet"))
    lines = scatter(experiment(), records, ascii_only=True)
    assert all(line.isascii() for line in lines) and len(lines) == 13
    rows = area(lines, r"|+")
    left, high = min(x for x, _ in points), max(y for _, y in points)
    expected = {(47, 0): "G"}
    for mark, those in ((".", points), ("*", undominated([*points, (300_000_000, 0.5)]))):
        for x, y in those:
            expected[place(x, left, 300_000_000, ACROSS), place(y, 0.5, high, DOWN)] = mark
    assert {
        (column, row): character
        for row, line in enumerate(rows)
        for column, character in enumerate(line)
        if character != " "
    } == expected


@pytest.mark.parametrize("ascii_only", [False, True])
def test_a_tie_of_all_trials_is_one_mark(ascii_only):
    lines = scatter(experiment(7), [trial(i, 3.0, 7) for i in range(5)], ascii_only=ascii_only)
    characters = "".join(area(lines, r"|+" if ascii_only else "│┤")).split()
    assert len(characters) == 1 and len(characters[0]) == 1
