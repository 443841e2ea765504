"""The gate as one kernel on a GPU: biases, activation and product in one pass over the features.

    fused_gate("relu6", h)                            relu6(h)·h
    fused_gate("relu6", h, bias=b)                    relu6(h + b)·(h + b)
    fused_gate("relu6", h, v)                         relu6(h)·v
    fused_gate("relu6", h, v, bias=b, value_bias=c)   relu6(h + b)·(v + c)

In eager PyTorch s(h + b)·(h + b) reads and writes the features seven times forward (bias,
activation and product are a kernel each) and ten times backward, and keeps h + b and s. Here it is
one read of each input and one write of each output, in both directions; h alone is kept, and s is
computed again. Sums are made in a fixed order: the same inputs give the same bits.

In channels_last the numbers of all channels of a pixel lie side by side, then those of the next
pixel. Kernels read them as lines of so many whole pixels that LINE divides their length, whatever
the number of channels, and cut lines into tiles of ROWS x LINE numbers: no tile is padded for a
number of channels that is no power of two, and a column of a tile is always the same channel.
"""

from math import lcm
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from gmsearch.kernels import refuse_second_derivatives

ROWS, LINE = 16, 128  # of a tile; with 128 threads each has two vectors of eight numbers
PROGRAMS = 1024  # of the backward pass that fill any GPU; beyond, a program takes several tiles
MOST_TILES = 16


def fused_gate(
    activation: str,
    h: Tensor,
    value: Tensor | None = None,
    *,
    bias: Tensor | None = None,
    value_bias: Tensor | None = None,
) -> Tensor:
    """s(h + bias)·(value + value_bias), where the second factor is h + bias if `value` is left out.

    h and value are (N, C, H, W), as `gates.can_fuse` asks for, biases (C,). Computed in float32 and
    rounded once, to the type of h. `activation` is a name of `architecture.ACTIVATIONS`.
    """
    return _FusedGate.apply(activation, h, bias, value, value_bias)


