"""What looking at bands will cost, counted before anything is trained."""

from typing import NamedTuple

import numpy as np

from gmsearch.data import AnyDataset
from gmsearch.feeding import choose_share
from gmsearch.radii import PASSES_OF_A_STEP, Watch
from gmsearch.recipe import Recipe

WORTH_TELLING = 0.1  # of the rest of an epoch


class Looking(NamedTuple):
    """How many images are looked at, and the passes that takes over those of the rest of an
    epoch.
    """

    num_images: int
    share: float


def expected_looking(watch: Watch, dataset: AnyDataset, recipe: Recipe) -> Looking:
    """By passes, as `Watch` counts them, but with the images that are in fact chosen: one of each
    class at least.
    """
    labels = dataset.minival.labels
    num_train = len(choose_share(dataset.train.labels, recipe.train_share, seed=0))
    num_images = len(choose_share(labels, watch.share_of(num_train, len(labels)), seed=0))
    rest = PASSES_OF_A_STEP * num_train + len(labels)
    return Looking(num_images, len(watch.names) * num_images / rest)


def warning_of_cost(watch: Watch | None, dataset: AnyDataset, recipe: Recipe) -> str | None:
    """A line for one who is about to train; None where looking costs little."""
    if watch is None:
        return None
    num_images, share = expected_looking(watch, dataset, recipe)
    if share <= WORTH_TELLING:
        return None
    images, remedy = f"{num_images:,} images", "fewer radii or a lower --frequency-share"
    if num_images == len(np.unique(dataset.minival.labels)):
        images, remedy = (
            f"{num_images:,} images, one of each class and so the least,",
            "fewer radii",
        )
    return (
        f"bands: looking at {len(watch.names)} parts of {images} will take about {share:.0%} of "
        f"the rest of an epoch, by the number of passes; for less, give {remedy}"
    )
