"""The figures of a report as PNG files, in matplotlib."""

from collections.abc import Iterator, Mapping
from itertools import cycle
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from gmsearch.band_picture import Line, bands_figure
from gmsearch.effects import OF_GATES
from gmsearch.files import replacing
from gmsearch.history import History
from gmsearch.palette import BASELINE_MARKS, BLUE, GREY, ORANGE, PALE, RUNS, VERMILION, in_words
from gmsearch.picture import draw_front
from gmsearch.radii import SIDES
from gmsearch.record import TrialRecord, band_cost_in_words, front_of
from gmsearch.report.charts import EFFECTS_AXIS, STATES, evenly, joined, shown_curves
from gmsearch.report.drawing import draw_best
from gmsearch.report.tables import Tables

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

DPI = 130


def figures_of(history: History, tables: Tables) -> dict[str, "Figure"]:
    """What the page and its folder both show, as SVG and as PNG, by the names of the files; the
    networks by their ids.
    """
    found = {}
    if history.front and len(history.experiment.accuracies) > 1:
        found["objectives"] = objectives_figure(history)
    if band_cost_in_words(history.records):
        found["bands"] = bands_figure(list(band_lines(history)))
    if tables.band_effects is not None:
        found["band_effects"] = band_effects_figure(tables.band_effects)
    return found | {record.id: figure for record, figure in draw_best(history)}


def draw_all(
    history: History, tables: Tables, figures: Mapping[str, "Figure"], folder: Path
) -> list[Path]:
    """Writes the pictures of what there is; returns the files."""
    files = []

    def named(name: str) -> Path:
        files.append(folder / f"{name}.png")
        return files[-1]

    if tables.front is not None:
        draw_front(named("front"), history.experiment, history.records, history.num_minival)
    if tables.curves is not None:
        ids = [] if tables.front is None else list(tables.front.id)
        draw_curves(named("curves"), tables.curves, ids)
    if tables.hypervolume is not None:
        draw_hypervolume(named("hypervolume"), tables.hypervolume)
    if tables.effects is not None:
        draw_effects(named("effects"), tables.effects)
    for name, figure in figures.items():
        save(figure, named(name))
    return files


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
    shown = shown_curves(curves, front)
    of_front = shown.id.isin(front)
    groups = [
        (shown[(shown.state == state) & ~of_front], words, colour, 0.8, 4)
        for state, (words, colour) in STATES.items()
    ]
    for part, words, colour, lw, ms in (*groups, (shown[of_front], "front", BLUE, 1.6, 6)):
        if not part.empty:
            epochs, top1s, _ = joined(part)
            axes.plot(
                _with_gaps(epochs), _with_gaps(top1s), ".-", color=colour, lw=lw, ms=ms, label=words
            )
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.grid(alpha=0.2)
    if axes.lines:
        axes.legend(fontsize=8)
    save(figure, path)


def _with_gaps(values: list) -> np.ndarray:
    return np.array(values, dtype=float)  # None is NaN, where a line is cut


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
    _effects(axes, effects.assign(y=range(len(effects))))
    axes.set_yticks(range(len(effects)), effects.factor + "  " + effects.level, fontsize=8)
    axes.invert_yaxis()
    axes.set_xlabel(EFFECTS_AXIS)
    save(figure, path)


def band_effects_figure(effects: pd.DataFrame) -> "Figure":
    """What each level of a gate does to each band, at equal MACs: a panel for each band, with the
    same rows in all.
    """
    from matplotlib.figure import Figure

    of_gates = effects[effects.factor.isin(OF_GATES)]
    names = list(dict.fromkeys(of_gates.factor + "  " + of_gates.level))
    bands = list(dict.fromkeys(of_gates.band))
    rows, columns = len(SIDES), max(1, len(bands) // len(SIDES))
    figure = Figure(
        figsize=(1.8 + 2.6 * columns, rows * (1 + 0.19 * len(names))), layout="constrained"
    )
    panels = figure.subplots(rows, columns, squeeze=False, sharex=True, sharey=True)
    for axes, band in zip(panels.T.ravel(), bands, strict=False):
        part = of_gates[of_gates.band == band]
        _effects(axes, part.assign(y=[names.index(n) for n in part.factor + "  " + part.level]))
        axes.set_title(f"on {band}", fontsize=9)
    for axes in panels[:, 0]:
        axes.set_yticks(range(len(names)), names, fontsize=7)
    panels[0, 0].invert_yaxis()
    figure.supxlabel("points of top1 on the part at equal MACs (95 % interval)", fontsize=9)
    return figure


def _effects(axes: "Axes", rows: pd.DataFrame) -> None:
    """Points with their intervals, at the height `y`; blue where 0 is not in them."""
    for resolved, colour in ((True, BLUE), (False, GREY)):
        part = rows[rows.resolved == resolved]
        around = [part["mean"] - part.low, part.high - part["mean"]]
        axes.errorbar(part["mean"], part.y, xerr=around, fmt="o", color=colour, lw=1.5, ms=5)
    axes.axvline(0, color="black", lw=0.8)
    axes.grid(alpha=0.2, axis="x")


def objectives_figure(history: History) -> "Figure":
    """The complete trials and the front of all objectives, in a panel for each accuracy, over the
    first cost.
    """
    from matplotlib.figure import Figure

    experiment = history.experiment
    cost = experiment.costs[0]
    figure = Figure(figsize=(4.2 * len(experiment.accuracies), 3.8), layout="constrained")
    panels = figure.subplots(1, len(experiment.accuracies), squeeze=False)[0]
    on_front = {record.number for record in history.front}
    looks = {
        "searched": (PALE, "o"),
        "front": (BLUE, "o"),
        **{name: (ORANGE, mark) for name, mark in BASELINE_MARKS.items()},
    }
    groups: dict[str, list[TrialRecord]] = {name: [] for name in looks}
    for record in history.complete:
        name = record.baseline or ("front" if record.number in on_front else "searched")
        groups[name].append(record)
    for axes, accuracy in zip(panels, experiment.accuracies, strict=True):
        line = sorted(front_of(history.records, (accuracy, cost)), key=lambda r: r.figure(cost))
        places = [(r.figure(cost) / 1e6, r.figure(accuracy)) for r in line]
        axes.step(*zip(*places, strict=True), where="post", color=BLUE, lw=1.2)
        for name, (colour, mark) in looks.items():
            part = groups[name]
            if not part:
                continue
            x, y = (
                [scale * r.figure(n) for r in part] for scale, n in ((1e-6, cost), (1, accuracy))
            )
            axes.scatter(x, y, s=28, color=colour, marker=mark, label=name, zorder=2)
        axes.set(xlabel=f"million {in_words(cost)}", ylabel=f"{accuracy} on minival, %")
        axes.grid(alpha=0.2)
    panels[0].legend(fontsize=8)
    return figure


def band_lines(history: History) -> Iterator[Line]:
    """The trials as lines over their epochs: the others, not too many of them, the front, and the
    baselines.
    """
    front = {record.id for record in history.front}
    groups: dict[str, tuple[str, float]] = {
        "other trials": (PALE, 0.7),
        "front": (BLUE, 1.4),
        "GmNet": (ORANGE, 1.8),
        "no gates": (VERMILION, 1.8),
    }
    curves: dict[str, list] = {name: [] for name in groups}
    for record in history.records:
        name = record.baseline or ("front" if record.id in front else "other trials")
        curves[name].append(record.curve)
    for name, (colour, width) in groups.items():
        if curves[name]:
            yield Line(name, colour, evenly(curves[name]), width)
