"""Feeding: batches are exact windows of the images, and a function of (seed, epoch, step) alone."""

import multiprocessing
import pickle
import random
import re
from collections import Counter
from dataclasses import replace
from itertools import islice, pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.lib.stride_tricks import sliding_window_view
from PIL import Image
from scipy import stats
from timm.data import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD

from gmsearch import checkpoint, data, feeding
from gmsearch.architecture import Architecture, Stage
from gmsearch.augment import normalise
from gmsearch.data.records import Dataset, Shards, Split
from gmsearch.feeding import (
    AHEAD,
    EVAL_BATCH_SIZE,
    RESIDENT_SHARE,
    ArrayFeed,
    Crops,
    Mapped,
    Resident,
    Staged,
    choose_share,
    place,
)
from gmsearch.recipe import Recipe
from gmsearch.training import start, train

CPU = torch.device("cpu")
MEAN = 255 * np.array(IMAGENET_DEFAULT_MEAN)
STD = 255 * np.array(IMAGENET_DEFAULT_STD)
RECIPE = Recipe(batch_size=16)
EVERYTHING = Recipe(
    batch_size=16,
    min_crop_area=0.3,
    color_jitter=0.3,
    rand_augment=5.0,
    random_erasing=0.4,
    mixup=0.4,
    cutmix=1.0,
)


def split_of(count, side, seed=0, num_classes=None):
    """Images of noise; the label of each its number, where there are as many classes."""
    rng = np.random.default_rng(seed)
    images = rng.integers(0, 256, (count, side, side, 3), dtype=np.uint8)
    return Split.of(images, np.arange(count) % (num_classes or count))


def dataset_of(count=64, side=15, resolution=12, minival=5, num_classes=None):
    classes = tuple(map(str, range(num_classes or max(count, minival))))
    train = split_of(count, side, 0, num_classes)
    return Dataset("noise", classes, resolution, train, split_of(minival, side, 1, num_classes))


def feed_of(dataset, recipe=RECIPE, seed=0, device=CPU):
    return ArrayFeed(dataset, recipe, seed=seed, device=device)


def epoch_of(dataset, recipe=RECIPE, seed=0, epoch=0):
    return list(feed_of(dataset, recipe, seed).batches(epoch))


def same(first, second):
    return len(first) == len(second) and all(
        torch.equal(a, b)
        for x, y in zip(first, second, strict=True)
        for a, b in zip(x, y, strict=True)
    )


def pixels(batch):
    return (batch.permute(0, 2, 3, 1).cpu().double().numpy() * STD + MEAN).round().astype(np.uint8)


def place_in(image, window):
    """The one (top, left, flipped) where a window lies in an image."""
    side = len(window)
    windows = sliding_window_view(image, (side, side), (0, 1))
    found = [
        (int(top), int(left), flipped)
        for flipped, seen in ((False, window), (True, window[:, ::-1]))
        for top, left in np.argwhere((windows == seen.transpose(2, 0, 1)).all((2, 3, 4)))
    ]
    assert len(found) == 1
    return found[0]


def places_of(dataset, batches):
    """(image, top, left, flipped) of all images in some batches, which their labels name."""
    return [
        (label, *place_in(dataset.train.images[label], window))
        for batch, labels in batches
        for window, label in zip(pixels(batch), labels.tolist(), strict=True)
    ]


# Crops and flips


