"""A gate of h by itself is s(h)·h to the bit on a CPU, and its gradient that of PyTorch."""

import copy
from weakref import WeakSet

import pytest
import torch
from torch import nn
from torch.autograd import forward_ad
from torch.func import functional_call, grad, vmap

from gmsearch.architecture import ACTIVATIONS
from gmsearch.gates import Gate

KINKS = torch.tensor([-3.0, -0.0, 0.0, 3.0, 6.0, torch.inf, -torch.inf, torch.nan])


def features(*shape: int, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    x = 3 * torch.randn(shape, generator=torch.Generator().manual_seed(0))
    return x.to(dtype).contiguous(memory_format=torch.channels_last)


def plain(gate: Gate, h: torch.Tensor) -> torch.Tensor:
    return gate.act(h) * h


def output_and_gradient(function, h: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    h = h.detach().clone().requires_grad_()
    output = function(h)
    weights = torch.linspace(-1, 2, h.numel(), dtype=h.dtype).view_as(h)
    return output, torch.autograd.grad(output, h, weights)[0]


class Held:
    def __init__(self, tensor: torch.Tensor) -> None:
        self.tensor = tensor


def kept(function, h: torch.Tensor) -> int:
    """Elements that a forward pass keeps for the backward pass, once it is done."""
    found: WeakSet[Held] = WeakSet()

    def hold(tensor: torch.Tensor) -> Held:
        found.add(held := Held(tensor.detach()))
        return held

    h = h.clone().requires_grad_()
    with torch.autograd.graph.saved_tensors_hooks(hold, lambda held: held.tensor):
        output = function(h * 1)  # as a convolution gives it: nobody else keeps it
    sizes = {held.tensor.data_ptr(): held.tensor.numel() for held in found}
    assert output.requires_grad
    return sum(sizes.values())


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_output_and_gradient_are_those_of_pytorch(activation, dtype):
    gate, h = Gate("self", activation, 5), features(3, 5, 4, 6, dtype=dtype)
    h.permute(0, 2, 3, 1).flatten()[: len(KINKS)] = KINKS
    before = h.clone()
    (mine, my_gradient), (output, gradient) = (
        output_and_gradient(way, h) for way in (gate, lambda h: plain(gate, h))
    )
    assert torch.equal(h.nan_to_num(), before.nan_to_num())
    torch.testing.assert_close(mine, output, rtol=0, atol=0, equal_nan=True)
    rounding = {torch.float64: 1e-14, torch.float32: 1e-6, torch.bfloat16: 2e-2}[dtype]
    finite = h.isfinite()  # beyond, both may have an infinity times 0 in other places
    torch.testing.assert_close(
        my_gradient[finite], gradient[finite], rtol=rounding, atol=20 * rounding
    )


@pytest.mark.parametrize("activation", [a for a in ACTIVATIONS if a != "identity"])
def test_it_keeps_one_factor(activation):
    gate, h = Gate("self", activation, 5), features(3, 5, 4, 6)
    assert kept(gate, h) == h.numel() < kept(lambda h: plain(gate, h), h)


@pytest.mark.parametrize("form", ["norm", "dw", "fc", "squeeze"])
def test_gates_of_two_factors_are_as_they_were(form):
    gate, h = Gate(form, "relu6", 6), features(3, 6, 4, 6)
    formula = lambda h: gate.act(gate.gate(h)) * gate.value(h)  # noqa: E731
    found = [output_and_gradient(way, h) for way in (gate, formula)]
    for mine, theirs in zip(*found, strict=True):
        assert torch.equal(mine, theirs)


def test_switched_off_or_in_evaluation_it_is_pytorchs(monkeypatch):
    gate, h = Gate("self", "gelu", 5), features(3, 5, 4, 6)
    most = kept(lambda h: plain(gate, h), h)
    assert kept(copy.deepcopy(gate).eval(), h) == most
    monkeypatch.setenv("GMSEARCH_OFF", "gate")
    assert kept(gate, h) == most


def test_a_second_derivative_is_refused_and_not_wrong(monkeypatch):
    gate, h = Gate("self", "silu", 5), features(3, 5, 4, 6).double().requires_grad_()

    def curvature() -> torch.Tensor:
        (first,) = torch.autograd.grad(gate(h).sum(), h, create_graph=True)
        return torch.autograd.grad(first.sum(), h)[0]

    with pytest.raises(RuntimeError, match="GMSEARCH_OFF=gate"):
        curvature()
    monkeypatch.setenv("GMSEARCH_OFF", "gate")
    assert curvature().isfinite().all()


def test_who_traces_compiles_or_differentiates_in_other_ways_sees_pytorchs():
    gate, h = Gate("self", "relu6", 5).train(), features(3, 5, 4, 6)
    right, gradient = output_and_gradient(lambda h: plain(gate, h), h)
    for way in (
        torch.jit.trace(gate, h, check_trace=False),
        torch.jit.script(gate),
        torch.fx.symbolic_trace(nn.Sequential(gate)),
        torch.export.export(gate, (h,)).module(),
        torch.compile(gate, backend="eager", fullgraph=True),
    ):
        assert torch.equal(way(h), right), way
    of_each = vmap(grad(lambda h: functional_call(gate, {}, (h[None],)).sum()))(h)
    ones = torch.autograd.grad(plain(gate, leaf := h.clone().requires_grad_()).sum(), leaf)[0]
    torch.testing.assert_close(of_each, ones)
    with forward_ad.dual_level():
        dual = forward_ad.make_dual(h, torch.ones_like(h))
        tangent = forward_ad.unpack_dual(gate(dual)).tangent
    torch.testing.assert_close(tangent, ones)
    several = torch.randn(2, *h.shape)
    leaf = h.clone().requires_grad_()
    (batched,) = torch.autograd.grad(gate(leaf), leaf, several, is_grads_batched=True)
    torch.testing.assert_close(batched, several * ones)
    assert gradient.shape == h.shape
