"""Where images come from, and which of them are taken."""

import multiprocessing
import os
import pickle
import random
import resource
import shutil
import tarfile
import zipfile
from concurrent.futures import ThreadPoolExecutor
from importlib import resources
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pictures import PACKERS, flat, make_flat, make_folder, tarred, zipped
from timm.data import ImageNetInfo

from gmsearch.data.opening import open_source
from gmsearch.data.selection import CLASS_LISTS, Plan, Selection, choose, read_classes
from gmsearch.data.sources import Member, Source
from gmsearch.errors import DataError

ARCHIVES = {
    "zip": lambda folder, to: zipped(folder, to / "a.zip"),
    "zip of one folder": lambda folder, to: zipped(folder, to / "a.zip", "some set/"),
    "tar": lambda folder, to: tarred(folder, to / "a.tar"),
    "tar of one folder": lambda folder, to: tarred(folder, to / "a.tar", "some set/"),
    "tar of .": lambda folder, to: tarred(folder, to / "a.tar", "./"),
    "tar.gz": lambda folder, to: tarred(folder, to / "a.tar.gz"),
    "tar.bz2": lambda folder, to: tarred(folder, to / "a.tar.bz2"),
    "tar.xz": lambda folder, to: tarred(folder, to / "a.tar.xz"),
}
KINDS = {"folder": lambda folder, to: folder, **ARCHIVES}


def opened(path: Path) -> Source:
    return open_source(str(path))


def places(source: Source) -> dict[str, dict[str, list[str]]]:
    return {
        split: {label: sorted(m.within for m in found) for label, found in classes.items()}
        for split, classes in source.splits.items()
    }


def members(source: Source) -> list[Member]:
    return [m for classes in source.splits.values() for found in classes.values() for m in found]


def contents(source: Source) -> dict[tuple[str, str, str], bytes]:
    return {
        (split, label, m.within): source.read(m)
        for split, classes in source.splits.items()
        for label, found in classes.items()
        for m in found
    }


def on_disk(folder: Path) -> dict[tuple[str, str, str], bytes]:
    """What a folder SPLIT/CLASS/… has, told without gmsearch."""
    files = (file for file in folder.rglob("*") if file.is_file())
    parts = {file: file.relative_to(folder).parts for file in files}
    return {(p[0], p[1], "/".join(p[2:])): file.read_bytes() for file, p in parts.items()}


def fails(path: Path, then=lambda source: source) -> str:
    """The message, which is one line and names the source."""
    with pytest.raises(DataError) as caught:
        then(opened(path))
    message = str(caught.value)
    assert "\n" not in message and str(path) in message
    return message


# What is read -------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
def test_a_folder_and_every_archive_of_it_read_alike(tmp_path, kind):
    folder = make_folder(tmp_path / "set", per_class=4)
    nested = folder / "train/n1/more/x.PNG"
    nested.parent.mkdir()
    shutil.copy(folder / "train/n1/0.png", nested)
    (folder / "train/n1/README.txt").write_text("not an image")
    expected = on_disk(folder)
    del expected["train", "n1", "README.txt"]

    source = opened(KINDS[kind](folder, tmp_path))
    assert contents(source) == expected
    assert choose(source, Selection(per_class=3)) == _renamed(
        choose(opened(folder), Selection(per_class=3)), source
    )
    assert source.key == opened(Path(source.name)).key


def _renamed(plan: Plan, source: Source) -> Plan:
    """A plan with the names that its images have in another source."""
    names = {(m.label, m.within, split): m for split in source.splits for m in _all(source, split)}
    splits = {
        split: [names[m.label, m.within, "val" if split == "val" else "train"] for m in found]
        for split, found in plan.splits.items()
    }
    return Plan(plan.classes, splits, plan.cut_val)


def _all(source: Source, split: str) -> list[Member]:
    return [m for found in source.splits[split].values() for m in found]


