"""The Pareto front of a set of trials."""

from collections.abc import Sequence

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
