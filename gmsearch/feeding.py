"""Batches for the training loop, from arrays in memory or mapped from disk.

    feed = ArrayFeed(dataset, recipe, seed=0, device=device)
    for images, targets in feed.batches(epoch):  # one epoch of training
    for images, labels in feed.minival():

Every batch is a function of (seed, epoch, step) alone: a training that stops anywhere and goes on
sees the batches that it would have seen, whoever fetched the ones before.
"""

import warnings
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from gmsearch.augment import augment, normalise, seed_everything
from gmsearch.data import AnyDataset, Dataset, Shards
from gmsearch.recipe import Recipe

EVAL_BATCH_SIZE = 256
RESIDENT_SHARE = 0.5  # of a GPU's free memory that the images may take
AHEAD = 2  # batches that are fetched while one is trained on, where images do not fit a GPU

Batches = Iterator[tuple[Tensor, Tensor]]


class Crops(NamedTuple):
    """Which images, and the square of `side` px of each: int64 arrays (N,)."""

    which: np.ndarray
    top: np.ndarray
    left: np.ndarray
    side: int


class Images(ABC):
    """The images of a split, where a training can have them."""

    side: int  # pixels

    @abstractmethod
    def take(self, crops: Crops) -> Tensor:
        """uint8 (N, side, side, 3) on the device that trains."""

    def in_turn(self, plans: Iterable[Crops]) -> Iterator[Tensor]:
        """`take` for one after the other."""
        return map(self.take, plans)


class Mapped(Images):
    """On a CPU: copied from the mapping as they are needed. Processes share its pages."""

    def __init__(self, images: Shards) -> None:
        self._images = images
        self.side = images.side

    def take(self, crops: Crops) -> Tensor:
        batch = torch.empty(len(crops.which), crops.side, crops.side, 3, dtype=torch.uint8)
        self.copy(crops, batch.numpy())
        return batch

    def copy(self, crops: Crops, batch: np.ndarray) -> None:
        index, top, left, side = crops
        corners = zip(index.tolist(), top.tolist(), left.tolist(), strict=True)
        for place, (i, t, x) in enumerate(corners):
            batch[place] = self._images[i][t : t + side, x : x + side]


class Resident(Images):
    """On a GPU: all of them in its memory, one copy for each process."""

    def __init__(self, images: Shards, device: torch.device) -> None:
        self._images = _resident(images, device)
        self.side = images.side

    def take(self, crops: Crops) -> Tensor:
        """One gather, from a view of all crops there are."""
        index, top, left, side = crops
        count, whole = self._images.shape[:2]
        places = whole - side + 1
        windows = self._images.as_strided(
            (count, places, places, side, 3 * side), (3 * whole**2, 3 * whole, 3, 3 * whole, 1)
        )
        device = self._images.device
        at = (torch.from_numpy(each).to(device, non_blocking=True) for each in (index, top, left))
        return windows[tuple(at)].view(len(index), side, side, 3)


class Staged(Mapped):
    """On a GPU whose memory is too small: copied through pinned memory, some batches ahead."""

    def __init__(self, images: Shards, device: torch.device) -> None:
        super().__init__(images)
        self._device = device

    def take(self, crops: Crops) -> Tensor:
        return self._pinned(crops).to(self._device, non_blocking=True)

    def _pinned(self, crops: Crops) -> Tensor:
        shape = len(crops.which), crops.side, crops.side, 3
        batch = torch.empty(shape, dtype=torch.uint8, pin_memory=True)
        self.copy(crops, batch.numpy())
        return batch

    def in_turn(self, plans: Iterable[Crops]) -> Iterator[Tensor]:
        """A thread copies what comes next while the GPU is busy."""
        fetched: deque[Future[Tensor]] = deque()
        with ThreadPoolExecutor(1) as pool:
            for crops in plans:
                fetched.append(pool.submit(self._pinned, crops))
                if len(fetched) > AHEAD:
                    yield fetched.popleft().result().to(self._device, non_blocking=True)
            while fetched:
                yield fetched.popleft().result().to(self._device, non_blocking=True)


