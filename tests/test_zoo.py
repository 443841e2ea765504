"""Peers stand where an architecture stands: built, checked, counted and trained alike."""

import copy
import re
import subprocess
import sys

import pytest
import timm
import torch
from pictures import make_folder
from torch.nn import functional as F

from gmsearch import data
from gmsearch.cost import cost, total
from gmsearch.depthwise import DepthwiseConv2d
from gmsearch.errors import SettingsError
from gmsearch.gmnet import gmnet
from gmsearch.network import Peer
from gmsearch.pointwise import StridedPointwise
from gmsearch.recipe import Recipe
from gmsearch.trial import run_trial
from gmsearch.zoo import (
    build_network,
    check_network,
    is_peer,
    ledger_of,
    nearest_names,
    quicken,
)

NAMES = ["mobilenetv3_small_050", "efficientnet_lite0", "starnet_s050", "mobileone_s0"]


@pytest.mark.parametrize("name", NAMES)
def test_a_peer_is_timms_network_with_our_depthwise_convolutions(name):
    def gradients(model):
        torch.manual_seed(1)  # of dropout
        images, labels = torch.rand(4, 3, 32, 32).double(), torch.arange(4)
        F.cross_entropy(model.double()(images), labels).backward()
        return {name: parameter.grad for name, parameter in model.named_parameters()}

    torch.manual_seed(0)
    ours = build_network(Peer(name), 5, 32)
    torch.manual_seed(0)
    theirs = timm.create_model(name, num_classes=5)
    assert any(isinstance(module, DepthwiseConv2d) for module in ours.modules())
    assert not any(isinstance(module, DepthwiseConv2d) for module in theirs.modules())
    torch.testing.assert_close(ours.state_dict(), theirs.state_dict(), rtol=0, atol=0)
    torch.testing.assert_close(gradients(ours), gradients(theirs), rtol=1e-9, atol=1e-9)


def test_quicken_leaves_alone_what_it_cannot_stand_for():
    kept = [
        torch.nn.Conv2d(4, 4, 3, padding=1, stride=2, groups=4),
        torch.nn.Conv2d(4, 4, 3, padding=2, dilation=2, groups=4),
        torch.nn.Conv2d(4, 4, 3, padding=0, groups=4),
        torch.nn.Conv2d(4, 8, 3, padding=1, groups=4),
        torch.nn.Conv2d(4, 4, 3, padding=1, groups=2),
        torch.nn.Conv2d(4, 4, (3, 5), padding=(1, 2), groups=4),
        torch.nn.Conv2d(4, 4, 3, padding=1, groups=4, padding_mode="reflect"),
    ]
    model = quicken(torch.nn.Sequential(*kept, torch.nn.Conv2d(4, 4, 5, padding=2, groups=4)))
    assert [type(module) for module in model] == [torch.nn.Conv2d] * 7 + [DepthwiseConv2d]
    assert list(model[:7]) == kept


CRASH = """
import torch
from gmsearch.zoo import quicken
model = quicken(torch.nn.Sequential(torch.nn.Conv2d(3, 48, 1, stride=2)))
model.to(memory_format=torch.channels_last)
for _ in range(60):
    images = torch.rand(32, 3, 32, 32).to(memory_format=torch.channels_last).requires_grad_()
    model(images).sum().backward()
"""


