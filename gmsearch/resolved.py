"""What a table of networks can tell apart, from its seeds and the number of its images."""

from collections.abc import Iterable, Mapping, Sequence
from statistics import variance
from typing import Any, NamedTuple

from scipy.stats import studentized_range

from gmsearch.record import ComparedNetwork, TrialRecord, band_names_of, half_interval


class Resolution(NamedTuple):
    """What a comparison can tell apart, in points of one accuracy, 95 %."""

    between: float | None  # two networks on these images; None where no network has two seeds
    num_networks: int
    fewest_seeds: int
    half_interval: float  # of one accuracy for new images, from the number of images

    def in_words(self, num_minival: int, of: str = "") -> str:
        """A sentence; `of` names the accuracy where a table has several."""
        images = f"{num_minival:,} minival images"
        if self.between is None:
            known = f"one top1 is known to ±{self.half_interval:.1f} points (95 %, {images})"
            alone = "; with one seed each, the noise of training is not known"
            return known + (alone if self.fewest_seeds == 1 else "")
        return (
            f"differences {f'of {of} ' if of else ''}below {self.between:.1f} points are not "
            f"resolved on these {images} (95 % over all pairs of {self.num_networks}, "
            f"{self.fewest_seeds} seeds); for new images each top1 is known to "
            f"±{self.half_interval:.1f}"
        )


class BandResolution(NamedTuple):
    """The same of each band, on the images that bands are of."""

    num_images: int
    by_band: dict[str, Resolution]

    def in_words(self) -> str:
        images = f"the {self.num_images:,} images of the bands"
        half = max(each.half_interval for each in self.by_band.values())
        known = f"each is known to ±{half:.1f} or closer"
        differences = {
            name: each.between for name, each in self.by_band.items() if each.between is not None
        }
        if not differences:
            return f"on {images}, {known} (95 %)"
        told = ", ".join(f"{name} {between:.1f}" for name, between in differences.items())
        return f"not resolved on {images} are differences below: {told}; for new images {known}"

    def to_dict(self) -> dict[str, Any]:
        """For programs."""
        bands = {name: each._asdict() for name, each in self.by_band.items()}
        return {"num_images": self.num_images, "bands": bands}


def resolve_differences(rows: Iterable[ComparedNetwork], num_minival: int) -> Resolution | None:
    """What is resolved of top1; None where nothing is trained."""
    return _resolve({row.id: row.top1s for row in rows if row.top1s}, num_minival)


def resolve_bands(records: Iterable[TrialRecord]) -> BandResolution | None:
    """What is resolved of each band, from the trainings that are complete; None where none was
    watched.
    """
    watched = [each for each in records if each.state == "complete" and each.bands]
    if not watched:
        return None
    num_images = min(each.curve[-1]["band_images"] for each in watched)
    found = {}
    for band in band_names_of(watched):
        seeds: dict[str, list[float]] = {}
        for each in watched:
            if band in each.bands:
                seeds.setdefault(each.id, []).append(each.bands[band])
        found[band] = _resolve(seeds, num_images)
    return BandResolution(num_images, {band: each for band, each in found.items() if each})


def _resolve(seeds: Mapping[str, Sequence[float]], num_images: int) -> Resolution | None:
    """The smallest difference of two means that is more than the noise of training, from the
    accuracies of each network by seed.

    Tukey's range test, with the spread pooled over the networks: among networks that are equal, no
    pair of the table differs by more in 95 % of tables. None where nothing is trained.
    """
    if not seeds:
        return None
    half = max(half_interval(value, num_images) for values in seeds.values() for value in values)
    fewest = min(map(len, seeds.values()))
    freedom = sum(len(values) - 1 for values in seeds.values())
    if freedom == 0 or len(seeds) == 1:
        return Resolution(None, len(seeds), fewest, half)
    squares = sum((len(own) - 1) * variance(own) for own in seeds.values() if len(own) > 1)
    quantile = float(studentized_range.ppf(0.95, len(seeds), freedom))
    between = quantile * (squares / freedom / fewest) ** 0.5
    return Resolution(between, len(seeds), fewest, half)
