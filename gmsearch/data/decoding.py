"""From an original image to the square of pixels that a pack holds. Decoding is Pillow's."""

import io

import numpy as np
from PIL import Image, UnidentifiedImageError

from gmsearch.errors import DataError

DRAFT = 3  # times the side, below which a JPEG is not shrunk while it is decoded: no eye sees it
FORMATS = (
    "JPEG",
    "PNG",
    "BMP",
    "WEBP",
    "PPM",
    "TIFF",
    "GIF",
)  # none that Pillow runs a program for
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
    target = min(max(min(image.size), resolution), side)
    # JPEG only: decodes fewer pixels, and tells where the edges of the image lie among them.
    drafted = image.draft("RGB", (DRAFT * side, DRAFT * side))
    edges = drafted[1] if drafted else (0, 0, *image.size)
    square = _centre_square(to_rgb(image), edges, target)
    before = (side - target) // 2
    around = (before, side - target - before)
    return np.pad(square, (around, around, (0, 0)), mode="reflect") if target < side else square


def shrink_square(pixels: np.ndarray, resolution: int) -> np.ndarray:
    """The square of a larger resolution as that of `resolution`: uint8 (side, side, 3)."""
    return to_square(Image.fromarray(pixels), resolution, side_for(resolution))


def open_image(image: bytes | Image.Image) -> Image.Image:
    """An image that may be encoded. Raises DataError where it is none, or too small to be one."""
    if isinstance(image, bytes):
        try:
            image = Image.open(io.BytesIO(image), formats=FORMATS)
        except UnidentifiedImageError:
            raise DataError("no format that is known") from None
    width, height = image.size
    if min(width, height) < SMALLEST:
        raise DataError(f"{width}x{height} pixels, fewer than {SMALLEST} on a side")
    return image


def to_rgb(image: Image.Image) -> Image.Image:
    """An image of any mode in 3 x 8 bits."""
    if image.mode in ("I", "F"):
        raise DataError("32 bits for a pixel, of a range that is not known")
    if image.mode.startswith("I;16"):  # which `convert` would cut off at 255
        grey = (np.asarray(image) // 256).clip(0, 255).astype(np.uint8)
        return Image.fromarray(grey).convert("RGB")
    if image.mode == "P" and "transparency" in image.info:
        image = image.convert("RGBA")
    return image.convert("RGB")


def _centre_square(
    image: Image.Image, edges: tuple[float, float, float, float], target: int
) -> np.ndarray:
    """The largest square in the middle of what lies between left, top, right and bottom edge."""
    left, top, right, bottom = edges
    short = min(right - left, bottom - top)
    if short == target:  # no pixel is mixed with another
        corner = round(left + right - short) // 2, round(top + bottom - short) // 2
        return np.asarray(image.crop((*corner, corner[0] + target, corner[1] + target)))
    x, y = (left + right - short) / 2, (top + bottom - short) / 2
    box = (x, y, x + short, y + short)
    return np.asarray(image.resize((target, target), Image.Resampling.BICUBIC, box))


def reason_of(error: Exception) -> str:
    """Why an image cannot be read, in one line."""
    text = getattr(error, "strerror", None) or str(error) or type(error).__name__
    return " ".join(text.split())