def test_a_strided_1x1_convolution_of_the_image_trains_in_channels_last():
    """In a process of its own: without our convolution torch 2.14 ends it."""
    done = subprocess.run([sys.executable, "-c", CRASH], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("stride", [2, 3, (1, 2)])
@pytest.mark.parametrize("side", [1, 7, 8])
def test_a_strided_1x1_convolution_is_torchs(stride, side):
    theirs = torch.nn.Conv2d(3, 5, 1, stride=stride).double()
    [ours] = quicken(torch.nn.Sequential(copy.deepcopy(theirs)))
    assert isinstance(ours, StridedPointwise)
    images = torch.randn(4, 3, side, side).double()
    for module in (ours, theirs):
        module(images).square().sum().backward()
    torch.testing.assert_close(ours(images), theirs(images), rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(ours.eval()(images), theirs(images), rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(ours.weight.grad, theirs.weight.grad, rtol=1e-12, atol=1e-12)


def test_models_that_need_a_fixed_size_are_made_for_it():
    check_network(Peer("vit_tiny_patch16_224"), 5, 64)
    assert build_network(Peer("vit_tiny_patch16_224"), 5, 64)(torch.rand(1, 3, 64, 64)).shape == (
        (1, 5)
    )


@pytest.mark.parametrize(
    ("network", "resolution", "message"),
    [
        (gmnet("gmnet_s1"), 16, "resolution is 16 px, but"),
        (gmnet("gmnet_s1"), 31, "has a stride of 32; give 32 px or more"),
        (Peer("mobilenetv3_small_050"), 16, "has a stride of 32; give 32 px or more"),
        (Peer("efficientnet_lite0"), 8, "has a stride of 32; give 32 px or more"),
        (Peer("vit_tiny_patch16_224"), 8, "has a stride of 16; give 16 px or more"),
        (Peer("maxvit_tiny_rw_224"), 40, "maxvit_tiny_rw_224 at 40 px: "),
        (Peer("mobilenetv9"), 64, "timm 1.0.31 has no such classifier"),
    ],
)
def test_networks_that_cannot_train_are_one_line(network, resolution, message):
    message = message.replace("1.0.31", timm.__version__)
    with pytest.raises(SettingsError, match=re.escape(message)) as caught:
        check_network(network, 5, resolution)
    assert "\n" not in str(caught.value) and network.id in str(caught.value)


def test_a_network_that_cannot_be_counted_is_one_line():
    with pytest.raises(SettingsError, match="maxvit_tiny_rw_224 at 40 px: ") as caught:
        ledger_of(Peer("maxvit_tiny_rw_224"), resolution=40)
    assert "\n" not in str(caught.value)


def test_branches_for_training_are_counted_fused():
    """MobileOne-S0 has 275M MACs in its paper (arXiv 2206.04040, Table 1), and 1,052M unfused."""
    assert round(total(ledger_of(Peer("mobileone_s0"))).macs / 1e6) == 275


def test_a_network_that_is_no_classifier_is_refused(monkeypatch):
    monkeypatch.setattr("gmsearch.zoo.build_network", lambda *_: torch.nn.Flatten())
    with pytest.raises(SettingsError, match="mobilenetv2_035 is no plain classifier"):
        check_network(Peer("mobilenetv2_035"), 5, 32)


def test_checking_does_not_touch_the_random_state():
    torch.manual_seed(0)
    expected = torch.rand(1)
    torch.manual_seed(0)
    check_network(Peer("mobilenetv3_small_050"), 5, 32)
    ledger_of(Peer("mobilenetv3_small_050"))
    assert torch.rand(1) == expected


def test_names():
    assert is_peer("starnet_s1") and not is_peer("gmnet_s1") and not is_peer("gmnet")
    assert not is_peer("starnet_s1.in1k") and not is_peer("hf-hub:timm/starnet_s1.in1k")
    assert "gmnet_s1" in nearest_names("gmnet_s11")
    assert len(nearest_names("efficientnet")) <= 3 and nearest_names("§") == []


def test_ledgers():
    assert total(ledger_of(gmnet("gmnet_s2"))) == cost(gmnet("gmnet_s2"))
    peer = total(ledger_of(Peer("mobilenetv2_100"), resolution=224, num_classes=1000))
    assert round(peer.macs / 1e6) == 301 and round(peer.params / 1e6, 2) == 3.50


def test_a_peer_is_a_trial_like_any_other(tmp_path):
    """The same loop, files and resumption."""
    images = make_folder(tmp_path / "set", per_class=24, side=32)
    dataset = data.load(str(images), resolution=32, seed=0)
    peer, recipe = Peer("mobilenetv3_small_050"), Recipe(num_epochs=2, batch_size=8)

    def curve(folder, stop_after=None):
        curves = run_trial(peer, dataset, recipe, tmp_path / folder, seed=0)
        for history in curves:
            found = [(r.epoch, r.top1, r.loss, r.train_loss) for r in history]
            if len(history) == stop_after:
                curves.close()
                break
        return found

    whole = curve("whole")
    curve("stopped", stop_after=1)
    assert curve("stopped") == whole and len(whole) == 2
    assert (tmp_path / "whole" / "architecture.json").read_text() == (
        '{\n  "format": 1,\n  "timm": "mobilenetv3_small_050"\n}\n'
    )
    assert len((tmp_path / "whole" / "metrics.jsonl").read_text().splitlines()) == 2
