"""Claims as a figure: what was measured beside what a paper has."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from gmsearch.claims import FAILS, HOLDS, OPEN, Judged
from gmsearch.figure_file import add_legend, new_figure, write_png
from gmsearch.palette import BLACK, BLUE, GREY, VERMILION

if TYPE_CHECKING:
    from gmsearch.figure_file import Figure

COLOURS = {HOLDS: BLUE, FAILS: VERMILION, OPEN: GREY}
MARKS = {HOLDS: "o", FAILS: "s", OPEN: "o"}  # colour is not all that tells them apart
ROW, WIDTH = 0.24, 8.0  # inches


def draw_claims(path: Path, judged: Sequence[Judged], what: str) -> None:
    """Writes a PNG of `claims_of`."""
    write_png(claims_of(judged, what), path)


def claims_of(judged: Sequence[Judged], what: str) -> "Figure":
    """A row for each claim: its difference with the 95 % interval, or that it was not tested, and a
    diamond for the published one.
    """
    figure = new_figure(WIDTH, 1.5 + ROW * len(judged))
    axes = figure.add_subplot()
    axes.axvline(0, color="0.3", lw=1)
    for row, each in enumerate(judged):
        if each.published is not None:
            axes.plot(each.published, row, "D", ms=5, mfc="none", mec=BLACK, zorder=3)
        if each.difference is None or each.low is None or each.high is None:
            # At the right border, where no interval of another row is taken for its own.
            place = axes.get_yaxis_transform()
            axes.text(0.99, row, each.verdict, transform=place, ha="right", va="center", size=8)
            continue
        colour, filled = COLOURS[each.verdict], each.verdict != OPEN
        axes.plot([each.low, each.high], [row, row], color=colour, lw=2, solid_capstyle="butt")
        axes.plot(
            each.difference,
            row,
            MARKS[each.verdict],
            color=colour,
            mfc=colour if filled else "white",
            ms=6,
            zorder=4,
        )
    axes.set_yticks(range(len(judged)), [f"{j.words}   {j.measure}" for j in judged], fontsize=8)
    axes.set(ylim=(len(judged) - 0.5, -0.5), xlabel="difference of accuracies, points")
    axes.tick_params(axis="y", length=0)
    axes.spines[["top", "right", "left"]].set_visible(False)
    axes.grid(axis="x", alpha=0.2)
    axes.set_axisbelow(True)
    entries = []
    for verdict, colour in COLOURS.items():
        face = "white" if verdict == OPEN else colour
        [mark] = axes.plot([], [], MARKS[verdict], color=colour, mfc=face)
        entries.append((verdict, mark))
    [mark] = axes.plot([], [], "D", mfc="none", mec=BLACK, ls="", ms=5)
    entries.append(("in the paper, on ImageNet", mark))
    add_legend(figure, entries, loc="outside lower center", ncols=4, fontsize=8, frameon=False)
    axes.set_title(what, fontsize=9, loc="left")
    return figure
