"""Figures of matplotlib and their files: how one is made, and how it becomes a PNG file or a part
of a page.

Names of runs, networks and files are drawn as they are: a dollar begins no formula, and a label
that starts with an underscore has its place in a legend. So tick labels have no formulas either.
"""

import io
import math
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gmsearch.files import replacing

if TYPE_CHECKING:  # it takes a second to import, and few commands need it
    from matplotlib.axes import Axes
    from matplotlib.axis import Axis
    from matplotlib.figure import Figure

DPI = 130
Entry = tuple[str, Any]  # of a legend: a label, and the artist that it is of
SUPERSCRIPTS = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")


def new_figure(width: float, height: float, *, layout: Any = "constrained") -> "Figure":
    """An empty figure of so many inches, on no screen."""
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), layout=layout)


def add_legend(on: "Axes | Figure", entries: Iterable[Entry], **look: Any) -> None:
    """A legend with these labels, where there are any."""
    known = list(entries)  # of themselves, artists whose label starts with _ are in no legend
    if known:
        labels, handles = zip(*known, strict=True)
        on.legend(list(handles), list(labels), **look)


def count_whole(axis: "Axis") -> None:
    """Ticks at whole numbers alone."""
    from matplotlib.ticker import MaxNLocator

    axis.set_major_locator(MaxNLocator(integer=True))


def count_tens(axis: "Axis") -> None:
    """Powers of ten along a logarithmic axis, without a formula."""
    axis.set_major_formatter(
        lambda value, _: "10" + f"{math.log10(value):.0f}".translate(SUPERSCRIPTS)
    )
    axis.set_minor_formatter(lambda *_: "")


def write_png(figure: "Figure", path: Path) -> None:
    """Writes a PNG file, whole or not at all. Raises OSError."""
    with _as_they_are(figure), replacing(path) as file:
        figure.savefig(file, dpi=DPI, format="png")


def svg_of(figure: "Figure") -> str:
    """A figure as a part of a page, its words as text."""
    text = io.StringIO()
    with _as_they_are(figure, **{"svg.fonttype": "none", "svg.hashsalt": "gmsearch"}):
        figure.savefig(text, format="svg")
    svg = text.getvalue()
    return svg[svg.index("<svg") :]


@contextmanager
def _as_they_are(figure: "Figure", **rc: Any) -> Iterator[None]:
    """No text of a figure is read as a formula, those of ticks that are made meanwhile included;
    what is no UTF-8 in the name of a file is a question mark.
    """
    from matplotlib import rc_context
    from matplotlib.text import Text

    settings: Any = {"text.parse_math": False, **rc}
    with rc_context(settings):
        for text in figure.findobj(Text):
            assert isinstance(text, Text)
            text.set_parse_math(False)
            if not (words := text.get_text()).isascii():
                text.set_text(words.encode("utf-8", errors="replace").decode("utf-8"))
        yield
