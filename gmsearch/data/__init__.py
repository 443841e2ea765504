"""Data sets as plain arrays: `load("bands", …)` or `load("path/to/imagenet", …)`.

Reading needs NumPy and Pillow only; batches become tensors in `training`.
"""

from pathlib import Path

from gmsearch.data.bands import make_bands, make_bands_val
from gmsearch.data.images import load_images, load_images_val
from gmsearch.data.records import Dataset, Split

__all__ = ["BUILT_IN", "Dataset", "Split", "load", "load_val"]

BUILT_IN = "bands"


def load(source: str, *, resolution: int, seed: int) -> Dataset:
    """The data of a search: `bands`, or a folder or zip in ImageNet layout. Raises DataError."""
    if source == BUILT_IN:
        return make_bands(resolution, seed)
    return load_images(Path(source), resolution, seed)


def load_val(source: str, *, resolution: int, seed: int) -> Split:
    """The official held-out split, for final figures only. Raises DataError."""
    if source == BUILT_IN:
        return make_bands_val(resolution, seed)
    return load_images_val(Path(source), resolution)
