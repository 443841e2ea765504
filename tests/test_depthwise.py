"""The depthwise convolution is torch's, outputs and gradients, at any size."""

import pytest
import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from gmsearch.depthwise import DepthwiseConv2d
from gmsearch.pointwise import PointwiseConv2d

pytestmark = pytest.mark.usefixtures("few_are_many")


@pytest.mark.parametrize("kernel", [3, 5, 7, 9])
@pytest.mark.parametrize("size", [(1, 1), (2, 2), (3, 3), (4, 4), (7, 7), (12, 12), (2, 9), (9, 1)])
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_outputs_and_gradients_are_those_of_torch(kernel, size, layout):
    torch.manual_seed(0)
    reference = nn.Conv2d(6, 6, kernel, padding=kernel // 2, groups=6).double()
    ours = DepthwiseConv2d(6, kernel).double()
    ours.load_state_dict(reference.state_dict())
    x = torch.randn(5, 6, *size, dtype=torch.double).contiguous(memory_format=layout)
    weights = torch.randn(5, 6, *size, dtype=torch.double)

    def outputs_and_gradients(module):
        inputs = x.clone().requires_grad_()
        outputs = module(inputs)
        (outputs * weights).sum().backward()
        return outputs, inputs.grad, module.weight.grad, module.bias.grad

    results = zip(outputs_and_gradients(ours), outputs_and_gradients(reference), strict=True)
    for mine, theirs in results:
        torch.testing.assert_close(mine, theirs, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(ours.eval()(x), reference(x), rtol=1e-12, atol=1e-12)


class Asked(TorchDispatchMode):
    """What gradients of weights the library is asked for: rows of the image, of padding, and
    columns of the kernel.
    """

    def __init__(self) -> None:
        super().__init__()
        self.found: list[tuple[int, int, int, int]] = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if func is torch.ops.aten.convolution_backward.default:
            (_, x, weight), padding = args[:3], args[5]
            self.found.append((x.shape[2], padding[0], *weight.shape[2:]))
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("kernel", [3, 5, 7, 9])
@pytest.mark.parametrize("size", [(1, 1), (2, 2), (4, 4), (7, 7), (12, 12), (2, 9), (9, 1)])
def test_the_library_is_asked_only_for_what_it_is_fast_at(kernel, size):
    """Up to three columns, and no rows of padding where the kernel is higher than the image."""
    x = torch.randn(2, 6, *size)
    with Asked() as asked:
        DepthwiseConv2d(6, kernel)(x).sum().backward()
    assert asked.found
    for rows, padding, height, width in asked.found:
        assert width <= 3 and (padding == 0 or height <= rows == size[0])


@pytest.mark.parametrize(
    "kernel, shape, is_ours",
    [
        (7, (32, 40, 16, 16), True),
        (7, (8, 8, 16, 16), False),  # so little that more calls take longer
        (7, (32, 160, 4, 4), True),
        (7, (8, 16, 4, 4), False),
        (3, (128, 160, 16, 16), False),  # the library is fast
        (3, (128, 160, 2, 2), True),  # but not where a kernel is higher than the image
    ],
)
def test_the_way_is_chosen_by_shape(monkeypatch, kernel, shape, is_ours):
    monkeypatch.undo()
    output = DepthwiseConv2d(shape[1], kernel)(torch.randn(shape))
    assert (type(output.grad_fn).__name__ == "_DepthwiseBackward") == is_ours


@pytest.mark.parametrize(
    "change",
    [
        {"stride": (2, 2)},
        {"dilation": (2, 2), "padding": (6, 6)},
        {"padding": (0, 0)},
        {"padding": "same"},
        {"padding_mode": "circular"},
    ],
    ids=lambda change: ", ".join(change),
)
def test_what_is_changed_later_counts_in_training_too(change):
    """As those do who make a network see further: stride for dilation."""
    torch.manual_seed(0)
    ours, reference = DepthwiseConv2d(6, 7), nn.Conv2d(6, 6, 7, padding=3, groups=6)
    reference.load_state_dict(ours.state_dict())
    x = torch.randn(2, 6, 16, 16)
    results = []
    for module in (ours, reference):
        for name, value in change.items():
            setattr(module, name, value)
        if change.get("padding_mode"):
            module._reversed_padding_repeated_twice = [3] * 4
        outputs = module(x)
        outputs.square().sum().backward()
        results.append((outputs, module.weight.grad, module.bias.grad))
    for mine, theirs in zip(*results, strict=True):
        torch.testing.assert_close(mine, theirs)


def test_it_is_a_conv2d_for_all_who_look(tmp_path):
    ours = DepthwiseConv2d(6, 7)
    assert isinstance(ours, nn.Conv2d) and ours.groups == 6
    assert {n: p.shape for n, p in ours.named_parameters()} == {
        n: p.shape for n, p in nn.Conv2d(6, 6, 7, groups=6).named_parameters()
    }


def test_gradients_are_right_under_bf16_autocast():
    torch.manual_seed(0)
    ours = DepthwiseConv2d(8, 7)
    x = torch.randn(4, 8, 9, 9)
    with torch.autocast("cpu", torch.bfloat16):
        outputs = ours(x)
    outputs.float().square().mean().backward()
    low, ours.weight.grad = ours.weight.grad.clone(), None
    ours(x).square().mean().backward()
    assert outputs.dtype == torch.bfloat16 and low.dtype == torch.float32
    torch.testing.assert_close(low, ours.weight.grad, rtol=0.05, atol=0.002)


@pytest.mark.parametrize("conv", [DepthwiseConv2d(16, 7), PointwiseConv2d(64, 256)])
def test_an_export_in_training_takes_other_batches(monkeypatch, conv):
    """On both sides of where the way changes."""
    monkeypatch.undo()
    few, many = (torch.randn(count, conv.in_channels, 4, 4) for count in (8, 400))
    batches = ({0: torch.export.Dim("batch", min=2, max=4096)},)
    for example in (few, many):
        exported = torch.export.export(conv, (example,), dynamic_shapes=batches).module()
        for x in (few, many):
            torch.testing.assert_close(exported(x), conv(x))
