"""Figures of spectra: what a product and an activation do to a band, and what is inside a
network.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from gmsearch.bandlimited import (
    BAND,
    FIT,
    FLOOR,
    SAMPLES,
    Fall,
    band_limited,
    fall_of,
    power_of,
    product_power,
)
from gmsearch.figure_file import count_tens, new_figure
from gmsearch.palette import BLACK, BLUE, GREEN, GREY, ORANGE, PINK, SKY, VERMILION
from gmsearch.spectra import ACTIVATED, BEFORE, HIGH, PRODUCT, StageSpectra

if TYPE_CHECKING:
    from gmsearch.figure_file import Figure

NUM_SIGNALS = 2000
SIZE, INSIDE, BEYOND = 128, 16, 48  # samples; a band of which twice is held, and one of which not
FALLS = {  # by name, in the order of drawing
    "relu": BLUE,
    "relu6": SKY,
    "hardswish": GREEN,
    "gelu": VERMILION,
    "silu": ORANGE,
    "tanh": PINK,
}
DASHED = ("relu6",)  # it lies on another
COLOURS = {BEFORE: GREY, ACTIVATED: ORANGE, PRODUCT: BLUE}
LEAST_POWER = 1e-24  # of the fall, that is drawn


def draw_support() -> "Figure":
    """The band of h and of h·h: where the samples hold twice the band, and where they do not."""
    figure = new_figure(9, 3.6)
    panels = figure.subplots(1, 2, sharey=True)
    for axes, band in zip(panels, (INSIDE, BEYOND), strict=True):
        signals = band_limited(NUM_SIGNALS, SIZE, band)
        at = np.arange(SIZE // 2 + 1) / (SIZE / 2)
        for power, colour, words in (
            (power_of(signals), GREY, "h"),
            (power_of(signals * signals), BLUE, "h·h"),
        ):
            axes.semilogy(at[1:], power[1:], color=colour, lw=2, label=words)
        if 4 * band < SIZE:
            axes.semilogy(
                at[1 : 2 * band + 1],
                product_power(SIZE, band)[1 : 2 * band + 1],
                ls="--",
                color=BLACK,
                lw=1,
                label="expected of h·h",
            )
        share = band / (SIZE / 2)
        for edge, words in ((share, "W"), (2 * share, "2W")):
            if edge <= 1:
                axes.axvline(edge, color=GREY, ls=":", lw=1)
                axes.text(edge + 0.01, 1, words, ha="left", fontsize=9, color="0.3")
        axes.set(xlim=(0, 1), ylim=(1e-36, 30), xlabel="frequency, share of Nyquist's")
        _bare(axes)
    first, second = panels
    first.set_ylabel("power")
    first.set_title("2W below Nyquist: nothing but rounding beyond it", fontsize=10, loc="left")
    second.set_title("2W beyond Nyquist: what lies beyond is folded back", fontsize=10, loc="left")
    first.legend(fontsize=8, frameon=False, loc="center right")
    return figure


def draw_falls() -> "Figure":
    """How the spectra of activations fall, and those of their self-gates."""
    figure = new_figure(9, 4.8)
    panels = figure.subplots(1, 2, sharey=True)
    for axes, gate in zip(panels, (False, True), strict=True):
        for name, colour in FALLS.items():
            _draw_fall(axes, fall_of(name, gate=gate), colour)
        count_tens(axes.xaxis)
        axes.axvspan(FIT[0] / BAND, FIT[1] / BAND, color="0.95", lw=0)
        axes.set(
            xlim=(1, SAMPLES / 2 / BAND),
            ylim=(LEAST_POWER, 3),
            xlabel="frequency in bands of h",
        )
        _bare(axes)
        axes.legend(
            fontsize=8, frameon=False, ncols=2, loc="upper center", bbox_to_anchor=(0.5, -0.15)
        )
    panels[0].set_ylabel("power, share of the highest")
    panels[0].set_title("activation s(h)", fontsize=10, loc="left")
    panels[1].set_title("self-gate s(h)·h", fontsize=10, loc="left")
    return figure


def _draw_fall(axes: Any, fall: Fall, colour: str) -> None:
    """The power in bins of equal width on the logarithmic axis, while it is not rounding."""
    power = (fall.power[1:] / fall.power[1:].max()).numpy()
    edges = np.unique(np.geomspace(BAND, SAMPLES // 2, 80).round().astype(int))
    starts, ends = edges[:-1], edges[1:]
    binned = np.array([power[a - 1 : b - 1].mean() for a, b in zip(starts, ends, strict=True)])
    above = np.maximum.accumulate(binned < FLOOR) == 0
    if fall.slope is not None:
        words = f"{fall.name}: |w|^{fall.slope.exponent:.2f}"
    else:
        words = f"{fall.name}: |w|^{fall.octaves[-1]:.0f} at its end, no power"
    at, style = (starts + ends) / 2 / BAND, "--" if fall.name in DASHED else "-"
    axes.loglog(at[above], binned[above], style, color=colour, lw=2, label=words)


def draw_inside(name: str, stages: Sequence[StageSpectra]) -> "Figure":
    """The spectra of every stage before and after its activation and product."""
    figure = new_figure(2.6 + 2.5 * len(stages), 3.4)
    panels = figure.subplots(1, len(stages), sharey=True, squeeze=False)[0]
    for axes, stage in zip(panels, stages, strict=True):
        axes.axvspan(HIGH, 1.45, color="0.95", lw=0)
        for place, spectrum in stage.spectra.items():
            words = f"{place}: {100 * spectrum.high:.3g} %"
            axes.semilogy(spectrum.radius, spectrum.power, color=COLOURS[place], lw=2, label=words)
        title = stage.name if f"{stage.side} px" == stage.name else f"{stage.name}, {stage.side} px"
        axes.set_title(title, fontsize=10, loc="left")
        axes.set(xlim=(0, 1.42), xlabel="radius, share of Nyquist's")
        axes.legend(
            fontsize=7,
            frameon=False,
            loc="lower left",
            title=f"energy beyond {HIGH:g}",
            title_fontsize=7,
            alignment="left",
        )
        _bare(axes)
    panels[0].set_ylabel("power of a frequency, share of all")
    low, high = panels[0].get_ylim()
    panels[0].set_ylim(low / 30, high)  # room for the legends
    figure.suptitle(name, fontsize=11, x=0.01, ha="left")
    return figure


def _bare(axes: Any) -> None:
    """Only what carries the powers, which are on a logarithmic axis."""
    count_tens(axes.yaxis)
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(axis="y", alpha=0.2)
    axes.set_axisbelow(True)
