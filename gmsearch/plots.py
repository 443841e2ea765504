"""A search as figures to hover over, for the dashboard and for reports, in plotly."""

from collections.abc import Iterable, Sequence
from html import escape
from itertools import cycle, product
from typing import Any, NamedTuple

import plotly.graph_objects as go
from plotly.subplots import make_subplots

from gmsearch.history import History, Step, labels_of
from gmsearch.palette import (
    BASELINE_MARKS,
    BLACK,
    BLUE,
    COST_WORDS,
    GREEN,
    GREY,
    ORANGE,
    PALE,
    PINK,
    RUNS,
    SKY,
    VERMILION,
    in_words,
)
from gmsearch.record import Interval, TrialRecord, front_of, tied
from gmsearch.references import Reference, read_references, select
from gmsearch.space import format_size

# A published network has the first of these recipes that its flags state.
RECIPES = {
    "same recipe": (BLACK, "star", "GmNet's recipe"),
    "extra data": (VERMILION, "x-thin-open", "extra data"),
    "distilled": (PINK, "diamond", "distilled"),
    "searched": (GREEN, "square", "found by a search"),
    "long": (ORANGE, "cross", "500 epochs or more"),
    "basic": (SKY, "triangle-up", "plain recipe"),
}
DASHES = ("solid", "dash", "dot")  # the next one where the colours are used up
UNSTATED = (GREY, "circle-open", "recipe not stated")
SYMBOLS = {"^": "triangle-up", "v": "triangle-down"}  # of matplotlib's marks
MOST_IN_WORDS = 2000  # trials off the front that have their gates in words: they make a page large
MARGIN = {"l": 60, "r": 10, "t": 56, "b": 50}


def front_figure(history: History) -> go.Figure:
    """All complete trials and their front over the first cost; above them, on an axis of its own,
    what is published near the budget.

    A front's point whose 95 % interval overlaps that of a neighbour on the front is hollow: a tie.
    With more costs than one the front has points off the line, which is the best top1 within the
    first cost alone.
    """
    cost, references = history.experiment.objectives[1], _references(history)
    if references:
        figure = make_subplots(
            rows=2, shared_xaxes=True, row_heights=[0.36, 0.64], vertical_spacing=0.07
        )
        figure.add_traces(list(_published(references, cost)), rows=1, cols=1)
        figure.update_yaxes(title_text="ImageNet top1, %", row=1)
    else:
        figure = make_subplots(rows=1)
    row = 2 if references else 1
    figure.add_traces(list(_searched(history, cost)), rows=row, cols=1)
    figure.update_yaxes(title_text="top1 on minival, %", row=row)
    figure.update_xaxes(title_text=f"million {COST_WORDS[cost]}", row=row)
    if cost == "macs":
        budget = history.experiment.budget
        figure.add_vline(x=budget / 1e6, line_dash="dot", line_color=BLACK, line_width=1)
        figure.add_annotation(
            text=f"budget {format_size(budget)}",
            **{"x": budget / 1e6, "y": 0, "xref": f"x{row}", "yref": f"y{row} domain"},
            **{"showarrow": False, "yanchor": "bottom", "xshift": 3},
            xanchor="left",  # where nothing that was trained lies
        )
    note = _about_intervals(history)
    if more := history.experiment.objectives[2:]:
        words = ", ".join(map(in_words, (cost, *more)))
        note += f"; blue: the front over {words}; line: over {COST_WORDS[cost]} alone"
    if references:
        note += "; above: as published, trained in full, not comparable"
    _lay_out(figure, history, note, empty=not history.complete)
    if references:
        figure.update_layout(legend2={"y": 1, "yanchor": "top", "font_size": 10})
        figure.update_layout(legend={"y": 0.6, "yanchor": "top"})
    return figure


