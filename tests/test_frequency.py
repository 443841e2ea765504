"""The split by frequency: against NumPy, closed forms, Parseval, and its own complement."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from gmsearch.errors import SettingsError
from gmsearch.frequency import energy_shares, hits_by_part, parts, split
from gmsearch.radii import band_names, bins, check_radii, corner, radius_of, share_of_nyquist

SIZES = st.integers(4, 33)
PARTS = ["raw", "high12", "low12"]


def images_of(height, width, seed, count=2, dtype=torch.float32):
    """Noise with a mean."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(count, 3, height, width, generator=generator, dtype=dtype) + 0.3


def by_numpy(images, radius, *, inside):
    """The part of each image by a centred DFT and a loop over its bins."""
    height, width = images.shape[-2:]
    shorter = min(height, width)
    mask = np.zeros((height, width))
    for y in range(height):
        for x in range(width):
            down, right = y - height // 2, x - width // 2
            distance = math.hypot(down * shorter / height, right * shorter / width)
            mask[y, x] = (distance <= radius) == inside
    centred = np.fft.fftshift(np.fft.fft2(images.double().numpy()), axes=(-2, -1))
    back = np.fft.ifft2(np.fft.ifftshift(centred * mask, axes=(-2, -1)))
    assert abs(back.imag).max() < 1e-10
    return torch.from_numpy(back.real)


@settings(max_examples=60, deadline=None)
@given(SIZES, SIZES, st.floats(0.05, 0.95), st.integers(0, 99))
def test_the_parts_are_those_of_a_loop_over_the_bins(height, width, share, seed):
    images = images_of(height, width, seed, dtype=torch.float64)
    # apart from ties at the edge of the circle, which a loop may round to the other side
    radius = share * corner(height, width) + 1e-7
    low, high = split(images, radius)
    assert torch.allclose(low, by_numpy(images, radius, inside=True), atol=1e-10)
    assert torch.allclose(high, by_numpy(images, radius, inside=False), atol=1e-10)


@settings(max_examples=60, deadline=None)
@given(SIZES, SIZES, st.floats(0.01, 0.99), st.integers(0, 99))
def test_low_and_high_add_up_and_their_energies_too(height, width, share, seed):
    images = images_of(height, width, seed)
    low, high = split(images, share * corner(height, width))
    assert low.dtype == high.dtype == torch.float32 and low.shape == high.shape == images.shape
    assert (low + high - images).abs().max() < 1e-6
    energies = [float(each.double().square().sum()) for each in (images, low, high)]
    assert energies[0] == pytest.approx(energies[1] + energies[2], rel=1e-5)


@pytest.mark.parametrize(("height", "width"), [(32, 32), (31, 31), (24, 37), (37, 24)])
def test_a_wave_is_whole_in_one_part(height, width):
    """Of k periods across and m down: its distance is known, and a circle through it has it."""
    y, x = np.mgrid[:height, :width]
    shorter = min(height, width)
    for m, k in [(0, 0), (3, 0), (0, 5), (3, 4), (7, 2)]:
        wave = torch.from_numpy(np.cos(2 * np.pi * (m * y / height + k * x / width) + 0.3))
        distance = math.hypot(m * shorter / height, k * shorter / width)
        low, high = split(wave, distance + 1e-9)
        assert torch.allclose(low, wave, atol=1e-12)
        if distance > 0:
            low, high = split(wave, distance - 1e-9)
            assert torch.allclose(high, wave, atol=1e-12)


def test_the_circle_itself_is_inside_and_a_published_radius_is_a_share_of_nyquist():
    ticks = torch.arange(224)
    wave = torch.cos(2 * math.pi * 12 * ticks / 224).expand(1, 224, 224)
    (_, low), (_, high) = parts(wave, [12])
    assert torch.allclose(low, wave, atol=1e-5) and high.abs().max() < 1e-5
    assert bins(12, 64) == pytest.approx(3.43, abs=0.005)
    assert share_of_nyquist(12) == 12 / 112 == bins(12, 64) / 32
    # three periods at 56 px are as many cycles per pixel as twelve at 224 px
    small = torch.cos(2 * math.pi * 3 * torch.arange(56) / 56).expand(1, 56, 56)
    assert dict(parts(small, [12]))["high12"].abs().max() < 1e-5
    assert dict(parts(small, [11.9]))["low11.9"].abs().max() < 1e-5


def test_images_of_any_type_and_any_leading_dimensions():
    images = (images_of(9, 12, 0) * 50).to(torch.uint8)
    low, _ = split(images, 3)
    assert torch.equal(low, split(images.float(), 3)[0])
    assert torch.allclose(split(images[0, 0], 3)[0], low[0, 0], atol=1e-4)
    half, _ = split(images.to(torch.bfloat16), 3)
    assert half.dtype == torch.float32
    assert split(images.double(), 3)[1].dtype == torch.float64


def test_nothing_has_parts_of_nothing():
    for shape in [(0, 3, 8, 8), (2, 0, 8, 9)]:
        for dtype in (torch.float64, torch.float32, torch.uint8):
            both = split(torch.zeros(shape, dtype=dtype), 3)
            kept = torch.float64 if dtype == torch.float64 else torch.float32
            assert [(each.shape, each.dtype) for each in both] == [(shape, kept)] * 2
    with pytest.raises(SettingsError, match="radius 30 of images of 8x8 px"):
        split(torch.zeros(0, 3, 8, 8), 30)


