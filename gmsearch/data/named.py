"""Data sets that timm reads by name: `torch/cifar10`, `hfds/food101`, `tfds/…`, `wds/…`.

Images come as they are stored, encoded where they are encoded, and labels are listed without
decoding one. A set that can only be iterated is iterated once: its encoded images lie in a
temporary file that has no name, where any thread can read them.
"""

import os
import tempfile
import weakref
import zlib
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from numbers import Integral
from pathlib import Path
from typing import IO, Any

import numpy as np
from PIL import Image

from gmsearch.data.cache import cache_folder
from gmsearch.data.sources import Member, Source
from gmsearch.errors import DataError

PREFIXES = ("torch", "hfds", "hfids", "tfds", "wds")
# What holds back images is `validation`; `test` stands in for it where there is none.
VAL_SPLITS = ("validation", "val", "valid", "evaluation", "eval", "test")
NEEDS = {
    "torch": {},
    "hfds": {"datasets": "datasets"},
    "hfids": {"datasets": "datasets"},
    "tfds": {"tensorflow_datasets": "tensorflow-datasets", "tensorflow": "tensorflow"},
    "wds": {"webdataset": "webdataset"},
}
REMEDIES = {
    "torch": "check the network, or put its files under {root}",
    "hfds": "check the name and the network (its cache is {root})",
    "hfids": "check the name and the network (its cache is {root})",
    "tfds": "check the name and the network (it is prepared in {root})",
    "wds": "check the shards of {root}",
}


class Named(Source):
    """A data set that `timm.data.create_dataset` knows by this name.

    `root` is where it lies or is put; for `wds/` the folder with the shards and their `_info.json`.
    Without one it lies in the user's cache. `val` is the official validation split, or the test
    split of a set that has no other. Raises DataError.
    """

    def __init__(self, source: str, root: Path | None = None) -> None:
        self.name = source
        self._root = root
        prefix, _, which = source.partition("/")
        if prefix not in PREFIXES or not which:
            raise DataError(f"{source}: names no data set; give a name such as torch/cifar10")
        _check_packages(source, prefix)
        os.environ["HF_HUB_DISABLE_TELEMETRY"] = "1"  # read once, when it is imported
        place = _place(source, root)
        try:
            self._parts = OPENERS[prefix](source, place)
            self.splits = _by_class(source, self._parts)
        except DataError:
            raise
        except ImportError as error:
            raise DataError(
                f"{source}: needs what cannot be imported ({_reason(error)}); install it with pip"
            ) from None
        except Exception as error:  # whatever these libraries, and those below them, may raise
            remedy = REMEDIES[prefix].format(root=place)
            raise DataError(f"{source}: cannot be read ({_reason(error)}); {remedy}") from None

    def read(self, member: Member) -> bytes | Image.Image:
        split, _, index = member.name.partition("/")
        return self._parts[split].read(int(index))

    def stamp(self, member: Member) -> str:
        split, _, index = member.name.partition("/")
        return self._parts[split].stamp(int(index))

    def __reduce__(self) -> tuple[Any, ...]:
        """Another process opens the set anew, as it may hold files, or all of its images."""
        return Named, (self.name, self._root)


@dataclass(frozen=True)
class _Part:
    """One split: the class of each image, and how to get at it."""

    targets: Sequence[Any]  # the index of its class, or its name; negative or None for no class
    names: Sequence[str]  # of the classes, by index; none where they have no names
    read: Callable[[int], bytes | Image.Image]
    stamp: Callable[[int], str]


Parts = Mapping[str, _Part]


def _check_packages(source: str, prefix: str) -> None:
    for module, package in NEEDS[prefix].items():
        if find_spec(module) is None:
            raise DataError(
                f"{source}: needs the package '{package}', which is not installed: "
                f"pip install {package}"
            )


