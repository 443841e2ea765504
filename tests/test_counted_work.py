"""What a training step takes, counted in operators: a copy or a pass over the features that slips
in would cost time on every machine, and shows here on any.
"""

from collections import Counter

import pytest
import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from gmsearch.block import Block
from gmsearch.crew import Crew
from gmsearch.depthwise import WIDEST_FAST, DepthwiseConv2d
from gmsearch.feeding import ALONE
from gmsearch.gmnet import gmnet_within
from gmsearch.recipe import Recipe
from gmsearch.step import Step
from gmsearch.training import start

COPIES = ("copy_", "clone", "_to_copy", "contiguous", "_foreach_copy_")


class Counts(TorchDispatchMode):
    """How often each operator is called, those of the backward pass included."""

    def __init__(self) -> None:
        super().__init__()
        self.found: Counter[str] = Counter()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.found[func.overloadpacket.__name__] += 1
        return func(*args, **(kwargs or {}))


@pytest.fixture(scope="module")
def counted():
    """The second step of GmNet's layout on images of 64 px, whose maps are of 32 to 2 px."""
    network = gmnet_within(60_000_000)
    recipe = Recipe(precision="fp32")
    state = start(network, 12, recipe, seed=0, resolution=64)
    take_step = Step(Crew(state.model.train(), ALONE), state.optimizer, recipe)
    images = torch.randn(4, 3, 64, 64).contiguous(memory_format=torch.channels_last)
    batch = images, torch.arange(4)
    take_step([batch], lr=1e-3)
    with Counts() as counts:
        take_step([batch], lr=1e-3)
    return state.model, counts.found


def _number(model, kind):
    return sum(isinstance(module, kind) for module in model.modules())


def test_nothing_is_copied_but_one_scalar(counted):
    """Which is the mask of the labels that count; all features stay where they are."""
    _, found = counted
    assert sum(found[name] for name in COPIES) == 1


def test_each_layer_is_computed_once(counted):
    model, found = counted
    depthwise = _number(model, DepthwiseConv2d)
    assert found["convolution"] == _number(model, nn.Conv2d) + depthwise  # its gradient is another
    assert found["native_batch_norm"] == _number(model, nn.BatchNorm2d)
    assert found["native_batch_norm_backward"] == _number(model, nn.BatchNorm2d)
    assert found["hardtanh"] == found["hardtanh_backward"] == _number(model, nn.ReLU6)
    assert found["_fused_adamw_"] == len(("decayed", "not decayed"))
    assert found["_foreach_norm"] == 1


def test_a_depthwise_weight_gradient_takes_three_columns_at_a_time(counted):
    """Of kernels of 7, but on maps of 2 px, where they are cut to 3."""
    model, found = counted
    depthwise = [m for m in model.modules() if isinstance(m, DepthwiseConv2d)]
    on_last = _number(model.stages[-1], DepthwiseConv2d)
    columns = -(-7 // WIDEST_FAST) * (len(depthwise) - on_last) + on_last
    assert found["constant_pad_nd"] == found["cat"] == len(depthwise)
    pointwise = found["convolution_backward"] - columns
    plain = sum(type(m) is nn.Conv2d for m in model.modules())
    # Two 1x1 convolutions a block; up to 64 pixels their gradients are matrix products.
    assert pointwise == plain + 2 * _number(model.stages[0], Block)


def test_a_step_takes_no_more_operators_than_it_did(counted):
    """Views and products of weights included; raise a bound only for what is worth it."""
    model, found = counted
    blocks = _number(model, Block)
    assert found["mul"] <= 9 * blocks + 8
    assert found["add"] <= 4 * blocks + 8
    assert sum(found.values()) <= 100 * blocks