def hypervolume_figure(history: History, others: Sequence[History] = ()) -> go.Figure:
    """How the front grew with the epochs that were trained, failed and running trials' included;
    `others` are searches to compare with, measured within the limit of the first.
    """
    cost, limit = history.experiment.objectives[1], history.limit
    figure = go.Figure()
    runs = (history, *others)
    looks = cycle(product(DASHES, RUNS))
    for label, (dash, colour), each in zip(labels_of(runs), looks, runs, strict=False):
        growth = _moves(each.growth(limit))
        texts = [f"trial {step.number}, {step.id}" for step in growth]
        figure.add_trace(
            go.Scatter(
                x=[0, *(step.epochs for step in growth)],
                y=[0.0, *(step.hypervolume for step in growth)],
                name=escape(label),
                mode="lines",
                line={"shape": "hv", "color": colour, "dash": dash, "width": 2},
                hovertext=["nothing trained yet", *texts],
                hovertemplate="%{hovertext}<br>%{x} epochs: %{y:.2f} points<extra></extra>",
            )
        )
    words = f"{format_size(limit)} {COST_WORDS[cost]}"
    figure.update_xaxes(title_text="epochs trained, all trials together", rangemode="tozero")
    figure.update_yaxes(title_text="hypervolume, points of top1", rangemode="tozero")
    note = f"hypervolume: the mean, over 0 to {words}, of the best top1 known within them"
    _lay_out(figure, history, note, empty=not history.complete)
    figure.update_layout(showlegend=bool(others))
    return figure


def _moves(growth: list[Step]) -> list[Step]:
    """The steps that moved the front, and the last: all that a line needs."""
    before = [0.0, *(step.hypervolume for step in growth)]
    return [
        step
        for number, step in enumerate(growth, start=1)
        if step.hypervolume > before[number - 1] or number == len(growth)
    ]


class _Dots(NamedTuple):
    """Trials that look the same."""

    name: str
    records: list[TrialRecord]
    marker: dict[str, Any]
    bars: bool = False


def _searched(history: History, cost: str) -> Iterable[go.Scatter]:
    line = sorted(front_of(history.records, ("top1", cost)), key=lambda each: getattr(each, cost))
    ties = tied(history.front, history.num_minival)
    on_front = {record.number for record in history.front}
    plain = [r for r in history.complete if not r.baseline]
    ours = [record for record in plain if record.number in on_front]
    rest = [record for record in plain if record.number not in on_front]
    blue = {"color": BLUE, "size": 9}
    groups = [
        _Dots("searched", rest, {"color": PALE, "size": 6}),
        _Dots("front", [r for r in ours if r.id not in ties], blue, bars=True),
        _Dots("front: a tie", [r for r in ours if r.id in ties], _hollow(blue), bars=True),
    ]
    for name, mark in BASELINE_MARKS.items():
        found = [record for record in history.complete if record.baseline == name]
        look = {"color": ORANGE, "size": 11, "symbol": SYMBOLS[mark]}
        hollow = any(record.id in ties for record in found)
        title = f"{name}: a tie" if hollow else name
        groups.append(_Dots(title, found, _hollow(look) if hollow else look, bars=True))
    yield go.Scatter(
        x=[getattr(record, cost) / 1e6 for record in line],
        y=[record.top1 for record in line],
        **{"name": "front", "mode": "lines", "showlegend": False, "hoverinfo": "skip"},
        line={"shape": "hv", "color": BLUE, "width": 1.5},
    )
    for dots in groups:
        if dots.records:
            yield _scatter(dots, cost, history.num_minival)


