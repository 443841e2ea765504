"""What a user sees of a run: a live table in a terminal, plain lines elsewhere, and the answer
at the end.
"""

import io
import os
import sys
from collections.abc import Iterable, Sequence
from typing import Any, Literal

from rich import box
from rich.console import Console, Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from gmsearch.experiment import Experiment, Settings
from gmsearch.record import ComparedNetwork, TrialRecord, front_of, half_interval
from gmsearch.scatter import scatter
from gmsearch.space import counted, format_size
from gmsearch.spending import epochs_promised

RECENT = 8  # finished trials in the live table
BEST = 8  # of the front in the live table; the picture has all of it
PLAIN_WIDTH = 140  # columns where there is no terminal


class _PatientConsole(Console):
    def on_broken_pipe(self) -> None:
        """A search outlives its reader, such as `head`: its lines go nowhere from here on."""
        self.file = open(os.devnull, "w")


def make_console() -> Console:
    """The console on standard output; a pipe gets lines of a fixed width."""
    plain: dict[str, Any] = {"highlight": False, "markup": False}  # names may have brackets
    console = _PatientConsole(**plain)
    if console.options.ascii_only and isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="replace")  # the words of a gate have a dot that is no ASCII
    return console if console.is_terminal else _PatientConsole(**plain, width=PLAIN_WIDTH)


class Display:
    """Shows a running search. Use as a context manager; `update` after every change, `finished`
    once per trial.
    """

    def __init__(self, console: Console, settings: Settings) -> None:
        self._console = console
        self._settings = settings
        self._records: list[TrialRecord] = []
        self._live = (
            Live(get_renderable=self._render, console=console, refresh_per_second=2, transient=True)
            if console.is_terminal
            else None
        )

    def __enter__(self) -> "Display":
        if self._live:
            self._live.start()
        return self

    def __exit__(self, *_: Any) -> None:
        if self._live:
            self._live.stop()

    def update(self, records: Iterable[TrialRecord]) -> None:
        self._records = list(records)

    def finished(self, record: TrialRecord) -> None:
        """One plain line for a trial that ended, where there is no live table."""
        if self._live:
            return
        left = self._time_left()
        self._console.print(
            f"{self._spent():>4}/{self._settings.num_trials}  {_words(record)}"
            + (f"  ({left} left)" if left else ""),
            soft_wrap=True,
        )

    def _render(self) -> Group:
        running = [record for record in self._records if record.state == "running"]
        ended = [record for record in self._records if record.state != "running"]
        trials = Table(box=box.SIMPLE_HEAD, title="trials", title_justify="left")
        for column in ("", "id", "top1", "epochs", "MACs", "params", "network"):
            wraps = column == "network"  # none of the others gives way to it
            trials.add_column(column, justify=_justify(column), no_wrap=not wraps)
        for record in [*ended[-RECENT:], *running]:
            note = {"running": "▶", "failed": "✗", "stopped": "‖"}.get(record.state, "")
            macs, params, words = _figures(record)
            network = Text(words, no_wrap=True, overflow="ellipsis")
            figures = (_top1(record), str(record.epochs), macs, params)
            trials.add_row(note, record.id, *figures, network)
        left = self._time_left()
        line = f"{self._spent()} of {counted(self._settings.num_trials, 'training')}"
        line += f" · about {left} left" if left else " · starting"
        if not isinstance(self._settings, Experiment):
            return Group(trials, Text(line))
        best = front_of(self._records, self._settings.objectives)
        title = "front so far" + (f", the best {BEST} of {len(best)}" if len(best) > BEST else "")
        front = [records_table(title, best[:BEST], self._settings.accuracies[1:])] if best else []
        tables = [trials, *front]
        return Group(*tables, *self._picture(Group(*tables, line), self._settings), Text(line))

    def _picture(self, rest: Group, experiment: Experiment) -> list[Text]:
        """The trials as a picture, where the terminal has room for it beside the rest."""
        console = self._console
        lines = scatter(experiment, self._records, ascii_only=console.options.ascii_only)
        columns, rows = max(map(len, lines), default=0), len(lines) + 1
        if columns > console.width or len(console.render_lines(rest)) + rows >= console.height:
            return []
        return [Text("\n".join([*lines, ""]), no_wrap=True)] if lines else []

    def _spent(self) -> str:
        """Trainings that have ended, one that was stopped early as a part of one."""
        num_epochs = self._settings.recipe.num_epochs
        ended = (record for record in self._records if record.state != "running")
        return f"{round(epochs_promised(ended, num_epochs) / num_epochs, 1):g}"

    def _time_left(self) -> str:
        """From the mean epoch so far, with as many trials at once as now."""
        epochs = sum(record.epochs for record in self._records)
        if not epochs:
            return ""
        mean_seconds = sum(record.seconds for record in self._records) / epochs
        at_once = max(1, sum(record.state == "running" for record in self._records))
        planned = self._settings.num_trials * self._settings.recipe.num_epochs
        return clock(max(0.0, mean_seconds * (planned - epochs) / at_once))


