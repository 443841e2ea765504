"""How well trained networks do on the low and the high frequencies of images: `gmsearch frequency`.

DIR/frequency.csv   a row for each network
DIR/frequency.png   a line for each network
"""

import csv
import io
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import cycle
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from rich import box
from rich.console import Console
from rich.table import Table

from gmsearch import data
from gmsearch.bias import Bias, low_frequency_bias
from gmsearch.errors import SettingsError
from gmsearch.experiment import FullTraining, Settings
from gmsearch.exporting.subject import Subject, check_classes
from gmsearch.feeding import in_order, place
from gmsearch.figure_file import Entry, add_legend, new_figure, write_png
from gmsearch.files import write_atomically
from gmsearch.frequency import hits_by_part
from gmsearch.palette import LOOKS
from gmsearch.progress import reading
from gmsearch.radii import RAW, SIDES, band_names, bins, check_radius, corner, radius_of
from gmsearch.record import interval_of
from gmsearch.trained import Named

if TYPE_CHECKING:
    from gmsearch.figure_file import Axes, Figure


@dataclass(frozen=True)
class BandAccuracy:
    """A trained network and its accuracies in per cent: `raw`, and by part."""

    name: str
    id: str
    data: str
    resolution: int
    split: str  # what the images are of
    num_images: int
    top1: dict[str, float]
    bias: Bias  # in per cent, see `bias`
    note: str = ""  # what a reader has to know before it is compared
    run: str = ""  # whose training it is; nothing where it is of none

    def to_dict(self) -> dict[str, Any]:
        """For programs; what is not known is None."""
        value, low, high = (None if end != end else end for end in self.bias)
        apart = ("top1", "bias", "note")
        told = {name: value for name, value in vars(self).items() if name not in apart}
        biased = {"bias": value, "bias_low": low, "bias_high": high}
        return {**told, "top1": self.top1, **biased, "note": self.note}


class Looking:
    """Looks at networks on their data, or on `source`, at published radii. Data that several
    networks share is read once.

    A network that a search or a comparison trained is judged on minival, as there; all others on
    val, which no training has seen.
    """

    def __init__(
        self, source: str | None, radii: Sequence[float], console: Console, cache: str | None = None
    ) -> None:
        self._source, self._radii = source, tuple(radii)
        self._console = console
        self._cache = cache
        self._device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        self._datasets: dict[tuple, data.Dataset] = {}

    def at(self, named: Named) -> BandAccuracy:
        """Raises UserError where the data is not that of the network, or a radius is too large."""
        subject = named.trained.read()
        if subject.facts.get("kind") == "random":
            raise SettingsError(f"{named.name}: its weights are random; give a trained network")
        side = subject.resolution
        for radius in self._radii:
            where = f"({radius:g} at 224 px) of the images of {named.name}, {side}x{side} px"
            check_radius(bins(radius, side), corner(side, side), where)
        settings = subject.settings
        searched = isinstance(settings, Settings)
        source = self._source_of(named.name, settings)
        dataset = self._read(source, subject, official=not searched)
        check_classes(subject, dataset, source)
        model = subject.model.to(self._device).to(memory_format=torch.channels_last)
        split = dataset.minival
        batches = in_order(place(split.images, self._device), split.labels, side, self._device)
        hits = hits_by_part(model, batches, [RAW, *band_names(self._radii)])
        found = {name: part.cpu().numpy() for name, part in hits.items()}
        return BandAccuracy(
            name=named.name,
            run=named.run,
            id=subject.network.id,
            data=Path(source).name,
            resolution=side,
            split="minival" if searched else "val",
            num_images=len(split),
            top1={name: 100 * float(part.mean()) for name, part in found.items()},
            bias=low_frequency_bias(found, len(dataset.classes)),
            note="; ".join(_remarks(subject, dataset)),
        )

    def _source_of(self, name: str, settings: Settings | FullTraining | None) -> str:
        if self._source is not None:
            return self._source
        if settings is None:
            raise SettingsError(f"{name}: give --data SRC, the images that it was trained for")
        if settings.stream:
            raise SettingsError(f"{settings.data} was streamed; give --data PACK, a pack of it")
        return settings.data

    def _read(self, source: str, subject: Subject, *, official: bool) -> data.Dataset:
        settings = subject.settings
        seed = 0 if settings is None else settings.seed
        cache = self._cache or (None if settings is None else settings.cache)
        key = (source, subject.resolution, seed if source == data.BUILT_IN else None, official)
        if key not in self._datasets:
            load = data.load_official if official else data.load
            with reading(self._console, source) as progress:
                self._datasets[key] = load(
                    source,
                    resolution=subject.resolution,
                    seed=seed,
                    cache=None if cache is None else Path(cache),
                    progress=progress,
                )
        return self._datasets[key]


