"""How long a network takes for a batch of images: PyTorch on a CPU or GPU, ONNX Runtime on a CPU.

    measure([eager(model, 224, 1), eager(other, 224, 1), onnx(export_onnx(model, 224), 224, 1)])

Clock rates and neighbours on a machine change within minutes. Networks to be compared are therefore
measured in one call, which takes them in turn, a few repeats each: a slow while hits all alike.
"""

import copy
import platform
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import nn

from gmsearch.onnx_export import OrtNetwork

EAGER, ONNX_RUNTIME = "PyTorch eager", "ONNX Runtime"

WARM_UP = 2  # runs that say how long one takes
ROUNDS = 10  # of all subjects in turn
MIN_BLOCK, MAX_BLOCK = 2, 20  # timed runs in a row, after an untimed one that fills the caches
BLOCK_MS = 100.0

CPU_INFO = Path("/proc/cpuinfo")


@dataclass(frozen=True)
class Latency:
    """The time of one batch in fp32, on a GPU with torch's own choice of TF32: the median of all
    repeats and their quartiles, between which half of them lie.
    """

    runtime: str  # EAGER or ONNX_RUNTIME
    device: str  # in words: the name of the CPU or GPU
    batch_size: int
    threads: int | None  # None on a GPU
    median_ms: float
    low_ms: float
    high_ms: float
    repeats: int

    @property
    def images_per_second(self) -> float:
        return 1000 * self.batch_size / self.median_ms


@dataclass(frozen=True)
class Subject:
    """What is measured: `run` computes one batch and returns when it is done."""

    run: Callable[[], object]
    runtime: str
    device: str
    batch_size: int
    threads: int | None


def eager(
    model: nn.Module,
    resolution: int,
    batch_size: int,
    threads: int | None = None,
    device: str | torch.device = "cpu",
    in_chans: int = 3,
) -> Subject:
    """A copy of a network in PyTorch, eval mode and fp32, to be measured on noise.

    On a CPU with `threads` threads, by default as many as torch has now, and with the channels
    last in memory, as its kernels for depthwise and 1x1 convolutions want them: lightweight
    networks run as fast as otherwise for one image and 1.0-1.8 times as fast for 16 (2 cores with
    AVX2). On a GPU the layout is torch's default.
    """
    device = torch.device(device)
    on_cpu = device.type == "cpu"
    layout = torch.channels_last if on_cpu else torch.contiguous_format
    copied = copy.deepcopy(model).to(device=device, dtype=torch.float32).eval()
    copied = copied.to(memory_format=layout)
    noise = torch.from_numpy(_noise(batch_size, in_chans, resolution))
    images = noise.to(device=device, memory_format=layout)

    def run() -> None:
        with torch.inference_mode():
            copied(images)
        if not on_cpu:
            torch.cuda.synchronize(device)

    name = cpu_name() if on_cpu else torch.cuda.get_device_name(device)
    return Subject(run, EAGER, name, batch_size, _threads(threads) if on_cpu else None)


def onnx(
    exported: bytes,
    resolution: int,
    batch_size: int,
    threads: int | None = None,
    in_chans: int = 3,
) -> Subject:
    """A network that `export_onnx` exported at `resolution`, in ONNX Runtime on the CPU, to be
    measured on noise; `threads` are by default as many as torch has now.
    """
    network = OrtNetwork(exported, _threads(threads))
    images = _noise(batch_size, in_chans, resolution)
    return Subject(
        lambda: network.run(images), ONNX_RUNTIME, cpu_name(), batch_size, network.threads
    )


def measure(subjects: Sequence[Subject]) -> list[Latency]:
    """The time of every subject, in their order.

    They are taken in turn, ROUNDS times, a block of runs each: a slow while of the machine hits all
    alike. A block has MIN_BLOCK runs at least, and more where they are short, up to MAX_BLOCK or
    BLOCK_MS. The number of torch's threads is afterwards what it was.
    """
    blocks = []
    for subject in subjects:
        fastest = min(_run(subject, timed=WARM_UP, untimed=1))
        blocks.append(max(MIN_BLOCK, min(MAX_BLOCK, round(BLOCK_MS / fastest))))
    times: list[list[float]] = [[] for _ in subjects]
    for _ in range(ROUNDS):
        for subject, block, known in zip(subjects, blocks, times, strict=True):
            known += _run(subject, timed=block, untimed=1)
    return [_latency(subject, known) for subject, known in zip(subjects, times, strict=True)]


def cpu_name() -> str:
    """The CPU's name as the system tells it, at worst its architecture."""
    if CPU_INFO.exists():
        for line in CPU_INFO.read_text().splitlines():
            key, _, value = line.partition(":")
            if key.strip() == "model name":
                return value.strip()
    return platform.processor() or platform.machine()


def _run(subject: Subject, *, timed: int, untimed: int) -> list[float]:
    """Milliseconds of each timed run."""
    times = []
    with _torch_threads(subject.threads):
        for _ in range(untimed):
            subject.run()
        for _ in range(timed):
            began = time.perf_counter()
            subject.run()
            times.append(1000 * (time.perf_counter() - began))
    return times


def _latency(subject: Subject, times: list[float]) -> Latency:
    low, median, high = (float(quartile) for quartile in np.percentile(times, (25, 50, 75)))
    return Latency(
        runtime=subject.runtime,
        device=subject.device,
        batch_size=subject.batch_size,
        threads=subject.threads,
        median_ms=median,
        low_ms=low,
        high_ms=high,
        repeats=len(times),
    )


@contextmanager
def _torch_threads(threads: int | None) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(before if threads is None else threads)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _threads(threads: int | None) -> int:
    return torch.get_num_threads() if threads is None else threads


def _noise(batch_size: int, in_chans: int, resolution: int) -> np.ndarray:
    shape = batch_size, in_chans, resolution, resolution
    return np.random.default_rng(0).standard_normal(shape, dtype=np.float32)
