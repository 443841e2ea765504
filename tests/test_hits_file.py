"""What a training was right about, from a file that may be damaged."""

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from gmsearch.hits_file import read_hits, write_hits

MEASURES = ["top1", "high12"]
HITS = {name: np.random.default_rng(i).random(40) < 0.5 for i, name in enumerate(MEASURES)}


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    file = tmp_path_factory.mktemp("hits") / "hits.npz"
    write_hits(file, HITS)
    return file


def test_what_was_written_is_read(whole):
    found = read_hits(whole, MEASURES, 40)
    assert found is not None and list(found) == MEASURES
    assert all(np.array_equal(found[name], HITS[name]) for name in MEASURES)


@settings(
    max_examples=400, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(st.data())
def test_a_damaged_file_is_none_or_what_was_written(whole, tmp_path, data):
    """Bytes are cut off or changed at any place: nothing else is raised, and never another
    answer, since a part of a zip file has a checksum.
    """
    content = bytearray(whole.read_bytes())
    if data.draw(st.booleans(), "cut"):
        content = content[: data.draw(st.integers(0, len(content) - 1))]
    for place in data.draw(st.lists(st.integers(0, max(0, len(content) - 1)), max_size=4)):
        if content:
            content[place] = data.draw(st.integers(0, 255))
    file = tmp_path / "hits.npz"
    file.write_bytes(content)
    found = read_hits(file, MEASURES, 40)
    assert found is None or all(np.array_equal(found[name], HITS[name]) for name in MEASURES)


def test_other_images_other_values_and_missing_measures_are_none(whole, tmp_path):
    assert read_hits(whole, MEASURES, 41) is None
    assert read_hits(whole, [*MEASURES, "low12"], 40) is None
    assert read_hits(tmp_path / "nothing", MEASURES, 40) is None
    for wrong in (HITS["high12"].astype(float), HITS["high12"][None], np.array(True)):
        write_hits(tmp_path / "hits.npz", {**HITS, "high12": wrong})
        assert read_hits(tmp_path / "hits.npz", MEASURES, 40) is None
    np.savez(tmp_path / "hits.npz", **{**HITS, "high12": np.array([None] * 40)})
    assert read_hits(tmp_path / "hits.npz", MEASURES, 40) is None
