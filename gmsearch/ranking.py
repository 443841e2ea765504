"""How well one ordering of networks stands in for another."""

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from scipy.stats import kendalltau

NUM_RESAMPLES = 10_000


class Tau(NamedTuple):
    """Kendall's tau-b of two rankings and its 95 % interval; NaN where one has ties only."""

    tau: float
    low: float
    high: float

    @property
    def includes_zero(self) -> bool:
        """Whether the two may have nothing to do with each other."""
        return not (self.low > 0 or self.high < 0)


def kendall(one: Sequence[float], other: Sequence[float], *, seed: int = 0) -> Tau:
    """The interval is a percentile bootstrap over the pairs of values. Where all pairs agree, or
    none, every resample would too; the bound is then exact, of the pairs that share no value.

    On normal rankings it holds the truth in 94 to 100 % of the cases, for 4 to 30 networks and tau
    from 0 to 0.8.
    """
    tau = float(kendalltau(one, other).statistic)
    if math.isnan(tau):
        return Tau(tau, math.nan, math.nan)
    if abs(tau) > 1 - 1e-9:  # Clopper and Pearson's bound where all of n // 2 tries succeed
        bound = 2 * 0.025 ** (1 / (len(one) // 2)) - 1
        return Tau(tau, bound, 1.0) if tau > 0 else Tau(tau, -1.0, -bound)
    x, y = (np.sign(np.subtract.outer(values, values)) for values in (one, other))
    rng = np.random.default_rng(seed)
    times = rng.multinomial(len(one), np.full(len(one), 1 / len(one)), NUM_RESAMPLES)
    agree, in_one, in_other = (_summed(times, signs) for signs in (x * y, x * x, y * y))
    some = (in_one > 0) & (in_other > 0)  # a resample of one network alone ranks nothing
    taus = agree[some] / np.sqrt(in_one[some] * in_other[some])
    low, high = np.percentile(taus, (2.5, 97.5))
    return Tau(tau, float(low), float(high))


def _summed(times: np.ndarray, signs: np.ndarray) -> np.ndarray:
    """The sum of `signs` over all pairs of each resample, which has network i `times[:, i]`
    times.
    """
    return ((times @ signs) * times).sum(1)


def tau_of_best(proxy: Sequence[float], full: Sequence[float], share: float) -> tuple[int, float]:
    """Networks in the best share by `full`, and tau-b among them; NaN for fewer than three."""
    count = math.ceil(share * len(full) - 1e-9)
    best = np.argsort(-np.asarray(full), kind="stable")[:count]
    if count < 3:
        return count, math.nan
    return count, float(kendalltau(np.asarray(proxy)[best], np.asarray(full)[best]).statistic)


def regret(proxy: Sequence[float], full: Sequence[float], k: int) -> float:
    """What is lost of `full` by looking at the best k by `proxy` alone; among equals, at those
    that are worst.
    """
    order = np.lexsort((np.asarray(full), -np.asarray(proxy)))
    return float(np.max(full) - np.asarray(full)[order[:k]].max())
