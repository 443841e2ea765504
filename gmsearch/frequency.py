"""Images by frequency: what lies within a circle of their spectrum, and what lies beyond.

    low, high = split(images, radius)

The protocol of the GmNet paper (arXiv 2503.22841): a centred DFT and a circular mask, with the
circle itself inside. It is linear, so it may be done to normalised images, as networks see them:
the high part then has the mean of the data set for its grey, since the mean of the image is in the
low part.
"""

from collections.abc import Iterable, Iterator
from functools import lru_cache
from itertools import chain

import numpy as np
import torch
from torch import Tensor, nn

from gmsearch.precision import autocast
from gmsearch.radii import RAW, band_names, bins, check_radius, corner, radius_of


def split(images: Tensor, radius: float) -> tuple[Tensor, Tensor]:
    """The parts of images (…, height, width) within and beyond a radius in bins of their DFT.

    Both are real and of the shape of the images, in float64 for float64 and else in float32, and
    they add up to the images as exactly as such numbers can. A bin counts along the shorter side:
    where images are not square, the circle is one in cycles per pixel, the same frequency in every
    direction, and an ellipse in bins. A circle that leaves the rectangle is cut by it.

    An empty batch has empty parts. Raises SettingsError for a radius of 0 or less, and for one at
    which nothing lies beyond, as where images are smaller than the mask; ValueError for a tensor
    that has no images, TypeError for a complex one.
    """
    if images.is_complex():
        raise TypeError(f"images of {images.dtype}: only real ones can be split; give their .real")
    if images.ndim < 2 or 0 in images.shape[-2:]:
        raise ValueError(
            f"images of shape {tuple(images.shape)}: give (…, height, width), of 1 px or more"
        )
    images = images if images.dtype == torch.float64 else images.float()
    height, width = images.shape[-2:]
    mask = _mask(height, width, radius, images.device)
    if images.numel() == 0:  # MKL has no transform of nothing
        return images.clone(), images.clone()
    low = torch.fft.irfft2(torch.fft.rfft2(images) * mask, s=(height, width))
    return low, images - low


def parts(images: Tensor, radii: Iterable[float]) -> Iterator[tuple[str, Tensor]]:
    """The parts at published radii (see `radii`), by the names that these give them."""
    for radius in radii:
        both = split(images, bins(radius, min(images.shape[-2:])))
        yield from zip(band_names([radius]), both, strict=True)


@lru_cache(maxsize=64)
def _mask(height: int, width: int, radius: float, device: torch.device) -> Tensor:
    """bool (height, width // 2 + 1): the frequencies within a radius, as `rfft2` lays them out.

    It is the half of a mask that has every frequency together with its negative, which is why the
    parts of a real image are real.
    """
    check_radius(radius, corner(height, width), f"of images of {width}x{height} px")
    shorter = min(height, width)
    y, x = (np.minimum(np.arange(n), n - np.arange(n)) * (shorter / n) for n in (height, width))
    square = y[:, None] ** 2 + x[None, : width // 2 + 1] ** 2
    with torch.inference_mode(False):  # it may be kept for one who wants gradients
        return torch.from_numpy(square <= radius**2).to(device)


@torch.inference_mode()
def hits_by_part(
    model: nn.Module,
    batches: Iterable[tuple[Tensor, Tensor]],
    names: Iterable[str],
    precision: str = "fp32",
) -> dict[str, Tensor]:
    """Whether a model is right about each part of each image: bool (N,) by name, on the device of
    the images. A name is `low12` or the like, or `raw` for the image itself.

    Takes normalised images and their labels. Logits that are not finite count as wrong.
    """
    model.eval()
    hits: dict[str, list[Tensor]] = {name: [] for name in names}
    radii = {radius_of(name): None for name in hits if name != RAW}
    for batch, target in batches:
        for name, part in chain([(RAW, batch)], parts(batch, radii)):
            if name not in hits:
                continue
            with autocast(batch.device, precision):
                logits = model(part.contiguous(memory_format=torch.channels_last)).float()
            hits[name].append(logits.isfinite().all(1) & (logits.argmax(1) == target))
    return {name: torch.cat(found) for name, found in hits.items()}


def energy_shares(images: Tensor, radii: Iterable[float]) -> dict[float, Tensor]:
    """The share of an image's energy, its mean left out, that lies within each published radius:
    (N,) of images (N, channels, height, width).
    """
    images = images - images.mean((-2, -1), keepdim=True)
    whole = images.square().sum((1, 2, 3))
    lows = ((radius, split(images, bins(radius, min(images.shape[-2:])))[0]) for radius in radii)
    return {radius: low.square().sum((1, 2, 3)) / whole for radius, low in lows}
