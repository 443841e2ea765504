"""Who learns which band when: accuracy on each part of the images over the epochs, as a picture."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from gmsearch.files import replacing
from gmsearch.radii import SIDES, radius_of
from gmsearch.record import EpochDict

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

WIDTH, HEIGHT, DPI = 3.1, 2.6, 130  # of a panel in inches, and dots per inch

STYLES = ("-", "--", ":")  # the next one where the colours are used up


@dataclass(frozen=True)
class Line:
    """Trainings that look alike: those of one network with several seeds, or of a group."""

    label: str  # nothing for one that the legend leaves out
    colour: str
    curves: Sequence[Sequence[EpochDict]]
    width: float = 1.6
    style: str = "-"


def draw_bands(path: Path, lines: Sequence[Line]) -> None:
    """Writes a PNG file, as `bands_figure` has it."""
    figure = bands_figure(lines)
    with replacing(path) as file:
        figure.savefig(file, dpi=DPI, format="png")


def bands_figure(lines: Sequence[Line]) -> "Figure":
    """A panel for each band: the low parts above, the high ones below, the radius from left to
    right. Every training is a line of its own, and all panels of a row share their axis.
    """
    from matplotlib.figure import Figure

    names = {
        name: None for line in lines for curve in line.curves for e in curve for name in _bands(e)
    }
    radii = sorted({radius_of(name) for name in names})
    size = (0.9 + WIDTH * max(1, len(radii)), 0.9 + HEIGHT * len(SIDES))
    figure = Figure(figsize=size, layout="constrained")
    panels = figure.subplots(len(SIDES), max(1, len(radii)), sharey="row", sharex=True)
    panels = panels.reshape(len(SIDES), -1)
    for row, side in zip(panels, SIDES, strict=True):
        for axes, radius in zip(row, radii, strict=False):
            _draw_panel(axes, f"{side}{radius:g}", lines)
        row[0].set_ylabel(f"top1 on the {side} part, %")
        row[0].set_ylim(bottom=0)  # once all is drawn: it ends the scaling of the axis
    for axes in panels[-1]:
        axes.set_xlabel("epoch")
    panels[0, 0].set_xlim(left=0)
    handles, labels = panels[0, 0].get_legend_handles_labels()
    if handles:
        figure.legend(
            handles, labels, loc="outside lower center", ncols=min(3, len(labels)), fontsize=8
        )
    return figure


def _bands(epoch: EpochDict) -> dict[str, float]:
    return epoch.get("bands") or {}


def _draw_panel(axes: "Axes", name: str, lines: Sequence[Line]) -> None:
    from matplotlib.ticker import MaxNLocator

    for line in lines:
        label = line.label or None
        for curve in line.curves:
            seen = [(e["epoch"], _bands(e)[name]) for e in curve if name in _bands(e)]
            if seen:
                epochs, values = zip(*seen, strict=True)
                axes.plot(
                    epochs,
                    values,
                    marker=".",
                    ms=4,
                    ls=line.style,
                    lw=line.width,
                    color=line.colour,
                    label=label,
                )
                label = None
    side = "within" if name.startswith(SIDES[0]) else "beyond"
    axes.set_title(f"{name}: {side} radius {radius_of(name):g} at 224 px", fontsize=9)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.grid(alpha=0.2)