def _scatter(dots: _Dots, cost: str, num_minival: int | None) -> go.Scatter:
    spans = [record.interval("top1", num_minival) for record in dots.records]
    shown = dots.bars and num_minival is not None
    grey = {"color": "rgba(0,0,0,0.25)", "thickness": 1, "width": 3}
    top1s = [record.curve[-1]["top1"] for record in dots.records]
    above = [span.high - top1 for span, top1 in zip(spans, top1s, strict=True) if span]
    below = [top1 - span.low for span, top1 in zip(spans, top1s, strict=True) if span]
    return go.Scatter(
        x=[getattr(record, cost) / 1e6 for record in dots.records],
        y=top1s,
        error_y={"array": above, "arrayminus": below, **grey} if shown else None,
        name=dots.name,
        mode="markers",
        marker=dots.marker,
        hovertext=[
            _in_words(record, span, gates=dots.bars or len(spans) <= MOST_IN_WORDS)
            for record, span in zip(dots.records, spans, strict=True)
        ],
        hovertemplate="%{hovertext}<extra></extra>",
    )


def _published(references: list[Reference], cost: str) -> Iterable[go.Scatter]:
    groups: dict[tuple[str, str, str], list[Reference]] = {}
    for look in (*RECIPES.values(), UNSTATED):
        groups[look] = [each for each in references if _look(each) == look]
    for (colour, symbol, words), members in groups.items():
        if members:
            yield go.Scatter(
                x=[getattr(each, cost) / 1e6 for each in members],
                y=[each.top1 for each in members],
                name=words,
                mode="markers",
                marker={"color": colour, "symbol": symbol, "size": 6, "opacity": 0.85},
                hovertext=[_reference_in_words(each) for each in members],
                hovertemplate="%{hovertext}<extra></extra>",
                legend="legend2",
            )


def _look(reference: Reference) -> tuple[str, str, str]:
    return next((look for name, look in RECIPES.items() if name in reference.recipes), UNSTATED)


def _references(history: History) -> list[Reference]:
    """What is published from half to one and a half times the budget and has the first cost."""
    cost, budget = history.experiment.objectives[1], history.experiment.budget
    near = select(read_references(), macs=(budget // 2, budget + budget // 2))
    return [each for each in near if getattr(each, cost, None) is not None]


def _hollow(look: dict[str, Any]) -> dict[str, Any]:
    line = {"color": look["color"], "width": 2}
    return {**look, "color": "white", "line": line}


def _in_words(record: TrialRecord, span: Interval | None, *, gates: bool) -> str:
    interval = "" if span is None else f" ({span.low:.1f} to {span.high:.1f})"
    costs = f"{format_size(record.macs)} MACs, {format_size(record.params)} params"
    words = f"<b>{record.id}</b><br>top1 {record.top1:.1f} %{interval}<br>{costs}"
    return words + "<br>" + escape(record.words).replace("; ", "<br>") if gates else words


def _reference_in_words(reference: Reference) -> str:
    size = f" at {reference.image_size} px" if reference.image_size else ""
    costs = f"{format_size(reference.macs or 0)} MACs"
    if reference.params:
        costs += f", {format_size(reference.params)} params"
    flags = escape("; ".join(reference.flags))
    words = f"<b>{escape(reference.name)}</b>{size}<br>top1 {reference.top1:.1f} % on ImageNet"
    return f"{words}<br>{costs}<br>{flags}"


def _about_intervals(history: History) -> str:
    if history.num_minival is None:
        return "intervals are not known: data.json is missing"
    return f"bars: 95 % intervals from {history.num_minival:,} images"


def _lay_out(figure: go.Figure, history: History, note: str, *, empty: bool) -> None:
    title = escape(f"{history.experiment.name}: {history.experiment.fidelity_in_words()}")
    for axes in (figure.update_xaxes, figure.update_yaxes):
        axes(title_font_size=12)
    figure.update_layout(
        template="plotly_white",
        title={
            "text": f"{title}<br><span style='font-size:11px'>{escape(note)}</span>",
            "font": {"size": 14},
        },
        margin=MARGIN,
        legend={"font": {"size": 10}},
        hoverlabel={"align": "left"},
    )
    if empty:
        figure.add_annotation(
            text="no trial is complete yet",
            **{"x": 0.5, "y": 0.3, "xref": "paper", "yref": "paper", "showarrow": False},
        )
