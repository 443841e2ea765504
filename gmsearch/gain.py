"""What a network is expected to add to a front whose costs are known exactly."""

from dataclasses import dataclass

import numpy as np
from scipy.special import ndtr

from gmsearch.pareto import front

ROOT_TWO_PI = np.sqrt(2 * np.pi)


def expected_improvement(mean: np.ndarray, std: np.ndarray, level: np.ndarray) -> np.ndarray:
    """E[max(0, y - level)] of y ~ N(mean, std), broadcast."""
    above = mean - level
    scaled = above / std
    return above * ndtr(scaled) + std * np.exp(-(scaled**2) / 2) / ROOT_TWO_PI


@dataclass(frozen=True)
class Staircase:
    """The best accuracy known at up to each cost: cells of cost space, and the level in each.

    Costs are shares of their limits; what lies beyond a limit counts for nothing. With one cost a
    cell is a segment of the staircase, with several it is a box.
    """

    low: np.ndarray  # (cells, costs) the lower corner
    high: np.ndarray  # (cells, costs) the upper corner
    level: np.ndarray  # (cells,)

    @staticmethod
    def of(tops: np.ndarray, costs: np.ndarray) -> "Staircase":
        """From points (N,) and (N, costs). Those that others beat make no step: without them there
        are few cells, also where there are several costs.
        """
        inside = np.flatnonzero((costs <= 1).all(1))
        points = np.column_stack([tops, costs])[inside]
        kept = inside[front(points.tolist(), [True] + [False] * costs.shape[1])]
        tops, costs = tops[kept], costs[kept]
        edges = [np.unique(np.concatenate([[0.0], column, [1.0]])) for column in costs.T]
        lows = np.meshgrid(*(edge[:-1] for edge in edges), indexing="ij")
        highs = np.meshgrid(*(edge[1:] for edge in edges), indexing="ij")
        low = np.stack([axis.ravel() for axis in lows], axis=1)
        high = np.stack([axis.ravel() for axis in highs], axis=1)
        affordable = (costs[None] <= low[:, None]).all(2)  # (cells, N)
        level = np.where(affordable, tops, 0.0).max(axis=1, initial=0.0)
        return Staircase(low, high, level)

    def expected_gain(self, mean: np.ndarray, std: np.ndarray, costs: np.ndarray) -> np.ndarray:
        """(N,) the hypervolume that each of some designs is expected to add, in points of top1:
        over the costs from its own on, the mean of what it is better by.

        In closed form, since costs are exact: the sum over the cells of volume times expected
        improvement over the level there.
        """
        sides = np.maximum(0.0, self.high - np.maximum(self.low, costs[:, None]))  # (N, cells, m)
        better = expected_improvement(mean[:, None], std[:, None], self.level)
        return (sides.prod(axis=2) * better).sum(axis=1)
