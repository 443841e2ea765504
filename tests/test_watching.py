"""Bands looked at while a network trains: what they are of, what they cost, and that they change
nothing.
"""

import json
from dataclasses import asdict, replace

import numpy as np
import pytest
import torch
from pictures import make_folder

from gmsearch import checkpoint, data
from gmsearch.architecture import Architecture, Stage
from gmsearch.band_cost import expected_looking, warning_of_cost
from gmsearch.errors import SettingsError
from gmsearch.experiment import Comparison, FullTraining, make_settings, read_settings
from gmsearch.feeding import Share, choose_share
from gmsearch.frequency import parts
from gmsearch.radii import MOST_COST, Watch
from gmsearch.recipe import Recipe
from gmsearch.retraining import Retraining, retrain
from gmsearch.training import EpochResult, evaluate, make_feed, start, train
from gmsearch.trial import run_trial

NET = Architecture(
    stem_width=8,
    stem_activation="relu6",
    stages=tuple(Stage(width=8 * i, depth=1, ratio=2, kernel=3) for i in (1, 2, 3, 4)),
)
RECIPE = Recipe(num_epochs=2, batch_size=100)
WATCH = Watch((12.0, 36.0), share=0.2)


@pytest.fixture(scope="module")
def dataset():
    return data.load("bands", resolution=32, seed=0)


def trained(dataset, watch, recipe=RECIPE, seed=0):
    state = start(NET, 12, recipe, seed=seed, resolution=32)
    list(train(state, dataset, recipe, seed=seed, watch=watch))
    return state


def told(result):
    """What a result says but for clocks and bands."""
    left_out = {"seconds", "images_per_second", "evaluation_seconds"}
    left_out |= {"bands", "band_images", "band_seconds"}
    return {name: value for name, value in asdict(result).items() if name not in left_out}


@pytest.mark.parametrize("ema_decay", [0.0, 0.9])
def test_a_training_that_is_watched_equals_one_that_is_not_bit_for_bit(dataset, ema_decay):
    recipe = replace(RECIPE, ema_decay=ema_decay)
    plain, after_plain = trained(dataset, None, recipe), torch.get_rng_state()
    watched, after_watched = trained(dataset, WATCH, recipe), torch.get_rng_state()
    assert [told(r) for r in plain.history] == [told(r) for r in watched.history]
    one, other = plain.state_dict(), watched.state_dict()
    for part in ("model", "ema"):
        for name, value in (one[part] or {}).items():
            assert torch.equal(value, other[part][name]), name
    moments = [list(each["optimizer"]["state"].values()) for each in (one, other)]
    assert all(torch.equal(a["exp_avg"], b["exp_avg"]) for a, b in zip(*moments, strict=True))
    assert torch.equal(after_plain, after_watched)
    assert plain.history[-1].bands is None and watched.history[-1].bands is not None


@pytest.mark.parametrize("seed", [0, 1])
def test_bands_are_of_the_same_fifth_of_each_class_for_every_seed(dataset, seed):
    state = trained(dataset, WATCH, seed=seed)
    labels = dataset.minival.labels
    first = state.history[0]
    assert first.band_images == sum(round(0.2 * n) for n in np.bincount(labels))
    assert 0 < first.band_seconds < first.seconds
    feed = make_feed(dataset, RECIPE, seed=0, device=torch.device("cpu"))
    [(images, target)] = list(feed.minival(choose_share(labels, 0.2, seed=0)))
    for name, part in parts(images, WATCH.radii):
        top1 = evaluate(state.model, iter([(part, target)])).top1
        assert state.history[-1].bands[name] == pytest.approx(top1), name
    assert list(first.bands) == ["low12", "high12", "low36", "high36"]


def test_a_training_that_stops_and_goes_on_has_the_same_bands(dataset, tmp_path):
    expected = trained(dataset, WATCH)
    for results in run_trial(NET, dataset, RECIPE, tmp_path, seed=0, watch=WATCH):
        if len(results) == 1:
            break
    *_, curve = run_trial(NET, dataset, RECIPE, tmp_path, seed=0, watch=WATCH)
    assert [r.bands for r in curve] == [r.bands for r in expected.history]
    lines = (tmp_path / "metrics.jsonl").read_text().splitlines()
    assert [json.loads(line)["bands"] for line in lines] == [r.bands for r in curve]


def test_several_workers_see_the_images_between_them(dataset):
    feeds = [
        make_feed(dataset, RECIPE, seed=0, device=torch.device("cpu"), share=Share(rank, 3))
        for rank in range(3)
    ]
    which = np.array([3, 5, 8, 13, 21, 34, 55])
    seen = torch.cat([labels for feed in feeds for _, labels in feed.minival(which)])
    assert sorted(seen.tolist()) == sorted(dataset.minival.labels[which].tolist())


def test_a_checkpoint_of_before_loads(dataset, tmp_path):
    state = trained(dataset, None)
    saved = state.state_dict()
    for result in saved["history"]:
        for name in ("bands", "band_images", "band_seconds"):
            del result[name]
    again = start(NET, 12, RECIPE, seed=0, resolution=32)
    again.load_state_dict(saved)
    assert again.history == state.history
    checkpoint.save(tmp_path / "c.pt", trained(dataset, WATCH))
    checkpoint.load(tmp_path / "c.pt", again)
    assert again.history[0].bands is not None


