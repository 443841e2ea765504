"""Streaming: the images that a pack would have, decoded in every epoch through timm's loader."""

import pickle
import random
from collections import Counter
from dataclasses import replace
from itertools import islice
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.lib.stride_tricks import sliding_window_view
from pictures import encoded, make_folder, zipped
from PIL import Image
from timm.data import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD

from gmsearch import checkpoint, data
from gmsearch.architecture import Architecture, Stage
from gmsearch.data.decoding import side_for
from gmsearch.errors import DataError
from gmsearch.feeding import ArrayFeed
from gmsearch.recipe import Recipe
from gmsearch.streaming import StreamFeed
from gmsearch.training import make_feed, start, train

CPU = torch.device("cpu")
MEAN = 255 * np.array(IMAGENET_DEFAULT_MEAN)
STD = 255 * np.array(IMAGENET_DEFAULT_STD)
RESOLUTION, SIDE = 28, 32
RECIPE = Recipe(batch_size=8)
EVERYTHING = Recipe(
    batch_size=8,
    min_crop_area=0.3,
    color_jitter=0.3,
    rand_augment=5.0,
    random_erasing=0.4,
    mixup=0.4,
    cutmix=1.0,
)
assert side_for(RESOLUTION) == SIDE


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """Three classes of ten images of noise, 27 for training, of the size that a pack has."""
    return make_folder(tmp_path_factory.mktemp("noise") / "set", per_class=10, side=SIDE)


@pytest.fixture(scope="module")
def dataset(folder):
    return data.stream(str(folder), resolution=RESOLUTION)


@pytest.fixture(scope="module")
def packed(folder, tmp_path_factory):
    return packed_of(folder, tmp_path_factory.mktemp("cache"))


def packed_of(source, cache, resolution=RESOLUTION):
    return data.load(str(source), resolution=resolution, seed=0, cache=cache)


def feed_of(dataset, recipe=RECIPE, seed=0):
    return StreamFeed(dataset, recipe, seed=seed, device=CPU)


def epoch_of(dataset, recipe=RECIPE, seed=0, epoch=0):
    return list(feed_of(dataset, recipe, seed).batches(epoch))


def same(first, second):
    return len(first) == len(second) and all(
        torch.equal(a, b)
        for x, y in zip(first, second, strict=True)
        for a, b in zip(x, y, strict=True)
    )


def pixels(batch):
    return (batch.permute(0, 2, 3, 1).double().numpy() * STD + MEAN).round().astype(np.uint8)


def places_of(batches, split, tolerance=0):
    """(image of a packed split, top, left, flipped) of all images in some batches. Each is
    somewhere, once, in an image of its label.
    """
    side = batches[0][0].shape[-1]
    every = np.stack([split.images[i] for i in range(len(split))]).astype(np.int16)
    windows = sliding_window_view(every, (side, side), (1, 2))
    found = []
    for batch, labels in batches:
        for window, label in zip(pixels(batch).astype(np.int16), labels.tolist(), strict=True):
            places = []
            for flipped, seen in ((False, window), (True, window[:, ::-1])):
                seen = seen.transpose(2, 0, 1)
                corner = np.abs(windows[..., 0, 0] - seen[:, 0, 0]) <= tolerance
                places += [
                    (*at, flipped)
                    for at in np.argwhere(corner.all(3)).tolist()
                    if (np.abs(windows[tuple(at)] - seen) <= tolerance).all()
                ]
            assert len(places) == 1
            assert split.labels[places[0][0]] == label
            found.append(places[0])
    return found


