"""Augmentation of whole batches, beside torchvision, timm, SciPy and plain arithmetic."""

import math
import random

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from scipy import stats
from scipy.ndimage import map_coordinates
from timm.data import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD
from timm.data.mixup import mixup_target
from timm.loss import SoftTargetCrossEntropy
from torch.nn import functional as F
from torchvision.transforms import v2

from gmsearch.architecture import Architecture, Stage
from gmsearch.augment import TOGETHER, augment, normalise, resized_crops, seed_everything
from gmsearch.data.records import Dataset, Split
from gmsearch.errors import SettingsError
from gmsearch.feeding import ArrayFeed
from gmsearch.recipe import Recipe
from gmsearch.training import start, train

MEAN = 255 * np.array(IMAGENET_DEFAULT_MEAN)
STD = 255 * np.array(IMAGENET_DEFAULT_STD)
PLAIN = Recipe(flip=False)


def noise(count, side, seed=0):
    rng = np.random.default_rng(seed)
    return torch.from_numpy(rng.integers(0, 256, (count, side, side, 3), dtype=np.uint8))


def smooth(side, seed=0):
    """An image without steep slopes, on which sampling a little beside a place costs little."""
    few = np.random.default_rng(seed).integers(0, 256, (3, 3, 3), dtype=np.uint8)
    return np.asarray(Image.fromarray(few).resize((side, side), Image.Resampling.BICUBIC))


def copies(image, count):
    return torch.from_numpy(np.repeat(np.asarray(image)[None], count, 0))


def pixels(batch):
    """What was normalised, which must have been uint8: (N, side, side, 3)."""
    values = batch.permute(0, 2, 3, 1).double().numpy() * STD + MEAN
    assert np.abs(values - values.round()).max() < 1e-2
    assert values.round().min() >= 0 and values.round().max() <= 255
    return values.round().astype(np.uint8)


def augmented(images, recipe, seed=0, labels=None, num_classes=1000, resolution=None):
    labels = torch.arange(len(images)) if labels is None else labels
    seed_everything(seed)
    return augment(
        images, labels, recipe, resolution=resolution or images.shape[1], num_classes=num_classes
    )


def recipe_with(**settings):
    return Recipe(flip=False, **settings)


# Normalisation


@settings(deadline=None)
@given(st.integers(1, 4), st.integers(1, 9), st.integers(0, 2**32 - 1))
def test_normalise_equals_that_of_torchvision_in_channels_last(count, side, seed):
    images = noise(count, side, seed)
    ours = normalise(images)
    theirs = v2.functional.normalize(
        images.permute(0, 3, 1, 2).float() / 255, IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD
    )
    assert ours.dtype == torch.float32 and ours.shape == theirs.shape
    assert ours.is_contiguous(memory_format=torch.channels_last)
    torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-5)


def test_normalise_takes_views_and_leaves_them_as_they_are():
    images = noise(3, 8)
    before = images.clone()
    view = images.permute(0, 3, 1, 2)[:, :, 1:6, 2:7].permute(0, 2, 3, 1)
    assert torch.equal(normalise(view), normalise(view.contiguous()))
    assert torch.equal(images, before)


def test_a_recipe_that_asks_for_nothing_only_normalises_and_draws_nothing():
    images, labels = noise(20, 12), torch.arange(20)
    seed_everything(0)
    state = torch.get_rng_state(), random.getstate()
    batch, targets = augment(images, labels, PLAIN, resolution=12, num_classes=20)
    assert torch.equal(batch, normalise(images)) and torch.equal(targets, labels)
    assert torch.equal(torch.get_rng_state(), state[0]) and random.getstate() == state[1]


# Resized crops


SIDE, RESOLUTION = 32, 28


