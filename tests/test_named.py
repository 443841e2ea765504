"""Sets that timm reads by name: real libraries, real files, no network."""

import io
import json
import pickle
import struct
import subprocess
import sys
import tarfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from gmsearch.data.named import Named
from gmsearch.data.sources import Member, Source
from gmsearch.errors import DataError

COUNTS = {"train": 12, "val": 5}


def pixels(image: bytes | Image.Image) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(image)) if isinstance(image, bytes) else image)


def encoded(seed: int, kind: str = "png") -> bytes:
    values = np.random.default_rng(seed).integers(0, 256, (9, 8, 3), np.uint8)
    file = io.BytesIO()
    Image.fromarray(values).save(file, kind)
    return file.getvalue()


def members(source: Source, split: str) -> list[Member]:
    """All images of a split, in the order of the set."""
    return sorted(
        (m for found in source.splits[split].values() for m in found), key=lambda m: m.within
    )


def fails(source: str, root: Path | None = None) -> str:
    """The message, which is one line."""
    with pytest.raises(DataError) as caught:
        Named(source, root)
    message = str(caught.value)
    assert "\n" not in message and message.startswith(source)
    assert caught.value.__context__ is None or caught.value.__suppress_context__
    return message


def write_idx(path: Path, values: np.ndarray) -> None:
    head = struct.pack(f">HBB{values.ndim}I", 0, 8, values.ndim, *values.shape)
    path.write_bytes(head + values.tobytes())


@pytest.fixture
def mnist(tmp_path: Path) -> Path:
    raw = tmp_path / "MNIST" / "raw"
    raw.mkdir(parents=True)
    rng = np.random.default_rng(0)
    for name, count in (("train", COUNTS["train"]), ("t10k", COUNTS["val"])):
        write_idx(
            raw / f"{name}-images-idx3-ubyte", rng.integers(0, 256, (count, 28, 28), np.uint8)
        )
        write_idx(raw / f"{name}-labels-idx1-ubyte", np.arange(count, dtype=np.uint8) % 10)
    return tmp_path


def write_folder(root: Path, classes: tuple[str, ...] = ("ant", "bee")) -> dict[str, bytes]:
    """Three images of each class, by name, in the order of their names."""
    names = [f"{label}/{i}.png" for label in classes for i in range(3)]
    images = {name: encoded(seed) for seed, name in enumerate(names)}
    for name, data in images.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(data)
    return images


def write_shards(root: Path) -> dict[str, list[bytes]]:
    root.mkdir()
    images, info = {}, {}
    for split, name in (("train", "train"), ("val", "validation")):
        images[split] = [encoded(i + len(split), "jpeg") for i in range(COUNTS[split])]
        info[name] = {
            "name": name,
            "num_samples": COUNTS[split],
            "filenames": [f"{name}-0.tar", f"{name}-1.tar"],
            "shard_lengths": [4, COUNTS[split] - 4],
        }
        for shard in (0, 1):
            with tarfile.open(root / f"{name}-{shard}.tar", "w") as tar:
                chosen = range(4) if shard == 0 else range(4, COUNTS[split])
                for i in chosen:
                    parts = {"cls": str(i % 3).encode(), "jpg": images[split][i]}
                    for suffix, data in parts.items():
                        member = tarfile.TarInfo(f"{i:04d}.{suffix}")
                        member.size = len(data)
                        tar.addfile(member, io.BytesIO(data))
    (root / "_info.json").write_text(json.dumps({"splits": info}))
    return images


# torchvision


def test_a_set_in_memory_is_as_torchvision_has_it(mnist):
    from torchvision.datasets import MNIST

    source = Named("torch/mnist", mnist)
    assert (source.name, set(source.splits)) == ("torch/mnist", {"train", "val"})
    for split, count in COUNTS.items():
        original = MNIST(mnist, train=split == "train")
        assert list(source.splits[split]) == original.classes
        found = members(source, split)
        assert [m.name for m in found] == [f"{split}/{i:08d}" for i in range(count)]
        for i, member in enumerate(found):
            image, target = original[i]
            assert member.label == original.classes[target]
            assert np.array_equal(pixels(source.read(member)), pixels(image))


def test_classes_without_images_are_listed(mnist):
    val = Named("torch/mnist", mnist).splits["val"]
    assert len(val) == 10 and val["9 - nine"] == []


