"""report.html: all that a run tells, in one file that needs no network."""

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import pandas as pd
import plotly.graph_objects as go
from jinja2 import Environment, PackageLoader
from plotly.offline import get_plotlyjs

from gmsearch.agreement import correlation_in_words
from gmsearch.certificate import read_certificate
from gmsearch.figure_file import svg_of
from gmsearch.finalists import Finalist
from gmsearch.history import History
from gmsearch.notes import lines_to_type
from gmsearch.palette import COST_WORDS
from gmsearch.plots import front_figure, hypervolume_figure
from gmsearch.radii import is_band
from gmsearch.record import band_cost_in_words, interval_of
from gmsearch.report.account import account_of, account_rows, checklist
from gmsearch.report.charts import MOST_CURVES, curves_figure, effects_figure
from gmsearch.report.tables import Tables
from gmsearch.space import counted, format_size
from gmsearch.spending import has_spent_all, spent_in_words

if TYPE_CHECKING:
    from gmsearch.figure_file import Figure

# How a column is told: its head and its format.
COLUMNS: dict[str, tuple[str, Callable[[Any], str]]] = {
    "id": ("id", str),
    "top1": ("top1, %", "{:.1f}".format),
    "tie": ("", lambda tie: "tie" if tie else ""),
    **{cost: (words, format_size) for cost, words in COST_WORDS.items()},
    "gates": ("gates", str),
    "searched": ("searched, %", str),
    "top5": ("top5, %", "{:.1f}".format),
    "raw": ("top1 raw, %", "{:.1f}".format),
    "epochs": ("epochs", "{:,}".format),
    "seed": ("seed", str),
    "settings": ("settings", str),
    "factor": ("choice", str),
    "share": ("share", "{:.0%}".format),
    "range": ("95 %", str),
}
# What became of a proposed network, by the state of its trial.
BECAME = {
    "complete": "trained to the end",
    "stopped": "stopped early",
    "failed": "failed",
    "running": "not ended",
}
LEFT = ("id", "gates", "factor", "tie", "range")


def page_of(
    history: History,
    tables: Tables,
    finalists: Sequence[Finalist],
    others: Sequence[History],
    drawn: Mapping[str, "Figure"],
) -> str:
    """The text of the page; `others` are runs to compare with, `drawn` what `figures_of` gives."""
    account = account_of(history)
    pictures = {name: svg_of(figure) for name, figure in drawn.items()}
    environment = Environment(
        loader=PackageLoader("gmsearch.report", "."), autoescape=True, trim_blocks=True
    )
    return environment.get_template("page.html").render(
        name=history.experiment.name,
        lead=lead(history),
        warnings=warnings(history),
        plotly=get_plotlyjs(),
        figures=_figures(history, tables, others),
        front=told(tables.front),
        objectives=pictures.get("objectives"),
        front_note=front_note(history),
        proxy_note=proxy_note(history),
        baselines=told(tables.baselines),
        retrained=told(_with_epochs(tables.retrained, finalists)),
        correlation=correlation_in_words(finalists),
        statements=[] if tables.effects is None else tables.statements,
        effects_note=effects_note(tables),
        importance=told(_with_range(tables.importance)),
        curves_note=curves_note(tables.curves),
        hypervolume_note=hypervolume_note(history),
        bands=_bands(history, tables, pictures),
        drawings=list(_drawings(history, pictures)),
        account=account_rows(account),
        checklist=checklist(history, others),
    )


def lead(history: History) -> str:
    """What the run is, in a sentence."""
    experiment = history.experiment
    baselines = sum(record.baseline is not None for record in history.complete)
    proposed = [record for record in history.records if record.baseline is None]
    beside = f" and {counted(baselines, 'baseline')}" if baselines else ""
    within = f"within {format_size(experiment.budget)} MACs"
    states = Counter(record.state for record in proposed)
    became = [f"{states[state]:,} {words}" for state, words in BECAME.items() if states[state]]
    networks = f"{counted(len(proposed), 'network')} proposed by {experiment.sampler}"
    fidelity = experiment.fidelity_in_words()
    if set(states) <= {"complete"}:
        return f"{networks}{beside}, {within}, {fidelity} each."
    return (
        f"{networks} ({', '.join(became)}){beside}, {within}; a training to its end is {fidelity}."
    )


def warnings(history: History) -> list[str]:
    """What a reader has to know before the figures."""
    experiment, records = history.experiment, history.records
    lines = []
    if not has_spent_all(experiment, records):
        lines.append(
            f"{spent_in_words(experiment, records)}: the run goes on, was stopped, or has tried "
            "all that its budget allows; all below is of what it has so far."
        )
    is_running = any(record.state == "running" for record in records)
    if records and not history.complete and not is_running:
        lines.append("No trial was trained to its last epoch: every one failed or was stopped.")
    return lines


