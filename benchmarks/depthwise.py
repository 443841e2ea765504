"""What our depthwise convolution saves of a training step on a CPU, beside torch's own.

    python benchmarks/depthwise.py [WHAT ...]

One network with each, by default GmNet at 300M MACs, or the ones that are named as for
`gmsearch compare`; the same weights, the same batch, steps in turn on one core: forward,
backward, optimizer. The first gradients of the two are compared too.
"""

import argparse
import itertools
import time
from statistics import median

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from gmsearch.depthwise import DepthwiseConv2d
from gmsearch.network import Network
from gmsearch.what import resolve
from gmsearch.zoo import build_network

NUM_CLASSES = 10


def make(network: Network, side: int, stock: bool) -> tuple[nn.Module, torch.optim.Optimizer]:
    """A network in channels_last, with torch's depthwise convolution or with ours."""
    torch.manual_seed(0)
    model = build_network(network, NUM_CLASSES, side)
    model = model.to(memory_format=torch.channels_last).train()
    if stock:
        for module in model.modules():
            if isinstance(module, DepthwiseConv2d):
                module.__class__ = nn.Conv2d
    return model, torch.optim.AdamW(model.parameters(), fused=True)


def step(model: nn.Module, optimizer: torch.optim.Optimizer, x: Tensor, y: Tensor) -> float:
    """Seconds of one training step."""
    began = time.perf_counter()
    optimizer.zero_grad()
    F.cross_entropy(model(x), y).backward()
    optimizer.step()
    return time.perf_counter() - began


def difference(ours: nn.Module, stock: nn.Module) -> float:
    """Norm of the difference of all gradients, as a share of the norm of the gradients."""
    a, b = (torch.cat([p.grad.flatten() for p in model.parameters()]) for model in (ours, stock))
    return float((a - b).norm() / b.norm())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=9, metavar="N", help="of each, in turn")
    parser.add_argument("what", nargs="*", default=["gmnet@300M"], metavar="WHAT")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    print(
        f"{'network':<24} {'px':>4} {'batch':>6} {'torch / ours, median (min-max)':>32} "
        f"{'gradients differ by':>20}"
    )
    sizes = ((32, 32), (32, 128), (64, 32), (64, 128), (128, 32))
    for what, (side, batch) in itertools.product(arguments.what, sizes):
        x = torch.randn(batch, 3, side, side).to(memory_format=torch.channels_last)
        y = torch.randint(0, NUM_CLASSES, (batch,))
        ours, stock = (make(resolve(what), side, stock) for stock in (False, True))
        step(*ours, x, y), step(*stock, x, y)
        apart = difference(ours[0], stock[0])
        ratios = [step(*stock, x, y) / step(*ours, x, y) for _ in range(arguments.steps)]
        spread = f"{median(ratios):.2f} ({min(ratios):.2f}-{max(ratios):.2f})"
        print(f"{what:<24} {side:>4} {batch:>6} {spread:>32} {apart:>20.1e}", flush=True)


if __name__ == "__main__":
    main()
