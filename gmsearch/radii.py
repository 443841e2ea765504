"""Where the low frequencies of an image end: radii, and the names of the parts inside and outside.

A published radius counts bins of the DFT at 224 px, where the Nyquist frequency is at 112 of them.
It means the same share of Nyquist at every size: `high12` is what lies beyond 12/112 of Nyquist,
which is 3.43 bins at 64 px.
"""

import math
import re
from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache

from gmsearch.errors import SettingsError

PUBLISHED_SIZE = 224  # pixels at which published radii count bins
PUBLISHED = (12.0, 24.0, 36.0)  # the radii of the GmNet paper
SIDES = ("low", "high")
RAW = "raw"  # the whole image, beside its parts
MOST_COST = 0.06  # of an epoch, counted in passes, that watching bands may take unless told
PASSES_OF_A_STEP = 3  # a forward pass, and a backward pass that is worth two


@dataclass(frozen=True)
class Watch:
    """Which bands are looked at after every epoch: published `radii`, on a share of the images of
    each class of minival, the same in every epoch, for every seed and every network; None for as
    many as cost little.
    """

    radii: tuple[float, ...] = PUBLISHED
    share: float | None = None

    @property
    def names(self) -> list[str]:
        return band_names(self.radii)

    def share_of(self, num_train: int, num_minival: int) -> float:
        """The share of minival, beside a training on so many images an epoch."""
        if self.share is not None:
            return self.share
        passes = PASSES_OF_A_STEP * num_train + num_minival
        return min(1.0, MOST_COST * passes / (len(self.names) * num_minival))


def share_of_nyquist(radius: float) -> float:
    """What a published radius is of the Nyquist frequency."""
    return radius / (PUBLISHED_SIZE / 2)


def bins(radius: float, size: int) -> float:
    """A published radius in bins of an image whose shorter side has `size` px."""
    return radius * size / PUBLISHED_SIZE


def band_names(radii: Iterable[float]) -> list[str]:
    """The parts that published radii cut: low12, high12, low24, …"""
    return [f"{side}{radius:g}" for radius in radii for side in SIDES]


def is_band(name: str) -> bool:
    """Whether `band_names` gives this name; high12.0 is none, so that a part has one name."""
    return band_meant(name) == name


@lru_cache(maxsize=1024)  # asked of every objective of every epoch
def band_meant(name: str) -> str | None:
    """The name of the part that was meant: high12 by high12.0; None where it is that of none."""
    told = re.fullmatch(rf"({'|'.join(SIDES)})(\d+(\.\d+)?)", name)
    return None if told is None else f"{told[1]}{float(told[2]):g}"


def radius_of(name: str) -> float:
    """The published radius of a part such as `high12`. Raises SettingsError."""
    if not is_band(name):
        meant = band_meant(name) or "low12 or high12, with a radius at 224 px"
        raise SettingsError(f"{name!r} is no band; write {meant}")
    return float(name.removeprefix("low").removeprefix("high"))


def check_radii(radii: Iterable[float]) -> tuple[float, ...]:
    """Published radii as the names of their parts have them, six digits at most; sorted, each once.
    Raises SettingsError where one leaves a part empty at every size, or has no such name.
    """
    known = tuple(sorted({float(f"{radius:g}") for radius in radii}))
    if not known:
        raise SettingsError("no radius given; the published ones are 12,24,36")
    for radius in known:
        check_radius(radius, corner(PUBLISHED_SIZE, PUBLISHED_SIZE), f"at {PUBLISHED_SIZE} px")
        if not all(map(is_band, band_names([radius]))):
            raise SettingsError(
                f"radius {radius:g}: too small; give 0.0001 or more, such as 12 at 224 px"
            )
    return known


def corner(height: int, width: int) -> float:
    """The distance of the highest frequency, in bins of the shorter side."""
    shorter = min(height, width)
    return math.hypot(*(shorter / size * (size // 2) for size in (height, width)))


def check_radius(radius: float, corner: float, where: str) -> None:
    """Raises SettingsError for a radius, in bins, with nothing inside or nothing outside."""
    if not math.isfinite(radius):
        raise SettingsError(
            f"radius {radius:g}: not a number of bins; give one such as 12 at 224 px"
        )
    if radius <= 0:
        raise SettingsError(
            f"radius {radius:g}: no frequency is lower; give one above 0, such as 12 at 224 px"
        )
    if radius >= corner:
        raise SettingsError(
            f"radius {radius:.4g} {where}: the highest frequency lies at {corner:.4g}, so nothing "
            "is beyond it; give a smaller radius"
        )
