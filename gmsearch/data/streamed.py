"""Original images without a pack: for sets that are trained on once, too large to be worth a copy.

The images are those that a pack of everything has, and minival is cut as there.
"""

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, TypeVar

import numpy as np
from PIL import Image

from gmsearch.data.decoding import open_image, reason_of, side_for, to_rgb, to_square
from gmsearch.data.selection import Plan
from gmsearch.data.sources import Member, Source
from gmsearch.errors import DataError

Decoded = TypeVar("Decoded")


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
        return self._named(index, lambda image: to_rgb(open_image(image)))

    def square(self, index: int, resolution: int) -> np.ndarray:
        """What a pack has of an image: uint8 (side, side, 3)."""
        side = side_for(resolution)
        return self._named(index, lambda image: to_square(image, resolution, side))

    def _named(self, index: int, decode: Callable[[Any], Decoded]) -> Decoded:
        """Reads and decodes an image; an error names it."""
        member = self._members[index]
        try:
            return decode(self._source.read(member))
        except MemoryError:
            raise
        except Exception as error:  # whatever a broken file makes of the decoder
            reason = reason_of(error)
            raise DataError(f"{self._source.name}: {member.name}: {reason}") from None


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
        """Twelve hexadecimal digits that another image, label or class would change, as far as
        names and sizes tell.
        """
        told = f"{self.resolution} {self.source.contents} {self.plan.digest}"
        return hashlib.sha256(told.encode()).hexdigest()[:12]

    @cached_property
    def train(self) -> Originals:
        return Originals(self.source, self.plan.splits["train"], self.classes)

    @cached_property
    def minival(self) -> Originals:
        return Originals(self.source, self.plan.splits["minival"], self.classes)
