"""An architecture is data: frozen, validated, canonical, hashable, to and from JSON.

A network of the family is a stem, four stages and a head. A stage is a down-sampler and `depth`
blocks

    x ─▶ DW kxk, BN ─▶ [spatial] ─▶ 1x1 to ratio*C ─▶ [expand]
      ─▶ 1x1 to C, BN ─▶ DW kxk ─▶ [output] ─▶ layer scale ─▶ + x

and a gate sits at one of the three places in brackets, or nowhere. Where no gate sits at `expand`,
the plain activation does: without one the two 1x1 convolutions would be a single linear map. GmNet
(arXiv 2503.22841) is the gate `relu6(h)·h` at `expand` in all blocks.

Two spellings of the same network make equal objects with one `id`, so that nothing is trained
twice. Nothing here knows of search spaces, studies or torch.
"""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, fields
from functools import cache, cached_property, lru_cache
from itertools import groupby
from typing import Any, NamedTuple

from gmsearch.errors import ArchitectureError

NUM_STAGES = 4
STRIDE = 32  # of the last feature map: the stem and each stage halve the size
PLACEMENTS = ("none", "spatial", "expand", "output")
BLOCKS = ("all", "alternate", "last")
ACTIVATIONS = (
    "relu6",
    "relu",
    "gelu",
    "silu",
    "hardswish",
    "sigmoid",
    "hardsigmoid",
    "tanh",
    "identity",
)
DOWNSAMPLERS = ("dense", "separable")
KERNELS = (3, 5, 7, 9)


class Form(NamedTuple):
    """A gate s(P h)·Q h, where s is the activation and P, Q are operators on the features h, C
    channels in and out.

    `projections` is 2 where the product takes two different projections of the block's features, as
    in StarNet (arXiv 2403.19967): one goes through s(P ·), the other through Q.
    """

    name: str
    formula: str
    gate: str = "same"  # P, a row of OPERATORS
    value: str = "same"  # Q, a row of OPERATORS
    projections: int = 1


# A new gate form is a new row here. Its cost and its module follow from its operators.
FORMS = {
    form.name: form
    for form in (
        Form("self", "s(h)·h"),
        Form("norm", "s(h)·LN(h)", value="norm"),
        Form("dw", "s(h)·DW(h)", value="dw3x3"),
        Form("fc", "s(h)·Wh", value="linear"),
        Form("twin", "s(Ax)·Bx", projections=2),
        Form("squeeze", "s(W pool h)·h", gate="pool_linear"),
    )
}

# s(h)·h with these s is itself an activation: a gate in every block that spells it is no gate at
# all.
_SELF_GATES = {"sigmoid": "silu", "hardsigmoid": "hardswish"}

WHOLE_RANGES = {
    "stem_width": (1, 4096),
    "base_width": (1, 1024),  # the last stage is eight times as wide
    "width": (1, 8192),
    "depth": (1, 64),
    "ratio": (1, 16),
}
NAMED_VALUES: dict[str, tuple[Any, ...]] = {
    "kernel": KERNELS,
    "downsampler": DOWNSAMPLERS,
    "activation": ACTIVATIONS,
    "stem_activation": ACTIVATIONS,
    "placement": PLACEMENTS,
    "form": tuple(FORMS),
    "blocks": BLOCKS,
}


def check_value(field: str, value: Any) -> None:
    """Raises ArchitectureError where `value` is nothing that `field` of a stem or stage can be."""
    if field in WHOLE_RANGES:
        low, high = WHOLE_RANGES[field]
        if type(value) is not int or not low <= value <= high:
            raise ArchitectureError(
                f"{field} is {value!r}; allowed: a whole number from {low} to {high}"
            )
    elif type(value) not in (int, str) or value not in NAMED_VALUES[field]:
        allowed = ", ".join(map(str, NAMED_VALUES[field]))
        raise ArchitectureError(f"{field} is {value!r}; allowed: {allowed}")


