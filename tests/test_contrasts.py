"""Differences over seeds and images: intervals that hold the truth, and rare false alarms."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from gmsearch.contrasts import Spread, contrast, holm, pooled_spread

NETWORKS, SEEDS, IMAGES = 15, 3, 500


def made_up(rng, levels, *, of_seeds=0.1, shared=1.5, own=1.0, of_all=0.0) -> np.ndarray:
    """Hits (networks, seeds, images): an image is hard for all, and harder for some networks; a
    seed is luckier than another, for its own network or, by `of_all`, for all networks.
    """
    count = len(levels)
    latent = (
        np.asarray(levels)[:, None, None]
        + shared * rng.standard_normal(IMAGES)
        + own * rng.standard_normal((count, 1, IMAGES))
        + of_seeds * rng.standard_normal((count, SEEDS, 1))
        + rng.standard_normal((count, SEEDS, IMAGES))
    )
    if of_all:
        latent += of_all * rng.standard_normal((SEEDS, 1))
    return latent > 0


def truth(levels, *, of_seeds=0.1, shared=1.5, own=1.0) -> np.ndarray:
    """The expected accuracy over all seeds and images, in per cent."""
    deviation = (shared**2 + own**2 + of_seeds**2 + 1) ** 0.5
    return 100 * stats.norm.cdf(np.asarray(levels) / deviation)


def pairs(count):
    return [(i, j) for i in range(count) for j in range(i)][::4]


@pytest.mark.parametrize("of_seeds", [0.02, 0.3])
def test_an_interval_holds_the_truth_as_often_as_promised(of_seeds):
    rng, levels = np.random.default_rng(0), np.linspace(-1.5, 1, NETWORKS)
    exact, inside = truth(levels, of_seeds=of_seeds), []
    for _ in range(60):
        hits = made_up(rng, levels, of_seeds=of_seeds)
        spread = pooled_spread(hits)
        for i, j in pairs(NETWORKS):
            found = contrast(hits[i], hits[j], spread)
            inside.append(found.low <= exact[i] - exact[j] <= found.high)
    assert np.mean(inside) == pytest.approx(0.95, abs=0.025)


def test_luck_that_networks_share_makes_intervals_wider_and_none_wrong():
    """The difference of two then varies less than what is counted: more than 95 % hold it."""
    rng, levels = np.random.default_rng(0), np.linspace(-1.5, 1, NETWORKS)
    exact, inside = truth(levels, of_seeds=(0.05**2 + 0.3**2) ** 0.5), []
    for _ in range(40):
        hits = made_up(rng, levels, of_seeds=0.05, of_all=0.3)
        spread = pooled_spread(hits)
        for i, j in pairs(NETWORKS):
            found = contrast(hits[i], hits[j], spread)
            inside.append(found.low <= exact[i] - exact[j] <= found.high)
    assert np.mean(inside) > 0.96


def test_equal_networks_are_rarely_told_apart():
    """In about 5 % of tables any claim of 27 is resolved: 5 % of 150 are 7.5 ± 2.7."""
    rng, alarms = np.random.default_rng(1), 0
    for _ in range(150):
        hits = made_up(rng, np.zeros(NETWORKS))
        spread = pooled_spread(hits)
        ps = [contrast(hits[i], hits[j], spread).p for i, j in pairs(NETWORKS)]
        alarms += min(holm(ps)) < 0.05
    assert len(pairs(NETWORKS)) == 27 and alarms <= 15


def test_without_noise_of_seeds_it_is_the_paired_test_over_images():
    """Trainings that all answer alike leave the images alone: McNemar's setting, by scipy."""
    rng = np.random.default_rng(0)
    one, other = (np.repeat(rng.random((1, IMAGES)) < p, SEEDS, 0) for p in (0.6, 0.5))
    found = contrast(one, other, pooled_spread([one, other]))
    by_scipy = stats.ttest_rel(one[0].astype(float), other[0].astype(float))
    assert found.p == pytest.approx(by_scipy.pvalue, rel=1e-9)
    low, high = by_scipy.confidence_interval(0.95)
    assert (found.low, found.high) == pytest.approx((100 * low, 100 * high))


def test_where_images_are_alike_it_is_the_test_over_seeds():
    """Networks that are right about all images or none differ by their seeds alone: a t-test."""
    ones, others = np.array([1, 1, 0, 1, 1]), np.array([0, 0, 1, 0, 0])
    one, other = (np.repeat(each[:, None] == 1, 10_000, 1) for each in (ones, others))
    found = contrast(one, other, pooled_spread([one, other]))
    by_scipy = stats.ttest_ind(ones, others)
    assert found.p == pytest.approx(by_scipy.pvalue, rel=0.01)
    assert found.low == pytest.approx(100 * by_scipy.confidence_interval(0.95).low, rel=0.01)


def test_the_spread_is_pooled_over_networks_with_two_seeds_or_more():
    rng = np.random.default_rng(0)
    networks = [rng.random((seeds, 50)) < 0.5 for seeds in (3, 1, 4)]
    squares = sum(((n.mean(1) - n.mean()) ** 2).sum() for n in networks)
    assert pooled_spread(networks) == pytest.approx(Spread(squares / 5, 5))
    with pytest.raises(ValueError, match="no network has two seeds"):
        pooled_spread(networks[1:2])


def test_equal_answers_and_other_images():
    hits = np.ones((2, 5), bool)
    assert contrast(hits, hits, Spread(0.0, 2)) == (0, 0, 0, 1)
    with pytest.raises(ValueError, match="5 and 6 images"):
        contrast(hits, np.ones((2, 6), bool), Spread(0.0, 2))


def test_where_nothing_varies_a_difference_is_certain():
    """The limit of less and less noise: p falls to 0 where the networks differ."""
    ones, zeros = np.ones((2, 50), bool), np.zeros((2, 50), bool)
    assert contrast(ones, zeros, Spread(0.0, 2)) == (100, 100, 100, 0)
    assert contrast(zeros, ones, Spread(0.0, 2)) == (-100, -100, -100, 0)
    noisy = [contrast(ones, zeros, Spread(10.0**-k, 2)).p for k in (2, 4, 8, 16)]
    assert noisy == sorted(noisy, reverse=True) and 0 < noisy[-1] < 1e-15


@given(st.lists(st.floats(0, 1), min_size=1, max_size=12))
def test_holm_is_the_closed_test_of_bonferroni(ps):
    """By the definition: the largest corrected value among those that are at least as small."""
    ordered, count = sorted(ps), len(ps)
    steps = [min(1.0, (count - i) * p) for i, p in enumerate(ordered)]
    expected = [max(s for s, q in zip(steps, ordered, strict=True) if q <= p) for p in ps]
    assert holm(ps) == pytest.approx(expected)
    assert all(corrected >= p for corrected, p in zip(holm(ps), ps, strict=True))