def test_what_is_no_image_is_told_apart():
    for shape in [(), (8,), (3, 0, 8), (3, 8, 0)]:
        with pytest.raises(ValueError, match=r"images of shape \(.*\): give \(…, height, width\)"):
            split(torch.zeros(shape), 3)
    with pytest.raises(TypeError, match="images of torch.complex64: only real ones"):
        split(torch.zeros(3, 8, 8, dtype=torch.complex64), 3)


def test_a_gradient_flows_also_after_an_evaluation():
    images = images_of(16, 16, 0, dtype=torch.float64)
    with torch.inference_mode():
        split(images, 4.5)
    images.requires_grad_(True)
    low, _ = split(images, 4.5)
    low.square().sum().backward()
    assert torch.allclose(images.grad, 2 * split(images.detach(), 4.5)[0])


@pytest.mark.gpu
def test_a_gpu_gives_the_same():
    images = images_of(63, 64, 0)
    for here, there in zip(split(images, 7), split(images.cuda(), 7), strict=True):
        assert torch.allclose(here, there.cpu(), atol=1e-5)


@pytest.mark.parametrize(
    ("radius", "message"),
    [
        (0, "radius 0: no frequency is lower"),
        (-3, "radius -3: no frequency is lower"),
        (float("nan"), "radius nan"),
        (5.7, "radius 5.7 of images of 10x8 px: the highest frequency lies at 5.657"),
        (12, "radius 12 of images of 10x8 px"),
    ],
)
def test_a_radius_that_leaves_a_part_empty_is_refused(radius, message):
    with pytest.raises(SettingsError, match="^" + message):
        split(torch.zeros(1, 3, 8, 10), radius)


def test_names_of_parts():
    assert band_names([12, 7.5]) == ["low12", "high12", "low7.5", "high7.5"]
    assert radius_of("high7.5") == 7.5
    for wrong in ("high", "mid12", "high-3", "high12px", "top1", "high1e2", "high12."):
        with pytest.raises(SettingsError, match="is no band"):
            radius_of(wrong)
    for other, meant in (("high12.0", "high12"), ("low012", "low12"), ("low7.50", "low7.5")):
        with pytest.raises(SettingsError, match=f"'{other}' is no band; write {meant}"):
            radius_of(other)
    assert check_radii([36, 12, 12.0]) == (12, 36)
    assert check_radii([12, 12.0000001]) == (12,)
    for wrong, message in (
        ([], "no radius given"),
        ([0], "radius 0: no frequency is lower"),
        ([12, -1], "radius -1: no frequency is lower"),
        ([159], "radius 159 at 224 px: the highest frequency lies at 158.4"),
        ([158.3918], "radius 158.4 at 224 px: the highest frequency lies at 158.4"),
        ([1e-5], "radius 1e-05: too small; give 0.0001 or more"),
        ([math.inf], "radius inf: not a number of bins"),
        ([12, math.nan], "radius nan: not a number of bins"),
    ):
        with pytest.raises(SettingsError, match=message):
            check_radii(wrong)


@given(st.lists(st.floats(1e-4, 158.39), min_size=1, max_size=5))
def test_radii_that_pass_have_names_that_can_be_read_back(radii):
    known = check_radii(radii)
    assert [radius_of(name) for name in band_names(known)] == [r for r in known for _ in range(2)]
    for radius in radii:
        assert min(abs(near / radius - 1) for near in known) <= 5.1e-6  # six digits
    assert check_radii(known) == known


def test_energy_shares_of_waves_of_known_energy():
    y, x = torch.meshgrid(torch.arange(64), torch.arange(64), indexing="ij")
    near = torch.cos(2 * math.pi * 2 * x / 64)
    far = 3 * torch.cos(2 * math.pi * 20 * y / 64)
    shares = energy_shares((5 + near + far).expand(2, 3, 64, 64).double(), [12, 80])
    assert shares[12].tolist() == pytest.approx([0.1, 0.1])
    assert shares[80].tolist() == pytest.approx([1, 1])


class Template(torch.nn.Module):
    """Tells images apart by the correlation with one wave of each class; a dark one is not a
    number.
    """

    def __init__(self, waves):
        super().__init__()
        self.waves = waves

    def forward(self, images):
        logits = torch.einsum("nchw,khw->nk", images, self.waves)
        return torch.where(images.mean((1, 2, 3))[:, None] < -0.5, torch.nan, logits)


def test_each_part_is_judged_by_what_it_has():
    """A low wave has the sign of the class, a high one always that of class 0."""
    ticks = 2 * math.pi * torch.arange(32) / 32
    low, high = (torch.cos(k * ticks).expand(32, 32) for k in (1, 9))
    labels = torch.tensor([0, 1, 1, 0])
    signs = (1 - 2 * labels)[:, None, None, None]
    images = (2 * signs * low + high).expand(4, 3, 32, 32)
    both = Template(torch.stack([low + high, -low - high]))
    hits = hits_by_part(both, [(images[:3], labels[:3]), (images[3:], labels[3:])], PARTS)
    assert {name: found.tolist() for name, found in hits.items()} == {
        "raw": [True] * 4,  # the low wave is the stronger one
        "high12": [True, False, False, True],
        "low12": [True] * 4,
    }


def test_logits_that_are_no_numbers_are_wrong():
    waves = torch.stack([torch.ones(8, 8), -torch.ones(8, 8)])
    images = torch.stack([torch.full((3, 8, 8), v) for v in (1.0, -0.2, -1.0)])
    hits = hits_by_part(Template(waves), [(images, torch.tensor([0, 1, 1]))], ["raw"])
    assert hits["raw"].tolist() == [True, True, False]
