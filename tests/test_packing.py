"""Packs: made once, the same on any machine, whole or not there."""

import hashlib
import io
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from pictures import encoded, flat, make_flat, make_folder, tarred, zipped
from PIL import Image

from gmsearch.cli import main
from gmsearch.data import decoders, packing
from gmsearch.data.decoding import side_for
from gmsearch.data.opening import open_source
from gmsearch.data.packing import Order, is_unfinished, make_pack
from gmsearch.data.packs import SEARCHED, Pack, is_pack, read_pack, shard_name
from gmsearch.data.selection import Selection, choose
from gmsearch.errors import DataError

RESOLUTION = 14
SIDE = 16
SPLITS = ("train", "minival", "val")


def order_of(source: Path, selection: Selection | None = None, resolution: int = RESOLUTION):
    opened, selection = open_source(str(source)), selection or Selection()
    return Order(opened, selection, choose(opened, selection), resolution)


def packed(source: Path, out: Path, selection: Selection | None = None, **how) -> Pack:
    how = {"workers": 1, **how}
    return make_pack(order_of(source, selection, how.pop("resolution", RESOLUTION)), out, **how)


def files(folder: Path) -> dict[str, bytes]:
    """All that a folder has, hidden things too."""
    return {
        str(path.relative_to(folder)): path.read_bytes() if path.is_file() else b""
        for path in folder.rglob("*")
    }


def fails(call, *arguments, **more) -> str:
    with pytest.raises(DataError) as caught:
        call(*arguments, **more)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def names(pack: Pack, split: str) -> list[str]:
    return (pack.path / split / "names.txt").read_text().splitlines()


def hold_the_originals(pack: Pack, folder: Path) -> None:
    """Each image is the one of its name, and its label that of its folder. The originals have
    `SIDE` pixels on each side, so that a pack has them as they are.
    """
    for split in SPLITS:
        held = pack.split(split)
        assert len(held.images) == len(held) == len(names(pack, split))
        for i, name in enumerate(names(pack, split)):
            original = np.asarray(Image.open(folder / name).convert("RGB"))
            assert np.array_equal(held.images[i], original), name
            assert pack.classes[held.labels[i]] == Path(name).parts[1]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return make_folder(tmp_path / "set", per_class=10, side=SIDE)


@pytest.fixture
def small_shards(monkeypatch) -> int:
    """Images in a shard."""
    monkeypatch.setattr(packing, "SHARD_BYTES", 4 * SIDE**2 * 3)
    return 4


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> Path:
    """A finished pack with small shards, for `ready`."""
    place = tmp_path_factory.mktemp("made")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(packing, "SHARD_BYTES", 4 * SIDE**2 * 3)
        return packed(make_folder(place / "set", side=SIDE), place / "out").path


@pytest.fixture
def ready(made: Path, tmp_path: Path) -> Pack:
    """A finished pack of one's own."""
    return read_pack(Path(shutil.copytree(made, tmp_path / "out")))


# What a pack holds --------------------------------------------------------------------------------


def test_a_pack_holds_the_originals_and_their_classes(tmp_path, folder):
    pack = packed(folder, tmp_path / "out")
    assert side_for(RESOLUTION) == pack.side == SIDE
    hold_the_originals(pack, folder)
    assert [len(names(pack, split)) for split in SPLITS] == [27, 3, 6]
    everything = [name for split in SPLITS for name in names(pack, split)]
    assert sorted(everything) == sorted(
        path.relative_to(folder).as_posix() for path in folder.rglob("*.png")
    )


def test_arrays_are_such_as_numpy_maps(tmp_path, folder):
    pack = packed(folder, tmp_path / "out")
    split = pack.split("train")
    for array in split.images.arrays:
        assert isinstance(array, np.memmap) and not array.flags.writeable
        assert array.dtype == np.uint8
    assert split.labels.dtype == np.int64
    plain = np.load(tmp_path / "out/train/images-000.npy", allow_pickle=False)
    assert np.array_equal(plain, split.images.arrays[0])


