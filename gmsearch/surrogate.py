"""What a search expects of networks that it has not trained: Gaussian processes over choices.

A design is a row of options. Two designs are alike as exp(-d), where d adds a weight for each
choice in which they differ (for an ordered choice, in proportion to how far): a choice that does
not matter gets no weight. Physical features (log MACs, log params, depth) come on top, linearly.
Weights, variances and noise are the most probable ones under the data and a weak prior (Rasmussen &
Williams 2006, chapter 5).

Fidelities are chained: accuracy at a rung is a multiple of that at the rung before plus a process
of its own (Kennedy & O'Hagan 2000, by the recursion of Le Gratiet & Garnier 2014).
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from scipy.linalg import cholesky, solve_triangular
from scipy.optimize import minimize

MOST_FITTED = 250  # points that hyperparameters are fitted on, evenly spread over the data
MOST_POINTS = 600  # that a process is conditioned on: the best of its data, and some of the rest
LEAST_FITTED = 8  # points, below which the prior is all there is
SPREAD_TRUST = 2.0  # points that the spread of the first rung is worth for what a later one adds
SLOPE_TRUST = 4.0  # points that the prior of a slope of 1 between two rungs is worth
JITTER = 1e-6

# The prior: mean and deviation of the logarithms of the hyperparameters, for targets of variance 1.
WEIGHTS = (0.5, 1.5)  # their sum, shared out evenly
SIGNAL = (0.0, 1.0)
LINEAR = (-1.5, 1.0)
NOISE = (-2.5, 1.0)
BOUNDS = (-9.0, 4.0)


@dataclass(frozen=True)
class Encoding:
    """How the options of some choices become numbers: `sizes` options each, ordered or not."""

    sizes: tuple[int, ...]
    ordered: tuple[bool, ...]

    @cached_property
    def choice_of(self) -> np.ndarray:
        """(bits,) the choice that each column of `bits` is of."""
        widths = [n - 1 if o else n for n, o in zip(self.sizes, self.ordered, strict=True)]
        return np.repeat(np.arange(len(widths)), widths)

    def bits(self, rows: np.ndarray) -> np.ndarray:
        """(N, bits) of (N, choices) option indices, -1 where a choice means nothing.

        A thermometer for an ordered choice, one-hot for another, scaled so that the squared
        distance of two designs is the number of choices in which they are as far apart as can be.
        """
        columns = []
        for choice, (size, ordered) in enumerate(zip(self.sizes, self.ordered, strict=True)):
            index = rows[:, choice, None]
            if ordered:
                columns.append((index > np.arange(size - 1)) / max(1, size - 1) ** 0.5)
            else:
                columns.append((index == np.arange(size)) / 2**0.5)
        return np.concatenate(columns, axis=1)


@dataclass(frozen=True)
class Points:
    """Designs as a process sees them."""

    bits: np.ndarray  # (N, bits)
    features: np.ndarray  # (N, features), each of about unit size

    def __len__(self) -> int:
        return len(self.bits)

    def __getitem__(self, index: np.ndarray) -> "Points":
        return Points(self.bits[index], self.features[index])

    def __add__(self, other: "Points") -> "Points":
        return Points(
            np.concatenate([self.bits, other.bits]), np.concatenate([self.features, other.features])
        )


@dataclass(frozen=True)
class Hyperparameters:
    """Of a process; all are variances, in units of that of its targets, but for the weights."""

    weights: np.ndarray  # (choices,)
    signal: float
    linear: float
    noise: float

    @staticmethod
    def of(logarithms: np.ndarray) -> "Hyperparameters":
        values = np.exp(logarithms)
        return Hyperparameters(values[:-3], *map(float, values[-3:]))


def prior_mean(num_choices: int) -> np.ndarray:
    """(choices + 3,) logarithms of hyperparameters before anything is known."""
    share = WEIGHTS[0] - np.log(num_choices)
    return np.append(np.full(num_choices, share), [SIGNAL[0], LINEAR[0], NOISE[0]])


class Process:
    """A Gaussian process given some points and their targets. `spread` is what the deviation of the
    targets is before there are many, where that is known.
    """

    def __init__(
        self,
        encoding: Encoding,
        points: Points,
        targets: np.ndarray,
        logarithms: np.ndarray,
        spread: float | None = None,
    ) -> None:
        keep = _most_telling(targets)
        self._encoding = encoding
        self._points, targets = points[keep], targets[keep]
        self._parameters = Hyperparameters.of(logarithms)
        self._scale = np.sqrt(self._parameters.weights)[encoding.choice_of]
        self.noise = self._parameters.noise + JITTER  # in units of the spread, squared
        self._mean = float(targets.mean()) if len(targets) else 0.0
        self.spread = _spread_of(targets, spread)
        covariance = self.covariance(self._points, self._points)
        covariance[np.diag_indices_from(covariance)] += self.noise
        self._factor = _cholesky(covariance)
        self._whitened = self._solve((targets - self._mean) / self.spread)

    def solved(self, points: Points) -> np.ndarray:
        """(known, N) covariances with what is known, whitened."""
        return self._solve(self.covariance(self._points, points))

    def predict(
        self, points: Points, solved: np.ndarray | None = None
    ) -> tuple[np.ndarray, np.ndarray]:
        """(N,) means and variances of what is there without noise; `solved` where it is at hand."""
        solved = self.solved(points) if solved is None else solved
        mean = self._mean + self.spread * (self._whitened @ solved)
        prior = self._parameters.signal + self._parameters.linear * (points.features**2).sum(1)
        variance = np.maximum(prior - (solved**2).sum(0), 1e-10)
        return mean, self.spread**2 * variance

    def believing(self, points: Points) -> "Process":
        """The same process as if these points had come out as expected: their means change
        nothing, and near them less is left to learn.
        """
        other = object.__new__(Process)
        other.__dict__.update(self.__dict__)
        solved = self._solve(self.covariance(self._points, points))
        covariance = self.covariance(points, points) - solved.T @ solved
        covariance[np.diag_indices_from(covariance)] += self.noise
        size, more = len(self._points), len(points)
        factor = np.zeros((size + more, size + more))
        factor[:size, :size] = self._factor
        factor[size:, :size] = solved.T
        factor[size:, size:] = _cholesky(covariance)
        other._points, other._factor = self._points + points, factor
        other._whitened = np.append(self._whitened, np.zeros(more))
        return other

    def forgetting(self, variance: np.ndarray) -> np.ndarray:
        """(N,) what variances of points that are believed would be if each alone were not."""
        noise = self.spread**2 * self.noise
        return variance * noise / np.maximum(noise - variance, 1e-12 * noise)

    def _solve(self, right: np.ndarray) -> np.ndarray:
        if not len(self._points):
            return np.zeros(right.shape)
        return solve_triangular(self._factor, right, lower=True, check_finite=False)

    def covariance(self, one: Points, other: Points) -> np.ndarray:
        """(N, M), in units of the spread, squared. In place: with many points it is the memory that
        takes the time.
        """
        a, b = one.bits * self._scale, other.bits * self._scale
        found = (a**2).sum(1)[:, None] + (b**2).sum(1)
        found -= 2 * a @ b.T
        np.exp(np.negative(found, out=found), out=found)
        found *= self._parameters.signal
        linear = one.features @ other.features.T
        linear *= self._parameters.linear
        found += linear
        return found


def _spread_of(targets: np.ndarray, prior: float | None) -> float:
    """The deviation of targets: two that agree by chance do not tell that all do."""
    if prior is None:
        return float(targets.std()) or 1.0 if len(targets) > 1 else 1.0
    squares = len(targets) * targets.var() if len(targets) else 0.0
    return float(np.sqrt((squares + SPREAD_TRUST * prior**2) / (len(targets) + SPREAD_TRUST)))


def _cholesky(covariance: np.ndarray) -> np.ndarray:
    if not len(covariance):
        return covariance
    return cholesky(covariance, lower=True, check_finite=False)


def _most_telling(targets: np.ndarray) -> np.ndarray:
    """Indices of the points to condition on: all, or the best half and others evenly spread."""
    if len(targets) <= MOST_POINTS:
        return np.arange(len(targets))
    best_first = np.argsort(-targets, kind="stable")
    best, rest = best_first[: MOST_POINTS // 2], np.sort(best_first[MOST_POINTS // 2 :])
    spread = np.linspace(0, len(rest) - 1, MOST_POINTS - len(best)).astype(int)
    return np.sort(np.append(best, rest[spread]))


def fit(encoding: Encoding, points: Points, targets: np.ndarray, prior: np.ndarray) -> np.ndarray:
    """The most probable logarithms of the hyperparameters, looked for from the prior's mean, which
    they are where there are too few points to learn from.
    """
    if len(targets) < LEAST_FITTED or np.ptp(targets) == 0:
        return prior
    spread = np.linspace(0, len(targets) - 1, min(len(targets), MOST_FITTED)).astype(int)
    points, targets = points[spread], targets[spread]
    unit = (targets - targets.mean()) / targets.std()
    distances = _distances(encoding, points)
    linear = points.features @ points.features.T
    found = minimize(
        _loss,
        prior,
        args=(distances, linear, unit, prior),
        jac=True,
        method="L-BFGS-B",
        bounds=[BOUNDS] * len(prior),
        options={"maxiter": 40},
    )
    return np.asarray(found.x)


def _distances(encoding: Encoding, points: Points) -> np.ndarray:
    """(choices, N * N) distances of all pairs of points, choice by choice."""
    found = []
    for choice in range(len(encoding.sizes)):
        bits = points.bits[:, encoding.choice_of == choice]
        squares = (bits**2).sum(1)
        found.append((squares[:, None] + squares - 2 * bits @ bits.T).ravel())
    return np.array(found)


def _loss(
    logarithms: np.ndarray,
    distances: np.ndarray,
    linear: np.ndarray,
    targets: np.ndarray,
    prior: np.ndarray,
) -> tuple[float, np.ndarray]:
    """The negative logarithm of the posterior of hyperparameters, and its gradient."""
    parameters = Hyperparameters.of(logarithms)
    size = len(targets)
    alike = parameters.signal * np.exp(-(parameters.weights @ distances)).reshape(size, size)
    covariance = alike + parameters.linear * linear
    covariance[np.diag_indices(size)] += parameters.noise + JITTER
    factor = _cholesky(covariance)
    inverse_factor = solve_triangular(factor, np.eye(size), lower=True, check_finite=False)
    inverse = inverse_factor.T @ inverse_factor
    weighted = inverse @ targets
    slope = (inverse - np.outer(weighted, weighted)) / 2  # d loss / d covariance
    likelihood = targets @ weighted / 2 + np.log(np.diag(factor)).sum()
    by_weight = -parameters.weights * (distances @ (slope * alike).ravel())
    others = [
        (slope * alike).sum(),
        parameters.linear * (slope * linear).sum(),
        parameters.noise * np.trace(slope),
    ]
    deviations = np.append(
        np.full(len(parameters.weights), WEIGHTS[1]), [SIGNAL[1], LINEAR[1], NOISE[1]]
    )
    pull = (logarithms - prior) / deviations**2
    penalty = (pull * (logarithms - prior)).sum() / 2
    return float(likelihood + penalty), np.append(by_weight, others) + pull


class Chain:
    """Accuracy at the last rung, from designs and what is known of them at the rungs before."""

    def __init__(self, processes: Sequence[Process], slopes: Sequence[float]) -> None:
        self.processes = processes
        self._slopes = slopes

    def predict(self, points: Points, tops: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """(N,) mean and standard deviation of accuracy at the last rung, without noise, given what
        is known in `tops` (N, rungs) of each design, NaN beyond that.
        """
        return self.along(tops, lambda rung: self.processes[rung].predict(points))

    def along(
        self, tops: np.ndarray, own: Callable[[int], tuple[np.ndarray, np.ndarray]]
    ) -> tuple[np.ndarray, np.ndarray]:
        """As `predict`, where `own` has mean and variance of what each rung adds of its own."""
        mean, variance = np.zeros(len(tops)), np.zeros(len(tops))
        for rung, slope in enumerate(self._slopes):
            known = ~np.isnan(tops[:, rung])
            if known.all():
                mean, variance = tops[:, rung], np.zeros(len(tops))
                continue
            own_mean, own_variance = own(rung)
            mean = np.where(known, tops[:, rung], slope * mean + own_mean)
            variance = np.where(known, 0.0, slope**2 * variance + own_variance)
        return mean, np.sqrt(np.maximum(variance, 1e-12 * self.processes[0].spread ** 2))

    def believing(self, points: Points, tops: np.ndarray) -> "Chain":
        """As if these designs had come out as expected at the rungs that they have not reached."""
        unknown = [points[np.flatnonzero(np.isnan(column))] for column in tops.T]
        processes = [p.believing(more) for p, more in zip(self.processes, unknown, strict=True)]
        return Chain(processes, self._slopes)


class Surrogate:
    """Learns how much each choice matters, and makes chains of what is known."""

    def __init__(self, encoding: Encoding, num_rungs: int) -> None:
        self._encoding = encoding
        self._prior = prior_mean(len(encoding.sizes))
        self._logarithms = [self._prior] * num_rungs  # of the hyperparameters, by rung

    def fit(self, points: Points, tops: np.ndarray) -> None:
        """Learns from `tops` (N, rungs): accuracies, NaN beyond the last rung that a design has
        reached. What a later rung adds is expected to hang on the same choices as the first.
        """
        for rung in range(len(self._logarithms)):
            known, targets, _ = _of_rung(tops, rung)
            prior = self._logarithms[0] if rung else self._prior
            self._logarithms[rung] = fit(self._encoding, points[known], targets, prior)

    def given(self, points: Points, tops: np.ndarray) -> Chain:
        """The chain given what is known; arguments as in `fit`."""
        processes: list[Process] = []
        slopes = []
        for rung, logarithms in enumerate(self._logarithms):
            known, targets, slope = _of_rung(tops, rung)
            spread = processes[0].spread if processes else None
            each = Process(self._encoding, points[known], targets, logarithms, spread)
            processes.append(each)
            slopes.append(slope)
        return Chain(processes, slopes)


def _of_rung(tops: np.ndarray, rung: int) -> tuple[np.ndarray, np.ndarray, float]:
    """Which designs tell of a rung, what it adds to the slope times the rung before, and the
    slope.
    """
    known = np.flatnonzero(~np.isnan(tops[:, rung]))
    if rung == 0:
        return known, tops[known, 0], 0.0
    before, now = tops[known, rung - 1], tops[known, rung]
    slope = 1.0
    if len(known) > 1 and (variance := before.var()) > 0:
        covariance = ((before - before.mean()) * (now - now.mean())).mean()
        trust = SLOPE_TRUST / len(known)
        slope = float((covariance / variance + trust) / (1 + trust))
    return known, now - slope * before, slope
