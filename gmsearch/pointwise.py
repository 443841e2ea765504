"""1x1 convolutions that train fast on a CPU, and one that trains there at all.

The CPU library of PyTorch computes the gradient of a bias as slowly as that of the weights, and on
images of few pixels both its gradients at half the speed of the matrix product that they are
(`benchmarks/speed/shapes.py` has the figures). Where there is neither, or little to do, it stays.

With a stride, in channels_last, it crashes (2.14) or corrupts memory in the weight gradient of a
1x1 convolution of fewer than eight channels, such as the shortcuts of MobileOne and FastViT from
the image itself. That is a convolution without a stride on every other pixel: the same numbers by
another path.
"""

from typing import Any

import torch
from timm.models import register_notrace_module
from torch import Tensor, nn
from torch.nn import functional as F

from gmsearch.depthwise import trains_on_cpu
from gmsearch.speedups import is_on

NARROW = 8  # channels, from which on the library's path is sound
FEW = 64  # pixels of an image, up to which gradients are plain matrix products
FEWEST = 16  # up to which that is so much faster that it pays without a bias
MANY = 5_000_000  # MACs of a batch, from which on our way is shorter


class PointwiseConv2d(nn.Conv2d):
    """`nn.Conv2d(in_width, width, 1)`.

    Parameters, outputs and gradients are those of nn.Conv2d up to rounding.
    """

    def __init__(self, in_width: int, width: int, bias: bool = True) -> None:
        super().__init__(in_width, width, 1, bias=bias)

    def forward(self, x: Tensor) -> Tensor:
        return self.convolve(x, self.weight, self.bias)

    def convolve(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        """The same with other weights in the place of its own."""
        if not torch.jit.is_scripting():
            if self._is_slow(x, bias) and is_pointwise(self) and is_on("pointwise"):
                return _Pointwise.apply(x, weight, bias)
        return self._conv_forward(x, weight, bias)

    def _is_slow(self, x: Tensor, bias: Tensor | None) -> bool:
        """Whether the library would take longer than our way for the gradients on a CPU."""
        return (
            trains_on_cpu(self, x)
            and self.stride == (1, 1)
            and (bias is not None or x.shape[-2:].numel() <= FEWEST)
            and x.numel() * self.out_channels >= MANY
        )


def is_pointwise(conv: nn.Conv2d) -> bool:
    """Whether it is one at any stride. Others may change a module when it is made."""
    return conv.kernel_size == (1, 1) and conv.padding == (0, 0) and conv.groups == 1


register_notrace_module(PointwiseConv2d)  # as DepthwiseConv2d


class _Pointwise(torch.autograd.Function):
    @staticmethod
    def forward(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        return F.conv2d(x, weight, bias)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, Tensor, Tensor | None], output: Any) -> None:
        ctx.save_for_backward(*inputs[:2])

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, weight = (saved.to(grad.dtype) for saved in ctx.saved_tensors)  # fp32 under autocast
        of_x, of_weight, of_bias = ctx.needs_input_grad
        grad_bias = grad.sum((0, 2, 3)) if of_bias else None
        if x.shape[-2:].numel() > FEW:
            settings = [1, 1], [0, 0], [1, 1], False, [0, 0], 1  # stride, padding, …, groups
            wanted = [of_x, of_weight, False]
            backward = torch.ops.aten.convolution_backward
            return (*backward(grad, x, weight, None, *settings, wanted)[:2], grad_bias)
        by_pixel = grad.permute(0, 2, 3, 1)  # in channels_last a view, as the next
        matrix = weight.reshape(len(weight), -1)
        grad_x = (by_pixel @ matrix).permute(0, 3, 1, 2) if of_x else None
        grad_weight = None
        if of_weight:
            rows = by_pixel.reshape(-1, len(weight))
            features = x.permute(0, 2, 3, 1).reshape(-1, x.shape[1])
            grad_weight = (rows.T @ features).view_as(weight)
        return grad_x, grad_weight, grad_bias


class StridedPointwise(nn.Conv2d):
    """`nn.Conv2d(in_width, width, 1, stride)` without padding or groups."""

    def forward(self, x: Tensor) -> Tensor:
        if not torch.jit.is_scripting() and self.training and is_pointwise(self):
            rows, columns = self.stride
            return F.conv2d(x[:, :, ::rows, ::columns], self.weight, self.bias)
        return self._conv_forward(x, self.weight, self.bias)


def stand_in(module: nn.Module) -> nn.Conv2d | None:
    """A convolution of the same numbers for a plain 1x1 one that is slow, or would crash; None for
    any other module.

    Parameters are to be moved over by who replaces it.
    """
    if type(module) is not nn.Conv2d:
        return None
    plain = is_pointwise(module)
    widths = module.in_channels, module.out_channels
    with torch.device("meta"):  # no weights of its own, and none drawn
        if plain and module.stride == (1, 1):
            return PointwiseConv2d(*widths, bias=False)
        if plain and module.in_channels < NARROW:
            stride = module.stride[0], module.stride[1]
            return StridedPointwise(*widths, kernel_size=1, stride=stride, bias=False)
    return None
