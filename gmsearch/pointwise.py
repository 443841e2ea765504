"""A 1x1 convolution with a stride that trains on a CPU.

In channels_last, the CPU library of PyTorch 2.14 crashes, or corrupts memory, in the weight
gradient of a strided 1x1 convolution of fewer than eight channels, such as the shortcuts of
MobileOne and FastViT from the image itself. A 1x1 convolution with a stride is one without a stride
on every other pixel: the same numbers by another path.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

NARROW = 8  # channels, from which on the library's path is sound


class StridedPointwise(nn.Conv2d):
    """`nn.Conv2d(in_width, width, 1, stride)` without padding or groups."""

    def forward(self, x: Tensor) -> Tensor:
        if not torch.jit.is_scripting() and self.training:
            rows, columns = self.stride
            return F.conv2d(x[:, :, ::rows, ::columns], self.weight, self.bias)
        return self._conv_forward(x, self.weight, self.bias)


def stand_in(module: nn.Module) -> StridedPointwise | None:
    """A convolution of the same numbers for one that would crash; None for any other module.

    Parameters are to be moved over by who replaces it.
    """
    if type(module) is not nn.Conv2d or module.in_channels >= NARROW:
        return None
    plain = module.kernel_size == (1, 1) and module.padding == (0, 0) and module.groups == 1
    if not plain or module.stride == (1, 1):
        return None
    stride = module.stride[0], module.stride[1]
    widths = module.in_channels, module.out_channels
    return StridedPointwise(*widths, kernel_size=1, stride=stride, bias=False, device="meta")
