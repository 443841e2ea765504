"""What a data set is once it is read: plain arrays and class names."""

import hashlib
from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import accumulate

import numpy as np


class Shards:
    """The images of a split, uint8 (N, side, side, 3), in one or more arrays, which may be mapped
    from disk.
    """

    def __init__(self, arrays: Sequence[np.ndarray]) -> None:
        self.arrays = tuple(arrays)
        self._ends = list(accumulate(len(array) for array in self.arrays))

    def __len__(self) -> int:
        return self._ends[-1]

    def __getitem__(self, index: int) -> np.ndarray:
        """One image, not copied."""
        shard = bisect_right(self._ends, index)
        return self.arrays[shard][index - self._ends[shard]]

    @property
    def side(self) -> int:
        return self.arrays[0].shape[1]

    @property
    def nbytes(self) -> int:
        return sum(array.nbytes for array in self.arrays)


@dataclass(frozen=True)
class Split:
    """Square images and their labels, int64 (N,)."""

    images: Shards
    labels: np.ndarray

    def __len__(self) -> int:
        return len(self.labels)

    @classmethod
    def of(cls, images: np.ndarray, labels: np.ndarray) -> "Split":
        """A split of one array in memory."""
        return cls(Shards([images]), labels)


@dataclass(frozen=True)
class Dataset:
    """What a search may see: `train`, and `minival`, which is cut from the official train split.

    Networks train on crops of `resolution` px; what the images have beyond it is head-room for
    them. The official `val` split is not here; `load_official` reads it, for final figures only.
    """

    name: str
    classes: tuple[str, ...]
    resolution: int
    train: Split
    minival: Split

    @cached_property
    def digest(self) -> str:
        """Twelve hexadecimal digits that another image, label or class would change."""
        digest = hashlib.sha256(repr((self.classes, self.resolution)).encode())
        for split in (self.train, self.minival):
            for array in split.images.arrays:
                digest.update(np.ascontiguousarray(array).data)
            digest.update(split.labels.tobytes())
        return digest.hexdigest()[:12]
