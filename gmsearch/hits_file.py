"""What a training is right about, kept beside it so that it is looked at once: hits.npz."""

import io
import struct
import zipfile
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from gmsearch.files import replacing

# What NumPy, zipfile and zlib raise for a file that is cut off or has other bytes.
DAMAGES = (
    *(OSError, EOFError, ValueError, TypeError, LookupError, RuntimeError, SyntaxError),
    *(MemoryError, OverflowError, struct.error, zipfile.BadZipFile, zlib.error),
)


def read_hits(file: Path, measures: Sequence[str], num_images: int) -> dict[str, np.ndarray] | None:
    """bool (num_images,) by measure; None where the file is damaged, lacks a measure or is of other
    images: it is only a cache, and the images can be looked at again.
    """
    try:
        # From memory: NumPy leaves a file open that is no zip file.
        with np.load(io.BytesIO(file.read_bytes()), allow_pickle=False) as saved:
            found = {measure: saved[measure] for measure in measures}
    except DAMAGES:
        return None
    return found if all(_is_whole(hits, num_images) for hits in found.values()) else None


def _is_whole(hits: object, num_images: int) -> bool:
    if not isinstance(hits, np.ndarray):  # NumPy gives bytes for a part that is none of its own
        return False
    return hits.shape == (num_images,) and hits.dtype == bool


def write_hits(file: Path, hits: Mapping[str, np.ndarray]) -> None:
    written = io.BytesIO()
    np.savez_compressed(written, **hits)  # type: ignore[arg-type]
    with replacing(file) as target:
        target.write(written.getbuffer())