@pytest.mark.parametrize(
    ("top", "kind"),
    [(top, kind) for top in ("", "one/") for kind in KINDS if not (top and "one folder" in kind)],
)
def test_a_set_without_splits_has_its_folders_for_classes(tmp_path, top, kind):
    make_flat(tmp_path / "set", {f"{top}cat": 3, f"{top}dog/near": 2, f"{top}dog/far": 2})
    (tmp_path / "set" / top / "README.md").write_text("not an image")
    (tmp_path / "set" / top / "cover.jpg").write_bytes(flat(9))  # an image, but of no class
    source = opened(KINDS[kind](tmp_path / "set", tmp_path))
    dogs = [f"{place}/{i:04}.ppm" for place in ("far", "near") for i in range(2)]
    cats = [f"{i:04}.ppm" for i in range(3)]
    assert places(source) == {"train": {"cat": cats, "dog": dogs}}


@pytest.mark.parametrize("train", ["train", "training"])
@pytest.mark.parametrize("val", ["val", "valid", "validation", "eval", "evaluation"])
def test_splits_go_by_the_names_that_timm_gives_them(tmp_path, train, val):
    from timm.data.dataset_factory import _EVAL_SYNONYM, _TRAIN_SYNONYM

    assert train in _TRAIN_SYNONYM and val in _EVAL_SYNONYM
    make_flat(tmp_path, {f"{split}/{c}": 2 for split in (train, val, "test") for c in "ab"})
    images = ["0000.ppm", "0001.ppm"]
    expected = {"a": images, "b": images}
    assert places(opened(tmp_path)) == {"train": expected, "val": expected}


@pytest.mark.parametrize("kind", KINDS)
def test_hidden_files_and_those_of_a_mac_are_passed_over(tmp_path, kind):
    folder = make_folder(tmp_path / "set", per_class=2)
    expected = on_disk(folder)
    for name in (
        "train/n0/._0.png",
        "__MACOSX/train/n0/0.png",
        "train/.hidden/0.png",
        "train/.DS_Store",
        ".git/train/n0/0.png",
    ):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(b"not an image")
    assert contents(opened(KINDS[kind](folder, tmp_path))) == expected


def test_links_to_folders_and_images_are_followed(tmp_path):
    folder = make_folder(tmp_path / "set", per_class=2)
    expected = contents(opened(folder))
    linked = tmp_path / "linked/train"
    (linked / "n0").mkdir(parents=True)
    for image in (folder / "train/n0").iterdir():
        (linked / "n0" / image.name).symlink_to(image)
    for label in ("n1", "n2"):
        (linked / label).symlink_to(folder / "train" / label)
    (tmp_path / "linked/val").symlink_to(folder / "val")
    assert contents(opened(tmp_path / "linked")) == expected


def test_a_tar_has_the_images_that_are_hard_links_too(tmp_path):
    """Tar writes the second name of a file as a link to the first."""
    folder = make_folder(tmp_path / "set", per_class=2)
    os.link(folder / "train/n0/0.png", folder / "train/n1/again.png")
    source = opened(tarred(folder, tmp_path / "a.tar"))
    assert contents(source) == on_disk(folder)


@pytest.mark.parametrize("label", ["valid", "train", "eval"])
def test_a_class_may_be_called_as_a_split_is(tmp_path, label):
    folder = make_flat(tmp_path / "a", {f"train/{label}": 3, "train/other": 3})
    assert set(opened(folder).splits["train"]) == {label, "other"}
    assert set(opened(folder).splits) == {"train"}
    folder = make_flat(
        tmp_path / "b", {f"{s}/{c}": 3 for s in ("train", "val") for c in (f"{label}/deep", "x")}
    )
    source = opened(folder)
    assert {s: set(source.splits[s]) for s in source.splits} == {
        "train": {label, "x"},
        "val": {label, "x"},
    }


def test_a_name_that_is_no_utf8_is_read(tmp_path):
    """As files from an old disk have; ext4 takes any bytes for a name."""
    folder = make_folder(tmp_path / "set", per_class=3)
    odd = os.fsdecode(b"caf\xe9.png")
    (folder / "train/n0/0.png").rename(folder / "train/n0" / odd)
    for path in (folder, tarred(folder, tmp_path / "a.tar")):
        source = opened(path)
        assert contents(source) == on_disk(folder)
        assert choose(source, Selection()).digest and source.key


# What is refused ----------------------------------------------------------------------------------


def test_what_is_not_there_or_no_images_is_told(tmp_path):
    assert "no such data; give a folder, zip or tar" in fails(tmp_path / "set")
    (tmp_path / "set").write_bytes(b"PK junk")
    assert "neither a folder nor a readable zip or tar" in fails(tmp_path / "set")
    (tmp_path / "empty").mkdir()
    assert "no images under train/CLASS/ or CLASS/" in fails(tmp_path / "empty")
    (tmp_path / "only/train").mkdir(parents=True)
    assert "no class folders in train; sort the images into train/" in fails(tmp_path / "only")


