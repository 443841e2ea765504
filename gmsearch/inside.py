"""What is inside a network: `gmsearch spectra`.

OUT/inside.png     the spectra of every stage
OUT/spectra.csv    the same in figures
OUT/support.png    the band of a product
OUT/falls.png      how the spectra of activations fall
"""

import csv
import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from gmsearch import data
from gmsearch.console import make_console
from gmsearch.exporting.subject import Subject, find_subject
from gmsearch.feeding import in_order, place
from gmsearch.figure_file import write_png
from gmsearch.files import write_atomically
from gmsearch.progress import reading
from gmsearch.spectra import BEFORE, PLACES, PRODUCT, StageSpectra, measure_spectra
from gmsearch.spectra_figures import draw_falls, draw_inside, draw_support

BATCH = 16  # images at most; maps are taken in double precision, and are large
BLOCKS, ACTIVATIONS = "blocks", "activations"  # what a stage is said to have


class Inside(NamedTuple):
    """The spectra of a network, and on what they were measured."""

    subject: Subject
    num_images: int
    stages: list[StageSpectra]

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for a program to read."""
        return {
            "network": self.subject.name,
            "weights": self.subject.facts,
            "resolution": self.subject.resolution,
            "images": self.num_images,
            "stages": [_in_figures(stage) for stage in self.stages],
        }

    def in_words(self) -> str:
        """A line for each stage."""
        counted = BLOCKS if self.stages[0].blocks is not None else ACTIVATIONS
        head = f"{'':10}{'px':>5}{counted:>13}" + "".join(f"{place:>24}" for place in PLACES)
        lines = [f"{head}{'product / before':>20}"]
        for stage in map(_in_figures, self.stages):
            high, ratio = stage["high"], stage["ratio"]
            cells = (f"{100 * high[p]:.3g} %" if p in high else "" for p in PLACES)
            told = "" if ratio is None else f"{ratio:.2f}"
            line = f"{stage['name']:10}{stage['side']:5}{stage[counted]:13}"
            lines.append(line + "".join(f"{cell:>24}" for cell in cells) + f"{told:>20}")
        return "energy beyond half of Nyquist, the mean left out\n" + "\n".join(lines)


def look_inside(
    what: str,
    *,
    source: str,
    out: Path,
    num_images: int,
    resolution: int | None = None,
    network_id: str | None = None,
    quiet: bool = False,
) -> Inside:
    """Measures a network on images of the training split, whose labels do not matter, and writes
    figures and spectra.csv. Raises UserError.
    """
    resolution = resolution or data.packed_resolution(source)
    subject = find_subject(what, network_id=network_id, resolution=resolution)
    console = make_console()
    console.quiet = quiet
    with reading(console, source) as progress:
        dataset = data.load(source, resolution=subject.resolution, seed=0, progress=progress)
    split = dataset.train
    count = min(num_images, len(split))
    chosen = np.linspace(0, len(split) - 1, count).round().astype(int)
    few = data.Split.of(np.stack([split.images[int(i)] for i in chosen]), split.labels[chosen])
    fresh = subject.facts["kind"] == "random"
    batches = _batches(few, dataset.resolution)
    found = Inside(subject, count, measure_spectra(subject.model, batches, fresh=fresh))
    out.mkdir(parents=True, exist_ok=True)
    _write(found, out)
    console.print(f"{subject.name}: {subject.weights}", soft_wrap=True)
    console.print(f"{count} images at {subject.resolution} px; {found.in_words()}", soft_wrap=True)
    console.print(f"wrote inside.png, spectra.csv, support.png and falls.png to {out}")
    return found


def _batches(split: data.Split, resolution: int) -> list[tuple[Tensor, Tensor]]:
    """All images as networks take them, in batches of about one size, so of two or more where there
    are two.
    """
    cpu = torch.device("cpu")
    parts = in_order(place(split.images, cpu), split.labels, resolution, cpu)
    images, labels = map(torch.cat, zip(*parts, strict=True))
    count = -(-len(images) // BATCH)
    return list(zip(images.tensor_split(count), labels.tensor_split(count), strict=True))


def _write(found: Inside, out: Path) -> None:
    subject = found.subject
    state = "fresh" if subject.facts["kind"] == "random" else "trained"
    title = (
        f"{subject.name}: {subject.network.in_words()}, {state}; "
        f"{found.num_images} images at {subject.resolution} px"
    )
    write_png(draw_inside(title, found.stages), out / "inside.png")
    write_png(draw_support(), out / "support.png")
    write_png(draw_falls(), out / "falls.png")
    write_atomically(out / "spectra.csv", _table(found.stages))


def _table(stages: Sequence[StageSpectra]) -> str:
    rows = io.StringIO()
    writer = csv.writer(rows, lineterminator="\n")
    writer.writerow(("stage", "side", "place", "radius", "power"))
    for stage in stages:
        for where, spectrum in stage.spectra.items():
            for radius, power in zip(spectrum.radius, spectrum.power, strict=True):
                told = (f"{radius:.6g}", f"{power:.6g}")
                writer.writerow((stage.name, stage.side, where, *told))
    return rows.getvalue()


def _in_figures(stage: StageSpectra) -> dict[str, Any]:
    high = {where: spectrum.high for where, spectrum in stage.spectra.items()}
    both = BEFORE in high and PRODUCT in high
    return {
        "name": stage.name,
        "side": stage.side,
        **(
            {ACTIVATIONS: len(stage.activations)}
            if stage.blocks is None
            else {BLOCKS: stage.blocks}
        ),
        "high": high,
        "ratio": high[PRODUCT] / high[BEFORE] if both else None,
    }
