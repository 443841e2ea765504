"""Images on disk, for tests."""

import io
import zipfile
from pathlib import Path

import numpy as np
from PIL import Image


def encoded(array: np.ndarray, format: str = "PNG", mode: str | None = None) -> bytes:
    buffer = io.BytesIO()
    image = Image.fromarray(array)
    (image.convert(mode) if mode else image).save(buffer, format)
    return buffer.getvalue()


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


def zipped(folder: Path, archive: Path, prefix: str = "") -> Path:
    with zipfile.ZipFile(archive, "w") as target:
        for file in sorted(folder.rglob("*")):
            target.write(file, prefix + file.relative_to(folder).as_posix())
    return archive
