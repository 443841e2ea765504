"""Data sets: `bands`, what an image becomes, and what a search may see of real images."""

import ast
import hashlib
import io
import os
import pickle
import resource
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pictures import encoded, flat, make_flat, make_folder, tarred, zipped
from PIL import Image

from gmsearch import data
from gmsearch.data import bands, packing
from gmsearch.data.bands import CLASSES, SHAPES, TEXTURES
from gmsearch.data.cache import cache_folder, copy_of
from gmsearch.data.decoding import side_for, to_square
from gmsearch.data.opening import open_source
from gmsearch.data.packing import Order, make_pack
from gmsearch.data.packs import PackedDataset, open_packed, read_pack
from gmsearch.data.records import Shards, Split
from gmsearch.data.selection import Selection, choose
from gmsearch.errors import DataError

PACKAGE = Path(data.__file__).parents[1]


def load(path: Path, resolution: int = 16, **how):
    return data.load(str(path), resolution=resolution, seed=0, **how)


def load_val(path: Path, resolution: int = 16, **how):
    return data.load_official(str(path), resolution=resolution, seed=0, **how).minival


def pixels(split: Split) -> np.ndarray:
    return np.concatenate(split.images.arrays)


def crops(split: Split, resolution: int) -> np.ndarray:
    """The centre of each image."""
    around = (split.images.side - resolution) // 2
    return pixels(split)[:, around : around + resolution, around : around + resolution]


def same(a: Split, b: Split) -> bool:
    return np.array_equal(pixels(a), pixels(b)) and np.array_equal(a.labels, b.labels)


def mirrored(image: np.ndarray, before: int, after: int) -> np.ndarray:
    return np.pad(image, ((before, after), (before, after), (0, 0)), mode="reflect")


# bands --------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def in_bands():
    return data.load("bands", resolution=32, seed=0)


def test_bands_is_the_same_for_a_seed_and_another_for_another(monkeypatch):
    monkeypatch.setattr(bands, "NUM_TRAIN", 60)
    monkeypatch.setattr(bands, "NUM_MINIVAL", 30)
    first, again, other = (data.load("bands", resolution=32, seed=s) for s in (0, 0, 1))
    assert same(first.train, again.train) and same(first.minival, again.minival)
    assert not same(first.train, other.train)
    assert first.digest == again.digest != other.digest


def test_bands_splits_share_no_image_and_have_all_classes_equally_often(in_bands, monkeypatch):
    monkeypatch.setattr(bands, "NUM_VAL", 300)
    dataset = in_bands
    val = data.load_official("bands", resolution=32, seed=0).minival
    splits = (dataset.train, dataset.minival, val)
    images = [image.tobytes() for split in splits for image in split.images]
    assert len(set(images)) == len(images)
    for split in splits:
        assert pixels(split).shape[1:] == (40, 40, 3) and pixels(split).dtype == np.uint8
        counts = np.bincount(split.labels, minlength=len(CLASSES))
        assert counts.max() - counts.min() <= 1


def test_around_a_crop_of_bands_lies_its_mirrored_border(in_bands):
    dataset = in_bands
    assert dataset.resolution == 32
    for image, crop in zip(dataset.minival.images, crops(dataset.minival, 32), strict=True):
        assert np.array_equal(image, mirrored(crop, 4, 4))


def test_in_bands_the_bands_of_frequency_tell_shape_and_texture(in_bands):
    """The texture is readable from the highest frequencies, and hardly from the lowest."""
    dataset = in_bands
    assert len(CLASSES) == len(SHAPES) * len(TEXTURES)

    def nearest_mean_accuracy(features, train_labels, test_features, test_labels):
        means = np.stack([features[train_labels == c].mean(0) for c in np.unique(train_labels)])
        distance = ((test_features[:, None] - means) ** 2).sum(2)
        return (distance.argmin(1) == test_labels).mean()

    def spectrum(split, low):
        grey = crops(split, 32).mean(3) / 255
        power = np.log1p(np.abs(np.fft.fftshift(np.fft.fft2(grey), axes=(1, 2))))
        radius = np.hypot(*np.mgrid[-16:16, -16:16])
        mask = (radius > 0) & (radius < 6) if low else radius >= 9
        return power[:, mask]

    accuracy = {
        low: nearest_mean_accuracy(
            spectrum(dataset.train, low),
            dataset.train.labels % len(TEXTURES),
            spectrum(dataset.minival, low),
            dataset.minival.labels % len(TEXTURES),
        )
        for low in (True, False)
    }
    assert accuracy[False] > 0.8
    assert accuracy[True] < 0.5