def place(images: Shards, device: torch.device) -> Images:
    """Images where a training on `device` has them fastest."""
    if device.type == "cpu":
        return Mapped(images)
    is_there = (images, device) in _residents
    if device.type == "cuda" and not is_there and images.nbytes > RESIDENT_SHARE * _free(device):
        return Staged(images, device)
    try:
        return Resident(images, device)
    except torch.OutOfMemoryError:  # another process was faster
        return Staged(images, device)


def _free(device: torch.device) -> int:
    """Bytes that a GPU has to spare, what torch holds in reserve included."""
    reserve = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
    return torch.cuda.mem_get_info(device)[0] + reserve


_residents: dict[tuple[Shards, torch.device], Tensor] = {}  # they stay for the next trial


def _resident(images: Shards, device: torch.device) -> Tensor:
    """All images on a device, copied there once for each process."""
    if (images, device) not in _residents:
        if len(_residents) > 1:  # train and minival of another data set
            _residents.clear()
        shape = len(images), images.side, images.side, 3
        counts = [len(array) for array in images.arrays]
        everything = torch.empty(shape, dtype=torch.uint8, device=device)
        with warnings.catch_warnings():
            # The mapping is read-only; torch warns since it cannot forbid writing. We only read.
            warnings.filterwarnings("ignore", message="The given NumPy array is not writable")
            for part, array in zip(everything.split(counts), images.arrays, strict=True):
                part.copy_(torch.from_numpy(array))
        _residents[images, device] = everything
    return _residents[images, device]


@dataclass(frozen=True)
class Share:
    """What one of several workers has of every batch.

    A batch is cut into `workers` x `accumulate` parts, each of which is trained on by itself, as
    far as norms see it. One worker that accumulates two parts and two workers with one part each
    train on the same.
    """

    rank: int = 0
    workers: int = 1
    accumulate: int = 1  # parts of a step for each worker, one after the other

    @property
    def parts(self) -> int:
        return self.workers * self.accumulate

    @property
    def mine(self) -> range:
        """The parts of this worker."""
        return range(self.rank, self.parts, self.workers)


ALONE = Share()


def choose_share(labels: np.ndarray, share: float, seed: int) -> np.ndarray:
    """Indices, in order, of a share of the images of each class, one at least, drawn by seed.

    A larger share of the same seed holds the smaller one.
    """
    if share == 1:
        return np.arange(len(labels))
    rng = np.random.default_rng([seed, 0x5A])  # apart from the generators of epochs
    drawn = rng.permutation(len(labels))
    by_class = drawn[np.argsort(labels[drawn], kind="stable")]
    counts = np.bincount(labels)
    place = np.arange(len(labels)) - np.repeat(np.cumsum(counts) - counts, counts)
    wanted = np.maximum(1, np.round(share * counts)).astype(int)
    return np.sort(by_class[place < np.repeat(wanted, counts)])


class Feed(ABC):
    """The batches of one training: `num_steps` of `batch_size` images an epoch, of which this
    worker has its `share`.
    """

    def __init__(
        self,
        dataset: AnyDataset,
        recipe: Recipe,
        *,
        seed: int,
        device: torch.device,
        share: Share = ALONE,
    ) -> None:
        self.share = share
        self.chosen = choose_share(dataset.train.labels, recipe.train_share, seed)
        self.batch_size = min(recipe.batch_size, len(self.chosen))  # of all workers together
        self.num_steps = len(self.chosen) // self.batch_size
        self._dataset: Any = dataset
        self._recipe = recipe
        self._seed = seed
        self._device = device

    def order(self, epoch: int) -> np.ndarray:
        """The images of an epoch, as many as fill its batches, in random order."""
        rng = np.random.default_rng([self._seed, epoch])
        return self.chosen[rng.permutation(len(self.chosen))[: self.num_steps * self.batch_size]]

    @abstractmethod
    def batches(self, epoch: int, start: int = 0) -> Batches:
        """One pass over the training images in random order, in full batches, from step `start` on:
        for every step the parts of this worker, each float (N, 3, side, side) in channels_last, and
        targets as `augment` gives them.
        """

    @property
    def minival_labels(self) -> np.ndarray:
        """int64 (N,), of all of minival."""
        return self._dataset.minival.labels

    @abstractmethod
    def minival(self, which: np.ndarray | None = None) -> Batches:
        """The images of minival, or those of some indices, or this worker's of them: their centres,
        and their labels.
        """


