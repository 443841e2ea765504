"""A pack at a lower resolution, made of another pack, for which no original is needed."""

import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from gmsearch.data.decoding import shrink_square, side_for
from gmsearch.data.packing import LEAST, Progress, check_disk
from gmsearch.data.packs import LABELS, META, NAMES, Pack, find_pack, read_pack
from gmsearch.data.selection import SPLITS
from gmsearch.errors import DataError
from gmsearch.files import sha256_of, write_atomically


def shrink_pack(
    pack: Pack,
    resolution: int,
    out: Path,
    *,
    progress: Progress = lambda done, total: None,
) -> Pack:
    """The same images, resized with antialiasing, in a pack at `out`; one that is there is taken.

    A stop leaves nothing at `out`. Raises DataError.
    """
    if not LEAST <= resolution < pack.resolution:
        raise DataError(f"--resolution is {resolution}; allowed: {LEAST} to {pack.resolution} px")
    if out.is_dir():
        found = read_pack(out)
        if found.meta.get("shrunk_from") == pack.digest(SPLITS):
            return found
        raise DataError(f"{out} is another pack; remove it")
    check_disk(out, round(pack.nbytes * (side_for(resolution) / pack.side) ** 2))
    out.parent.mkdir(parents=True, exist_ok=True)
    total, done = sum(split["count"] for split in pack.meta["splits"].values()), 0
    with tempfile.TemporaryDirectory(prefix=".shrinking-", dir=out.parent) as scratch:
        place = Path(scratch) / "pack"
        splits: dict[str, Any] = {}
        for split in SPLITS:
            (place / split).mkdir(parents=True)
            for name in (LABELS, NAMES):
                shutil.copyfile(pack.path / split / name, place / split / name)
            checksums = dict(pack.meta["splits"][split]["sha256"])
            for name in checksums:
                if name != LABELS:
                    images = np.load(pack.path / split / name, mmap_mode="r", allow_pickle=False)
                    small = np.stack(list(_shrunk(images, resolution)))
                    np.save(place / split / name, small, allow_pickle=False)
                    checksums[name] = sha256_of(place / split / name)
                    done += len(images)
                    progress(done, total)
            splits[split] = {**pack.meta["splits"][split], "sha256": checksums}
        meta = {
            **pack.meta,
            "resolution": resolution,
            "side": side_for(resolution),
            "splits": splits,
            "shrunk_from": pack.digest(SPLITS),
        }
        write_atomically(place / META, json.dumps(meta, indent=2) + "\n")
        try:
            os.rename(place, out)
        except OSError:  # another process was faster
            if find_pack(out, read_pack(place).digest(SPLITS), SPLITS) is None:
                raise
    return read_pack(out)


def _shrunk(images: np.ndarray, resolution: int) -> Iterator[np.ndarray]:
    return (shrink_square(image, resolution) for image in images)
