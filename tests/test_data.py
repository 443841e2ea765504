"""Data sets: `bands`, and real images in ImageNet layout."""

import io
import zipfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from gmsearch import data
from gmsearch.data.bands import CLASSES, SHAPES, TEXTURES
from gmsearch.data.images import decode
from gmsearch.data.records import Split, cut_minival
from gmsearch.errors import DataError


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


def load(path: Path, resolution: int = 16, seed: int = 0):
    return data.load(str(path), resolution=resolution, seed=seed)


def same(a: Split, b: Split) -> bool:
    return np.array_equal(a.images, b.images) and np.array_equal(a.labels, b.labels)


def test_bands_is_the_same_for_a_seed_and_another_for_another():
    first, again, other = (data.load("bands", resolution=32, seed=s) for s in (0, 0, 1))
    assert same(first.train, again.train) and same(first.minival, again.minival)
    assert not same(first.train, other.train)


def test_bands_splits_share_no_image_and_have_all_classes_equally_often():
    dataset = data.load("bands", resolution=32, seed=0)
    val = data.load_val("bands", resolution=32, seed=0)
    images = [s.tobytes() for split in (dataset.train, dataset.minival, val) for s in split.images]
    assert len(set(images)) == len(images)
    for split in (dataset.train, dataset.minival, val):
        assert split.images.shape[1:] == (32, 32, 3) and split.images.dtype == np.uint8
        counts = np.bincount(split.labels, minlength=len(CLASSES))
        assert counts.max() - counts.min() <= 1


def test_in_bands_the_bands_of_frequency_tell_shape_and_texture():
    """The texture is readable from the highest frequencies, and hardly from the lowest."""
    dataset = data.load("bands", resolution=32, seed=0)
    assert len(CLASSES) == len(SHAPES) * len(TEXTURES)

    def nearest_mean_accuracy(features, train_labels, test_features, test_labels):
        means = np.stack([features[train_labels == c].mean(0) for c in np.unique(train_labels)])
        distance = ((test_features[:, None] - means) ** 2).sum(2)
        return (distance.argmin(1) == test_labels).mean()

    def spectrum(split, low):
        grey = split.images.mean(3) / 255
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


def test_a_linear_model_is_lost_on_bands():
    """Ridge regression on pixels, in closed form, stays near chance (8.3 %)."""
    dataset = data.load("bands", resolution=32, seed=0)
    x, t = (s.images.reshape(len(s), -1) / 255.0 - 0.5 for s in (dataset.train, dataset.minival))
    targets = np.eye(len(CLASSES))[dataset.train.labels]
    weights = np.linalg.solve(x.T @ x + 100 * np.eye(x.shape[1]), x.T @ targets)
    top1 = 100 * ((t @ weights).argmax(1) == dataset.minival.labels).mean()
    assert top1 < 20


def test_a_zip_reads_as_its_folder_does(tmp_path):
    folder = make_folder(tmp_path / "set")
    expected = load(folder)
    for prefix in ("", "set/"):
        archive = zipped(folder, tmp_path / "set.zip", prefix)
        dataset = load(archive)
        assert dataset.classes == expected.classes == ("n0", "n1", "n2")
        assert same(dataset.train, expected.train) and same(dataset.minival, expected.minival)


def test_minival_is_a_tenth_of_every_class_cut_from_train_by_seed(tmp_path):
    folder = make_folder(tmp_path / "set", per_class=20)
    first, again, other = load(folder), load(folder), load(folder, seed=1)
    assert np.bincount(first.minival.labels).tolist() == [2, 2, 2]
    assert np.bincount(first.train.labels).tolist() == [18, 18, 18]
    assert same(first.minival, again.minival) and not same(first.minival, other.minival)
    both = {image.tobytes() for image in (*first.train.images, *first.minival.images)}
    assert len(both) == 60


def test_cut_minival_leaves_an_image_on_each_side_of_a_small_class():
    split = Split(np.arange(4, dtype=np.uint8).reshape(4, 1, 1, 1), np.array([0, 0, 1, 1]))
    train, minival = cut_minival(split, 0.1, seed=3)
    assert train.labels.tolist() == minival.labels.tolist() == [0, 1]


def test_a_search_never_opens_val(tmp_path):
    folder = make_folder(tmp_path / "set")
    for file in (folder / "val").rglob("*.png"):
        file.write_bytes(b"not an image")
    load(folder)
    with pytest.raises(DataError, match="cannot be decoded"):
        data.load_val(str(folder), resolution=16, seed=0)


