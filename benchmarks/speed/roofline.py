"""What a machine could do at most, measured, and what a training step would take then."""

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from statistics import median

import torch

from gmsearch.cost import LayerCost

# Of every element that a layer writes: written and read in the forward pass, read again for the
# gradient of the next layer, and its own gradient written and read.
TRANSFERS = 5
OPERATIONS = 6  # of a MAC: two forward, and twice as many for the gradients of input and weight
# Bytes of a parameter in a step of AdamW in fp32: weight, gradient and two moments are read, weight
# and moments written.
OPTIMIZER = 7 * 4


@dataclass(frozen=True)
class Ceilings:
    """Of one device, with the threads that torch has now."""

    operations: float  # of a matrix product, per second
    bytes: float  # read or written by a copy, per second
    bytes_of_element: int


def measure(device: torch.device, dtype: torch.dtype) -> Ceilings:
    """The best of some repeats: a product of large matrices, a copy that no cache holds."""
    on_gpu = device.type == "cuda"
    side, elements = (8192, 1 << 29) if on_gpu else (1536, 1 << 26)
    a = torch.randn(side, side, device=device, dtype=dtype)
    source = torch.zeros(elements, device=device, dtype=dtype)
    target = torch.empty_like(source)
    product = torch.empty_like(a)
    best_product = _best(lambda: torch.matmul(a, a, out=product), device)
    best_copy = _best(lambda: target.copy_(source), device)
    width = source.element_size()
    return Ceilings(2 * side**3 / best_product, 2 * width * elements / best_copy, width)


def _best(action: Callable[[], object], device: torch.device, repeats: int = 7) -> float:
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
    for row in _unfused(rows):
        arithmetic = OPERATIONS * row.macs / ceilings.operations
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
