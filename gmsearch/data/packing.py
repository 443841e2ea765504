"""Writing a pack: every image decoded once, on all cores, to go on after any stop.

Shards are the unit of work: each is decoded in memory and comes to disk whole, with a note of what
was skipped. A packing that goes on leaves those alone that are there.
"""

import contextlib
import errno
import fcntl
import hashlib
import json
import os
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np

from gmsearch.data.decoders import Decoders, decoders
from gmsearch.data.decoding import side_for
from gmsearch.data.packs import FORMAT, LABELS, META, NAMES, Pack, is_pack, read_pack, shard_name
from gmsearch.data.selection import SPLITS, Plan, Selection
from gmsearch.data.sources import Member, Source
from gmsearch.errors import DataError
from gmsearch.files import replacing, sha256_of, write_atomically

SHARD_BYTES = 2**28  # of images in one file, and in memory while it is made
UNFINISHED = ".packing"  # the folder of what is known before there is a meta.json
DISK_SPARE = 2**26  # bytes that are left to the disk beside the images
MOST_SKIPPED = 0.01  # the share of broken images that is taken without a word from the user
LEAST, MOST = 8, 1024  # pixels

Progress = Callable[[int, int], None]  # images done, and of how many


@dataclass(frozen=True)
class Order:
    """What to pack, and for what."""

    source: Source
    selection: Selection
    plan: Plan
    resolution: int

    def __post_init__(self) -> None:
        if not LEAST <= self.resolution <= MOST:
            raise DataError(f"--resolution is {self.resolution}; allowed: {LEAST} to {MOST} px")

    @property
    def side(self) -> int:
        return side_for(self.resolution)

    @property
    def nbytes(self) -> int:
        return self.plan.num_images * self.side**2 * 3

    @property
    def key(self) -> str:
        """What two packs share that hold the same images, as far as can be told before."""
        told = f"{FORMAT} {self.resolution} {self.source.key} {self.plan.digest}"
        return hashlib.sha256(told.encode()).hexdigest()[:12]


def make_pack(
    order: Order,
    out: Path,
    *,
    workers: int | None = None,
    most_skipped: float = MOST_SKIPPED,
    progress: Progress = lambda done, total: None,
) -> Pack:
    """Packs, goes on with a packing that was stopped, or finds that all is there.

    Raises DataError where `out` holds something else, where the disk is too small, and where more
    than `most_skipped` of the images are broken.
    """
    if not 0 <= most_skipped <= 1:
        raise DataError(f"--skip-at-most is {most_skipped}; allowed: from 0 to 1")
    if found := _finished(out, order):
        return found
    with _held(out, order):
        if found := _finished(out, order):  # another packer made it meanwhile
            return found
        shards = list(_shards(order))
        notes = {shard: _read_note(out, shard) for shard in shards if (out / shard.note).exists()}
        done, total = sum(len(shard.members) for shard in notes), order.plan.num_images
        _check_skipped(order, notes.values(), done, most_skipped)
        progress(done, total)
        most = max(len(shard.members) for shard in shards)
        with decoders(order.source, order.resolution, most, workers) as team:
            for shard in (shard for shard in shards if shard not in notes):
                for count in _pack_shard(out, shard, team):
                    progress(done + count, total)
                done += len(shard.members)
                notes[shard] = _read_note(out, shard)
                _check_skipped(order, notes.values(), done, most_skipped)
        return _finish(order, out, notes)


def _check_skipped(order: Order, notes: Iterable[Any], done: int, most: float) -> None:
    """Raises DataError where too many images are broken."""
    skipped = [each for note in notes for each in note["skipped"]]
    if len(skipped) > most * order.plan.num_images:
        name, reason = skipped[0]
        raise DataError(
            f"{order.source.name}: {len(skipped):,} of {done:,} images cannot be read, such as "
            f"{name} ({reason}); remove or replace them, or allow more than {most:g} of all with "
            "`gmsearch pack --skip-at-most SHARE`"
        )


@dataclass(frozen=True)
class _Shard:
    """The images that one file shall hold."""

    split: str
    number: int
    members: Sequence[Member] = field(compare=False, repr=False)

    @property
    def file(self) -> Path:
        return Path(self.split) / shard_name(self.number)

    @property
    def note(self) -> Path:
        """What was skipped; it is written last."""
        return Path(UNFINISHED) / f"{self.split}-{self.number:03}.json"