def drawn_boxes(count, min_area, seed):
    """(left, top, width, height) in pixels of every crop, read off from images that show where
    each of their pixels was taken from: roughly by a ramp in red, finely by stripes in green.
    """
    x = np.arange(SIDE)
    line = np.stack([8 * x, 255 * (x % 2), 0 * x], 1).astype(np.uint8)
    across = np.repeat(line[None], SIDE, 0)
    inner = np.arange(3, RESOLUTION - 3)  # the others may lie beyond the image, which ends there
    boxes = []
    for image, along in ((across, 1), (across.swapaxes(0, 1), 2)):
        seed_everything(seed)
        crops = resized_crops(copies(image, count).permute(0, 3, 1, 2), min_area, RESOLUTION)
        values = crops.double().mean(1 + along).numpy()[:, :, inner]
        rough, fine = values[:, 0] / 8, values[:, 1] / 255
        slope, first = np.polyfit(inner, rough.T, 1)
        rough = first[:, None] + slope[:, None] * inner
        above = 2 * ((rough - fine) / 2).round() + fine  # an even pixel and some, or less some
        below = 2 * ((rough + fine) / 2).round() - fine
        places = np.where(np.abs(above - rough) < np.abs(below - rough), above, below)
        slope, first = np.polyfit(inner + 0.5, places.T, 1)
        boxes.append((first + 0.5, slope * RESOLUTION))
    (left, width), (top, height) = boxes
    return np.stack([left, top, width, height], 1)


def test_resized_crops_sample_bilinearly_what_their_boxes_enclose():
    image, count = smooth(SIDE), 64
    boxes = drawn_boxes(count, 0.2, seed=3)
    seed_everything(3)
    crops = resized_crops(copies(image, count).permute(0, 3, 1, 2), 0.2, RESOLUTION)
    assert crops.shape == (count, 3, RESOLUTION, RESOLUTION) and crops.dtype == torch.uint8
    centres = (np.arange(RESOLUTION) + 0.5) / RESOLUTION
    for crop, (left, top, width, height) in zip(crops.numpy(), boxes, strict=True):
        at = np.meshgrid(top + height * centres - 0.5, left + width * centres - 0.5, indexing="ij")
        for channel in range(3):
            expected = map_coordinates(
                image[:, :, channel].astype(float), at, order=1, mode="nearest"
            )
            np.testing.assert_allclose(crop[channel], expected, atol=1.5)


def test_resized_crops_with_boxes_on_whole_pixels_equal_those_of_torchvision():
    """But for the outermost pixels: torchvision cuts first, and so sees nothing beside the box."""
    image, count = smooth(SIDE), 4000
    boxes = drawn_boxes(count, 0.2, seed=1)
    seed_everything(1)
    crops = resized_crops(copies(image, count).permute(0, 3, 1, 2), 0.2, RESOLUTION)
    corners = np.concatenate([boxes[:, :2], boxes[:, :2] + boxes[:, 2:]], 1)
    whole = np.flatnonzero((np.abs(corners - corners.round()) < 0.12).all(1))
    assert len(whole) >= 3
    source = torch.from_numpy(image.copy()).permute(2, 0, 1)
    for i in whole:
        left, top, right, bottom = corners[i].round().astype(int).tolist()
        expected = v2.functional.resized_crop(
            source, top, left, bottom - top, right - left, [RESOLUTION] * 2, antialias=False
        )
        inner = np.s_[:, 2:-2, 2:-2]
        assert (crops[i][inner].int() - expected[inner].int()).abs().max() <= 4


@pytest.mark.parametrize("min_area", [0.08, 0.8, 0.99])
def test_no_resized_crop_is_smaller_than_asked_or_out_of_shape_or_out_of_the_image(min_area):
    boxes = drawn_boxes(1000, min_area, seed=0)
    left, top, width, height = boxes.T / SIDE
    assert (width * height).min() >= min_area * 0.995
    ratio = width / height
    assert ratio.min() >= 3 / 4 * 0.99 and ratio.max() <= 4 / 3 * 1.01
    for first, size in ((left, width), (top, height)):
        assert first.min() >= -0.01 and (first + size).max() <= 1.01


def test_resized_crops_are_distributed_as_those_of_torchvision():
    """Kolmogorov and Smirnov find no difference between thousands of both."""
    min_area, count = 0.2, 2000
    ours = drawn_boxes(count, min_area, seed=0) / SIDE
    torch.manual_seed(1)
    drawn = [
        v2.RandomResizedCrop.make_params(
            v2.RandomResizedCrop(RESOLUTION, scale=(min_area, 1)),
            [torch.empty(3, 1024, 1024, dtype=torch.uint8)],
        )
        for _ in range(count)
    ]
    theirs = np.array([[d["left"], d["top"], d["width"], d["height"]] for d in drawn]) / 1024
    for name, of in (
        ("area", lambda b: b[:, 2] * b[:, 3]),
        ("log ratio", lambda b: np.log(b[:, 2] / b[:, 3])),
        ("centre x", lambda b: b[:, 0] + b[:, 2] / 2),
        ("centre y", lambda b: b[:, 1] + b[:, 3] / 2),
    ):
        assert stats.ks_2samp(of(ours), of(theirs)).pvalue > 1e-4, name


