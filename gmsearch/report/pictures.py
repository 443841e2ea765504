"""The figures of a report as PNG files, in matplotlib."""

from collections.abc import Iterator, Mapping
from itertools import cycle
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from gmsearch.band_picture import Line, bands_figure
from gmsearch.effects import OF_GATES
from gmsearch.figure_file import Entry, add_legend, count_whole, new_figure, write_png
from gmsearch.history import History
from gmsearch.palette import BLUE, GREY, LOOKS, ORANGE, PALE, VERMILION, in_words
from gmsearch.picture import draw_front, draw_trials
from gmsearch.radii import SIDES, radius_of
from gmsearch.record import band_cost_in_words
from gmsearch.report.charts import EFFECTS_AXIS, STATES, evenly, joined, shown_curves
from gmsearch.report.drawing import draw_best
from gmsearch.report.tables import Tables

if TYPE_CHECKING:
    from gmsearch.figure_file import Axes, Figure


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
        write_png(learning_figure(tables.curves, ids), named("curves"))
    if tables.hypervolume is not None:
        draw_hypervolume(named("hypervolume"), tables.hypervolume)
    if tables.effects is not None:
        draw_effects(named("effects"), tables.effects)
    for name, figure in figures.items():
        write_png(figure, named(name))
    return files


def learning_figure(curves: pd.DataFrame, front: list[str]) -> "Figure":
    """top1 after each epoch, as `curves_figure` has it."""
    figure = new_figure(8, 4.5)
    axes = figure.subplots()
    shown = shown_curves(curves, front)
    of_front = shown.id.isin(front)
    groups = [
        (shown[(shown.state == state) & ~of_front], words, colour, 0.8, 4)
        for state, (words, colour) in STATES.items()
    ]
    entries: list[Entry] = []
    for part, words, colour, lw, ms in (*groups, (shown[of_front], "front", BLUE, 1.6, 6)):
        if not part.empty:
            epochs, top1s = map(_with_gaps, joined(part)[:2])
            [line] = axes.plot(epochs, top1s, ".-", color=colour, lw=lw, ms=ms)
            entries.append((words, line))
    axes.set(xlabel="epoch", ylabel="top1 on minival, %", xlim=(0, None))
    count_whole(axes.xaxis)
    axes.grid(alpha=0.2)
    add_legend(axes, entries, fontsize=8)
    return figure


def _with_gaps(values: list) -> np.ndarray:
    return np.array(values, dtype=float)  # None is NaN, where a line is cut


def draw_hypervolume(path: Path, growth: pd.DataFrame) -> None:
    """Writes a PNG file of `growth_figure`."""
    write_png(growth_figure(growth), path)


def growth_figure(growth: pd.DataFrame) -> "Figure":
    """The hypervolume against the epochs trained, a line for each run."""
    figure = new_figure(8, 4.5)
    axes = figure.subplots()
    entries: list[Entry] = []
    for (run, steps), (style, colour) in zip(growth.groupby("run", sort=False), cycle(LOOKS)):
        epochs, values = [0, *steps.epochs], [0.0, *steps.hypervolume]
        [line] = axes.step(epochs, values, where="post", ls=style, color=colour, lw=1.6)
        entries.append((str(run), line))
    axes.set(xlabel="epochs trained, all trials together", ylabel="hypervolume, points of top1")
    axes.set(xlim=(0, None), ylim=(0, None))
    axes.grid(alpha=0.2)
    add_legend(axes, entries, loc="lower right", fontsize=8)
    return figure


def draw_effects(path: Path, effects: pd.DataFrame) -> None:
    """Points of top1 of each level of each factor, as `effects_figure` has them."""
    figure = new_figure(8, 1 + 0.22 * len(effects))
    axes = figure.subplots()
    _effects(axes, effects.assign(y=range(len(effects))))
    axes.set_yticks(range(len(effects)), effects.factor + "  " + effects.level, fontsize=8)
    axes.invert_yaxis()
    axes.set_xlabel(EFFECTS_AXIS)
    write_png(figure, path)


def band_effects_figure(effects: pd.DataFrame) -> "Figure":
    """What each level of a gate does to each band, at equal MACs: a panel for each band, the low
    parts above, the high ones below, with the same rows in all.
    """
    of_gates = effects[effects.factor.isin(OF_GATES)]
    names = list(dict.fromkeys(of_gates.factor + "  " + of_gates.level))
    radii = sorted({radius_of(band) for band in of_gates.band})
    rows, columns = len(SIDES), max(1, len(radii))
    figure = new_figure(1.8 + 2.6 * columns, rows * (1 + 0.19 * len(names)))
    panels = figure.subplots(rows, columns, squeeze=False, sharex=True, sharey=True)
    for row, side in zip(panels, SIDES, strict=True):
        for axes, radius in zip(row, radii, strict=False):
            band = f"{side}{radius:g}"
            part = of_gates[of_gates.band == band]
            _effects(axes, part.assign(y=[names.index(n) for n in part.factor + "  " + part.level]))
            axes.set_title(f"on {band}" + (": not known" if part.empty else ""), fontsize=9)
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
    first cost, as `draw_trials` has them.
    """
    experiment = history.experiment
    accuracies = experiment.accuracies
    figure = new_figure(4.2 * len(accuracies), 4.0)
    panels = figure.subplots(1, len(accuracies), squeeze=False)[0]
    entries: dict[str, Any] = {}
    for axes, accuracy in zip(panels, accuracies, strict=True):
        drawn = draw_trials(axes, experiment, history.records, accuracy, history.num_minival)
        entries |= dict(drawn)
        axes.set_xlabel(f"million {in_words(experiment.costs[0])}")
        axes.set_ylabel(f"{accuracy} on minival, %")
    add_legend(figure, entries.items(), loc="outside lower center", ncols=len(entries), fontsize=8)
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
