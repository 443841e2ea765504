"""The depthwise convolution as Triton kernels for a GPU, near what its memory allows.

    depthwise(x, weight, bias)    F.conv2d(x, weight, bias, padding="same", groups=C)

Images are (N, C, H, W) in channels_last: the channels of a pixel lie side by side. What decides is
how often a pixel is loaded and widened to float32, and how often a weight is, for each product:

- The convolution: a lane has a vector of channels in one column of the image, and in it a block of
  rows. For each column of the kernel it keeps the weights in registers, and each pixel that it
  loads goes to all rows of the block that see it. Lanes run through channels, columns, row blocks
  and images without a gap, so that widths that are no power of two and maps of a few pixels leave
  none idle. The data gradient is the same with the kernel turned round.
- The weight gradient: a program has a block of channels and one part of all columns; its warps
  share the columns of the kernel among them, and find in the L1 cache what the others loaded. Each
  lane sums a column of the kernel in registers. Parts are added up by PyTorch, always in the same
  order; the spare slot beside the columns of the kernel sums the gradient of the bias.

All sums are float32. A kernel that reaches over the whole image is cut to what it can touch. Where
Triton interprets its kernels (TRITON_INTERPRET=1), tensors of a CPU are taken too.
"""

import os
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor
from torch.autograd.function import once_differentiable

from gmsearch import speedups

KERNELS = (3, 5, 7, 9)
MOST_ELEMENTS = 2**31  # offsets are int32
PROGRAMS = 264  # that keep a large GPU busy: two on each of 132 multiprocessors


def can_run(x: Tensor, weight: Tensor) -> bool:
    """Whether `depthwise` takes images x (N, C, H, W) and weights (C, 1, k, k)."""
    on_device = x.is_cuda and x.get_device() == torch.cuda.current_device()
    return (
        (on_device or os.environ.get("TRITON_INTERPRET") == "1")
        and not (torch.compiler.is_compiling() or torch.jit.is_tracing())
        and x.ndim == 4
        and 0 < x.numel() < MOST_ELEMENTS
        and x.dtype in (torch.bfloat16, torch.float16, torch.float32)
        and x.is_contiguous(memory_format=torch.channels_last)
        and weight.shape[1:] in {(1, kernel, kernel) for kernel in KERNELS}
        and weight.shape[0] == x.shape[1]
        and speedups.is_on("depthwise")
    )


