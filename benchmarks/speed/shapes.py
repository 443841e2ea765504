"""Our depthwise and 1x1 convolutions beside PyTorch's on a CPU, shape by shape: what the choice
between them (MANY in `gmsearch.depthwise` and `gmsearch.pointwise`) is made from.

    python benchmarks/speed/shapes.py [--rounds N]

Forward and backward of one convolution in channels_last on one core, the two in turn; how many
times as fast ours is, the median of the rounds, and `*` where ours is what a training takes.
"""

import argparse
import time
from collections.abc import Callable
from itertools import product
from statistics import median

import torch
from flags import run, whole
from torch import Tensor
from torch.nn import functional as F

from gmsearch import depthwise, pointwise
from gmsearch.process import prepare

BATCHES = 8, 16, 32, 128
KERNELS = 3, 5, 7
MAPS = (8, 16), (16, 16), (40, 16), (16, 8), (32, 8), (80, 8), (40, 4), (160, 4), (64, 2), (320, 2)
PRODUCTS = (16, 16), (40, 16), (40, 32), (16, 8), (80, 8), (32, 4), (160, 4), (64, 2), (320, 2)
RATIO = 3  # of the channels of a block, which 1x1 convolutions make more and fewer
WARM_UP = 3  # rounds

Convolution = Callable[[Tensor, Tensor, Tensor | None], Tensor]


def ratio(ours: Convolution, theirs: Convolution, given: list[Tensor | None], rounds: int) -> float:
    """How many times as fast ours is, for all gradients of what is given: features, weights and
    perhaps a bias.
    """
    leaves = [None if each is None else each.requires_grad_() for each in given]
    x, weight, bias = leaves
    assert x is not None and weight is not None
    wanted = [each for each in leaves if each is not None]
    grad = features(len(x), len(weight), x.shape[-1])
    ratios = []
    for turn in range(-WARM_UP, rounds):
        seconds = []
        for way in (theirs, ours):
            began = time.perf_counter()
            output = way(x, weight, bias)
            torch.autograd.grad(output, wanted, grad)
            seconds.append(time.perf_counter() - began)
        if turn >= 0:
            ratios.append(seconds[0] / seconds[1])
    return median(ratios)


def features(count: int, width: int, side: int) -> Tensor:
    return torch.randn(count, width, side, side).contiguous(memory_format=torch.channels_last)


def of_depthwise(kernel: int, count: int, width: int, side: int, rounds: int) -> str:
    module = depthwise.DepthwiseConv2d(width, kernel)
    x, weight = features(count, width, side), module.weight.detach()

    def ours(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        seen = module._reaching(side)
        return depthwise._Depthwise.apply(x, weight[:, :, seen, seen], bias)

    def theirs(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        return F.conv2d(x, weight, bias, padding=kernel // 2, groups=width)

    taken = module._is_slow(x)
    return told(width, side, ratio(ours, theirs, [x, weight, None], rounds), taken)


def of_pointwise(with_bias: bool, count: int, width: int, side: int, rounds: int) -> str:
    module = pointwise.PointwiseConv2d(width, RATIO * width)
    x, weight = features(count, width, side), module.weight.detach()
    bias = module.bias.detach() if with_bias and module.bias is not None else None
    taken = module._is_slow(x, bias)
    found = ratio(pointwise._Pointwise.apply, F.conv2d, [x, weight, bias], rounds)
    return told(width, side, found, taken)


def told(width: int, side: int, found: float, taken: bool) -> str:
    return f"{width}x{side}x{side} {found:.2f}{'*' if taken else ' '}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=whole, default=9, metavar="N", help="default: 9")
    rounds = parser.parse_args().rounds
    prepare(1)
    for kernel, count in product(KERNELS, BATCHES):
        row = [of_depthwise(kernel, count, *shape, rounds) for shape in MAPS]
        print(f"depthwise {kernel}x{kernel}, batch {count:3}:", "  ".join(row), flush=True)
    for with_bias, count in product((True, False), BATCHES):
        row = [of_pointwise(with_bias, count, *shape, rounds) for shape in PRODUCTS]
        kind = "1x1 with bias" if with_bias else "1x1"
        print(f"{kind:13}, batch {count:3}:", "  ".join(row), flush=True)


if __name__ == "__main__":
    run(main)