@settings(deadline=None, max_examples=30)
@given(
    st.integers(1, 40),
    st.integers(4, 9),
    st.integers(0, 4),
    st.integers(1, 50),
    st.booleans(),
    st.integers(0, 2**31),
    st.integers(0, 50),
)
def test_every_batch_is_windows_of_its_images_each_at_most_once_in_full_batches(
    count, resolution, room, batch_size, flip, seed, epoch
):
    dataset = dataset_of(count, resolution + room, resolution)
    feed = feed_of(dataset, Recipe(batch_size=batch_size, flip=flip), seed)
    batches = list(feed.batches(epoch))
    size = min(batch_size, count)
    assert (feed.batch_size, feed.num_steps, len(batches)) == (size, count // size, count // size)
    for batch, labels in batches:
        assert batch.shape == (size, 3, resolution, resolution) and batch.dtype == torch.float32
        assert batch.is_contiguous(memory_format=torch.channels_last)
        assert labels.shape == (size,) and labels.dtype == torch.int64
    found = places_of(dataset, batches)
    assert len({which for which, *_ in found}) == len(found)
    assert flip or not any(flipped for *_, flipped in found)


def test_all_positions_and_both_flips_come_up_equally_often():
    dataset = dataset_of()
    found = [
        place
        for epoch in range(20)
        for place in places_of(dataset, feed_of(dataset).batches(epoch))
    ]
    assert len(found) == 20 * 64
    positions = Counter((top, left, flipped) for _, top, left, flipped in found)
    expected = {(t, x, f) for t in range(4) for x in range(4) for f in (False, True)}
    assert set(positions) == expected
    assert stats.chisquare(list(positions.values())).pvalue > 1e-3
    share = np.mean([flipped for *_, flipped in found])
    assert abs(share - 0.5) < 4 * 0.5 / np.sqrt(len(found))
    for image in range(64):  # none is always as it was, or never
        assert {flipped for which, *_, flipped in found if which == image} == {False, True}


def test_an_image_without_head_room_is_taken_whole():
    dataset = dataset_of(side=12, resolution=12)
    assert {(t, x) for _, t, x, _ in places_of(dataset, epoch_of(dataset))} == {(0, 0)}


def test_a_batch_larger_than_the_set_is_the_set():
    ((_, labels),) = epoch_of(dataset_of(10), Recipe(batch_size=500))
    assert sorted(labels.tolist()) == list(range(10))


@given(st.lists(st.integers(0, 4), min_size=1, max_size=60), st.integers(0, 3))
def test_a_share_is_of_each_class_and_within_a_larger_one(labels, seed):
    labels = np.array(labels)
    small, large = (choose_share(labels, share, seed) for share in (0.3, 0.6))
    assert set(small) <= set(large) and (np.diff(small) > 0).all()
    for label in set(labels.tolist()):
        there = (labels == label).sum()
        assert (labels[small] == label).sum() == max(1, round(0.3 * there))
    assert (choose_share(labels, 1.0, seed) == np.arange(len(labels))).all()


def test_an_epoch_of_a_share_is_the_same_images_each_time():
    dataset = dataset_of(count=60)
    recipe = replace(RECIPE, train_share=0.5, batch_size=5)
    feed = feed_of(dataset, recipe)
    assert feed.num_steps == len(feed.chosen) // 5
    assert set(feed.order(0)) <= set(feed.chosen) and set(feed.order(3)) <= set(feed.chosen)
    assert sorted(feed.order(0)) != feed.order(0).tolist()


def test_every_image_comes_up_as_often_as_any_other_where_the_last_batch_is_left_out():
    dataset = dataset_of(20)
    seen = Counter(
        label
        for epoch in range(200)
        for _, labels in epoch_of(dataset, Recipe(batch_size=16), epoch=epoch)
        for label in labels.tolist()
    )
    assert len(seen) == 20 and all(
        abs(n - 160) < 5 * np.sqrt(200 * 0.8 * 0.2) for n in seen.values()
    )


# Minival


@settings(deadline=None, max_examples=20)
@given(st.integers(1, 600), st.integers(2, 5), st.integers(0, 3))
def test_minival_is_the_centres_of_all_images_once_and_in_order(count, resolution, room):
    dataset = dataset_of(3, resolution + room, resolution, minival=count)
    batches = list(feed_of(dataset, EVERYTHING).minival())
    first = room // 2
    centre = slice(first, first + resolution)
    expected = dataset.minival.images.arrays[0][:, centre, centre]
    images, labels = (torch.cat(parts) for parts in zip(*batches, strict=True))
    assert torch.equal(images, normalise(torch.from_numpy(expected.copy())))
    assert labels.tolist() == list(range(count))
    assert [len(labels) for _, labels in batches] == [
        min(EVAL_BATCH_SIZE, count - start) for start in range(0, count, EVAL_BATCH_SIZE)
    ]
    assert all(b.is_contiguous(memory_format=torch.channels_last) for b, _ in batches)


# Determinism


@pytest.mark.parametrize("recipe", [RECIPE, EVERYTHING], ids=["plain", "everything"])
class TestDeterminism:
    def test_two_feeds_of_one_seed_agree_and_epochs_and_seeds_differ(self, recipe):
        dataset = dataset_of(num_classes=7)
        first, again = (
            [epoch_of(dataset, recipe, seed=3, epoch=e) for e in range(3)] for _ in range(2)
        )
        assert all(same(a, b) for a, b in zip(first, again, strict=True))
        others = [epoch_of(dataset, recipe, seed=s, epoch=0) for s in (0, 4)]
        for a, b in pairwise([*first, *others, first[0]]):
            assert not any(torch.equal(x[0], y[0]) for x, y in zip(a, b, strict=True))

    def test_what_was_drawn_before_and_between_does_not_matter(self, recipe):
        dataset = dataset_of(num_classes=7)
        expected = epoch_of(dataset, recipe, epoch=2)
        torch.manual_seed(123)
        random.seed(123)
        np.random.seed(123)
        feed = feed_of(dataset, recipe)
        list(islice(feed.batches(0), 2))  # an epoch that is left in the middle
        found = []
        for batch, targets in feed.batches(2):
            found.append((batch.clone(), targets.clone()))
            torch.rand(5), random.random(), np.random.rand()
            batch.zero_()  # whatever becomes of it
            targets.zero_()
        assert same(found, expected)
        assert same(list(feed.batches(2)), expected)

    def test_two_epochs_that_are_drawn_by_turns_are_those_drawn_one_after_the_other(self, recipe):
        dataset = dataset_of(num_classes=7)
        feed, other = feed_of(dataset, recipe, 0), feed_of(dataset, recipe, 1)
        turns = list(zip(feed.batches(0), other.batches(1), feed.minival(), strict=False))
        assert len(turns) == 1  # of minival
        turns = list(zip(feed.batches(0), other.batches(1), strict=True))
        assert same([a for a, _ in turns], epoch_of(dataset, recipe, 0, 0))
        assert same([b for _, b in turns], epoch_of(dataset, recipe, 1, 1))

    def test_what_a_network_draws_in_a_step_is_the_same_when_the_step_is_taken_again(self, recipe):
        """Dropout draws from the generator as the batch leaves it."""
        dataset = dataset_of(num_classes=7)
        drawn = [
            [torch.rand(2).tolist() for _ in feed_of(dataset, recipe).batches(epoch)]
            for epoch in (0, 0, 1)
        ]
        assert drawn[0] == drawn[1] != drawn[2]
        assert len({tuple(d) for d in drawn[0]}) == len(drawn[0])


def test_data_are_left_as_they_are():
    dataset = dataset_of(num_classes=7)
    before = dataset.digest
    for array in (dataset.train.images.arrays[0], dataset.minival.images.arrays[0]):
        array.flags.writeable = False  # as a mapping is
    dataset.train.labels.flags.writeable = False
    for recipe in (RECIPE, EVERYTHING):
        for batch, targets in feed_of(dataset, recipe).batches(0):
            batch.zero_()
            targets.zero_()
    assert replace(dataset).digest == before


# Shards, and places for images


@st.composite
def cut(draw, count):
    """Where an array of `count` images is cut into shards, some of which may be empty."""
    return sorted(draw(st.lists(st.integers(0, count), max_size=4)))


@settings(deadline=None, max_examples=30)
@given(st.data(), st.integers(1, 40), st.sampled_from([RECIPE, EVERYTHING]))
def test_several_shards_give_the_batches_of_one_array(draws, count, recipe):
    whole = dataset_of(count, num_classes=7)
    cuts = draws.draw(cut(count))
    shards = Shards(np.split(whole.train.images.arrays[0], cuts))
    parts = replace(
        whole,
        train=Split(shards, whole.train.labels),
        minival=Split(shards, whole.train.labels),
    )
    whole = replace(whole, minival=whole.train)
    assert same(epoch_of(parts, recipe, 1, 2), epoch_of(whole, recipe, 1, 2))
    assert same(list(feed_of(parts).minival()), list(feed_of(whole).minival()))


@st.composite
def images_and_crops(draw, max_count=12):
    """Images in shards, and crops anywhere in them, with repeats."""
    count, side = draw(st.integers(1, max_count)), draw(st.integers(1, 9))
    images = split_of(count, side, draw(st.integers(0, 99))).images.arrays[0]
    crop = draw(st.integers(1, side))
    corner = st.integers(0, side - crop)
    three = draw(
        st.lists(st.tuples(st.integers(0, count - 1), corner, corner), min_size=1, max_size=10)
    )
    index, top, left = np.array(three, np.int64).T
    return Shards(np.split(images, draw(cut(count)))), Crops(index, top, left, crop)


@settings(deadline=None)
@given(images_and_crops())
def test_images_from_a_mapping_and_in_a_device_memory_are_the_same(drawn):
    images, crops = drawn
    expected = np.stack(
        [
            images[i][t : t + crops.side, x : x + crops.side]
            for i, t, x in zip(crops.which, crops.top, crops.left, strict=True)
        ]
    )
    resident = Resident(images, CPU)
    for kind in (Mapped(images), resident):
        found = kind.take(crops)
        assert found.dtype == torch.uint8 and np.array_equal(found.numpy(), expected)
    found.zero_()  # a batch is flipped in place: the images must not be
    assert np.array_equal(resident.take(crops).numpy(), expected)
    (turn,) = resident.in_turn([crops])
    assert np.array_equal(turn.numpy(), expected)


def test_images_in_device_memory_serve_the_next_trial_too():
    images = split_of(4, 6).images
    crops = Crops(np.arange(4), np.zeros(4, int), np.zeros(4, int), 6)
    first, second = Resident(images, CPU), Resident(images, CPU)
    assert first._images.data_ptr() == second._images.data_ptr()
    assert torch.equal(first.take(crops), second.take(crops))


def test_on_a_cpu_images_stay_where_they_are_mapped():
    assert type(place(split_of(4, 6).images, CPU)) is Mapped


def test_images_that_take_too_much_of_a_gpu_are_staged(monkeypatch):
    """Nothing is sent to the device before a batch is taken, so that none need be there."""
    images = split_of(4, 6).images
    room = images.nbytes / RESIDENT_SHARE
    monkeypatch.setattr(feeding, "_resident", lambda images, device: "all of them")
    for free, kind in ((room - 1, Staged), (room, Resident)):
        monkeypatch.setattr(feeding, "_free", lambda device, free=free: free)
        assert type(place(images, torch.device("cuda"))) is kind


class TestStagedOnACPU:
    """The order of fetching, without the pinned memory that needs a GPU."""

    @pytest.fixture(autouse=True)
    def unpinned(self, monkeypatch):
        monkeypatch.setattr(Staged, "_pinned", Mapped.take)

    @settings(deadline=None, max_examples=20)
    @given(st.integers(0, 12))
    def test_images_that_are_fetched_ahead_come_in_order(self, count):
        images = split_of(12, 6).images
        plans = [Crops(np.array([i]), np.array([0]), np.array([1]), 5) for i in range(count)]
        found = list(Staged(images, CPU).in_turn(plans))
        expected = [Mapped(images).take(plan) for plan in plans]
        assert all(torch.equal(a, b) for a, b in zip(found, expected, strict=True))

    def test_no_more_is_fetched_ahead_than_said(self):
        asked = []

        def plans():
            for i in range(10):
                asked.append(i)
                yield Crops(np.array([i]), np.array([0]), np.array([0]), 6)

        turns = Staged(split_of(12, 6).images, CPU).in_turn(plans())
        for taken in range(1, 5):
            next(turns)
            assert len(asked) == taken + AHEAD
        turns.close()

    def test_an_error_in_fetching_is_raised_where_the_batch_is_wanted(self):
        plan = Crops(np.array([99]), np.array([0]), np.array([0]), 6)
        with pytest.raises(IndexError):
            list(Staged(split_of(2, 6).images, CPU).in_turn([plan]))

    def test_a_training_sees_the_same_batches(self, monkeypatch):
        dataset = dataset_of(num_classes=7)
        expected = epoch_of(dataset, EVERYTHING)
        monkeypatch.setattr(feeding, "place", Staged)
        assert same(epoch_of(dataset, EVERYTHING), expected)


@pytest.mark.gpu
class TestOnAGPU:
    GPU = torch.device("cuda", 0)

    def test_images_that_fit_are_resident_and_others_staged(self, monkeypatch):
        images = split_of(8, 6).images
        assert type(place(images, self.GPU)) is Resident
        monkeypatch.setattr(feeding, "_free", lambda device: 2 * images.nbytes - 1)
        assert type(place(images, self.GPU)) is Staged

    @settings(deadline=None, max_examples=25)
    @given(images_and_crops())
    def test_staged_and_resident_images_are_those_of_the_mapping(self, drawn):
        images, crops = drawn
        expected = Mapped(images).take(crops)
        for kind in (Staged(images, self.GPU), Resident(images, self.GPU)):
            found = kind.take(crops)
            assert found.device == self.GPU and torch.equal(found.cpu(), expected)
            turns = list(kind.in_turn([crops] * 5))
            assert len(turns) == 5 and all(torch.equal(t.cpu(), expected) for t in turns)

    def test_staged_images_come_through_pinned_memory(self):
        plan = Crops(np.array([0]), np.array([0]), np.array([0]), 6)
        assert Staged(split_of(2, 6).images, self.GPU)._pinned(plan).is_pinned()

    def test_images_fetched_ahead_keep_their_order_while_the_gpu_is_busy(self):
        images = split_of(64, 64).images
        plans = [
            Crops(np.array([i] * 8), np.zeros(8, int), np.zeros(8, int), 64) for i in range(64)
        ]
        busy = torch.rand(2048, 2048, device=self.GPU)
        found = []
        for batch in Staged(images, self.GPU).in_turn(plans):
            busy = busy @ busy / 2048
            found.append(batch[0].clone())
        for i, image in enumerate(found):
            assert np.array_equal(image.cpu().numpy(), images[i])

    @pytest.mark.parametrize("recipe", [RECIPE, EVERYTHING], ids=["plain", "everything"])
    def test_images_that_do_not_fit_are_staged_and_give_the_same_batches(self, monkeypatch, recipe):
        dataset = dataset_of(num_classes=7)

        def seen():
            feed = feed_of(dataset, recipe, device=self.GPU)
            kind = type(feed._images)
            return kind, list(feed.batches(1)), list(feed.minival())

        resident = seen()
        monkeypatch.setattr(feeding, "_free", lambda device: 0)
        staged = seen()
        assert (resident[0], staged[0]) == (Resident, Staged)
        assert same(resident[1], staged[1]) and same(resident[2], staged[2])
        for batch, targets in staged[1] + staged[2]:
            assert batch.device == targets.device == self.GPU
            assert batch.is_contiguous(memory_format=torch.channels_last)

    def test_plain_batches_are_those_of_a_cpu(self):
        dataset = dataset_of(num_classes=7)
        for (ours, labels), (theirs, others) in zip(
            feed_of(dataset, device=self.GPU).batches(1), epoch_of(dataset, epoch=1), strict=True
        ):
            torch.testing.assert_close(ours.cpu(), theirs, rtol=1e-5, atol=1e-5)
            assert torch.equal(labels.cpu(), others)


# Training on all of it


NET = Architecture(
    stem_width=8,
    stem_activation="relu6",
    stages=tuple(Stage(width=8 * i, depth=1, ratio=2, kernel=3) for i in (1, 2, 3, 4)),
)


def test_a_training_with_every_option_stops_and_goes_on_as_if_it_never_had(tmp_path):
    dataset = dataset_of(48, 36, 32, minival=10, num_classes=3)
    recipe = replace(EVERYTHING, num_epochs=2, ema_decay=0.9)

    def fresh(seed=0):
        return start(NET, 3, recipe, seed=seed, resolution=32)

    def results(state):
        told = [
            (r.epoch, r.top1, r.loss, r.train_loss) for r in train(state, dataset, recipe, seed=0)
        ]
        assert all(np.isfinite(result).all() for result in told)
        return told

    whole = fresh()
    expected = results(whole)
    assert len(expected) == 2
    stopped = fresh()
    next(train(stopped, dataset, recipe, seed=0))
    checkpoint.save(tmp_path / "c.pt", stopped)
    torch.manual_seed(99)
    resumed = fresh(seed=99)
    checkpoint.load(tmp_path / "c.pt", resumed)
    assert results(resumed) == expected[1:]
    for ours, theirs in ((resumed.model, whole.model), (resumed.ema.module, whole.ema.module)):
        ours, theirs = ours.state_dict(), theirs.state_dict()
        assert ours.keys() == theirs.keys()
        assert all(torch.equal(ours[name], theirs[name]) for name in ours)


# One mapping for all


SMAPS = Path("/proc/self/smaps")


def shares_of_memory(pack):
    """Kilobytes of the images of a pack that this process has in memory (Rss), and of those that
    it answers for alone or in part (Pss).
    """
    sizes, inside = Counter(), False
    for line in SMAPS.read_text().splitlines():
        if re.match(r"[0-9a-f]+-[0-9a-f]+ ", line):
            inside = f"{pack}/" in line and line.endswith(".npy")
        elif inside and line.startswith(("Rss:", "Pss:")):
            sizes[line[:3]] += int(line.split()[1])
    return sizes["Rss"], sizes["Pss"]


def read_an_epoch(pickled, pack, together, answers):
    dataset = pickle.loads(pickled)
    feed = feed_of(dataset, Recipe(batch_size=8))
    count = sum(len(labels) for _, labels in feed.batches(0))
    together.wait(60)  # all have read, and none has gone
    answers.put((count, *shares_of_memory(pack)))
    together.wait(60)


@pytest.mark.skipif(not SMAPS.exists(), reason="no /proc/self/smaps: Linux tells who shares")
def test_four_trials_on_one_pack_share_its_memory(tmp_path):
    """Each has read nearly all of it, and yet it is in memory once."""
    rng = np.random.default_rng(0)
    for label in "ab":
        folder = tmp_path / "set" / "train" / label
        folder.mkdir(parents=True)
        for i in range(50):
            image = Image.fromarray(rng.integers(0, 256, (256, 256, 3), dtype=np.uint8))
            image.save(folder / f"{i}.bmp")
    dataset = data.load(str(tmp_path / "set"), resolution=224, seed=0, cache=tmp_path / "cache")
    size = dataset.train.images.nbytes / 1024
    assert size > 10_000

    context = multiprocessing.get_context("fork")
    together, answers = context.Barrier(4), context.Queue()
    pack = dataset.pack.path
    told = pickle.dumps(dataset), str(pack), together, answers
    readers = [context.Process(target=read_an_epoch, args=told) for _ in range(4)]
    for reader in readers:
        reader.start()
    found = [answers.get(timeout=300) for _ in readers]
    for reader in readers:
        reader.join(60)
        assert reader.exitcode == 0
    counts, resident, proportional = zip(*found, strict=True)
    assert set(counts) == {len(dataset.train) // 8 * 8}
    assert min(resident) > 0.8 * size  # crops leave margins out
    assert 0.8 * size < sum(proportional) < 1.2 * size
