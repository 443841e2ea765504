"""The depthwise convolution as Triton kernels for a GPU, near what its memory allows.

    depthwise(x, weight, bias)    F.conv2d(x, weight, bias, padding="same", groups=C)

Images are (N, C, H, W) in channels_last: the channels of a pixel lie side by side. What decides is
how often a pixel is loaded and widened to float32, and how often a weight is. A lane has a vector
of channels in one column of the image, and in it a block of rows. For each column of the kernel it
keeps the weights in registers, and each pixel that it loads goes to all rows of the block that see
it. Lanes run through channels, columns, row blocks and images without a gap, so that widths that
are no power of two and maps of a few pixels leave none idle. The data gradient is the same with the
kernel turned round. The weight gradient is the library's: a kernel of our own for it was slower at
16 of 18 shapes (docs/log.md).

Sums are float32. A kernel that reaches over the whole image is cut to what it can touch. Where
Triton interprets its kernels (TRITON_INTERPRET=1), tensors of a CPU are taken too.
"""

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from gmsearch.kernels import refuse_second_derivatives

PROGRAMS = 264  # that keep a large GPU busy: two on each of 132 multiprocessors


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
    return _FusedDepthwise.apply(x, weight, bias, dtype)


class _FusedDepthwise(torch.autograd.Function):
    @staticmethod
    def forward(x: Tensor, weight: Tensor, bias: Tensor | None, dtype: torch.dtype) -> Tensor:
        return convolve(x, taps_of(weight), bias, dtype)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
        x, weight, bias, _ = inputs
        ctx.save_for_backward(x, weight)
        ctx.bias_dtype = None if bias is None else bias.dtype

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        refuse_second_derivatives()
        x, weight = ctx.saved_tensors
        grad = grad.contiguous(memory_format=torch.channels_last)
        of_x, of_weight, of_bias, _ = ctx.needs_input_grad
        grad_x = grad_weight = grad_bias = None
        if of_x:
            grad_x = convolve(grad, taps_of(weight), None, x.dtype, turned=True)
        if of_weight:
            padding, width = weight.shape[-1] // 2, len(weight)
            settings = [1, 1], [padding, padding], [1, 1], False, [0, 0], width
            found = torch.ops.aten.convolution_backward(
                *(grad, x.to(grad.dtype), weight.to(grad.dtype), None),
                *(*settings, [False, True, False]),
            )
            grad_weight = found[1].to(weight.dtype)
        if of_bias:
            grad_bias = grad.sum((0, 2, 3), dtype=torch.float32).to(ctx.bias_dtype)
        return grad_x, grad_weight, grad_bias, None


def taps_of(weight: Tensor) -> Tensor:
    """Weights (C, 1, k, k) as float32 (k*k, C), those of a tap side by side."""
    return weight.flatten(1).t().float().contiguous()


def convolve(
    x: Tensor,
    taps: Tensor,
    bias: Tensor | None,
    dtype: torch.dtype,
    turned: bool = False,
    **tiling: int,
) -> Tensor:
    """The convolution, by taps (k*k, C) in float32; with the kernel turned round if asked for.

    `tiling` overrides what `tiling_of` chooses.
    """
    images, channels, height, width = x.shape
    out = torch.empty_like(x, dtype=dtype, memory_format=torch.channels_last)
    kernel = round(len(taps) ** 0.5)
    tiling = {**tiling_of(x, kernel), **tiling}
    rows, vector = tiling["ROWS"], tiling["VECTOR"]
    lanes = images * triton.cdiv(height, rows) * width * (channels // vector)
    with torch.cuda.device_of(x):
        _convolve[(triton.cdiv(lanes, tiling["LANES"]),)](
            *(x, taps, taps if bias is None else bias, out),
            *(int(turned), lanes, channels // vector, height, width),
            KERNEL=kernel,
            HAS_BIAS=bias is not None,
            ONE_BLOCK=rows == height,
            **tiling,
        )
    return out


def tiling_of(x: Tensor, kernel: int) -> dict[str, int]:
    """Rows of a block, channels of a vector, lanes of a program and the warps that they fill.

    By the table of benchmarks/speed/gpu_depthwise.py: vectors of eight numbers pay for wide
    kernels on large maps alone, and blocks of fewer rows where lanes would be too few.
    """
    images, channels, height, width = x.shape

    def lanes(rows: int, vector: int) -> int:
        return images * -(-height // rows) * width * channels // vector

    most = _vector(x)
    vector = most if kernel == 7 and lanes(8, most) >= 2 * 128 * PROGRAMS else min(most, 4)
    rows = 8
    while rows > 1 and lanes(rows, vector) < 128 * PROGRAMS:
        rows //= 2
    return {"ROWS": even(height, rows), "VECTOR": vector, "LANES": 128, "num_warps": 4}


def _vector(x: Tensor) -> int:
    """Channels of one load: 16 bytes where their number can be divided by it."""
    most = 16 // x.element_size()
    return min(most, x.shape[1] & -x.shape[1])


def even(height: int, most: int) -> int:
    """Rows of a block when blocks of at most so many share the height evenly."""
    return triton.cdiv(height, triton.cdiv(height, most))


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
