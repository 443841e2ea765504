"""The Pareto front of a set of trials, and how much it holds."""

from collections.abc import Iterable, Sequence

import numpy as np


def front(points: Sequence[Sequence[float]], maximize: Sequence[bool]) -> list[int]:
    """Indices of the points (N, objectives) that no other dominates, in the order given.

    A point dominates another where it is at least as good in every objective and better in one; of
    equal points none dominates another, so all of them are on the front.
    """
    if not points:
        return []
    loss = np.asarray(points, dtype=float) * np.where(maximize, -1.0, 1.0)
    if loss.shape[1] == 2:  # sorted by the first, the front is where the second is a new minimum
        unique, index = np.unique(loss, axis=0, return_inverse=True)
        best_before = np.minimum.accumulate(np.append(np.inf, unique[:-1, 1]))
        return np.flatnonzero((unique[:, 1] < best_before)[index]).tolist()
    as_good = (loss[:, None] <= loss[None]).all(axis=2)  # [i, j]: i is at least as good as j
    better = (loss[:, None] < loss[None]).any(axis=2)
    return np.flatnonzero(~(as_good & better).any(axis=0)).tolist()


def hypervolume(points: Iterable[tuple[float, float]], limit: float) -> float:
    """The hypervolume of points (top1, cost) with the reference point top1 = 0 and cost = `limit`,
    over `limit`: the mean, over all costs from 0 to the limit, of the best top1 known at up to that
    cost. It has the unit of top1; what costs more than the limit counts for nothing.
    """
    area = best = reached = 0.0
    for cost, top1 in sorted((cost, top1) for top1, cost in points if cost <= limit):
        area += best * (cost - reached)
        best, reached = max(best, top1), cost
    return (area + best * (limit - reached)) / limit
