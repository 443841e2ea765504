"""Training from images to weights, packing not included: ours beside timm's loop with its loader.

    python benchmarks/speed/epochs.py FOLDER [--networks WHAT ...] [--resolution PX] [--json FILE]

FOLDER has images in ImageNet layout. timm's side is what `train.py` of its repository does with
`--model gmnet… --opt adamw --smoothing 0.1 --clip-grad 1 --color-jitter 0`, with and without
`--channels-last`: its loader and prefetcher, its transform (resized crops, flips, no RandAugment),
its loss, optimizer and loop; the network has nothing of `gmsearch.speedups`. On a CPU it has
`--workers 0`, as ours has one core too, on a GPU a worker for each core, and
`--amp --amp-dtype bfloat16`. It reads and decodes the files in every epoch. Ours is the
loop of a search trial on a pack of FOLDER, which is made once for all trials: the time that takes
is printed, and in no figure. Each trains some batches in turn; ratios are of the same round.
"""

import argparse
import os
import tempfile
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from statistics import median
from typing import NamedTuple

import torch
from flags import add_common, check, existing_folder, run, whole, write_json
from machine import machine
from roofline import spread
from timm.data import create_dataset, create_loader
from timm.loss import LabelSmoothingCrossEntropy
from timm.optim import create_optimizer_v2
from timm.utils import AverageMeter, dispatch_clip_grad
from variants import switched_off, without_ours

from gmsearch import data
from gmsearch.data.packs import is_pack
from gmsearch.errors import SettingsError
from gmsearch.network import Network
from gmsearch.process import prepare
from gmsearch.recipe import Recipe
from gmsearch.speedups import SPEEDUPS
from gmsearch.training import start, train
from gmsearch.what import resolve
from gmsearch.zoo import build_network

ON_CPU, ON_GPU = 4, 40  # batches of a turn


def timms(
    network: Network,
    folder: Path,
    resolution: int,
    batch_size: int,
    channels_last: bool,
    device: torch.device,
) -> Iterator[None]:
    """A step of timm's `train_one_epoch` (train.py, timm 1.0) for every item."""
    on_gpu = device.type == "cuda"
    dataset = create_dataset("", root=str(folder), split="train")
    loader = create_loader(
        dataset,
        (3, resolution, resolution),
        batch_size,
        is_training=True,
        color_jitter=0.0,
        interpolation="random",
        num_workers=(os.cpu_count() or 1) if on_gpu else 0,
        pin_memory=on_gpu,
        persistent_workers=on_gpu,
        device=device,
    )
    num_classes = len(dataset.reader.class_to_idx)
    model = build_network(network, num_classes, resolution).to(device)
    without_ours(model)
    if channels_last:
        model.to(memory_format=torch.channels_last)
    optimizer = create_optimizer_v2(model, opt="adamw", lr=3e-3, weight_decay=0.05)
    loss_fn = LabelSmoothingCrossEntropy(0.1)
    losses = AverageMeter()
    model.train()
    while True:
        for images, target in loader:
            if channels_last:
                images = images.contiguous(memory_format=torch.channels_last)
            optimizer.zero_grad()
            in_bf16 = torch.autocast(device.type, torch.bfloat16, enabled=on_gpu)
            with switched_off(SPEEDUPS), in_bf16:
                loss = loss_fn(model(images), target)
            loss.backward()
            dispatch_clip_grad(model.parameters(), value=1.0, mode="norm")
            optimizer.step()
            losses.update(loss.item(), len(images))
            yield


def ours(network: Network, dataset: data.Dataset, recipe: Recipe, device: str) -> Iterator[float]:
    """Trains as a search trial does; gives the seconds of a step, epoch by epoch."""
    settings: dict = {"seed": 0, "resolution": dataset.resolution, "device": device}
    state = start(network, len(dataset.classes), recipe, **settings)
    for result in train(state, dataset, recipe, seed=0):
        yield recipe.batch_size / (result.images_per_second or 1)


