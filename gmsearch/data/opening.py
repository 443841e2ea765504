"""From what a user calls a source to the source."""

import tarfile
import zipfile
from pathlib import Path

from gmsearch.data.named import PREFIXES, Named
from gmsearch.data.packs import is_pack
from gmsearch.data.sources import BROKEN_TAR, Folder, Source, Tar, Zip
from gmsearch.errors import DataError


def is_named(source: str) -> bool:
    """Whether a source is a name for timm, such as torch/cifar10, and not a path."""
    return source.partition("/")[0] in PREFIXES and not Path(source).exists()


def open_source(source: str, root: Path | None = None) -> Source:
    """A folder, zip or tar of images, or a data set that timm knows by name. Raises DataError.

    `root` is where timm looks for, or puts, a data set of the second kind.
    """
    path = Path(source)
    if is_named(source):
        return Named(source, root)
    if is_pack(path):
        raise DataError(f"{source}: a pack already; train on it with --data {source}")
    if path.is_dir():
        return Folder(path)
    if not path.exists():
        raise DataError(
            f"{source}: no such data; give a folder, zip or tar of images in ImageNet layout, a "
            "name that timm knows, such as torch/cifar10, or, to train on, 'bands' or a pack"
        )
    if zipfile.is_zipfile(path):
        return Zip(path)
    try:
        is_tar = tarfile.is_tarfile(path)
    except BROKEN_TAR:
        is_tar = True
    if is_tar:
        return Tar(path)
    raise DataError(f"{source}: neither a folder nor a readable zip or tar of images")