def _place(source: str, root: Path | None) -> Path:
    """The root, absolute, as a process that reopens the set may have another working directory."""
    if root is not None:
        return root.expanduser().absolute()
    place = cache_folder() / "sources"
    try:
        place.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise DataError(
            f"{source}: cannot be put in {place} ({error.strerror}); say where it lies with a root "
            "of your own, or set XDG_CACHE_HOME"
        ) from None
    return place


def _reason(error: Exception) -> str:
    first = (str(error).strip() or type(error).__name__).splitlines()[0].rstrip(" .:")
    return f"{type(error).__name__} {first}" if isinstance(error, KeyError) else first


# Classes ------------------------------------------------------------------------------------------


def _by_class(source: str, parts: Parts) -> dict[str, dict[str, list[Member]]]:
    """Images by split and class. A `val` without labels, as some test splits are, is left out."""
    numbers = [t for p in parts.values() for t in p.targets if isinstance(t, Integral)]
    width = len(str(max(numbers, default=0)))
    splits: dict[str, dict[str, list[Member]]] = {}
    for split, part in parts.items():
        names = _distinct(part.names)
        classes: dict[str, list[Member]] = {name: [] for name in names}
        for index, target in enumerate(part.targets):
            if not _is_unlabelled(target):
                label = _label(source, target, names, width)
                place = f"{index:08d}"
                classes.setdefault(label, []).append(Member(label, place, f"{split}/{place}"))
        if split == "train" or any(classes.values()):
            splits[split] = classes
    if len(splits["train"]) < 2 or not any(splits["train"].values()):
        found = len(splits["train"]) and any(splits["train"].values())
        only = f"one class ('{next(iter(splits['train']))}')" if found else "no images with labels"
        raise DataError(f"{source}: {only} in train; a classifier needs two classes or more")
    return splits


def _distinct(names: Sequence[str]) -> list[str]:
    """Names of which no two are the same, and none that is but a number without padding."""
    if list(names) == [str(index) for index in range(len(names))]:
        width = len(str(len(names) - 1))
        return [name.zfill(width) for name in names]
    times = Counter(names)
    return [f"{name} ({i})" if times[name] > 1 else name for i, name in enumerate(names)]


def _is_unlabelled(target: Any) -> bool:
    return target is None or (isinstance(target, Integral) and int(target) < 0)


def _label(source: str, target: Any, names: Sequence[str], width: int) -> str:
    if isinstance(target, str):
        return target
    if not isinstance(target, Integral):
        raise DataError(
            f"{source}: a label is {str(target)[:40]!r}; each image must have one class, a number "
            "or a name"
        )
    index = int(target)
    if not names:
        return f"{index:0{width}d}"
    if index >= len(names):
        raise DataError(f"{source}: a label is {index}, but only {len(names)} classes have a name")
    return names[index]


def _columns(source: str, features: Mapping[str, Any]) -> tuple[str, str]:
    """The features with the image and its class: `image` and `label` as timm has it, else the first
    image and the finest classes.
    """
    kinds = {name: type(feature).__name__ for name, feature in features.items()}
    images = ["image" for name in kinds if name == "image"]
    images += [name for name, kind in kinds.items() if kind == "Image"]
    classes = {name: features[name].num_classes for name in kinds if kinds[name] == "ClassLabel"}
    label = "label" if "label" in kinds else max(classes, key=lambda n: classes[n], default=None)
    if not images or label is None:
        lacks = "labels" if images else "images"
        raise DataError(
            f"{source}: no column of {lacks} among {', '.join(kinds)}; it needs 'image' and 'label'"
        )
    return images[0], label


def _official(names: Iterable[str]) -> dict[str, str]:
    """What the set calls our splits."""
    known = list(names)
    if "train" not in known:
        raise ValueError(f"no split 'train', it has {', '.join(known) or 'none'}")
    val = next((name for name in VAL_SPLITS if name in known), None)
    return {"train": "train"} | ({"val": val} if val else {})


# torchvision --------------------------------------------------------------------------------------


