"""What a design is expected to add to a front, against brute force."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gmsearch.gain import Staircase, expected_improvement
from gmsearch.pareto import hypervolume

tops = st.floats(1, 99)
shares = st.floats(0.01, 1.2)
points = st.lists(st.tuples(tops, shares), max_size=6)


def test_expected_improvement_is_what_samples_say():
    rng = np.random.default_rng(0)
    for mean, std, level in ((50.0, 2.0, 51.0), (40.0, 5.0, 30.0), (10.0, 0.5, 12.0)):
        drawn = rng.normal(mean, std, 400_000)
        samples = np.maximum(0, drawn - level)
        found = expected_improvement(np.array(mean), np.array(std), np.array(level))
        assert found == pytest.approx(samples.mean(), abs=6 * samples.std() / 400_000**0.5 + 1e-9)


@given(points, st.tuples(tops, shares))
@settings(max_examples=200, deadline=None)
def test_without_doubt_the_gain_is_the_hypervolume_gained(known, new):
    """One cost: beside the hypervolume that reports use."""
    costs = np.array([[cost] for _, cost in known]).reshape(len(known), 1)
    staircase = Staircase.of(np.array([top1 for top1, _ in known]), costs)
    gain = staircase.expected_gain(np.array([new[0]]), np.array([1e-9]), np.array([[new[1]]]))
    expected = hypervolume([*known, new], 1.0) - hypervolume(known, 1.0)
    assert gain[0] == pytest.approx(expected, abs=1e-6)


@given(st.lists(st.tuples(tops, shares, shares), max_size=4), st.tuples(tops, shares, shares))
@settings(max_examples=60, deadline=None)
def test_with_two_costs_the_gain_is_what_a_fine_grid_says(known, new):
    side = (np.arange(120) + 0.5) / 120
    first, second = np.meshgrid(side, side, indexing="ij")

    def best(points) -> np.ndarray:
        level = np.zeros_like(first)
        for top1, a, b in points:
            level = np.where((first >= a) & (second >= b), np.maximum(level, top1), level)
        return level

    known = [point for point in known if max(point[1:]) <= 1]
    costs = np.array([point[1:] for point in known]).reshape(len(known), 2)
    staircase = Staircase.of(np.array([point[0] for point in known]), costs)
    gain = staircase.expected_gain(np.array([new[0]]), np.array([1e-9]), np.array([new[1:]]))
    expected = (best([*known, new]) - best(known)).mean()
    assert gain[0] == pytest.approx(expected, abs=99 * 4 / 120)


def test_a_larger_network_gains_nothing_by_its_size():
    """Of two designs with the same expectations the smaller is worth more."""
    staircase = Staircase.of(np.array([50.0]), np.array([[0.3]]))
    gains = staircase.expected_gain(np.full(3, 52.0), np.ones(3), np.array([[0.2], [0.5], [0.9]]))
    assert gains[0] > gains[1] > gains[2] > 0
