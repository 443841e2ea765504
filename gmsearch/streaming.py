"""Batches that are decoded from original images in every epoch, through timm's loader.

Crops and flips are timm's, from the whole image; what else the recipe asks for is done to whole
batches, as for packs.
"""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from itertools import islice
from typing import Any

import numpy as np
import torch
from timm.data import create_loader
from timm.data.loader import fast_collate
from timm.data.transforms import ToNumpy
from torch.utils.data import DataLoader, Dataset
from torchvision.transforms import v2

from gmsearch.augment import augment, normalise, seed_everything
from gmsearch.data.decoding import side_for
from gmsearch.data.streamed import Originals, StreamedDataset
from gmsearch.errors import DataError
from gmsearch.feeding import EVAL_BATCH_SIZE, Batches, Feed
from gmsearch.recipe import Recipe


class StreamFeed(Feed):
    """The batches of one training. Each epoch is a function of (seed, epoch) and of the number of
    threads, which is that of the processes that decode.
    """

    def __init__(self, dataset: StreamedDataset, recipe: Recipe, **settings: Any) -> None:
        super().__init__(dataset, recipe, **settings)
        self._num_workers = torch.get_num_threads()

    def batches(self, epoch: int, start: int = 0) -> Batches:
        share = self.share
        mine = self.order(epoch).reshape(-1, share.parts)[:, list(share.mine)].ravel()
        num_batches = self.num_steps * share.accumulate
        rng = np.random.default_rng([self._seed, epoch, 0, 1 + share.rank])
        seeds = rng.integers(2**31, size=num_batches + 1).tolist()
        seed_everything(seeds.pop())  # the loader draws its order, and its workers' seeds
        recipe = replace(self._recipe, min_crop_area=1.0)  # crops are timm's already
        batches = zip(_checked(self._loader(mine)), seeds, strict=True)
        for (images, labels), seed in islice(batches, start * share.accumulate, None):
            seed_everything(seed)
            yield augment(
                images.to(self._device, non_blocking=True).permute(0, 2, 3, 1),
                labels.to(self._device, non_blocking=True),
                recipe,
                resolution=self._dataset.resolution,
                num_classes=len(self._dataset.classes),
            )

    def minival(self, which: np.ndarray | None = None) -> Batches:
        resolution, split = self._dataset.resolution, self._dataset.minival
        corner = (side_for(resolution) - resolution) // 2
        inner = slice(corner, corner + resolution)
        which = np.arange(len(split)) if which is None else which
        mine = which[self.share.rank :: self.share.workers]
        centres = _Decoded(split, mine, lambda i: split.square(i, resolution)[inner, inner].copy())
        loader: Any = DataLoader(
            centres, EVAL_BATCH_SIZE, num_workers=self._num_workers, collate_fn=_collate
        )
        for images, labels in _checked(loader):
            yield normalise(images.to(self._device)), labels.to(self._device)

    def _loader(self, which: np.ndarray) -> Any:
        """timm's, of some images in random order: uint8 (N, 3, side, side) and labels."""
        recipe, side = self._recipe, self._dataset.resolution
        split = self._dataset.train
        moving = recipe.min_crop_area == 1
        image = (lambda i: split.square(i, side)) if moving else split.image
        images: Any = _Decoded(split, which, image)
        loader = create_loader(
            images,
            (3, side, side),
            self.batch_size // self.share.parts,
            is_training=True,
            scale=(recipe.min_crop_area, 1.0),
            hflip=0.5 if recipe.flip else 0.0,
            color_jitter=0.0,
            interpolation="bicubic",
            num_workers=self._num_workers,
            pin_memory=self._device.type == "cuda",
            device=self._device,
            persistent_workers=False,
            collate_fn=_collate,
        )
        if moving:
            images.transform = _moving_crops(side, recipe.flip)
        return loader.loader  # without the part that normalises


def _moving_crops(side: int, flip: bool) -> Callable:
    """Crops and flips of the squares that a pack has."""
    flips = v2.RandomHorizontalFlip(0.5 if flip else 0.0)
    return v2.Compose([v2.ToPILImage(), v2.RandomCrop(side), flips, ToNumpy()])


def _checked(batches: Iterable) -> Iterator[Any]:
    """Batches; raises the error that one is."""
    for batch in batches:
        if isinstance(batch, DataError):
            raise batch
        yield batch


def _collate(samples: list[Any]) -> Any:
    """A batch, or the error of a sample that cannot be read."""
    errors = [sample for sample in samples if isinstance(sample, DataError)]
    return errors[0] if errors else fast_collate(samples)


class _Decoded(Dataset):
    """Images by index, with labels, as torch's loaders have it."""

    transform: Callable | None = None  # timm's loader sets it

    def __init__(self, split: Originals, which: np.ndarray, image: Callable[[int], Any]) -> None:
        self._split = split
        self._which = which
        self._image = image

    def __len__(self) -> int:
        return len(self._which)

    def __getitem__(self, index: int) -> tuple[Any, int] | DataError:
        """An error is returned: raised, it would keep the processes of the loader waiting."""
        index = int(self._which[index])
        try:
            image = self._image(index)
        except DataError as error:
            return error
        return self.transform(image) if self.transform else image, int(self._split.labels[index])