def test_every_image_has_a_resized_crop_of_its_own():
    boxes = drawn_boxes(64, 0.2, seed=0)
    assert len(np.unique(boxes.round(2), axis=0)) == 64


def test_augment_resizes_crops_where_the_recipe_says_so():
    images = noise(6, SIDE)
    batch, labels = augmented(images, recipe_with(min_crop_area=0.3), resolution=RESOLUTION)
    assert batch.shape == (6, 3, RESOLUTION, RESOLUTION)
    assert batch.is_contiguous(memory_format=torch.channels_last)
    assert labels.tolist() == list(range(6))
    seed_everything(0)
    expected = resized_crops(images.permute(0, 3, 1, 2), 0.3, RESOLUTION).permute(0, 2, 3, 1)
    assert np.array_equal(pixels(batch), expected.numpy())


# Colours


@pytest.mark.parametrize("settings", [{"color_jitter": 0.4}, {"rand_augment": 7.0}])
def test_colour_operations_give_bytes_again_and_differ_from_group_to_group(settings):
    groups = 12
    images = copies(smooth(16), groups * TOGETHER - 3)  # the last group is smaller
    before = images.clone()
    batch, _ = augmented(images, recipe_with(**settings))
    assert batch.shape == (len(images), 3, 16, 16)
    assert batch.is_contiguous(memory_format=torch.channels_last)
    found = [pixels(few) for few in batch.split(TOGETHER)]
    assert len(found) == groups
    for group in found:  # of equal images: one draw for all
        assert (group == group[:1]).all()
    assert len({group[0].tobytes() for group in found}) >= groups - 3  # some operations do nothing
    assert torch.equal(images, before)


def test_color_jitter_changes_brightness_by_its_strength_at_most():
    """Grey has no saturation to change, and no contrast."""
    images = torch.full((200 * TOGETHER, 2, 2, 3), 100, dtype=torch.uint8)
    found = pixels(augmented(images, recipe_with(color_jitter=0.4))[0])
    assert 60 - 1 <= found.min() <= 65 and 135 <= found.max() <= 140 + 1


def test_color_jitter_changes_contrast_and_saturation_too():
    """Only contrast changes how two greys compare, and only saturation how far a colour is from
    grey beside how far greys are apart.
    """
    image = np.array([[[120, 80, 80], [60] * 3], [[140] * 3, [100] * 3]], np.uint8)
    found = pixels(augmented(copies(image, 50 * TOGETHER), recipe_with(color_jitter=0.4))[0])
    (colour, dark), (light, _) = found.astype(float).transpose(1, 2, 0, 3)
    contrast = (light - dark)[:, 0] / (light + dark)[:, 0]
    saturation = (colour[:, 0] - colour[:, 1]) / (light - dark)[:, 0]
    for values, before in ((contrast, 80 / 200), (saturation, 40 / 80)):
        assert 0.5 * before < values.min() < 0.8 * before
        assert 1.2 * before < values.max() < 1.5 * before


def test_rand_augment_changes_more_at_a_larger_magnitude():
    images = copies(smooth(16), 60 * TOGETHER)

    def change(magnitude):
        found = pixels(augmented(images, recipe_with(rand_augment=magnitude))[0])
        return np.abs(found.astype(int) - images.numpy()).mean()

    assert 0 < change(0.5) < 0.8 * change(4.0) < 0.8 * change(10.0)


# Random erasing


def erased(batch):
    """For each image of one colour, the pixels that have another."""
    return (batch != normalise(torch.full((1, 1, 1, 3), 77, dtype=torch.uint8))).any(1).numpy()


