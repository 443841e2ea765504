"""What networks of different kinds reach on the built-in data, as `data/bands.py` tells.

    python benchmarks/bands.py

A linear model, in closed form, and GmNet at 300M MACs with the identity for its activation and as
it is, each trained as a search trial is. Takes about four minutes on one core.
"""

import argparse

import numpy as np
import torch

from gmsearch import data
from gmsearch.architecture import Architecture
from gmsearch.gmnet import gmnet_within, with_changes
from gmsearch.recipe import Recipe
from gmsearch.training import start, train


def pixels(split: data.Split) -> np.ndarray:
    """The centres of the images, one in a row, in [-0.5, 0.5]."""
    corner = (split.images.side - 32) // 2
    centres = split.images.arrays[0][:, corner : corner + 32, corner : corner + 32]
    return centres.reshape(len(split), -1) / 255 - 0.5


def ridge_regression(dataset: data.Dataset, strength: float) -> float:
    """top1 on minival of least squares on the pixels."""
    x, t = (pixels(split) for split in (dataset.train, dataset.minival))
    targets = np.eye(len(dataset.classes))[dataset.train.labels]
    weights = np.linalg.solve(x.T @ x + strength * np.eye(x.shape[1]), x.T @ targets)
    return 100 * float(((t @ weights).argmax(1) == dataset.minival.labels).mean())


def trained(architecture: Architecture, dataset: data.Dataset, seed: int) -> float:
    """top1 on minival after the last epoch of a search trial."""
    state = start(architecture, len(dataset.classes), Recipe(), seed=seed, resolution=32)
    *_, last = train(state, dataset, Recipe(), seed=seed)
    return last.top1


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, default=2, metavar="N")
    seeds = range(parser.parse_args().seeds)
    torch.set_num_threads(1)
    gmnet = gmnet_within(300_000_000, resolution=224, num_classes=1000)
    assert gmnet is not None
    identity = with_changes(gmnet, activation="identity")
    for seed in seeds:
        dataset = data.load("bands", resolution=32, seed=seed)
        linear = max(ridge_regression(dataset, strength) for strength in (10, 100, 1000))
        print(
            f"seed {seed}: ridge regression {linear:.1f}, "
            f"identity network {trained(identity, dataset, seed):.1f}, "
            f"GmNet {trained(gmnet, dataset, seed):.1f}",
            flush=True,
        )


if __name__ == "__main__":
    main()
