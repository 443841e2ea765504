"""Several trainings at once on one GPU: the images per second of all of them together.

    python benchmarks/speed/together.py [--networks WHAT ...] [--counts N ...] [--json FILE]

Each is a process of its own, as a trial of a search is, and trains on batches that it has, so that
nothing but the GPU is shared. Without NVIDIA's MPS processes take turns; with its daemon running
(`nvidia-cuda-mps-control -d`) their kernels run side by side.
"""

import argparse
import json
import time
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import torch
from variants import OURS, Training, variants

from gmsearch.process import prepare
from gmsearch.what import resolve


def main() -> None:
    arguments = parse_arguments()
    if not torch.cuda.is_available():
        raise SystemExit("no GPU that torch can use")
    found = []
    for what in arguments.networks:
        alone = None
        for count in arguments.counts:
            rate = together(what, count, arguments)
            alone = alone or rate / count
            print(f"{what}: {count} at once, {rate:,.0f} images/s, {rate / alone:.2f} of one alone")
            found.append({"network": what, "count": count, "images_per_second": rate})
    if arguments.json:
        arguments.json.write_text(json.dumps(found, indent=2) + "\n")


def together(what: str, count: int, arguments: argparse.Namespace) -> float:
    context = get_context("spawn")
    barrier, rates = context.Barrier(count), context.Queue()
    settings = what, arguments.resolution, arguments.batch_size, arguments.seconds
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
    what: str, resolution: int, batch_size: int, seconds: float, barrier: Any, rates: Any
) -> None:
    prepare(1)
    way = variants(torch.device("cuda"))[OURS]
    training = Training(resolve(what), way, resolution, batch_size, "cuda")
    for _ in range(10):
        training.step()
    torch.cuda.synchronize()
    barrier.wait()
    began, steps = time.perf_counter(), 0
    while time.perf_counter() - began < seconds:
        for _ in range(10):
            training.step()
        torch.cuda.synchronize()
        steps += 10
    rates.put(steps * batch_size / (time.perf_counter() - began))
    barrier.wait()


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--networks", nargs="+", default=["gmnet@60M", "gmnet@300M"], metavar="WHAT"
    )
    parser.add_argument("--counts", type=int, nargs="+", default=[1, 2, 4, 8], metavar="N")
    parser.add_argument("--resolution", type=int, default=64, metavar="PX")
    parser.add_argument("--batch-size", type=int, default=64, metavar="N")
    parser.add_argument("--seconds", type=float, default=2.0, metavar="S", help="of each count")
    parser.add_argument("--json", type=Path, metavar="FILE")
    return parser.parse_args()


if __name__ == "__main__":
    main()
