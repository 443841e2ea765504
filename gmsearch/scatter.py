"""A search as a small picture in text: its trials as dots of braille, top1 against the first cost.

Half a dozen trials or ten thousand take the same few lines, in a terminal as in a report.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from gmsearch.experiment import Experiment
from gmsearch.palette import COST_WORDS
from gmsearch.record import TrialRecord, front_of
from gmsearch.space import format_size

WIDTH, HEIGHT = 48, 10  # characters of the area within the axes
BLANK = 0x2800  # the braille character without a dot
# What each dot of a braille character adds to it, by row and column.
BITS = ((0x01, 0x08), (0x02, 0x10), (0x04, 0x20), (0x40, 0x80))
DOTS_DOWN, DOTS_ACROSS = len(BITS), len(BITS[0])
LETTERS = {"GmNet": "G", "no gates": "N"}  # the baselines
BOTH = "B"  # of them, where they share a character

Place = tuple[int, int]  # across from the left, up from the bottom


@dataclass(frozen=True)
class _Axis:
    """Values from `low` to `high` on `size` places; one value alone stands in the middle."""

    low: float
    high: float
    size: int

    def place(self, value: float) -> int:
        if self.low == self.high:
            return (self.size - 1) // 2
        return round((value - self.low) / (self.high - self.low) * (self.size - 1))


def scatter(
    experiment: Experiment, records: Iterable[TrialRecord], *, ascii_only: bool = False
) -> list[str]:
    """Lines with all complete trials, the front of top1 and the first cost as a step line, and a
    letter for each baseline, which hides the dots of its character; nothing where no trial is
    complete.

    In ASCII there are characters for dots, and the front is marked trials without a line.
    """
    complete = [record for record in records if record.state == "complete"]
    if not complete:
        return []
    cost = experiment.objectives[1]
    down, across = (1, 1) if ascii_only else (DOTS_DOWN, DOTS_ACROSS)
    costs = [getattr(record, cost) for record in complete]
    top1s = [record.curve[-1]["top1"] for record in complete]
    right = max(costs + [experiment.budget]) if cost == "macs" else max(costs)
    x_axis = _Axis(min(costs), right, WIDTH * across)
    y_axis = _Axis(min(top1s), max(top1s), HEIGHT * down)

    def places(of: Sequence[TrialRecord]) -> list[Place]:
        return [
            (x_axis.place(getattr(record, cost)), y_axis.place(record.curve[-1]["top1"]))
            for record in of
        ]

    best = sorted(front_of(complete, ("top1", cost)), key=lambda record: getattr(record, cost))
    baselines = [record for record in complete if record.baseline]
    letters: dict[Place, str] = {}
    for record, (x, y) in zip(baselines, places(baselines), strict=True):
        cell, letter = (x // across, y // down), LETTERS[record.baseline or ""]
        letters[cell] = BOTH if letters.get(cell, letter) != letter else letter
    if ascii_only:
        marks = dict.fromkeys(places(complete), ".") | dict.fromkeys(places(best), "*")
    else:
        marks = _braille({*places(complete), *_steps(places(best))})
    area = _area(marks | letters)
    gutter = len(f"{y_axis.high:.1f}")
    return [
        _legend(experiment, set(letters.values()), ascii_only),
        *_with_top1(area, y_axis, down, gutter, ascii_only),
        *(
            " " * (gutter + 1) + line
            for line in _costs(x_axis, across, cost, experiment.budget, ascii_only)
        ),
    ]


def _steps(corners: Sequence[Place]) -> set[Place]:
    """The step line through the front: across at the top1 of each, up at the cost of the next."""
    dots = set(corners)
    for (x, y), (next_x, next_y) in zip(corners, corners[1:], strict=False):
        dots |= {(across, y) for across in range(x, next_x + 1)}
        dots |= {(next_x, up) for up in range(y, next_y + 1)}
    return dots


def _braille(dots: Iterable[Place]) -> dict[Place, str]:
    """The characters that have these dots, by place."""
    codes: dict[Place, int] = {}
    for x, y in dots:
        cell = (x // DOTS_ACROSS, y // DOTS_DOWN)
        bit = BITS[DOTS_DOWN - 1 - y % DOTS_DOWN][x % DOTS_ACROSS]
        codes[cell] = codes.get(cell, BLANK) | bit
    return {cell: chr(code) for cell, code in codes.items()}


def _area(marks: dict[Place, str]) -> list[str]:
    """The lines within the axes, from the top."""
    return [
        "".join(marks.get((column, row), " ") for column in range(WIDTH)).rstrip()
        for row in reversed(range(HEIGHT))
    ]


def _legend(experiment: Experiment, letters: set[str], ascii_only: bool) -> str:
    _, cost, *others = experiment.objectives
    front = ". trials, * front" if ascii_only else "dots trials, line front"
    front += " of these two" if others else ""
    names = {**{letter: name for name, letter in LETTERS.items()}, BOTH: "both baselines"}
    told = "".join(f", {letter} {name}" for letter, name in names.items() if letter in letters)
    return f"top1 in % against {COST_WORDS[cost]}: {front}{told}"


def _with_top1(
    area: Sequence[str], axis: _Axis, down: int, gutter: int, ascii_only: bool
) -> list[str]:
    """The lines with their axis to the left, the lowest and the highest top1 on it."""
    rule, tick = "|+" if ascii_only else "│┤"
    labels = {axis.place(value) // down: f"{value:.1f}" for value in (axis.low, axis.high)}
    return [
        f"{labels.get(row, ''):>{gutter}} {tick if row in labels else rule}{line}"
        for row, line in zip(reversed(range(HEIGHT)), area, strict=True)
    ]


def _costs(axis: _Axis, across: int, cost: str, budget: int, ascii_only: bool) -> list[str]:
    """The axis below, and under it the lowest cost and the highest, or the budget."""
    corner, rule, tick = "+-+" if ascii_only else "└─┴"
    ticks = {axis.place(value) // across for value in (axis.low, axis.high)}
    line = "".join(tick if column in ticks else rule for column in range(WIDTH))
    high = f"{format_size(axis.high)} {COST_WORDS[cost]}"
    if cost == "macs" and axis.high == budget:
        high = f"budget {high}"
    words = high.center(WIDTH) if axis.low == axis.high else high.rjust(WIDTH)
    if axis.low < axis.high:
        low = format_size(axis.low)
        words = low + words[len(low) :]
    return [corner + line, " " + words.rstrip()]
