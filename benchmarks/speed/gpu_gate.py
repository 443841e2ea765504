"""The gate on a GPU: plain PyTorch against the kernel of `gmsearch.fused_gate`, in bf16.

    python benchmarks/speed/gpu_gate.py [--bandwidth TB/s] [--json FILE]

A line for each shape, form and activation. `self` is s(h + b)·(h + b), as in the expansion of
GmNet, where the convolution before it leaves its bias to the kernel; `value` is s(h)·v. Times are
medians in microseconds, forward and backward together, replayed as a CUDA graph on a cold cache;
`floor` is what the kernel has to read and write at --bandwidth, `of floor` what share of the
kernel's time that is. `error` is the largest one to float64 of the output and the gradients, each
in parts of its largest number; `eager's` is that of plain PyTorch.
"""

import argparse
import sys
from collections.abc import Callable
from itertools import product
from typing import Any

import torch
from flags import writable, write_json
from torch import Tensor
from torch.nn import functional as F

BATCH_SIZE = 256
SHAPES = ((72, 32), (120, 32), (240, 16), (480, 8), (960, 4))  # channels, pixels of a side
FORMS = ("self", "value")
ACTIVATIONS: dict[str, Callable[..., Tensor]] = {"relu6": F.relu6, "gelu": F.gelu}
WARM_UP, REPETITIONS = 5, 25  # ms
LINE = "{:<22}{:<7}{:<7}{:>9}{:>9}{:>7}{:>9}{:>10}{:>10}{:>10}"
HEAD = ("shape", "form", "act", "eager", "kernel", "ratio", "floor", "of floor", "error", "eager's")


def main() -> None:
    arguments = parse_arguments()
    if not torch.cuda.is_available():
        sys.exit("gpu_gate.py: no CUDA device; it compares kernels of a GPU")
    print(torch.cuda.get_device_name(), f"torch {torch.__version__}")
    print(LINE.format(*HEAD))
    rows = []
    for (channels, side), form, activation in product(SHAPES, FORMS, ACTIVATIONS):
        shape = BATCH_SIZE, channels, side, side
        row = measure(shape, form, activation, arguments.bandwidth * 1e12)
        rows.append(row)
        print(as_line(row), flush=True)
    write_json(arguments.json, rows)


def measure(shape: tuple[int, ...], form: str, activation: str, bandwidth: float) -> dict[str, Any]:
    """Times in µs and errors of one gate in both ways; `bandwidth` is in bytes per second."""
    from triton.testing import do_bench

    from gmsearch.fused_gate import fused_gate

    def kernel(h: Tensor, other: Tensor) -> Tensor:
        if form == "self":
            return fused_gate(activation, h, bias=other)
        return fused_gate(activation, h, other)

    def eager(h: Tensor, other: Tensor) -> Tensor:
        act = ACTIVATIONS[activation]
        if form == "value":
            return act(h) * other
        h = h + other.to(h.dtype).view(-1, 1, 1)  # as a convolution under autocast adds it
        return act(h) * h

    h, value, grad = (features(shape, seed) for seed in range(3))
    bias = torch.linspace(-2, 2, shape[1], device="cuda")
    given = h, bias if form == "self" else value
    exact = both_ways(eager, [x.double() for x in given], grad.double())
    row: dict[str, Any] = dict(shape=shape, form=form, activation=activation)
    for name, gate in (("eager", eager), ("kernel", kernel)):
        row[f"{name}_error"] = max(map(error, both_ways(gate, given, grad), exact))
        graph = captured(gate, given, grad)
        row[f"{name}_us"] = 1e3 * do_bench(graph.replay, WARM_UP, REPETITIONS, return_mode="median")
    # forward: h (and value), out; backward: h (and value), grad, and the gradients
    passes = 5 if form == "self" else 8
    row["floor_us"] = 1e6 * passes * h.numel() * h.element_size() / bandwidth
    return row


def captured(
    gate: Callable[..., Tensor], given: tuple[Tensor, ...], grad: Tensor
) -> torch.cuda.CUDAGraph:
    """Forward and backward as a graph, so that small shapes are not the time of Python."""
    leaves = [x.clone().requires_grad_() for x in given]
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for _ in range(3):
            torch.autograd.grad(gate(*leaves), leaves, grad)
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        torch.autograd.grad(gate(*leaves), leaves, grad)
    return graph


def features(shape: tuple[int, ...], seed: int) -> Tensor:
    generator = torch.Generator("cuda").manual_seed(seed)
    x = 3 * torch.randn(shape, generator=generator, device="cuda")
    return x.bfloat16().contiguous(memory_format=torch.channels_last)


def both_ways(
    gate: Callable[..., Tensor], given: tuple[Tensor, ...] | list[Tensor], grad: Tensor
) -> list[Tensor]:
    """The output and the gradients."""
    leaves = [x.clone().requires_grad_() for x in given]
    out = gate(*leaves)
    return [out.detach(), *torch.autograd.grad(out, leaves, grad)]


def error(found: Tensor, exact: Tensor) -> float:
    return float((found.double() - exact).abs().max() / exact.abs().max())


def as_line(row: dict[str, Any]) -> str:
    eager, kernel, floor = row["eager_us"], row["kernel_us"], row["floor_us"]
    return LINE.format(
        "x".join(map(str, row["shape"])),
        row["form"],
        row["activation"],
        f"{eager:.1f}",
        f"{kernel:.1f}",
        f"{eager / kernel:.2f}",
        f"{floor:.1f}",
        f"{floor / kernel:.0%}",
        f"{row['kernel_error']:.1e}",
        f"{row['eager_error']:.1e}",
    )


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--bandwidth", type=float, default=3.0, metavar="TB/s", help="of the floor")
    parser.add_argument("--json", type=writable, metavar="FILE", help="write the lines here, too")
    return parser.parse_args()


if __name__ == "__main__":
    main()
