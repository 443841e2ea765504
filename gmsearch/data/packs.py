"""Packs: image subsets as plain arrays on disk, which NumPy maps and processes share.

    PACK/
      meta.json                 source, selection, classes, counts, sizes, checksums, skipped files
      train/images-000.npy, …   uint8 (N, side, side, 3), in shards of bounded size
      train/labels.npy          int64 (N,), indices of the classes in meta.json
      train/names.txt           the original of each image, one on a line
      minival/…, val/…

Reading needs NumPy alone. `packing` writes them.
"""

import hashlib
import json
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from gmsearch.data.cache import copy_of
from gmsearch.data.records import Dataset, Shards, Split
from gmsearch.errors import DataError
from gmsearch.files import sha256_of

FORMAT = 1
META = "meta.json"
SEARCHED = ("train", "minival")  # the last is what is judged on
OFFICIAL = ("train", "minival", "val")
LABELS, NAMES = "labels.npy", "names.txt"


def shard_name(number: int) -> str:
    return f"images-{number:03}.npy"


@dataclass(frozen=True)
class Pack:
    """A finished pack, as its meta.json says."""

    path: Path
    meta: dict[str, Any] = field(repr=False)

    @property
    def classes(self) -> tuple[str, ...]:
        return tuple(self.meta["classes"])

    @property
    def resolution(self) -> int:
        """Pixels that networks train on."""
        return self.meta["resolution"]

    @property
    def side(self) -> int:
        """Pixels of the images: the resolution and its head-room."""
        return self.meta["side"]

    @property
    def nbytes(self) -> int:
        """Bytes of all images."""
        count = sum(split["count"] for split in self.meta["splits"].values())
        return count * self.side**2 * 3

    def digest(self, splits: Sequence[str]) -> str:
        """Twelve hexadecimal digits that another image, label or class of some splits would
        change.
        """
        seen = [self.meta["classes"], self.resolution]
        seen += [self.meta["splits"][split]["sha256"] for split in splits]
        return hashlib.sha256(json.dumps(seen).encode()).hexdigest()[:12]

    def verify(self, *splits: str) -> None:
        """Reads all arrays of some splits. Raises DataError where one is not as it was packed."""
        files = [
            (self.path / split / name, checksum)
            for split in splits
            for name, checksum in self.meta["splits"][split]["sha256"].items()
        ]
        with ThreadPoolExecutor() as pool:
            for _ in pool.map(_verify_file, files):
                pass

    def split(self, name: str) -> Split:
        """The arrays of a split, mapped. Raises DataError."""
        about = self.meta["splits"][name]
        folder = self.path / name
        labels = _load(folder / LABELS)
        arrays = [
            _load(folder / name, mapped=True)
            for name in sorted(about["sha256"], key=lambda name: (len(name), name))
            if name != LABELS
        ]
        shape = (self.side, self.side, 3)
        if (
            any(array.dtype != np.uint8 or array.shape[1:] != shape for array in arrays)
            or not len(labels) == sum(map(len, arrays)) == about["count"]
            or not len(labels)
            or not 0 <= labels.min() <= labels.max() < len(self.classes)
        ):
            raise DataError(f"{folder}: not the arrays that {META} tells of; pack it again")
        return Split(Shards(arrays), labels)


@dataclass(frozen=True)
class PackedDataset(Dataset):
    """A data set in a pack. Another process gets its path, not its arrays."""

    pack: Pack
    splits: tuple[str, ...]  # those that it opens

    @classmethod
    def of(cls, pack: Pack, splits: tuple[str, ...] = SEARCHED) -> "PackedDataset":
        """For a search, or with OFFICIAL for final figures. Raises DataError."""
        *parts, held_out = map(pack.split, splits)
        train = Split(
            Shards([array for part in parts for array in part.images.arrays]),
            np.concatenate([part.labels for part in parts]),
        )
        name, resolution = pack.path.name, pack.resolution
        return cls(name, pack.classes, resolution, train, held_out, pack, splits)

    @property
    def digest(self) -> str:
        return self.pack.digest(self.splits)

    def __reduce__(self) -> Any:
        return open_packed, (str(self.pack.path.absolute()), self.digest, self.splits)


@lru_cache(maxsize=1)  # trials of one process, one after the other, share the mapping
def open_packed(path: str, digest: str, splits: tuple[str, ...]) -> PackedDataset:
    """The data set of a pack on this machine: at `path`, or in its cache. Raises DataError."""
    places = Path(path), copy_of(digest)
    pack = next(filter(None, (find_pack(place, digest, splits) for place in places)), None)
    if pack is None:
        raise DataError(f"{path}: the pack that this run began with is not there")
    return PackedDataset.of(pack, splits)


def find_pack(path: Path, digest: str, splits: Sequence[str]) -> Pack | None:
    """The pack at a path, if it is there and is the one that is meant."""
    try:
        pack = read_pack(path)
    except DataError:
        return None
    return pack if pack.digest(splits) == digest else None


def is_pack(path: Path) -> bool:
    """Whether a folder is a pack, perhaps a broken one."""
    try:
        return "gmsearch_pack" in (path / META).read_text(encoding="utf-8", errors="replace")
    except OSError:
        return False


def read_pack(path: Path) -> Pack:
    """Raises DataError where there is none, or one of another format."""
    try:
        meta = json.loads((path / META).read_text(encoding="utf-8"))
        if meta["gmsearch_pack"] != FORMAT:
            raise DataError(f"{path}: a pack of another format; pack it again")
        pack = Pack(path, meta)
        for split in meta["splits"].values():
            if not isinstance(split["count"], int) or not isinstance(split["sha256"], dict):
                raise TypeError
        _ = (
            pack.classes,
            pack.resolution + pack.side,
            pack.nbytes,
            pack.digest(OFFICIAL),
            meta["key"],
        )
        _ = meta["selection"]["seed"], meta["splits"]["val"], meta["skipped"], meta["val_is"]
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        raise DataError(
            f"{path}: not a pack, or its {META} is broken; remove it and pack it again"
        ) from None
    return pack


def _verify_file(file: tuple[Path, str]) -> None:
    path, checksum = file
    try:
        found = sha256_of(path)
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror}); pack it again") from None
    if found != checksum:
        raise DataError(f"{path}: not what was packed, its checksum differs; pack it again")


def _load(path: Path, mapped: bool = False) -> np.ndarray:
    try:
        return np.load(path, mmap_mode="r" if mapped else None, allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        reason = str(error).splitlines()[0]
        raise DataError(f"{path}: cannot be read ({reason}); pack it again") from None
