"""Exported networks compute in ONNX Runtime what they compute in PyTorch."""

import os
import subprocess
import sys

import numpy as np
import pytest
import timm
import torch
from hypothesis import given, settings
from strategies import architectures
from torch import nn

from gmsearch.errors import ExportError
from gmsearch.gmnet import gmnet
from gmsearch.model import build
from gmsearch.onnx_export import OrtNetwork, export_onnx

TOLERANCE = 1e-4  # of the largest logit


def lively(model):
    """The network with statistics, scales and layer scales as after a training: fresh ones let
    nothing through the blocks, and a wrong fold of a norm pass.
    """
    generator = torch.Generator().manual_seed(0)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.normal_(module.running_mean, std=0.2, generator=generator)
            nn.init.uniform_(module.running_var, 0.5, 1.5, generator=generator)
            nn.init.uniform_(module.weight, 0.5, 1.5, generator=generator)
            nn.init.normal_(module.bias, std=0.2, generator=generator)
    for name, parameter in model.named_parameters():
        if name.endswith("gamma"):
            nn.init.uniform_(parameter, 0.5, 1.5, generator=generator)
    return model.eval()


def difference(model, network, batch_size, side):
    """The largest difference of logits, over the largest logit."""
    images = torch.randn(batch_size, 3, side, side, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        expected = model(images).numpy()
    found = network.run(images.numpy())
    assert found.shape == expected.shape and found.dtype == np.float32
    return np.abs(found - expected).max() / np.abs(expected).max()


NETWORKS = {
    "gmnet_s1": lambda: build(gmnet("gmnet_s1")),
    **{
        name: lambda name=name: timm.create_model(name)
        for name in ("mobilenetv3_large_100", "efficientnet_lite0", "starnet_s1", "convnext_atto")
    },
}


@pytest.mark.parametrize("name", NETWORKS)
def test_one_file_computes_the_same_for_any_batch(name):
    model = lively(NETWORKS[name]())
    network = OrtNetwork(export_onnx(model, 96), threads=1)
    assert difference(model, network, 1, 96) < TOLERANCE
    assert difference(model, network, 3, 96) < TOLERANCE


@settings(max_examples=12, deadline=None)
@given(architectures())
def test_any_architecture_computes_the_same(architecture):
    model = lively(build(architecture, 5))
    network = OrtNetwork(export_onnx(model, 33), threads=1)
    assert difference(model, network, 3, 33) < TOLERANCE


def test_attention_is_exported_for_any_batch():
    """Its sizes are computed in Python, where a batch of the export could get stuck."""
    model = timm.create_model("vit_tiny_patch16_224", depth=2, num_classes=7).eval()
    network = OrtNetwork(export_onnx(model, 224), threads=1)
    assert difference(model, network, 1, 224) < TOLERANCE
    assert difference(model, network, 3, 224) < TOLERANCE


def test_the_difference_is_seen_where_there_is_one():
    model = lively(build(gmnet("gmnet_s1", 4), 5))
    network = OrtNetwork(export_onnx(model, 32), threads=1)
    with torch.no_grad():
        model.stages[0][1].gamma.mul_(1.1)
    assert difference(model, network, 1, 32) > TOLERANCE


def test_export_is_quiet_and_leaves_the_model(capfd):
    model = build(gmnet("gmnet_s1", 4), 5).to(torch.bfloat16).train()
    exported = export_onnx(model, 32)
    assert model.training and model.head.weight.dtype == torch.bfloat16
    assert not model.head.weight.is_meta and model.head.weight.requires_grad
    OrtNetwork(exported, threads=1).run(np.zeros((1, 3, 32, 32), np.float32))
    assert capfd.readouterr() == ("", "")


def test_images_have_the_size_of_the_export():
    network = OrtNetwork(export_onnx(build(gmnet("gmnet_s1", 4), 5), 32, in_chans=3), threads=2)
    assert network.threads == 2
    with pytest.raises(Exception, match="invalid dimensions"):
        network.run(np.zeros((1, 3, 33, 33), np.float32))


def test_an_export_that_fails_prints_nothing_and_says_why(monkeypatch, capfd):
    def stumble(*_, **__):
        os.write(1, b"graph(%input.1 : Float(...))")  # as torch does, from below Python
        raise TypeError("no such operator\nand more")

    monkeypatch.setattr(torch.onnx, "export", stumble)
    with pytest.raises(ExportError, match="cannot be exported to ONNX: no such operator$"):
        export_onnx(nn.Conv2d(3, 4, 1), 8)
    print("and after")
    assert capfd.readouterr().out == "and after\n"


def test_onnx_runtime_keeps_to_itself(tmp_path):
    """It would leave a device id in the user's cache, and send events."""
    program = """
import numpy as np, torch
from gmsearch.onnx_export import OrtNetwork, export_onnx
network = OrtNetwork(export_onnx(torch.nn.Conv2d(3, 4, 3), 8), threads=1)
print(network.run(np.zeros((1, 3, 8, 8), np.float32)).shape)
"""
    environment = {**os.environ, "XDG_CACHE_HOME": str(tmp_path), "HOME": str(tmp_path)}
    done = subprocess.run(
        [sys.executable, "-c", program], env=environment, capture_output=True, text=True
    )
    assert done.stdout == "(1, 4, 6, 6)\n", done.stderr
    assert not [path for path in tmp_path.rglob("*") if "onnx" in path.name.lower()]
