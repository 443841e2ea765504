"""Products and activations of signals whose band is known, against closed forms."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from gmsearch.bandlimited import (
    FIT,
    JUMPS,
    JUMPS_OF_GATES,
    band_limited,
    fall_of,
    frequencies,
    power_of,
    product_power,
    slope_of,
)
from gmsearch.gates import ACTIVATIONS

ROUNDING = 1e-28  # of the power of a signal of variance 1, in double precision
SMOOTH = ("gelu", "silu", "sigmoid", "tanh")


@given(band=st.integers(1, 20), more=st.integers(1, 30), dims=st.sampled_from((1, 2)))
def test_the_self_product_of_a_band_has_its_support_in_twice_the_band(band, more, dims):
    """Exactly, where the samples hold 2W; and it reaches 2W."""
    size = 4 * band + more + 1
    h = band_limited(3, size, band, dims=dims, seed=more)
    axes = tuple(range(1, dims + 1))
    of_h, of_product = (torch.fft.fftn(x, dim=axes).abs().square() for x in (h, h * h))
    radius = frequencies(size, dims)
    whole = of_product.sum(axes)
    assert (of_h[:, radius > band].amax(1) < ROUNDING * of_h.sum(axes)).all()
    assert (of_product[:, radius > 2 * band].amax(1) < ROUNDING * whole).all()
    assert (of_product[:, radius == 2 * band].amax(1) > 1e-16 * whole).all()


def test_what_the_samples_cannot_hold_is_folded_back():
    """A frequency f beyond half the samples comes out as size - f: 2W = 60 of 64 samples as 4."""
    size, band = 64, 30
    time = torch.arange(size, dtype=torch.float64) / size
    wave = torch.cos(2 * math.pi * band * time)[None]  # its square has 0 and 2W alone
    power = power_of(wave * wave)
    assert power[[0, size - 2 * band]].tolist() == pytest.approx([0.25, 0.0625])
    power[[0, size - 2 * band]] = 0
    assert power.max() < ROUNDING
    noise = band_limited(50, size, 24)
    assert power_of(noise)[25:].max() < ROUNDING
    assert power_of(noise * noise)[25:].min() > 1e-3


def test_the_spectrum_of_a_product_is_the_convolution_of_the_spectra():
    one, other = band_limited(2, 32, 6)
    a, b = (np.fft.fft(x.numpy()) / 32 for x in (one, other))
    product = np.fft.fft((one * other).numpy()) / 32
    summed = [sum(a[j] * b[(k - j) % 32] for j in range(32)) for k in range(32)]
    assert product == pytest.approx(np.array(summed), abs=1e-14)


def test_the_power_of_a_self_product_is_that_of_pairs_of_frequencies():
    h = band_limited(20_000, 64, 12)
    assert h.var().item() == pytest.approx(1, abs=0.01)
    measured, expected = power_of(h * h), product_power(64, 12)
    assert measured[:25] / expected[:25] == pytest.approx(np.ones(25), abs=0.06)
    assert measured[25:].max() < ROUNDING and expected[25:].max() == 0


def test_maps_of_a_band_have_variance_one_and_the_same_values_for_a_seed():
    maps = band_limited(60, 32, 9, dims=2, seed=3)
    assert maps.var().item() == pytest.approx(1, abs=0.05)
    assert torch.equal(maps, band_limited(60, 32, 9, dims=2, seed=3))
    assert not torch.equal(maps, band_limited(60, 32, 9, dims=2, seed=4))


@pytest.mark.parametrize(("size", "band"), [(16, 8), (16, 0), (15, 8)])
def test_a_band_that_samples_cannot_hold_is_refused(size, band):
    with pytest.raises(ValueError, match=f"band is {band}; {size} samples can have 1 to 7"):
        band_limited(1, size, band)


@pytest.mark.parametrize("exponent", [-2.0, -4.0, -6.5])
def test_a_power_of_known_slope_is_found(exponent):
    frequency = torch.arange(1, 4097, dtype=torch.float64)
    noise = torch.exp(0.1 * torch.randn(4096, dtype=torch.float64))
    power = torch.cat([torch.ones(1, dtype=torch.float64), noise * frequency**exponent])
    slope = slope_of(power, 64, 4096)
    assert slope.exponent == pytest.approx(exponent, abs=0.05) and 0 < slope.error < 0.05
    with pytest.raises(ValueError, match="no slope from 64 to 5000 of 4097"):
        slope_of(power, 64, 5000)


def one_sided(function, order: int, at: float, side: int) -> float:
    """A derivative from one side, by differences of values beside the kink."""
    step = 1e-3 * side
    values = [function(torch.tensor(at + i * step, dtype=torch.float64)).item() for i in (0, 1, 2)]
    return float(np.diff(values, order)[0]) / step**order


@pytest.mark.parametrize("gate", [False, True])
@pytest.mark.parametrize("name", ACTIVATIONS)
def test_the_first_derivative_that_jumps_is_the_one_that_is_stated(name, gate):
    """Of the modules that the networks have; the jumps that count are 1/6 and more."""
    activation = ACTIVATIONS[name]()
    function = (lambda x: activation(x) * x) if gate else activation
    jumps = [
        order
        for order in range(3)
        for at in (-3.0, 0.0, 3.0, 6.0)
        if abs(one_sided(function, order, at, 1) - one_sided(function, order, at, -1)) > 0.05
    ]
    stated = (JUMPS_OF_GATES if gate else JUMPS).get(name)
    assert (min(jumps) if jumps else None) == stated


@pytest.mark.parametrize("gate", [False, True])
@pytest.mark.parametrize("name", JUMPS)
def test_a_kink_falls_as_the_derivative_that_jumps_says(name, gate):
    """Over FIT, 64 to 4096 cycles of signals of four, within 0.05 of -4, or -6 for h·relu(h)."""
    fall = fall_of(name, gate=gate)
    assert fall.expected == (-6 if (name, gate) == ("relu", True) else -4)
    assert fall.slope.exponent == pytest.approx(fall.expected, abs=0.05)
    assert FIT == (64, 4096)


@pytest.mark.parametrize("gate", [False, True])
@pytest.mark.parametrize("name", SMOOTH)
def test_a_smooth_activation_falls_faster_in_every_octave(name, gate):
    """No power does: its exponent would be the same in all octaves."""
    fall = fall_of(name, gate=gate)
    assert fall.expected is None and fall.slope is None
    assert all(b < a - 1 for a, b in zip(fall.octaves, fall.octaves[1:], strict=False))
    assert len(fall.octaves) >= 3 and fall.octaves[-1] < -20


def test_an_identity_adds_nothing_beyond_the_band():
    assert fall_of("identity").octaves == () and fall_of("identity", gate=True).octaves == ()
