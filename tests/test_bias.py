"""The low-frequency bias: closed forms, what it does not depend on, and what its interval holds."""

import math

import numpy as np
import pytest

from gmsearch.bias import low_frequency_bias


def hits(raw, *parts):
    """By part, of lists of 0 and 1; the parts are low, high, low, high, …"""
    names = ["raw", "low12", "high12", "low24", "high24"]
    return {
        name: np.array(list(each), bool) for name, each in zip(names, (raw, *parts), strict=False)
    }


def test_values_by_hand():
    raw, low, high = [1] * 8 + [0] * 2, [1] * 6 + [0] * 4, [1] * 2 + [0] * 8
    # (0.6 - 0.2) / (0.8 - 0.5)
    assert low_frequency_bias(hits(raw, low, high), 2).value == pytest.approx(400 / 3)
    assert low_frequency_bias(hits(raw, high, low), 2).value == pytest.approx(-400 / 3)
    assert low_frequency_bias(hits(raw, low, low), 10) == (0, 0, 0)
    # the mean over two radii of 0.4 and -0.1
    both = hits(raw, low, high, [1] * 5 + [0] * 5, low)
    assert low_frequency_bias(both, 10).value == pytest.approx(100 * 0.15 / 0.7)
    everything = hits([1] * 9 + [0], [1] * 9 + [0], [0] * 9 + [1])
    assert low_frequency_bias(everything, 10).value == pytest.approx(100)


def test_accuracy_that_is_not_above_chance_has_no_bias():
    none = low_frequency_bias(hits([1, 0] * 20, [1, 0] * 20, [0, 1] * 20), 2)
    assert all(map(math.isnan, none))
    little = low_frequency_bias(hits([1, 0] * 20 + [1], [1, 0] * 20 + [0], [0, 1] * 20 + [0]), 2)
    assert not math.isnan(little.value) and math.isnan(little.low) and math.isnan(little.high)
    assert all(map(math.isnan, low_frequency_bias(hits([0] * 9, [1] * 9, [0] * 9), 4)))


# Kinds of images: whether a network is right about the whole, and about two low and high parts.
KINDS = np.array(
    [
        [1, 1, 1, 1, 1],
        [1, 1, 0, 1, 1],
        [1, 1, 0, 1, 0],
        [1, 0, 1, 0, 1],
        [0, 1, 0, 0, 0],
        [0, 0, 0, 0, 0],
    ],
    bool,
)
ODDS = np.array([0.1, 0.15, 0.2, 0.1, 0.1, 0.35])


def drawn(count, rng, odds=ODDS):
    of_images = KINDS[rng.choice(len(KINDS), count, p=odds)]
    return hits(*of_images.T)


def truth(num_classes, odds=ODDS):
    raw, *parts = odds @ KINDS
    low, high = (np.mean(parts[i::2]) for i in (0, 1))
    return 100 * (low - high) / (raw - 1 / num_classes)


def test_a_network_that_is_right_less_often_but_uses_the_bands_alike_is_as_biased():
    """Right at random about some tenths of what it was right about: points of top1 shrink."""
    rng = np.random.default_rng(0)
    weaker = np.append(0.3 * ODDS[:-1], 1 - 0.3 * ODDS[:-1].sum())
    many = 1_000_000
    assert truth(many, weaker) == pytest.approx(truth(many), rel=1e-4)
    found = low_frequency_bias(drawn(100_000, rng, weaker), many)
    assert found.value == pytest.approx(truth(many), abs=2)


@pytest.mark.parametrize(("count", "num_classes"), [(200, 10), (500, 1000)])
def test_the_interval_holds_the_truth_as_often_as_it_says(count, num_classes):
    rng = np.random.default_rng(1)
    tries = 400
    found = [low_frequency_bias(drawn(count, rng), num_classes, seed=i) for i in range(tries)]
    held = np.mean([each.low <= truth(num_classes) <= each.high for each in found])
    assert 0.92 <= held <= 0.98  # three standard errors of 400 tries around 95 %


def test_the_same_seed_gives_the_same_interval_and_the_order_of_images_none_other():
    rng = np.random.default_rng(2)
    once = drawn(300, rng)
    order = rng.permutation(300)
    shuffled = {name: each[order] for name, each in once.items()}
    assert low_frequency_bias(once, 10) == low_frequency_bias(shuffled, 10)
    assert low_frequency_bias(once, 10) != low_frequency_bias(once, 10, seed=1)
