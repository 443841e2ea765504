"""Which images of a source are taken, and for which split: the same on any machine.

Images are ranked by a hash of the seed, their class and their place in it, so neither the order of
files nor where they lie matters, and a larger subset of the same seed holds the smaller one.
"""

import hashlib
import re
from collections.abc import Iterable
from dataclasses import dataclass
from importlib import resources
from pathlib import Path

from gmsearch.data.sources import Member, Source
from gmsearch.errors import DataError
from gmsearch.files import as_bytes

SPLITS = ("train", "minival", "val")
MINIVAL_SHARE = 0.1  # of the images of a class that are taken from train
VAL_SHARE = 0.1  # of all images of a class, where there is no official val
CLASS_LISTS = ("imagenet100", "imagenette", "imagewoof")


@dataclass(frozen=True)
class Selection:
    """What to take: everything by default.

    `classes` is a number of random classes or their names; `per_class` the images of each that
    train and minival share.
    """

    classes: int | tuple[str, ...] | None = None
    per_class: int | None = None
    seed: int = 0


@dataclass(frozen=True)
class Plan:
    """The images to pack, by split, in the order of their labels."""

    classes: tuple[str, ...]
    splits: dict[str, list[Member]]
    cut_val: bool  # whether val comes from train, for want of an official one

    @property
    def num_images(self) -> int:
        return sum(map(len, self.splits.values()))

    @property
    def digest(self) -> str:
        digest = hashlib.sha256(as_bytes(repr(self.classes)))
        for split in SPLITS:
            names = "\n".join(f"{m.label}/{m.within}" for m in self.splits[split])
            digest.update(as_bytes(f"\n{split}\n{names}"))
        return digest.hexdigest()


def read_classes(text: str) -> int | tuple[str, ...]:
    """What `--classes` says: a number, the name of a well-known subset, or a file with one class
    on each line (what follows the first word of a line may describe it). Raises DataError.
    """
    if re.fullmatch(r"[0-9]{1,9}", text):
        return int(text)
    if text in CLASS_LISTS:
        listing = resources.files("gmsearch.data") / "class_lists" / f"{text}.txt"
        return _class_lines(listing.read_text(encoding="utf-8"))
    try:
        found = _class_lines(Path(text).read_text(encoding="utf-8-sig"))
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "not a text file"
        raise DataError(
            f"--classes {text}: {reason}; give a number, a file with one class on each line, or "
            f"{', '.join(CLASS_LISTS)}"
        ) from None
    if not found:
        raise DataError(f"--classes {text}: no class in it; write one on each line")
    return found


def choose(source: Source, selection: Selection) -> Plan:
    """Raises DataError where the source does not have what is asked for."""
    known = source.splits["train"]
    labels = _choose_classes(source, selection)
    official = source.splits.get("val")
    plan: dict[str, list[Member]] = {split: [] for split in SPLITS}
    for label in labels:
        members = known[label]
        if not members:
            raise DataError(
                f"{source.name}: class '{label}' has no images in train; "
                "remove it, or name other classes with --classes FILE"
            )
        if official is None:
            val, members = _cut(members, VAL_SHARE, selection.seed, "val")
        else:
            val = sorted(official.get(label, []))
            if not val:
                raise DataError(
                    f"{source.name}: class '{label}' has no images in val; "
                    "add some, or name other classes with --classes FILE"
                )
        minival, train = _take(source, label, members, selection)
        if not train and selection.per_class == 1:
            raise DataError("--per-class 1: minival takes one of each class; give 2 or more")
        if not train:
            raise DataError(
                f"{source.name}: class '{label}' has {len(known[label])} images, too few for train"
                f"{' and minival' if official else ', minival and val'}; add some, or name other "
                "classes with --classes FILE"
            )
        for split, chosen in zip(SPLITS, (train, minival, val), strict=True):
            plan[split] += chosen
    if official is not None and (others := sorted(set(official) - set(known))):
        raise DataError(
            f"{source.name}: class '{others[0]}' is in val and not in train; remove it there"
        )
    return Plan(labels, plan, cut_val=official is None)


def _choose_classes(source: Source, selection: Selection) -> tuple[str, ...]:
    """Names in alphabetical order, which their labels follow."""
    known = sorted(source.splits["train"])
    if selection.classes is None:
        return tuple(known)
    if isinstance(selection.classes, int):
        if not 2 <= selection.classes <= len(known):
            raise DataError(
                f"--classes {selection.classes}: {source.name} has {len(known)}; give 2 to "
                f"{len(known)}"
            )
        ranked = sorted(known, key=lambda label: _rank(selection.seed, "class", label))
        return tuple(sorted(ranked[: selection.classes]))
    named = {label: label if label in known else label.split()[0] for label in selection.classes}
    missing = [label for label, name in named.items() if name not in known]
    if missing:
        raise DataError(
            f"--classes: '{missing[0]}' is no class of {source.name} "
            f"({len(missing)} of {len(named)} are not; it has {', '.join(known[:3])}, …)"
        )
    if len(set(named.values())) < 2:
        raise DataError("--classes: a classifier needs two classes or more")
    return tuple(sorted(set(named.values())))


def _take(
    source: Source, label: str, members: list[Member], selection: Selection
) -> tuple[list[Member], list[Member]]:
    """As many as are asked for: (minival, train).

    Minival is cut first, from all there are: what judges a search is in no larger train of the same
    seed.
    """
    wanted = len(members) if selection.per_class is None else selection.per_class
    if wanted > len(members):
        raise DataError(
            f"--per-class {wanted}: class '{label}' of {source.name} has {len(members)} images; "
            f"ask for {len(members)} at most, or name other classes with --classes FILE"
        )
    count = _share(wanted, MINIVAL_SHARE)
    ranked = _ranked(members, selection.seed, "minival")
    minival, others = ranked[:count], ranked[count:]
    train = _ranked(others, selection.seed, "image")[: wanted - count]
    return sorted(minival), sorted(train)


def _cut(
    members: list[Member], share: float, seed: int, salt: str
) -> tuple[list[Member], list[Member]]:
    """Cuts a share off, one image at least: (the cut, the rest), both in order."""
    ranked = _ranked(members, seed, salt)
    count = _share(len(ranked), share)
    return sorted(ranked[:count]), sorted(ranked[count:])


def _share(count: int, share: float) -> int:
    return max(1, round(share * count))


def _ranked(members: Iterable[Member], seed: int, salt: str) -> list[Member]:
    return sorted(members, key=lambda m: _rank(seed, salt, f"{m.label}/{m.within}"))


def _rank(seed: int, salt: str, text: str) -> bytes:
    return hashlib.sha256(as_bytes(f"{seed}\n{salt}\n{text}")).digest()


def _class_lines(text: str) -> tuple[str, ...]:
    lines = (line.strip() for line in text.splitlines())
    return tuple(line for line in lines if line and not line.startswith("#"))