def _remarks(subject: Subject, dataset: data.Dataset) -> Iterator[str]:
    """What sets a network apart: a training that was not finished, or that had other images."""
    settings = subject.settings
    if settings is None:
        return
    if subject.facts["epochs"] < settings.recipe.num_epochs:
        yield f"trained for {subject.facts['epochs']} of {settings.recipe.num_epochs} epochs"
    if settings.stream:  # whose digest is of other things
        yield "trained on a stream, which may have had some of these images"
    elif settings.data_digest not in (None, dataset.digest):
        yield "trained on other data, which may have had some of these images"


def accuracy_table(rows: Sequence[BandAccuracy]) -> Table:
    """A line for each network."""
    table = Table(box=box.SIMPLE_HEAD, caption=_caption(rows), caption_justify="left")
    table.add_column("network", overflow="fold")
    table.add_column("images", no_wrap=True)
    for name in rows[0].top1:
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column("bias", justify="right", no_wrap=True)
    table.add_column("95 %", no_wrap=True)
    for row in rows:
        value, low, high = row.bias
        table.add_row(
            row.name,
            f"{row.num_images:,} {row.split}",
            *(f"{top1:.1f}" for top1 in row.top1.values()),
            "" if value != value else f"{value:.0f} %",
            "not known" if low != low else f"{low:.0f} to {high:.0f}",
        )
    return table


def _caption(rows: Sequence[BandAccuracy]) -> str:
    sides = sorted({row.resolution for row in rows})
    words = ", ".join(
        f"{radius:g} is {'/'.join(f'{bins(radius, side):.3g}' for side in sides)}"
        for radius in _radii(rows[0], SIDES[0])
    )
    told = (
        f"top1 in per cent; radii at 224 px, in bins at {'/'.join(map(str, sides))} px: {words}; "
        "bias: low less high, of what is above chance"
    )
    return "\n".join([told, *(f"{row.name}: {row.note}" for row in rows if row.note)])


def _radii(row: BandAccuracy, side: str) -> list[float]:
    return [radius_of(name) for name in row.top1 if name.startswith(side)]


def write_files(rows: Sequence[BandAccuracy], folder: Path) -> list[Path]:
    """Writes frequency.csv and frequency.png."""
    folder.mkdir(parents=True, exist_ok=True)
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    names = ["name", "run", "id", "data", "resolution", "split", "num_images"]
    writer.writerow([*names, *rows[0].top1, "bias", "bias_low", "bias_high", "note"])
    for row in rows:
        told = row.to_dict()
        rest = [told[name] for name in ("bias", "bias_low", "bias_high", "note")]
        writer.writerow([*(told[name] for name in names), *row.top1.values(), *rest])
    table, picture = folder / "frequency.csv", folder / "frequency.png"
    write_atomically(table, text.getvalue())
    draw_accuracies(picture, rows)
    return [table, picture]


def draw_accuracies(path: Path, rows: Sequence[BandAccuracy]) -> None:
    """Writes a PNG file of `accuracies_figure`."""
    write_png(accuracies_figure(rows), path)


def accuracies_figure(rows: Sequence[BandAccuracy]) -> "Figure":
    """A panel for the low parts and one for the high ones: a line over the radii for each network,
    with 95 % intervals from the number of images, and a dotted one at its accuracy on whole images.
    """
    looks = list(zip(rows, cycle(LOOKS)))
    figure = new_figure(9, 4.2 + 0.2 * -(-len(rows) // 3))
    panels = figure.subplots(1, len(SIDES), sharey=True)
    for axes, side in zip(panels, SIDES, strict=True):
        entries = _draw_side(axes, side, looks)
    panels[0].set_ylabel("top1 on the part, %")
    panels[0].set_ylim(bottom=0)
    add_legend(figure, entries, loc="outside lower center", ncols=3, fontsize=8)
    return figure


def _draw_side(
    axes: "Axes", side: str, looks: Iterable[tuple[BandAccuracy, tuple[str, str]]]
) -> list[Entry]:
    """For the legend, a line for each network."""
    entries = []
    for row, (style, colour) in looks:
        radii = _radii(row, side)
        values = [row.top1[f"{side}{radius:g}"] for radius in radii]
        spans = [interval_of(value, row.num_images) for value in values]
        around = [
            [value - span.low for value, span in zip(values, spans, strict=True)],
            [span.high - value for value, span in zip(values, spans, strict=True)],
        ]
        look: dict[str, Any] = {"ls": style, "color": colour, "ms": 5, "lw": 1.5}
        bars = axes.errorbar(radii, values, around, fmt="o", elinewidth=0.7, capsize=2, **look)
        entries.append((row.name, bars))
        axes.axhline(row.top1[RAW], color=colour, ls=":", lw=0.8)
    where = "within" if side == SIDES[0] else "beyond"
    axes.set_title(f"{side} part: {where} the radius (dotted: whole images)", fontsize=9)
    axes.set_xlabel("radius, in bins at 224 px (Nyquist: 112)")
    axes.set_xlim(left=0)
    axes.grid(alpha=0.2)
    return entries