def test_a_linear_model_is_lost_on_bands(in_bands):
    """Ridge regression on pixels, in closed form, stays near chance (8.3 %)."""
    dataset = in_bands
    splits = (dataset.train, dataset.minival)
    x, t = (crops(split, 32).reshape(len(split), -1) / 255.0 - 0.5 for split in splits)
    targets = np.eye(len(CLASSES))[dataset.train.labels]
    weights = np.linalg.solve(x.T @ x + 100 * np.eye(x.shape[1]), x.T @ targets)
    top1 = 100 * ((t @ weights).argmax(1) == dataset.minival.labels).mean()
    assert top1 < 20


# Shards -------------------------------------------------------------------------------------------


@settings(deadline=None, max_examples=40)
@given(st.lists(st.integers(0, 4), min_size=1, max_size=6).filter(any))
def test_shards_are_as_one_array(counts):
    whole = np.arange(sum(counts) * 12, dtype=np.uint8).reshape(-1, 2, 2, 3)
    shards = Shards(np.split(whole, np.cumsum(counts)[:-1]))
    assert len(shards) == len(whole) and shards.side == 2 and shards.nbytes == whole.nbytes
    assert np.array_equal(np.stack([shards[i] for i in range(len(shards))]), whole)
    assert np.array_equal(np.stack(list(shards)), whole)
    assert np.shares_memory(shards[len(whole) - 1], whole)
    with pytest.raises(IndexError):
        shards[len(whole)]


# What an image becomes ----------------------------------------------------------------------------


def test_the_usual_head_room_is_kept():
    assert side_for(224) == 256
    assert [side_for(r) for r in (8, 32, 64, 128)] == [9, 37, 73, 146]


GREY = np.tile(np.arange(0, 240, 10, dtype=np.uint8), (24, 1))  # 24 x 24


