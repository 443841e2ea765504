"""The figures of a report as PNG files, in matplotlib."""

from itertools import cycle
from pathlib import Path
from typing import TYPE_CHECKING

import pandas as pd

from gmsearch.files import replacing
from gmsearch.palette import BLUE, GREY, RUNS
from gmsearch.report.charts import EFFECTS_AXIS, STATES, some_trials

if TYPE_CHECKING:
    from matplotlib.figure import Figure

DPI = 130


def save(figure: "Figure", path: Path) -> None:
    """Writes a PNG file, whole or not at all."""
    with replacing(path) as file:
        figure.savefig(file, dpi=DPI, format="png")


def draw_curves(path: Path, curves: pd.DataFrame, front: list[str]) -> None:
    """top1 after each epoch, as `curves_figure` has it."""
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator

    figure = Figure(figsize=(8, 4.5), layout="constrained")
    axes = figure.subplots()
    shown = some_trials(curves, front)
    for state, (words, colour) in STATES.items():
        label: str | None = words
        for _, curve in shown[(shown.state == state) & ~shown.id.isin(front)].groupby("number"):
            axes.plot(curve.epoch, curve.top1, ".-", color=colour, lw=0.8, ms=4, label=label)
            label = None
    label = "front"
    for name in front:
        curve = shown[shown.id == name]
        axes.plot(curve.epoch, curve.top1, ".-", color=BLUE, lw=1.6, label=label)
        label = None
    axes.set(xlabel="epoch", ylabel="top1 on minival, %", xlim=(0, None))
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.grid(alpha=0.2)
    if axes.lines:
        axes.legend(fontsize=8)
    save(figure, path)


def draw_hypervolume(path: Path, growth: pd.DataFrame) -> None:
    """The hypervolume against the epochs trained, a line for each run."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 4.5), layout="constrained")
    axes = figure.subplots()
    for (run, steps), colour in zip(growth.groupby("run", sort=False), cycle(RUNS)):
        epochs, values = [0, *steps.epochs], [0.0, *steps.hypervolume]
        axes.step(epochs, values, where="post", color=colour, lw=1.6, label=str(run))
    axes.set(xlabel="epochs trained, all trials together", ylabel="hypervolume, points of top1")
    axes.set(xlim=(0, None), ylim=(0, None))
    axes.grid(alpha=0.2)
    axes.legend(fontsize=8, loc="lower right")
    save(figure, path)


def draw_effects(path: Path, effects: pd.DataFrame) -> None:
    """Points of top1 of each level of each factor, as `effects_figure` has them."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 1 + 0.22 * len(effects)), layout="constrained")
    axes = figure.subplots()
    rows = effects.assign(y=range(len(effects)))
    for resolved, colour in ((True, BLUE), (False, GREY)):
        part = rows[rows.resolved == resolved]
        around = [part["mean"] - part.low, part.high - part["mean"]]
        axes.errorbar(part["mean"], part.y, xerr=around, fmt="o", color=colour, lw=1.5, ms=5)
    axes.axvline(0, color="black", lw=0.8)
    axes.set_yticks(range(len(effects)), effects.factor + "  " + effects.level, fontsize=8)
    axes.invert_yaxis()
    axes.set_xlabel(EFFECTS_AXIS)
    axes.grid(alpha=0.2, axis="x")
    save(figure, path)