@pytest.mark.parametrize("share", [0.25, 1.0])
def test_random_erasing_takes_the_share_of_images_that_is_asked_for(share):
    count = 1500
    images = torch.full((count, 24, 24, 3), 77, dtype=torch.uint8)
    batch, _ = augmented(images, recipe_with(random_erasing=share))
    found = erased(batch)
    number = int(found.any((1, 2)).sum())
    assert abs(number - share * count) <= 4 * math.sqrt(count * share * (1 - share))
    for image in found[found.any((1, 2))][:200]:  # each has one rectangle
        rows, columns = np.flatnonzero(image.any(1)), np.flatnonzero(image.any(0))
        assert image[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1].all()
        assert image.sum() == len(rows) * len(columns)
        assert 0.01 <= image.mean() <= 0.36
    noise_of = batch.permute(0, 2, 3, 1)[torch.from_numpy(found)]
    assert abs(noise_of.mean()) < 0.05 and abs(noise_of.std() - 1) < 0.05


# Mixing


def one_of_a_kind(count, side=8):
    """Images of noise that share no colour, the label of each its number."""
    images, labels = noise(count, side), torch.arange(count)
    images[..., 0] = images[..., 0] // 16 * 16 + labels[:, None, None]
    return images, labels


@settings(deadline=None)
@given(st.integers(0, 2**31), st.integers(2, 9), st.floats(0.05, 5))
def test_mixup_gives_convex_mixtures_and_targets_that_say_which(seed, count, alpha):
    images, labels = one_of_a_kind(count)
    batch, targets = augmented(images, recipe_with(mixup=alpha), seed, labels, count)
    assert targets.dtype == torch.float32 and targets.shape == (count, count)
    torch.testing.assert_close(targets.sum(1), torch.ones(count))
    assert targets.min() >= 0 and (targets > 0).sum(1).max() <= 2
    expected = torch.einsum("ij,jchw->ichw", targets, normalise(images))
    torch.testing.assert_close(batch, expected, rtol=1e-4, atol=1e-4)
    assert batch.is_contiguous(memory_format=torch.channels_last)