class _FusedGate(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        activation: str,
        h: Tensor,
        bias: Tensor | None,
        value: Tensor | None,
        value_bias: Tensor | None,
    ) -> Tensor:
        ctx.save_for_backward(h, bias, value, value_bias)
        ctx.activation = activation
        out = torch.empty_like(h, memory_format=torch.channels_last)
        across, tiles = _tiles(h)
        with torch.cuda.device_of(h):
            _forward[(tiles,)](
                *(h, bias, value, value_bias, out),
                *(h.numel(), h.shape[1], across),
                **dict(ACTIVATION=activation, ROWS=ROWS, LINE=LINE),
            )
        return out

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        refuse_second_derivatives()
        h, bias, value, value_bias = ctx.saved_tensors
        grad = grad.contiguous(memory_format=torch.channels_last)
        across, tiles = _tiles(h)
        has_bias = bias is not None or value_bias is not None
        each = min(max(tiles // PROGRAMS, 1), MOST_TILES) if has_bias else 1
        parts = triton.cdiv(tiles, each * across)
        grad_h, grad_value = (
            None if x is None else torch.empty_like(x, memory_format=torch.channels_last)
            for x in (h, value)
        )
        grad_bias, grad_value_bias = (
            None if x is None else h.new_empty((parts, across * LINE), dtype=torch.float32)
            for x in (bias, value_bias)
        )
        with torch.cuda.device_of(h):
            _backward[(parts * across,)](
                *(h, bias, value, value_bias, grad),
                *(grad_h, grad_bias, grad_value, grad_value_bias),
                *(h.numel(), h.shape[1], across, each),
                **dict(ACTIVATION=ctx.activation, ROWS=ROWS, LINE=LINE),
            )
        of_bias, of_value_bias = (
            None if x is None else x.view(-1, h.shape[1]).sum(0)
            for x in (grad_bias, grad_value_bias)
        )
        return None, grad_h, of_bias, grad_value, of_value_bias


def _tiles(h: Tensor) -> tuple[int, int]:
    """How many tiles lie side by side in a line, and how many cover the features."""
    across = lcm(h.shape[1], LINE) // LINE
    return across, triton.cdiv(h.numel(), across * LINE * ROWS) * across


@triton.jit
def _activate(h, ACTIVATION: tl.constexpr):
    """s(h) and its slope, at a kink that of PyTorch."""
    one, zero = tl.full(h.shape, 1.0, tl.float32), tl.full(h.shape, 0.0, tl.float32)
    if ACTIVATION == "relu6":
        s, slope = _clamp(h, 6.0), tl.where((h > 0) & (h < 6), one, zero)
    elif ACTIVATION == "relu":
        s = tl.maximum(h, 0.0, propagate_nan=tl.PropagateNan.ALL)
        slope = tl.where(h > 0, one, zero)
    elif ACTIVATION == "gelu":
        below = 0.5 + 0.5 * tl.erf(h * 0.7071067811865476)
        s, slope = h * below, below + h * 0.3989422804014327 * tl.exp(-0.5 * h * h)
    elif ACTIVATION == "silu":
        sigmoid = tl.sigmoid(h)
        s, slope = h * sigmoid, sigmoid * (1 + h * (1 - sigmoid))
    elif ACTIVATION == "hardswish":
        s = h * _clamp(h + 3, 6.0) * (1 / 6)
        slope = tl.where(h <= -3, zero, tl.where(h < 3, h * (1 / 3) + 0.5, one))
    elif ACTIVATION == "sigmoid":
        s = tl.sigmoid(h)
        slope = s * (1 - s)
    elif ACTIVATION == "hardsigmoid":
        s = _clamp(h + 3, 6.0) * (1 / 6)
        slope = tl.where((h > -3) & (h < 3), one * (1 / 6), zero)
    elif ACTIVATION == "tanh":
        s = 2 * tl.sigmoid(2 * h) - 1
        slope = 1 - s * s
    else:
        tl.static_assert(ACTIVATION == "identity")
        s, slope = h, one
    return s, slope


@triton.jit
def _clamp(h, top: tl.constexpr):
    """h from 0 to `top`; what is not a number stays so, as in PyTorch."""
    above = tl.maximum(h, 0.0, propagate_nan=tl.PropagateNan.ALL)
    return tl.minimum(above, top, propagate_nan=tl.PropagateNan.ALL)


@triton.jit
def _read(x_at, at, inside, bias_at, channel):
    """The numbers of a tile in float32, with the biases of their channels."""
    x = tl.load(x_at + at, mask=inside, other=0.0).to(tl.float32)
    if bias_at is not None:
        x += tl.load(bias_at + channel).to(tl.float32)[None, :]
    return x


@triton.jit(do_not_specialize=["channels", "across"])
def _forward(
    h_at,
    bias_at,
    value_at,
    value_bias_at,
    out_at,
    count,
    channels,
    across,
    ACTIVATION: tl.constexpr,
    ROWS: tl.constexpr,
    LINE: tl.constexpr,
):
    column = tl.program_id(0) % across * LINE + tl.arange(0, LINE)
    line = (tl.program_id(0) // across).to(tl.int64) * ROWS + tl.arange(0, ROWS)
    at = line[:, None] * (across * LINE) + column[None, :]
    inside, channel = at < count, column % channels
    h = _read(h_at, at, inside, bias_at, channel)
    value = h
    if value_at is not None:
        value = _read(value_at, at, inside, value_bias_at, channel)
    s, _ = _activate(h, ACTIVATION)
    tl.store(out_at + at, (s * value).to(out_at.dtype.element_ty), mask=inside)


@triton.jit(do_not_specialize=["channels", "across", "tiles"])
def _backward(
    h_at,
    bias_at,
    value_at,
    value_bias_at,
    grad_at,
    grad_h_at,
    grad_bias_at,
    grad_value_at,
    grad_value_bias_at,
    count,
    channels,
    across,
    tiles,
    ACTIVATION: tl.constexpr,
    ROWS: tl.constexpr,
    LINE: tl.constexpr,
):
    """Gradients of the features, and the part of this program in those of the biases, by column."""
    part = (tl.program_id(0) // across).to(tl.int64)
    column = tl.program_id(0) % across * LINE + tl.arange(0, LINE)
    channel = column % channels
    of_bias, of_value_bias = tl.zeros((ROWS, LINE), tl.float32), tl.zeros((ROWS, LINE), tl.float32)
    for tile in range(tiles):
        line = (part * tiles + tile) * ROWS + tl.arange(0, ROWS)
        at = line[:, None] * (across * LINE) + column[None, :]
        inside = at < count
        grad = tl.load(grad_at + at, mask=inside, other=0.0).to(tl.float32)
        h = _read(h_at, at, inside, bias_at, channel)
        s, slope = _activate(h, ACTIVATION)
        grad_h = grad * (s + slope * h)
        if value_at is not None:
            grad_h = grad * slope * _read(value_at, at, inside, value_bias_at, channel)
            grad_value = grad * s
            tl.store(grad_value_at + at, grad_value.to(grad_value_at.dtype.element_ty), mask=inside)
            if value_bias_at is not None:
                of_value_bias += grad_value
        tl.store(grad_h_at + at, grad_h.to(grad_h_at.dtype.element_ty), mask=inside)
        if bias_at is not None:
            of_bias += grad_h
    if bias_at is not None:
        tl.store(grad_bias_at + part * (across * LINE) + column, tl.sum(of_bias, axis=0))
    if value_bias_at is not None:
        at = part * (across * LINE) + column
        tl.store(grad_value_bias_at + at, tl.sum(of_value_bias, axis=0))
