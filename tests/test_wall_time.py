"""Where the time of a session went."""

import subprocess
import sys
import time
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gmsearch.wall_time import IdleTime, WallTime

SECONDS = st.floats(0, 1e6)


@given(wall=st.floats(1, 1e6), workers=st.integers(1, 64), parts=st.lists(SECONDS, min_size=6))
def test_what_is_not_accounted_for_is_orchestration_and_what_is_twice_shows(wall, workers, parts):
    spent = WallTime(wall, workers, *parts[:6])
    data, start_up, training, evaluation, idle, answer = parts[:6]
    assert sum(spent.shares.values()) == pytest.approx(1)
    of_workers = workers * (data + start_up + answer) + training + evaluation + idle
    left = spent.shares["orchestration"] * wall * workers
    assert left == pytest.approx(wall * workers - of_workers, rel=1e-6, abs=1e-6 * wall * workers)


def test_it_is_read_as_it_was_written_and_nothing_else_is():
    spent = WallTime(10.0, 2, 1.0, 2.0, 8.0, 2.0, 1.0, 0.5)
    assert WallTime.from_dict(spent.to_dict()) == spent
    assert spent.in_words() == (
        "10 s on 2 workers: training 40.0%, evaluation 10.0%, data 10.0%, start-up 20.0%, "
        "idle 5.0%, answer 5.0%, orchestration 10.0%"
    )
    older = {name: value for name, value in spent.to_dict().items() if name != "answer"}
    assert WallTime.from_dict(older) == replace(spent, answer=0.0)
    overlaps = replace(spent, training=12.0)
    assert overlaps.in_words().endswith("orchestration -10.0%")
    assert replace(spent, training=10.0 + 1e-9).in_words().endswith("orchestration 0.0%")
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


def test_the_first_session_of_a_command_counts_from_the_start_of_its_process():
    """The referee has another clock: it looks before and after it starts the process."""
    code = (
        "import time; time.sleep(1); from gmsearch import wall_time as w; import time\n"
        "print(w.process_start(), w.session_begins(), time.time())\n"
        "w.command_begins(); print(w.session_begins(), w.session_begins(), time.time())"
    )
    before = time.time()
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) as child:
        started = time.time()
        told = child.communicate()[0].split()
    start, alone, then, first, second, now = map(float, told)
    assert before - 0.1 <= start <= started + 0.1  # the system counts hundredths
    assert first == pytest.approx(start, abs=0.02)  # of a command
    assert start + 1 <= alone <= then <= second <= now  # in a program of another, and a second one