def _justify(column: str) -> Literal["left", "right"]:
    return "right" if column in ("top1", "epochs", "MACs", "params") else "left"


def records_table(title: str, records: Iterable[TrialRecord], bands: Sequence[str] = ()) -> Table:
    """Trials with id, top1, the bands that are asked for, MACs, params and the gates in words."""
    table = Table(box=box.SIMPLE_HEAD, title=title, title_justify="left")
    for column in ("id", "top1", *bands, "MACs", "params", "gates"):
        justify = "right" if column in bands else _justify(column)
        table.add_column(column, justify=justify, no_wrap=column != "gates")
    for record in records:
        found = [_or_nothing(record.figure(band), ".1f") for band in bands]
        table.add_row(record.id, _top1(record), *found, *_figures(record))
    return table


def comparison_table(rows: Sequence[ComparedNetwork]) -> Table:
    """One line for each network; a published top1 and milliseconds only where there are any."""
    published = any(row.published is not None for row in rows)
    timed = any(row.eager_ms is not None for row in rows)
    costs = "activations and ms (one image, one core)" if timed else "activations"
    table = Table(
        box=box.SIMPLE_HEAD,
        caption=f"MACs, params, {costs} at 224 px, 1,000 classes",
        caption_justify="left",
    )
    bands = list(dict.fromkeys(name for row in rows for name in row.bands))
    table.add_column("network", overflow="fold", min_width=12)
    for column in (
        "top1",
        *bands,
        *(["paper, ImageNet"] if published else []),
        "MACs",
        "params",
        "activations",
        *(["eager ms", "ONNX ms"] if timed else []),
        "train images/s",
    ):
        table.add_column(column, justify="right", no_wrap=True)
    for row in rows:
        top1 = "" if row.top1 is None else f"{row.top1:.1f}"
        if row.spread is not None:
            top1 += f" ± {row.spread:.1f}"
        table.add_row(
            row.name,
            top1,
            *(_or_nothing(row.bands.get(band), ".1f") for band in bands),
            *([_or_nothing(row.published, ".1f")] if published else []),
            format_size(row.macs),
            format_size(row.params),
            format_size(row.activations),
            *([_or_nothing(row.eager_ms, ".1f"), _or_nothing(row.onnx_ms, ".1f")] if timed else []),
            _or_nothing(row.images_per_second, ",.0f"),
        )
    return table


def _or_nothing(value: float | None, spec: str) -> str:
    return "" if value is None else format(value, spec)


def answer(experiment: Experiment, records: list[TrialRecord], num_minival: int | None) -> Group:
    """The front, the baselines beside it, and how far the figures can be trusted, where the number
    of minival images is known.
    """
    best = front_of(records, experiment.objectives)
    complete = [record for record in records if record.state == "complete"]
    failed = sum(record.state == "failed" for record in records)
    stopped = sum(record.state == "stopped" for record in records)
    lines = [
        f"budget {format_size(experiment.budget)} MACs; "
        f"{counted(len(complete), 'network')} trained, {experiment.fidelity_in_words()}"
        + (f"; {stopped} stopped early" if stopped else "")
        + (f"; {failed} failed, see trials.csv" if failed else "")
    ]
    if best and num_minival is not None:
        half = half_interval(best[0].curve[-1]["top1"], num_minival)
        lines.append(
            f"one top1 is known to ±{half:.1f} points (95 %, {num_minival:,} minival images, "
            "one seed): smaller differences are not resolved by this run"
        )
    bands = experiment.accuracies[1:]
    told = [" and ".join(names) for names in (experiment.accuracies, experiment.costs)]
    front = f"front: {' against '.join(told)}, best first"
    baselines = [record for record in records if record.baseline and record.state == "complete"]
    parts: list[Any] = [Text("\n".join(lines))]
    if best:
        parts.append(records_table(front, best, bands))
    if baselines:
        parts.append(records_table("baselines", baselines, bands))
    return Group(*parts)


def _figures(record: TrialRecord) -> tuple[str, str, str]:
    return format_size(record.macs), format_size(record.params), record.words


def _words(record: TrialRecord) -> str:
    macs, params, gates = _figures(record)
    if record.state == "failed":
        return f"{record.id}  failed: {record.reason}"
    end = f"  [stopped after epoch {record.epochs}]" if record.state == "stopped" else ""
    return f"{record.id}  top1 {_top1(record):>5}  {macs:>5} MACs  {params:>5} params  {gates}{end}"


def _top1(record: TrialRecord) -> str:
    return "" if record.top1 is None else f"{record.top1:.1f}"


def clock(seconds: float) -> str:
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{seconds:02}" if hours else f"{minutes}:{seconds:02}"