def test_one_class_is_refused(tmp_path):
    assert "one class ('n0')" in fails(make_folder(tmp_path / "set", num_classes=1))
    assert "one class ('cat')" in fails(make_flat(tmp_path / "flat", {"cat": 3}))


def test_loose_images_in_val_are_told(tmp_path):
    folder = make_folder(tmp_path / "set")
    shutil.rmtree(folder / "val")
    (folder / "val").mkdir()
    (folder / "val/ILSVRC2012_val_1.JPEG").write_bytes(flat(1))
    message = fails(folder)
    assert "val/ILSVRC2012_val_1.JPEG lies in no class; sort the images of val into" in message


@pytest.mark.parametrize("copy", ["copy/train", "training"])
def test_several_train_folders_are_refused(tmp_path, copy):
    folder = make_folder(tmp_path / "set")
    shutil.copytree(folder / "train", folder / copy)
    names = ", ".join(sorted((copy, "train")))
    assert f"several 'train' folders ({names}); keep one" in fails(folder)


@pytest.mark.parametrize("kind", ["folder", "zip", "tar"])
def test_an_empty_class_is_told(tmp_path, kind):
    folder = make_folder(tmp_path / "set")
    (folder / "train/n7").mkdir()
    path = KINDS[kind](folder, tmp_path)
    assert opened(path).splits["train"]["n7"] == []
    message = fails(path, lambda source: choose(source, Selection()))
    assert "class 'n7' has no images in train; remove it, or name other classes" in message


def test_a_class_in_only_one_of_train_and_val_is_told(tmp_path):
    folder = make_folder(tmp_path / "set")
    shutil.copytree(folder / "val/n2", folder / "val/n3")
    message = fails(folder, lambda source: choose(source, Selection()))
    assert "class 'n3' is in val and not in train; " in message  # and a remedy
    shutil.rmtree(folder / "val/n3")
    shutil.rmtree(folder / "val/n1")
    message = fails(folder, lambda source: choose(source, Selection()))
    assert "class 'n1' has no images in val; " in message