def test_meta_tells_what_is_there_and_its_checksums_are_right(tmp_path, folder, small_shards):
    out = tmp_path / "out"
    pack = packed(folder, out, Selection(2, 6, seed=3))
    meta = json.loads((out / "meta.json").read_text())
    assert meta["source"] == str(folder)
    assert meta["selection"] == {"classes": 2, "per_class": 6, "seed": 3}
    assert (meta["resolution"], meta["side"]) == (RESOLUTION, SIDE)
    assert meta["skipped"] == {} and meta["val_is"] == "the official one"
    assert len(meta["classes"]) == 2 and tuple(meta["classes"]) == pack.classes
    for split, count in zip(SPLITS, (10, 2, 4), strict=True):
        about = meta["splits"][split]
        assert about["count"] == count and about["of_a_class"] == [count // 2, count // 2]
        found = {
            path.name: hashlib.sha256(path.read_bytes()).hexdigest()
            for path in (out / split).glob("*.npy")
        }
        assert about["sha256"] == found
        assert len(found) == 1 + -(-count // small_shards)
    assert {p.name for p in out.iterdir()} == {"meta.json", *SPLITS}
    assert pack.nbytes == 16 * SIDE**2 * 3


def test_val_that_is_cut_from_train_says_so(tmp_path):
    source = make_flat(tmp_path / "flat", {"a": 20, "b": 20})
    pack = packed(source, tmp_path / "out", Selection(per_class=10))
    assert pack.meta["val_is"] == "cut from train"
    assert [pack.meta["splits"][split]["count"] for split in SPLITS] == [18, 2, 4]


@pytest.mark.parametrize("workers", [2, 3])
def test_the_same_seed_packs_the_same_bytes(tmp_path, folder, workers, small_shards):
    selection = Selection(2, 7, seed=5)
    packed(folder, tmp_path / "a", selection)
    packed(folder, tmp_path / "b", selection, workers=workers)
    assert files(tmp_path / "a") == files(tmp_path / "b")


@pytest.mark.parametrize("kind", ["zip", "tar.gz", "moved"])
def test_every_kind_of_source_packs_the_same_arrays(tmp_path, folder, kind):
    expected = files(packed(folder, tmp_path / "a", Selection(2, 7)).path)
    if kind == "moved":
        other = folder.rename(tmp_path / "elsewhere")
    elif kind == "zip":
        other = zipped(folder, tmp_path / "set.zip")
    else:
        other = tarred(folder, tmp_path / f"set.{kind}")
    found = files(packed(other, tmp_path / "b", Selection(2, 7)).path)
    for told in (expected, found):
        meta = json.loads(told.pop("meta.json"))
        told["meta"] = {k: v for k, v in meta.items() if k not in ("source", "key")}
    assert found == expected


def test_shards_are_of_bounded_size_and_hold_the_same_images(tmp_path, folder, monkeypatch):
    whole = packed(folder, tmp_path / "a")
    monkeypatch.setattr(packing, "SHARD_BYTES", 5 * SIDE**2 * 3 + 7)
    shards = packed(folder, tmp_path / "b")
    for split in SPLITS:
        arrays = shards.split(split).images.arrays
        assert [len(array) for array in arrays[:-1]] == [5] * (len(arrays) - 1)
        assert 1 <= len(arrays[-1]) <= 5
        assert np.array_equal(np.concatenate(arrays), *whole.split(split).images.arrays)
        assert names(shards, split) == names(whole, split)
    hold_the_originals(shards, folder)
    monkeypatch.setattr(packing, "SHARD_BYTES", 1)  # less than an image: one in each
    assert len(packed(folder, tmp_path / "c").split("train").images.arrays) == 27


def test_more_than_a_thousand_shards_keep_images_by_their_labels(ready):
    """As full ImageNet at 256 px has. Their names no longer sort as their numbers do."""
    meta = json.loads((ready.path / "meta.json").read_text())
    numbers = np.arange(1001)
    for i in numbers:
        array = np.full((1, SIDE, SIDE, 3), (i // 256, i % 256, 0), np.uint8)
        np.save(ready.path / "train" / shard_name(int(i)), array)
    np.save(ready.path / "train/labels.npy", numbers % 2)
    files = {name: "" for name in (*map(shard_name, range(1001)), "labels.npy")}
    meta["splits"]["train"] |= {"count": 1001, "sha256": files}
    (ready.path / "meta.json").write_text(json.dumps(meta))

    train = read_pack(ready.path).split("train")
    assert all(tuple(train.images[i][0, 0]) == (i // 256, i % 256, 0) for i in numbers)


# Images that cannot be read -----------------------------------------------------------------------


def many(tmp_path: Path) -> Path:
    return make_folder(tmp_path / "set", per_class=34, side=SIDE)  # 108 in all


def test_up_to_one_in_a_hundred_may_be_broken_and_is_listed_with_its_reason(tmp_path):
    source = many(tmp_path)
    bad = source / "train/n1/3.png"
    whole = bad.read_bytes()
    bad.write_bytes(whole[: len(whole) // 2])
    pack = packed(source, tmp_path / "out")
    assert list(pack.meta["skipped"]) == ["train/n1/3.png"]
    assert "truncated" in pack.meta["skipped"]["train/n1/3.png"]
    assert sum(about["count"] for about in pack.meta["splits"].values()) == 107
    hold_the_originals(pack, source)

    (source / "train/n2/3.png").write_bytes(b"junk")
    message = fails(packed, source, tmp_path / "more")
    assert re.search(
        r"2 of \d+ images cannot be read, such as train/n\d/3.png \(.*\); .*--skip-at-most", message
    )
    assert not is_pack(tmp_path / "more")
    assert len(packed(source, tmp_path / "more", most_skipped=0.02).meta["skipped"]) == 2
    assert "allow more than 0 of all" in fails(packed, source, tmp_path / "none", most_skipped=0)


def test_whatever_is_wrong_with_an_image_is_told(tmp_path, small_shards):
    source = many(tmp_path)
    train = source / "train"
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)
    jpeg = encoded(noise, "JPEG")
    (train / "n0/truncated.JPEG").write_bytes(jpeg[: len(jpeg) // 2])
    (train / "n0/text.JPEG").write_text("404: not found")
    (train / "n0/empty.jpg").touch()
    (train / "n0/pixel.png").write_bytes(encoded(noise[:1, :1]))
    (train / "n0/link.png").symlink_to(tmp_path / "nowhere")
    (train / "n0/loop.png").symlink_to("loop.png")
    (train / "n0/vanished.png").write_bytes(flat(3))
    (train / "n0/cmyk.jpg").write_bytes(encoded(noise, "JPEG", "CMYK"))
    (train / "n0/deep.png").write_bytes(encoded(noise[..., 0].astype(np.uint16) * 257))
    order = order_of(source)
    (train / "n0/vanished.png").unlink()

    pack = make_pack(order, tmp_path / "out", workers=2, most_skipped=0.5)
    skipped = {Path(name).stem: reason for name, reason in pack.meta["skipped"].items()}
    reasons = {
        "truncated": "truncated",
        "text": "no format that is known",
        "empty": "no format that is known",
        "pixel": "1x1 pixels, fewer than 4",
        "link": "No such file",
        "loop": "Too many levels of symbolic links",
        "vanished": "No such file",
    }
    assert set(skipped) == set(reasons)
    for name, reason in reasons.items():
        assert reason in skipped[name] and "\n" not in skipped[name]
    kept = [name for split in SPLITS for name in names(pack, split)]
    assert len(kept) == 108 + 2 and {"train/n0/cmyk.jpg", "train/n0/deep.png"} <= set(kept)
    pack.verify(*SPLITS)
    held = {
        name: image
        for split in SPLITS
        for name, image in zip(names(pack, split), pack.split(split).images, strict=True)
    }
    for name, image in held.items():
        if name.endswith("png") and "deep" not in name:
            assert np.array_equal(image, np.asarray(Image.open(source / name))), name


def test_a_shard_of_which_no_image_can_be_read_is_empty(tmp_path, small_shards):
    source = make_flat(tmp_path / "set", {"train/a": 20, "train/b": 20, "val/a": 1, "val/b": 1})
    order = order_of(source)
    for member in order.plan.splits["train"][4:8]:
        (source / member.name).write_bytes(b"junk")
    pack = packed(source, tmp_path / "out", most_skipped=1)
    train = pack.split("train")
    assert [len(array) for array in train.images.arrays][:3] == [4, 0, 4]
    assert len(train) == 32
    pack.verify("train")
    for i, name in enumerate(names(pack, "train")):
        assert np.array_equal(train.images[i][0, 0], np.asarray(Image.open(source / name))[0, 0])


@pytest.mark.parametrize("split", ["train", "val"])
def test_a_class_without_an_image_that_can_be_read_is_refused(tmp_path, folder, split):
    for file in (folder / split / "n1").iterdir():
        file.write_bytes(b"junk")
    message = fails(packed, folder, tmp_path / "out", most_skipped=1)
    assert re.search(rf"set: no image of class 'n1' in {split} can be read", message)
    assert not is_pack(tmp_path / "out")


def test_a_decoder_that_dies_is_told_in_one_line(tmp_path, folder, monkeypatch):
    def die(*_):
        os.kill(os.getpid(), signal.SIGKILL)  # as the kernel does for want of memory

    with monkeypatch.context() as patch:
        patch.setattr(decoders, "to_square", die)
        message = fails(packed, folder, tmp_path / "out")
    assert "a process that decoded died" in message and "fewer --workers" in message
    packed(folder, tmp_path / "out")
    packed(folder, tmp_path / "once")
    assert files(tmp_path / "out") == files(tmp_path / "once")


# Once, and no other -------------------------------------------------------------------------------


def test_a_finished_pack_is_found_again_without_work(tmp_path, folder):
    first = packed(folder, tmp_path / "out")
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "out").rglob("*")}

    def never(done, total):
        raise AssertionError

    assert packed(folder, tmp_path / "out", progress=never) == first
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "out").rglob("*")} == before


def test_progress_tells_of_every_image_once(tmp_path, folder, small_shards):
    told = []
    packed(folder, tmp_path / "out", progress=lambda done, total: told.append((done, total)))
    assert told == [(done, 36) for done in range(37)]


def test_another_pack_is_never_overwritten(tmp_path, folder):
    out = tmp_path / "out"
    packed(folder, out)
    before = files(out)
    for selection, resolution in (
        (Selection(seed=1), RESOLUTION),
        (Selection(per_class=5), RESOLUTION),
        (Selection(classes=2), RESOLUTION),
        (Selection(), RESOLUTION + 2),
    ):
        message = fails(packed, folder, out, selection, resolution=resolution)
        assert f"{out} is another pack ({folder}, 3 classes, 14 px, seed 0)" in message
        assert "choose another folder" in message
    (folder / "train/n0/0.png").write_bytes(flat(1))
    assert "is another pack" in fails(packed, folder, out)
    assert files(out) == before


def test_other_files_are_never_overwritten(tmp_path, folder):
    out = tmp_path / "out"
    out.write_text("mine")
    assert f"{out} exists and is no pack; choose another folder" in fails(packed, folder, out)
    assert out.read_text() == "mine"
    out.unlink()
    out.mkdir()
    (out / "notes.txt").write_text("mine")
    assert f"{out} exists and is no pack" in fails(packed, folder, out)
    assert files(out) == {"notes.txt": b"mine"}
    (out / "notes.txt").unlink()
    assert packed(folder, out).meta["skipped"] == {}  # an empty folder is as good as none


def test_the_beginnings_of_another_pack_are_never_gone_on_with(tmp_path, folder, small_shards):
    out = tmp_path / "out"
    stop_after(5, folder, out)
    begun = files(out)
    message = fails(packed, folder, out, Selection(seed=1))
    assert f"{out} has the beginnings of another pack; remove it, or choose another" in message
    assert files(out) == begun
    packed(folder, out)
    packed(folder, tmp_path / "once")
    assert files(out) == files(tmp_path / "once")


@pytest.mark.parametrize("resolution", [7, 1025])
def test_a_resolution_out_of_range_is_refused(tmp_path, folder, resolution):
    message = fails(packed, folder, tmp_path / "out", resolution=resolution)
    assert f"--resolution is {resolution}; allowed: 8 to 1024 px" in message
    assert not (tmp_path / "out").exists()


# Stopped, killed, crowded -------------------------------------------------------------------------


class Stopped(Exception):
    pass


def stop_after(count: int, source: Path, out: Path) -> None:
    def stop(done, total):
        if done == count:
            raise Stopped

    with pytest.raises(Stopped):
        packed(source, out, progress=stop)


@pytest.mark.parametrize("count", [0, 9, 27, 36])
def test_a_packing_that_is_stopped_goes_on_where_it_was(tmp_path, folder, count, small_shards):
    stop_after(count, folder, tmp_path / "out")
    kept = {p: p.stat().st_mtime_ns for p in (tmp_path / "out").rglob("images-*.npy")}
    ends = [4 * i for i in range(1, 7)] + [27, 30, 34, 36]  # of shards
    assert len(kept) == sum(end < count for end in ends)
    assert not is_pack(tmp_path / "out")
    packed(folder, tmp_path / "out")
    packed(folder, tmp_path / "once")
    assert files(tmp_path / "out") == files(tmp_path / "once")
    assert {p: p.stat().st_mtime_ns for p in kept} == kept


def test_what_was_skipped_before_a_stop_is_known_after_it(tmp_path, folder, small_shards):
    (folder / "train/n0/0.png").write_bytes(b"junk")
    with pytest.raises(DataError):
        packed(folder, tmp_path / "out")  # one in 36 is too many
    packed(folder, tmp_path / "out", most_skipped=0.1)
    packed(folder, tmp_path / "once", most_skipped=0.1)
    assert files(tmp_path / "out") == files(tmp_path / "once")
    assert list(read_pack(tmp_path / "out").meta["skipped"]) == ["train/n0/0.png"]


DRIVER = f"""
import sys, time
from gmsearch.cli import main
from gmsearch.data import decoders, packing
packing.SHARD_BYTES = {4 * SIDE**2 * 3}
seconds, to_square = float(sys.argv.pop(1)), decoders.to_square
decoders.to_square = lambda *image: time.sleep(seconds) or to_square(*image)
sys.exit(main(sys.argv[1:]))
"""


def start(source: Path, out: Path, seconds: float = 0) -> subprocess.Popen:
    """`gmsearch pack`, with small shards, and images that take so long each."""
    how = [str(seconds), "pack", str(source), str(out), "--resolution", str(RESOLUTION)]
    return subprocess.Popen(
        [sys.executable, "-c", DRIVER, *how, "--workers", "3"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def end(process: subprocess.Popen) -> str:
    """Its output, once it ends well."""
    output, errors = process.communicate(timeout=300)
    assert process.returncode == 0 and not errors, errors
    return output


def until(true, seconds: float = 20) -> None:
    limit = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < limit
        time.sleep(0.002)


def processes_of(out: Path) -> list[int]:
    """Those that have the folder among their words; a fork has the words of its parent."""
    found = []
    for folder in Path("/proc").iterdir():
        if folder.name.isdecimal() and int(folder.name) != os.getpid():
            try:
                words = (folder / "cmdline").read_bytes().split(b"\0")
            except OSError:
                continue
            if os.fsencode(out) in words:
                found.append(int(folder.name))
    return found


@pytest.mark.skipif(not Path("/proc/self/cmdline").exists(), reason="no /proc to look into")
def test_a_killed_packing_leaves_no_process_and_ends_as_one_that_was_not(
    tmp_path, folder, small_shards
):
    once, out = packed(folder, tmp_path / "once").path, tmp_path / "out"
    for shards in (1, 4):  # killed twice
        process = start(folder, out, seconds=0.05)
        until(lambda shards=shards: len(list(out.glob(".packing/*-*.json"))) >= shards)
        assert len(processes_of(out)) == 4  # else the next look would not tell a thing
        process.kill()
        process.communicate()
        until(lambda: not processes_of(out), seconds=5)
        assert not is_pack(out)
    end(start(folder, out))
    assert files(out) == files(once)


def test_two_that_pack_the_same_folder_at_once_both_end_well(tmp_path, folder, small_shards):
    once, out = packed(folder, tmp_path / "once").path, tmp_path / "out"
    processes = [start(folder, out, seconds=0.01) for _ in range(2)]
    outputs = [end(process) for process in processes]
    assert sum("it was there already" in output for output in outputs) == 1
    assert files(out) == files(once)


def test_ctrl_c_ends_in_one_line_and_can_be_gone_on_with(tmp_path, folder, small_shards):
    out = tmp_path / "out"
    process = start(folder, out, seconds=0.05)
    until(lambda: list(out.glob(".packing/*-*.json")))
    for one in processes_of(out):  # a terminal tells all of them
        os.kill(one, signal.SIGINT)
    output, errors = process.communicate(timeout=60)
    assert (process.returncode, errors) == (130, "gmsearch: stopped\n")
    until(lambda: not processes_of(out), seconds=5)
    end(start(folder, out))
    assert files(out) == files(packed(folder, tmp_path / "once").path)


@pytest.fixture
def small_disk(tmp_path):
    """A disk of 2 MB."""
    place = tmp_path / "disk"
    place.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", str(place)]
    try:
        done = subprocess.run(mount, capture_output=True, text=True)
    except OSError as error:
        pytest.skip(f"no small disk: {error}")
    if done.returncode:
        pytest.skip(f"no small disk, mounting takes root: {done.stderr.strip()}")
    yield place
    subprocess.run(["umount", "--lazy", str(place)], check=True)


def test_too_small_a_disk_is_told_before_anything_is_written(small_disk, folder):
    message = fails(packed, folder, small_disk / "deep/out", resolution=256)
    assert re.search(r"disk/deep/out: the images take .* and .* are free; make room", message)
    assert "take 0.0 GB" not in message  # which would be no reason
    assert not any(small_disk.iterdir())


@pytest.mark.parametrize("left", [0, 10_000])
def test_a_disk_that_fills_while_packing_is_told_and_can_be_gone_on_with(
    small_disk, folder, tmp_path, monkeypatch, left
):
    monkeypatch.setattr(packing, "DISK_SPARE", 0)
    filler, out = small_disk / "filler", small_disk / "out"

    def fill(done, total):
        if done == 0:
            filler.write_bytes(bytes(shutil.disk_usage(small_disk).free - left))

    message = fails(packed, folder, out, resolution=64, progress=fill)
    assert message == (
        f"{out}: no space is left on the disk; make room and say the same again to go on"
    )
    assert not is_pack(out)
    filler.unlink()
    packed(folder, out, resolution=64)
    packed(folder, tmp_path / "once", resolution=64)
    assert files(out) == files(tmp_path / "once")


# Found broken -------------------------------------------------------------------------------------


def flip(path: Path) -> None:
    whole = bytearray(path.read_bytes())
    whole[-1] ^= 1
    path.write_bytes(whole)


SPOILS = {
    "cut": (lambda path: path.write_bytes(path.read_bytes()[:-1]), "its checksum differs"),
    "flipped": (flip, "its checksum differs"),
    "missing": (Path.unlink, "cannot be read (No such file or directory)"),
}


@pytest.mark.parametrize("spoil", SPOILS)
@pytest.mark.parametrize("file", ["train/images-002.npy", "train/labels.npy", "val/images-000.npy"])
def test_a_file_that_is_not_as_it_was_packed_is_found(ready, spoil, file):
    pack = ready
    pack.verify(*SPLITS)
    change, reason = SPOILS[spoil]
    change(pack.path / file)
    message = fails(read_pack(pack.path).verify, *SPLITS)
    assert str(pack.path / file) in message and reason in message and "pack it again" in message
    split = file.partition("/")[0]
    assert fails(pack.verify, split) == message
    pack.verify(*(other for other in SPLITS if other != split))


@pytest.mark.parametrize("file", ["images-000.npy", "labels.npy"])
@pytest.mark.parametrize("left", [0, 10, 200, -1])
def test_arrays_that_cannot_be_mapped_are_told(ready, file, left):
    path = ready.path / "train" / file
    path.write_bytes(path.read_bytes()[:left])
    assert "pack it again" in fails(ready.split, "train")


def test_arrays_of_another_pack_are_told(tmp_path, folder):
    pack = packed(folder, tmp_path / "out")
    other = packed(folder, tmp_path / "other", Selection(per_class=5))
    larger = packed(folder, tmp_path / "larger", resolution=RESOLUTION + 7)
    for strange in (other, larger):
        path = strange.path / "train/images-000.npy"
        shutil.copy(path, pack.path / "train/images-000.npy")
        message = fails(pack.split, "train")
        assert "not the arrays that meta.json tells of; pack it again" in message


def edited(change):
    def edit(text):
        meta = json.loads(text)
        change(meta)
        return json.dumps(meta)

    return edit


@pytest.mark.parametrize(
    "edit",
    [
        lambda text: "",
        lambda text: text[: len(text) // 2],
        lambda text: "[]",
        lambda text: "7",
        lambda text: '"gmsearch_pack"',
        edited(lambda meta: meta.pop("gmsearch_pack")),
        edited(lambda meta: meta.update(gmsearch_pack=2)),
        edited(lambda meta: meta.pop("classes")),
        edited(lambda meta: meta.update(classes=None)),
        edited(lambda meta: meta.pop("resolution")),
        edited(lambda meta: meta.pop("side")),
        edited(lambda meta: meta.update(side="16")),
        edited(lambda meta: meta.update(resolution="14")),
        edited(lambda meta: meta.update(splits=[])),
        edited(lambda meta: meta["splits"].pop("train")),
        edited(lambda meta: meta["splits"].pop("minival")),
        edited(lambda meta: meta["splits"].pop("val")),
        edited(lambda meta: meta["splits"]["val"].pop("count")),
        edited(lambda meta: meta["splits"]["train"].update(count="27")),
        edited(lambda meta: meta["splits"]["train"].pop("sha256")),
        edited(lambda meta: meta["splits"]["train"].update(sha256=["images-000.npy"])),
    ],
)
def test_a_broken_meta_is_refused(ready, edit):
    path = ready.path
    (path / "meta.json").write_text(edit((path / "meta.json").read_text()))
    message = fails(read_pack, path)
    assert str(path) in message and "pack it again" in message


def test_a_meta_that_is_not_there_or_no_text_is_refused(tmp_path):
    assert not is_pack(tmp_path) and not is_pack(tmp_path / "nowhere")
    assert "pack it again" in fails(read_pack, tmp_path)
    (tmp_path / "meta.json").write_bytes(b"\xff\xfe\x00")
    assert not is_pack(tmp_path)
    assert "pack it again" in fails(read_pack, tmp_path)


def test_the_digest_is_of_what_a_search_sees(tmp_path, folder):
    def digest_of(*order, **more) -> str:
        return packed(folder, *order, **more).digest(SEARCHED)

    digest = digest_of(tmp_path / "a")
    assert re.fullmatch(r"[0-9a-f]{12}", digest)
    for file in (folder / "val").rglob("*.png"):
        file.write_bytes(flat(5))
    assert digest_of(tmp_path / "b") == digest
    assert digest_of(tmp_path / "c", Selection(seed=1)) != digest  # another minival
    assert digest_of(tmp_path / "d", resolution=RESOLUTION + 1) != digest
    for split in ("train", "val"):
        (folder / split / "n0").rename(folder / split / "m0")
    assert digest_of(tmp_path / "e") != digest


# The command --------------------------------------------------------------------------------------


def test_the_command_packs_and_says_what(tmp_path, folder, capsys):
    (folder / "train/n2/9.png").write_bytes(b"junk")
    words = ["pack", str(folder), str(tmp_path / "out"), "--classes", "2", "--per-class", "6"]
    words += ["--resolution", str(RESOLUTION), "--seed", "0", "--workers", "2"]
    words += ["--skip-at-most", "0.1"]
    assert main(words) == 0
    told = capsys.readouterr().out
    assert "train 10, minival 2, val 4 images of 2 classes" in told.replace("\n", " ")
    assert f"{SIDE} px for crops of {RESOLUTION}" in told and "images a second" in told
    pack = read_pack(tmp_path / "out")
    assert pack.meta["selection"] == {"classes": 2, "per_class": 6, "seed": 0}
    counts = Counter(Path(name).parts[1] for name in names(pack, "train"))
    assert list(counts.values()) == [5, 5]
    assert main(words) == 0
    assert "it was there already" in capsys.readouterr().out


def test_the_command_packs_the_classes_of_a_file(tmp_path, folder, capsys):
    (tmp_path / "classes.txt").write_text("n2\nn0\n")
    words = ["pack", str(folder), str(tmp_path / "out"), "--resolution", str(RESOLUTION)]
    words += ["--classes", str(tmp_path / "classes.txt")]
    assert main(words) == 0, capsys.readouterr().err
    assert set(read_pack(tmp_path / "out").classes) == {"n0", "n2"}


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--classes", "9"], "--classes 9: .* has 3; give 2 to 3"),
        (["--classes", "nowhere.txt"], "--classes nowhere.txt: No such file or directory; give"),
        (["--per-class", "11"], "--per-class 11: class 'n0' of .* has 10 images; ask for 10"),
        (["--per-class", "0"], "--per-class: '0' is not a whole number of 1 or more"),
        (["--resolution", "5000"], "--resolution is 5000; allowed: 8 to 1024 px"),
        (["--workers", "0"], "--workers: '0' is not a whole number"),
        (["--skip-at-most", "2"], "--skip-at-most.*2"),
        (["--skip-at-most", "nan"], "--skip-at-most.*nan"),
        (["--skip-at-most", "-0.1"], "--skip-at-most"),
    ],
)
def test_a_mistake_ends_in_one_line_and_nothing_is_written(tmp_path, folder, capsys, more, message):
    try:
        code = main(["pack", str(folder), str(tmp_path / "out"), *more])
    except SystemExit as left:
        code = left.code
    told = capsys.readouterr().err.strip()
    assert code == 2 and re.search(message, told) and "\n" not in told
    assert not (tmp_path / "out").exists()


def test_pillow_alone_tells_the_reference():
    """What these tests take for an original is what Pillow makes of it."""
    assert Image.open(io.BytesIO(flat(0x010203))).getpixel((0, 0)) == (1, 2, 3)


def test_a_damaged_pack_is_mended_by_packing_again(tmp_path):
    folder = make_folder(tmp_path / "set", side=SIDE)
    packed(folder, tmp_path / "out")
    before = {f: f.read_bytes() for f in (tmp_path / "out").rglob("*") if f.is_file()}
    array = tmp_path / "out/train/images-000.npy"
    array.write_bytes(array.read_bytes()[:-1])
    packed(folder, tmp_path / "out")
    assert before == {f: f.read_bytes() for f in (tmp_path / "out").rglob("*") if f.is_file()}


def test_the_beginnings_of_a_pack_are_dropped_when_images_were_replaced(tmp_path, monkeypatch):
    """As the message about broken images asks for."""
    folder = make_folder(tmp_path / "set", side=SIDE)
    bad = folder / "train/n0/0.png"
    whole = bad.read_bytes()
    bad.write_bytes(b"junk")
    fails(packed, folder, tmp_path / "out")
    assert is_unfinished(tmp_path / "out")
    (tmp_path / "out/train").mkdir(exist_ok=True)
    (tmp_path / "out/train/.images-000.npy.1234abcd").write_bytes(b"of a packer that was killed")
    bad.write_bytes(whole)
    pack = packed(folder, tmp_path / "out")
    assert not pack.meta["skipped"]
    assert not list((tmp_path / "out").rglob(".*"))
    hold_the_originals(pack, folder)
