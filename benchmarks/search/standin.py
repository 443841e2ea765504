"""A stand-in for trainings: an analytic accuracy over a space, for quick tests of searches.

It is made up, and smoother than life: choices add up, some pairs of them interact, accuracy grows
with the logarithm of MACs and saturates, curves rise towards the end at a pace that hangs on the
network, and there is noise. What wins here need not win on trainings; a table has those.
"""

import hashlib
import math

import numpy as np

from gmsearch.architecture import Architecture
from gmsearch.space import Picks, SearchSpace

MIDDLE = 1e8  # MACs, where accuracy grows fastest
BASE, GAIN, SLOPE = 60.0, 18.0, 0.9  # top1 there, what size may add or take, and how fast
CHOICES = 4.0  # points of top1: deviation of what all choices add together
PAIRS = 1.5  # points: deviation of what pairs add
NUM_PAIRS = 40
PACE = 0.15  # deviation of what an option adds to the logarithm of the pace, times 3
NOISE = 0.4  # points, of a last epoch; a first one has three times as much


class StandIn:
    """top1 by epoch of any network of a space; `problem` is one of many such functions."""

    def __init__(self, space: SearchSpace, num_epochs: int, problem: int) -> None:
        self._space = space
        self._num_epochs = num_epochs
        rng = np.random.default_rng([problem, 17])
        sizes = [len(choice.options) for choice in space.choices]
        weights = rng.gamma(0.5, 1.0, len(sizes))  # few choices matter much
        deviations = CHOICES * np.sqrt(weights / weights.sum())
        self._alone = [rng.normal(0, d, n) for n, d in zip(sizes, deviations, strict=True)]
        pairs = [rng.choice(len(sizes), 2, replace=False) for _ in range(NUM_PAIRS)]
        deviation = PAIRS / math.sqrt(NUM_PAIRS)
        self._pairs = [(a, b, rng.normal(0, deviation, (sizes[a], sizes[b]))) for a, b in pairs]
        self._pace = [rng.normal(0, PACE, n) for n in sizes]

    def final(self, network: Architecture, picks: Picks) -> float:
        """top1 after the last epoch, in per cent and without noise."""
        row = self._row(picks)
        alone = sum(values[i] for values, i in zip(self._alone, row, strict=True))
        pairs = sum(values[row[a], row[b]] for a, b, values in self._pairs)
        return BASE + GAIN * math.tanh(SLOPE * self._size(network)) + float(alone + pairs)

    def curve(self, network: Architecture, picks: Picks, seed: int = 0) -> list[float]:
        """top1 in per cent after each epoch."""
        epochs = np.arange(1, self._num_epochs + 1)
        pace = sum(values[i] for values, i in zip(self._pace, self._row(picks), strict=True))
        tau = self._num_epochs / 5 * math.exp(0.3 * self._size(network) + pace / 3)
        rise = 1 - 0.75 * np.exp(-epochs / tau)
        noise = _rng(network.id, seed).normal(0, NOISE, self._num_epochs)
        noise *= 1 + 2 * (1 - epochs / self._num_epochs)
        return np.clip(self.final(network, picks) * rise + noise, 1, 99).tolist()

    def _size(self, network: Architecture) -> float:
        return math.log10(self._space.cost(network).macs / MIDDLE)

    def _row(self, picks: Picks) -> list[int]:
        return [choice.options.index(picks[choice.name]) for choice in self._space.choices]


def _rng(network_id: str, seed: int) -> np.random.Generator:
    digest = hashlib.sha256(f"{network_id}/{seed}".encode()).digest()
    return np.random.default_rng(int.from_bytes(digest[:8], "little"))