@pytest.mark.parametrize("kind", ARCHIVES)
def test_an_archive_cut_short_is_refused_or_whole(tmp_path, kind):
    """It may lack padding at its end, and no image."""
    folder = make_flat(tmp_path / "set", {"a": 3, "b": 3})
    path = ARCHIVES[kind](folder, tmp_path)
    whole, expected = path.read_bytes(), contents(opened(path))
    refused = 0
    for length in range(1, len(whole), max(1, len(whole) // 100)):
        path.write_bytes(whole[:length])
        try:
            assert contents(opened(path)) == expected
        except DataError as error:
            refused += 1
            assert "readable" in str(error) and "make room" not in str(error)
            assert "\n" not in str(error) and str(path) in str(error)
    assert refused > 25


@pytest.mark.parametrize("kind", ["zip", "tar", "tar.gz", "tar.bz2", "tar.xz"])
def test_a_damaged_archive_opens_or_is_refused_in_one_line(tmp_path, kind):
    """Whatever byte is hit. Room on the disk is no remedy."""
    path = ARCHIVES[kind](make_flat(tmp_path / "set", {"a": 3, "b": 3}), tmp_path)
    whole = path.read_bytes()
    headers = [i for i in range(len(whole)) if whole[i]]  # a tar of small files is mostly zeros
    for seed in range(150):
        rng = random.Random(seed)
        damaged = bytearray(whole)
        damaged[rng.choice(headers)] ^= rng.randrange(1, 256)
        path.write_bytes(damaged)
        try:
            assert opened(path).key
        except DataError as error:
            assert "\n" not in str(error) and str(path) in str(error)
            assert "make room" not in str(error)


@pytest.mark.parametrize("name", ["a.tar", "a.tar.gz", "a.tar.bz2", "a.tar.xz"])
def test_a_tar_with_a_length_beyond_all_files_is_refused_in_one_line(tmp_path, name):
    """In a header of times, over which nobody keeps a checksum."""
    path = tarred(make_flat(tmp_path / "set", {"a": 3, "b": 3}), tmp_path / "a.tar")
    whole = bytearray(path.read_bytes())
    place = whole.rindex(b" mtime=") - 2  # LENGTH mtime=SECONDS
    whole[place : place + 26] = b"9" * 23 + b" m="
    path.unlink()
    path = tmp_path / name
    path.write_bytes(PACKERS.get(path.suffix, bytes)(whole))
    assert f"{path}: not a readable tar" in fails(path)


def test_a_tar_of_headers_without_end_or_bound_is_refused_in_one_line(tmp_path):
    """Their checksums are right."""
    header = tarfile.TarInfo("././@LongLink")
    header.type, header.size = tarfile.GNUTYPE_LONGNAME, 10
    nested = header.tobuf(tarfile.GNU_FORMAT) + b"a" * 10 + bytes(502)
    header.size = 2**60
    for number, content in enumerate((nested * 2000, header.tobuf(tarfile.GNU_FORMAT))):
        path = tmp_path / f"{number}.tar"
        path.write_bytes(content + bytes(1024))
        assert f"{path}: not a readable tar" in fails(path)


def test_the_temporary_file_of_a_compressed_tar_needs_room(tmp_path, monkeypatch):
    """No file may grow beyond 20 kB here, which fails as a full disk does."""
    path = tarred(make_folder(tmp_path / "set", side=64), tmp_path / "a.tar.gz")
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, hard))  # as a full disk does: EFBIG
    try:
        assert "cannot be decompressed to" in fails(path) and "set TMPDIR" in fails(path)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_an_image_that_is_not_right_in_a_zip_fails_alone(tmp_path):
    path = zipped(make_folder(tmp_path / "set", per_class=2), tmp_path / "a.zip")
    with zipfile.ZipFile(path) as archive:
        start = archive.getinfo("train/n0/0.png").header_offset + 100
    damaged = bytearray(path.read_bytes())
    damaged[start] ^= 1
    path.write_bytes(damaged)
    source = opened(path)
    outcomes = {}
    for member in members(source):
        try:
            source.read(member)
            outcomes[member.name] = True
        except zipfile.BadZipFile:
            outcomes[member.name] = False
    assert [name for name, good in outcomes.items() if not good] == ["train/n0/0.png"]


# Reading from anywhere ----------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
def test_images_are_read_from_another_process_a_fork_and_many_threads(tmp_path, kind):
    folder = make_folder(tmp_path / "set", per_class=6)
    expected = on_disk(folder)
    source = opened(KINDS[kind](folder, tmp_path))
    assert contents(pickle.loads(pickle.dumps(source))) == expected
    assert contents(source) == expected  # which opens what is opened on first use

    context = multiprocessing.get_context("fork")
    results = [context.SimpleQueue() for _ in range(2)]
    processes = [
        context.Process(target=lambda result=result: result.put(contents(source)))
        for result in results
    ]
    for process in processes:
        process.start()
    with ThreadPoolExecutor(8) as pool:  # the parent reads at the same time
        read = list(pool.map(lambda m: source.read(m), members(source) * 20))
    assert read == list(expected_in_order(source, expected)) * 20
    assert [result.get() for result in results] == [expected] * 2
    for process in processes:
        process.join()
        process.close()


def expected_in_order(source: Source, expected):
    for split, classes in source.splits.items():
        for label, found in classes.items():
            for m in found:
                yield expected[split, label, m.within]


# The key ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["folder", "zip", "tar", "tar.gz"])
def test_the_key_of_a_source_stays_when_it_is_moved(tmp_path, kind):
    path = KINDS[kind](make_folder(tmp_path / "set", per_class=3), tmp_path)
    key = opened(path).key
    moved = path.rename(tmp_path / f"other{path.suffix}")
    assert opened(moved).key == key


@pytest.mark.parametrize("kind", ["folder", "zip", "tar", "tar.gz"])
def test_the_key_of_a_source_changes_with_an_image_a_name_a_class_or_a_split(tmp_path, kind):
    folder = make_folder(tmp_path / "set", per_class=3)

    def key():
        return opened(KINDS[kind](folder, tmp_path)).key

    keys = [key()]
    image = folder / "train/n0/0.png"
    image.write_bytes(image.read_bytes()[:-1] + b"x")  # as long as before
    keys.append(key())
    image.rename(image.with_name("00.png"))
    keys.append(key())
    (folder / "train/n0").rename(folder / "train/m0")
    (folder / "val/n0").rename(folder / "val/m0")
    keys.append(key())
    (folder / "val").rename(folder / "test")
    keys.append(key())
    assert len(set(keys)) == len(keys)


