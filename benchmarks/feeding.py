"""How fast training images are fed, beside timm's loader and torchvision's, on the same images.

    python benchmarks/feeding.py SRC [--resolutions 64 128]

SRC is what `gmsearch pack` reads, or a folder of plain JPEGs, each of which is then taken twenty
times. Its images are laid out in a folder for the others and packed for us; then each feeds some
batches in turn, on one thread of one core, and a training step of GmNet at 300M MACs is timed
between them. Two recipes: that of a search, and that of the GmNet paper (resized crops,
RandAugment, random erasing, mixup and CutMix). timm and torchvision always resize their crops, as
they have no crop that only moves; torchvision has the search recipe only.
"""

import argparse
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

import torch
from timm.data import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD, Mixup, create_dataset
from timm.data import create_loader as timm_loader
from torch import Tensor
from torch.nn import functional as F
from torch.utils.data import DataLoader
from torchvision.datasets import ImageFolder
from torchvision.transforms import v2

from gmsearch import data
from gmsearch.data.opening import open_source
from gmsearch.data.selection import Selection, choose
from gmsearch.errors import DataError
from gmsearch.feeding import ArrayFeed
from gmsearch.gmnet import gmnet_within
from gmsearch.recipe import Recipe
from gmsearch.training import start

BATCH_SIZE = 128
PER_CLASS = 50  # images that are laid out
COPIES = 20  # of each image of a plain folder
SEARCH = Recipe(batch_size=BATCH_SIZE)
PAPER = Recipe(
    batch_size=BATCH_SIZE,
    min_crop_area=0.08,
    rand_augment=1.0,
    random_erasing=0.25,
    mixup=0.8,
    cutmix=0.2,
)

Batches = Iterator[tuple[Tensor, Tensor]]


def lay_out(source: str, folder: Path) -> None:
    """Original files as FOLDER/train/CLASS/…, encoded as they are."""
    try:
        images = open_source(source)
    except DataError:
        for file in sorted(Path(source).glob("*.*")):
            into = folder / "train" / file.stem.partition("_")[0]
            into.mkdir(parents=True)
            for copy in range(COPIES):
                shutil.copy(file, into / f"{copy}{file.suffix}")
        return
    counts = [len(members) for members in images.splits["train"].values()]
    plan = choose(images, Selection(per_class=min(PER_CLASS, *counts)))
    for member in plan.splits["train"]:
        into = folder / "train" / member.label
        into.mkdir(parents=True, exist_ok=True)
        (into / Path(member.name).name).write_bytes(images.read(member))


def ours(folder: Path, resolution: int, recipe: Recipe) -> Batches:
    dataset = data.load(str(folder), resolution=resolution, seed=0, cache=folder.parent)
    feed = ArrayFeed(dataset, recipe, seed=0, device=torch.device("cpu"))
    for epoch in range(10**6):
        yield from feed.batches(epoch)


def timms(folder: Path, resolution: int, recipe: Recipe) -> Batches:
    dataset = create_dataset("", root=str(folder), split="train")
    magnitude = f"rand-m{recipe.rand_augment:g}-mstd0.5-inc1"
    loader = timm_loader(
        dataset,
        (3, resolution, resolution),
        BATCH_SIZE,
        is_training=True,
        color_jitter=0.0,
        auto_augment=magnitude if recipe.rand_augment else None,
        re_prob=recipe.random_erasing,
        re_mode="pixel",
        num_workers=0,
        use_prefetcher=False,
        persistent_workers=False,
        device=torch.device("cpu"),
    )
    mix = Mixup(recipe.mixup, recipe.cutmix, num_classes=1000) if recipe.mixup else lambda *b: b
    while True:
        yield from (mix(*batch) for batch in loader)


def torchvisions(folder: Path, resolution: int) -> Batches:
    steps = [v2.RandomResizedCrop(resolution), v2.RandomHorizontalFlip(), v2.ToImage()]
    to_float = v2.ToDtype(torch.float32, scale=True)
    normalise = v2.Normalize(IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD)
    images = ImageFolder(str(folder / "train"), v2.Compose([*steps, to_float, normalise]))
    loader: Any = DataLoader(images, BATCH_SIZE, shuffle=True, drop_last=True)
    while True:
        yield from loader


def stepper(resolution: int) -> Callable[[Tensor], None]:
    """A training step of the network that a 300M search starts from."""
    network = gmnet_within(300_000_000, resolution=224, num_classes=1000)
    assert network is not None
    state = start(network, 1000, SEARCH, seed=0, resolution=resolution)
    state.model.train()

    def step(images: Tensor) -> None:
        state.optimizer.zero_grad()
        F.cross_entropy(state.model(images), torch.zeros(len(images), dtype=torch.int64)).backward()
        state.optimizer.step()

    return step


def seconds(action: Callable[[], object]) -> float:
    began = time.perf_counter()
    action()
    return time.perf_counter() - began


def spread(values: list[float], digits: int = 0) -> str:
    low, middle, high = (f"{v:,.{digits}f}" for v in (min(values), median(values), max(values)))
    return f"{middle} ({low}-{high})"


def compare(folder: Path, resolution: int, rounds: int) -> None:
    """Prints a line for each feeder and recipe at one resolution."""
    feeders: dict[tuple[str, str], Batches] = {
        ("search", "gmsearch"): ours(folder, resolution, SEARCH),
        ("search", "timm"): timms(folder, resolution, SEARCH),
        ("search", "torchvision"): torchvisions(folder, resolution),
        ("paper", "gmsearch"): ours(folder, resolution, PAPER),
        ("paper", "timm"): timms(folder, resolution, PAPER),
    }
    step = stepper(resolution)
    images = {name: next(feeder)[0] for name, feeder in feeders.items()}
    rates: dict[tuple[str, str], list[float]] = {name: [] for name in feeders}
    shares: dict[tuple[str, str], list[float]] = {name: [] for name in feeders}
    for _ in range(rounds):
        trained = seconds(partial(step, images["search", "gmsearch"]))
        for name, feeder in feeders.items():
            batches = 5 if name[1] == "gmsearch" else 1
            fed = seconds(lambda f=feeder, n=batches: [next(f) for _ in range(n)]) / batches
            rates[name].append(BATCH_SIZE / fed)
            shares[name].append(100 * fed / trained)
    for name, rate in rates.items():
        recipe, who = name
        ratios = [a / b for a, b in zip(rates[recipe, "gmsearch"], rate, strict=True)]
        print(
            f"{resolution:>4}  {recipe:<7} {who:<12} {spread(rate):>24} "
            f"{spread(ratios, 1):>20} {spread(shares[name], 1):>20}",
            flush=True,
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("source", metavar="SRC")
    parser.add_argument("--resolutions", type=int, nargs="+", default=[64, 128], metavar="PX")
    parser.add_argument("--rounds", type=int, default=9, metavar="N")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    print(
        f"{'px':>4}  {'recipe':<7} {'who':<12} {'images/s, median (range)':>24} "
        f"{'gmsearch / this':>20} {'% of a training step':>20}"
    )
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch) / "set"
        lay_out(arguments.source, folder)
        for resolution in arguments.resolutions:
            compare(folder, resolution, arguments.rounds)


if __name__ == "__main__":
    main()
