"""Original images without a pack: for sets that are trained on once, too large to be worth a copy.

The images are those that a pack of everything has, and minival is cut as there.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from PIL import Image

from gmsearch.data.decoding import open_image, side_for, to_rgb, to_square
from gmsearch.data.selection import Plan
from gmsearch.data.sources import Member, Source
from gmsearch.errors import DataError


class Originals:
    """The images of a split, decoded whenever they are asked for. Raises DataError for one that
    cannot be.
    """

    def __init__(self, source: Source, members: Sequence[Member], classes: Sequence[str]) -> None:
        label_of = {name: label for label, name in enumerate(classes)}
        self.labels = np.array([label_of[member.label] for member in members], np.int64)
        self._source = source
        self._members = members

    def __len__(self) -> int:
        return len(self._members)

    def image(self, index: int) -> Image.Image:
        """An image as it is, in RGB."""
        return to_rgb(open_image(self._read(index)))

    def square(self, index: int, resolution: int) -> np.ndarray:
        """What a pack has of an image: uint8 (side, side, 3)."""
        return to_square(self._read(index), resolution, side_for(resolution))

    def _read(self, index: int) -> bytes | Image.Image:
        member = self._members[index]
        try:
            return self._source.read(member)
        except OSError as error:
            raise DataError(f"{self._source.name}: {member.name}: {error.strerror}") from None


@dataclass(frozen=True)
class StreamedDataset:
    """What a training may see of original images: see `Dataset`."""

    name: str
    classes: tuple[str, ...]
    resolution: int
    source: Source
    plan: Plan

    @property
    def digest(self) -> str:
        """Twelve hexadecimal digits that another image, label or class would change."""
        told = f"{self.resolution} {self.source.key} {self.plan.digest}"
        return hashlib.sha256(told.encode()).hexdigest()[:12]

    @cached_property
    def train(self) -> Originals:
        return Originals(self.source, self.plan.splits["train"], self.classes)

    @cached_property
    def minival(self) -> Originals:
        return Originals(self.source, self.plan.splits["minival"], self.classes)
