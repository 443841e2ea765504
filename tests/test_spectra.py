"""Spectra of features: what a map of known spectrum gives, and what is hooked in a network."""

import csv
import json

import numpy as np
import pytest
import timm
import torch
from pictures import make_folder
from torch import nn

from gmsearch.architecture import Architecture, Stage
from gmsearch.bandlimited import band_limited, slope_of
from gmsearch.cli import main
from gmsearch.data import load
from gmsearch.errors import SettingsError
from gmsearch.gates import ACTIVATIONS
from gmsearch.inside import look_inside
from gmsearch.model import build
from gmsearch.spectra import (
    ACTIVATED,
    BEFORE,
    PRODUCT,
    RadialPower,
    measure_spectra,
    nyquist_shares,
    settle_norms,
)
from gmsearch.spectra_figures import draw_inside
from gmsearch.zoo import quicken


def spectrum(maps, **settings):
    power = RadialPower(**settings)
    power.add(maps)
    return power.spectrum()


def wave(size, down, across):
    y, x = np.mgrid[:size, :size] / size
    return torch.tensor(np.cos(2 * np.pi * (down * y + across * x)))[None, None]


@pytest.mark.parametrize(("size", "down", "across"), [(32, 3, 4), (33, 5, 12), (16, 8, 8)])
def test_a_wave_lies_at_its_radius(size, down, across):
    found = spectrum(7 + wave(size, down, across), windowed=False)
    radius = np.hypot(down, across) / (size / 2)
    best = int(found.power.argmax())
    assert found.radius[best] == pytest.approx(radius, abs=1 / size + 1e-9)
    assert np.delete(found.power, best).max() < 1e-20
    assert found.high == pytest.approx(float(radius > 0.5), abs=1e-12)


@pytest.mark.parametrize("windowed", [False, True])
def test_all_frequencies_add_up_to_one_and_white_noise_is_flat(windowed):
    noise = torch.randn(40, 5, 24, 24, generator=torch.Generator().manual_seed(0))
    found = spectrum(noise, windowed=windowed)
    bins = (nyquist_shares(24, 24) * 12).round().long().flatten().bincount()[1:]
    assert (found.power * bins.numpy()).sum() == pytest.approx(1, abs=1e-3)
    assert found.power[1:] == pytest.approx(np.full(len(bins) - 1, 1 / 575), rel=0.2)