# What is taken ------------------------------------------------------------------------------------


class Listed(Source):
    """A source without a disk: classes and counts."""

    name = "listed"

    def __init__(self, train: dict[str, int], val: dict[str, int] | None = None, seed: int = 0):
        """The order of everything is a seed's."""
        rng = random.Random(seed)
        counts = {"train": train} | ({} if val is None else {"val": val})
        self.splits = {}
        for split, classes in counts.items():
            labels = rng.sample(sorted(classes), len(classes))
            self.splits[split] = {
                label: rng.sample(
                    [Member(label, f"{i}.png", f"{split}/{label}/{i}.png") for i in range(count)],
                    count,
                )
                for label, count in ((label, classes[label]) for label in labels)
            }

    def read(self, member):
        raise NotImplementedError

    def stamp(self, member):
        return ""


labels = st.text("abcxyz ÄÖ日_-", min_size=1, max_size=6)
trains = st.dictionaries(labels, st.integers(3, 25), min_size=2, max_size=6)
seeds = st.integers(-5, 2**40)


def taken(plan: Plan) -> set[Member]:
    return {*plan.splits["train"], *plan.splits["minival"]}


@settings(deadline=None, max_examples=40)
@given(trains, st.booleans(), seeds, st.integers(0, 99))
def test_what_is_taken_goes_by_the_seed_and_not_by_the_order_of_files(train, official, seed, order):
    val = dict.fromkeys(train, 2) if official else None
    plans = [choose(Listed(train, val, o), Selection(2, 2, seed)) for o in (order, order + 1)]
    assert plans[0] == plans[1] and plans[0].digest == plans[1].digest


@settings(deadline=None, max_examples=40)
@given(trains, st.booleans(), seeds)
def test_splits_share_no_image_and_everything_is_in_one(train, official, seed):
    source = Listed(train, dict.fromkeys(train, 2) if official else None)
    plan = choose(source, Selection(seed=seed))
    everything = [m for split in plan.splits.values() for m in split]
    assert len(everything) == len(set(everything)) == plan.num_images
    assert sorted(everything) == sorted(members(source))
    assert plan.cut_val is not official
    for label, count in train.items():
        have = {s: sum(m.label == label for m in plan.splits[s]) for s in plan.splits}
        cut = 2 if official else max(1, round(count / 10))
        assert have["val"] == cut
        assert have["minival"] == max(1, round((count - (0 if official else cut)) / 10))
    for found in plan.splits.values():  # in the order of labels, which is the one of the alphabet
        order = [plan.classes.index(m.label) for m in found]
        assert order == sorted(order)
    assert list(plan.classes) == sorted(train)


@settings(deadline=None, max_examples=40)
@given(trains, st.booleans(), seeds, st.data())
def test_a_larger_subset_holds_the_smaller_one_of_the_same_seed(train, official, seed, data):
    source = Listed(train, dict.fromkeys(train, 2) if official else None)
    most = min(train.values()) - (0 if official else max(1, round(min(train.values()) / 10)))
    small = data.draw(st.integers(2, most))
    large = data.draw(st.integers(small, most))
    few, many = (choose(source, Selection(per_class=n, seed=seed)) for n in (small, large))
    assert taken(few) <= taken(many)
    for plan, wanted in ((few, small), (many, large)):
        for label in train:
            have = [sum(m.label == label for m in plan.splits[s]) for s in ("train", "minival")]
            assert sum(have) == wanted and have[1] == max(1, round(wanted / 10))
    assert few.splits["val"] == many.splits["val"]  # what is asked of train does not touch it
    if official:
        assert few.splits["val"] == sorted(_all(source, "val"))

    few, many = (choose(source, Selection(n, seed=seed)) for n in (2, len(train)))
    assert set(few.classes) <= set(many.classes) and len(few.classes) == 2
    assert few.num_images < many.num_images or len(train) == 2


