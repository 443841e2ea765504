"""Weights load from the authors' checkpoints, and what does not fit is named."""

import re

import pytest
import timm
import torch
from safetensors.torch import save_file
from test_model import authors_forward
from torch import nn

from gmsearch.errors import WeightsError
from gmsearch.gmnet import gmnet
from gmsearch.model import build
from gmsearch.weights import load_weights

SMALL = gmnet("gmnet_s3", base_width=2)


@pytest.fixture(scope="module")
def trained():
    """A state dict as if trained, in the authors' naming: that of gment.py's modules."""
    torch.manual_seed(0)
    state = AuthorsNet(width=2, depths=(3, 3, 8, 3), ratio=4).state_dict()
    for key, value in state.items():
        if value.is_floating_point():
            value.copy_(
                torch.rand_like(value) + 0.5 if "var" in key else 0.3 * torch.randn_like(value)
            )
    return state


class AuthorsNet(nn.Module):
    """The parameters of gment.py's Model, module by module, without its forward pass."""

    def __init__(self, width, depths, ratio):
        super().__init__()

        def conv_bn(*settings, with_bn=True):
            parts = {"conv": nn.Conv2d(*settings)}
            return nn.ModuleDict(parts | ({"bn": nn.BatchNorm2d(settings[1])} if with_bn else {}))

        def block(c):
            module = nn.ModuleDict(
                {
                    "dwconv": conv_bn(c, c, 7, 1, 3, 1, c),
                    "f1": conv_bn(c, ratio * c, 1, with_bn=False),
                    "g": conv_bn(ratio * c, c, 1),
                    "dwconv2": conv_bn(c, c, 7, 1, 3, 1, c, with_bn=False),
                }
            )
            module.register_parameter("gamma", nn.Parameter(torch.ones(c)))
            return module

        self.stem = nn.Sequential(conv_bn(3, 32, 3, 2, 1), nn.ReLU6())
        self.stages = nn.ModuleList()
        before = 32
        for index, depth in enumerate(depths):
            c = width << index
            down = nn.Sequential(conv_bn(before, c, 3, 2, 1), nn.Identity())
            self.stages.append(nn.Sequential(down, *(block(c) for _ in range(depth))))
            before = c
        self.norm = nn.BatchNorm2d(before)
        self.head = nn.Linear(before, 1000)


WRAPPED = {
    "bare": lambda state: state,
    "model": lambda state: {"model": state, "epoch": 300},
    "state_dict": lambda state: {"state_dict": state, "arch": "gmnet_s3"},
    "average": lambda state: {"state_dict": {"stale": torch.zeros(1)}, "state_dict_ema": state},
    "distributed": lambda state: {"model": {f"module.{k}": v for k, v in state.items()}},
}


@pytest.mark.parametrize("wrapping", WRAPPED)
def test_the_authors_checkpoint_gives_the_authors_outputs(trained, wrapping, tmp_path):
    file = tmp_path / "gmnet_s3.pth"
    torch.save(WRAPPED[wrapping](trained), file)
    images = torch.randn(2, 3, 64, 64)
    with torch.inference_mode():
        expected = authors_forward(trained, images)
        model = build(SMALL)
        load_weights(model, file)
        torch.testing.assert_close(model.eval()(images), expected, rtol=1e-5, atol=1e-5)
        by_timm = timm.create_model("gmnet", arch=SMALL, checkpoint_path=str(file)).eval()
        torch.testing.assert_close(by_timm(images), expected, rtol=1e-5, atol=1e-5)


def test_safetensors(trained, tmp_path):
    file = tmp_path / "model.safetensors"
    save_file(trained, file)
    model = build(SMALL)
    load_weights(model, file)
    torch.testing.assert_close(model.state_dict(), trained)


def refused(state, tmp_path, expected):
    """The message, and that the network is as it was."""
    file = tmp_path / "weights.pth"
    torch.save(state, file)
    model = build(SMALL)
    before = {key: value.clone() for key, value in model.state_dict().items()}
    with pytest.raises(WeightsError, match=re.escape(expected)) as caught:
        load_weights(model, file)
    assert "\n" not in str(caught.value) and str(file) in str(caught.value)
    torch.testing.assert_close(model.state_dict(), before)


def test_missing_and_extra_keys_are_named(trained, tmp_path):
    less = {key: value for key, value in trained.items() if not key.endswith("gamma")}
    refused(
        less,
        tmp_path,
        "missing keys: stages.0.1.gamma, stages.0.2.gamma, stages.0.3.gamma, stages.1.1.gamma "
        "and 13 more",
    )
    more = trained | {"head_dist.weight": torch.zeros(3)}
    refused(more, tmp_path, "keys that the network does not have: head_dist.weight")
    refused(
        {key: value for key, value in more.items() if key != "head.bias"},
        tmp_path,
        "missing keys: head.bias; keys that the network does not have: head_dist.weight",
    )


def test_other_shapes_are_named(trained, tmp_path):
    narrow = trained | {"norm.weight": trained["norm.weight"][:4]}
    refused(narrow, tmp_path, "other shapes: norm.weight is (4,) and not (16,)")


def test_a_head_for_other_classes_stays_fresh(trained, tmp_path):
    file = tmp_path / "weights.pth"
    torch.save(trained, file)
    model = build(SMALL, num_classes=40)
    head = model.head.weight.clone()
    assert load_weights(model, file) == "head"
    torch.testing.assert_close(model.head.weight, head)
    torch.testing.assert_close(model.norm.weight, trained["norm.weight"])
    assert load_weights(build(SMALL), file) == ""


@pytest.mark.parametrize("contents", [b"", b"no weights", b"PK\x03\x04 cut off"])
def test_unreadable_files(contents, tmp_path):
    file = tmp_path / "weights.pth"
    file.write_bytes(contents)
    with pytest.raises(WeightsError, match="not readable as weights") as caught:
        load_weights(build(SMALL), file)
    assert "\n" not in str(caught.value)
    with pytest.raises(WeightsError, match="no-such.pth: no such file"):
        load_weights(build(SMALL), tmp_path / "no-such.pth")


def test_a_checkpoint_that_would_run_code_is_refused(tmp_path):
    file = tmp_path / "weights.pth"
    torch.save({"model": print}, file)
    with pytest.raises(WeightsError, match="not readable as weights"):
        load_weights(build(SMALL), file)


def test_what_is_no_state_dict_is_refused(tmp_path):
    file = tmp_path / "weights.pth"
    torch.save([torch.zeros(3)], file)
    with pytest.raises(WeightsError, match="not readable as weights"):
        load_weights(build(SMALL), file)
