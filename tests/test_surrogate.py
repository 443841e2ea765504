"""The model of accuracy, beside scikit-learn's, finite differences and sums that are known."""

import numpy as np
import pytest

from gmsearch.surrogate import (
    Encoding,
    Points,
    Process,
    Surrogate,
    _distances,
    _loss,
    prior_mean,
)
from gmsearch.watched import Watched

ENCODING = Encoding((4, 3, 5, 2), (True, False, False, False))


def some_points(number: int, seed: int = 0) -> tuple[np.ndarray, Points]:
    rng = np.random.default_rng(seed)
    rows = np.stack([rng.integers(n, size=number) for n in ENCODING.sizes], axis=1)
    return rows, Points(ENCODING.bits(rows), rng.normal(size=(number, 2)))


def truth(rows: np.ndarray) -> np.ndarray:
    return 40 + 2.0 * rows[:, 0] + np.array([0.0, 5.0, -3.0])[rows[:, 1]]


def test_distances_count_the_choices_that_differ():
    rows = np.array([[0, 1, 2, 0], [3, 1, 2, 0], [1, 0, 2, 1], [0, 1, 2, -1]])
    points = Points(ENCODING.bits(rows), np.zeros((4, 1)))
    total = _distances(ENCODING, points).sum(axis=0).reshape(4, 4)
    assert total[0] == pytest.approx([0, 1, 1 / 3 + 1 + 1, 0.5])  # a meaningless one: half


def test_the_gradient_of_the_fit_is_that_of_finite_differences():
    _, points = some_points(12)
    targets = np.random.default_rng(1).normal(size=12)
    distances, linear = _distances(ENCODING, points), points.features @ points.features.T
    prior = prior_mean(4)
    at = prior + np.linspace(-0.3, 0.4, len(prior))
    _, gradient = _loss(at, distances, linear, targets, prior)
    for index in range(len(at)):
        step = np.zeros(len(at))
        step[index] = 1e-5
        above = _loss(at + step, distances, linear, targets, prior)[0]
        below = _loss(at - step, distances, linear, targets, prior)[0]
        assert gradient[index] == pytest.approx((above - below) / 2e-5, rel=1e-4, abs=1e-6)


def test_a_process_is_that_of_the_textbook():
    """Solved directly: k* K^-1 y and k** - k* K^-1 k*."""
    rows, points = some_points(15)
    _, new = some_points(6, seed=9)
    targets = truth(rows)
    logarithms = prior_mean(4)
    mean, variance = Process(ENCODING, points, targets, logarithms).predict(new)
    values = np.exp(logarithms)

    def covariance(a: Points, b: Points) -> np.ndarray:
        bits = (a.bits[:, None] - b.bits[None]) ** 2
        distance = (bits * values[:4][ENCODING.choice_of]).sum(axis=2)
        return values[4] * np.exp(-distance) + values[5] * a.features @ b.features.T

    inverse = np.linalg.inv(covariance(points, points) + (values[6] + 1e-6) * np.eye(15))
    unit = (targets - targets.mean()) / targets.std()
    across = covariance(new, points)
    assert mean == pytest.approx(targets.mean() + targets.std() * across @ inverse @ unit)
    left = np.diag(covariance(new, new) - across @ inverse @ across.T)
    assert variance == pytest.approx(targets.std() ** 2 * left)


def test_believing_changes_no_mean_and_leaves_less_to_learn():
    rows, points = some_points(15)
    _, more = some_points(4, seed=3)
    process = Process(ENCODING, points, truth(rows), prior_mean(4))
    before, believed = process.predict(more), process.believing(more).predict(more)
    assert believed[0] == pytest.approx(before[0])
    assert (believed[1] < before[1]).all()


def test_what_is_watched_is_what_a_chain_that_believes_it_says():
    """One by one and all at once; and what a design expects of itself is as if it alone were not
    believed.
    """
    rows, points = some_points(20)
    _, more = some_points(6, seed=3)
    tops = np.stack([truth(rows), truth(rows) + rows[:, 2]], axis=1)
    tops[12:, 1] = np.nan
    chain = Surrogate(ENCODING, 2).given(points, tops)
    unknown = np.full((6, 2), np.nan)
    begun = chain.believing(more[np.arange(1)], unknown[:1])
    watched = Watched(begun, more, (np.arange(6) < 1)[:, None] & np.ones(2, bool))
    for place in range(4):
        watched.believe(place, np.array([True, True]))
    at_once = chain.believing(more[np.arange(4)], unknown[:4])
    for own in range(6):
        others = [place for place in range(4) if place != own]
        without = chain.believing(more[np.array(others)], unknown[others])
        (ours, theirs) = (
            watched.predict(np.array([own]), unknown[:1]),
            without.predict(more[np.array([own])], unknown[:1]),
        )
        assert ours == (pytest.approx(theirs[0]), pytest.approx(theirs[1]))
    assert watched.predict(np.array([5]), unknown[:1])[1] == pytest.approx(
        at_once.predict(more[np.array([5])], unknown[:1])[1]
    )


def test_it_learns_which_choices_matter():
    rows, points = some_points(60)
    targets = truth(rows) + np.random.default_rng(2).normal(0, 0.2, 60)
    surrogate = Surrogate(ENCODING, 1)
    surrogate.fit(points, targets[:, None])
    new_rows, new = some_points(40, seed=5)
    mean, std = surrogate.given(points, targets[:, None]).predict(new, np.full((40, 1), np.nan))
    assert np.abs(mean - truth(new_rows)).mean() < 0.5
    assert np.mean(np.abs(mean - truth(new_rows)) < 3 * std + 0.3) > 0.9
    weights = np.exp(surrogate._logarithms[0][:4])
    assert min(weights[0], weights[1]) > 3 * max(weights[2], weights[3])


def test_early_epochs_inform_late_ones():
    """The last rung is known of a few designs only; those known at the first are told apart."""
    rows, points = some_points(50)
    rng = np.random.default_rng(4)
    quality = truth(rows) + rng.normal(0, 3, 50)  # that the choices do not tell
    tops = np.stack([0.6 * quality + rng.normal(0, 0.2, 50), quality], axis=1)
    known = tops.copy()
    known[20:, 1] = np.nan
    surrogate = Surrogate(ENCODING, 2)
    surrogate.fit(points, known)
    chain = surrogate.given(points, known)
    rest = points[np.arange(20, 50)]
    with_first, _ = chain.predict(rest, known[20:])
    without, _ = chain.predict(rest, np.full((30, 2), np.nan))
    error, blind = (np.abs(p - tops[20:, 1]).mean() for p in (with_first, without))
    assert error < 0.7 and error < blind / 2


@pytest.mark.parametrize("number", [0, 1, 2])
def test_with_next_to_nothing_known_it_still_answers(number):
    rows, points = some_points(number)
    tops = np.stack([truth(rows), np.full(number, np.nan)], axis=1)
    surrogate = Surrogate(ENCODING, 2)
    surrogate.fit(points, tops)
    _, new = some_points(3, seed=8)
    mean, std = surrogate.given(points, tops).predict(new, np.full((3, 2), np.nan))
    assert np.isfinite(mean).all() and (std > 0).all()