@pytest.mark.parametrize("mode", ["L", "RGBA", "P", "1", "CMYK", "I;16"])
def test_images_of_any_mode_become_rgb(mode):
    grey = np.tile(np.arange(0, 240, 10, dtype=np.uint8), (24, 1))
    if mode == "I;16":
        encoded_image = encoded(grey.astype(np.uint16) * 256)
    else:
        encoded_image = encoded(grey, "TIFF" if mode == "CMYK" else "PNG", mode)
    assert decode(encoded_image, 16).shape == (16, 16, 3)


def test_decode_keeps_the_centre_of_the_long_side():
    wide = np.zeros((16, 48, 3), np.uint8)
    wide[:, 16:32] = 255
    assert decode(encoded(wide), 16).min() == 255
    assert decode(encoded(wide.transpose(1, 0, 2)), 16).min() == 255


def test_decode_resizes_with_antialiasing():
    stripes = np.tile(np.array([[0], [255]], np.uint8), (32, 64))[..., None].repeat(3, 2)
    small = decode(encoded(stripes), 16)
    assert abs(int(small[8, 8, 0]) - 127) < 16  # the mean, not one of the stripes


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda d: None, r"no such data; give 'bands', or a folder or zip in ImageNet layout"),
        (lambda d: make_folder(d, num_classes=1), r"one class \('n0'\) under train/<class>/"),
        (lambda d: (d / "train").mkdir(parents=True), r"no images under train/<class>/"),
        (lambda d: d.write_bytes(b"PK junk"), r"neither a folder nor a readable zip"),
        (
            lambda d: make_folder(d, per_class=1),
            r"class 'n0' has one image in train; two are needed",
        ),
    ],
)
def test_bad_data_ends_in_one_clear_line(tmp_path, spoil, message):
    path = tmp_path / "set"
    spoil(path)
    with pytest.raises(DataError, match=message) as caught:
        load(path)
    assert str(path) in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize("as_zip", [False, True])
def test_a_corrupt_image_is_named(tmp_path, as_zip):
    folder = make_folder(tmp_path / "set")
    whole = (folder / "train/n1/3.png").read_bytes()
    (folder / "train/n1/3.png").write_bytes(whole[: len(whole) // 2])
    path = zipped(folder, tmp_path / "set.zip") if as_zip else folder
    with pytest.raises(DataError, match=r"the image train/n1/3.png cannot be decoded .*remove or"):
        load(path)


def test_more_images_than_memory_are_refused_before_decoding(tmp_path, monkeypatch):
    folder = make_folder(tmp_path / "set")
    monkeypatch.setattr("gmsearch.data.images.MEMORY_SHARE", 1e-9)
    with pytest.raises(DataError, match=r"30 images at 16 px take .* lower --resolution"):
        load(folder)


def test_what_a_mac_puts_beside_images_is_passed_over(tmp_path):
    folder = make_folder(tmp_path / "set")
    expected = load(folder)
    for name in ("train/n0/._0.png", "__MACOSX/train/n0/0.png", "train/.hidden/0.png"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(b"not an image")
    assert same(load(folder).train, expected.train)


def test_two_train_folders_are_refused(tmp_path):
    folder = make_folder(tmp_path / "set")
    make_folder(folder / "copy")
    with pytest.raises(DataError, match=r"several 'train' folders \(copy/train, train\); keep one"):
        load(folder)


def test_sixteen_bits_keep_their_range():
    ramp = np.linspace(0, 65535, 24 * 24).reshape(24, 24).astype(np.uint16)
    grey = decode(encoded(ramp), 24)[..., 0]
    assert np.abs(grey.astype(int) - ramp // 256).max() <= 1


def test_another_pixel_label_or_class_has_another_digest(tmp_path):
    folder = make_folder(tmp_path / "set")
    digest = load(folder).digest
    assert load(folder).digest == digest
    (folder / "train/n0").rename(folder / "train/m0")
    assert load(folder).digest != digest
    (folder / "train/m0").rename(folder / "train/n0")
    (folder / "train/n0/0.png").write_bytes((folder / "train/n1/0.png").read_bytes())
    assert load(folder).digest != digest


def test_real_images(tiny_imagenet):
    dataset = data.load(str(tiny_imagenet), resolution=32, seed=0)
    assert len(dataset.classes) == 40
    assert len(dataset.train) == 40 * 450 and len(dataset.minival) == 40 * 50
    assert 90 < dataset.train.images.mean() < 140
