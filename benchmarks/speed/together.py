"""Several trainings at once on one machine: the images per second of all of them together.

    python benchmarks/speed/together.py [--networks WHAT ...] [--ways 1x2 2x1 ...] [--json FILE]

A way is a number of processes times threads of each. Each process trains as a trial of a search
does, on a batch that it has, so that nothing but the machine is shared. On a GPU processes take
turns without NVIDIA's MPS; with its daemon (`nvidia-cuda-mps-control -d`) kernels run side by side.
"""

import argparse
import time
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from statistics import median
from threading import Barrier
from typing import Any, NamedTuple

import torch
from flags import add_common, check, run, whole, write_json
from machine import machine
from roofline import spread
from variants import OURS, Training, variants

from gmsearch.process import prepare
from gmsearch.what import resolve


class Way(NamedTuple):
    """How many processes train, with how many threads each."""

    processes: int
    threads: int

    def __str__(self) -> str:
        return f"{self.processes}x{self.threads}"


ON_CPU = [Way(1, 1), Way(1, 2), Way(2, 1)]
ON_GPU = [Way(1, 1), Way(2, 1), Way(4, 1), Way(8, 1)]


def main() -> None:
    arguments = parse_arguments()
    check(arguments.networks, [arguments.resolution], arguments.batch_size)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    ways = list(dict.fromkeys(arguments.ways or (ON_GPU if device.type == "cuda" else ON_CPU)))
    found: dict[str, Any] = {"machine": machine(device), "rows": []}
    for what in arguments.networks:
        rates: dict[Way, list[float]] = {way: [] for way in ways}
        for way in ways * arguments.rounds:
            rates[way].append(together(what, way, arguments))
        for way, each in rates.items():
            ratios = [rate / first for rate, first in zip(each, rates[ways[0]], strict=True)]
            words = f"{median(each):>10,.0f} images/s, {spread(ratios)} of {ways[0]}"
            print(f"{what}: {way!s:5} {words}", flush=True)
            row = {"network": what, "way": str(way), "images_per_second": each}
            found["rows"].append(row)
        write_json(arguments.json, found)


def together(what: str, way: Way, arguments: argparse.Namespace) -> float:
    """Images per second of all processes."""
    context = get_context("spawn")
    settings = what, way.threads, arguments.resolution, arguments.batch_size, arguments.seconds
    with context.Manager() as manager, ProcessPoolExecutor(way.processes, context) as pool:
        barrier = manager.Barrier(way.processes)
        rates = [pool.submit(_train, *settings, barrier) for _ in range(way.processes)]
        return sum(rate.result() for rate in rates)


def _train(
    what: str, threads: int, resolution: int, batch_size: int, seconds: int, barrier: Barrier
) -> float:
    try:
        prepare(threads)
        device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        ours = variants(device)[OURS]
        training = Training(resolve(what), ours, resolution, batch_size, device.type)
        _steps(training)
        barrier.wait()
        began, steps = time.perf_counter(), 0
        while time.perf_counter() - began < seconds:
            steps += _steps(training)
        rate = steps * batch_size / (time.perf_counter() - began)
        barrier.wait()
        return rate
    except BaseException:
        barrier.abort()  # nobody waits for this one
        raise


def _steps(training: Training) -> int:
    on_gpu = training.images.is_cuda
    count = 10 if on_gpu else 1
    for _ in range(count):
        training.step()
    if on_gpu:
        torch.cuda.synchronize()
    return count


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add_common(parser, networks=("gmnet@60M", "gmnet@300M"), rounds=1)
    parser.add_argument(
        "--ways", type=_way, nargs="+", metavar="NxT", help="processes x threads of each"
    )
    parser.add_argument("--resolution", type=whole, default=64, metavar="PX", help="default: 64")
    parser.add_argument("--batch-size", type=whole, default=64, metavar="N", help="default: 64")
    parser.add_argument(
        "--seconds", type=whole, default=2, metavar="S", help="of each way (default: 2)"
    )
    return parser.parse_args()


def _way(text: str) -> Way:
    processes, by, threads = text.partition("x")
    if not by:
        raise argparse.ArgumentTypeError(f"{text} is not processes x threads, such as 2x1")
    return Way(whole(processes), whole(threads))


if __name__ == "__main__":
    run(main)
