"""Training by algebra: the same outputs, gradients and statistics as without it, in float64."""

import copy

import pytest
import torch
from hypothesis import given, settings
from strategies import architectures
from torch import nn

from gmsearch.block import Block, ConvBN, use_algebra
from gmsearch.gmnet import gmnet, without_gates
from gmsearch.model import build


def grown(network, seed: int = 0) -> nn.Module:
    """A network in float64 whose layer scales, biases and norms are not where they start."""
    torch.manual_seed(seed)
    model = build(network, 7).double().train()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.ndim == 1:
                parameter.add_(torch.randn_like(parameter) * (0.3 if "gamma" in name else 0.1))
    return model


def step(model: nn.Module, images: torch.Tensor) -> tuple[torch.Tensor, dict, dict]:
    """The logits, the gradients and the buffers after one pass forward and backward."""
    logits = model(images)
    weights = torch.linspace(-1, 1, logits.numel(), dtype=logits.dtype).view_as(logits)
    (weights * logits).sum().backward()
    gradients = {name: p.grad for name, p in model.named_parameters()}
    return logits.detach(), gradients, dict(model.named_buffers())


def is_spared(model: nn.Module, name: str) -> bool:
    """Whether a parameter is the bias of a convolution with a BN after it."""
    owner = model.get_submodule(name.rpartition(".conv.bias")[0]) if ".conv.bias" in name else None
    return isinstance(owner, ConvBN) and hasattr(owner, "bn")


def check(network, size: int = 32, change=lambda bn: None) -> None:
    plain = grown(network)
    for module in plain.modules():
        if isinstance(module, nn.BatchNorm2d):
            change(module)
    spared = copy.deepcopy(plain)
    use_algebra(spared)
    images = torch.randn(4, 3, size, size, dtype=torch.float64)
    (logits, gradients, buffers), (ours, our_gradients, our_buffers) = (
        step(model, images) for model in (plain, spared)
    )
    torch.testing.assert_close(ours, logits, rtol=1e-10, atol=1e-10)
    largest = max(float(g.abs().max()) for g in gradients.values())
    for name, gradient in gradients.items():
        if is_spared(plain, name):
            assert our_gradients[name] is None
            norm = plain.get_submodule(name.replace(".conv.bias", ".bn"))
            assert not norm.training or gradient.abs().max() < 1e-10 * largest
        else:
            torch.testing.assert_close(
                our_gradients[name], gradient, rtol=1e-8, atol=1e-12 * largest, msg=name
            )
    for name, buffer in buffers.items():
        torch.testing.assert_close(our_buffers[name], buffer, rtol=1e-10, atol=1e-12, msg=name)
    torch.testing.assert_close(spared.eval()(images), plain.eval()(images), rtol=1e-9, atol=1e-9)


@settings(max_examples=15, deadline=None)
@given(architectures())
def test_any_network_computes_the_same_in_training(network):
    check(network)


@pytest.mark.parametrize("network", [gmnet("gmnet_s1"), without_gates(gmnet("gmnet_s1"))])
def test_the_published_network_computes_the_same(network):
    check(network, size=64)


def freeze(bn: nn.BatchNorm2d) -> None:
    bn.running_mean.normal_(), bn.running_var.uniform_(0.5, 2)
    bn.eval()


def forget(bn: nn.BatchNorm2d) -> None:
    bn.running_mean = bn.running_var = bn.num_batches_tracked = None


@pytest.mark.parametrize(
    "change",
    [
        freeze,
        forget,
        lambda bn: setattr(bn, "track_running_stats", False),
        lambda bn: setattr(bn, "momentum", None),
        lambda bn: setattr(bn, "momentum", 1.0),
        lambda bn: setattr(bn, "momentum", 0.9),
        lambda bn: setattr(bn, "momentum", 0.0),
    ],
    ids=[
        "frozen",
        "no statistics",
        "kept as they are",
        "mean of all",
        "last batch",
        "nearly",
        "never",
    ],
)
def test_with_norms_of_any_setting_it_computes_the_same(change):
    check(gmnet("gmnet_s1", base_width=8), change=change)


def test_norms_that_timm_has_frozen_get_their_bias():
    from timm.utils.model import freeze_batch_norm_2d

    images = torch.randn(4, 3, 32, 32, dtype=torch.float64)
    plain, ours = (freeze_batch_norm_2d(grown(gmnet("gmnet_s1", base_width=8))) for _ in range(2))
    use_algebra(ours)
    torch.testing.assert_close(ours(images), plain(images))


def test_it_is_off_unless_asked_for_and_in_eval_mode():
    """So a published checkpoint, or a loop of another, sees the authors' network."""
    model = grown(gmnet("gmnet_s1", base_width=8))
    assert all(p.requires_grad for p in model.parameters())
    before = {name: p.clone() for name, p in model.state_dict().items()}
    use_algebra(model)
    assert list(model.state_dict()) == list(before)
    assert all(torch.equal(model.state_dict()[name], value) for name, value in before.items())
    images = torch.randn(2, 3, 32, 32, dtype=torch.float64)
    plain = grown(gmnet("gmnet_s1", base_width=8)).eval()
    assert torch.equal(model.eval()(images), plain(images))


@pytest.mark.usefixtures("few_are_many")
def test_a_step_makes_fewer_passes_over_the_features():
    """The layer scale is one product forward, and two and a sum backward."""
    from test_counted_work import Counted

    counts = []
    for algebra in (False, True):
        model = grown(gmnet("gmnet_s1", base_width=8))
        if algebra:
            use_algebra(model)
        images = torch.randn(4, 3, 32, 32, dtype=torch.float64)
        with Counted() as counted:
            model(images).sum().backward()
        counts.append(counted.calls)
    num_blocks = sum(isinstance(module, Block) for module in model.modules())
    num_norms = sum(isinstance(m, ConvBN) and hasattr(m, "bn") for m in model.modules())
    plain, ours = counts
    assert plain["convolution"] == ours["convolution"]
    assert num_blocks == 16 and num_norms > 2 * num_blocks
    assert plain["sum"] - ours["sum"] >= num_blocks
