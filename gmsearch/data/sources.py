"""Where original images come from: a folder, a zip or a tar. `named` has what timm knows by name.

A source lists its images by split and reads one at a time, from any thread or process. Nothing is
unpacked to a disk but a compressed tar, which cannot be read at random: it lies, decompressed, in
a temporary file that has no name.
"""

import bz2
import contextlib
import gzip
import hashlib
import lzma
import os
import posixpath
import shutil
import tarfile
import tempfile
import weakref
import zipfile
import zlib
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path, PurePosixPath
from typing import IO, Any

from PIL import Image

from gmsearch.errors import DataError
from gmsearch.files import as_bytes

SUFFIXES = (".jpeg", ".jpg", ".png", ".bmp", ".webp", ".ppm", ".tif", ".tiff", ".gif")
TRAIN_NAMES = ("train", "training")
VAL_NAMES = ("val", "valid", "validation", "eval", "evaluation")  # the synonyms of timm
SPLIT_NAMES = (*TRAIN_NAMES, *VAL_NAMES)
# What tarfile raises for what is cut or damaged: it knows the first, takes any number in a header
# for a place in the file or a size, and calls itself for each header of a long name.
BROKEN_TAR = (
    *(tarfile.TarError, EOFError, zlib.error),
    *(ValueError, ArithmeticError, MemoryError, RecursionError),
)


@dataclass(frozen=True, order=True)
class Member:
    """One image of a source."""

    label: str  # its class
    within: str  # its place in its class, the same in a folder and a zip of it
    name: str  # its place in the source


class Source(ABC):
    """Original images by split: `train`, and `val` where there is an official one.

    Every class of `train` is a key of `splits["train"]`, one that has no images too.
    """

    name: str  # as a user says it
    splits: Mapping[str, Mapping[str, list[Member]]]

    @abstractmethod
    def read(self, member: Member) -> bytes | Image.Image:
        """One image, encoded or decoded. May raise whatever a broken file makes of it."""

    @abstractmethod
    def stamp(self, member: Member) -> str:
        """What changes when the contents of an image change."""

    def gist(self, member: Member) -> str:
        """What tells an image from another, and is the same for a copy of it elsewhere."""
        return self.stamp(member)

    @cached_property
    def key(self) -> str:
        """A digest of all images by name and stamp; where the source lies does not matter."""
        return self._digest(self.stamp)

    @cached_property
    def contents(self) -> str:
        """A digest of all images by name and gist, the same for a copy of the source."""
        return self._digest(self.gist)

    def _digest(self, tell: Callable[[Member], str]) -> str:
        digest = hashlib.sha256()
        for split, classes in sorted(self.splits.items()):
            for label in sorted(classes):
                digest.update(as_bytes(f"\n{split}\t{label}"))
                for member in sorted(classes[label]):
                    digest.update(as_bytes(f"\n{member.within}\t{tell(member)}"))
        return digest.hexdigest()


class Folder(Source):
    """A folder in ImageNet layout, or with one folder for each class."""

    def __init__(self, path: Path) -> None:
        self.name = str(path)
        self._path = path
        names = []
        for folder, folders, files in os.walk(path, onerror=_unreadable, followlinks=True):
            _check_links(folder, folders)
            inside = Path(folder).relative_to(path).as_posix()
            prefix = "" if inside == "." else f"{inside}/"
            names += [f"{prefix}{name}/" for name in folders]
            names += [f"{prefix}{name}" for name in files]
        self.splits = _by_split(self.name, names)

    def read(self, member: Member) -> bytes:
        return (self._path / member.name).read_bytes()

    def stamp(self, member: Member) -> str:
        try:
            status = (self._path / member.name).stat()
        except OSError:  # a broken link, or a file that has just vanished
            return "unreadable"
        return f"{status.st_size} {status.st_mtime_ns}"

    def gist(self, member: Member) -> str:
        return self.stamp(member).split()[0]  # without the time of change