class ArrayFeed(Feed):
    """Batches of arrays, in memory or mapped."""

    def __init__(self, dataset: Dataset, recipe: Recipe, **settings: Any) -> None:
        super().__init__(dataset, recipe, **settings)
        self._images = place(dataset.train.images, self._device)
        self._minival = place(dataset.minival.images, self._device)

    def batches(self, epoch: int, start: int = 0) -> Batches:
        in_steps = self.order(epoch).reshape(self.num_steps, self.batch_size)
        steps = [
            self._draw(in_steps[step, part :: self.share.parts], epoch, step, part)
            for step in range(start, self.num_steps)
            for part in self.share.mine
        ]
        for step, images in zip(
            steps, self._images.in_turn(step.crops for step in steps), strict=True
        ):
            seed_everything(step.seed)
            if step.num_flipped:  # torch has a fast flip for this order of dimensions
                last = images[-step.num_flipped :].permute(0, 3, 1, 2)
                last.copy_(last.flip(3))
            labels = torch.from_numpy(self._dataset.train.labels[step.crops.which])
            yield augment(
                images,
                labels.to(self._device, non_blocking=True),
                self._recipe,
                resolution=self._dataset.resolution,
                num_classes=len(self._dataset.classes),
            )

    def minival(self, which: np.ndarray | None = None) -> Batches:
        labels, resolution = self.minival_labels, self._dataset.resolution
        return in_order(self._minival, labels, resolution, self._device, self.share, which)

    def _draw(self, index: np.ndarray, epoch: int, step: int, part: int) -> "_Step":
        """What is random of a part of a batch, but for what `augment` draws.

        The images to be flipped are the last ones: their order in a batch means nothing, and so
        all are flipped at once.
        """
        rng = np.random.default_rng([self._seed, epoch, 1 + step, part])
        resized = self._recipe.min_crop_area < 1
        whole, side = self._dataset.train.images.side, self._dataset.resolution
        places = 1 if resized else whole - side + 1
        top, left = rng.integers(0, places, (2, len(index)))
        num_flipped = int(rng.binomial(len(index), 0.5)) if self._recipe.flip else 0
        crops = Crops(index, top, left, whole if resized else side)
        return _Step(crops, num_flipped, int(rng.integers(2**31)))


class _Step(NamedTuple):
    crops: Crops
    num_flipped: int
    seed: int  # of all that `augment` and the network draw


def in_order(
    images: Images,
    labels: np.ndarray,
    resolution: int,
    device: torch.device,
    share: Share = ALONE,
    which: np.ndarray | None = None,
) -> Batches:
    """All images of a split or those of some indices, or this worker's: their centres, float
    (N, 3, resolution, resolution), and labels.
    """
    corner = (images.side - resolution) // 2
    mine = (np.arange(len(labels)) if which is None else which)[share.rank :: share.workers]
    for index in np.array_split(mine, range(EVAL_BATCH_SIZE, len(mine), EVAL_BATCH_SIZE)):
        corners = np.full(len(index), corner)
        batch = images.take(Crops(index, corners, corners, resolution))
        yield normalise(batch), torch.from_numpy(labels[index]).to(device)
