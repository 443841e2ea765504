"""Images on disk, for tests."""

import bz2
import gzip
import io
import lzma
import tarfile
import zipfile
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from PIL import Image

PACKERS = {".gz": gzip.compress, ".bz2": bz2.compress, ".xz": lzma.compress}


def encoded(array: np.ndarray, format: str = "PNG", mode: str | None = None) -> bytes:
    buffer = io.BytesIO()
    image = Image.fromarray(array)
    (image.convert(mode) if mode else image).save(buffer, format)
    return buffer.getvalue()


def flat(colour: int, side: int = 8) -> bytes:
    """A small image of one colour, which a number up to 2 ** 24 tells from others."""
    channels = [colour >> shift & 255 for shift in (16, 8, 0)]
    return b"P6 %d %d 255\n" % (side, side) + bytes(channels) * side**2


def make_folder(root: Path, num_classes: int = 3, per_class: int = 10, side: int = 20) -> Path:
    """Random images of known labels: class c, image i."""
    rng = np.random.default_rng(0)
    for split, count in (("train", per_class), ("val", 2)):
        for label in range(num_classes):
            folder = root / split / f"n{label}"
            folder.mkdir(parents=True)
            for i in range(count):
                pixels = rng.integers(0, 255, (side, side, 3), dtype=np.uint8)
                (folder / f"{i}.png").write_bytes(encoded(pixels))
    return root


def make_flat(root: Path, counts: Mapping[str, int]) -> Path:
    """So many small images in each of some folders, no two of which are the same."""
    colour = 0
    for name, count in counts.items():
        (root / name).mkdir(parents=True)
        for i in range(count):
            colour += 1
            (root / name / f"{i:04}.ppm").write_bytes(flat(colour))
    return root


def zipped(folder: Path, archive: Path, prefix: str = "") -> Path:
    with zipfile.ZipFile(archive, "w") as target:
        for file in sorted(folder.rglob("*")):
            target.write(file, prefix + file.relative_to(folder).as_posix())
    return archive


def tarred(folder: Path, archive: Path, prefix: str = "") -> Path:
    """A tar, compressed as its name says; a prefix of `./` as `tar -C folder .` has it."""
    plain = io.BytesIO()
    with tarfile.open(fileobj=plain, mode="w") as target:
        for file in sorted(folder.rglob("*")):
            target.add(file, prefix + file.relative_to(folder).as_posix(), recursive=False)
    pack = PACKERS.get(archive.suffix, bytes)
    archive.write_bytes(pack(plain.getvalue()))
    return archive
