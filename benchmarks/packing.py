"""How fast images are packed, what a pack takes on disk, and what four trials take of memory.

    python benchmarks/packing.py SRC [--resolutions 64 128]

SRC is packed anew for every line, with one process and with one for each core. Then four processes
feed an epoch each from one pack, and their memory is read while all are alive: the resident set,
which counts shared pages in each, and the proportional one, which shares them out.
"""

import argparse
import multiprocessing
import os
import re
import tempfile
import time
from pathlib import Path
from typing import Any

import torch

from gmsearch import data
from gmsearch.data.opening import open_source
from gmsearch.data.packing import Order, make_pack
from gmsearch.data.packs import PackedDataset
from gmsearch.data.selection import Selection, choose
from gmsearch.feeding import ArrayFeed
from gmsearch.recipe import Recipe

TRIALS = 4


def packed(source: str, resolution: int, workers: int, out: Path) -> tuple[float, int, int]:
    """Seconds, images and bytes on disk of one packing."""
    images = open_source(source)
    order = Order(images, Selection(), choose(images, Selection()), resolution)
    began = time.perf_counter()
    make_pack(order, out, workers=workers)
    taken = time.perf_counter() - began
    size = sum(file.stat().st_size for file in out.rglob("*") if file.is_file())
    return taken, order.plan.num_images, size


def feed_and_wait(dataset: PackedDataset, answers: Any, leave: Any) -> None:
    torch.set_num_threads(1)
    feed = ArrayFeed(dataset, Recipe(batch_size=128), seed=os.getpid(), device=torch.device("cpu"))
    before = memory_of_mapping()
    for _ in feed.batches(0):
        pass
    answers.put((before, None))
    leave.wait()
    answers.put((None, memory_of_mapping()))


def memory_of_mapping() -> tuple[int, int]:
    """Resident and proportional bytes of the arrays that this process maps."""
    resident = proportional = 0
    inside = False
    for line in Path("/proc/self/smaps").read_text().splitlines():
        if re.match(r"[0-9a-f]+-[0-9a-f]+ ", line):
            inside = line.endswith(".npy")
        elif inside and line.startswith(("Rss:", "Pss:")):
            size = 1024 * int(line.split()[1])
            resident, proportional = (
                (resident + size, proportional)
                if line.startswith("Rss:")
                else (resident, proportional + size)
            )
    return resident, proportional


def shared_memory(pack: Path, resolution: int) -> None:
    """Prints what the mapping takes in four processes at once."""
    dataset = data.load(str(pack), resolution=resolution, seed=0)
    context = multiprocessing.get_context("spawn")
    answers, leave = context.Queue(), context.Event()
    trials = [
        context.Process(target=feed_and_wait, args=(dataset, answers, leave)) for _ in range(TRIALS)
    ]
    for trial in trials:
        trial.start()
    for _ in trials:
        answers.get()
    leave.set()
    taken = [answers.get()[1] for _ in trials]
    for trial in trials:
        trial.join()
    resident, proportional = (sum(part) / 1e6 for part in zip(*taken, strict=True))
    print(
        f"{TRIALS} trials on one pack of {dataset.train.images.nbytes / 1e6:.0f} MB of training "
        f"images: resident {resident:.0f} MB in sum, proportional {proportional:.0f} MB"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("source", metavar="SRC")
    parser.add_argument("--resolutions", type=int, nargs="+", default=[64, 128], metavar="PX")
    arguments = parser.parse_args()
    cores = len(os.sched_getaffinity(0))
    with tempfile.TemporaryDirectory() as scratch:
        for resolution in arguments.resolutions:
            for workers in sorted({1, cores}):
                out = Path(scratch) / f"{resolution}-{workers}"
                taken, count, size = packed(arguments.source, resolution, workers, out)
                print(
                    f"{resolution} px, {workers} processes: {count / taken:,.0f} images/s, "
                    f"{count / taken / workers:,.0f} for each process; "
                    f"{count:,} images take {size / 1e6:,.0f} MB",
                    flush=True,
                )
        first = arguments.resolutions[0]
        shared_memory(Path(scratch) / f"{first}-{cores}", first)


if __name__ == "__main__":
    main()
