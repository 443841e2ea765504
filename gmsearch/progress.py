"""What a user sees of long work: packing, and a full training that other processes do."""

import json
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.progress import MofNCompleteColumn, Progress, TextColumn

from gmsearch.console import clock
from gmsearch.data.packs import Pack
from gmsearch.run import read_curve

SILENT = 2.0  # seconds of packing that are not worth a plain line
POLL = 1.0  # seconds between two looks at a full training
REFRESH = 0.1  # seconds between two looks at a packing
SKIPPED_SHOWN = 5  # broken images that are named after packing


class Reading:
    """Shows that data is read, and how far it is packed where that has to be done."""

    def __init__(self, console: Console, bars: Progress, source: str) -> None:
        self._console = console
        self._bars = bars
        self._source = source
        self._task = bars.add_task(escape(f"reading {source}"), total=None)
        self._began = (0.0, 0)  # seconds, and images that were packed before
        self._shown = 0.0  # when, in seconds
        self._told = 0  # tenths
        self.rate: float | None = None  # images that were packed in a second; None for none

    def __call__(self, done: int, total: int) -> None:
        """So many images are packed."""
        if self.rate is None:
            self._began, self.rate = (time.perf_counter(), done), 0.0
            self._bars.update(self._task, description=escape(f"packing {self._source}"))
        now = time.perf_counter()
        if now - self._shown < REFRESH and done < total:
            return
        self._shown = now
        began, before = self._began
        self.rate = (done - before) / max(1e-9, now - began)
        self._bars.update(self._task, completed=done, total=total)
        tenth = 10 * done // max(1, total)
        if not self._console.is_terminal and tenth > self._told and now - began > SILENT:
            self._told = tenth
            left = clock((total - done) / self.rate) if self.rate else ""
            self._console.print(
                f"packing {self._source}: {done:,} of {total:,} images ({left} left)",
                soft_wrap=True,
            )


@contextmanager
def reading(console: Console, source: str) -> Iterator[Reading]:
    """A bar while data is read or packed; plain lines where there is no terminal."""
    with Progress(
        *Progress.get_default_columns(),
        MofNCompleteColumn(),
        console=console,
        transient=True,
        disable=not console.is_terminal,
    ) as bars:
        yield Reading(console, bars, source)


def pack_in_words(pack: Pack, rate: float | None) -> str:
    """What is in a pack, and how fast it was made; `rate` is None where it was there."""
    splits, skipped = pack.meta["splits"], pack.meta["skipped"]
    counts = ", ".join(f"{name} {about['count']:,}" for name, about in splits.items())
    lines = [
        f"{pack.path}: {counts} images of {len(pack.classes)} classes, {pack.side} px for crops of "
        f"{pack.resolution}, {pack.nbytes / 1e6:,.0f} MB; val is {pack.meta['val_is']}"
    ]
    lines += [f"skipped {name}: {reason}" for name, reason in list(skipped.items())[:SKIPPED_SHOWN]]
    if len(skipped) > SKIPPED_SHOWN:
        lines.append(f"and {len(skipped) - SKIPPED_SHOWN:,} more, see meta.json")
    lines.append("it was there already" if rate is None else f"{rate:,.0f} images a second")
    return "\n".join(lines)


@contextmanager
def following(console: Console, title: str, folder: Path, num_epochs: int) -> Iterator[None]:
    """Shows a full training while another process does it: a bar with time left, or a line after
    each epoch where there is no terminal.
    """
    leave = threading.Event()
    with Progress(
        *Progress.get_default_columns(),
        TextColumn("{task.fields[note]}"),
        console=console,
        transient=True,
        disable=not console.is_terminal,
    ) as bars:
        task = bars.add_task(escape(title), total=num_epochs, note="")
        told = len(read_curve(folder))
        thread = threading.Thread(
            target=_follow, args=(console, bars, task, title, folder, told, leave)
        )
        thread.start()
        try:
            yield
        finally:
            leave.set()
            thread.join()


def _follow(
    console: Console,
    bars: Progress,
    task: Any,
    title: str,
    folder: Path,
    told: int,
    leave: threading.Event,
) -> None:
    """Follows a folder of which so many epochs are told already."""
    now = _Now()
    while True:
        last = leave.wait(POLL)
        curve, now = read_curve(folder), _now(folder, now)
        for epoch in curve[told:]:
            rate = epoch["images_per_second"]
            line = (
                f"{title}  epoch {epoch['epoch']:>3}  loss {epoch['train_loss']:.3f}  "
                f"top1 {epoch['top1']:.1f}  {_rate(rate, now.images_per_second_at_peak)}"
            )
            if not console.is_terminal:
                console.print(line, soft_wrap=True)
        told = len(curve)
        under_way = now.share if now.epoch == told else 0.0
        top1 = f"top1 {curve[-1]['top1']:.1f}  " if curve else ""
        rate = _rate(now.images_per_second, now.images_per_second_at_peak)
        bars.update(task, completed=told + under_way, note=escape(top1 + rate))
        if last:
            return


@dataclass(frozen=True)
class _Now:
    """Where a full training is within an epoch, as its progress.json tells it."""

    epoch: int = 0  # those that are done
    share: float = 0.0  # of the one that is under way
    images_per_second: float | None = None
    images_per_second_at_peak: float | None = None  # on a GPU


def _now(folder: Path, before: _Now) -> _Now:
    """What a training tells, or told before where it tells nothing now."""
    try:
        return _Now(**json.loads((folder / "progress.json").read_text()))
    except (OSError, ValueError, TypeError):  # none yet, or not ours: it is told without
        return before


def _rate(images_per_second: float | None, at_peak: float | None) -> str:
    if images_per_second is None:
        return ""
    share = f", {images_per_second / at_peak:.1%} of peak" if at_peak else ""
    return f"{images_per_second:,.0f} images/s{share}"
