"""Pictures to look at: front.png, what a search found, and what is in a space."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from gmsearch.errors import SettingsError
from gmsearch.experiment import Experiment
from gmsearch.files import replacing
from gmsearch.palette import BASELINE_MARKS, BLUE, COST_WORDS, ORANGE, PALE, VERMILION, in_words
from gmsearch.record import TrialRecord, front_of, interval_of, tied
from gmsearch.space import format_size
from gmsearch.survey import Survey, feasible_in_words, shares

if TYPE_CHECKING:  # it takes a second to import, and few commands need it
    from matplotlib.figure import Figure

NUM_BARS = 40


def draw_front(
    path: Path, experiment: Experiment, records: Sequence[TrialRecord], num_minival: int | None
) -> None:
    """Draws all complete trials, the front, the baselines and the budget: top1 over the first cost.
    The line is the front over that cost alone, the dots are that over all objectives.

    The bars are 95 % intervals from the number of minival images, where it is known; a seed's own
    noise comes on top. Dots of the front whose interval overlaps their neighbour's are hollow.
    """
    from matplotlib.figure import Figure

    cost = experiment.objectives[1]
    complete = [record for record in records if record.state == "complete"]
    searched = [record for record in complete if not record.baseline]
    best = front_of(complete, experiment.objectives)
    line = sorted(front_of(complete, ("top1", cost)), key=lambda record: getattr(record, cost))

    figure = Figure(figsize=(8, 5), layout="constrained")
    axes = figure.subplots()
    if complete and num_minival is not None:
        costs, top1s = _columns(complete, cost)
        ends = np.array([interval_of(top1, num_minival) for top1 in top1s]).T
        around = np.abs(ends - top1s)
        axes.errorbar(costs, top1s, around, fmt="none", color="0.85", lw=1, zorder=0)
    axes.scatter(*_columns(searched, cost), s=28, color=PALE, label="searched")
    axes.step(*_columns(line, cost), where="post", color=BLUE, lw=1.2)
    ties = tied(best, num_minival)
    for label, face in (("front", BLUE), ("front: a tie", "white")):
        dots = [record for record in best if (record.id in ties) == (face != BLUE)]
        if dots:
            at = _columns(dots, cost)
            axes.scatter(*at, s=44, c=face, edgecolors=BLUE, lw=1.5, zorder=3, label=label)
    for record in best:
        place = _point(record, cost)
        axes.annotate(record.id, place, xytext=(4, -10), textcoords="offset points", fontsize=7)
    for record in complete:
        if record.baseline:
            x, y = _point(record, cost)
            mark = BASELINE_MARKS[record.baseline]
            axes.scatter(x, y, s=70, marker=mark, color=ORANGE, label=record.baseline, zorder=4)
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
    axes.grid(alpha=0.2)
    axes.legend(loc="upper left", fontsize=8)
    _write(path, figure)


def draw_space(path: Path, result: Survey) -> None:
    """Draws how many MACs the drawn settings have, and which share of them fits each budget.

    Raises SettingsError where the picture cannot be written.
    """
    from matplotlib.figure import Figure

    if path.is_dir() or path.suffix.lower() != ".png":
        raise SettingsError(f"--plot {path}: a PNG is drawn; give a file such as space.png")
    figure = Figure(figsize=(8, 6.5), layout="constrained")
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
    try:
        _write(path, figure)
    except OSError as error:
        raise SettingsError(f"--plot {path}: cannot be written: {error.strerror}") from None


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


def _write(path: Path, figure: "Figure") -> None:
    with replacing(path) as file:
        figure.savefig(file, dpi=130, format="png")


def _point(record: TrialRecord, cost: str) -> tuple[float, float]:
    return getattr(record, cost) / 1e6, record.curve[-1]["top1"]


def _columns(records: Sequence[TrialRecord], cost: str) -> tuple[list[float], list[float]]:
    points = [_point(record, cost) for record in records]
    return [x for x, _ in points], [y for _, y in points]
