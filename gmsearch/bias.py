"""The low-frequency bias of a network, as one number with its interval."""

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np

from gmsearch.radii import RAW, SIDES

NUM_RESAMPLES = 10_000


class Bias(NamedTuple):
    """The low-frequency bias and its 95 % interval, in per cent; NaN where it is not known."""

    value: float
    low: float
    high: float


def low_frequency_bias(hits: Mapping[str, np.ndarray], num_classes: int, *, seed: int = 0) -> Bias:
    """How much more of its accuracy a network keeps on the low parts of images than on the high
    ones, the mean over the radii:

        bias = 100 * mean over radii of (low - high) / (raw - chance)

    with `low`, `high` and `raw` the accuracies on the parts and on whole images, and `chance` one
    in `num_classes`. It is 0 where both parts serve alike, 100 where the low ones give all that
    the image does and the high ones nothing, -100 the other way round; noise, or a part that
    serves better than the whole, may take it beyond.

    A difference in points of top1 alone would call every weak network unbiased: who is right on
    5 % of the images cannot differ by more than that. The share of the accuracy above chance is
    the same for two networks that use the bands alike and differ only in how often they are right.
    Chance cancels in the difference. What a radius means to the number is the same for networks
    that are compared at the same radii, and only for these.

    `hits` are bool (N,) by part, of the same images. The interval is a percentile bootstrap over
    the images, all parts of an image together: of new images, not of new trainings. It is not
    known (NaN) where the accuracy on whole images is not above chance in at least 97.5 % of the
    resamples, nor is the value where it is not above it.
    """
    radii = [name.removeprefix(SIDES[0]) for name in hits if name.startswith(SIDES[0])]
    raw = np.asarray(hits[RAW], float)
    low, high = (np.array([hits[f"{side}{r}"] for r in radii], float).mean(0) for side in SIDES)
    chance = 1 / num_classes
    # Resampling images is resampling the few kinds of them there are.
    kinds, counts = np.unique(np.column_stack([low - high, raw]), axis=0, return_counts=True)
    times = np.random.default_rng(seed).multinomial(len(raw), counts / len(raw), NUM_RESAMPLES)
    above, differences = times @ kinds[:, 1] / len(raw) - chance, times @ kinds[:, 0] / len(raw)
    value = float((low - high).mean() / (raw.mean() - chance)) if raw.mean() > chance else np.nan
    if np.mean(above > 0) < 0.975:
        return Bias(100 * value, np.nan, np.nan)
    with np.errstate(divide="ignore"):
        ends = np.percentile(differences[above > 0] / above[above > 0], (2.5, 97.5))
    return Bias(100 * value, *(100 * float(end) for end in ends))