class Zip(Source):
    """A zip of such a folder."""

    def __init__(self, path: Path) -> None:
        self.name = str(path)
        self._path = path
        self._archive: zipfile.ZipFile | None = None
        self._opened_by: int | None = None
        try:
            self._crc = {info.filename: info.CRC for info in self._opened().infolist()}
        except (zipfile.BadZipFile, NotImplementedError, OSError) as error:
            raise DataError(f"{path}: not a readable zip ({error})") from None
        self.splits = _by_split(self.name, self._crc)

    def _opened(self) -> zipfile.ZipFile:
        """The archive; a process of its own needs a handle of its own."""
        if self._archive is None or self._opened_by != os.getpid():
            self._archive, self._opened_by = zipfile.ZipFile(self._path), os.getpid()
        return self._archive

    def read(self, member: Member) -> bytes:
        return self._opened().read(member.name)

    def stamp(self, member: Member) -> str:
        return f"{self._crc[member.name]:08x}"

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_archive": None, "_opened_by": None}


class Tar(Source):
    """A tar of such a folder, compressed or not."""

    def __init__(self, path: Path) -> None:
        self.name = str(path)
        self._path = path
        try:
            self._open()
            with tarfile.open(fileobj=self._file, mode="r:") as archive:
                members = [
                    info
                    for info in archive
                    if info.isfile() or info.isdir() or info.islnk() or info.issym()
                ]
                end = os.pread(self._file.fileno(), 512, archive.offset)
            if end != bytes(512):  # of which tarfile says nothing
                raise tarfile.ReadError("its end is missing, or something in it is broken")
        except BROKEN_TAR as error:
            raise DataError(f"{path}: not a readable tar ({error})") from None
        self._places: dict[str, tuple[int, int]] = {}
        for info in sorted(members, key=lambda info: info.islnk() or info.issym()):
            if not (info.islnk() or info.issym()):
                self._places[info.name] = info.offset_data, info.size
                continue
            above = posixpath.dirname(info.name) if info.issym() else ""
            target = posixpath.normpath(posixpath.join(above, info.linkname))
            place = self._places.get(target, self._places.get(info.linkname))
            if place is None:
                raise DataError(f"{path}: {info.name} is a link to what is not in the tar")
            self._places[info.name] = place
        names = [info.name + ("/" if info.isdir() else "") for info in members]
        self.splits = _by_split(self.name, names)
        status = path.stat()
        self._stamp = f"{status.st_size} {status.st_mtime_ns}"

    def read(self, member: Member) -> bytes:
        offset, size = self._places[member.name]
        return os.pread(self._file.fileno(), size, offset)  # moves no position: threads may share

    def stamp(self, member: Member) -> str:
        return f"{self._places[member.name]} {self._stamp}"

    def gist(self, member: Member) -> str:
        return str(self._places[member.name][1])

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_file": None}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._open()

    def _open(self) -> None:
        self._file = _plain_tar(self._path)
        weakref.finalize(self, self._file.close)


def _check_links(folder: str, folders: list[str]) -> None:
    """Raises DataError where a link leads back to a folder above it."""
    real = os.path.realpath(folder)
    for name in folders:
        place = os.path.join(folder, name)
        if os.path.islink(place) and f"{real}/".startswith(f"{os.path.realpath(place)}/"):
            raise DataError(f"{place}: a link to a folder above it; remove it")


def _unreadable(error: OSError) -> None:
    raise DataError(f"{error.filename}: cannot be listed ({error.strerror})")


def _plain_tar(path: Path) -> IO[bytes]:
    """A tar that can be read at random: the file itself, or its decompressed contents."""
    try:
        tarfile.open(path, "r:").close()
        return path.open("rb")
    except tarfile.ReadError:
        pass
    openers: dict[bytes, Callable[[Path], Any]] = {
        b"\x1f\x8b": gzip.open,
        b"BZ": bz2.open,
        b"\xfd7": lzma.open,
    }
    with path.open("rb") as file:
        opener = openers.get(file.read(2))
    if opener is None:
        raise tarfile.ReadError("compressed in a way that is not known")
    plain = tempfile.TemporaryFile()
    with contextlib.ExitStack() as closing, opener(path) as packed:
        closing.callback(plain.close)
        try:
            shutil.copyfileobj(packed, plain, 2**20)
            plain.seek(0)
            closing.pop_all()
        except (lzma.LZMAError, zlib.error) as error:
            raise tarfile.ReadError(str(error)) from None
        except OSError as error:
            if error.errno is None:  # not of the disk, but of gzip or bz2
                raise tarfile.ReadError(str(error)) from None
            raise DataError(
                f"{path}: cannot be decompressed to {tempfile.gettempdir()} ({error}); make room, "
                "set TMPDIR, or decompress it yourself"
            ) from None
    return plain


