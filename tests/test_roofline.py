"""The operations of a training step, counted by torch while it runs."""

import pytest
import timm
import torch
from torch.utils.flop_counter import FlopCounterMode

from gmsearch.network import Peer
from gmsearch.roofline import peak_flops, training_flops


def test_training_flops_are_those_that_torch_counts():
    """Of a network without grouped convolutions, whose gradients torch counts as dense ones."""
    model = timm.create_model("resnet18", num_classes=10).train()
    with FlopCounterMode(display=False) as counter:
        model(torch.rand(2, 3, 64, 64, requires_grad=True)).sum().backward()
    counted = counter.get_total_flops() / 2
    ours = training_flops(Peer("resnet18"), resolution=64, num_classes=10)
    assert ours == pytest.approx(counted, rel=1e-3)


def test_the_peak_is_what_a_product_takes(monkeypatch):
    """A second a product, by a clock of our own."""
    ticks = iter(range(100))
    monkeypatch.setattr("gmsearch.roofline.time.perf_counter", lambda: next(ticks))
    assert peak_flops(torch.device("cpu"), torch.float32, side=10) == 2000


def test_a_peak_leaves_the_precision_of_products_as_it_was():
    before = torch.backends.cuda.matmul.allow_tf32
    peak_flops(torch.device("cpu"), torch.float32, side=10)
    assert torch.backends.cuda.matmul.allow_tf32 == before