def transparent_palette() -> bytes:
    """Colours of a palette, of which the first is for what is not there."""
    image = Image.fromarray(GREY // 10).convert("P")
    image.putpalette(bytes(channel for i in range(256) for channel in (i * 10 % 256,) * 3))
    buffer = io.BytesIO()
    image.save(buffer, "PNG", transparency=bytes([0, *[255] * 255]))
    return buffer.getvalue()


MODES = {
    "L": lambda: encoded(GREY, "PNG", "L"),
    "LA": lambda: encoded(GREY, "PNG", "LA"),
    "RGB": lambda: encoded(GREY, "PNG", "RGB"),
    "RGBA": lambda: encoded(GREY, "PNG", "RGBA"),
    "P": lambda: encoded(GREY, "PNG", "P"),
    "P with transparency": transparent_palette,
    "I;16": lambda: encoded(GREY.astype(np.uint16) * 257),
    "I;16 TIFF": lambda: encoded(GREY.astype(np.uint16) * 257, "TIFF"),
    "GIF": lambda: encoded(GREY, "GIF"),
    "WebP": lambda: encoded(GREY, "WEBP", "RGB"),
    "JPEG": lambda: encoded(GREY, "JPEG"),
    "CMYK": lambda: encoded(np.stack([GREY] * 3, 2), "JPEG", "CMYK"),
}


@pytest.mark.parametrize("mode", MODES)
def test_images_of_any_mode_become_rgb(mode):
    square = to_square(MODES[mode](), 24, 27)
    assert square.shape == (27, 27, 3) and square.dtype == np.uint8
    off = np.abs(square[1:25, 1:25].astype(int) - GREY[..., None])
    assert off.max() <= (12 if mode in ("JPEG", "CMYK", "WebP") else 0)


def test_black_and_white_stay_what_they_are():
    pattern = np.random.default_rng(0).integers(0, 2, (24, 24)).astype(bool)
    square = to_square(encoded(pattern), 24, 24)
    assert np.array_equal(square, np.where(pattern[..., None], 255, 0).repeat(3, 2))


def test_the_colours_of_a_cmyk_jpeg_are_not_turned_round():
    for colour in ((255, 0, 0), (0, 128, 255), (255, 255, 255), (10, 10, 10)):
        image = np.full((32, 32, 3), colour, np.uint8)
        centre = to_square(encoded(image, "JPEG", "CMYK"), 28, 32)[16, 16].astype(int)
        assert np.abs(centre - colour).max() < 10


def test_sixteen_bits_keep_their_range():
    ramp = np.linspace(0, 65535, 24 * 24).reshape(24, 24).astype(np.uint16)
    for format in ("PNG", "TIFF"):
        grey = to_square(encoded(ramp, format), 24, 24)
        assert np.abs(grey.astype(int) - (ramp // 256)[..., None]).max() <= 1
    assert grey.min() == 0 and grey.max() == 255


@settings(deadline=None, max_examples=40)
@given(st.data(), st.integers(8, 40), st.integers(0, 99))
def test_an_image_as_small_as_the_square_keeps_its_pixels(data, resolution, long):
    """Nothing is resampled; the mirrored border fills what is left."""
    side = side_for(resolution)
    short = data.draw(st.integers(resolution, side))
    shape = data.draw(st.sampled_from([(short, short + long), (short + long, short)]))
    image = np.random.default_rng(long).integers(0, 256, (*shape, 3), np.uint8)
    top, left = ((length - short) // 2 for length in shape)
    centre = image[top : top + short, left : left + short]
    before = (side - short) // 2
    expected = mirrored(centre, before, side - short - before)
    assert np.array_equal(to_square(encoded(image), resolution, side), expected)


@settings(deadline=None, max_examples=40)
@given(st.integers(4, 15), st.integers(0, 50))
def test_a_smaller_image_is_enlarged_to_the_resolution_only(short, long):
    image = np.random.default_rng(long).integers(0, 256, (short, short + long, 3), np.uint8)
    box = (long / 2, 0, long / 2 + short, short)
    expected = Image.fromarray(image).resize((16, 16), Image.Resampling.BICUBIC, box)
    assert np.array_equal(to_square(encoded(image), 16, 18), mirrored(np.asarray(expected), 1, 1))


def scene(height: int, width: int) -> np.ndarray:
    """Smooth colours that differ all over, and an edge."""
    y, x = np.mgrid[:height, :width] / max(height, width)
    image = np.stack([x, y, (np.sin(9 * x) + np.cos(7 * y)) / 4 + 0.5], 2)
    image[(x - 0.5) ** 2 + (y - 0.5) ** 2 < 0.02] = 0
    return (255 * image).astype(np.uint8)


@pytest.mark.parametrize("format", ["PNG", "JPEG"])
@pytest.mark.parametrize("shape", [(37, 37), (150, 100), (301, 640), (1000, 800)])
def test_a_larger_image_is_its_centre_square_made_small_as_pillow_does(format, shape):
    """A JPEG may be decoded at a fraction of its size first, which must not show."""
    original = encoded(scene(*shape), format)
    image = Image.open(io.BytesIO(original)).convert("RGB")
    short = min(image.size)
    left, top = (image.width - short) / 2, (image.height - short) / 2
    box = (left, top, left + short, top + short)
    expected = np.asarray(image.resize((37, 37), Image.Resampling.BICUBIC, box)).astype(int)
    off = np.abs(to_square(original, 32, 37).astype(int) - expected)
    assert off.max() <= (0 if format == "PNG" else 4) and off.mean() < 0.4


@pytest.mark.parametrize("format", ["PNG", "JPEG"])
@pytest.mark.parametrize("period", [2, 6])
def test_large_images_are_resized_with_antialiasing(format, period):
    """Fine stripes become their mean, and not one of them."""
    stripes = 255 * (np.arange(512) % period < period // 2)
    image = np.broadcast_to(stripes[None, :, None], (512, 512, 3)).astype(np.uint8)
    for turned in (image, image.transpose(1, 0, 2)):
        small = to_square(encoded(turned, format), 16, 18)
        assert np.abs(small[2:-2, 2:-2].astype(int) - stripes.mean()).max() < 16


@pytest.mark.parametrize("shape", [(1, 1), (3, 100), (100, 1)])
def test_an_image_that_shows_nothing_is_refused_with_its_size(shape):
    with pytest.raises(DataError) as caught:
        to_square(encoded(np.zeros((*shape, 3), np.uint8)), 16, 18)
    assert str(caught.value) == f"{shape[1]}x{shape[0]} pixels, fewer than 4 on a side"
    assert to_square(encoded(np.full((4, 4, 3), 9, np.uint8)), 16, 18).mean() == 9


@pytest.mark.parametrize("junk", [b"", b"404: not found", b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n"])
def test_what_is_no_image_is_refused(junk):
    with pytest.raises(DataError, match="no format that is known"):
        to_square(junk, 16, 18)


@pytest.mark.parametrize("format", ["PNG", "JPEG", "TIFF", "BMP"])
def test_half_an_image_is_refused(format):
    """What is missing must not become grey."""
    whole = encoded(np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8), format)
    with pytest.raises((DataError, OSError, SyntaxError)):
        to_square(whole[: len(whole) // 2], 16, 18)


def test_a_long_image_takes_no_more_memory_for_that():
    """Resized before it is cropped, this one would have 4 million pixels times 256."""
    program = f"""
import io, resource
from PIL import Image
from gmsearch.data.decoding import to_square
buffer = io.BytesIO()
Image.new("L", (60_000, 4), 7).save(buffer, "PNG")
to_square(buffer.getvalue(), 224, 256)  # once before, for whatever is loaded on the way
pages = int(open("/proc/self/statm").read().split()[0])
room = 64 * 2**20
resource.setrlimit(resource.RLIMIT_AS, (pages * {resource.getpagesize()} + room,) * 2)
print(to_square(buffer.getvalue(), 224, 256).mean())
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.stdout == "7.0\n", done.stderr[-500:]


# What a search loads ------------------------------------------------------------------------------


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return make_folder(tmp_path / "set")


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    return tmp_path / "cache"


def never(done: int, total: int) -> None:
    raise AssertionError("images are decoded")


def pack_of(folder: Path, out: Path, resolution: int = 16):
    source = open_source(str(folder))
    order = Order(source, Selection(), choose(source, Selection()), resolution)
    return make_pack(order, out, workers=1)


@pytest.mark.parametrize("kind", ["zip of one folder", "tar", "tar.gz", "pack"])
def test_every_kind_of_source_loads_the_same(tmp_path, folder, cache, kind):
    expected = load(folder, cache=cache)
    assert expected.classes == ("n0", "n1", "n2") and expected.resolution == 16
    other = {
        "zip of one folder": lambda: zipped(folder, tmp_path / "set.zip", "set/"),
        "tar": lambda: tarred(folder, tmp_path / "set.tar"),
        "tar.gz": lambda: tarred(folder, tmp_path / "set.tar.gz"),
        "pack": lambda: pack_of(folder, tmp_path / "pack").path,
    }[kind]()
    dataset = load(other, cache=tmp_path / "another cache")
    assert dataset.classes == expected.classes and dataset.digest == expected.digest
    assert same(dataset.train, expected.train) and same(dataset.minival, expected.minival)
    val = load_val(other, cache=tmp_path / "another cache")
    assert same(val, load_val(folder, cache=cache))


def test_minival_is_a_tenth_of_every_class_cut_from_train(tmp_path, cache):
    folder = make_folder(tmp_path / "set", per_class=20)
    dataset = load(folder, cache=cache)
    assert np.bincount(dataset.minival.labels).tolist() == [2, 2, 2]
    assert np.bincount(dataset.train.labels).tolist() == [18, 18, 18]
    both = {image.tobytes() for s in (dataset.train, dataset.minival) for image in s.images}
    assert len(both) == 60
    assert both.isdisjoint(image.tobytes() for image in load_val(folder, cache=cache).images)


def test_images_are_packed_on_first_use_and_found_again(tmp_path, folder, cache):
    told = []
    first = load(folder, cache=cache, progress=lambda done, total: told.append((done, total)))
    assert told == [(done, 36) for done in range(37)]
    assert [path.parent.parent for path in cache.rglob("meta.json")] == [cache / "packs"]
    again = load(folder, cache=cache, progress=never)
    assert same(first.train, again.train) and first.digest == again.digest
    load_val(folder, cache=cache, progress=never)

    moved = tmp_path / "elsewhere/set"
    moved.parent.mkdir()
    folder.rename(moved)
    assert load(moved, cache=cache, progress=never).digest == first.digest

    image = moved / "train/n0/0.png"
    image.write_bytes(flat(7))
    assert load(moved, cache=cache).digest != first.digest
    assert load(moved, 17, cache=cache).resolution == 17
    assert len(list(cache.rglob("meta.json"))) == 3


def test_without_a_cache_of_ones_own_it_is_the_users(folder, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    load(folder)
    assert len(list((tmp_path / "xdg/gmsearch/packs").glob("set-16px-*/meta.json"))) == 1
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    assert cache_folder() == tmp_path / "home/.cache/gmsearch"


def test_a_pack_for_another_resolution_is_refused(tmp_path, folder):
    pack = pack_of(folder, tmp_path / "pack")
    assert data.packed_resolution(str(pack.path)) == 16
    assert data.packed_resolution(str(folder)) is None
    for loads in (load, load_val):
        with pytest.raises(DataError, match=r"packed for 16 px; give --resolution 16 or less, or"):
            loads(pack.path, 20)


@pytest.mark.parametrize("spoil", ["gone", "corrupt"])
def test_a_search_never_opens_val(tmp_path, folder, spoil):
    path = pack_of(folder, tmp_path / "pack").path
    for file in (path / "val").iterdir():
        file.unlink() if spoil == "gone" else file.write_bytes(b"junk")
    dataset = load(path)
    for split in (dataset.train, dataset.minival):
        assert len(list(split.images)) == len(split)
    assert pickle.loads(pickle.dumps(dataset)).digest == dataset.digest
    with pytest.raises(DataError, match=r"pack/val/.*; pack it again"):
        load_val(path)


def test_a_pack_that_is_not_as_it_was_packed_is_refused_before_a_trial(tmp_path, folder):
    path = pack_of(folder, tmp_path / "pack").path
    whole = (path / "train/images-000.npy").read_bytes()
    (path / "train/images-000.npy").write_bytes(whole[:-100])
    with pytest.raises(DataError, match=r"train/images-000.npy: not what was packed"):
        load(path)
    (path / "train/images-000.npy").write_bytes(whole)
    (path / "minival/labels.npy").unlink()
    with pytest.raises(DataError, match=r"minival/labels.npy: cannot be read \(No such file"):
        load(path)


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda d: None, r"no such data; give a folder, zip or tar of images"),
        (lambda d: make_folder(d, num_classes=1), r"one class \('n0'\) under train/CLASS/"),
        (lambda d: d.mkdir(), r"no images under train/CLASS/"),
        (lambda d: d.write_bytes(b"PK junk"), r"neither a folder nor a readable zip or tar"),
        (
            lambda d: make_folder(d, per_class=1),
            r"class 'n0' has 1 images, too few for train and minival; add some",
        ),
        (
            lambda d: (make_folder(d) / "train/n1/3.png").write_bytes(b"junk"),
            r"1 of \d+ images cannot be read, such as train/n1/3.png \(no format that is known\)",
        ),
    ],
)
def test_bad_data_ends_in_one_clear_line(tmp_path, cache, spoil, message):
    path = tmp_path / "set"
    spoil(path)
    with pytest.raises(DataError, match=message) as caught:
        load(path, cache=cache)
    assert str(path) in str(caught.value) and "\n" not in str(caught.value)


def test_another_pixel_label_or_class_has_another_digest(folder, cache):
    digest = load(folder, cache=cache).digest
    for split in ("train", "val"):
        (folder / split / "n0").rename(folder / split / "m0")
    assert load(folder, cache=cache).digest != digest
    for split in ("train", "val"):
        (folder / split / "m0").rename(folder / split / "n0")
    assert load(folder, cache=cache).digest == digest
    (folder / "train/n0/0.png").write_bytes((folder / "train/n1/0.png").read_bytes())
    assert load(folder, cache=cache).digest != digest


# Packs in other processes -------------------------------------------------------------------------


@pytest.fixture
def nothing_open():
    """A process shares what it has open; here each look is the first."""
    open_packed.cache_clear()
    yield
    open_packed.cache_clear()


def test_a_packed_data_set_goes_to_another_process_by_its_path(tmp_path, folder, nothing_open):
    dataset = PackedDataset.of(pack_of(folder, tmp_path / "pack"))
    pickled = pickle.dumps(dataset)
    assert len(pickled) < 500
    program = """
import hashlib, pickle, sys
dataset = pickle.load(sys.stdin.buffer)
digest = hashlib.sha256()
for split in (dataset.train, dataset.minival):
    for image in split.images:
        digest.update(image.tobytes())
    digest.update(split.labels.tobytes())
print(dataset.name, dataset.classes, dataset.resolution, dataset.digest, digest.hexdigest())
"""
    done = subprocess.run(
        [sys.executable, "-c", program], input=pickled, capture_output=True, cwd="/"
    )
    digest = hashlib.sha256()
    for split in (dataset.train, dataset.minival):
        digest.update(pixels(split).tobytes() + split.labels.tobytes())
    told = ("pack", dataset.classes, 16, dataset.digest, digest.hexdigest())
    assert done.stdout.decode().strip() == " ".join(map(str, told)), done.stderr.decode()
    assert pickle.loads(pickled) is pickle.loads(pickled)  # one mapping for trial after trial


def test_a_relative_path_is_found_from_another_folder(tmp_path, folder, nothing_open, monkeypatch):
    pack_of(folder, tmp_path / "pack")
    monkeypatch.chdir(tmp_path)
    pickled = pickle.dumps(load(Path("pack")))
    (tmp_path / "other").mkdir()
    monkeypatch.chdir(tmp_path / "other")
    assert len(pickle.loads(pickled).train) == 27


def test_where_the_path_is_gone_the_copy_of_this_machine_is_found(
    tmp_path, folder, nothing_open, monkeypatch
):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    path = pack_of(folder, tmp_path / "pack").path
    dataset = load(path)
    expected = pixels(dataset.train).copy()
    pickled = pickle.dumps(dataset)
    copy = copy_of(dataset.digest)
    assert copy == tmp_path / "xdg/gmsearch/copies" / dataset.digest
    shutil.copytree(path, copy)
    shutil.rmtree(copy / "val")  # a copy for a search has none
    path.rename(tmp_path / "gone")
    assert np.array_equal(pixels(pickle.loads(pickled).train), expected)

    open_packed.cache_clear()
    other = make_folder(tmp_path / "other set", per_class=11)
    pack_of(other, path)  # another pack, where the one was
    assert np.array_equal(pixels(pickle.loads(pickled).train), expected)

    open_packed.cache_clear()
    shutil.rmtree(copy)
    with pytest.raises(DataError, match=r"pack: the pack that this run began with is not there"):
        pickle.loads(pickled)


# Without a pack -----------------------------------------------------------------------------------


@pytest.mark.parametrize("official", [True, False])
def test_a_stream_has_the_images_that_a_pack_has(tmp_path, folder, cache, official):
    if not official:
        folder = make_flat(tmp_path / "flat", {"a": 12, "b": 11})
    packed, stream = load(folder, cache=cache), data.stream(str(folder), resolution=16)
    assert stream.classes == packed.classes and stream.resolution == 16
    for split in ("train", "minival"):
        held, originals = getattr(packed, split), getattr(stream, split)
        assert np.array_equal(originals.labels, held.labels)
        squares = [originals.square(i, 16) for i in range(len(originals))]
        assert np.array_equal(np.stack(squares), pixels(held))
        assert originals.image(0).mode == "RGB"
    digest = stream.digest
    assert pickle.loads(pickle.dumps(stream)).digest == digest
    next(folder.rglob("*.p?[gm]")).write_bytes(flat(9) + b" ")
    assert data.stream(str(folder), resolution=16).digest != digest


def test_only_original_images_are_streamed(tmp_path, folder):
    for source in ("bands", str(pack_of(folder, tmp_path / "pack").path)):
        with pytest.raises(DataError, match=r"is not original images; leave --stream out"):
            data.stream(source, resolution=16)


@pytest.mark.parametrize("kind", ["folder", "zip"])
@pytest.mark.parametrize("spoil", ["gone", "text", "half"])
def test_an_original_that_cannot_be_read_is_named(tmp_path, folder, kind, spoil):
    name = "train/n1/3.png"
    whole = (folder / name).read_bytes()
    if spoil != "gone":
        (folder / name).write_bytes(b"text" if spoil == "text" else whole[: len(whole) // 2])
    path = folder if kind == "folder" else zipped(folder, tmp_path / "set.zip")
    stream = data.stream(str(path), resolution=16)
    if spoil == "gone" and kind == "folder":
        (folder / name).unlink()
    elif spoil == "gone":
        damaged = bytearray(path.read_bytes())
        damaged[damaged.index(whole) + 60] ^= 1
        path.write_bytes(damaged)
    split = next(s for s in ("train", "minival") if name in [m.name for m in stream.plan.splits[s]])
    originals = getattr(stream, split)
    index = [member.name for member in stream.plan.splits[split]].index(name)
    for read in (lambda: originals.square(index, 16), lambda: originals.image(index).load()):
        with pytest.raises(DataError) as caught:
            read()
        assert name in str(caught.value) and "\n" not in str(caught.value)
        assert "None" not in str(caught.value)


# Val is for final figures -------------------------------------------------------------------------


# The door for full trainings, the word on the card of an export, and the top1 with 8 bits of a
# network that was trained in full, minival included.
MAY_READ_VAL = {"session", "exporting.subject", "exporting.int8", "band_accuracy"}
READER = "load_official"


def test_no_module_reads_val_but_those_for_final_figures():
    """By name at least: neither what reads val nor a split called val is in their text."""
    found = {}
    for path in PACKAGE.rglob("*.py"):
        module = path.relative_to(PACKAGE).with_suffix("").as_posix().replace("/", ".")
        if module.partition(".")[0] == "data":
            continue
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            named = {
                ast.Name: lambda node: node.id == READER,
                ast.Attribute: lambda node: node.attr == READER,
                ast.alias: lambda node: node.name.rpartition(".")[2] == READER,
                ast.Constant: lambda node: node.value in ("val", READER),
            }.get(type(node))
            if named and named(node):
                found[module] = node.lineno if hasattr(node, "lineno") else 0
    assert set(found) <= {*MAY_READ_VAL, "cli.finals"}, found


# Real images --------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def samples(tiny_imagenet: Path) -> list[Path]:
    found = sorted((tiny_imagenet.parent / "imagenet-samples").glob("*.JPEG"))
    if not found:
        pytest.skip("no imagenet-samples beside the real images")
    return found


def test_photographs_become_what_pillow_makes_of_their_centre(samples):
    """Of the whole photograph, of which decoding a fraction is a shortcut."""
    for file in samples[:16]:
        image = Image.open(file).convert("RGB")
        short = min(image.size)
        left, top = (image.width - short) // 2, (image.height - short) // 2
        box = (left, top, left + short, top + short)
        expected = np.asarray(image.resize((73, 73), Image.Resampling.BICUBIC, box)).astype(int)
        off = np.abs(to_square(file.read_bytes(), 64, 73).astype(int) - expected)
        assert off.mean() < 6, file


@pytest.mark.slow
def test_real_images(tiny_imagenet, tmp_path):
    dataset = data.load(str(tiny_imagenet), resolution=32, seed=0, cache=tmp_path)
    assert len(dataset.classes) == 40
    assert len(dataset.train) == 40 * 450 and len(dataset.minival) == 40 * 50
    assert 90 < pixels(dataset.train).mean() < 140
    assert read_pack(dataset.pack.path).meta["skipped"] == {}
    names = (dataset.pack.path / "train/names.txt").read_text().splitlines()
    source = open_source(str(tiny_imagenet))
    members = {m.name: m for found in source.splits["train"].values() for m in found}
    for i in range(0, len(names), 997):
        member = members[names[i]]
        expected = to_square(source.read(member), 32, packing.side_for(32))
        assert np.array_equal(dataset.train.images[i], expected)
        assert dataset.classes[dataset.train.labels[i]] == member.label
    assert os.path.getsize(dataset.pack.path / "train/images-000.npy") < 2**28 + 4096