def _torch(source: str, root: Path) -> Parts:
    from timm.data import create_dataset

    sets = {}
    for split in ("train", "val"):
        try:
            sets[split] = create_dataset(source, root=str(root), split=split, download=True)
        except AssertionError as error:  # of timm
            raise DataError(
                f"{source}: {_reason(error)}; timm has torch/ cifar10, cifar100, mnist, kmnist, "
                "qmnist, fashion_mnist, imagenet, places365, inaturalist, image_folder"
            ) from None
    files = {split: _files(dataset) for split, dataset in sets.items()}
    if files["val"] and files["val"] == files["train"]:  # a folder without a `val`: all of it twice
        del sets["val"]
    return {
        split: _files_part(dataset, files[split]) if files[split] else _memory_part(dataset)
        for split, dataset in sets.items()
    }


def _files(dataset: Any) -> list[tuple[str, int]]:
    """File and class of each image; empty for a set that is held in memory."""
    if hasattr(dataset, "all_categories"):  # iNaturalist, in whatever order the disk has it
        folders = [os.path.join(dataset.root, name) for name in dataset.all_categories]
        index = sorted(dataset.index)
        return [(os.path.join(folders[label], name), label) for label, name in index]
    return list(getattr(dataset, "imgs", []))


def _files_part(dataset: Any, files: list[tuple[str, int]]) -> _Part:
    def stamp(index: int) -> str:
        try:
            status = os.stat(files[index][0])
        except OSError:
            return "unreadable"
        return f"{status.st_size} {status.st_mtime_ns}"

    # ImageNet's words are not unique, its wnids are, and published subsets are lists of them
    names = next(
        getattr(dataset, where)
        for where in ("wnids", "all_categories", "classes")
        if hasattr(dataset, where)
    )
    return _Part(
        targets=[target for _, target in files],
        names=names,
        read=lambda index: Path(files[index][0]).read_bytes(),
        stamp=stamp,
    )


def _memory_part(dataset: Any) -> _Part:
    targets = np.asarray(dataset.targets)
    return _Part(
        targets=(targets[:, 0] if targets.ndim > 1 else targets).tolist(),  # QMNIST: details follow
        names=list(dataset.classes),
        read=lambda index: dataset[index][0],
        stamp=lambda index: f"{zlib.crc32(np.asarray(dataset.data[index]).tobytes()):08x}",
    )


# Hugging Face -------------------------------------------------------------------------------------


def _hfds(source: str, root: Path) -> Parts:
    import datasets
    from timm.data import create_dataset

    path = source.partition("/")[2]
    info = datasets.load_dataset(path, split="train", cache_dir=str(root)).info
    image, label = _columns(source, info.features)
    parts = {}
    for split, found in _official(info.splits or ["train"]).items():
        opened = create_dataset(
            source, root=str(root), split=found, input_key=image, target_key=label
        )
        parts[split] = _arrow_part(opened.reader, label)
    return parts


def _arrow_part(reader: Any, label: str) -> _Part:
    table = reader.dataset

    def read(index: int) -> bytes:
        with reader[index][0] as file:
            return file.read()

    stamp = f"{len(table)} {table._fingerprint}"
    return _Part(
        targets=list(table.select_columns([label])[:][label]),
        names=list(getattr(table.features[label], "names", [])),
        read=read,
        stamp=lambda index: stamp,
    )


def _hfids(source: str, root: Path) -> Parts:
    import datasets
    from timm.data import create_dataset

    # The number of samples is for training, which wants to know it; some sets do not say it
    opened = create_dataset(source, root=str(root), split="train", num_samples=1)
    streams = opened.reader.builder.as_streaming_dataset()
    parts = {}
    for split, found in _official(streams).items():
        features = streams[found].features
        if features is None:
            raise ValueError("what columns it has shows only when it is read; use hfds/")
        image, label = _columns(source, features)
        encoded = streams[found].cast_column(image, datasets.Image(decode=False))
        samples = ((_encoded(row[image]), row[label]) for row in encoded)
        parts[split] = _copy(source, samples, list(getattr(features[label], "names", [])))
    return parts


