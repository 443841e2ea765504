"""The deployed form of a network: the same function in eval mode, with fewer operators.

    DW, BN                      ─▶ DW with the norm in its weights, as any convolution
    f1(dwconv x)                ─▶ the bias of dwconv in that of f1, where no gate lies between
    separable down-sampler      ─▶ the same with its two convolutions
    s(f1 x)·W f1 x              ─▶ s(f1 x)·f2 x, f2 = W f1 (`fc` at `expand`)
    g identity(f1 x)            ─▶ one 1x1
    gamma·dwconv2 h             ─▶ the layer scale in the weights of dwconv2
    gamma·s(h)·Q h at `output`  ─▶ the layer scale in the weights of Q, where Q has some
    norm, average pool, head    ─▶ average pool, head

All of it is exact algebra, done in float64. What is not exact at the border stays: g has a bias, of
which the zeros around the input of dwconv2 know nothing.
"""

import copy
from typing import Any

import torch
from torch import Tensor, nn

from gmsearch.block import Block
from gmsearch.gates import Gate
from gmsearch.model import GatedNet


def fold(model: GatedNet) -> "FoldedNet":
    """The deployed form of a network, in eval mode and in its precision; the network stays as it
    is.
    """
    dtype = next(model.parameters()).dtype
    with torch.no_grad():
        return FoldedNet(copy.deepcopy(model).double()).to(dtype).eval()


class FoldedNet(nn.Module):
    """(N, in_chans, H, W) to (N, num_classes); takes over the layers of a network."""

    def __init__(self, model: GatedNet) -> None:
        super().__init__()
        stem, activation = model.stem
        self.stem = nn.Sequential(_with_norm(stem), activation)
        self.stages = nn.Sequential(*map(_folded_stage, model.stages))
        self.norm, self.global_pool, self.head = model.norm, model.global_pool, model.head
        if (
            isinstance(self.norm, nn.BatchNorm2d)
            and isinstance(self.head, nn.Linear)
            and model.global_pool.pool_type == "avg"
        ):
            scale, shift = _scale_and_shift(self.norm)
            weight, bias = self.head.weight, self.head.bias
            _set(self.head, weight * scale, bias + weight @ shift)
            self.norm = nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        x = self.norm(self.stages(self.stem(x)))  # N, num_features, H/32, W/32
        return self.head(self.global_pool(x))


class FoldedBlock(nn.Module):
    """A block without norms, and with a layer scale only where nothing can take it."""

    def __init__(self, block: Block) -> None:
        super().__init__()
        self.dwconv = _with_norm(block.dwconv)
        self.spatial = block.spatial
        self.f1 = _with_norm(block.f1)
        self.f2 = None if block.f2 is None else _with_norm(block.f2)
        self.expand = block.expand
        self.g: nn.Module = _with_norm(block.g)
        self.dwconv2 = _with_norm(block.dwconv2)
        self.output = block.output
        self._fold_expansion()
        if isinstance(self.spatial, nn.Identity):
            _hand_bias_on(self.dwconv, *(conv for conv in (self.f1, self.f2) if conv is not None))
        scale = self._take_scale(block.gamma.detach())
        self.scale = None if scale is None else nn.Parameter(scale.view(-1, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        h = self.spatial(self.dwconv(x))
        if self.f2 is None:
            h = self.expand(self.f1(h))
        else:
            h = self.expand(self.f1(h), self.f2(h))
        h = self.output(self.dwconv2(self.g(h)))
        return x + (h if self.scale is None else self.scale * h)

    def _fold_expansion(self) -> None:
        """Joins 1x1 convolutions that have nothing between them."""
        gate = self.expand
        if isinstance(gate, Gate) and _is_pointwise(gate.value):
            self.f2 = _after(self.f1 if self.f2 is None else self.f2, gate.value)
            gate.value = nn.Identity()
        elif isinstance(gate, nn.Identity):
            self.f1, self.g = _after(self.f1, self.g), nn.Identity()

    def _take_scale(self, scale: Tensor) -> Tensor | None:
        """Folds the layer scale away; returns it where it stays."""
        if isinstance(self.output, nn.Identity):
            last: Any = self.dwconv2
        else:
            last = self.output.value
        if isinstance(last, nn.Identity):
            return scale
        _set(last, last.weight * scale.view(-1, *[1] * (last.weight.ndim - 1)), last.bias * scale)
        return None


def _folded_stage(stage: Any) -> nn.Sequential:
    first, *blocks = stage  # a down-sampler, and blocks
    convolutions = [_with_norm(part) for part in first]
    for one, then in zip(convolutions, convolutions[1:], strict=False):
        _hand_bias_on(one, then)
    return nn.Sequential(nn.Sequential(*convolutions), *map(FoldedBlock, blocks))


def _with_norm(part: Any) -> nn.Conv2d:
    """A convolution that has taken in the norm after it, if there is one."""
    conv: Any = part.conv
    if hasattr(part, "bn"):
        scale, shift = _scale_and_shift(part.bn)
        _set(conv, conv.weight * scale.view(-1, 1, 1, 1), conv.bias * scale + shift)
    return conv


def _scale_and_shift(norm: Any) -> tuple[Tensor, Tensor]:
    """What a norm multiplies by and then adds, for each channel."""
    scale = norm.weight / (norm.running_var + norm.eps).sqrt()
    return scale, norm.bias - norm.running_mean * scale


def _is_pointwise(module: nn.Module) -> bool:
    return isinstance(module, nn.Conv2d) and module.kernel_size == (1, 1) and module.groups == 1


def _after(first: Any, second: Any) -> nn.Conv2d:
    """One 1x1 convolution for two."""
    joint = nn.Conv2d(first.in_channels, second.out_channels, 1)
    outer, inner = second.weight.flatten(1), first.weight.flatten(1)
    _set(joint, (outer @ inner)[:, :, None, None], second.bias + outer @ first.bias)
    return joint


def _hand_bias_on(conv: Any, *pointwise: Any) -> None:
    """Moves the bias of a convolution into those of the 1x1 convolutions that follow it."""
    for then in pointwise:
        _set(then, then.weight, then.bias + then.weight.flatten(1) @ conv.bias)
    conv.bias = None


def _set(module: Any, weight: Tensor, bias: Tensor) -> None:
    module.weight, module.bias = nn.Parameter(weight.detach()), nn.Parameter(bias.detach())