def test_power_adds_up_over_batches_and_does_not_see_a_constant():
    maps = torch.randn(6, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    together, apart = RadialPower(), RadialPower()
    together.add(maps + 100)
    for part in maps.split(2):
        apart.add(part)
    one, other = together.spectrum(), apart.spectrum()
    assert one.power == pytest.approx(other.power, rel=1e-4)
    broken = maps.clone()
    broken[0, 1, 2, 3] = torch.inf
    assert np.isfinite(spectrum(broken).power).all()
    with pytest.raises(ValueError, match="no features"):
        RadialPower().spectrum()


def test_a_cutting_needs_the_window_and_a_whole_period_does_not():
    """The power of a kink in two dimensions falls as |w|^-5: as |w|^-4 across the edge, and along
    |w|^-1 of all directions. The jump at the border of a cutting hides it.
    """
    maps = ACTIVATIONS["relu"]()(3 * band_limited(12, 512, 6, dims=2))
    cuttings = ACTIVATIONS["relu"]()(3 * band_limited(12, 1024, 12, dims=2)[:, :400, :400])
    slopes = {
        (name, windowed): slope_of(
            torch.tensor(spectrum(each[:, None], windowed=windowed).power), 40, 100
        ).exponent
        for name, each in {"whole": maps, "cut": cuttings}.items()
        for windowed in (False, True)
    }
    assert slopes["whole", False] == pytest.approx(-5, abs=0.1)
    assert slopes["cut", True] == pytest.approx(-5, abs=0.1)
    assert slopes["cut", False] > -3.3


def small(**changes) -> Architecture:
    stages = tuple(Stage(width=4 << i, depth=2, ratio=2, kernel=3, **changes) for i in range(4))
    return Architecture(stem_width=4, stem_activation="relu6", stages=stages)


def batches(side=64, count=4):
    generator = torch.Generator().manual_seed(0)
    return [(torch.randn(count, 3, side, side, generator=generator), None) for _ in range(2)]


def by_hand(model, images):
    """The features around the gate of the first block, by the definition of the block."""
    x = model.stages[0][0](model.stem(images))
    block = model.stages[0][1]
    h = block.f1(block.dwconv(x))
    s = block.expand.act(h)
    return {BEFORE: h, ACTIVATED: s, PRODUCT: s * h}


def test_the_features_are_those_before_and_after_the_gate():
    torch.manual_seed(0)
    model = build(small(blocks="last"), 5).eval()  # the first block has the plain activation
    (stage, *others) = measure_spectra(model, batches(), fresh=True)
    assert (stage.name, stage.side, stage.blocks) == ("stage 1", 16, 2)
    assert [each.side for each in others] == [8]  # 4 and 2 px are too few
    torch.manual_seed(0)
    model = build(small(), 5).eval()
    for other in model.stages[0][2:]:
        other.expand = nn.Identity()
    model.stages[0] = model.stages[0][:2]
    found = measure_spectra(model, batches(), fresh=False)[0].spectra
    with torch.no_grad():
        known = by_hand(model, torch.cat([images for images, _ in batches()]))
    assert list(found) == [BEFORE, ACTIVATED, PRODUCT]
    for place, features in known.items():
        assert found[place].power == pytest.approx(spectrum(features).power, rel=1e-4)


@pytest.mark.parametrize(
    ("changes", "places"),
    [
        ({"placement": "none"}, [BEFORE, ACTIVATED]),
        ({"placement": "spatial", "form": "dw"}, [BEFORE, ACTIVATED, PRODUCT]),
        ({"placement": "output", "form": "norm"}, [BEFORE, ACTIVATED, PRODUCT]),
        ({"form": "twin"}, [BEFORE, ACTIVATED, PRODUCT]),
        ({"form": "squeeze"}, [BEFORE, PRODUCT]),
    ],
)
def test_every_placement_and_form_has_its_spectra(changes, places):
    model = build(small(**changes), 5)
    stages = measure_spectra(model, batches(), fresh=True)
    assert [list(stage.spectra) for stage in stages] == [places, places]
    assert not any(module._forward_hooks for module in model.modules())
    assert not any(module._forward_pre_hooks for module in model.modules())
    assert draw_inside("x", stages).axes


@pytest.mark.parametrize("name", ["starnet_s050", "mobilenetv3_small_050"])
def test_a_network_of_timm_is_measured_by_the_size_of_its_maps(name):
    model = quicken(timm.create_model(name, num_classes=4))
    stages = measure_spectra(model, batches(), fresh=True)
    assert [(stage.name, stage.side) for stage in stages] == [
        (f"{side} px", side) for side in (32, 16, 8)
    ]
    assert any(PRODUCT in stage.spectra for stage in stages) == (name == "starnet_s050")
    twice = measure_spectra(model, [*batches(), *batches()], fresh=False)
    counts = [len(stage.activations) for stage in stages]
    assert [len(stage.activations) for stage in twice] == counts  # not of calls
    everywhere = {m for m in model.modules() if isinstance(m, tuple(ACTIVATIONS.values()))}
    assert set.union(*(stage.activations for stage in stages)) <= everywhere
    assert 0 < sum(counts) <= len(everywhere)


def test_norms_get_the_statistics_of_the_images():
    torch.manual_seed(0)
    model = build(small(), 5)
    settle_norms(model, batches())
    norm, first = model.stages[0][0][0].bn, model.stages[0][0][0].conv
    with torch.no_grad():
        seen = [first(model.stem.eval()(images)) for images, _ in batches()]
    mean = torch.stack([each.mean((0, 2, 3)) for each in seen]).mean(0)
    assert torch.allclose(norm.running_mean, mean, atol=1e-3)
    assert norm.momentum == 0.1 and not norm.training


def test_an_image_weighs_the_same_in_a_small_batch():
    """Statistics of batches of 4 and 2 images, by hand: means by their images."""
    torch.manual_seed(0)
    model = build(small(), 5)
    images = torch.cat([images for images, _ in batches()])[:6]
    settle_norms(model, [(part, None) for part in images.split(4)])
    norm, first = model.stages[0][0][0].bn, model.stages[0][0][0].conv
    with torch.no_grad():
        seen = first(model.stem.eval()(images))
    assert torch.allclose(norm.running_mean, seen.mean((0, 2, 3)), atol=1e-3)


@pytest.mark.parametrize(("asked", "sizes"), [(17, [9, 8]), (300, [16] * 15 + [15] * 4)])
def test_every_image_is_measured_and_none_is_alone(tmp_path, monkeypatch, asked, sizes):
    """More than one batch of evaluation, and one more than a batch of maps."""
    seen = []

    def watched(model, batches, **said):
        seen.extend(labels for _, labels in batches)
        return measure_spectra(model, batches, **said)

    monkeypatch.setattr("gmsearch.inside.measure_spectra", watched)
    out = tmp_path / "out"
    found = look_inside("gmnet@30M", source="bands", out=out, num_images=asked, resolution=32)
    assert [len(labels) for labels in seen] == sizes and found.num_images == asked
    labels = load("bands", resolution=32, seed=0).train.labels
    chosen = np.linspace(0, len(labels) - 1, asked).round().astype(int)
    assert torch.cat(seen).tolist() == labels[chosen].tolist()


def test_one_image_is_too_few_for_a_fresh_network(tmp_path, capsys):
    line = ["spectra", "gmnet@30M", "--data", "bands", "--resolution", "32", "--images", "1"]
    assert main([*line, "--out", str(tmp_path / "out")]) == 2
    error = capsys.readouterr().err
    assert "need two images or more; give more --images" in error and error.count("\n") == 1
    assert not (tmp_path / "out").exists()


def test_a_column_is_headed_for_what_it_counts(tmp_path, capsys):
    heads = {}
    for what in ("gmnet@30M", "mobilenetv3_small_050"):
        line = ["spectra", what, "--data", "bands", "--out", str(tmp_path / what)]
        assert main([*line, "--resolution", "32", "--images", "4"]) == 0
        told = capsys.readouterr().out
        heads[what] = [name for name in ("blocks", "activations") if f" {name} " in told]
    assert heads == {"gmnet@30M": ["blocks"], "mobilenetv3_small_050": ["activations"]}


def test_images_that_are_too_small_are_one_line():
    with pytest.raises(SettingsError, match="no map of 7 px or more"):
        measure_spectra(build(small(), 5), batches(side=24), fresh=False)


def test_the_command_draws_and_tells(tmp_path, capsys):
    images = make_folder(tmp_path / "images", per_class=5, side=70)
    line = ["spectra", "gmnet@30M", "--data", str(images), "--out", str(tmp_path / "out")]
    assert main([*line, "--resolution", "64", "--images", "6", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert (told["images"], told["resolution"], told["weights"]["kind"]) == (6, 64, "random")
    assert [stage["side"] for stage in told["stages"]] == [16, 8]
    first = told["stages"][0]
    assert first["ratio"] == pytest.approx(first["high"][PRODUCT] / first["high"][BEFORE])
    drawn = ["falls.png", "inside.png", "spectra.csv", "support.png"]
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == drawn
    rows = list(csv.DictReader((tmp_path / "out" / "spectra.csv").read_text().splitlines()))
    assert {row["place"] for row in rows} == {BEFORE, ACTIVATED, PRODUCT}
    assert main(["spectra", "gmnet@30M", "--data", str(tmp_path / "no"), "--out", "x"]) == 2
    assert "no such data" in capsys.readouterr().err
    (tmp_path / "file").touch()
    line[-1] = str(tmp_path / "file")
    assert main([*line, "--resolution", "64"]) == 2
    assert "is not a folder; give a new one" in capsys.readouterr().err