def test_the_key_follows_the_pixels(mnist):
    key = Named("torch/mnist", mnist).key
    assert Named("torch/mnist", mnist).key == key
    file = mnist / "MNIST" / "raw" / "train-images-idx3-ubyte"
    file.write_bytes(file.read_bytes()[:-1] + b"\0")
    assert Named("torch/mnist", mnist).key != key


def test_labels_of_qmnist(tmp_path):
    raw = tmp_path / "QMNIST" / "raw"
    raw.mkdir(parents=True)
    for name in ("train", "test"):
        write_idx(raw / f"qmnist-{name}-images-idx3-ubyte", np.zeros((3, 28, 28), np.uint8))
        head = struct.pack(">HBB2I", 0, 12, 2, 3, 8)  # 32-bit integers
        rows = np.arange(24, dtype=">i4").reshape(3, 8)
        rows[:, 0] = (7, 1, 7)
        (raw / f"qmnist-{name}-labels-idx2-int").write_bytes(head + rows.tobytes())
    train = Named("torch/qmnist", tmp_path).splits["train"]
    assert {label: len(found) for label, found in train.items() if found} == {
        "1 - one": 1,
        "7 - seven": 2,
    }


def test_files_come_as_they_are(tmp_path):
    images = write_folder(tmp_path / "train")
    write_folder(tmp_path / "val")
    source = Named("torch/image_folder", tmp_path)
    for split in ("train", "val"):
        read = [source.read(m) for m in members(source, split)]
        assert read == list(images.values())
    member = members(source, "train")[0]
    stamp = source.stamp(member)
    (tmp_path / "train" / "ant" / "0.png").write_bytes(b"other")
    assert source.stamp(member) != stamp
    (tmp_path / "train" / "ant" / "0.png").unlink()
    assert source.stamp(member) == "unreadable"


def test_a_folder_without_splits_has_no_val(tmp_path):
    write_folder(tmp_path)
    assert set(Named("torch/image_folder", tmp_path).splits) == {"train"}


def test_imagenet_has_wnids(tmp_path):
    words = {"n01": ("crane",), "n02": ("crane",)}  # as in the real one
    for split in ("train", "val"):
        write_folder(tmp_path / split, tuple(words))
    torch.save((words, []), tmp_path / "meta.bin")
    assert set(Named("torch/imagenet", tmp_path).splits["val"]) == {"n01", "n02"}


def test_imagenet_without_its_val(tmp_path):
    write_folder(tmp_path / "train", ("n01", "n02"))
    torch.save(({"n01": ("a",), "n02": ("b",)}, []), tmp_path / "meta.bin")
    message = fails("torch/imagenet", tmp_path)
    assert "ILSVRC2012_img_val.tar" in message and str(tmp_path) in message


def test_inaturalist_in_the_order_of_its_files(tmp_path):
    kinds = tuple(f"{i:05d}_k_p_c_o_f_g_{name}" for i, name in enumerate(("ant", "bee")))
    for version in ("2021_train", "2021_valid"):
        images = write_folder(tmp_path / version, kinds)
    source = Named("torch/inaturalist", tmp_path)
    assert tuple(source.splits["train"]) == kinds
    read = [source.read(m) for m in members(source, "val")]
    assert read == list(images.values())


def test_without_a_root_it_lies_in_the_cache(mnist, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(mnist / "cache"))
    place = mnist / "cache" / "gmsearch" / "sources"
    place.mkdir(parents=True)
    (mnist / "MNIST").rename(place / "MNIST")
    assert len(members(Named("torch/mnist"), "train")) == COUNTS["train"]


def test_a_cache_that_cannot_be_made(tmp_path, monkeypatch):
    (tmp_path / "file").touch()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    assert "Not a directory" in fails("torch/mnist")


# Names and errors


def test_unknown_names(tmp_path):
    message = fails("torch/nosuch", tmp_path)
    assert "Unknown torchvision dataset nosuch" in message and "fashion_mnist" in message
    assert "such as torch/cifar10" in fails("torch", tmp_path)
    assert "such as torch/cifar10" in fails("hfds/", tmp_path)


