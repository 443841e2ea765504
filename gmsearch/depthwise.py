"""A depthwise convolution that trains fast, on a CPU and on a GPU.

PyTorch's CPU library computes the weight gradient of a depthwise convolution 10-40 times slower
than the convolution itself where the kernel is wider than 3 or the image smaller than it, so that
it takes most of a training step of networks like GmNet. Two exact rewritings avoid that path
(`benchmarks/depthwise.py` and `benchmarks/speed/shapes.py` have the figures):

- A kernel that reaches over the whole image from every pixel is cut to what it can touch: on
  feature maps of side s no weight further than s - 1 from the centre meets anything but padding.
- The weight gradient is computed for columns of the kernel, up to three at a time, each as the
  weight gradient of a narrow convolution on a shifted image.

Where the library is fast, or there is so little to do that more calls take longer, it stays.
On a GPU it has kernels of its own (`fused_depthwise.py`), where PyTorch comes with Triton.
"""

import math
from collections.abc import Callable
from itertools import pairwise
from typing import Any

import torch
from timm.models import register_notrace_module
from torch import Tensor, nn
from torch.autograd import forward_ad
from torch.nn import functional as F

from gmsearch import kernels
from gmsearch.speedups import is_on

WIDEST_FAST = 3  # columns
# From where on our way is shorter: elements of features, and, where a kernel is higher or wider
# than they are, channels of all images of a batch together.
MANY, MANY_CHANNELS = 100_000, 512
WIDEST, MOST_ELEMENTS = 9, 2**31  # of a kernel on a GPU; offsets are int32 there


