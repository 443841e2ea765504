"""Our depthwise kernels on a GPU beside cuDNN's and what the memory allows.

    python benchmarks/speed/gpu_depthwise.py [--images N] [--kernels K ...] [--json FILE]

For each kernel width and shape (channels, pixels of a side), in bf16 and channels_last: medians of
the forward pass and the data gradient in microseconds, for cuDNN, for ours as
`gmsearch/fused_depthwise.py` tiles it, and for the best of some other tilings, with its name. The
floor is two such images read or written at --bandwidth, the copy a measured one; errors are
relative to float64 (of the largest value). The kernels are compiled by several processes first.
"""

import argparse
import os
import sys
import time
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from itertools import product
from multiprocessing import get_context
from typing import Any

import torch
from flags import writable, write_json
from torch import Tensor
from torch.nn import functional as F

SHAPES = [(24, 32), (40, 32), (80, 16), (160, 8), (320, 4), (96, 56)]
MILLISECONDS = 3, 12  # of warm-up and of measurement, per kernel
FAILURES = (RuntimeError, torch.OutOfMemoryError)  # Triton's, where a tiling does not fit, too


def main() -> None:
    arguments = parse_arguments()
    if not torch.cuda.is_available():
        sys.exit("gpu_depthwise.py: no GPU here; it measures kernels on a CUDA device")
    began = time.perf_counter()
    shapes = [tuple(map(int, shape.split("x"))) for shape in arguments.shapes] or SHAPES
    cases = list(product(arguments.kernels, shapes))
    if arguments.processes > 1:
        with ProcessPoolExecutor(arguments.processes, get_context("spawn")) as pool:
            list(pool.map(compile_all, spread(cases, arguments.processes)))
    print(
        f"{torch.cuda.get_device_name()}, torch {torch.__version__}, N = {arguments.images}; ",
        end="",
    )
    print(f"compiled in {time.perf_counter() - began:.0f} s; microseconds:\n")
    names = f"{'floor':>7}{'copy':>7}{'cuDNN':>9}{'ours':>8}{'best':>8}{'error':>9}{'cuDNN':>9}"
    print(f"{'k':>2}{'C':>5}{'px':>4}  {'':8}{names}  tiling of the best")
    rows = []
    for kernel, (channels, side) in cases:
        rows += measure(kernel, channels, side, arguments.images, arguments.bandwidth * 1e12)
        write_json(arguments.json, rows)
    print(f"\nall in {time.perf_counter() - began:.0f} s")


def measure(
    kernel: int, channels: int, side: int, count: int, bandwidth: float
) -> list[dict[str, Any]]:
    """Prints and returns a line for each of the two products."""
    from triton.testing import do_bench

    x, grad = (drawn((count, channels, side, side), seed) for seed in (0, 1))
    taps = drawn((kernel**2, channels, 1, 1), 2)[..., 0, 0].float() / kernel
    weight = taps.t().reshape(channels, 1, kernel, kernel)
    timed = partial(do_bench, warmup=MILLISECONDS[0], rep=MILLISECONDS[1], return_mode="median")
    copy = 1e3 * timed(x.clone)
    rows = []
    for name, ours, cudnn in products(x, grad, taps, weight.bfloat16()):
        exact = in_float64(name, x, grad, weight)
        micros = {}
        for tiling in [{}, *tilings_of_convolution(x)]:
            try:
                micros[told(tiling)] = 1e3 * timed(partial(ours, **tiling))
            except FAILURES as error:
                print(f"   {name} {told(tiling)}: {str(error).splitlines()[0]}")
        best = min(micros, key=micros.__getitem__)
        row = {
            "kernel": kernel,
            "channels": channels,
            "side": side,
            "images": count,
            "product": name,
            "floor_us": 2 * x.nbytes / bandwidth * 1e6,
            "copy_us": copy,
            "cudnn_us": 1e3 * timed(cudnn),
            "ours_us": micros[""],
            "best": best,
            "tilings_us": micros,
            "error": error_of(ours(), exact),
            "cudnn_error": error_of(cudnn(), exact),
        }
        rows.append(row)
        print(
            f"{kernel:>2}{channels:>5}{side:>4}  {name:8}{row['floor_us']:>7.1f}{copy:>7.1f}"
            f"{row['cudnn_us']:>9.1f}{row['ours_us']:>8.1f}{micros[best]:>8.1f}"
            f"{row['error']:>9.1e}{row['cudnn_error']:>9.1e}  {best}",
            flush=True,
        )
    return rows


