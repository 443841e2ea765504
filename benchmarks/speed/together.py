"""Several trainings at once on one machine: the images per second of all of them together.

    python benchmarks/speed/together.py [--networks WHAT ...] [--ways 1x2 2x1 ...] [--json FILE]

A way is a number of processes times threads of each. Each process trains as a trial of a search
does, on a batch that it has, so that nothing but the machine is shared. On a GPU processes take
turns without NVIDIA's MPS; with its daemon (`nvidia-cuda-mps-control -d`) kernels run side by side.
"""

import argparse
import json
import time
from multiprocessing import get_context
from pathlib import Path
from statistics import median
from typing import Any

import torch
from roofline import spread
from variants import OURS, Training, variants

from gmsearch.process import prepare
from gmsearch.what import resolve


def main() -> None:
    arguments = parse_arguments()
    on_gpu = torch.cuda.is_available()
    ways = arguments.ways or (["1x1", "2x1", "4x1", "8x1"] if on_gpu else ["1x1", "1x2", "2x1"])
    found = []
    for what in arguments.networks:
        rates: dict[str, list[float]] = {way: [] for way in ways}
        for way in ways * arguments.rounds:
            rates[way].append(together(what, *map(int, way.split("x")), arguments))
        for way, each in rates.items():
            ratios = [rate / first for rate, first in zip(each, rates[ways[0]], strict=True)]
            words = f"{median(each):>10,.0f} images/s, {spread(ratios)} of {ways[0]}"
            print(f"{what}: {way:5} {words}", flush=True)
            found.append({"network": what, "way": way, "images_per_second": each})
    if arguments.json:
        arguments.json.write_text(json.dumps(found, indent=2) + "\n")


def together(what: str, count: int, threads: int, arguments: argparse.Namespace) -> float:
    context = get_context("spawn")
    barrier, rates = context.Barrier(count), context.Queue()
    settings = what, threads, arguments.resolution, arguments.batch_size, arguments.seconds
    workers = [
        context.Process(target=_train, args=(*settings, barrier, rates)) for _ in range(count)
    ]
    for worker in workers:
        worker.start()
    total = sum(rates.get(timeout=120) for _ in workers)
    for worker in workers:
        worker.join()
    return total


def _train(
    what: str,
    threads: int,
    resolution: int,
    batch_size: int,
    seconds: float,
    barrier: Any,
    rates: Any,
) -> None:
    prepare(threads)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    training = Training(resolve(what), variants(device)[OURS], resolution, batch_size, device.type)
    _steps(training)
    barrier.wait()
    began, steps = time.perf_counter(), 0
    while time.perf_counter() - began < seconds:
        steps += _steps(training)
    rates.put(steps * batch_size / (time.perf_counter() - began))
    barrier.wait()


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
    parser.add_argument(
        "--networks", nargs="+", default=["gmnet@60M", "gmnet@300M"], metavar="WHAT"
    )
    parser.add_argument("--ways", nargs="+", metavar="NxT", help="processes x threads")
    parser.add_argument("--resolution", type=int, default=64, metavar="PX")
    parser.add_argument("--batch-size", type=int, default=64, metavar="N")
    parser.add_argument("--seconds", type=float, default=2.0, metavar="S", help="of each way")
    parser.add_argument("--rounds", type=int, default=1, metavar="N", help="of all ways in turn")
    parser.add_argument("--json", type=Path, metavar="FILE")
    return parser.parse_args()


if __name__ == "__main__":
    main()