def _by_split(source: str, names: Iterable[str]) -> dict[str, dict[str, list[Member]]]:
    """Images by split and class: of `SPLIT/CLASS/…`, or of `CLASS/…` where there is no `train`,
    each perhaps below one folder that holds all. Names of folders end in a slash.

    Hidden files, such as the ones that a Mac puts beside others, are passed over.
    """
    paths = [(name, PurePosixPath(name).parts) for name in sorted(set(names))]
    paths = [
        (name, parts[1:] if parts[:1] == (".",) else parts)
        for name, parts in paths
        if not any(part.startswith((".", "/", "__MACOSX")) for part in parts if part != ".")
    ]
    train = _split_below(source, "train", TRAIN_NAMES, paths)
    if train is None:  # or a folder that is called so has no classes, and may be one
        return {"train": _flat(source, paths)}
    if len(train) < 2:
        raise _too_few(source, train)
    val = _split_below(source, "val", VAL_NAMES, paths)
    return {"train": train} if val is None else {"train": train, "val": val}


Paths = list[tuple[str, tuple[str, ...]]]


def _split_below(
    source: str, split: str, words: tuple[str, ...], paths: Paths
) -> dict[str, list[Member]] | None:
    """The classes of one split, the folder of which has one of some names, in letters of any case.

    None where there is no such folder, or where that of `train` has no classes.
    """
    roots, loose, there = set(), None, False
    classes: dict[str, list[Member]] = {}
    for name, parts in paths:
        depth = next((i for i, part in enumerate(parts[:2]) if part.lower() in SPLIT_NAMES), None)
        if depth is None or parts[depth].lower() not in words:
            continue
        there = True
        if _add(classes, name, parts, depth + 1):
            roots.add("/".join(parts[: depth + 1]))
        elif name.lower().endswith(SUFFIXES):
            loose = name
    if not there or (split == "train" and not classes):
        return None
    if len(roots) > 1:
        several = ", ".join(sorted(roots))
        raise DataError(f"{source}: several '{split}' folders ({several}); keep one")
    if loose:
        raise DataError(
            f"{source}: {loose} lies in no class; sort the images of {split} into "
            f"{split}/CLASS/ folders"
        )
    if not classes:
        raise DataError(f"{source}: no images under {split}/CLASS/; put some there, or remove it")
    return classes


def _flat(source: str, paths: Paths) -> dict[str, list[Member]]:
    """The classes of a set without splits: its folders, or those of the one folder that holds
    all.
    """
    tops = {parts[0] for name, parts in paths if len(parts) > 1 or name.endswith("/")}
    deep = any(len(parts) > 2 for name, parts in paths if name.lower().endswith(SUFFIXES))
    classes: dict[str, list[Member]] = {}
    for name, parts in paths:
        _add(classes, name, parts, 1 if len(tops) == 1 and deep else 0)
    if classes and all(label.lower() in SPLIT_NAMES for label in classes):
        raise DataError(
            f"{source}: no class folders in {' and '.join(classes)}; sort the images into "
            "train/CLASS/, and those of val likewise"
        )
    if len(classes) < 2:
        raise _too_few(source, classes)
    return classes


def _too_few(source: str, classes: dict[str, list[Member]]) -> DataError:
    only = f"one class ('{next(iter(classes))}')" if classes else "no images"
    return DataError(
        f"{source}: {only} under train/CLASS/ or CLASS/; a classifier needs two classes or more"
    )


def _add(classes: dict[str, list[Member]], name: str, parts: tuple[str, ...], depth: int) -> bool:
    """Notes a class folder, or an image in one, where the class stands at `depth`; says whether
    it was one.
    """
    if name.endswith("/"):
        if len(parts) == depth + 1:
            classes.setdefault(parts[depth], [])
        return len(parts) == depth + 1
    if len(parts) < depth + 2 or not name.lower().endswith(SUFFIXES):
        return False
    member = Member(parts[depth], "/".join(parts[depth + 1 :]), name)
    classes.setdefault(parts[depth], []).append(member)
    return True
