"""Pictures to look at: front.png, what a search found, and what is in a space."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from gmsearch.errors import SettingsError
from gmsearch.experiment import Experiment
from gmsearch.figure_file import Entry, add_legend, new_figure, write_png
from gmsearch.palette import BASELINE_MARKS, BLUE, COST_WORDS, ORANGE, PALE, VERMILION, in_words
from gmsearch.record import TrialRecord, front_of, tied
from gmsearch.space import format_size
from gmsearch.survey import Survey, feasible_in_words, shares

if TYPE_CHECKING:
    from gmsearch.figure_file import Axes, Figure

NUM_BARS = 40


def draw_front(
    path: Path, experiment: Experiment, records: Sequence[TrialRecord], num_minival: int | None
) -> None:
    """Writes a PNG file of `front_picture`."""
    write_png(front_picture(experiment, records, num_minival), path)


def front_picture(
    experiment: Experiment, records: Sequence[TrialRecord], num_minival: int | None
) -> "Figure":
    """All complete trials, the front, the baselines and the budget: top1 over the first cost, as
    `draw_trials` has them. A place has the id of what is there.
    """
    cost = experiment.objectives[1]
    figure = new_figure(8, 5)
    axes = figure.subplots()
    entries = draw_trials(axes, experiment, records, "top1", num_minival)
    ids: dict[tuple[float, float], list[str]] = {}
    for record in front_of(records, experiment.objectives):
        ids.setdefault(_point(record, cost, "top1"), []).append(record.id)
    for place, (first, *others) in ids.items():
        words = f"{first} and {len(others)} more" if others else first
        axes.annotate(words, place, xytext=(4, -10), textcoords="offset points", fontsize=7)
    if cost == "macs":
        axes.axvline(experiment.budget / 1e6, color="0.3", ls=":", lw=1)
        axes.annotate(
            f"budget {format_size(experiment.budget)}",
            (experiment.budget / 1e6, 0.02),
            xycoords=("data", "axes fraction"),
            xytext=(-4, 0),
            textcoords="offset points",
            ha="right",
            fontsize=8,
        )
    axes.set(xlabel=f"million {COST_WORDS[cost]}", ylabel="top1 on minival, %")
    title = f"{experiment.name}: {experiment.fidelity_in_words()}"
    if len(experiment.objectives) > 2:
        words = ", ".join(map(in_words, experiment.objectives[1:]))
        title += f"\nblue: the front over {words}; line: over {COST_WORDS[cost]} alone"
    axes.set_title(title, fontsize=10)
    columns = max(1, len(entries))
    add_legend(figure, entries, loc="outside lower center", ncols=columns, fontsize=8)
    return figure


class _Look(NamedTuple):
    """How trials of a kind are drawn."""

    colour: str
    mark: str
    size: float  # square points
    zorder: float


def draw_trials(
    axes: "Axes",
    experiment: Experiment,
    records: Sequence[TrialRecord],
    accuracy: str,
    num_minival: int | None,
) -> list[Entry]:
    """Draws the complete trials, the front and the baselines: an accuracy over the first cost; for
    the legend, what there is. The line is the front over these two alone, the dots are that over
    all objectives.

    The bars are 95 % intervals from the number of images, where it is known; a seed's own noise
    comes on top. Dots of the front whose interval overlaps their neighbour's are hollow.
    """
    cost = experiment.objectives[1]
    complete = [record for record in records if record.state == "complete"]
    best = front_of(complete, experiment.objectives)
    line = sorted(front_of(complete, (accuracy, cost)), key=lambda record: getattr(record, cost))
    _draw_intervals(axes, complete, cost, accuracy, num_minival)
    axes.step(*_columns(line, cost, accuracy), where="post", color=BLUE, lw=1.2)
    ties, on_front = tied(best, num_minival, accuracy), {record.number for record in best}
    looks = {
        "searched": _Look(PALE, "o", 28, 1),
        "front": _Look(BLUE, "o", 44, 3),
        **{name: _Look(ORANGE, mark, 70, 4) for name, mark in BASELINE_MARKS.items()},
    }
    groups: dict[tuple[str, bool], list[TrialRecord]] = {
        (name, is_tie): [] for name in looks for is_tie in (False, True)
    }
    for record in complete:
        is_best = record.number in on_front
        name = record.baseline or ("front" if is_best else "searched")
        groups[name, is_best and record.id in ties].append(record)
    entries: list[Entry] = []
    for (name, is_tie), dots in groups.items():
        if dots:
            colour, mark, size, zorder = looks[name]
            face = "white" if is_tie else colour
            at = _columns(dots, cost, accuracy)
            look: dict[str, Any] = {
                "marker": mark,
                "c": face,
                "edgecolors": colour,
                "lw": 1.5,
                "zorder": zorder,
            }
            label = f"{name}: a tie" if is_tie else name
            entries.append((label, axes.scatter(*at, s=size, label=label, **look)))
    axes.grid(alpha=0.2)
    return entries


def _draw_intervals(
    axes: "Axes",
    records: Sequence[TrialRecord],
    cost: str,
    accuracy: str,
    num_minival: int | None,
) -> None:
    spans = [(record, record.interval(accuracy, num_minival)) for record in records]
    known = [(record, span) for record, span in spans if span is not None]
    if known:
        costs, values = _columns([record for record, _ in known], cost, accuracy)
        around = np.abs(np.array([span for _, span in known]).T - values)
        axes.errorbar(costs, values, around, fmt="none", color="0.85", lw=1, zorder=0)


def draw_space(path: Path, result: Survey) -> None:
    """Writes a PNG file of `space_picture`. Raises SettingsError where it cannot be written."""
    if path.is_dir() or path.suffix.lower() != ".png":
        raise SettingsError(f"--plot {path}: a PNG is drawn; give a file such as space.png")
    try:
        write_png(space_picture(result), path)
    except OSError as error:
        raise SettingsError(f"--plot {path}: cannot be written: {error.strerror}") from None


def space_picture(result: Survey) -> "Figure":
    """How many MACs the drawn settings have, and which share of them fits each budget."""
    figure = new_figure(8, 6.5)
    above, below = figure.subplots(2, 1, sharex=True)
    ends = result.smallest, max(result.largest, 1.01 * result.smallest)
    _draw_histogram(above, result, np.geomspace(*ends, NUM_BARS + 1))
    _draw_shares(below, result, np.unique([result.smallest, *result.macs, result.largest]))
    _number(below, ends[1] / ends[0])
    if result.budget is not None:
        for axes in (above, below):
            axes.axvline(result.budget / 1e6, color=VERMILION, lw=1.5)
    space = result.space
    below.set_xlabel(f"million MACs at {space.resolution} px and {space.num_classes} classes")
    above.set_title(f"space {space.name}", loc="left", fontsize=11)
    return figure


def _draw_histogram(axes: Any, result: Survey, edges: np.ndarray) -> None:
    """Bars of equal width on a logarithmic axis."""
    counts = np.histogram(result.macs, edges)[0]
    axes.stairs(100 * counts / len(result.macs), edges / 1e6, fill=True, color=BLUE)
    axes.set(xscale="log", ylabel="% of drawn settings")
    if result.budget is not None:
        words = feasible_in_words(result, result.budget)
        axes.set_title(words, loc="right", fontsize=9, color=VERMILION)
    _bare(axes)


def _draw_shares(axes: Any, result: Survey, budgets: np.ndarray) -> None:
    """The share within each budget, in its 95 % band."""
    share, low, high = 100 * shares(result, budgets).T
    axes.fill_between(budgets / 1e6, low, high, step="post", color=BLUE, alpha=0.3, lw=0)
    axes.step(budgets / 1e6, share, where="post", color=BLUE, lw=1)
    axes.set(ylim=(0, 100), ylabel="% within a budget, 95 % band")
    _bare(axes)


def _number(axes: Any, span: float) -> None:
    """Plain numbers along a logarithmic axis, enough of them on a short one too."""
    from matplotlib.ticker import LogLocator

    axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5) if span > 10 else range(1, 10)))
    axes.xaxis.set_major_formatter(lambda value, _: f"{value:g}")
    axes.xaxis.set_minor_formatter(lambda *_: "")


def _bare(axes: Any) -> None:
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(axis="y", alpha=0.2)
    axes.set_axisbelow(True)


def _point(record: TrialRecord, cost: str, accuracy: str) -> tuple[float, float]:
    return getattr(record, cost) / 1e6, record.figure(accuracy)


def _columns(
    records: Sequence[TrialRecord], cost: str, accuracy: str
) -> tuple[list[float], list[float]]:
    points = [_point(record, cost, accuracy) for record in records]
    return [x for x, _ in points], [y for _, y in points]
