"""What a data set is once it is read: plain arrays and class names."""

import hashlib
from dataclasses import dataclass
from functools import cached_property

import numpy as np


@dataclass(frozen=True)
class Split:
    """Images as uint8 (N, side, side, 3) and labels as int64 (N,), in memory."""

    images: np.ndarray
    labels: np.ndarray

    def __len__(self) -> int:
        return len(self.labels)


@dataclass(frozen=True)
class Dataset:
    """What a search may see: `train`, and `minival`, which is cut from the official train split by
    seed.

    The official `val` split is not here; it is read by `load_val`, for final figures only.
    """

    name: str
    classes: tuple[str, ...]
    train: Split
    minival: Split

    @cached_property
    def digest(self) -> str:
        """Twelve hexadecimal digits that another image, label or class would change."""
        digest = hashlib.sha256(repr(self.classes).encode())
        for split in (self.train, self.minival):
            digest.update(split.images.tobytes())
            digest.update(split.labels.tobytes())
        return digest.hexdigest()[:12]


def cut_minival(split: Split, share: float, seed: int) -> tuple[Split, Split]:
    """Cuts `share` of every class (one image at least) off a split: (the rest, the cut), both in
    the order given.
    """
    rng = np.random.default_rng(seed)
    is_cut = np.zeros(len(split), dtype=bool)
    for label in np.unique(split.labels):
        members = np.flatnonzero(split.labels == label)
        count = max(1, round(share * len(members)))
        is_cut[rng.choice(members, size=count, replace=False)] = True
    rest = Split(split.images[~is_cut], split.labels[~is_cut])
    return rest, Split(split.images[is_cut], split.labels[is_cut])
