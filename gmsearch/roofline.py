"""How fast a device could be: what a training needs beside what a matrix product reaches."""

import time
from collections.abc import Iterator
from contextlib import contextmanager

import torch

from gmsearch.cost import total
from gmsearch.network import Network
from gmsearch.zoo import ledger_of

SIDE = 8192  # of the square matrices
REPEATS = 10


def training_flops(network: Network, *, resolution: int, num_classes: int) -> int:
    """Floating-point operations of one image in a training step: two for each multiply-add of the
    forward pass, and twice as many again for the gradients of features and of weights.
    """
    cost = total(ledger_of(network, resolution=resolution, num_classes=num_classes))
    return 6 * cost.macs


def peak_flops(device: torch.device, dtype: torch.dtype, side: int = SIDE) -> float:
    """Floating-point operations a second that a device reaches in a product of square matrices:
    the fastest of REPEATS. On a GPU float32 is TF32 where it is in convolutions: unless forbidden.
    """
    # Not of ones: a GPU that has little to switch runs faster.
    a, b = (torch.randn(side, side, device=device, dtype=dtype) for _ in range(2))
    times = []
    with _as_convolutions():
        for _ in range(REPEATS):
            _wait(device)
            began = time.perf_counter()
            torch.mm(a, b)
            _wait(device)
            times.append(time.perf_counter() - began)
    return 2 * side**3 / min(times)


@contextmanager
def _as_convolutions() -> Iterator[None]:
    """Products in TF32 where convolutions are, which are so unasked."""
    matmul = torch.backends.cuda.matmul
    before = matmul.allow_tf32
    matmul.allow_tf32 = torch.backends.cudnn.allow_tf32
    try:
        yield
    finally:
        matmul.allow_tf32 = before


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