def _shards(order: Order) -> Iterator[_Shard]:
    size = max(1, SHARD_BYTES // (order.side**2 * 3))
    for split, members in order.plan.splits.items():
        for number, start in enumerate(range(0, len(members), size)):
            yield _Shard(split, number, members[start : start + size])


def is_unfinished(path: Path) -> bool:
    """Whether a folder has the beginnings of a pack."""
    return (path / UNFINISHED).is_dir()


def _finished(out: Path, order: Order) -> Pack | None:
    """The pack, if it is there and sound; one that is damaged is made ready to be packed again.

    Raises DataError where another one is there.
    """
    if not is_pack(out):
        return None
    found = read_pack(out)
    if found.meta["key"] != order.key:
        raise DataError(
            f"{out} is another pack ({found.meta['source']}, {len(found.classes)} classes, "
            f"{found.resolution} px, seed {found.meta['selection']['seed']}); choose another folder"
        )
    try:
        found.verify(*SPLITS)
    except DataError:
        (out / UNFINISHED).mkdir(exist_ok=True)
        (out / META).unlink()
        return None
    shutil.rmtree(out / UNFINISHED, ignore_errors=True)  # left by a kill at the very end
    return found


@contextlib.contextmanager
def _held(out: Path, order: Order) -> Iterator[None]:
    """Holds the folder of a pack against a second packer, who waits.

    Raises DataError where the folder has something else.
    """
    if not is_unfinished(out):
        is_other = out.exists() and (not out.is_dir() or any(out.iterdir())) and not is_pack(out)
        if is_other and not is_unfinished(out):  # another packer may have begun it meanwhile
            raise DataError(f"{out} exists and is no pack; choose another folder")
        check_disk(out, order.nbytes)
    with _no_space_told(out), _locked(out / UNFINISHED / "lock"):
        if not is_pack(out):
            _begin(out, order)
        yield


def _begin(out: Path, order: Order) -> None:
    """Notes what is packed, unless the folder has the beginnings of it.

    Raises DataError where it has those of another pack. Those of the same images, of which some
    were replaced since, are dropped.
    """
    file = out / UNFINISHED / "order.json"
    asked = json.loads(  # as it reads back: JSON has lists only
        json.dumps(
            {
                "source": order.source.name,
                "selection": asdict(order.selection),
                "resolution": order.resolution,
                "key": order.key,
            }
        )
    )
    begun = json.loads(file.read_text(encoding="utf-8")) if file.exists() else asked
    if {**begun, "key": None} != {**asked, "key": None}:
        raise DataError(
            f"{out} has the beginnings of another pack; remove it, or choose another folder"
        )
    if begun["key"] != order.key or not file.exists():
        for note in (out / UNFINISHED).glob("*-*.json"):
            note.unlink()
    for split in SPLITS:
        for half_written in (out / split).glob(".*"):  # by a packer that was killed
            half_written.unlink()
    write_atomically(file, json.dumps(asked))


@contextlib.contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Waits for a lock, the folder of which its last holder may have removed."""
    while True:
        path.parent.mkdir(parents=True, exist_ok=True)
        with contextlib.suppress(FileNotFoundError), path.open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if os.fstat(lock.fileno()).st_ino == path.stat().st_ino:
                yield
                return


def check_disk(out: Path, needed: int) -> None:
    """Raises DataError before anything is written, where the images cannot fit."""
    there = next(path for path in (out, *out.absolute().parents) if path.exists())
    free = shutil.disk_usage(there).free
    if needed + DISK_SPARE > free:
        raise DataError(
            f"{out}: the images take {needed / 1e6:,.0f} MB and {free / 1e6:,.0f} MB are free; "
            "make room, take fewer with --classes or --per-class, or a lower --resolution"
        )


@contextlib.contextmanager
def _no_space_told(out: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        raise DataError(
            f"{out}: no space is left on the disk; make room and say the same again to go on"
        ) from None


def _pack_shard(out: Path, shard: _Shard, team: Decoders) -> Iterator[int]:
    """Writes one shard; yields how many images are done."""
    images, answers = team.decode(shard.members)
    reasons: list[str | None] = []
    for reason in answers:
        reasons.append(reason)
        yield len(reasons)
    good = [reason is None for reason in reasons]
    path = out / shard.file
    path.parent.mkdir(exist_ok=True)
    with replacing(path, durable=True) as file:
        # A plain writer: of NumPy's own for real files, the reason of a failure is not known.
        plain: Any = SimpleNamespace(write=file.write)
        np.lib.format.write_array(plain, images if all(good) else images[good], allow_pickle=False)
    skipped = [(m.name, r) for m, r in zip(shard.members, reasons, strict=True) if r]
    note = {"skipped": skipped, "sha256": sha256_of(path)}
    write_atomically(out / shard.note, json.dumps(note))


def _read_note(out: Path, shard: _Shard) -> Any:
    """What is known of a shard: `skipped`, by name with reasons, and `sha256`."""
    return json.loads((out / shard.note).read_text(encoding="utf-8"))


def _finish(order: Order, out: Path, known: Mapping[_Shard, Any]) -> Pack:
    """Writes labels, names and meta.json, and takes the notes away."""
    label_of = {name: label for label, name in enumerate(order.plan.classes)}
    skipped: dict[str, str] = {}
    splits: dict[str, Any] = {}
    for split in order.plan.splits:
        notes = {
            shard.file.name: known[shard]
            for shard in sorted(known, key=lambda shard: shard.number)
            if shard.split == split
        }
        for note in notes.values():
            skipped |= {name: reason for name, reason in note["skipped"]}
        kept = [member for member in order.plan.splits[split] if member.name not in skipped]
        labels = np.array([label_of[member.label] for member in kept], np.int64)
        counts = np.bincount(labels, minlength=len(label_of))
        if not counts.all():
            empty = order.plan.classes[int(counts.argmin())]
            raise DataError(
                f"{order.source.name}: no image of class '{empty}' in {split} can be read"
            )
        with replacing(out / split / LABELS) as file:
            np.save(file, labels, allow_pickle=False)
        names = "".join(member.name.replace("\n", "\\n") + "\n" for member in kept)
        write_atomically(out / split / NAMES, names)
        checksums = {name: note["sha256"] for name, note in notes.items()}
        splits[split] = {
            "count": len(kept),
            "of_a_class": [int(counts.min()), int(counts.max())],
            "sha256": {**checksums, LABELS: sha256_of(out / split / LABELS)},
        }
    meta = {
        "gmsearch_pack": FORMAT,
        "source": order.source.name,
        "selection": asdict(order.selection),
        "key": order.key,
        "resolution": order.resolution,
        "side": order.side,
        "val_is": "cut from train" if order.plan.cut_val else "the official one",
        "splits": splits,
        "skipped": skipped,
        "classes": order.plan.classes,
    }
    write_atomically(out / META, json.dumps(meta, indent=2) + "\n")
    shutil.rmtree(out / UNFINISHED)
    return read_pack(out)
