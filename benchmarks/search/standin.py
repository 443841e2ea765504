"""A stand-in for trainings: an analytic accuracy over the gated space, for quick tests of searches.

It is made up, and smoother than life: choices add up, some pairs of them interact, accuracy grows
with the logarithm of MACs and saturates, curves rise towards the end at a pace that hangs on the
network, and there is noise. What wins here need not win on trainings; `table.py` has those.
"""

import hashlib
import math

import numpy as np

from gmsearch.architecture import Architecture
from gmsearch.space import SearchSpace

NOISE = 0.4  # points of top1, of a last epoch
CHOICES = 4.0  # points: deviation of what all choices add together
PAIRS = 1.5  # points: deviation of what pairs add
NUM_PAIRS = 40


class StandIn:
    """top1 by epoch of any network of a space; `problem` is one of many such functions."""

    def __init__(self, space: SearchSpace, num_epochs: int, problem: int) -> None:
        self._space = space
        self._num_epochs = num_epochs
        rng = np.random.default_rng([problem, 17])
        sizes = [len(choice.options) for choice in space.choices]
        scale = CHOICES / math.sqrt(len(sizes))
        weights = rng.gamma(0.5, 1.0, len(sizes))  # few choices matter much
        weights *= len(sizes) / weights.sum()
        self._alone = [rng.normal(0, scale * w**0.5, n) for n, w in zip(sizes, weights, strict=True)]
        pairs = [rng.choice(len(sizes), 2, replace=False) for _ in range(NUM_PAIRS)]
        self._pairs = [
            (a, b, rng.normal(0, PAIRS / math.sqrt(NUM_PAIRS), (sizes[a], sizes[b])))
            for a, b in pairs
        ]
        self._pace = [rng.normal(0, 0.15, n) for n in sizes]

    def curve(self, network: Architecture, picks: dict, seed: int) -> list[float]:
        """top1 in per cent after each epoch."""
        row = [
            choice.options.index(picks[choice.name]) if choice.name in picks else None
            for choice in self._space.choices
        ]
        final = self._final(network, row)
        size = math.log10(self._space.cost(network).macs / 1e8)
        pace = sum(v[i] for v, i in zip(self._pace, row, strict=True) if i is not None)
        tau = self._num_epochs / 5 * math.exp(0.3 * size + pace / 3)
        noise = _rng(network.id, seed).normal(0, NOISE, self._num_epochs)
        epochs = np.arange(1, self._num_epochs + 1)
        rise = 1 - 0.75 * np.exp(-epochs / tau)
        left = 1 + 2 * (1 - epochs / self._num_epochs)  # early epochs are noisier
        return np.clip(final * rise + noise * left, 1, 99).tolist()

    def final(self, network: Architecture, picks: dict) -> float:
        """What the last epoch is without noise."""
        row = [choice.options.index(picks[choice.name]) for choice in self._space.choices]
        return self._final(network, row)

    def _final(self, network: Architecture, row: list) -> float:
        size = math.log10(self._space.cost(network).macs / 1e8)
        base = 60 + 18 * math.tanh(0.9 * size)
        if None in row:
            return base
        alone = sum(values[i] for values, i in zip(self._alone, row, strict=True))
        pairs = sum(values[row[a], row[b]] for a, b, values in self._pairs)
        return base + 1.0 * (alone + pairs)


def _rng(network_id: str, seed: int) -> np.random.Generator:
    digest = hashlib.sha256(f"{network_id}/{seed}".encode()).digest()
    return np.random.default_rng(int.from_bytes(digest[:8], "little"))
