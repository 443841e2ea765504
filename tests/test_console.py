"""The live table: what is on the screen of a terminal of some size and encoding."""

import io
import subprocess
import sys

import pytest
from rich.console import Console
from test_scatter import experiment, trial

from gmsearch.console import Display
from gmsearch.scatter import scatter


class Terminal(io.TextIOWrapper):
    def isatty(self) -> bool:
        return True


def screen(records, width: int, height: int, encoding: str = "utf-8") -> list[str]:
    file = Terminal(io.BytesIO(), encoding=encoding, errors="replace")
    console = Console(file=file, width=width, height=height, force_terminal=True, color_system=None)
    display = Display(console, experiment())
    display.update(records)
    return [
        "".join(segment.text for segment in line).rstrip()
        for line in console.render_lines(display._render())
    ]


def trials(count: int) -> list:
    curve = [{"top1": 1.0, "seconds": 1.0}]
    return [
        trial(i, 0.0, 1_000_000 * (i + 1), curve=[*curve, {"top1": 2.0 * i, "seconds": 1.0}])
        for i in range(count)
    ]


def has(lines: list[str], picture: list[str]) -> bool:
    at = lines.index(picture[0]) if picture[0] in lines else 0
    return lines[at : at + len(picture)] == [line.rstrip() for line in picture]


def test_the_picture_is_there_where_it_fits_with_all_the_rest():
    records = trials(3)
    picture = scatter(experiment(), records)
    tall = screen(records, 80, 60)
    assert has(tall, picture) and "3 of 20 trainings" in tall[-1]
    needed = len(tall)
    assert has(screen(records, 80, needed + 1), picture)
    low = screen(records, 80, needed - 1)
    assert not any("top1 in %" in line for line in low) and "3 of 20 trainings" in low[-1]
    assert not any("top1 in %" in line for line in screen(records, 50, 60))


def test_a_long_front_leaves_room_for_the_picture():
    lines = screen(trials(40), 100, 45)
    assert "front so far, the best 8 of 40" in lines
    assert has(lines, scatter(experiment(), trials(40)))
    assert len(lines) < 45


def test_before_the_first_trial_is_complete_there_is_no_picture():
    assert not any("top1 in %" in line for line in screen([], 80, 60))


@pytest.mark.parametrize("encoding", ["ascii", "latin-1"])
def test_a_terminal_without_utf_8_gets_a_picture_that_it_can_show(encoding):
    records = trials(3)
    picture = scatter(experiment(), records, ascii_only=True)
    assert has(screen(records, 80, 60, encoding), picture)


def test_words_that_an_encoding_lacks_are_no_error():
    program = "from gmsearch.console import make_console; make_console().print('relu6(h)·h')"
    done = subprocess.run(
        [sys.executable, "-X", "utf8=0", "-c", program],
        capture_output=True,
        env={"PATH": "/usr/bin", "PYTHONPATH": ":".join(sys.path), "PYTHONIOENCODING": "ascii"},
    )
    assert (done.returncode, done.stdout) == (0, b"relu6(h)?h\n"), done.stderr


def test_a_narrow_terminal_shortens_the_network_and_not_the_figures():
    lines = screen(trials(2), 42, 60)
    rows = [line.split() for line in lines[: lines.index("front so far")]]
    assert ["1", "2.0", "2", "2M", "20K"] == [row for row in rows if row[:1] == ["1"]][0][:5]
