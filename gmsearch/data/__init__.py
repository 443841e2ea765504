"""Data sets as plain arrays: `load("bands", …)`, or `load(…)` of a pack or of original images.

Reading needs NumPy and Pillow only; batches become tensors in `feeding`.
"""

from dataclasses import replace
from pathlib import Path

import numpy as np

from gmsearch.data.bands import make_bands, make_bands_val
from gmsearch.data.cache import place_of
from gmsearch.data.opening import is_named, open_source
from gmsearch.data.packing import Order, Progress, is_unfinished, make_pack
from gmsearch.data.packs import OFFICIAL, SEARCHED, Pack, PackedDataset, is_pack, read_pack
from gmsearch.data.records import Dataset, Shards, Split
from gmsearch.data.selection import Selection, choose
from gmsearch.data.shrinking import shrink_pack
from gmsearch.data.streamed import StreamedDataset
from gmsearch.errors import DataError

__all__ = [
    "BUILT_IN",
    "AnyDataset",
    "Dataset",
    "PackedDataset",
    "Shards",
    "Split",
    "StreamedDataset",
    "is_named",
    "load",
    "load_official",
    "packed_resolution",
    "stream",
]

BUILT_IN = "bands"
AnyDataset = Dataset | StreamedDataset


def load(
    source: str,
    *,
    resolution: int,
    seed: int,
    cache: Path | None = None,
    progress: Progress = lambda done, total: None,
) -> Dataset:
    """The data of a search: `bands`, which `seed` makes, a pack, or original images, which are
    packed into the cache on first use. So is a pack that has more pixels, for a lower resolution.
    Raises DataError.
    """
    if source == BUILT_IN:
        return make_bands(resolution, seed)
    pack = _pack_of(source, resolution, cache, progress)
    pack.verify(*SEARCHED)
    return PackedDataset.of(pack)


def load_official(
    source: str,
    *,
    resolution: int,
    seed: int,
    cache: Path | None = None,
    progress: Progress = lambda done, total: None,
) -> Dataset:
    """The data of a full training: all official training images, and val in the place of minival.

    For final figures only: no search may see them. Raises DataError.
    """
    if source == BUILT_IN:
        searched, val = make_bands(resolution, seed), make_bands_val(resolution, seed)
        train, minival = searched.train, searched.minival
        images = np.concatenate([*train.images.arrays, *minival.images.arrays])
        labels = np.concatenate([train.labels, minival.labels])
        return replace(searched, train=Split.of(images, labels), minival=val)
    pack = _pack_of(source, resolution, cache, progress)
    pack.verify(*OFFICIAL)
    return PackedDataset.of(pack, OFFICIAL)


def stream(source: str, *, resolution: int, official: bool = False) -> StreamedDataset:
    """Original images that are decoded in every epoch: for a search, or `official` ones for final
    figures, as `load_official` has them. Raises DataError.
    """
    if source == BUILT_IN or is_pack(Path(source)):
        raise DataError(f"--stream: {source} is not original images; leave --stream out")
    images = open_source(source)
    plan = choose(images, Selection())
    if official:
        splits = plan.splits
        taken = {"train": splits["train"] + splits["minival"], "minival": splits["val"], "val": []}
        plan = replace(plan, splits=taken)
    return StreamedDataset(Path(source).stem, plan.classes, resolution, images, plan)


def packed_resolution(source: str) -> int | None:
    """The resolution that a pack was made for; None for what is no pack."""
    path = Path(source)
    return read_pack(path).resolution if is_pack(path) else None


def _pack_of(source: str, resolution: int, cache: Path | None, progress: Progress) -> Pack:
    path = Path(source)
    if is_pack(path):
        pack = read_pack(path)
        if pack.resolution < resolution:
            raise DataError(
                f"{source}: packed for {pack.resolution} px; give --resolution {pack.resolution} "
                "or less, or pack the images again for more"
            )
        if pack.resolution > resolution:
            pack.verify(*OFFICIAL)
            place = place_of(source, resolution, pack.digest(OFFICIAL), cache)
            return shrink_pack(pack, resolution, place, progress=progress)
        return pack
    if is_unfinished(path):
        raise DataError(
            f"{source}: a pack that is not finished; say the same `gmsearch pack` again"
        )
    images = open_source(source)
    order = Order(images, Selection(), choose(images, Selection()), resolution)
    place = place_of(source, resolution, order.key, cache)
    return make_pack(order, place, progress=progress)