@settings(deadline=None)
@given(st.integers(0, 2**31), st.integers(2, 9), st.floats(0.05, 5))
def test_cutmix_pastes_one_rectangle_and_targets_say_its_area(seed, count, alpha):
    images, labels = one_of_a_kind(count)
    batch, targets = augmented(images, recipe_with(cutmix=alpha), seed, labels, count)
    torch.testing.assert_close(targets.sum(1), torch.ones(count))
    whole = normalise(images)
    for i in range(count):
        kept = (batch[i] == whole[i]).all(0)
        share = kept.float().mean().item()
        assert targets[i, i].item() == pytest.approx(share, abs=1e-6)
        if share == 1:
            continue
        rows, columns = (~kept).any(1).nonzero().ravel(), (~kept).any(0).nonzero().ravel()
        box = np.s_[:, rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
        assert (~kept).sum() == len(rows) * len(columns) == kept[None][box].numel()
        (partner,) = (j for j in range(count) if j != i and targets[i, j] > 0)
        assert torch.equal(batch[i][box], whole[partner][box])


@pytest.mark.parametrize("alpha", [0.2, 1.0, 4.0])
def test_the_strength_of_mixup_is_drawn_from_a_beta_distribution(alpha):
    images, labels = one_of_a_kind(2, side=1)
    drawn = [
        augmented(images, recipe_with(mixup=alpha), seed, labels, 2)[1][0, 0].item()
        for seed in range(250)
    ]
    assert stats.kstest(drawn, stats.beta(alpha, alpha).cdf).pvalue > 1e-3


def test_with_both_mixup_and_cutmix_a_batch_draws_one_of_the_two():
    images, labels = one_of_a_kind(4)
    kinds = []
    for seed in range(200):
        batch, targets = augmented(images, recipe_with(mixup=1.0, cutmix=1.0), seed, labels, 4)
        if targets[0, 0] in (0, 1):
            continue  # nothing to tell them by
        blended = torch.einsum("ij,jchw->ichw", targets, normalise(images))
        kinds.append(torch.allclose(batch, blended, rtol=1e-3, atol=1e-3))
    assert len(kinds) > 150 and 0.35 < np.mean(kinds) < 0.65


@pytest.mark.parametrize("smoothing", [0.0, 0.1, 0.5])
@pytest.mark.parametrize("kind", ["mixup", "cutmix"])
def test_smoothing_of_mixed_labels_is_that_of_timm(kind, smoothing):
    """In the loss that a training reports for its first step, by timm's targets for the same
    mixture. A pair: who is mixed with whom is then the same everywhere.
    """
    images = noise(2, 32)
    labels = np.array([3, 1])
    split = Split.of(images.numpy(), labels)
    dataset = Dataset("pair", ("a", "b", "c", "d", "e"), 32, split, split)
    recipe = Recipe(
        num_epochs=1, batch_size=2, label_smoothing=smoothing, precision="fp32", **{kind: 1.0}
    )
    ((batch, targets),) = ArrayFeed(dataset, recipe, seed=5, device=torch.device("cpu")).batches(0)
    larger = targets[0].max().item()  # share of one image in the first mixture
    assert 0.5 < larger < 1
    expected_targets = mixup_target(targets.argmax(1), 5, larger, smoothing)

    network = Architecture(
        stem_width=8,
        stem_activation="relu6",
        stages=tuple(Stage(width=8, depth=1, ratio=1, kernel=3) for _ in range(4)),
    )
    state = start(network, 5, recipe, seed=0, resolution=32)
    logits = start(network, 5, recipe, seed=0, resolution=32).model.train()(batch)
    expected = SoftTargetCrossEntropy()(logits, expected_targets).item()
    (result,) = train(state, dataset, recipe, seed=5)
    assert result.train_loss == pytest.approx(expected, rel=1e-5)
    assert F.cross_entropy(logits, targets, label_smoothing=smoothing).item() == pytest.approx(
        expected, rel=1e-5
    )


# All of it


EVERYTHING = recipe_with(
    min_crop_area=0.3,
    color_jitter=0.3,
    rand_augment=6.0,
    random_erasing=0.3,
    mixup=0.4,
    cutmix=1.0,
)


def test_everything_at_once_is_finite_and_a_function_of_the_seed():
    images, labels = noise(21, SIDE), torch.arange(21) % 5
    first, again, other = (
        augmented(images, EVERYTHING, seed, labels, 5, RESOLUTION) for seed in (1, 1, 2)
    )
    assert torch.equal(first[0], again[0]) and torch.equal(first[1], again[1])
    assert not torch.equal(first[0], other[0])
    assert first[0].shape == (21, 3, RESOLUTION, RESOLUTION) and first[0].isfinite().all()
    assert first[0].is_contiguous(memory_format=torch.channels_last)
    assert first[1].shape == (21, 5) and first[1].dtype == torch.float32


@pytest.mark.parametrize("name", sorted({"color_jitter", "rand_augment", "random_erasing"}))
def test_every_option_does_something_to_pixels_and_nothing_to_labels(name):
    images = copies(smooth(16), 64)
    batch, labels = augmented(images, recipe_with(**{name: 0.5}))
    assert not torch.equal(batch, normalise(images)) and labels.tolist() == list(range(64))


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("min_crop_area", 0.0),
        ("min_crop_area", 1.01),
        ("color_jitter", -0.1),
        ("color_jitter", 1.5),
        ("rand_augment", 10.5),
        ("random_erasing", 1.1),
        ("mixup", -1.0),
        ("cutmix", 101.0),
        ("cutmix", math.nan),
        ("mixup", math.inf),
    ],
)
def test_augmentation_out_of_range_is_refused(field, value):
    with pytest.raises(SettingsError, match=f"^{field} is {value!r}; allowed: "):
        Recipe(**{field: value})


@pytest.mark.parametrize(
    "extreme",
    [
        {"min_crop_area": 0.01},
        {"color_jitter": 1.0},
        {"rand_augment": 10.0},
        {"rand_augment": 0.01},
        {"random_erasing": 1.0},
        {"mixup": 0.01},
        {"mixup": 100.0},
        {"cutmix": 100.0},
        {"cutmix": 1e-6},
        {"mixup": 1e-6},
    ],
    ids=str,
)
def test_what_is_in_range_works_on_any_batch(extreme):
    for count in (1, 9):
        batch, targets = augmented(noise(count, 16), recipe_with(**extreme), num_classes=9)
        assert batch.isfinite().all() and targets.isfinite().all()
