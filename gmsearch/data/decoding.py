"""From an original image to the square of pixels that a pack holds. Decoding is Pillow's."""

import io

import numpy as np
from PIL import Image, UnidentifiedImageError

from gmsearch.errors import DataError

SMALLEST = 4  # pixels; what has fewer on a side shows nothing


def side_for(resolution: int) -> int:
    """Pixels that are kept for crops of `resolution`: 256 for 224, the usual head-room."""
    return resolution + round(resolution / 7)


def to_square(image: bytes | Image.Image, resolution: int, side: int) -> np.ndarray:
    """An image of any mode and size as uint8 (side, side, 3).

    The centre square is resized, with antialiasing, to `side`; where the image has fewer pixels
    than that, only to as many as it has, `resolution` at least, and its mirrored border fills the
    rest. So the centre crop at `resolution` is never blurred for the sake of the head-room.

    Raises DataError with a reason for an image that is too small, or no image; and what Pillow
    raises for one that is broken.
    """
    image = open_image(image)
    width, height = image.size
    if min(width, height) < SMALLEST:
        raise DataError(f"{width}x{height} pixels, fewer than {SMALLEST} on a side")
    target = min(max(min(width, height), resolution), side)
    image.draft("RGB", (2 * side, 2 * side))  # JPEG only: decodes fewer pixels
    square = _centre_square(to_rgb(image), target)
    before = (side - target) // 2
    around = (before, side - target - before)
    return np.pad(square, (around, around, (0, 0)), mode="reflect") if target < side else square


def open_image(image: bytes | Image.Image) -> Image.Image:
    """An image that may be encoded. Raises DataError where it is none."""
    if isinstance(image, Image.Image):
        return image
    try:
        return Image.open(io.BytesIO(image))
    except UnidentifiedImageError:
        raise DataError("no format that is known") from None


def to_rgb(image: Image.Image) -> Image.Image:
    """An image of any mode in 3 x 8 bits."""
    if image.mode.startswith("I"):  # 16 bits a pixel, which `convert` would cut off at 255
        grey = (np.asarray(image) // 256).clip(0, 255).astype(np.uint8)
        return Image.fromarray(grey).convert("RGB")
    if image.mode == "P" and "transparency" in image.info:
        image = image.convert("RGBA")
    return image.convert("RGB")


def _centre_square(image: Image.Image, target: int) -> np.ndarray:
    width, height = image.size
    short = min(width, height)
    left, top = (width - short) // 2, (height - short) // 2
    box = (left, top, left + short, top + short)
    if short == target:
        return np.asarray(image.crop(box))
    return np.asarray(image.resize((target, target), Image.Resampling.BICUBIC, box))


def reason_of(error: Exception) -> str:
    """Why an image cannot be read, in one line."""
    text = getattr(error, "strerror", None) or str(error) or type(error).__name__
    return " ".join(text.split())
