"""Where the time of a session went."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gmsearch.wall_time import IdleTime, WallTime

SECONDS = st.floats(0, 1e6)


@given(wall=st.floats(1, 1e6), workers=st.integers(1, 64), parts=st.lists(SECONDS, min_size=5))
def test_what_is_not_accounted_for_is_orchestration(wall, workers, parts):
    scale = min(1.0, wall / (sum(parts[:5]) or 1))
    data, start_up, training, evaluation, idle = (part * scale for part in parts[:5])
    spent = WallTime(wall, workers, data, start_up, training, evaluation, idle)
    assert sum(spent.shares.values()) == pytest.approx(1)
    of_workers = workers * (data + start_up) + training + evaluation + idle
    left = spent.shares["orchestration"] * wall * workers
    assert left == pytest.approx(max(0.0, wall * workers - of_workers), abs=1e-6 * wall * workers)


def test_it_is_read_as_it_was_written_and_nothing_else_is():
    spent = WallTime(10.0, 2, 1.0, 2.0, 8.0, 2.0, 1.0)
    assert WallTime.from_dict(spent.to_dict()) == spent
    assert spent.in_words() == (
        "10 s on 2 workers: training 40.0%, evaluation 10.0%, data 10.0%, start-up 20.0%, "
        "idle 5.0%, orchestration 15.0%"
    )
    for wrong in (None, [], {}, spent.to_dict() | {"wall": 0}, spent.to_dict() | {"idle": "x"}):
        assert WallTime.from_dict(wrong) is None


@given(st.lists(st.tuples(st.integers(0, 100), st.integers(0, 8)), max_size=20), st.integers(0, 9))
def test_idle_workers_are_counted_second_by_second(changes, rest):
    now = [0]
    idle, workers, expected = IdleTime(lambda: float(now[0])), 0, 0
    for after, then in changes:
        for _ in range(after):
            now[0] += 1
            expected += workers
        assert idle.seconds == expected
        idle.changed(then)
        workers = then
    now[0] += rest
    assert idle.seconds == expected + rest * workers
