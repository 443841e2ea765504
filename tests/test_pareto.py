"""The front, against its definition."""

import numpy as np
import optuna
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gmsearch.pareto import front, hypervolume


def dominates(one, other, maximize):
    """At least as good in every objective and better in one, in so many words."""
    gains = [a - b if up else b - a for a, b, up in zip(one, other, maximize, strict=True)]
    return min(gains) >= 0 and max(gains) > 0


def by_definition(points, maximize):
    return [
        index
        for index, point in enumerate(points)
        if not any(dominates(other, point, maximize) for other in points)
    ]


@st.composite
def sets_of_points(draw):
    """Points of two or three objectives; few different values, so that ties and twins abound."""
    maximize = draw(st.lists(st.booleans(), min_size=2, max_size=3))
    values = st.integers(0, 4) | st.floats(-1e9, 1e9)
    point = st.tuples(*[values] * len(maximize))
    return draw(st.lists(point, max_size=30)), maximize


@given(sets_of_points())
def test_the_front_is_what_its_definition_says(points_and_directions):
    points, maximize = points_and_directions
    assert front(points, maximize) == by_definition(points, maximize)


@given(sets_of_points())
def test_every_other_point_is_dominated_by_one_on_the_front(points_and_directions):
    points, maximize = points_and_directions
    on_front = front(points, maximize)
    for index in set(range(len(points))) - set(on_front):
        assert any(dominates(points[i], points[index], maximize) for i in on_front)


def test_equal_points_are_on_the_front_together():
    points = [(50.0, 3), (60.0, 5), (50.0, 3), (40.0, 3), (60.0, 6)]
    assert front(points, [True, False]) == [0, 1, 2]


def test_no_points_have_no_front_and_one_point_is_its_own():
    assert front([], [True, False]) == []
    assert front([(1.0, 2.0)], [True, False]) == [0]


def test_indices_are_plain_integers_in_the_order_given():
    points = np.random.default_rng(0).random((50, 3)).tolist()
    found = front(points, [True, False, False])
    assert found == sorted(found) and all(type(index) is int for index in found)


@st.composite
def trials(draw):
    """(top1, cost) of trials, some of them over the limit of 100."""
    costs = st.integers(0, 120) | st.floats(0, 120)
    top1 = st.integers(0, 5).map(float) | st.floats(0, 100)
    return draw(st.lists(st.tuples(top1, costs), max_size=12))


@given(trials())
def test_the_hypervolume_is_the_mean_of_the_best_at_up_to_each_cost(points):
    """Against sums over a fine grid: a step may lie anywhere within a cell."""
    grid = (np.arange(20_000) + 0.5) / 20_000 * 100
    best = np.zeros_like(grid)
    for top1, cost in points:
        best = np.where(grid >= cost, np.maximum(best, top1), best)
    assert abs(hypervolume(points, 100) - best.mean()) <= 100 / 20_000


@given(trials())
def test_the_hypervolume_is_that_of_optuna_over_the_limit(points):
    losses = np.array([(-top1, cost) for top1, cost in points if cost <= 100]).reshape(-1, 2)
    area = optuna._hypervolume.compute_hypervolume(losses, np.array([0.0, 100.0]))
    assert hypervolume(points, 100) == pytest.approx(area / 100)


def test_a_hypervolume_by_hand():
    assert hypervolume([], 10) == 0
    assert hypervolume([(50, 0)], 10) == 50
    assert hypervolume([(50, 5)], 10) == 25
    assert hypervolume([(50, 10), (60, 11)], 10) == 0  # at the limit, and over it
    assert hypervolume([(50, 2), (40, 4), (60, 6)], 10) == (4 * 50 + 4 * 60) / 10