class DepthwiseConv2d(nn.Conv2d):
    """`nn.Conv2d(width, width, kernel, padding=kernel // 2, groups=width)` for an odd kernel.

    Parameters, outputs and gradients are those of nn.Conv2d up to rounding.
    """

    def __init__(self, width: int, kernel: int, bias: bool = True) -> None:
        super().__init__(width, width, kernel, padding=kernel // 2, groups=width, bias=bias)

    def forward(self, x: Tensor) -> Tensor:
        return self.convolve(x, self.weight, self.bias)

    def convolve(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        """The same with other weights in the place of its own."""
        if not torch.jit.is_scripting():
            if trains_on_gpu(self, x, weight) and is_depthwise(self):
                return _kernel()(x, weight, bias)
            if self._is_slow(x) and is_depthwise(self) and is_on("depthwise"):
                rows, columns = (self._reaching(side) for side in x.shape[-2:])
                return _Depthwise.apply(x, weight[:, :, rows, columns], bias)
        return self._conv_forward(x, weight, bias)

    def _is_slow(self, x: Tensor) -> bool:
        """Whether the library would take longer than our way for the gradients on a CPU."""
        if not trains_on_cpu(self, x):
            return False
        kernel = self.kernel_size[0]
        if kernel > min(x.shape[-2:]):
            return len(x) * x.shape[1] >= MANY_CHANNELS
        return kernel > WIDEST_FAST and x.numel() >= MANY

    def _reaching(self, side: int) -> slice:
        """The rows, or columns, of the kernel that meet more than padding in an image's."""
        kernel = self.kernel_size[0]
        cut = max(0, kernel // 2 + 1 - side)
        return slice(cut, kernel - cut)


def is_depthwise(conv: nn.Conv2d) -> bool:
    """Whether it is one that keeps the size. Asked at each call, as others may change a module when
    it is made.
    """
    kernel = conv.kernel_size[0]
    return (
        conv.groups == conv.in_channels == conv.out_channels
        and conv.kernel_size == (kernel, kernel)
        and conv.padding == (kernel // 2, kernel // 2)
        and conv.stride == conv.dilation == (1, 1)
        and conv.padding_mode == "zeros"
        and kernel % 2 == 1
    )


def trains_on_cpu(module: nn.Module, x: Tensor) -> bool:
    """Whether gradients of what a module makes of images x (N, C, H, W) will be asked for on a CPU,
    and not in forward mode or by torch.func, for which PyTorch's own has rules; nor in an export,
    of which a choice by shape would fix the batch.
    """
    trains = module.training and torch.is_grad_enabled()
    trains = trains and not (torch.jit.is_tracing() or torch.compiler.is_exporting())
    is_alone = not torch._C._are_functorch_transforms_active() and forward_ad._current_level < 0
    return (
        trains
        and is_alone
        and x.device.type == "cpu"
        and x.ndim == 4
        and x.is_floating_point()  # complex gradients would need conjugates
    )


def trains_on_gpu(conv: nn.Conv2d, x: Tensor, weight: Tensor) -> bool:
    """Whether gradients will be asked for where our kernel runs (or Triton's interpreter)."""
    return (
        conv.training
        and torch.is_grad_enabled()
        and kernels.can_run("depthwise", x)
        and (x.dtype == weight.dtype or torch.is_autocast_enabled(x.device.type))
        and 1 < weight.shape[-1] <= WIDEST
        and x.numel() < MOST_ELEMENTS
    )


def _kernel() -> Callable[..., Tensor]:
    """Loads Triton, which not every machine has."""
    from gmsearch.fused_depthwise import depthwise

    return depthwise


# A tracer of torch.fx takes it as a whole, as it takes nn.Conv2d: where it goes hangs on its input.
register_notrace_module(DepthwiseConv2d)


def stand_in(module: nn.Module) -> DepthwiseConv2d | None:
    """A fast convolution of the same numbers for a plain depthwise one; None for any other module.

    Parameters are to be moved over by who replaces it.
    """
    if type(module) is not nn.Conv2d:
        return None
    width, kernel = module.in_channels, module.kernel_size[0]
    if not is_depthwise(module) or kernel == 1:
        return None
    with torch.device("meta"):  # no weights of its own, and none drawn
        return DepthwiseConv2d(width, kernel, bias=False)


class _Depthwise(torch.autograd.Function):
    @staticmethod
    def forward(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        return F.conv2d(x, weight, bias, padding=_reach(weight), groups=len(weight))

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, Tensor, Tensor | None], output: Any) -> None:
        ctx.save_for_backward(*inputs[:2])

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, weight = (saved.to(grad.dtype) for saved in ctx.saved_tensors)  # fp32 under autocast
        of_x, of_weight, of_bias = ctx.needs_input_grad
        # The gradient of a convolution that keeps the size is one with the kernel turned round.
        turned = weight.flip(2, 3)
        grad_x = F.conv2d(grad, turned, None, 1, _reach(weight), 1, len(weight)) if of_x else None
        grad_weight = _weight_gradient(x, grad, weight) if of_weight else None
        grad_bias = grad.sum((0, 2, 3)) if of_bias else None
        return grad_x, grad_weight, grad_bias


def _reach(weight: Tensor) -> tuple[int, int]:
    """Of a kernel from its middle: rows and columns."""
    return weight.shape[-2] // 2, weight.shape[-1] // 2


def _weight_gradient(x: Tensor, grad: Tensor, weight: Tensor) -> Tensor:
    """The gradient (C, 1, k, l) of the weights, from x and the output's gradient (N, C, H, W)."""
    (up, far), width = _reach(weight), weight.shape[-1]
    added = 0
    if x.shape[-2] < weight.shape[-2]:  # the library is slow where it has to add the rows
        up, added = 0, up
    count = math.ceil(width / WIDEST_FAST)
    edges = [round(part * width / count) for part in range(count + 1)]
    parts = []
    for first, end in pairwise(edges):
        # Columns of padding; below 0 those of x that these of the kernel do not meet.
        left, right, beside, seen = far - first, end - 1 - far, 0, x
        if left == right:  # in the middle: the library adds them, without a copy
            left, right, beside = 0, 0, left
        if left or right or added:
            seen = F.pad(x, (left, right, added, added))
        settings = [1, 1], [up, beside], [1, 1], False, [0, 0], len(weight)  # stride, padding, …
        wanted = [False, True, False]  # of the input, the weight, the bias
        backward = torch.ops.aten.convolution_backward
        parts.append(backward(grad, seen, weight[..., first:end], None, *settings, wanted)[1])
    return torch.cat(parts, dim=-1)