def front_note(history: History) -> str:
    """How far a top1 can be trusted."""
    best, num_minival = history.front, history.num_minival
    if not best or num_minival is None:
        return "How many images a top1 is of is not on record, so no interval is drawn."
    low, high = interval_of(best[0].curve[-1]["top1"], num_minival)
    return (
        f"The bars are 95 % intervals from the {num_minival:,} images of minival alone: the best "
        f"top1 lies between {low:.1f} and {high:.1f} %. What a network varies by over seeds comes "
        "on top. A tie is a point whose interval overlaps that of the next on the front. Published "
        "networks are trained on all of ImageNet: they have an axis of their own."
    )


def hypervolume_note(history: History) -> str:
    """What is drawn, and up to where."""
    cost = history.experiment.objectives[1]
    words = COST_WORDS[cost]
    end = "the budget" if cost == "macs" else "the most that a network of the space has"
    return (
        f"The best top1 known at up to so many {words}, averaged over all numbers of {words} from "
        f"0 to {end}, after so many epochs of all trials together, in the order in which they "
        "began."
    )


def proxy_note(history: History) -> str:
    """What is known of how well short trainings rank; nothing without `gmsearch proxy`."""
    certificate = read_certificate(history.folder.path)
    return "" if certificate is None else certificate.in_words()


def effects_note(tables: Tables) -> str:
    """What the effects are, and what they assume."""
    if tables.noise is None:
        return ""
    return (
        "A network that takes a level in all of its stages, against the mean over the levels of "
        "that choice, with MACs and all other choices held: a linear model of the complete trials, "
        "whose effects are drawn towards 0 as far as the run cannot tell them; width, depth, ratio "
        "and kernel by their size. Effects are taken to add up. What no choice explains has a "
        f"standard deviation of {tables.noise:.1f} points."
    )


def curves_note(curves: pd.DataFrame | None) -> str:
    """Which curves are drawn, where not all are."""
    count = 0 if curves is None else curves.number.nunique()
    if count <= MOST_CURVES:
        return ""
    return f"{MOST_CURVES} of {count:,} trials and the front; all are in curves.csv."


def _figures(history: History, tables: Tables, others: Sequence[History]) -> dict[str, str]:
    """The figures as parts of a page."""
    ids = [] if tables.front is None else list(tables.front.id)
    found: dict[str, go.Figure] = {}
    if tables.front is not None:
        found["front"] = front_figure(history)
    if tables.effects is not None:
        found["effects"] = effects_figure(tables.effects)
    if tables.curves is not None:
        found["curves"] = curves_figure(tables.curves, ids)
    if tables.hypervolume is not None:
        found["hypervolume"] = hypervolume_figure(history, others)
    return {
        name: figure.to_html(full_html=False, include_plotlyjs=False, div_id=name)
        for name, figure in found.items()
    }


def _bands(history: History, tables: Tables, pictures: Mapping[str, str]) -> dict[str, Any] | None:
    """What is told of the bands, where they were watched."""
    cost = band_cost_in_words(history.records)
    if cost is None:
        return None
    num_trials = len(history.records)
    drawn = f"; {MOST_CURVES} of the trials and the front are drawn"
    return {
        "note": cost + (drawn if num_trials > MOST_CURVES else ""),
        "curves": pictures["bands"],
        "statements": tables.band_statements,
        "effects": pictures.get("band_effects"),
    }


def _drawings(history: History, pictures: Mapping[str, str]) -> Iterator[dict[str, Any]]:
    """The first of the front as diagrams."""
    for record in history.front:
        if record.id not in pictures:
            continue
        title = f"{record.id}: top1 {record.top1:.1f} %, {format_size(record.macs)} MACs"
        lines = lines_to_type(history.folder.path, record.id, history.data)
        yield {"title": title, "svg": pictures[record.id], "lines": lines}


def _with_range(importance: pd.DataFrame | None) -> pd.DataFrame | None:
    if importance is None:
        return None
    words = [f"{row.low:.0%} to {row.high:.0%}" for row in importance.itertuples()]
    return importance.assign(range=words)[["factor", "share", "range"]]


def _with_epochs(
    retrained: pd.DataFrame | None, finalists: Sequence[Finalist]
) -> pd.DataFrame | None:
    """What the search saw, with its epochs where it stopped before the last; settings where they
    differ.
    """
    if retrained is None:
        return None
    searched = {finalist.id: finalist.searched_in_words for finalist in finalists}
    told = retrained.assign(searched=retrained.id.map(searched))
    return told if retrained.settings.nunique() > 1 else told.drop(columns="settings")


def told(table: pd.DataFrame | None) -> dict[str, Any] | None:
    """A table as the page writes it: heads, rows of texts, and which columns are numbers."""
    if table is None:
        return None
    names = [name for name in table if name in COLUMNS or is_band(name)]
    return {
        "heads": [f"{name}, %" if is_band(name) else COLUMNS[name][0] for name in names],
        "numbers": [name not in LEFT for name in names],
        "rows": [
            [_cell(name, value) for name, value in zip(names, row, strict=True)]
            for row in table[names].itertuples(index=False)
        ],
    }


def _cell(name: str, value: Any) -> str:
    if pd.isna(value):
        return ""
    return f"{value:.1f}" if is_band(name) else COLUMNS[name][1](value)
