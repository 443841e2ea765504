"""A pack at a lower resolution: the same images, smaller, in the cache."""

import numpy as np
import pytest
from pictures import make_folder
from PIL import Image

from gmsearch import data
from gmsearch.data.decoding import side_for
from gmsearch.data.opening import open_source
from gmsearch.data.packing import Order, make_pack
from gmsearch.data.selection import Selection, choose
from gmsearch.errors import DataError


@pytest.fixture
def pack(tmp_path):
    source = open_source(str(make_folder(tmp_path / "set", side=40)))
    order = Order(source, Selection(), choose(source, Selection()), 32)
    return make_pack(order, tmp_path / "pack", workers=1)


def test_a_pack_at_a_lower_resolution_has_the_same_images_smaller(pack, tmp_path):
    cache = tmp_path / "cache"
    whole = data.load(str(pack.path), resolution=32, seed=0)
    small = data.load(str(pack.path), resolution=16, seed=0, cache=cache)
    assert (small.resolution, small.classes) == (16, whole.classes)
    assert small.digest != whole.digest
    for before, after in ((whole.train, small.train), (whole.minival, small.minival)):
        assert (before.labels == after.labels).all()
        assert after.images.side == side_for(16)
        for i in range(len(before)):
            image = Image.fromarray(before.images[i])
            size = (side_for(16), side_for(16))
            expected = np.asarray(image.resize(size, Image.Resampling.BICUBIC))
            assert (after.images[i] == expected).all()


def test_it_is_made_once_and_has_val_too(pack, tmp_path):
    cache, said = tmp_path / "cache", []
    for _ in range(2):
        data.load(
            str(pack.path),
            resolution=16,
            seed=0,
            cache=cache,
            progress=lambda done, total: said.append((done, total)),
        )
    assert [done == total for done, total in said] == [False, False, True]  # a shard a split
    (made,) = (cache / "packs").iterdir()
    official = data.load_official(str(pack.path), resolution=16, seed=0, cache=cache)
    assert len(official.minival) == pack.meta["splits"]["val"]["count"]
    assert list((cache / "packs").iterdir()) == [made]


def test_more_pixels_than_a_pack_has_and_too_few_are_refused(pack):
    with pytest.raises(DataError, match="packed for 32 px; give --resolution 32 or less"):
        data.load(str(pack.path), resolution=33, seed=0)
    with pytest.raises(DataError, match="--resolution is 4; allowed: 8 to 32 px"):
        data.load(str(pack.path), resolution=4, seed=0)
