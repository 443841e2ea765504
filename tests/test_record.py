"""How far a top1 can be trusted."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gmsearch.interval import wilson_interval
from gmsearch.record import half_interval, interval_of


@given(st.data(), st.integers(1, 50_000))
def test_an_interval_has_the_ends_of_wilsons_and_holds_its_top1(data, num_images):
    hits = data.draw(st.integers(0, num_images))
    top1 = 100 * hits / num_images
    low, high = interval_of(top1, num_images)
    assert (low, high) == pytest.approx(
        [100 * end for end in wilson_interval(hits, num_images)[1:]]
    )
    assert 0 <= low <= top1 <= high <= 100
    assert half_interval(top1, num_images) == (high - low) / 2


def test_near_0_and_100_it_lies_to_one_side():
    assert interval_of(0.0, 500) == (0.0, pytest.approx(0.76, abs=0.01))
    assert interval_of(100.0, 500) == (pytest.approx(99.24, abs=0.01), 100.0)
    low, high = interval_of(98.0, 500)
    assert 98.0 - low > 1.5 * (high - 98.0)


def test_a_top1_that_is_rounded_lies_in_its_interval_still():
    low, high = interval_of(0.04, 1000)
    assert low <= 0.04 <= high