def depthwise(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """The convolution of images (N, C, H, W) with weights (C, 1, k, k) that keeps their size.

    Under autocast the output has its precision, else that of x; x and weights are read as they
    are, so that images in float32 are not rounded before.
    """
    dtype = x.dtype
    if torch.is_autocast_enabled(x.device.type):
        dtype = torch.get_autocast_dtype(x.device.type)
    cut = max(0, weight.shape[-1] // 2 + 1 - max(x.shape[-2:]))
    if cut:  # of weights that meet nothing but padding
        weight = weight[:, :, cut:-cut, cut:-cut]
    taps = weight.flatten(1).t().float().contiguous()  # k*k, C
    return _Depthwise.apply(x, taps, bias, dtype)


class _Depthwise(torch.autograd.Function):
    @staticmethod
    def forward(x: Tensor, taps: Tensor, bias: Tensor | None, dtype: torch.dtype) -> Tensor:
        return convolve(x, taps, bias, dtype)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
        x, taps, bias, _ = inputs
        ctx.save_for_backward(x, taps)
        ctx.bias_dtype = None if bias is None else bias.dtype

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, taps = ctx.saved_tensors
        grad = grad.contiguous(memory_format=torch.channels_last)
        grad_x = grad_taps = grad_bias = None
        if ctx.needs_input_grad[0]:
            grad_x = convolve(grad, taps, None, x.dtype, turned=True)
        if ctx.needs_input_grad[1]:
            grad_taps, grad_bias = weigh(x, grad, round(len(taps) ** 0.5))
        elif ctx.needs_input_grad[2]:
            grad_bias = grad.sum((0, 2, 3), dtype=torch.float32)
        if not ctx.needs_input_grad[2]:
            return grad_x, grad_taps, None, None
        assert grad_bias is not None
        return grad_x, grad_taps, grad_bias.to(ctx.bias_dtype), None


def convolve(
    x: Tensor,
    taps: Tensor,
    bias: Tensor | None,
    dtype: torch.dtype,
    turned: bool = False,
    **tiling: int,
) -> Tensor:
    """The convolution, by taps (k*k, C) in float32; with the kernel turned round if asked for.

    `tiling` overrides what `tiling_of_convolution` chooses.
    """
    images, channels, height, width = x.shape
    out = torch.empty_like(x, dtype=dtype, memory_format=torch.channels_last)
    kernel = round(len(taps) ** 0.5)
    tiling = {**tiling_of_convolution(x), **tiling}
    rows, vector = tiling["ROWS"], tiling["VECTOR"]
    lanes = images * triton.cdiv(height, rows) * width * (channels // vector)
    _convolve[(triton.cdiv(lanes, tiling["LANES"]),)](
        *(x, taps, taps if bias is None else bias, out),
        *(int(turned), lanes, channels // vector, height, width),
        KERNEL=kernel,
        HAS_BIAS=bias is not None,
        ONE_BLOCK=rows == height,
        **tiling,
    )
    return out


def weigh(x: Tensor, grad: Tensor, kernel: int, **tiling: int) -> tuple[Tensor, Tensor]:
    """The gradients of the taps (k*k, C) and of the bias (C), in float32.

    `tiling` overrides what `tiling_of_weights` chooses.
    """
    images, channels, height, width = x.shape
    tiling = {**tiling_of_weights(x, kernel), **tiling}
    programs = tiling.pop("programs")
    columns = images * triton.cdiv(height, tiling["ROWS"]) * width
    tiles, blocks = (
        triton.cdiv(columns, tiling["PIXELS"]),
        triton.cdiv(channels, tiling["CHANNELS"]),
    )
    steps = triton.cdiv(tiles, max(1, programs // blocks))
    parts = triton.cdiv(tiles, steps)
    sums = torch.empty((parts, kernel**2 + 1, channels), dtype=torch.float32, device=x.device)
    _weigh[parts, blocks](
        *(x, grad, sums, columns, steps, channels // tiling["VECTOR"], height, width),
        KERNEL=kernel,
        SLOTS=triton.next_power_of_2(kernel + 1),
        ONE_BLOCK=tiling["ROWS"] == height,
        **tiling,
    )
    total = sums[0] if parts == 1 else sums.sum(0)
    return total[:-1], total[-1]


def tiling_of_convolution(x: Tensor) -> dict[str, int]:
    """Rows of a block, channels of a vector, lanes of a program and the warps that they fill."""
    images, channels, height, width = x.shape
    vector = _vector(x)
    rows = 8
    while rows > 1 and images * -(-height // rows) * width * channels // vector < 128 * PROGRAMS:
        rows //= 2
    return {"ROWS": _even(height, rows), "VECTOR": vector, "LANES": 128, "num_warps": 4}


def tiling_of_weights(x: Tensor, kernel: int) -> dict[str, int]:
    """Rows of a block, and the pixels by channels of a tile that fill eight warps together."""
    vector = _vector(x)
    slots = triton.next_power_of_2(kernel + 1)
    lanes = max(256 // slots, 16)  # of a column of the kernel
    channels = max(vector, _best_block(x.shape[1], vector * lanes))
    return {
        "ROWS": _even(x.shape[2], 8 if kernel < 9 else 4),
        "VECTOR": vector,
        "PIXELS": max(1, lanes * vector // channels),
        "CHANNELS": channels,
        "programs": 2 * PROGRAMS,
        "num_warps": 8,
    }


def _vector(x: Tensor) -> int:
    """Channels of one load: 16 bytes where their number can be divided by it."""
    most = 16 // x.element_size()
    return min(most, x.shape[1] & -x.shape[1])


def _even(height: int, most: int) -> int:
    """Rows of a block when blocks of at most so many share the height evenly."""
    return triton.cdiv(height, triton.cdiv(height, most))


def _best_block(channels: int, most: int) -> int:
    """The power of two that leaves least of its blocks empty; the largest of those, up to 64."""
    sizes = [size for size in (64, 32, 16, 8, 4, 2, 1) if size <= most]
    return min(sizes, key=lambda size: (triton.cdiv(channels, size) * size, -size))


# Numbers are not specialised: a search has many widths and sizes, and each variant takes seconds to
# compile.
@triton.jit(do_not_specialize=["turned", "lanes", "groups", "height", "width"])
def _convolve(
    x_at,
    taps_at,
    bias_at,
    out_at,
    turned,  # 1 or 0
    lanes,  # all of them
    groups,  # vectors of channels
    height,
    width,
    KERNEL: tl.constexpr,
    HAS_BIAS: tl.constexpr,
    ONE_BLOCK: tl.constexpr,
    ROWS: tl.constexpr,
    VECTOR: tl.constexpr,
    LANES: tl.constexpr,
):
    HALF: tl.constexpr = KERNEL // 2
    lane = tl.program_id(0) * LANES + tl.arange(0, LANES)
    column, group = lane // groups, lane % groups
    block, left = column // width, column % width
    blocks = (height + ROWS - 1) // ROWS
    image, top = block // blocks, block % blocks * ROWS
    channels = groups * VECTOR  # tells the compiler what divides it
    channel = (group * VECTOR)[:, None] + tl.arange(0, VECTOR)[None, :]
    at = (((image * height + top) * width + left) * channels)[:, None] + channel
    down = width * channels
    totals = ()
    for _ in tl.static_range(ROWS):
        totals += (tl.zeros((LANES, VECTOR), tl.float32),)
    for dx in range(KERNEL):
        right = dx - HALF
        seen = (lane < lanes) & (left + right >= 0) & (left + right < width)
        weights = ()
        for dy in tl.static_range(KERNEL):
            tap = dy * KERNEL + dx
            tap += turned * (KERNEL * KERNEL - 1 - 2 * tap)
            weights += (tl.load(taps_at + tap * channels + channel),)
        for y in tl.static_range(-HALF, ROWS + HALF):
            if not ONE_BLOCK or (y >= 0 and y < ROWS):
                mask = seen if ONE_BLOCK else seen & (top + y >= 0) & (top + y < height)
                here = x_at + at + (y * down + right * channels)
                x = tl.load(here, mask=mask[:, None], other=0.0).to(tl.float32)
                sums = ()
                for row in tl.static_range(ROWS):
                    if y - row >= -HALF and y - row <= HALF:
                        sums += (totals[row] + x * weights[y - row + HALF],)
                    else:
                        sums += (totals[row],)
                totals = sums
    for row in tl.static_range(ROWS):
        out = totals[row]
        if HAS_BIAS:
            out += tl.load(bias_at + channel).to(tl.float32)
        mask = (lane < lanes) & (top + row < height)
        tl.store(out_at + at + row * down, out.to(out_at.dtype.element_ty), mask=mask[:, None])


@triton.jit(do_not_specialize=["columns", "steps", "groups", "height", "width"])
def _weigh(
    x_at,
    grad_at,
    sums_at,
    columns,  # of all row blocks of all images
    steps,
    groups,
    height,
    width,
    KERNEL: tl.constexpr,
    SLOTS: tl.constexpr,
    ONE_BLOCK: tl.constexpr,
    ROWS: tl.constexpr,
    VECTOR: tl.constexpr,
    PIXELS: tl.constexpr,
    CHANNELS: tl.constexpr,
):
    """Tiles are slots (columns of the kernel, then one for the bias) by pixels by channels."""
    HALF: tl.constexpr = KERNEL // 2
    part = tl.program_id(0)
    channels = groups * VECTOR
    channel = tl.program_id(1) * CHANNELS + tl.arange(0, CHANNELS)
    known = (channel < channels)[None, None, :]
    slot = tl.arange(0, SLOTS)
    right = (slot - HALF)[:, None, None]
    of_bias = tl.where(slot == KERNEL, 1.0, 0.0)[:, None, None]
    shift = right * channels + channel[None, None, :]
    still = tl.zeros((SLOTS, 1, 1), tl.int32) + channel[None, None, :]
    down = width * channels
    blocks = (height + ROWS - 1) // ROWS
    totals = ()
    for _ in tl.static_range(KERNEL):
        totals += (tl.zeros((SLOTS, PIXELS, CHANNELS), tl.float32),)
    for step in range(steps):
        column = (part * steps + step) * PIXELS + tl.arange(0, PIXELS)[None, :, None]
        block, left = column // width, column % width
        image, top = block // blocks, block % blocks * ROWS
        at = ((image * height + top) * width + left) * channels
        inside = known & (column < columns)
        seen = inside & (left + right >= 0) & (left + right < width)
        seen = seen & (right <= HALF)
        grads = ()
        for row in tl.static_range(ROWS):
            mask = (inside if ONE_BLOCK else inside & (top + row < height)) & (right <= HALF + 1)
            grad = tl.load(grad_at + (at + row * down) + still, mask=mask, other=0.0)
            grads += (grad.to(tl.float32),)
        for y in tl.static_range(-HALF, ROWS + HALF):
            if not ONE_BLOCK or (y >= 0 and y < ROWS):
                mask = seen if ONE_BLOCK else seen & (top + y >= 0) & (top + y < height)
                x = tl.load(x_at + (at + y * down) + shift, mask=mask, other=of_bias)
                x = x.to(tl.float32)
                sums = ()
                for dy in tl.static_range(KERNEL):
                    if y - dy + HALF >= 0 and y - dy + HALF < ROWS:
                        sums += (totals[dy] + x * grads[y - dy + HALF],)
                    else:
                        sums += (totals[dy],)
                totals = sums
    for dy in tl.static_range(KERNEL):
        total = tl.sum(totals[dy], axis=1)  # slots, channels
        tap = part * (KERNEL * KERNEL + 1) + dy * KERNEL + slot
        if dy == HALF:
            last = part * (KERNEL * KERNEL + 1) + KERNEL * KERNEL
            tap = tl.where(slot == KERNEL, last, tap)
            wanted = slot <= KERNEL
        else:
            wanted = slot < KERNEL
        mask = wanted[:, None] & (channel < channels)[None, :]
        tl.store(sums_at + tap[:, None] * channels + channel[None, :], total, mask=mask)
