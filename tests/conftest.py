"""Shared by all tests: one thread, the data at hand, and a closing line about what was left out."""

import os
from collections import Counter
from functools import lru_cache
from pathlib import Path

import pytest
import torch

from gmsearch import depthwise, pointwise
from gmsearch.data import bands

MARKS = ("slow", "gpu", "cluster", "browser")
# Real images are no part of the project: a folder with tiny-imagenet-40.zip and imagenet-samples/.
REAL_DATA = Path(
    os.environ.get("GMSEARCH_TEST_DATA", Path(__file__).parents[2] / "shared" / "data")
)

_left_out: Counter[str] = Counter()


@pytest.fixture(autouse=True, scope="session")
def one_thread():
    torch.set_num_threads(1)


@pytest.fixture(autouse=True, scope="session")
def cache_of_their_own(tmp_path_factory):
    """Packs that tests make on the way do not come to the user's cache."""
    before = os.environ.get("XDG_CACHE_HOME")
    os.environ["XDG_CACHE_HOME"] = str(tmp_path_factory.mktemp("cache"))
    yield
    if before is None:
        del os.environ["XDG_CACHE_HOME"]
    else:
        os.environ["XDG_CACHE_HOME"] = before


@lru_cache(maxsize=8)
def _drawn(count: int, resolution: int, seed: tuple[int, ...], draw=bands._make_split):
    return draw(count, resolution, list(seed))


@pytest.fixture(autouse=True, scope="module")
def bands_are_drawn_once(request):
    """Images that take seconds are there for whoever asks again, except where their drawing itself
    is tested.
    """
    with pytest.MonkeyPatch.context() as patch:
        if request.module.__name__ != "test_data":
            patch.setattr(bands, "_make_split", lambda n, side, seed: _drawn(n, side, tuple(seed)))
        yield


@pytest.fixture
def few_are_many(monkeypatch):
    """Convolutions take in small batches the ways of large ones."""
    monkeypatch.setattr(depthwise, "MANY", 0)
    monkeypatch.setattr(depthwise, "MANY_CHANNELS", 0)
    monkeypatch.setattr(pointwise, "MANY", 0)


@pytest.fixture(scope="session")
def tiny_imagenet() -> Path:
    path = REAL_DATA / "tiny-imagenet-40.zip"
    if not path.exists():
        pytest.skip(f"no real images at {path}; set GMSEARCH_TEST_DATA")
    return path


def pytest_deselected(items):
    for item in items:
        _left_out.update(mark for mark in MARKS if item.get_closest_marker(mark))


def pytest_sessionfinish(session):
    """A process of `pytest -n` hands over what it left out."""
    if hasattr(session.config, "workeroutput"):
        session.config.workeroutput["left_out"] = dict(_left_out)


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node):
    # Each process collects all tests, so that their counts are the same.
    _left_out.update(Counter(node.workeroutput.get("left_out", {})) - _left_out)


def pytest_terminal_summary(terminalreporter):
    if _left_out:
        counts = ", ".join(f"{count} {mark}" for mark, count in sorted(_left_out.items()))
        terminalreporter.write_line(f"left out: {counts} (choose with -m)")
