"""The 1x1 convolution is torch's, outputs and gradients, at any size."""

import copy
from functools import partial

import pytest
import timm
import torch
from torch import nn
from torch.autograd import forward_ad
from torch.func import functional_call, grad, jvp, vmap

from gmsearch.depthwise import DepthwiseConv2d
from gmsearch.network import Peer
from gmsearch.pointwise import FEW, PointwiseConv2d, StridedPointwise
from gmsearch.zoo import build_network

pytestmark = pytest.mark.usefixtures("few_are_many")


def outputs_and_gradients(module: nn.Module, x: torch.Tensor, weights: torch.Tensor) -> list:
    inputs = x.clone().requires_grad_()
    outputs = module(inputs)
    (outputs * weights).sum().backward()
    return [outputs, inputs.grad, *(parameter.grad for parameter in module.parameters())]


@pytest.mark.parametrize("size", [(1, 1), (2, 3), (8, 8), (8, 9), (16, 16)])
@pytest.mark.parametrize("widths", [(1, 1), (3, 8), (12, 5)])
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("bias", [True, False])
def test_outputs_and_gradients_are_those_of_torch(size, widths, layout, bias):
    torch.manual_seed(0)
    reference = nn.Conv2d(*widths, 1, bias=bias).double()
    ours = PointwiseConv2d(*widths, bias=bias).double()
    ours.load_state_dict(reference.state_dict())
    x = torch.randn(5, widths[0], *size, dtype=torch.double).contiguous(memory_format=layout)
    weights = torch.randn(5, widths[1], *size, dtype=torch.double)
    torch.testing.assert_close(
        outputs_and_gradients(ours, x, weights),
        outputs_and_gradients(reference, x, weights),
        rtol=1e-12,
        atol=1e-12,
    )
    torch.testing.assert_close(ours.eval()(x), reference(x), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize(
    "bias, shape, is_ours",
    [
        (True, (32, 40, 16, 16), True),
        (False, (32, 40, 16, 16), False),  # the library is as fast
        (False, (32, 160, 4, 4), True),  # but not at so few pixels
        (True, (32, 16, 4, 4), False),  # so little that more calls take longer
    ],
)
def test_the_way_is_chosen_by_shape(monkeypatch, bias, shape, is_ours):
    monkeypatch.undo()
    output = PointwiseConv2d(shape[1], 3 * shape[1], bias=bias)(torch.randn(shape))
    assert (type(output.grad_fn).__name__ == "_PointwiseBackward") == is_ours


def test_a_gradient_that_nobody_wants_is_not_computed():
    """That of the images, of weights that stay, and of a bias that does."""
    for size in (4, 2 * int(FEW**0.5)):
        ours = PointwiseConv2d(3, 4)
        ours.weight.requires_grad_(False)
        x = torch.randn(2, 3, size, size)
        ours(x).sum().backward()
        assert ours.weight.grad is None
        torch.testing.assert_close(ours.bias.grad, torch.full((4,), 2.0 * size**2))


@pytest.mark.parametrize("size", [4, 12])
def test_gradients_are_right_under_bf16_autocast(size):
    torch.manual_seed(0)
    ours = PointwiseConv2d(16, 8)
    exact = copy.deepcopy(ours)
    x = torch.randn(4, 16, size, size)
    with torch.autocast("cpu", torch.bfloat16):
        outputs = ours(x)
    outputs.float().square().mean().backward()
    exact(x).square().mean().backward()
    assert outputs.dtype == torch.bfloat16 and ours.weight.grad.dtype == torch.float32
    torch.testing.assert_close(ours.weight.grad, exact.weight.grad, rtol=0.05, atol=0.002)
    torch.testing.assert_close(ours.bias.grad, exact.bias.grad, rtol=0.05, atol=0.002)


def test_a_step_asks_the_library_for_no_gradient_on_small_images():
    from test_counted_work import Counted

    for size, calls in ((8, 0), (9, 1)):
        ours = PointwiseConv2d(3, 4)
        x = torch.randn(2, 3, size, size, requires_grad=True)
        with Counted() as counted:
            ours(x).sum().backward()
        assert counted.calls["convolution_backward"] == calls


def test_a_batch_of_no_images_has_gradients_of_zero():
    ours = PointwiseConv2d(3, 4)
    ours(torch.randn(0, 3, 4, 4, requires_grad=True)).sum().backward()
    assert not ours.weight.grad.any() and not ours.bias.grad.any()


@pytest.mark.parametrize("name, value", [("stride", (2, 2)), ("padding", (1, 1))])
@pytest.mark.parametrize("make", [PointwiseConv2d, partial(StridedPointwise, kernel_size=1)])
def test_what_is_changed_later_counts_in_training_too(make, name, value):
    ours, reference = make(3, 8), nn.Conv2d(3, 8, 1)
    reference.load_state_dict(ours.state_dict())
    x, results = torch.randn(2, 3, 6, 6), []
    for module in (ours, reference):
        setattr(module, name, value)
        side = module(x).shape[-1]
        results.append(outputs_and_gradients(module, x, torch.ones(2, 8, side, side)))
    for mine, theirs in zip(*results, strict=True):
        torch.testing.assert_close(mine, theirs)


@pytest.mark.parametrize("ours", [PointwiseConv2d(8, 8), DepthwiseConv2d(8, 3)])
def test_gradients_forward_and_in_batches_are_those_of_torchs_own(ours):
    """Forward mode without torch.func, several gradients at once, and complex numbers."""
    plain = copy.deepcopy(ours)
    plain.__class__ = nn.Conv2d
    x, along = torch.randn(2, 8, 5, 5, requires_grad=True), torch.randn(2, 8, 5, 5)
    several = torch.randn(3, 2, 8, 5, 5)
    found = []
    for conv in (ours, plain):
        with forward_ad.dual_level():
            tangent = forward_ad.unpack_dual(conv(forward_ad.make_dual(x, along))).tangent
        batched = torch.autograd.grad(
            conv(x), [x, *conv.parameters()], several, is_grads_batched=True
        )
        wide = copy.deepcopy(conv)
        for name, parameter in conv.named_parameters():
            setattr(wide, name, nn.Parameter(parameter.detach() * (1 + 0j)))
        wide(x * (1 + 2j)).abs().sum().backward()
        found.append((tangent, *batched, *(p.grad for p in wide.parameters())))
    torch.testing.assert_close(*found)


def test_torch_func_differentiates_a_network_as_it_does_torchs_own():
    """Gradients of each sample, and forward, of a network that has both of our convolutions."""
    ours = build_network(Peer("convnext_atto"), 10, 32).train()
    plain = timm.create_model("convnext_atto", num_classes=10).train()
    assert {type(module) for module in ours.modules()} >= {PointwiseConv2d, DepthwiseConv2d}
    plain.load_state_dict(ours.state_dict())
    parameters = dict(plain.named_parameters())
    x = torch.randn(2, 3, 32, 32)
    found = []
    for model in (ours, plain):

        def loss(parameters, image, model=model):
            return functional_call(model, parameters, (image[None],)).square().sum()

        by_sample = vmap(grad(loss), (None, 0), randomness="different")(parameters, x)
        along = jvp(lambda x, model=model: model(x), (x,), (torch.ones_like(x),))
        found.append((by_sample, along))
    torch.testing.assert_close(*found)