def _encoded(image: Mapping[str, Any]) -> bytes:
    """An image of Hugging Face: its bytes, or where to get them, perhaps within an archive."""
    import fsspec

    if image["bytes"]:
        return image["bytes"]
    with fsspec.open(image["path"], "rb") as file:
        return file.read()


# TensorFlow, webdataset ---------------------------------------------------------------------------


def _tfds(source: str, root: Path) -> Parts:
    from timm.data import create_dataset

    opened = create_dataset(source, root=str(root), split="train", download=True)
    builder = opened.reader.builder
    import tensorflow_datasets as tfds  # not before torch: TensorFlow first makes torch crash

    image, label = _columns(source, builder.info.features)
    names = list(getattr(builder.info.features[label], "names", None) or [])
    parts = {}
    for split, found in _official(builder.info.splits).items():
        encoded = builder.as_dataset(
            split=found, shuffle_files=False, decoders={image: tfds.decode.SkipDecoding()}
        )
        samples = ((row[image], _decoded(row[label])) for row in tfds.as_numpy(encoded))
        parts[split] = _copy(source, samples, names)
    return parts


def _decoded(label: Any) -> Any:
    return label.decode() if isinstance(label, bytes) else label


def _wds(source: str, root: Path) -> Parts:
    from timm.data import create_dataset

    if not any((root / name).is_file() for name in ("_info.json", "info.json")):
        raise DataError(
            f"{source}: no _info.json in {root}; pack the set with --root DIR, the folder of its "
            "shards and of the _info.json that tells their splits"
        )
    reader = create_dataset(source, root=str(root), split="train").reader
    parts = {}
    for split, found in _official(reader.info["splits"]).items():
        reader = create_dataset(source, root=str(root), split=found).reader
        parts[split] = _copy(source, _shards(reader), [])
    return parts


def _shards(reader: Any) -> Iterator[tuple[bytes, int]]:
    """Image and class of each sample, as timm tells them, but not decoded, and with nothing
    passed over that is broken.
    """
    import json

    import webdataset

    files = [os.path.join(reader.root, name) for name in reader.split_info.filenames]
    field = reader.split_info.alt_label
    steps = webdataset.SimpleShardList(files), webdataset.tarfile_to_samples()
    for sample in webdataset.DataPipeline(*steps):
        target = json.loads(sample["json"])[field] if field else sample["cls"]
        yield webdataset.getfirst(sample, reader.input_key), int(target)


# Copies -------------------------------------------------------------------------------------------


def _copy(source: str, samples: Iterable[tuple[bytes, Any]], names: Sequence[str]) -> _Part:
    """Samples in a file, for reading in any order; they come once, one after the other."""
    file = tempfile.TemporaryFile()
    places: list[tuple[int, int, int]] = []
    targets: list[Any] = []
    offset = 0
    try:
        for data, target in samples:
            _write(source, file, data)
            places.append((offset, len(data), zlib.crc32(data)))
            targets.append(target)
            offset += len(data)
        _write(source, file, b"", flush=True)
    except BaseException:
        file.close()
        raise

    def read(index: int) -> bytes:
        start, size, _ = places[index]
        return os.pread(file.fileno(), size, start)  # moves no position: threads may share

    part = _Part(targets, names, read, lambda index: f"{places[index][2]:08x}")
    weakref.finalize(part, file.close)
    return part


def _write(source: str, file: IO[bytes], data: bytes, flush: bool = False) -> None:
    try:
        file.write(data)
        if flush:
            file.flush()
    except OSError as error:
        raise DataError(
            f"{source}: cannot be copied to {tempfile.gettempdir()} ({error.strerror}); make room, "
            "or set TMPDIR"
        ) from None


OPENERS: Mapping[str, Callable[[str, Path], Parts]] = {
    "torch": _torch,
    "hfds": _hfds,
    "hfids": _hfids,
    "tfds": _tfds,
    "wds": _wds,
}