def steps_of(training: Iterator[None], few: int) -> Iterator[float]:
    while True:
        began = time.perf_counter()
        for _ in range(few):
            next(training)
        yield (time.perf_counter() - began) / few


class Pack(NamedTuple):
    """The images of a folder at one resolution, and the seconds it took to pack them."""

    dataset: data.Dataset
    seconds: float


def compare(
    what: str,
    folder: Path,
    pack: Pack,
    batch_size: int,
    rounds: int,
    device: torch.device,
) -> dict:
    """Prints and returns images per second of each, and the ratios to timm's loop."""
    dataset = pack.dataset
    network, px = resolve(what), dataset.resolution
    few = ON_GPU if device.type == "cuda" else ON_CPU
    share = (few + 0.5) * batch_size / len(dataset.train)
    share = min(1.0, max(0.001, share))  # the least that a recipe takes
    recipe = Recipe(batch_size=batch_size, train_share=share, num_epochs=1 + rounds)
    theirs = network, folder, px, batch_size
    ways = {
        "timm": steps_of(timms(*theirs, channels_last=False, device=device), few),
        "timm --channels-last": steps_of(timms(*theirs, channels_last=True, device=device), few),
        "gmsearch": ours(network, dataset, recipe, device.type),
    }
    before = torch.backends.cudnn.benchmark
    torch.backends.cudnn.benchmark = True  # as timm's train.py has it
    for turn in ways.values():
        next(turn)
    seconds = {name: list[float]() for name in ways}
    for _ in range(rounds):
        for name, turn in ways.items():
            seconds[name].append(next(turn))
    torch.backends.cudnn.benchmark = before  # steps that are timed next do without
    print(
        f"\n{what} at {px} px, batch of {batch_size}, from images to weights, "
        f"packing not included ({pack.seconds:.1f} s, once)"
    )
    found: dict = {"network": what, "resolution": px, "batch_size": batch_size}
    found["packing_seconds"] = pack.seconds
    for name, took in seconds.items():
        ratios = [a / b for a, b in zip(took, seconds["gmsearch"], strict=True)]
        rate = batch_size / median(took)
        print(f"{name:22}{rate:>8,.0f} images/s   gmsearch / this: {spread(ratios)}", flush=True)
        found[name] = {"images_per_second": rate, "ratios": ratios}
    return found


@contextmanager
def packed(folder: Path, resolutions: Iterable[int], batch_size: int) -> Iterator[dict[int, Pack]]:
    """Packs of the images of a folder, for a while. Raises UserError where there are fewer than a
    batch to train on, of which timm's loader makes none, or files that timm cannot read.
    """
    if is_pack(folder):
        raise SettingsError(f"{folder} is a pack, which timm cannot read; give the images")
    with tempfile.TemporaryDirectory() as scratch:
        packs = {}
        for px in resolutions:
            began = time.perf_counter()
            dataset = data.load(str(folder), resolution=px, seed=0, cache=Path(scratch))
            count = len(dataset.train)
            if count < batch_size:
                raise SettingsError(
                    f"{folder} has {count} images to train on, fewer than a batch of {batch_size}"
                )
            packs[px] = Pack(dataset, time.perf_counter() - began)
            print(f"packed at {px} px in {packs[px].seconds:.1f} s")
        yield packs


def main() -> None:
    arguments = parse_arguments()
    folder, px, size = arguments.folder, arguments.resolution, arguments.batch_size
    prepare(1)
    check(arguments.networks, [px], size)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    found: dict = {"machine": machine(device), "rounds": arguments.rounds, "rows": []}
    with packed(folder, [px], size) as packs:
        for what in arguments.networks:
            row = compare(what, folder, packs[px], size, arguments.rounds, device)
            found["rows"].append(row)
            write_json(arguments.json, found)


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=existing_folder, metavar="FOLDER")
    add_common(parser)
    parser.add_argument("--resolution", type=whole, default=64, metavar="PX", help="default: 64")
    parser.add_argument("--batch-size", type=whole, default=64, metavar="N", help="default: 64")
    return parser.parse_args()


if __name__ == "__main__":
    run(main)
