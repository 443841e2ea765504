"""Differences between networks that were trained with several seeds and judged on the same images.

A network's answers are an array of hits (seeds, images). Another training would come out otherwise,
and so would other images: both are drawn, and every image is judged by every training. The variance
of a difference of two means is then that of two crossed factors (as of readers and cases in
diagnostics: Gallas 2006; two-way clusters: Cameron, Gelbach and Miller 2011),

    seeds + images - what is in both,

where `seeds` is the variance over trainings, pooled over all networks of a table, over the number
of trainings; `images` that of the mean difference of an image, over the number of images. Images
are paired, which helps; trainings are not. Those of one seed have the same order of data, and what
luck they share cancels in a difference and is counted here all the same: intervals are then wider
than they need be, never narrower.
"""

from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np
from scipy import stats

LEVEL = 0.95


class Spread(NamedTuple):
    """The variance over trainings of one mean over images, pooled, with its degrees of freedom."""

    variance: float
    freedom: int


class Contrast(NamedTuple):
    """A difference of two accuracies in points, its 95 % interval, and the p-value against 0 (both
    sides). Where nothing varies, the interval is the difference itself, and p is 0 or 1.
    """

    difference: float
    low: float
    high: float
    p: float


def pooled_spread(networks: Iterable[np.ndarray]) -> Spread:
    """Of hits (seeds, images), the networks with one seed left out."""
    means = [hits.mean(1) for hits in networks]
    freedom = sum(len(each) - 1 for each in means)
    if freedom == 0:
        raise ValueError("no network has two seeds: the noise of training is not known")
    squares = sum(float(((each - each.mean()) ** 2).sum()) for each in means)
    return Spread(squares / freedom, freedom)


def contrast(one: np.ndarray, other: np.ndarray, spread: Spread) -> Contrast:
    """The first less the second, of hits (seeds, images) on the same images."""
    if one.shape[1] != other.shape[1]:
        raise ValueError(f"{one.shape[1]} and {other.shape[1]} images: not the same")
    num_images = one.shape[1]
    by_image = one.mean(0) - other.mean(0)
    difference = float(by_image.mean())
    of_seeds = spread.variance * (1 / len(one) + 1 / len(other))
    of_images = float(by_image.var(ddof=1)) / num_images
    in_both = sum(_within(hits) / (len(hits) * num_images) for hits in (one, other))
    variance = max(of_seeds + of_images - in_both, of_seeds, of_images)
    if variance == 0:
        points = 100 * difference
        return Contrast(points, points, points, p=1.0 if difference == 0 else 0.0)
    freedom = (of_seeds + of_images) ** 2 / (
        of_seeds**2 / spread.freedom + of_images**2 / (num_images - 1)
    )
    half = float(stats.t.ppf((1 + LEVEL) / 2, freedom)) * variance**0.5
    p = 2 * float(stats.t.sf(abs(difference) / variance**0.5, freedom))
    return Contrast(100 * difference, 100 * (difference - half), 100 * (difference + half), p)


def _within(hits: np.ndarray) -> float:
    """The variance over seeds of one image's hits, the mean over images; 0 where it is not
    known.
    """
    return float(hits.var(0, ddof=1).mean()) if len(hits) > 1 else 0.0


def holm(ps: Sequence[float]) -> list[float]:
    """The p-values of a family, corrected so that in 95 % of families without any difference none
    is below 0.05, however they hang together (Holm 1979).
    """
    adjusted, least = [1.0] * len(ps), 0.0
    for rank, index in enumerate(np.argsort(ps, kind="stable")):
        least = max(least, (len(ps) - rank) * ps[index])
        adjusted[index] = min(1.0, least)
    return adjusted