def test_without_a_network(tmp_path, monkeypatch):
    for name in ("http_proxy", "https_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    for name in ("torch/mnist", "torch/cifar10"):
        message = fails(name, tmp_path)
        assert "check the network" in message and str(tmp_path) in message


def test_one_class(tmp_path):
    write_folder(tmp_path, ("only",))
    assert "one class ('only')" in fails("torch/image_folder", tmp_path)


def test_packages_that_are_missing_and_imports_that_are_not_needed():
    code = """
import sys
missing = ("datasets", "webdataset", "tensorflow_datasets")
sys.modules.update(dict.fromkeys(missing))
from gmsearch.data.named import PREFIXES, Named
from gmsearch.errors import DataError
for name in PREFIXES[1:]:
    try:
        Named(name + "/x")
    except DataError as error:
        print(error)
assert "torch" not in sys.modules and "timm" not in sys.modules
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    packages = ("datasets", "datasets", "tensorflow-datasets", "webdataset")
    assert done.stdout.splitlines() == [
        f"{name}/x: needs the package '{package}', which is not installed: pip install {package}"
        for name, package in zip(("hfds", "hfids", "tfds", "wds"), packages, strict=True)
    ]


# Threads and processes


def read_all(source: Source) -> list[bytes]:
    found = members(source, "train") + members(source, "val")
    return [pixels(source.read(m)).tobytes() for m in found]


def check_sharing(source: Source) -> None:
    """The same from many threads, and from a copy that has been pickled, as a process gets it."""
    found = members(source, "train") + members(source, "val")
    expected = read_all(source)
    with ThreadPoolExecutor(8) as pool:
        read = list(pool.map(lambda m: pixels(source.read(m)).tobytes(), found * 20))
    assert read == expected * 20
    sent = pickle.dumps(source)
    assert len(sent) < 1000
    again = pickle.loads(sent)
    assert (again.splits, again.key) == (source.splits, source.key)
    assert read_all(again) == expected


def test_torchvision_from_threads_and_processes(mnist):
    check_sharing(Named("torch/mnist", mnist))


# webdataset


# webdataset leaves it to Python to close them
leaves_tars = pytest.mark.filterwarnings(r"ignore:unclosed file .*\.tar'>:ResourceWarning")


@pytest.fixture
def wds():
    return pytest.importorskip("webdataset")


@leaves_tars
def test_shards(wds, tmp_path):
    images = write_shards(tmp_path / "shards")
    source = Named("wds/any", tmp_path / "shards")
    for split, count in COUNTS.items():
        found = members(source, split)
        assert [source.read(m) for m in found] == images[split]  # the original bytes
        assert [m.label for m in found] == [str(i % 3) for i in range(count)]
    check_sharing(source)


@leaves_tars
def test_labels_in_the_sidecar(wds, tmp_path):
    """What timm calls `alt_label`, where a negative number is no label."""
    with tarfile.open(tmp_path / "a.tar", "w") as tar:
        for i, kind in enumerate((10, 2, -1)):
            parts = {"json": json.dumps({"kind": kind}).encode(), "jpg": encoded(i, "jpeg")}
            for suffix, data in parts.items():
                member = tarfile.TarInfo(f"{i}.{suffix}")
                member.size = len(data)
                tar.addfile(member, io.BytesIO(data))
    split = {"name": "train", "num_samples": 3, "filenames": ["a.tar"], "shard_lengths": [3]}
    info = {"splits": {"train": split | {"alt_label": "kind"}}}
    (tmp_path / "_info.json").write_text(json.dumps(info))
    train = Named("wds/any", tmp_path).splits["train"]
    assert {label: [m.within for m in found] for label, found in train.items()} == {
        "10": ["00000000"],
        "02": ["00000001"],
    }


@leaves_tars
def test_shards_that_are_broken(wds, tmp_path):
    assert "no _info.json" in fails("wds/any", tmp_path)
    write_shards(tmp_path / "shards")
    shard = tmp_path / "shards" / "train-1.tar"
    whole = shard.read_bytes()
    shard.write_bytes(whole[:1000])
    assert str(tmp_path / "shards") in fails("wds/any", tmp_path / "shards")
    shard.unlink()
    assert "train-1.tar" in fails("wds/any", tmp_path / "shards")
    (tmp_path / "shards" / "_info.json").write_text('{"splits": {"other": {}}}')
    assert "split train not found" in fails("wds/any", tmp_path / "shards")


@leaves_tars
def test_no_room_for_the_copy(wds, tmp_path, monkeypatch):
    import tempfile

    write_shards(tmp_path / "shards")
    monkeypatch.setattr(tempfile, "TemporaryFile", lambda: open("/dev/full", "w+b", buffering=0))
    message = fails("wds/any", tmp_path / "shards")
    assert "No space left on device" in message and "TMPDIR" in message


# Hugging Face


@pytest.fixture
def hf(monkeypatch):
    """The library as HF_HUB_OFFLINE=1 makes it, which other tests have imported it without."""
    datasets = pytest.importorskip("datasets")
    import huggingface_hub

    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
    return datasets


@pytest.mark.parametrize("kind", ["hfds", "hfids"])
def test_a_folder_of_images(hf, kind, tmp_path):
    images = write_folder(tmp_path / "set" / "train")
    held_back = write_folder(tmp_path / "set" / "test")
    source = Named(f"{kind}/{tmp_path}/set", tmp_path / "cache")
    for split, expected in (("train", images), ("val", held_back)):
        assert list(source.splits[split]) == ["ant", "bee"]
        found = members(source, split)
        assert [m.label for m in found] == ["ant"] * 3 + ["bee"] * 3
        assert [source.read(m) for m in found] == list(expected.values())
    check_sharing(source)


@pytest.mark.parametrize("kind", ["hfds", "hfids"])
def test_columns_of_other_names(hf, kind, tmp_path):
    """As CIFAR-100 has them there: images within the table, coarse classes and fine ones."""
    images = [encoded(i) for i in range(12)]
    fine = hf.ClassLabel(num_classes=11)  # names that are but numbers
    table = hf.Dataset.from_dict(
        {
            "img": [{"bytes": data, "path": None} for data in images],
            "coarse": [i % 2 for i in range(12)],
            "fine": [i % 11 for i in range(12)],
        }
    )
    table = table.cast_column("img", hf.Image()).cast_column("fine", fine)
    table = table.cast_column("coarse", hf.ClassLabel(names=["a", "b"]))
    (tmp_path / "set").mkdir()
    table.to_parquet(tmp_path / "set" / "train-00000-of-00001.parquet")
    source = Named(f"{kind}/{tmp_path}/set", tmp_path / "cache")
    assert set(source.splits) == {"train"}
    found = members(source, "train")
    assert [source.read(m) for m in found] == images
    assert [m.label for m in found] == [f"{i % 11:02d}" for i in range(12)]


@pytest.mark.parametrize("kind", ["hfds", "hfids"])
def test_labels_that_are_text_and_a_test_split_that_has_none(hf, kind, tmp_path):
    for name, labels in (("train", ["x", "y", "x"]), ("test", [None, None, None])):
        images = [{"bytes": encoded(i), "path": None} for i in range(3)]
        table = hf.Dataset.from_dict(
            {"image": images, "label": labels},
            features=hf.Features({"image": hf.Image(), "label": hf.Value("string")}),
        )
        (tmp_path / "set").mkdir(exist_ok=True)
        table.to_parquet(tmp_path / "set" / f"{name}-00000-of-00001.parquet")
    source = Named(f"{kind}/{tmp_path}/set", tmp_path / "cache")
    assert set(source.splits) == {"train"}
    assert {k: len(v) for k, v in source.splits["train"].items()} == {"x": 2, "y": 1}


def test_tables_that_are_no_classification(hf, tmp_path):
    (tmp_path / "set").mkdir()
    path = tmp_path / "set" / "train-00000-of-00001.parquet"
    hf.Dataset.from_dict({"text": ["a", "b"]}).to_parquet(path)
    message = fails(f"hfds/{tmp_path}/set", tmp_path / "cache")
    assert "no column of images among text" in message
    images = [{"bytes": encoded(i), "path": None} for i in range(2)]
    table = hf.Dataset.from_dict({"image": images, "label": [[0, 1], [1]]})
    table.cast_column("image", hf.Image()).to_parquet(path)
    message = fails(f"hfds/{tmp_path}/set", tmp_path / "cache")
    assert "a label is '[0, 1]'" in message


@pytest.mark.parametrize("kind", ["hfds", "hfids"])
def test_sets_that_are_not_there(hf, kind, tmp_path):
    message = fails(f"{kind}/gmsearch-tests/nosuch", tmp_path)
    assert "check the name and the network" in message and str(tmp_path) in message
    write_folder(tmp_path / "set" / "test")
    assert "train" in fails(f"{kind}/{tmp_path}/set", tmp_path / "cache")