def write(path: Path, contents: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(contents)


# Minival


def test_minival_equals_that_of_a_pack_bit_for_bit(dataset, packed):
    theirs = list(ArrayFeed(packed, RECIPE, seed=0, device=CPU).minival())
    assert same(list(feed_of(dataset, EVERYTHING, seed=5).minival()), theirs)
    assert len(dataset.minival) == 3


def test_minival_of_images_of_many_kinds_equals_that_of_a_pack(tmp_path):
    """Larger, smaller and longer than a pack's; JPEG, grey, with a palette, CMYK and 16 bits."""
    rng = np.random.default_rng(0)

    def noise(*shape):
        return rng.integers(0, 256, (*shape, 3), dtype=np.uint8)

    kinds = [
        ("large.jpg", encoded(noise(90, 140), "JPEG")),
        ("small.png", encoded(noise(9, 17))),
        ("exact.png", encoded(noise(RESOLUTION, RESOLUTION))),
        ("grey.png", encoded(noise(50, 40)[:, :, 0])),
        ("palette.gif", encoded(noise(50, 40), "GIF", "P")),
        ("cmyk.jpg", encoded(noise(64, 64), "JPEG", "CMYK")),
        ("deep.png", encoded(noise(40, 40)[:, :, 0].astype(np.uint16) * 256)),
        ("long.png", encoded(noise(200, 33))),
        ("clear.png", encoded(rng.integers(0, 256, (45, 45, 4), dtype=np.uint8))),
    ]
    for label, (name, contents) in enumerate(kinds):  # one of each comes to minival
        for i in range(2):
            write(tmp_path / "set" / "train" / f"n{label}" / f"{i}-{name}", contents)
        write(tmp_path / "set" / "val" / f"n{label}" / name, contents)
    packed = packed_of(tmp_path / "set", tmp_path / "cache")
    dataset = data.stream(str(tmp_path / "set"), resolution=RESOLUTION)
    theirs = list(ArrayFeed(packed, RECIPE, seed=0, device=CPU).minival())
    assert same(list(feed_of(dataset).minival()), theirs)
    for recipe in (RECIPE, EVERYTHING):
        (only,) = epoch_of(dataset, replace(recipe, batch_size=9))
        assert only[0].shape == (9, 3, RESOLUTION, RESOLUTION) and only[0].isfinite().all()


# Training batches


def test_crops_that_only_move_are_windows_of_the_images_of_a_pack(dataset, packed):
    """Every image at most once in an epoch, in full batches; positions and flips all come up."""
    found = []
    for epoch in range(8):
        batches = epoch_of(dataset, epoch=epoch)
        assert [len(labels) for _, labels in batches] == [8, 8, 8]
        for batch, labels in batches:
            assert batch.dtype == torch.float32 and labels.dtype == torch.int64
            assert batch.is_contiguous(memory_format=torch.channels_last)
        places = places_of(batches, packed.train)
        assert len({image for image, *_ in places}) == 24
        found += places
    assert {image for image, *_ in found} == set(range(27))
    assert {top for _, top, *_ in found} == {left for _, _, left, _ in found} == set(range(5))
    share = np.mean([flipped for *_, flipped in found])
    assert abs(share - 0.5) < 4 * 0.5 / np.sqrt(len(found))


def test_nothing_is_flipped_where_the_recipe_does_not_say_so(dataset, packed):
    batches = epoch_of(dataset, replace(RECIPE, flip=False))
    assert not any(flipped for *_, flipped in places_of(batches, packed.train))


def test_an_epoch_of_one_batch_is_every_image_once(dataset, packed):
    feed = feed_of(dataset, replace(RECIPE, batch_size=500))
    batches = list(feed.batches(0))
    assert (feed.batch_size, feed.num_steps, len(batches)) == (27, 1, 1)
    assert sorted(image for image, *_ in places_of(batches, packed.train)) == list(range(27))


@pytest.mark.parametrize("side", [(64, 64), (96, 64), (64, 80)], ids=str)
def test_larger_images_are_cut_and_resized_as_in_a_pack(tmp_path, side):
    rng = np.random.default_rng(0)
    for i in range(12):
        few = Image.fromarray(rng.integers(0, 256, (6, 6, 3), dtype=np.uint8))
        picture = np.asarray(few.resize(side[::-1], Image.Resampling.BICUBIC))
        write(tmp_path / "set" / "train" / "ab"[i % 2] / f"{i}.png", encoded(picture))
        write(tmp_path / "set" / "val" / "ab"[i % 2] / f"{i}.png", encoded(picture))
    packed = packed_of(tmp_path / "set", tmp_path / "cache")
    dataset = data.stream(str(tmp_path / "set"), resolution=RESOLUTION)
    found = places_of(epoch_of(dataset), packed.train, tolerance=1)
    assert len({image for image, *_ in found}) == 8


def test_small_images_are_not_enlarged_for_the_sake_of_head_room(tmp_path):
    """As in a pack, where a mirrored border gives the room: objects look as large in training as
    they do in minival.
    """
    folder = make_folder(tmp_path / "set", side=RESOLUTION)
    packed = packed_of(folder, tmp_path / "cache")
    dataset = data.stream(str(folder), resolution=RESOLUTION)
    found = places_of(epoch_of(dataset), packed.train)
    assert len({image for image, *_ in found}) == 24


def test_resized_crops_are_as_large_as_asked(tmp_path):
    """Ramps tell where a crop was taken: red grows by 2 a pixel to the right, green downwards."""
    y, x = np.mgrid[:120, :120]
    ramps = encoded(np.stack([2 * x, 2 * y, 0 * x], 2).astype(np.uint8))
    for i in range(60):
        for split in ("train", "val"):
            write(tmp_path / "set" / split / "ab"[i % 2] / f"{i}.png", ramps)
    dataset = data.stream(str(tmp_path / "set"), resolution=RESOLUTION)
    ((batch, _),) = epoch_of(dataset, Recipe(batch_size=500, min_crop_area=0.3))
    seen = pixels(batch).astype(float)
    across = (seen[:, 14, 24, 0] - seen[:, 14, 4, 0]) / 2 * RESOLUTION / 20 / 120
    down = (seen[:, 24, 14, 1] - seen[:, 4, 14, 1]) / 2 * RESOLUTION / 20 / 120
    areas = np.abs(across) * down
    assert areas.min() > 0.3 * 0.95 and areas.max() < 1.05
    assert areas.min() < 0.5 and areas.max() > 0.7
    assert 0.2 < (across < 0).mean() < 0.8  # flips
    assert 0.7 < (np.abs(across) / down).min() and (np.abs(across) / down).max() < 1.4


# Determinism


@pytest.mark.parametrize(
    ("recipe", "threads"),
    [(RECIPE, 1), (EVERYTHING, 1), (EVERYTHING, 2)],
    ids=["plain", "everything", "two threads"],
)
# Of torch, where a machine has fewer cores than the threads that we ask for.
@pytest.mark.filterwarnings("ignore:This DataLoader will create 2 worker processes")
def test_an_epoch_is_a_function_of_its_number_and_the_seed(dataset, recipe, threads):
    torch.set_num_threads(threads)
    try:
        expected = epoch_of(dataset, recipe, seed=1, epoch=2)
        torch.manual_seed(99)
        random.seed(99)
        np.random.seed(99)
        feed = feed_of(dataset, recipe, seed=1)
        list(islice(feed.batches(0), 1))  # an epoch that is left in the middle
        list(feed.minival())
        found = []
        for batch, targets in feed.batches(2):
            found.append((batch.clone(), targets.clone()))
            torch.rand(5), random.random(), np.random.rand()
            batch.zero_()
        assert same(found, expected)
        for seed, epoch in ((1, 0), (2, 2)):
            others = epoch_of(dataset, recipe, seed, epoch)
            assert not any(torch.equal(a[0], b[0]) for a, b in zip(others, found, strict=True))
    finally:
        torch.set_num_threads(1)


@pytest.mark.filterwarnings("ignore:This DataLoader will create 2 worker processes")
def test_two_workers_crop_independently(tmp_path):
    """Each makes whole batches: equal images show whether two draw the same."""
    y, x = np.mgrid[:SIDE, :SIDE]
    ramps = encoded(np.stack([7 * x, 7 * y, 0 * x], 2).astype(np.uint8))
    for i in range(40):
        for split in ("train", "val"):
            write(tmp_path / "set" / split / "ab"[i % 2] / f"{i}.png", ramps)
    dataset = data.stream(str(tmp_path / "set"), resolution=RESOLUTION)
    torch.set_num_threads(2)
    try:
        batches = epoch_of(dataset)
    finally:
        torch.set_num_threads(1)
    corners = [tuple(map(tuple, pixels(batch)[:, 0, 0].tolist())) for batch, _ in batches]
    assert len(set(corners)) == len(batches) == 4


# Failures


NOISE = encoded(np.random.default_rng(0).integers(0, 255, (40, 40, 3), dtype=np.uint8))


@pytest.mark.parametrize(
    ("split", "contents"),
    [
        ("train", b"not an image"),
        ("train", NOISE[:900]),
        ("minival", encoded(np.zeros((1, 1, 3), np.uint8))),
    ],
    ids=["text", "truncated", "one pixel"],
)
def test_an_image_that_cannot_be_decoded_is_named(tmp_path, split, contents):
    folder = make_folder(tmp_path / "set", side=SIDE)
    victim = data.stream(str(folder), resolution=RESOLUTION).plan.splits[split][1]
    write(folder / victim.name, contents)
    feed = feed_of(data.stream(str(folder), resolution=RESOLUTION), replace(RECIPE, batch_size=27))
    with pytest.raises(DataError) as caught:
        list(feed.batches(0) if split == "train" else feed.minival())
    assert victim.name in str(caught.value)
    assert "\n" not in str(caught.value)  # a message is one line, from another process too


def test_an_image_that_vanishes_is_named(tmp_path):
    folder = make_folder(tmp_path / "set", side=SIDE)
    dataset = data.stream(str(folder), resolution=RESOLUTION)
    victim = dataset.plan.splits["train"][0]
    (folder / victim.name).unlink()
    with pytest.raises(DataError, match=victim.name) as caught:
        epoch_of(dataset, replace(RECIPE, batch_size=27))
    assert "\n" not in str(caught.value)


def test_only_original_images_are_streamed(packed):
    for source in ("bands", str(packed.pack.path)):
        with pytest.raises(DataError, match="--stream: .* is not original images"):
            data.stream(source, resolution=32)
    with pytest.raises(DataError, match="no such data"):
        data.stream("/no/such/place", resolution=32)


@pytest.mark.gpu
def test_batches_on_a_gpu_are_those_of_a_cpu(dataset):
    gpu = torch.device("cuda", 0)
    feed = StreamFeed(dataset, RECIPE, seed=0, device=gpu)
    expected = epoch_of(dataset) + list(feed_of(dataset).minival())
    for ours, theirs in zip([*feed.batches(0), *feed.minival()], expected, strict=True):
        assert ours[0].device == ours[1].device == gpu
        torch.testing.assert_close(ours[0].cpu(), theirs[0], rtol=1e-5, atol=1e-5)
        assert torch.equal(ours[1].cpu(), theirs[1])


# The data set


def test_what_is_streamed_is_what_is_packed(dataset, packed, folder):
    assert dataset.classes == packed.classes and dataset.resolution == packed.resolution
    for split in ("train", "minival"):
        ours, theirs = getattr(dataset, split), getattr(packed, split)
        assert ours.labels.tolist() == theirs.labels.tolist() and len(ours) == len(theirs)
        names = (packed.pack.path / split / "names.txt").read_text().splitlines()
        assert [member.name for member in dataset.plan.splits[split]] == names
        for i in range(len(ours)):
            assert np.array_equal(ours.square(i, RESOLUTION), theirs.images[i])
            original = Image.open(folder / names[i])
            assert np.array_equal(np.asarray(ours.image(i)), np.asarray(original))
    assert Counter(dataset.train.labels.tolist()) == {0: 9, 1: 9, 2: 9}


def test_another_process_gets_the_same_data_set(dataset):
    expected = epoch_of(dataset, EVERYTHING)
    again = pickle.loads(pickle.dumps(dataset))
    assert again.digest == dataset.digest and again.classes == dataset.classes
    assert same(epoch_of(again, EVERYTHING), expected)


@pytest.mark.filterwarnings("ignore:This DataLoader will create 2 worker processes")
def test_a_zip_is_streamed_as_its_folder_is(dataset, folder, tmp_path):
    archive = data.stream(str(zipped(folder, tmp_path / "set.zip")), resolution=RESOLUTION)
    torch.set_num_threads(2)
    try:
        for found in (archive, pickle.loads(pickle.dumps(archive))):
            assert same(epoch_of(found), epoch_of(dataset))
            assert same(list(feed_of(found).minival()), list(feed_of(dataset).minival()))
    finally:
        torch.set_num_threads(1)


def test_the_digest_tells_another_image_and_another_resolution(folder, tmp_path):
    copy = make_folder(tmp_path / "set", side=SIDE)
    first = data.stream(str(copy), resolution=RESOLUTION)
    assert data.stream(str(copy), resolution=RESOLUTION + 1).digest != first.digest
    victim = copy / first.plan.splits["train"][0].name
    write(victim, victim.read_bytes() + b" ")
    assert data.stream(str(copy), resolution=RESOLUTION).digest != first.digest


# Training


def test_a_training_on_a_stream_stops_and_goes_on_as_if_it_never_had(tmp_path):
    dataset = data.stream(str(make_folder(tmp_path / "set", side=40)), resolution=32)
    recipe = replace(EVERYTHING, num_epochs=2, ema_decay=0.9)
    network = Architecture(
        stem_width=8,
        stem_activation="relu6",
        stages=tuple(Stage(width=8 * i, depth=1, ratio=2, kernel=3) for i in (1, 2, 3, 4)),
    )

    def fresh(seed=0):
        return start(network, 3, recipe, seed=seed, resolution=32)

    def results(state):
        return [
            (r.epoch, r.top1, r.loss, r.train_loss) for r in train(state, dataset, recipe, seed=0)
        ]

    assert type(make_feed(dataset, recipe, seed=0, device=CPU)) is StreamFeed
    whole = fresh()
    expected = results(whole)
    assert [epoch for epoch, *_ in expected] == [1, 2] and np.isfinite(expected).all()
    stopped = fresh()
    next(train(stopped, dataset, recipe, seed=0))
    checkpoint.save(tmp_path / "c.pt", stopped)
    torch.manual_seed(99)
    resumed = fresh(seed=99)
    checkpoint.load(tmp_path / "c.pt", resumed)
    assert results(resumed) == expected[1:]
    for name, value in whole.model.state_dict().items():
        assert torch.equal(resumed.model.state_dict()[name], value), name
