"""Augmentation of whole batches, on the device that trains.

Geometry is drawn for each image; colour operations for a few images together, since torchvision's
take one strength for all that they are given; mixup and CutMix for the batch. All randomness here
comes from the global generators of torch and Python, which `seed_everything` sets: they are the
ones that the libraries draw from.
"""

import random
from collections.abc import Callable
from functools import cache

import torch
from timm.data import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD
from timm.data.random_erasing import RandomErasing
from torch import Tensor
from torch.nn import functional as F
from torchvision.transforms import v2

from gmsearch.recipe import Recipe

TOGETHER = 8  # images that share the draw of a colour operation
CROP_RATIO = 4 / 3  # longest side of a resized crop to its shortest, as everybody has it
CROP_TRIES = 10
MAGNITUDES = 11  # of RandAugment: 0 to 10, as timm counts them
MAGNITUDE_DEVIATION = 0.5  # timm's mstd0.5


def seed_everything(seed: int) -> None:
    """Sets the generators that the augmentations, and dropout, draw from."""
    torch.manual_seed(seed)
    random.seed(seed)


def augment(
    images: Tensor, labels: Tensor, recipe: Recipe, *, resolution: int, num_classes: int
) -> tuple[Tensor, Tensor]:
    """What the recipe asks for, after flips and crops that only move.

    Takes uint8 (N, side, side, 3), `side` being `resolution` unless crops are resized, and int64
    (N,). Gives float (N, 3, resolution, resolution) in channels_last, normalised, and int64 (N,),
    or float (N, num_classes) where classes are mixed.
    """
    images = images.permute(0, 3, 1, 2)  # seen as (N, 3, side, side), in channels_last
    if recipe.min_crop_area < 1:
        images = resized_crops(images, recipe.min_crop_area, resolution)
    if recipe.color_jitter:
        strength = recipe.color_jitter
        images = _few_by_few(images, v2.ColorJitter(strength, strength, strength))
    if recipe.rand_augment:
        images = _few_by_few(images, lambda few: _rand_augment(recipe.rand_augment)(few))
    batch = normalise(images.permute(0, 2, 3, 1))
    if recipe.random_erasing:
        erase = RandomErasing(recipe.random_erasing, mode="pixel", device=batch.device)
        batch = erase(batch)
    mixes: list[Callable] = []
    if recipe.mixup:
        mixes.append(v2.MixUp(alpha=recipe.mixup, num_classes=num_classes))
    if recipe.cutmix:
        mixes.append(v2.CutMix(alpha=recipe.cutmix, num_classes=num_classes))
    if mixes:
        batch, labels = v2.RandomChoice(mixes)(batch, labels)
    return batch.contiguous(memory_format=torch.channels_last), labels


def resized_crops(images: Tensor, min_area: float, resolution: int) -> Tensor:
    """Random resized crops, one draw for each image: uint8 (N, 3, side, side) to
    (N, 3, resolution, resolution).

    Area and ratio are drawn as torchvision's RandomResizedCrop draws them. Sampling is bilinear,
    without antialiasing: the images of a pack are about a seventh larger than the crop, no more.
    """
    count = len(images)
    width, height = _sizes(count, min_area)
    x, y = ((1 - size) * (2 * torch.rand(count) - 1) for size in (width, height))
    zero = torch.zeros(count)
    # (N, 2, 3): from positions in the crop to positions in the image, both in [-1, 1]
    theta = torch.stack((width, zero, x, zero, height, y), 1).view(count, 2, 3)
    grid = F.affine_grid(
        theta.to(images.device, non_blocking=True),
        [count, 3, resolution, resolution],
        align_corners=False,
    )
    crops = F.grid_sample(images.float(), grid, padding_mode="border", align_corners=False)
    return crops.round().to(torch.uint8)


def _sizes(count: int, min_area: float) -> tuple[Tensor, Tensor]:
    """Width and height of crops, as shares of the image: of several draws the first that fits in
    it, else all of it.
    """
    area = torch.empty(CROP_TRIES, count).uniform_(min_area, 1)
    limit = torch.log(torch.tensor(CROP_RATIO))
    ratio = torch.exp((2 * torch.rand(CROP_TRIES, count) - 1) * limit)
    width, height = (area * ratio).sqrt(), (area / ratio).sqrt()
    fits = (width <= 1) & (height <= 1)
    first = fits.int().argmax(0, keepdim=True)
    none = ~fits.any(0)
    sizes = (size.gather(0, first)[0].masked_fill(none, 1.0) for size in (width, height))
    return next(sizes), next(sizes)


def normalise(images: Tensor) -> Tensor:
    """uint8 (N, side, side, 3) to float (N, 3, side, side) in channels_last, by ImageNet's mean and
    deviation.
    """
    count, height, width, _ = images.shape
    # Rows of a whole line: three columns would leave the vector units idle.
    scale, shift = _line(width, images.device)
    lines = images.reshape(count, height, width * 3)
    return torch.addcmul(shift, lines, scale).view(count, height, width, 3).permute(0, 3, 1, 2)


@cache
def _line(width: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """1 / deviation and -mean / deviation for the colours of one line of pixels."""
    mean = 255 * torch.tensor(IMAGENET_DEFAULT_MEAN, device=device)
    std = 255 * torch.tensor(IMAGENET_DEFAULT_STD, device=device)
    return (1 / std).repeat(width), (-mean / std).repeat(width)


def _few_by_few(images: Tensor, operation: Callable[[Tensor], Tensor]) -> Tensor:
    return torch.cat([operation(few) for few in images.split(TOGETHER)])


def _rand_augment(magnitude: float) -> Callable[[Tensor], Tensor]:
    """Two operations of a magnitude near the one that is asked for."""
    drawn = random.gauss(magnitude, MAGNITUDE_DEVIATION)
    return _rand_augment_at(round(min(max(drawn, 0), MAGNITUDES - 1)))


@cache
def _rand_augment_at(magnitude: int) -> Callable[[Tensor], Tensor]:
    return v2.RandAugment(num_ops=2, magnitude=magnitude, num_magnitude_bins=MAGNITUDES)
