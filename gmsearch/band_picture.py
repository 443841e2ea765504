"""Who learns which band when: accuracy on each part of the images over the epochs, as a picture."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gmsearch.figure_file import Entry, add_legend, count_whole, new_figure, write_png
from gmsearch.radii import SIDES, radius_of
from gmsearch.record import EpochDict

if TYPE_CHECKING:
    from gmsearch.figure_file import Axes, Figure

WIDTH, HEIGHT = 3.1, 2.6  # of a panel in inches


@dataclass(frozen=True)
class Line:
    """Trainings that look alike: those of one network with several seeds, or of a group."""

    label: str  # nothing for one that the legend leaves out
    colour: str
    curves: Sequence[Sequence[EpochDict]]
    width: float = 1.6
    style: str = "-"


def draw_bands(path: Path, lines: Sequence[Line]) -> None:
    """Writes a PNG file of `bands_figure`."""
    write_png(bands_figure(lines), path)


def bands_figure(lines: Sequence[Line]) -> "Figure":
    """A panel for each band: the low parts above, the high ones below, the radius from left to
    right. Every training is a line of its own, and all panels of a row share their axis.
    """
    names = {
        name: None for line in lines for curve in line.curves for e in curve for name in _bands(e)
    }
    radii = sorted({radius_of(name) for name in names})
    figure = new_figure(0.9 + WIDTH * max(1, len(radii)), 0.9 + HEIGHT * len(SIDES))
    panels = figure.subplots(len(SIDES), max(1, len(radii)), sharey="row", sharex=True)
    panels = panels.reshape(len(SIDES), -1)
    entries: dict[int, Entry] = {}  # by line, of the first panel that has it
    for row, side in zip(panels, SIDES, strict=True):
        for axes, radius in zip(row, radii, strict=False):
            entries = _draw_panel(axes, f"{side}{radius:g}", lines) | entries
        row[0].set_ylabel(f"top1 on the {side} part, %")
        row[0].set_ylim(bottom=0)  # once all is drawn: it ends the scaling of the axis
    for axes in panels[-1]:
        axes.set_xlabel("epoch")
    panels[0, 0].set_xlim(left=0)
    known = [entries[index] for index, line in enumerate(lines) if line.label and index in entries]
    columns = min(3, max(1, len(known)))
    add_legend(figure, known, loc="outside lower center", ncols=columns, fontsize=8)
    return figure


def _bands(epoch: EpochDict) -> dict[str, float]:
    return epoch.get("bands") or {}


def _draw_panel(axes: "Axes", name: str, lines: Sequence[Line]) -> dict[int, Entry]:
    """For the legend, by their places, the lines that have the band."""
    entries = {}
    for index, line in enumerate(lines):
        look: dict[str, Any] = {"ls": line.style, "lw": line.width, "color": line.colour}
        for curve in line.curves:
            seen = [(e["epoch"], _bands(e)[name]) for e in curve if name in _bands(e)]
            if seen:
                epochs, values = zip(*seen, strict=True)
                [drawn] = axes.plot(epochs, values, marker=".", ms=4, **look)
                entries[index] = line.label, drawn
    side = "within" if name.startswith(SIDES[0]) else "beyond"
    axes.set_title(f"{name}: {side} radius {radius_of(name):g} at 224 px", fontsize=9)
    count_whole(axes.xaxis)
    axes.grid(alpha=0.2)
    return entries