@dataclass(frozen=True, kw_only=True, slots=True)
class Stage:
    """A down-sampler and `depth` blocks of `width` channels, gated in the blocks that `blocks`
    names.

    Raises ArchitectureError for values out of range and for the form `twin` anywhere but at
    `expand`.
    """

    width: int
    depth: int
    ratio: int
    kernel: int = 7
    downsampler: str = "dense"
    activation: str = "relu6"
    placement: str = "expand"
    form: str = "self"
    blocks: str = "all"

    def __post_init__(self) -> None:
        for field in _STAGE_FIELDS:
            check_value(field, getattr(self, field))
        if FORMS[self.form].projections == 2 and self.placement not in ("expand", "none"):
            raise ArchitectureError(
                f"form '{self.form}' at placement '{self.placement}': "
                "it needs the two projections of 'expand'"
            )
        self._make_canonical()

    def _make_canonical(self) -> None:
        """Rewrites every spelling of the same stage to one."""
        set_field = object.__setattr__
        gated = gated_blocks(self.blocks, self.depth)
        set_field(self, "blocks", next(b for b in BLOCKS if gated_blocks(b, self.depth) == gated))
        everywhere = self.placement == "expand" and self.blocks == "all"
        if everywhere and self.form == "self" and self.activation in _SELF_GATES:
            set_field(self, "placement", "none")
            set_field(self, "activation", _SELF_GATES[self.activation])
        if self.placement == "none":
            set_field(self, "form", "self")
            set_field(self, "blocks", "all")

    @property
    def gated(self) -> tuple[bool, ...]:
        """For each block of the stage, whether it has the gate."""
        if self.placement == "none":
            return (False,) * self.depth
        return gated_blocks(self.blocks, self.depth)

    def gate_in_words(self) -> str:
        """The stage's gate as a short formula, such as `relu6(h)·h` or `no gate, gelu`."""
        if self.placement == "none":
            return f"no gate, {self.activation}"
        formula = FORMS[self.form].formula.replace("s(", f"{self.activation}(", 1)
        place = "" if self.placement == "expand" else f" at {self.placement}"
        return (
            formula + place + {"all": "", "alternate": ", alternate", "last": ", last"}[self.blocks]
        )


_STAGE_FIELDS = tuple(field.name for field in fields(Stage))


def _to_dict(stage: Stage) -> dict[str, Any]:
    return {name: getattr(stage, name) for name in _STAGE_FIELDS}


@lru_cache(maxsize=1 << 16)
def _canonical_json(stage: Stage) -> str:
    """Networks of a pool share stages: most of the time of an `id` went into spelling them."""
    return json.dumps(_to_dict(stage), sort_keys=True, separators=(",", ":"))


@cache
def gated_blocks(blocks: str, depth: int) -> tuple[bool, ...]:
    """Which of `depth` blocks have the gate: all, the first, third, fifth …, or the last."""
    if blocks == "alternate":
        return tuple(index % 2 == 0 for index in range(depth))
    if blocks == "last":
        return (False,) * (depth - 1) + (True,)
    return (True,) * depth


@dataclass(frozen=True, kw_only=True)
class Architecture:
    """A whole network: a stem of `stem_width` channels, then four stages. The head follows from the
    data set.
    """

    stem_width: int
    stem_activation: str
    stages: tuple[Stage, ...]

    def __post_init__(self) -> None:
        check_value("stem_width", self.stem_width)
        check_value("stem_activation", self.stem_activation)
        if len(self.stages) != NUM_STAGES:
            raise ArchitectureError(f"{len(self.stages)} stages; a network has {NUM_STAGES}")

    @cached_property
    def id(self) -> str:
        """Ten hexadecimal digits of the SHA-256 of the canonical JSON; equal networks have equal
        ids.
        """
        stages = ",".join(map(_canonical_json, self.stages))
        stem = (
            f'"stem_activation":{json.dumps(self.stem_activation)},"stem_width":{self.stem_width}'
        )
        text = f'{{"stages":[{stages}],{stem}}}'
        return hashlib.sha256(text.encode()).hexdigest()[:10]

    def to_dict(self) -> dict[str, Any]:
        """The architecture as plain JSON types; `from_dict` reads it back."""
        return {
            "stem_width": self.stem_width,
            "stem_activation": self.stem_activation,
            "stages": [_to_dict(stage) for stage in self.stages],
        }

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> "Architecture":
        """Reads what `to_dict` wrote. Raises ArchitectureError for anything else."""
        try:
            missing = {field.name for field in fields(cls)} - set(data)
            if missing:
                raise KeyError(f"it has no {', '.join(sorted(missing))}")
            for stage in data["stages"]:
                if set(stage) != set(_STAGE_FIELDS):
                    raise KeyError(f"a stage has the keys {', '.join(_STAGE_FIELDS)}")
            stages = tuple(Stage(**stage) for stage in data["stages"])
            return cls(**{**data, "stages": stages})
        except (TypeError, KeyError) as error:
            raise ArchitectureError(f"not an architecture: {error.args[0]}") from error

    def layout_in_words(self) -> str:
        """Widths, depths, ratios and kernels: `w40-80-160-320 d2-2-10-2 r3-3-3-2 k7-7-7-7`."""
        axes = {"w": "width", "d": "depth", "r": "ratio", "k": "kernel"}
        return " ".join(
            letter + "-".join(str(getattr(stage, field)) for stage in self.stages)
            for letter, field in axes.items()
        )

    def in_words(self) -> str:
        """The gate of each stage, equal neighbours together: `1-3 relu6(h)·h; 4 no gate, gelu`."""
        parts = []
        first = 1
        for words, stages in groupby(stage.gate_in_words() for stage in self.stages):
            last = first + len(list(stages)) - 1
            parts.append(f"{first} {words}" if first == last else f"{first}-{last} {words}")
            first = last + 1
        return "; ".join(parts)
