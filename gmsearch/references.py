"""Published networks to compare with, and what is known of their training."""

import csv
import math
import re
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache
from importlib.resources import files

from gmsearch.errors import SettingsError

COLUMNS = ["model", "img_size", "top1", "params_m", "macs_m", "flags", "source"]
TIMM = "timm:"  # how the name of a row of timm starts; NAME.TAG follows
# What moves top1 apart from the network, and the flags that say so. Flags count as a whole and
# never in part: "no distillation/NAS/reparam" is neither distilled nor searched.
RECIPES = {
    "same recipe": frozenset({"SAME RECIPE AS GmNet README"}),  # GmNet's own command line
    "distilled": frozenset(
        {
            "distilled",
            "distilled (teacher-student script; weights named student_best)",
            "inplace distillation",
            "supernet distillation",
            "supernet distillation + finetune 25-75 ep",
        }
    ),
    "extra data": frozenset({"EXTRA DATA"}),
    "searched": frozenset({"searched"}),
    "long": frozenset({"500 ep", "1200 ep", "2400 ep", "3000 ep", "3600 ep"}),
    "basic": frozenset({"no tricks"}),  # a plain recipe: the network could do better
}

_SEMICOLON = re.compile(r";(?![^(]*\))")  # between flags, but not inside the brackets of one
_IMAGE_SIZE = re.compile(r"([1-9]\d*)|elastic|\d+-\d+|")


@dataclass(frozen=True, kw_only=True)
class Reference:
    """One published or measured top1, in per cent of the ImageNet validation set.

    MACs and params are counted and rounded as their source does: rows of timm are rounded to 10M
    MACs and count more than convolutions and linear layers, 230M for the 217M of MobileNetV3-Large.
    """

    name: str
    image_size: int | None  # px; None where it is not stated or differs from network to network
    top1: float
    params: int | None
    macs: int | None  # multiply-adds at `image_size`
    flags: tuple[str, ...]
    source: str

    @property
    def timm_name(self) -> str | None:
        """The model name without its tag, such as mobilenetv3_large_100; None if not of timm."""
        return self.name.removeprefix(TIMM).partition(".")[0] if self._is_of_timm else None

    @property
    def timm_tag(self) -> str | None:
        """Which weights of that model, such as ra_in1k."""
        return (self.name.partition(".")[2] or None) if self._is_of_timm else None

    @property
    def recipes(self) -> frozenset[str]:
        """The rows of RECIPES that the flags state.

        A recipe that is missing here may still have been used: most sources, timm's rows above
        all, say nothing of a search and little of the training.
        """
        return frozenset(
            name for name, flags in RECIPES.items() if not flags.isdisjoint(self.flags)
        )

    @property
    def _is_of_timm(self) -> bool:
        return self.name.startswith(TIMM)


@cache
def read_references() -> tuple[Reference, ...]:
    """The table that comes with the package, in its order."""
    return parse_references(files("gmsearch").joinpath("references.csv").read_text("utf-8"))


def parse_references(text: str) -> tuple[Reference, ...]:
    """The references of a csv with the columns COLUMNS, params and MACs in millions.

    Raises ValueError with the number of a malformed row; the header is row 1.
    """
    header, *rows = csv.reader(text.splitlines())
    if header != COLUMNS:
        raise ValueError(f"references.csv, row 1: columns {header}; expected {COLUMNS}")
    references = []
    for number, row in enumerate(rows, start=2):
        try:
            references.append(_reference(row))
        except ValueError as error:
            raise ValueError(f"references.csv, row {number}: {error}") from error
    return tuple(references)


def select(
    references: Iterable[Reference],
    *,
    recipe: str | None = None,
    without: Iterable[str] = (),
    macs: tuple[int | None, int | None] | None = None,
) -> list[Reference]:
    """The references with `recipe` and with none of `without`, fewest MACs first.

    `macs` is the least and the most, both included, None for no limit; a reference without MACs is
    left out where `macs` is given, and comes last otherwise. Raises SettingsError for a recipe that
    is not in RECIPES.
    """
    without = frozenset(without)
    for name in [*([] if recipe is None else [recipe]), *sorted(without)]:
        if name not in RECIPES:
            raise SettingsError(f"recipe is {name!r}; allowed: {', '.join(RECIPES)}")
    chosen = [
        reference
        for reference in references
        if (recipe is None or recipe in reference.recipes)
        and without.isdisjoint(reference.recipes)
        and (macs is None or _is_between(reference.macs, *macs))
    ]
    return sorted(chosen, key=lambda each: math.inf if each.macs is None else each.macs)


def published_macs(timm_name: str, image_size: int) -> list[Reference]:
    """The references of a timm model, given without a tag, at `image_size` px that have MACs."""
    return [
        reference
        for reference in read_references()
        if reference.timm_name == timm_name
        and reference.image_size == image_size
        and reference.macs is not None
    ]


def _is_between(value: int | None, low: int | None, high: int | None) -> bool:
    if value is None:
        return False
    return (low is None or low <= value) and (high is None or value <= high)


def _reference(row: list[str]) -> Reference:
    if len(row) != len(COLUMNS):
        raise ValueError(f"{len(row)} values; expected {len(COLUMNS)}")
    name, image_size, top1, params, macs, flags, source = row
    for column, text in (("model", name), ("flags", flags), ("source", source)):
        if not text.strip():
            raise ValueError(f"no {column}")
    return Reference(
        name=name,
        image_size=_image_size(image_size),
        top1=_number("top1", top1, 100),
        params=_from_millions("params_m", params),
        macs=_from_millions("macs_m", macs),
        flags=tuple(flag.strip() for flag in _SEMICOLON.split(flags)),
        source=source,
    )


def _image_size(text: str) -> int | None:
    match = _IMAGE_SIZE.fullmatch(text)
    if match is None:
        raise ValueError(f"img_size is {text!r}; allowed: a size, a range, 'elastic' or nothing")
    return int(match[1]) if match[1] else None


def _from_millions(column: str, text: str) -> int | None:
    return round(_number(column, text, 1e6) * 1e6) if text else None


def _number(column: str, text: str, most: float) -> float:
    value = float(text)
    if not 0 < value <= most:  # which "nan" is not either
        raise ValueError(f"{column} is {text}; allowed: above 0, at most {most:g}")
    return value
