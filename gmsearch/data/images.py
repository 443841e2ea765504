"""Real images in ImageNet layout: `train/<class>/*` and `val/<class>/*`, in a folder or in a zip of
one.

All images of a split are decoded once, to uint8 arrays in memory: the short side is resized to the
resolution with antialiasing and the centre is cut out. Decoding is Pillow's. Nothing of a zip is
unpacked to disk.
"""

import io
import os
import zipfile
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import numpy as np
from PIL import Image, UnidentifiedImageError

from gmsearch.data.records import Dataset, Split, cut_minival
from gmsearch.errors import DataError

SUFFIXES = (".jpeg", ".jpg", ".png", ".bmp", ".webp", ".ppm", ".tif", ".tiff", ".gif")
MINIVAL_SHARE = 0.1
MEMORY_SHARE = 0.25  # of the machine's memory that decoded images may take: there are two copies


@dataclass(frozen=True)
class _Files:
    """The files of a folder or zip by name, with a function that reads one."""

    path: Path
    names: list[str]
    read: Callable[[str], bytes]


def load_images(path: Path, resolution: int, seed: int) -> Dataset:
    """Reads `train` and cuts minival from it by seed, a tenth of every class.

    Raises DataError for a path that is not there or has no `train`, for fewer than two classes, for
    a class of fewer than two images, for an image that cannot be decoded, and for more images than
    fit the memory.
    """
    files = _open(path)
    split, classes = _read_split(files, "train", resolution)
    counts = np.bincount(split.labels)
    if counts.min() < 2:
        name = classes[counts.argmin()]
        raise DataError(
            f"{path}: class '{name}' has one image in train; "
            "two are needed, one of them for minival"
        )
    train, minival = cut_minival(split, MINIVAL_SHARE, seed)
    return Dataset(name=path.stem, classes=classes, train=train, minival=minival)


def load_images_val(path: Path, resolution: int) -> Split:
    """Reads the official `val` split, for final figures only. Raises DataError as `load_images`
    does.
    """
    return _read_split(_open(path), "val", resolution)[0]


def _open(path: Path) -> _Files:
    if path.is_dir():
        names = [
            (Path(folder) / file).relative_to(path).as_posix()
            for folder, _, files in os.walk(path, followlinks=True)
            for file in files
        ]
        return _Files(path, names, lambda name: (path / name).read_bytes())
    if not path.exists():
        raise DataError(
            f"{path}: no such data; give 'bands', or a folder or zip in ImageNet layout"
        )
    try:
        archive = zipfile.ZipFile(path)
    except (zipfile.BadZipFile, OSError) as error:
        raise DataError(f"{path}: neither a folder nor a readable zip ({error})") from None
    return _Files(path, archive.namelist(), archive.read)


def _read_split(files: _Files, split: str, resolution: int) -> tuple[Split, tuple[str, ...]]:
    by_class = _list_split(files, split)
    classes = tuple(sorted(by_class))
    if len(classes) < 2:
        found = f"one class ('{classes[0]}')" if classes else "no images"
        raise DataError(
            f"{files.path}: {found} under {split}/<class>/; a classifier needs two classes or more"
        )
    members = [(name, label) for label, c in enumerate(classes) for name in sorted(by_class[c])]
    _check_memory(files.path, len(members), resolution)
    images = np.empty((len(members), resolution, resolution, 3), np.uint8)

    def decode_into(index: int) -> None:
        name = members[index][0]
        try:
            images[index] = decode(files.read(name), resolution)
        except Exception as error:  # whatever a broken file makes of the decoder
            unknown = isinstance(error, UnidentifiedImageError)
            reason = "no format that is known" if unknown else error
            raise DataError(
                f"{files.path}: the image {name} cannot be decoded ({reason}); remove or replace it"
            ) from None

    with ThreadPoolExecutor() as pool:
        for _ in pool.map(decode_into, range(len(members))):
            pass
    return Split(images, np.array([label for _, label in members], np.int64)), classes


def decode(data: bytes, resolution: int) -> np.ndarray:
    """An encoded image of any mode as uint8 (resolution, resolution, 3)."""
    with Image.open(io.BytesIO(data)) as image:
        image.draft("RGB", (2 * resolution, 2 * resolution))  # JPEG only: decodes fewer pixels
        if image.mode.startswith("I"):  # 16 bits a pixel, which `convert` would cut off at 255
            grey = (np.asarray(image) // 256).clip(0, 255).astype(np.uint8)
            rgb = Image.fromarray(grey).convert("RGB")
        else:
            rgb = image.convert("RGB")
    width, height = rgb.size
    scale = resolution / min(width, height)
    if scale != 1:
        size = max(resolution, round(width * scale)), max(resolution, round(height * scale))
        rgb = rgb.resize(size, Image.Resampling.BICUBIC)
    left, top = (rgb.width - resolution) // 2, (rgb.height - resolution) // 2
    return np.asarray(rgb.crop((left, top, left + resolution, top + resolution)))


def _list_split(files: _Files, split: str) -> dict[str, list[str]]:
    """Names of the images of a split by class: `SPLIT/CLASS/…`, or below one folder that holds all.

    Hidden files, such as the ones that a Mac puts beside others, are passed over.
    """
    by_class: dict[str, list[str]] = {}
    roots = set()
    for name in sorted(set(files.names)):
        parts = PurePosixPath(name).parts
        odd = any(part.startswith((".", "/", "__MACOSX")) for part in parts)  # `..` too
        if odd or split not in parts[:2] or not name.lower().endswith(SUFFIXES):
            continue
        depth = parts.index(split)
        if len(parts) >= depth + 3:
            roots.add("/".join(parts[: depth + 1]))
            by_class.setdefault(parts[depth + 1], []).append(name)
    if len(roots) > 1:
        raise DataError(
            f"{files.path}: several '{split}' folders ({', '.join(sorted(roots))}); keep one"
        )
    return by_class


def _check_memory(path: Path, count: int, resolution: int) -> None:
    needed = count * resolution**2 * 3
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    if needed > MEMORY_SHARE * memory:
        raise DataError(
            f"{path}: {count:,} images at {resolution} px take {needed / 1e9:.0f} GB, more than "
            f"{MEMORY_SHARE:.0%} of this machine's memory; use a subset or a lower --resolution"
        )