def test_another_seed_takes_others():
    source = Listed({c: 40 for c in "abcdefgh"}, {c: 2 for c in "abcdefgh"})
    plans = [choose(source, Selection(4, 20, seed)) for seed in range(8)]
    assert len({plan.classes for plan in plans}) > 1
    assert len({frozenset(taken(plan)) for plan in plans}) == len(plans)


def test_what_a_seed_takes_is_the_same_in_every_release():
    """Packs of before could not be made again otherwise."""
    plan = choose(Listed({c: 12 for c in "abcd"}), Selection(2, 5, seed=7))
    assert PINNED == {s: [f"{m.label}{m.within[:-4]}" for m in plan.splits[s]] for s in plan.splits}


PINNED = {
    "train": ["a11", "a3", "a4", "a7", "b10", "b11", "b4", "b7"],
    "minival": ["a1", "b3"],
    "val": ["a9", "b6"],
}


@pytest.mark.parametrize("name", CLASS_LISTS)
def test_a_well_known_list_has_classes_of_imagenet(name):
    known = set(ImageNetInfo().label_names())  # timm is the referee
    found = read_classes(name)
    assert len(set(found)) == len(found) == (100 if name == "imagenet100" else 10)
    assert set(found) <= known
    assert {f.name for f in resources.files("gmsearch.data.class_lists").iterdir()} == {
        f"{name}.txt" for name in CLASS_LISTS
    }


def test_the_well_known_lists_are_of_what_they_say():
    """Ten breeds of dogs, and ten easy things: spelt out from the words of their makers."""
    describe = ImageNetInfo().label_name_to_description

    def words(name):
        return sorted(describe(wnid).split(",")[0] for wnid in read_classes(name))

    assert words("imagenette") == sorted(
        [
            "tench",
            "English springer",
            "cassette player",
            "chain saw",
            "church",
            "French horn",
            "garbage truck",
            "gas pump",
            "golf ball",
            "parachute",
        ]
    )
    assert words("imagewoof") == sorted(
        [
            "Australian terrier",
            "Border terrier",
            "Samoyed",
            "beagle",
            "Shih-Tzu",
            "English foxhound",
            "Rhodesian ridgeback",
            "dingo",
            "golden retriever",
            "Old English sheepdog",
        ]
    )


def test_classes_are_read_from_a_number_a_file_or_a_well_known_list(tmp_path):
    file = tmp_path / "classes.txt"
    file.write_text("# my own\n\n  n2  \nn0 great white shark\r\nn2\n", encoding="utf-8")
    assert read_classes("12") == 12
    folder = make_folder(tmp_path / "set", num_classes=4)
    plan = choose(opened(folder), Selection(read_classes(str(file))))
    assert plan.classes == ("n0", "n2")
    assert {m.label for m in plan.splits["val"]} == {"n0", "n2"}
    file.write_text("n2\nn0\n", encoding="utf-8-sig")  # as a Windows editor saves it
    assert choose(opened(folder), Selection(read_classes(str(file)))).classes == ("n0", "n2")


def test_a_class_whose_name_has_blanks_is_named_whole(tmp_path):
    folder = make_flat(tmp_path / "set", {"great white shark": 3, "great": 3, "tench": 3})
    (tmp_path / "f").write_text("great white shark\ntench tinca\n")
    plan = choose(opened(folder), Selection(read_classes(str(tmp_path / "f"))))
    assert plan.classes == ("great white shark", "tench")


def write(tmp_path: Path, text: str | bytes) -> str:
    (tmp_path / "f").write_bytes(text if isinstance(text, bytes) else text.encode())
    return str(tmp_path / "f")


@pytest.mark.parametrize(
    ("classes", "message"),
    [
        (lambda t: "0", r"--classes 0: .* has 3; give 2 to 3"),
        (lambda t: "1", r"--classes 1: .* has 3; give 2 to 3"),
        (lambda t: "4", r"--classes 4: .* has 3; give 2 to 3"),
        (lambda t: "imagenet10", r"--classes imagenet10: No such file .* imagenet100, imagenette"),
        (lambda t: str(t), r"--classes /.*: Is a directory; give a number, a file with one class"),
        (lambda t: write(t, b"\xff\xfe\x00"), r"--classes .*/f: not a text file; give a number"),
        (lambda t: write(t, "# none\n\n"), r"--classes .*/f: no class in it; write one on each"),
        (lambda t: write(t, "n0\nn9\nn8\n"), r"--classes: 'n9' is no class of .*2 of 3 are not"),
        (lambda t: "imagenette", r"--classes: 'n01440764' is no class of .*\(10 of 10 are not"),
        (lambda t: write(t, "n1\nn1\n"), r"--classes: a classifier needs two classes or more"),
    ],
)
def test_classes_that_cannot_be_had_are_told(tmp_path, classes, message):
    source = opened(make_folder(tmp_path / "set", per_class=3))
    with pytest.raises(DataError, match=message) as caught:
        choose(source, Selection(read_classes(classes(tmp_path))))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("official", [True, False])