def products(x: Tensor, grad: Tensor, taps: Tensor, weight: Tensor) -> list[tuple[str, Any, Any]]:
    """Each product's name, ours (a tiling may be given) and cuDNN's."""
    from gmsearch.fused_depthwise import convolve

    kernel, channels = weight.shape[-1], len(weight)
    settings = [1, 1], [kernel // 2] * 2, [1, 1], False, [0, 0], channels

    def backward() -> Tensor:
        aten = torch.ops.aten.convolution_backward
        return aten(grad, x, weight, None, *settings, [True, False, False])[0]

    return [
        (
            "forward",
            partial(convolve, x, taps, None, x.dtype),
            partial(F.conv2d, x, weight, padding=kernel // 2, groups=channels),
        ),
        (
            "data",
            partial(convolve, grad, taps, None, x.dtype, turned=True),
            backward,
        ),
    ]


def in_float64(name: str, x: Tensor, grad: Tensor, weight: Tensor) -> Tensor:
    """The product by sums over shifted images, of the first eight."""
    kernel, (height, width) = weight.shape[-1], x.shape[-2:]
    source, flipped = (grad, weight.flip(2, 3)) if name == "data" else (x, weight)
    padded = F.pad(source[:8].double(), (kernel // 2,) * 4)
    out = torch.zeros_like(x[:8], dtype=torch.float64)
    for dy, dx in product(range(kernel), repeat=2):
        shifted = padded[..., dy : dy + height, dx : dx + width]
        out += shifted * flipped[:, :, dy, dx].double().reshape(1, -1, 1, 1)
    return out


def error_of(found: Tensor, exact: Tensor) -> float:
    if found.ndim == exact.ndim and found.shape[1:] == exact.shape[1:]:
        found = found[: len(exact)]
    return float((found.double() - exact).abs().max() / exact.abs().max())


def drawn(shape: tuple[int, ...], seed: int) -> Tensor:
    generator = torch.Generator("cuda").manual_seed(seed)
    x = torch.randn(shape, generator=generator, device="cuda", dtype=torch.bfloat16)
    return x.contiguous(memory_format=torch.channels_last)


def tilings_of_convolution(x: Tensor) -> list[dict[str, int]]:
    from gmsearch.fused_depthwise import even

    found = []
    for rows, vector, warps in [(8, 8, 4), (4, 8, 4), (8, 4, 4), (4, 4, 4)]:
        rows = even(x.shape[2], rows)
        tiling = {"ROWS": rows, "VECTOR": vector, "LANES": 32 * warps, "num_warps": warps}
        if tiling not in found:
            found.append(tiling)
    return found


def told(tiling: dict[str, int]) -> str:
    return " ".join(f"{name.lower()}={value}" for name, value in tiling.items())


def spread(cases: list[Any], processes: int) -> list[list[Any]]:
    """The tilings to compile, each once, in turn for each process."""
    found: dict[Any, Any] = {}
    for kernel, (channels, side) in cases:
        x = torch.empty((256, channels, side, side), dtype=torch.bfloat16, device="meta")
        from gmsearch.fused_depthwise import tiling_of

        for tiling in [tiling_of(x, kernel), *tilings_of_convolution(x)]:
            key = kernel, tiling["ROWS"] == side, tuple(tiling.items())
            found.setdefault(key, (kernel, channels, side, tiling))
    jobs = sorted(found.values(), key=lambda job: -job[0] * job[-1]["ROWS"])  # the longest first
    return [jobs[first::processes] for first in range(processes)]


def compile_all(jobs: list[Any]) -> None:
    """Runs each once on a single image, which leaves it in Triton's cache on the disk."""
    from gmsearch.fused_depthwise import convolve

    for kernel, channels, side, tiling in jobs:
        x = drawn((1, channels, side, side), 0)
        try:
            taps = torch.ones((kernel**2, channels), device="cuda")
            convolve(x, taps, None, x.dtype, **tiling)
        except FAILURES as error:
            print(f"{kernel} {told(tiling)}: {error}", file=sys.stderr)
    torch.cuda.synchronize()


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--images", type=int, default=256, metavar="N")
    parser.add_argument("--kernels", type=int, nargs="+", default=[3, 5, 7], metavar="K")
    parser.add_argument("--shapes", nargs="+", default=[], metavar="CxPX", help="such as 24x32")
    parser.add_argument("--bandwidth", type=float, default=3.0, metavar="TB/s", help="of the floor")
    parser.add_argument("--processes", type=int, default=min(16, os.cpu_count() or 1), metavar="N")
    parser.add_argument("--json", type=writable, metavar="FILE")
    return parser.parse_args()


if __name__ == "__main__":
    main()
