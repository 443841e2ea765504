"""The figures that only a report has, in plotly: learning curves and gate effects."""

from collections.abc import Sequence
from typing import TypeVar

import numpy as np
import pandas as pd
import plotly.graph_objects as go

from gmsearch.palette import BLUE, GREEN, GREY, ORANGE, VERMILION

T = TypeVar("T")
MOST_CURVES = 300  # in a figure; all of them are in curves.csv
EFFECTS_AXIS = "points of top1 at equal MACs, against the mean of the factor (95 % interval)"
STATES = {
    "complete": ("trained to the end", GREY),
    "stopped": ("stopped early", ORANGE),
    "failed": ("failed", VERMILION),
    "running": ("not ended", GREEN),
}


def curves_figure(curves: pd.DataFrame, front: list[str]) -> go.Figure:
    """top1 after each epoch: the front's by name, all others by what became of them."""
    figure = go.Figure()
    shown = shown_curves(curves, front)
    for state, (words, colour) in STATES.items():
        part = shown[(shown.state == state) & ~shown.id.isin(front)]
        if part.empty:
            continue
        x, y, ids = joined(part)
        figure.add_scatter(
            x=x,
            y=y,
            customdata=ids,
            name=words,
            mode="lines+markers",
            line={"color": colour, "width": 1},
            marker={"size": 4},
            hovertemplate="%{customdata}: %{y:.1f} % after epoch %{x}<extra></extra>",
        )
    for name in front:
        part = shown[shown.id == name]
        figure.add_scatter(
            x=part.epoch,
            y=part.top1,
            name="front" if name == front[0] else name,
            legendgroup="front",
            showlegend=name == front[0],
            mode="lines+markers",
            line={"color": BLUE, "width": 2},
            marker={"size": 5},
            hovertemplate=f"{name}: %{{y:.1f}} % after epoch %{{x}}<extra></extra>",
        )
    figure.update_layout(template="plotly_white", height=430, margin={"t": 20, "b": 50})
    figure.update_xaxes(title="epoch", rangemode="tozero", tick0=0, dtick=_whole_ticks(curves))
    figure.update_yaxes(title="top1 on minival, %")
    return figure


def shown_curves(curves: pd.DataFrame, front: list[str]) -> pd.DataFrame:
    """The curves of the front and of MOST_CURVES trials at most, evenly over their numbers."""
    numbers = evenly(list(curves.number.unique()))
    return curves[curves.number.isin(numbers) | curves.id.isin(front)]


def evenly(trials: Sequence[T]) -> list[T]:
    """MOST_CURVES of them at most, from the first to the last."""
    if len(trials) <= MOST_CURVES:
        return list(trials)
    return [trials[i] for i in np.linspace(0, len(trials) - 1, MOST_CURVES).round().astype(int)]


def joined(curves: pd.DataFrame) -> tuple[list, list, list]:
    """Many curves as one line with gaps."""
    x: list = []
    y: list = []
    ids: list = []
    for _, curve in curves.groupby("number", sort=False):
        x += [*curve.epoch, None]
        y += [*curve.top1, None]
        ids += [*curve.id, ""]
    return x, y, ids


def _whole_ticks(curves: pd.DataFrame) -> int:
    last = int(curves.epoch.max()) if len(curves) else 1
    return max(1, round(last / 10))


def effects_figure(effects: pd.DataFrame) -> go.Figure:
    """Points of top1 of each level of each factor, with 95 % intervals, in the order of the
    table.
    """
    rows = effects.assign(name="<b>" + effects.factor + "</b> " + effects.level)
    figure = go.Figure()
    for resolved, colour, words in (
        (True, BLUE, "interval excludes 0"),
        (False, GREY, "it does not"),
    ):
        part = rows[rows.resolved == resolved]
        figure.add_scatter(
            x=part["mean"],
            y=part.name,
            error_x={
                "array": part.high - part["mean"],
                "arrayminus": part["mean"] - part.low,
                "width": 3,
                "thickness": 1.5,
            },
            mode="markers",
            marker={"color": colour, "size": 8},
            name=words,
            customdata=part[["low", "high", "num_networks"]],
            hovertemplate="%{y}: %{x:+.2f} (%{customdata[0]:+.2f} to %{customdata[1]:+.2f}), "
            "in %{customdata[2]} networks<extra></extra>",
        )
    figure.add_vline(x=0, line_color="black", line_width=1)
    figure.update_layout(
        template="plotly_white",
        height=120 + 22 * len(rows),
        margin={"t": 20, "b": 50, "l": 190},
        legend={"orientation": "h", "y": 1, "yanchor": "bottom"},
    )
    figure.update_xaxes(title=EFFECTS_AXIS, zeroline=False)
    figure.update_yaxes(categoryorder="array", categoryarray=rows.name[::-1], automargin=True)
    return figure
