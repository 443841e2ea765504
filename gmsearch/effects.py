"""What the gates did: the effect of every choice of a search on top1 at equal MACs.

The model is linear: top1 is a curve in MACs (a parabola in their logarithm) and a sum of effects. A
stage's choices count by the share of the network's four stages that took them, so a contrast of two
levels is between networks that have them in all stages. The effects of a factor are drawn from a
normal distribution whose width is learned from the run, with half-Cauchy priors that are as wide as
the run's own spread: few trials give wide intervals that lean towards 0, many give least squares.
All intervals are the middle 95 % of the posterior, drawn by Gibbs sampling, each for itself. What
is said in words has to hold for all contrasts of a run together, of which there may be 66.

It assumes that effects add up (what one choice does hangs on no other), that a stage counts as much
as any other, and noise of one size around the sum. Trials that failed are not in it. What all
searched networks have in common, and only baselines have otherwise, is allowed for and not told.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import NamedTuple

import numpy as np

from gmsearch.architecture import (
    ACTIVATIONS,
    BLOCKS,
    DOWNSAMPLERS,
    FORMS,
    PLACEMENTS,
    Architecture,
    Stage,
)
from gmsearch.record import TrialRecord, band_names_of

NUM_CHAINS = 16
NUM_WARM_UP = 100  # sweeps of each chain that are thrown away
NUM_SWEEPS = 250  # that are kept
INTERVAL = (0.025, 0.975)
SMALLEST_SPREAD = 0.01  # points; all top1 alike within this are equal
# Of variances, as multiples of the run's own: keeps the linear algebra sound where two choices
# always come together or the noise is none.
VARIANCE_RANGE = (1e-5, 1e4)
STILL = 1e-6  # a factor varies at equal MACs where this share of its deviation is left there

_LEVELS: dict[str, tuple[str, ...]] = {
    "placement": PLACEMENTS,
    "form": tuple(FORMS),
    "activation": ACTIVATIONS,
    "blocks": BLOCKS,
    "downsampler": DOWNSAMPLERS,
}
OF_GATES = ("placement", "form", "activation", "blocks")  # what a gate is, and where
_OF_GATES = ("form", "blocks")  # of the stages that have a gate; a stage without has neither
PER_DOUBLING = "per doubling"
PER_2_PX = "per 2 px"


def _of_stages(value: Callable[[Stage], float]) -> Callable[[Architecture], float]:
    return lambda network: sum(map(value, network.stages)) / len(network.stages)


# How large a network is in a factor, in the unit that its effect is told in.
_SIZES: dict[str, tuple[str, Callable[[Architecture], float]]] = {
    "width": (PER_DOUBLING, _of_stages(lambda stage: math.log2(stage.width))),
    "depth": (PER_DOUBLING, lambda network: math.log2(sum(s.depth for s in network.stages))),
    "ratio": (PER_DOUBLING, _of_stages(lambda stage: math.log2(stage.ratio))),
    "kernel": (PER_2_PX, _of_stages(lambda stage: stage.kernel / 2)),
    "stem width": (PER_DOUBLING, lambda network: math.log2(network.stem_width)),
}


@dataclass(frozen=True)
class Effect:
    """Points of top1 at equal MACs: of a level in all stages, against the average over the levels
    of its factor; of a size, per doubling or per 2 px in all stages.
    """

    factor: str
    level: str  # or the unit of a size
    mean: float
    low: float
    high: float
    num_networks: int  # that have the level in some stage


@dataclass(frozen=True)
class Importance:
    """The share, 0 to 1, of the variance of top1 at equal MACs, noise included, that goes with a
    factor.

    It is never below 0, so a factor without any effect has an interval from about 0 upwards.
    """

    factor: str
    share: float
    low: float
    high: float


@dataclass(frozen=True)
class Contrast:
    """Points of top1 that networks with `better` in all stages are above those with `worse`, at
    equal MACs; of a size, per doubling or per 2 px.
    """

    factor: str
    better: str  # a level, or "larger" or "smaller"
    worse: str
    mean: float  # at least 0
    low: float
    high: float
    resolved: bool  # whether 0 is excluded with 95 % for all contrasts of the run together

    def in_words(self) -> str:
        """Such as `activation relu6 over gelu: +0.8 ± 0.3 points`; the interval, not the mean, is
        what is told, so that what excludes 0 also reads so.
        """
        middle, half = (self.low + self.high) / 2, (self.high - self.low) / 2
        decimals = next((d for d in (1, 2) if round(middle, d) > round(half, d) > 0), 3)
        unit = f" {_SIZES[self.factor][0]}" if self.factor in _SIZES else ""
        if unit and self.better == "smaller":
            middle = -middle
        what = self.factor if unit else f"{self.factor} {self.better} over {self.worse}"
        return f"{what}: {middle:+.{decimals}f} ± {half:.{decimals}f} points{unit}"


@dataclass(frozen=True)
class Effects:
    """What a run says of each factor that varied in it."""

    levels: tuple[Effect, ...]  # by factor
    importances: tuple[Importance, ...]  # largest first
    contrasts: tuple[Contrast, ...]  # every pair of levels, by factor
    noise: float  # points: the standard deviation of top1 around what the factors and MACs say
    num_networks: int

    def resolved(self) -> tuple[Contrast, ...]:
        """The contrasts that are, largest first."""
        found = [contrast for contrast in self.contrasts if contrast.resolved]
        return tuple(sorted(found, key=lambda contrast: -contrast.mean))

    def in_words(self, per_factor: int = 3) -> tuple[str, ...]:
        """A line for each resolved contrast, of a factor at most its `per_factor` largest, then one
        with the factors that have none.
        """
        lines = []
        told = {importance.factor: 0 for importance in self.importances}
        for contrast in self.resolved():
            told[contrast.factor] += 1
            if told[contrast.factor] <= per_factor:
                lines.append(contrast.in_words())
        unresolved = [factor for factor, times in told.items() if not times]
        if unresolved:
            lines.append(f"not resolved by this run: {', '.join(unresolved)}")
        return tuple(lines)


class _Factor(NamedTuple):
    """A factor in numbers: `columns @ coefficients` is what it adds to each trial's top1, and
    `basis @ coefficients` are the effects of its levels.
    """

    name: str
    levels: tuple[str, ...]  # of a size the one unit
    counts: tuple[int, ...]  # networks with each level
    columns: np.ndarray  # (trials, coefficients)
    basis: np.ndarray  # (levels, coefficients)


def effects_of(
    records: Sequence[TrialRecord], seed: int = 0, *, of: str = "top1"
) -> Effects | None:
    """The effects in the complete trials of a search, in whatever order these come: on top1, or on
    the accuracy in a band that `of` names, which takes its place in all that is said here.

    Trials that are not complete, have no finite top1 or are of a peer are passed over. A factor
    that does not vary at equal MACs is left out. None where no factor is left, or where fewer than
    two trials are left beside the curve in MACs, which takes up to three: a single one cannot tell
    an effect from noise.
    """
    networks, macs, top1, searched = _complete(records, of)
    if len(networks) < 3:
        return None
    factors = _factors(networks)
    curve = _curve(macs)
    num_left = len(networks) - curve.shape[1]
    at_equal_macs = [f._replace(columns=_beside(curve, f.columns)) for f in factors]
    moving = [
        after
        for before, after in zip(factors, at_equal_macs, strict=True)
        if after.columns.std() > STILL * (1 + np.abs(before.columns).max())
    ]
    if searched.sum() < 2:
        return None
    vary = {f.name for f in factors if np.ptp(f.columns[searched], axis=0).max(initial=0) > STILL}
    if num_left < 2 or not any(factor.name in vary for factor in moving):
        return None
    draws, noise = _sample(_beside(curve, top1), num_left, moving, seed)
    told = [(f, d) for f, d in zip(moving, draws, strict=True) if f.name in vary]
    importances = _importances(moving, draws, noise)
    return Effects(
        levels=tuple(effect for f, d in told for effect in _levels(f, d)),
        importances=tuple(each for each in importances if each.factor in vary),
        contrasts=_contrasts(told),
        noise=float(noise.mean()),
        num_networks=len({network.id for network in networks}),
    )


def effects_by_band(records: Sequence[TrialRecord], seed: int = 0) -> dict[str, Effects]:
    """`effects_of` each band that was watched, where there are any."""
    found = {name: effects_of(records, seed, of=name) for name in band_names_of(records)}
    return {name: effects for name, effects in found.items() if effects is not None}


def _complete(
    records: Sequence[TrialRecord], of: str
) -> tuple[list[Architecture], np.ndarray, np.ndarray, np.ndarray]:
    """Networks, log2 MACs and top1 of the trials that count, and which are no baselines."""
    found = []
    for record in records:
        network, top1 = record.network, record.figure(of)
        if record.state != "complete" or not isinstance(network, Architecture):
            continue
        if top1 is not None and math.isfinite(top1):
            found.append((record.macs, top1, record.id, network, record.baseline is None))
    found.sort(key=lambda trial: trial[:3])  # so that the order given shows in no digit
    macs = np.log2(np.array([trial[0] for trial in found], dtype=float))
    top1s = np.array([trial[1] for trial in found], dtype=float)
    searched = np.array([trial[4] for trial in found], dtype=bool)
    return [trial[3] for trial in found], macs, top1s, searched


def _factors(networks: Sequence[Architecture]) -> list[_Factor]:
    """What may have an effect: each factor with two levels or more."""
    factors = []
    which = np.unique([network.id for network in networks], return_inverse=True)[1]
    num_networks = len(np.unique(which))
    gated = np.array([[stage.placement != "none" for stage in n.stages] for n in networks])
    for name, all_levels in _LEVELS.items():
        number_of = {level: number for number, level in enumerate(all_levels)}
        table = np.array([[number_of[getattr(s, name)] for s in n.stages] for n in networks])
        counted = gated if name in _OF_GATES else np.ones_like(gated)
        has = [(table == number) & counted for number in range(len(all_levels))]
        present = [i for i, where in enumerate(has) if where.any()]
        if len(present) < 2:
            continue
        shares = np.column_stack([has[i].mean(axis=1) for i in present])
        basis = _sum_to_zero(len(present))
        counts = tuple(len(np.unique(which[has[i].any(axis=1)])) for i in present)
        levels = tuple(all_levels[i] for i in present)
        factors.append(_Factor(name, levels, counts, shares @ basis, basis))
    for name, (unit, size_of) in _SIZES.items():
        sizes = np.array([[size_of(network)] for network in networks])
        factors.append(_Factor(name, (unit,), (num_networks,), sizes - sizes.mean(), np.eye(1)))
    return factors


def _sum_to_zero(size: int) -> np.ndarray:
    """An orthonormal basis (size, size - 1) of the effects that sum to 0, which treats all levels
    alike.
    """
    return np.linalg.qr(np.eye(size)[:, 1:] - 1 / size)[0]


def _curve(macs: np.ndarray) -> np.ndarray:
    """An orthonormal basis of what a parabola in log MACs can be at the trials: 1, 2 or 3 columns,
    fewer where the MACs have fewer values.
    """
    scaled = macs - macs.mean()
    scaled /= max(float(np.abs(scaled).max()), 1e-9)
    powers = np.column_stack([np.ones_like(scaled), scaled, scaled**2])
    left, sizes, _ = np.linalg.svd(powers, full_matrices=False)
    return left[:, sizes > 1e-6 * sizes[0]]


def _beside(curve: np.ndarray, values: np.ndarray) -> np.ndarray:
    """What of the values no curve in MACs explains."""
    return values - curve @ (curve.T @ values)


def _sample(
    top1: np.ndarray, num_left: int, factors: Sequence[_Factor], seed: int
) -> tuple[list[np.ndarray], np.ndarray]:
    """Draws of the coefficients of each factor (draws, coefficients), and of the noise (draws,),
    from the posterior given what is left beside the curve in MACs, with `num_left` degrees of
    freedom.

    Everything is measured in the run's own spread: a prior scale of 1 lets one factor have all of
    the variance of top1. Half-Cauchy priors are scale mixtures of inverse gammas (Makalic and
    Schmidt 2016), so each sweep draws from standard distributions. All chains go in step.
    """
    spread = max(math.sqrt(top1 @ top1 / num_left), SMALLEST_SPREAD)
    scales = [math.sqrt(num_left / (f.columns**2).sum()) for f in factors]
    columns = np.column_stack([f.columns * s for f, s in zip(factors, scales, strict=True)])
    gram, moments = columns.T @ columns, columns.T @ top1 / spread
    total = float(top1 @ top1) / spread**2
    sizes = np.array([f.columns.shape[1] for f in factors])
    starts = np.append(0, np.cumsum(sizes)[:-1])

    rng = np.random.default_rng(seed)
    noise = np.exp(rng.normal(-1, 1, (NUM_CHAINS, 1)))  # variances, from scattered starts
    widths = np.exp(rng.normal(-1, 1, (NUM_CHAINS, len(factors))))
    diagonal = np.arange(sizes.sum())
    kept_coefficients, kept_noise = [], []
    for sweep in range(NUM_WARM_UP + NUM_SWEEPS):
        precision = gram / noise[:, :, None]
        precision[:, diagonal, diagonal] += 1 / np.repeat(widths, sizes, axis=1)
        # With L L' the precision, L'^-1 (L^-1 moments / noise + z) has its mean and covariance.
        inverse = np.linalg.inv(np.linalg.cholesky(precision))
        whitened = inverse @ (moments / noise)[:, :, None]
        whitened += rng.standard_normal(whitened.shape)
        coefficients = (inverse.transpose(0, 2, 1) @ whitened)[:, :, 0]
        squares = np.add.reduceat(coefficients**2, starts, axis=1)
        widths = _variance(rng, widths, sizes, squares)
        fitted = ((coefficients @ gram) * coefficients).sum(axis=1)
        rest = np.maximum(total - 2 * coefficients @ moments + fitted, 0)
        noise = _variance(rng, noise, num_left, rest[:, None])
        if sweep >= NUM_WARM_UP:
            kept_coefficients.append(coefficients)
            kept_noise.append(noise[:, 0])
    parts = np.split(np.concatenate(kept_coefficients), starts[1:], axis=1)
    return (
        [part * scale * spread for part, scale in zip(parts, scales, strict=True)],
        np.sqrt(np.concatenate(kept_noise)) * spread,
    )


def _variance(
    rng: np.random.Generator, before: np.ndarray, count: np.ndarray | int, squares: np.ndarray
) -> np.ndarray:
    """A new variance of `count` normal numbers given the sum of their squares and the variance
    before; its root has a half-Cauchy prior of scale 1.
    """
    mixing = rng.standard_exponential(before.shape) / (1 + 1 / before)
    shape = np.broadcast_to((np.asarray(count) + 1) / 2, before.shape)
    drawn = (squares / 2 + mixing) / np.maximum(rng.standard_gamma(shape), 1e-9)
    return np.clip(drawn, *VARIANCE_RANGE)


def _levels(factor: _Factor, draws: np.ndarray) -> list[Effect]:
    values = draws @ factor.basis.T
    rows = zip(factor.levels, values.mean(axis=0), *_interval(values), factor.counts, strict=True)
    return [
        Effect(factor.name, level, float(mean), float(low), float(high), count)
        for level, mean, low, high, count in rows
    ]


def _contrasts(told: Sequence[tuple[_Factor, np.ndarray]]) -> tuple[Contrast, ...]:
    """Every pair of levels of every factor. One is resolved where its mean is further from 0 than
    any contrast is from its own mean in 95 % of the draws, in standard deviations.
    """
    names, columns = [], []
    for factor, draws in told:
        values = draws @ factor.basis.T
        if factor.name in _SIZES:
            names.append((factor.name, "larger", "smaller"))
            columns.append(values[:, 0])
            continue
        for a, b in combinations(range(len(factor.levels)), 2):
            names.append((factor.name, factor.levels[a], factor.levels[b]))
            columns.append(values[:, a] - values[:, b])
    pairs = np.column_stack(columns)
    means, deviations = pairs.mean(axis=0), pairs.std(axis=0)
    furthest = (np.abs(pairs - means) / np.maximum(deviations, 1e-12)).max(axis=1)
    resolved = np.abs(means) > np.quantile(furthest, 0.95) * deviations
    found = []
    for (factor, one, other), mean, low, high, is_resolved in zip(
        names,
        means.tolist(),
        *(end.tolist() for end in _interval(pairs)),
        resolved.tolist(),
        strict=True,
    ):
        if mean >= 0:
            found.append(Contrast(factor, one, other, mean, low, high, is_resolved))
        else:
            found.append(Contrast(factor, other, one, -mean, -high, -low, is_resolved))
    return tuple(found)


def _importances(
    factors: Sequence[_Factor], draws: Sequence[np.ndarray], noise: np.ndarray
) -> tuple[Importance, ...]:
    """Shares of the variance at equal MACs: a factor's part by its covariance with the sum of all,
    so that choices that go together share what they explain.
    """
    columns = np.column_stack([f.columns for f in factors])
    covariance = columns.T @ columns / len(columns)
    parts = np.concatenate(draws, axis=1)
    products = parts * (parts @ covariance)
    starts = np.append(0, np.cumsum([f.columns.shape[1] for f in factors])[:-1])
    explained = np.add.reduceat(products, starts, axis=1)
    all_of_it = explained.sum(axis=1, keepdims=True) + noise[:, None] ** 2
    shares = np.clip(explained / all_of_it, 0, 1)
    rows = zip(factors, shares.mean(axis=0).tolist(), *_interval(shares), strict=True)
    found = [Importance(f.name, share, float(low), float(high)) for f, share, low, high in rows]
    return tuple(sorted(found, key=lambda importance: -importance.share))


def _interval(values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The ends of the 95 % intervals of draws (draws, quantities)."""
    low, high = np.quantile(values, INTERVAL, axis=0)
    return low, high