def test_more_images_than_a_class_has_are_refused(official):
    source = Listed({"a": 20, "b": 10}, {"a": 2, "b": 2} if official else None)
    most = 10 if official else 9  # one is cut off for val
    assert choose(source, Selection(per_class=most))
    message = f"--per-class 11: class 'b' of listed has {most} images; ask for {most} at most"
    with pytest.raises(DataError, match=message):
        choose(source, Selection(per_class=11))


def test_too_few_images_for_all_splits_are_refused():
    for source, told in (
        (Listed({"a": 1, "b": 5}, {"a": 1, "b": 1}), "1 images, too few for train and minival"),
        (Listed({"a": 2, "b": 5}), "2 images, too few for train, minival and val"),
    ):
        with pytest.raises(DataError, match=f"class 'a' has {told}; add some"):
            choose(source, Selection())


def test_one_image_of_each_class_is_too_few_though_there_are_more():
    source = Listed({"a": 500, "b": 500}, {"a": 2, "b": 2})
    with pytest.raises(DataError, match=r"--per-class 1: .*2"):
        choose(source, Selection(per_class=1))


def test_an_empty_val_is_told_and_not_cut_from_train(tmp_path):
    folder = make_folder(tmp_path / "set")
    shutil.rmtree(folder / "val")
    (folder / "val").mkdir()
    assert "no images under val/CLASS/; put some there, or remove it" in fails(folder)


def test_what_judged_a_search_is_in_no_larger_train_of_its_seed():
    source = Listed({"a": 50, "b": 40})
    for small in range(4, 36):
        minival = set(choose(source, Selection(per_class=small)).splits["minival"])
        for large in range(small, 37):
            assert not minival & set(choose(source, Selection(per_class=large)).splits["train"])


def test_a_link_to_a_folder_above_it_is_refused(tmp_path):
    folder = make_folder(tmp_path / "set")
    (folder / "train/n0/self").symlink_to("..")
    assert "train/n0/self: a link to a folder above it; remove it" in fails(folder)
    (folder / "train/n0/self").unlink()
    (folder / "train/n3").symlink_to("n0")  # another class of the same images is the user's affair
    assert len(open_source(str(folder)).splits["train"]) == 4


def test_splits_are_found_in_letters_of_any_case(tmp_path):
    folder = make_folder(tmp_path / "set")
    expected = open_source(str(folder)).splits
    (folder / "train").rename(folder / "Train")
    (folder / "val").rename(folder / "VAL")
    found = open_source(str(folder)).splits
    assert {s: set(found[s]) for s in found} == {s: set(expected[s]) for s in expected}


def test_a_class_may_have_the_name_of_a_split(tmp_path):
    """As `valid` beside `invalid`, of an inspection."""
    folder = make_folder(tmp_path / "set", num_classes=2) / "train"
    (folder / "n0").rename(folder / "valid")
    (folder / "n1").rename(folder / "invalid")
    assert set(open_source(str(folder)).splits["train"]) == {"valid", "invalid"}
    (folder / "invalid").rename(folder / "train")
    assert "no class folders in train and valid; sort the images" in fails(folder)


def test_a_linked_image_of_a_tar_is_read(tmp_path):
    folder = make_folder(tmp_path / "set")
    (folder / "train/n0/linked.png").symlink_to("../n1/0.png")
    with tarfile.open(tmp_path / "set.tar", "w") as archive:
        archive.add(folder, "set")
    source = open_source(str(tmp_path / "set.tar"))
    linked = next(m for m in source.splits["train"]["n0"] if m.within == "linked.png")
    assert source.read(linked) == (folder / "train/n1/0.png").read_bytes()