def test_retrain_watches_val(dataset, tmp_path):
    small = replace(dataset, minival=dataset.train)
    job = Retraining(NET, small, RECIPE, tmp_path, watch=Watch((12.0,), 0.01))
    *_, curve = retrain(job)
    assert curve[-1].band_images == 12  # one of each class at least
    assert isinstance(curve[-1], EpochResult)


@pytest.mark.parametrize("num_train", [1000, 18_000, 1_200_000])
@pytest.mark.parametrize("num_minival", [50, 500, 2000, 50_000])
@pytest.mark.parametrize("radii", [(12.0,), (12.0, 24.0, 36.0)])
def test_the_share_keeps_the_passes_within_their_part_of_an_epoch(num_train, num_minival, radii):
    watch = Watch(radii)
    share = watch.share_of(num_train, num_minival)
    passes = share * num_minival * 2 * len(radii)
    assert 0 < share <= 1
    assert passes <= MOST_COST * (3 * num_train + num_minival) * (1 + 1e-9)
    assert share == 1 or passes == pytest.approx(MOST_COST * (3 * num_train + num_minival))
    assert Watch(radii, 0.3).share_of(num_train, num_minival) == 0.3


def comparison(**settings):
    networks = {"net": NET.to_dict()}
    return make_settings(Comparison, {"name": "c", "networks": networks, **settings})


def test_settings_have_the_radii_and_are_read_back(tmp_path):
    assert comparison().watch is None
    settings = comparison(frequency=(36, 12, 12), frequency_share=0.5)
    assert settings.watch == Watch((12.0, 36.0), 0.5)
    (tmp_path / "experiment.yaml").write_text(settings.to_yaml())
    assert read_settings(tmp_path / "experiment.yaml") == settings
    [difference] = comparison(frequency_share=0.5, frequency=(12,)).differences(settings)
    assert difference == "frequency is [12.0] there and [12.0, 36.0] here"
    assert comparison().digest == "1b7d5260"  # as before there were bands
    assert settings.digest != comparison().digest
    full = FullTraining(data="bands", resolution=64, recipe=RECIPE, frequency=(24,))
    assert full.watch == Watch((24.0,), None)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"frequency": ()}, "no radius given"),
        ({"frequency": (0.0,)}, "radius 0: no frequency is lower"),
        ({"frequency": (-12.0,)}, "radius -12: no frequency is lower"),
        ({"frequency": (160.0,)}, "radius 160 at 224 px: the highest frequency lies at 158.4"),
        ({"frequency": (158.0,), "resolution": 33}, r"radius 23.28 \(158 at 224 px\) of images of"),
        ({"frequency": (12.0,), "frequency_share": 0.0}, "--frequency-share is 0.0; input should"),
    ],
)
def test_settings_that_make_no_sense_are_refused(settings, message):
    with pytest.raises(SettingsError, match="^" + message):
        comparison(**settings)


def passes_of(dataset, watch, recipe) -> tuple[int, int]:
    """Images that go through a network in an epoch, those of steps three times; and in looking."""
    state, counts = start(NET, 3, recipe, seed=0, resolution=32), {True: 0, False: 0}

    def count(model, inputs):
        counts[model.training] += len(inputs[0])

    state.model.register_forward_pre_hook(count)
    list(train(state, dataset, recipe, seed=0, watch=watch))
    in_turn, num_minival = counts[False], len(dataset.minival)
    return 3 * counts[True] + num_minival, in_turn - num_minival


@pytest.fixture(scope="module")
def few(tmp_path_factory):
    """27 images to train on, and one of each of 3 classes to judge by."""
    place = tmp_path_factory.mktemp("few")
    make_folder(place / "images", side=32)
    return data.load(str(place / "images"), resolution=32, seed=0, cache=place / "cache")


@pytest.mark.parametrize("radii", [(12.0,), (12.0, 24.0, 36.0)])
@pytest.mark.parametrize("train_share", [1.0, 1 / 3])
def test_what_looking_costs_is_known_before(few, radii, train_share):
    recipe = Recipe(num_epochs=1, batch_size=9, train_share=train_share)
    rest, looking = passes_of(few, Watch(radii), recipe)
    num_images, share = expected_looking(Watch(radii), few, recipe)
    assert (num_images, share) == (3, pytest.approx(looking / rest))
    line = warning_of_cost(Watch(radii), few, recipe)
    assert (line is not None) == (share > 0.1)
    if line is not None:
        assert f"about {share:.0%} of" in line and line.endswith("for less, give fewer radii")


def test_what_costs_little_is_not_told_of(dataset):
    assert warning_of_cost(None, dataset, RECIPE) is None
    assert warning_of_cost(Watch(), dataset, RECIPE) is None
    assert expected_looking(Watch(), dataset, RECIPE).share <= MOST_COST * 1.05
    line = warning_of_cost(Watch(share=1.0), dataset, RECIPE)
    assert "6 parts of 500 images will take about 86% of" in line
    assert line.endswith("for less, give fewer radii or a lower --frequency-share")
