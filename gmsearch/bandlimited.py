"""What products and activations do to the spectrum of a signal whose band is known.

A product of two signals is the convolution of their spectra, so h·h of a signal of band W has its
support in 2W, and nothing beyond. What an activation adds has no end, but falls: where the m-th
derivative of s(h(t)) is the first that jumps, its Fourier coefficients fall as |w|^-(m+1) and their
power as |w|^-2(m+1); where none does, faster than any power.

All signals are periodic, so a discrete transform has their coefficients exactly, but for those that
the samples are too few for: a frequency beyond half the samples comes out as one below (aliasing).
"""

import math
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from gmsearch.gates import ACTIVATIONS

# The first derivative of s that jumps somewhere, and that of s(h)·h. A jump at h = 0 is one order
# higher after the product, since h is 0 there: h·relu(h) is smoother than relu(h). A jump
# elsewhere, such as that of relu6 at 6, stays what it is. What is not here has all its derivatives.
JUMPS = {"relu": 1, "relu6": 1, "hardswish": 1, "hardsigmoid": 1}
JUMPS_OF_GATES = {**JUMPS, "relu": 2}

SAMPLES, BAND, SCALE = 2**15, 4, 3.0  # of the signals that slopes are measured on
COUNT = 32
# A slope is fitted from 16 times the band, where the kinks have left the signal behind, to an
# eighth of the samples, where what is folded back adds less than a thousandth to |w|^-4.
FIT = (16 * BAND, SAMPLES // 8)
FLOOR = 1e-26  # of the highest power: below it, a sum of 2^15 doubles has nothing but rounding


def band_limited(count: int, size: int, band: int, *, dims: int = 1, seed: int = 0) -> Tensor:
    """Random real signals (count, size) or, with `dims` 2, maps (count, size, size), float64.

    Each is periodic and Gaussian, with mean 0, variance 1 and all frequencies up to `band` cycles
    alike: of a map, those in a disc. Raises ValueError for a band that they cannot have.
    """
    if not 1 <= band < size / 2:
        raise ValueError(f"band is {band}; {size} samples can have 1 to {(size - 1) // 2}")
    axes, few = tuple(range(1, dims + 1)), 2 * band + 1
    generator = torch.Generator().manual_seed(seed)
    noise = torch.randn((count, *(few,) * dims), dtype=torch.float64, generator=generator)
    radius = frequencies(few, dims)
    inside = (radius <= band) & (radius > 0)
    # The transform of white noise on the fewest samples that have the band, put among all others.
    known = torch.where(inside, torch.fft.fftn(noise, dim=axes), 0)
    spectrum = torch.zeros(count, *(size,) * dims, dtype=known.dtype)
    where = (few * torch.fft.fftfreq(few)).round().long() % size
    spectrum[(slice(None), where) if dims == 1 else (slice(None), where[:, None], where)] = known
    signals = torch.fft.ifftn(spectrum, dim=axes).real
    return signals * size**dims / (inside.sum() * few**dims).sqrt()


def frequencies(size: int, dims: int = 1) -> Tensor:
    """The frequency of every coefficient of `fftn`, in cycles; of a map, its distance from 0."""
    along = (size * torch.fft.fftfreq(size, dtype=torch.float64)).round()
    squares = [along.square()] if dims == 1 else [along.square()[:, None], along.square()[None]]
    return torch.stack(torch.broadcast_tensors(*squares)).sum(0).sqrt()


def power_of(signals: Tensor) -> Tensor:
    """The mean power (size // 2 + 1,) of each frequency of signals (count, size): |c_w|^2."""
    coefficients = torch.fft.rfft(signals, dim=1) / signals.shape[1]
    return coefficients.abs().square().mean(0)


def product_power(size: int, band: int) -> Tensor:
    """The expected power (size // 2 + 1,) of h·h for `band_limited` signals, where 4 * band < size.

    Of Gaussian coefficients of equal power p at 2·band frequencies, the power of the product at
    w > 0 is 2 p^2 times the pairs of frequencies that add up to w; at 0 lies the mean, 1.
    """
    p = 1 / (2 * band)
    flat = torch.ones(2 * band + 1, dtype=torch.float64)
    flat[band] = 0  # no mean
    pairs = torch.nn.functional.conv1d(flat[None, None], flat[None, None], padding=2 * band)[0, 0]
    power = torch.zeros(size // 2 + 1, dtype=torch.float64)
    power[: 2 * band + 1] = 2 * p**2 * pairs[2 * band :]
    power[0] += 1
    return power


class Slope(NamedTuple):
    """Power as |w|^exponent, fitted over a range of frequencies; `error` is the standard error of
    the fit.
    """

    exponent: float
    error: float


def slope_of(power: Tensor, low: int, high: int, *, per_octave: int = 4) -> Slope:
    """Fits a straight line through log power over log frequency, from `low` to `high` cycles.

    The power is averaged in bands of equal width on the logarithmic axis first, so that all octaves
    count alike.
    """
    count = round(per_octave * math.log2(high / low))
    if not 0 < low < high < len(power) or count < 3:
        raise ValueError(f"no slope from {low} to {high} of {len(power)} frequencies")
    edges = torch.logspace(math.log10(low), math.log10(high), count + 1).round().long().tolist()
    where = [(a, b) for a, b in zip(edges, edges[1:], strict=False) if b > a]
    x = torch.tensor([math.log((a * b) ** 0.5) for a, b in where], dtype=torch.float64)
    y = torch.stack([power[a:b].log().mean() for a, b in where])
    x, y = x - x.mean(), y - y.mean()
    exponent = (x @ y / (x @ x)).item()
    rest = (y - exponent * x).square().sum().item() / (len(where) - 2)
    return Slope(exponent, math.sqrt(rest / (x @ x).item()))


class Fall(NamedTuple):
    """How the spectrum of an activation, or of its self-gate, falls."""

    name: str
    gate: bool  # s(h)·h rather than s(h)
    power: Tensor  # of every frequency
    expected: int | None  # of the power; None for faster than any
    slope: Slope | None  # over FIT; None where the power is rounding before that ends
    octaves: tuple[float, ...]  # the exponent in each octave above 4 times the band, above FLOOR


def fall_of(name: str, *, gate: bool = False, seed: int = 0) -> Fall:
    """Measures the activation `name` of ACTIVATIONS on signals of BAND and standard deviation
    SCALE, which reach the kinks at 3 and 6 too.
    """
    signals = SCALE * band_limited(COUNT, SAMPLES, BAND, seed=seed)
    activation: Callable[[Tensor], Tensor] = ACTIVATIONS[name]()
    answer = activation(signals) * signals if gate else activation(signals)
    power = power_of(answer)
    jump = (JUMPS_OF_GATES if gate else JUMPS).get(name)
    least = FLOOR * power.max()
    ends = [4 * BAND << i for i in range(int(math.log2(SAMPLES // 8 / (4 * BAND))) + 1)]
    octaves = [
        slope_of(power, a, b).exponent
        for a, b in zip(ends, ends[1:], strict=False)
        if power[b - b // 8 : b].mean() > least
    ]
    low, high = FIT
    resolved = bool(power[high - high // 8 : high].mean() > least)
    return Fall(
        name=name,
        gate=gate,
        power=power,
        expected=None if jump is None else -2 * (jump + 1),
        slope=slope_of(power, low, high) if resolved else None,
        octaves=tuple(octaves),
    )
