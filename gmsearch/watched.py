"""What a model expects of some designs, kept up as trainings begin and are believed.

A design that is believed is a row more of the factor of each process: what is expected of some
others is then one product away, and needs no new factor.
"""

import numpy as np

from gmsearch.surrogate import Chain, Points, Process


class Watched:
    """What a chain expects of some designs, kept up as it believes one after the other of them.
    What is expected of a design is as if it were not believed itself.
    """

    def __init__(self, chain: Chain, points: Points, believed: np.ndarray) -> None:
        """`believed` (N, rungs) says where the chain believes them already."""
        self._chain = chain
        self._own = [OfProcess(process, points) for process in chain.processes]
        self._believed = believed.copy()

    def believe(self, place: int, unknown: np.ndarray) -> None:
        """As if a design had come out as expected at the rungs (rungs,) that are `unknown`."""
        for rung in np.flatnonzero(unknown & ~self._believed[place]):
            self._own[rung].believe(place)
            self._believed[place, rung] = True

    def predict(self, places: np.ndarray, tops: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """(N,) mean and standard deviation at the last rung, of those at some places, given what is
        known in `tops` (N, rungs), NaN beyond that.
        """

        def own(rung: int) -> tuple[np.ndarray, np.ndarray]:
            of_rung = self._own[rung]
            mean, variance = of_rung.mean[places], of_rung.variance[places]
            without = of_rung.process.forgetting(variance)
            return mean, np.where(self._believed[places, rung], without, variance)

        return self._chain.along(tops, own)


class OfProcess:
    """Means and variances of some points under a process, kept up as more of them are believed."""

    def __init__(self, process: Process, points: Points) -> None:
        self.process = process
        self._points = points
        self._solved = process.solved(points)
        self._believed = np.zeros((0, len(points)))  # rows that come below
        self.mean, self.variance = process.predict(points, self._solved)

    def believe(self, place: int) -> None:
        """The next row of the factor, with all points on its other side."""
        one = np.array([place])
        row = self.process.covariance(self._points[one], self._points)[0]
        row -= self._solved[:, place] @ self._solved
        row -= self._believed[:, place] @ self._believed
        row /= np.sqrt(row[place] + self.process.noise)
        self._believed = np.concatenate([self._believed, row[None]])
        self.variance = np.maximum(
            self.variance - self.process.spread**2 * row**2, 1e-10 * self.process.spread**2
        )
