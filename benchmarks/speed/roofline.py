"""What a machine could do at most, measured, and what a training step would take then."""

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from statistics import median

import torch

from gmsearch.cost import LayerCost

# Of every element that a layer writes: written and read in the forward pass, read again for the
# gradient of the next layer, and its own gradient written and read.
TRANSFERS = 5
OPERATIONS = 6  # of a MAC: two forward, and twice as many for the gradients of input and weight
OF_IMAGES = 4  # of the first layer, as nobody asks for a gradient of images
# Bytes of a parameter in a step of AdamW in fp32: weight, gradient and two moments are read, weight
# and moments written.
OPTIMIZER = 7 * 4


@dataclass(frozen=True)
class Ceilings:
    """Of one device, with the threads that torch has now."""

    operations: float  # of a matrix product, per second
    bytes: float  # read or written by a copy or a product in place, per second
    bytes_of_element: int


def measure(device: torch.device, dtype: torch.dtype) -> Ceilings:
    """The best of some repeats: matrix products, the smaller of which fit between turns of other
    jobs; and passes over what no cache holds, a copy and a product in place, since a machine may
    read what a copy writes over.
    """
    on_gpu = device.type == "cuda"
    sides, elements = ([8192], 1 << 29) if on_gpu else ([512, 1536], 1 << 26)
    operations = 0.0
    for side in sides:
        a = torch.randn(side, side, device=device, dtype=dtype)
        product = torch.empty_like(a)
        seconds = _best(partial(torch.matmul, a, a, out=product), device)
        operations = max(operations, 2 * side**3 / seconds)
    source = torch.zeros(elements, device=device, dtype=dtype)
    target = torch.empty_like(source)
    seconds = min(
        _best(lambda: target.copy_(source), device), _best(lambda: source.mul_(1.0), device)
    )
    width = source.element_size()
    return Ceilings(operations, 2 * width * elements / seconds, width)


def _best(action: Callable[[], object], device: torch.device, repeats: int = 15) -> float:
    seconds = []
    for _ in range(repeats):
        began = time.perf_counter()
        action()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        seconds.append(time.perf_counter() - began)
    return min(seconds)


def floor(rows: list[LayerCost], batch_size: int, ceilings: Ceilings) -> float:
    """Seconds of a step if every layer, one after the other, reached its ceiling, and then the
    optimizer, with what is known to fuse fused: an activation with the gate that multiplies it, a
    layer scale with the weights before it. All features come from memory: those that a cache still
    holds may be faster than this.
    """
    seconds = 0.0
    for number, row in enumerate(_unfused(rows)):
        arithmetic = (OPERATIONS if number else OF_IMAGES) * row.macs / ceilings.operations
        memory = TRANSFERS * row.activations * ceilings.bytes_of_element / ceilings.bytes
        seconds += max(arithmetic, memory)
    update = OPTIMIZER * sum(row.params for row in rows) / ceilings.bytes
    return batch_size * seconds + update


def _unfused(rows: list[LayerCost]) -> Iterator[LayerCost]:
    """The rows that are passes of their own; the activation of a gate is named GATE.act."""
    gates = {row.name for row in rows if row.kind == "gate"}
    for row in rows:
        of_gate = row.kind == "activation" and row.name.removesuffix(".act") in gates
        if row.kind != "scale" and not of_gate:
            yield row


def spread(values: list[float], digits: int = 2) -> str:
    low, middle, high = (f"{v:,.{digits}f}" for v in (min(values), median(values), max(values)))
    return f"{middle} ({low}-{high})"
