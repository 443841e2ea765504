"""A search space: which networks are allowed, as a list of choices.

An axis (depth, kernel, placement, …) is fixed, chosen once per network, or chosen per stage.
`decode` turns one option for every choice into an Architecture; different picks may spell the same
network, so a network is known by its id.
"""

import math
import re
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from decimal import Decimal
from functools import cached_property, lru_cache
from itertools import product
from typing import Any, NamedTuple

import numpy as np

from gmsearch.architecture import ACTIVATIONS, NUM_STAGES, Architecture, Stage
from gmsearch.cost import Cost, cost, halved, stage_cost
from gmsearch.errors import ArchitectureError, SpaceError

Option = int | str
Picks = dict[str, Option]
Extreme = Callable[..., Any]  # min or max

NETWORK_AXES = ("stem_width", "stem_activation", "base_width")
STAGE_AXES = (
    "width",
    "depth",
    "ratio",
    "kernel",
    "downsampler",
    "activation",
    "placement",
    "form",
    "blocks",
)
# Axes that decide together which settings are one network; every other axis always shows in the
# network.
_FOLDING_AXES = ("depth", "activation", "placement", "form", "blocks")
# Axes whose cheapest option hangs on what else is chosen.
_ENTANGLED_AXES = ("downsampler", "placement", "form")
# The order from cheap to costly, where it is not that of the options themselves.
_RANK: dict[str, Callable[[Any], int]] = {
    "blocks": ("last", "alternate", "all").index,
    "activation": ACTIVATIONS.index,
    "stem_activation": ACTIVATIONS.index,
}


class Choice(NamedTuple):
    """One decision of a space: `stage` is 0-3, or None where it holds for the whole network."""

    name: str  # "activation", "stage3.depth" or "point"
    axis: str
    stage: int | None
    options: tuple[Option, ...]


class Candidate(NamedTuple):
    """One option for each choice, and the network that they spell."""

    picks: Picks
    architecture: Architecture


@dataclass(frozen=True, kw_only=True)
class SearchSpace:
    """The allowed networks. MACs are counted at `resolution` pixels and `num_classes` classes.

    `fixed` has the values that are not chosen: one for a network axis, one for each stage for a
    stage axis. In a space of points the one choice is `point`, and `points` says what each sets.
    A space that was narrowed keeps in `before` the choices that it had.
    """

    name: str
    resolution: int
    num_classes: int
    choices: tuple[Choice, ...]
    fixed: Mapping[str, Any]
    points: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    before: tuple[Choice, ...] = ()

    @property
    def declared(self) -> tuple[Choice, ...]:
        """The choices with all options that a trial of this space may ever have had."""
        return self.before or self.choices

    def narrowed_to(self, part: "SearchSpace") -> "SearchSpace | None":
        """This space with those options alone that `part` has too: some choices have fewer, or one.

        None where `part` is no part of this space, or all of it.
        """
        if (self.resolution, self.num_classes) != (part.resolution, part.num_classes):
            return None
        names = {choice.name for choice in self.choices}
        axes = {*self.fixed, *(choice.axis for choice in self.choices)}
        if any(choice.name not in names for choice in part.choices) or not axes >= set(part.fixed):
            return None
        if any(part.fixed.get(axis) != value for axis, value in self.fixed.items()):
            return None
        if any(self.points.get(name) != point for name, point in part.points.items()):
            return None
        left = [choice._replace(options=part._options_of(choice)) for choice in self.choices]
        for choice, fewer in zip(self.choices, left, strict=True):
            if not fewer.options or not set(fewer.options) <= set(choice.options):
                return None
        if tuple(left) == self.choices:
            return None
        return replace(self, name=part.name, choices=tuple(left), before=self.declared)

    def _options_of(self, wider: Choice) -> tuple[Option, ...]:
        """What this space allows of a choice of a wider one, in that one's order."""
        for choice in self.choices:
            if choice.name == wider.name:
                known = [option for option in wider.options if option in choice.options]
                return (*known, *(o for o in choice.options if o not in wider.options))
        value = self.fixed.get(wider.axis)
        if wider.axis not in STAGE_AXES or value is None:
            return () if value is None else (value,)
        values = value if wider.stage is None else [value[wider.stage]]
        return tuple(dict.fromkeys(values)) if len(set(values)) == 1 else ()

    def went_away(self) -> dict[str, tuple[Option, ...]]:
        """By choice, the options that a narrowed space does not have any more."""
        gone = {
            then.name: tuple(option for option in then.options if option not in now.options)
            for then, now in zip(self.declared, self.choices, strict=True)
        }
        return {name: options for name, options in gone.items() if options}

    def decode(self, picks: Mapping[str, Option]) -> Architecture:
        """The network that an option for every choice spells.

        Raises ArchitectureError for a combination that no network can have, KeyError for a missing
        choice.
        """
        values = self._values(picks)
        return Architecture(
            stem_width=values["stem_width"],
            stem_activation=values.get("stem_activation", values["activation"][0]),
            stages=tuple(_stage_of(values, stage) for stage in range(NUM_STAGES)),
        )

    def cost(self, architecture: Architecture) -> Cost:
        """The cost of a network where this space counts it."""
        return cost(architecture, resolution=self.resolution, num_classes=self.num_classes)

    def draw(self, rng: np.random.Generator) -> Candidate:
        """A candidate drawn uniformly from the settings that are a network."""
        while True:
            indices = rng.integers(self._num_options).tolist()
            picks = {c.name: c.options[i] for c, i in zip(self.choices, indices, strict=True)}
            try:
                return Candidate(picks, self.decode(picks))
            except ArchitectureError:
                continue  # such as the form `twin` away from `expand`

    def candidates(self) -> Iterator[Candidate]:
        """All settings that are a network, in order; several may spell the same one."""
        options = {choice.name: choice.options for choice in self.choices}
        for picks in _product(self.choices, options):
            try:
                yield Candidate(picks, self.decode(picks))
            except ArchitectureError:
                continue

    def descend(self, picks: Picks, budget: int, rng: np.random.Generator) -> Candidate:
        """Takes a candidate into the budget by a few of the cheapest network's options.

        They are taken in random order, at first only those that save MACs. The budget must not lie
        below the cheapest network.
        """
        cheapest = self.cheapest.picks
        macs = self._macs(picks)
        for every in (False, True):
            for index in rng.permutation(len(self.choices)):
                if macs <= budget:
                    return Candidate(picks, self.decode(picks))
                name = self.choices[index].name
                changed = {**picks, name: cheapest[name]}
                changed_macs = self._macs(changed)
                if every or changed_macs < macs:
                    picks, macs = changed, changed_macs
        return self.cheapest

    @cached_property
    def cheapest(self) -> Candidate:
        """The candidate of the fewest MACs."""
        return self._extreme({}, min)

    @cached_property
    def costliest(self) -> Candidate:
        """The candidate of the most MACs."""
        return self._extreme({}, max)

    def most(self, name: str) -> int:
        """The most `macs`, `params` or `activations` that a network of the space has."""
        return getattr(self.cost(self._extreme({}, max, name).architecture), name)

    def cheapest_with(self, choice: Choice, option: Option) -> Candidate:
        """The candidate of the fewest MACs among those that take `option`."""
        return self._extreme({choice.name: option}, min)

    def check_budget(self, budget: int) -> None:
        """Raises SpaceError where no network fits the budget; the message has the smallest."""
        smallest = self.cost(self.cheapest.architecture).macs
        if budget < smallest:
            raise SpaceError(
                f"budget {format_size(budget)} is below the smallest network of space "
                f"'{self.name}', which has {smallest:,} MACs; "
                f"use --budget {format_size_up(smallest)} or more"
            )

    @cached_property
    def num_networks(self) -> int:
        """How many different networks the space holds, exactly.

        The axes that fold (a gate's form means nothing where there is no gate) are enumerated per
        stage, for each setting of those that are chosen per network; a bit mask says which of these
        settings allow a stage, so that a network which several of them allow counts once. All other
        axes multiply.
        """
        if self.points:
            return len({self.decode({"point": name}).id for name in self.points})
        folding = [choice for choice in self.choices if choice.axis in _FOLDING_AXES]
        rest = [choice for choice in self.choices if choice.axis not in _FOLDING_AXES]
        shared = [choice for choice in folding if choice.stage is None]
        combined = Counter(
            {-1: 1}
        )  # mask of the network-wide settings, all at first -> number of networks
        for stage in range(NUM_STAGES):
            own = [choice for choice in folding if choice.stage == stage]
            allowed: dict[Any, int] = {}
            for bit, shared_picks in enumerate(product(*(choice.options for choice in shared))):
                for own_picks in product(*(choice.options for choice in own)):
                    key = self._stage_key(stage, [*shared, *own], [*shared_picks, *own_picks])
                    if key is not None:
                        allowed[key] = allowed.get(key, 0) | 1 << bit
            step: Counter[int] = Counter()
            for mask, count in Counter(allowed.values()).items():
                for before, networks in combined.items():
                    step[before & mask] += networks * count
            combined = step
        return math.prod(len(c.options) for c in rest) * (combined.total() - combined[0])

    def _stage_key(self, stage: int, choices: list[Choice], picks: list[Option]) -> Any:
        """What of a stage and stem the folding axes decide; None where it is impossible."""
        values = {axis: self.fixed[axis][stage] for axis in _FOLDING_AXES if axis in self.fixed}
        values.update(zip((choice.axis for choice in choices), picks, strict=True))
        try:
            folded = _make_stage(
                1, values["depth"], 1, 7, "dense", *(values[a] for a in _FOLDING_AXES[1:])
            )
        except ArchitectureError:
            return None
        return (folded, values["activation"]) if stage == 0 and self._stem_follows else folded

    @cached_property
    def _stem_follows(self) -> bool:
        """Whether the stem has the activation of the first stage, since it is given none of its
        own.
        """
        own = {*self.fixed, *(choice.axis for choice in self.choices)}
        return "stem_activation" not in own

    @cached_property
    def _num_options(self) -> np.ndarray:
        return np.array([len(choice.options) for choice in self.choices])

    def _macs(self, picks: Picks) -> float:
        try:
            return self.cost(self.decode(picks)).macs
        except ArchitectureError:
            return math.inf

    def _values(self, picks: Mapping[str, Option]) -> dict[str, Any]:
        """What each axis is: one value for the network, or a list of one for each stage."""
        values: dict[str, Any] = {axis: [None] * NUM_STAGES for axis in STAGE_AXES}
        for axis, value in self.fixed.items():
            values[axis] = list(value) if axis in STAGE_AXES else value
        for choice in self.choices:
            pick = picks[choice.name]
            if choice.axis == "point":
                values.update(self.points[str(pick)])
            elif choice.stage is not None:
                values[choice.axis][choice.stage] = pick
            elif choice.axis in NETWORK_AXES:
                values[choice.axis] = pick
            else:
                values[choice.axis] = [pick] * NUM_STAGES
        if "base_width" in values:
            values["width"] = [values["base_width"] << stage for stage in range(NUM_STAGES)]
        return values

    def _extreme(self, pinned: Picks, extreme: Extreme, name: str = "macs") -> Candidate:
        """The candidate of extreme MACs, or of another cost, with the pinned options, exactly.

        Costs grow with every size and with the number of gated blocks, whatever else is chosen, so
        these go to their ends. A placement and a form may exclude each other, and which form or
        down-sampler is cheaper hangs on the widths: these are enumerated, stage by stage, since
        what a stage costs does not hang on another's choice of them.
        """

        def cost_of(candidate: Candidate) -> int:
            return getattr(self.cost(candidate.architecture), name)

        options = {
            c.name: (pinned[c.name],) if c.name in pinned else c.options for c in self.choices
        }
        if self.points:
            found = [Candidate(p, self.decode(p)) for p in _product(self.choices, options)]
            return extreme(found, key=cost_of)
        ends = {c.name: extreme(options[c.name], key=_RANK.get(c.axis)) for c in self.choices}
        entangled = [choice for choice in self.choices if choice.axis in _ENTANGLED_AXES]
        found = []
        for shared in _product([c for c in entangled if c.stage is None], options):
            picks = {**ends, **shared}
            for stage in range(NUM_STAGES):
                own = [choice for choice in entangled if choice.stage == stage]
                costs = list(self._stage_costs(picks, stage, own, options, name))
                if not costs:
                    break  # the options that are shared exclude all of this stage's
                picks.update(extreme(costs, key=lambda pair: pair[0])[1])
            else:
                found.append(Candidate(picks, self.decode(picks)))
        if not found:
            raise SpaceError(f"space '{self.name}': no network takes {pinned}")
        return extreme(found, key=cost_of)

    def _stage_costs(
        self,
        picks: Picks,
        stage: int,
        choices: Sequence[Choice],
        options: Mapping[str, tuple[Option, ...]],
        name: str,
    ) -> Iterator[tuple[int, Picks]]:
        """(cost, picks) of a stage for each combination of some choices that is possible."""
        values = self._values(picks)
        row = {axis: values[axis][stage] for axis in STAGE_AXES}
        in_width = values["stem_width"] if stage == 0 else values["width"][stage - 1]
        side = halved(self.resolution)
        for _ in range(stage + 1):
            side = halved(side)
        for own in _product(choices, options):
            row.update((choice.axis, own[choice.name]) for choice in choices)
            try:
                yield getattr(stage_cost(_make_stage(*row.values()), in_width, side), name), own
            except ArchitectureError:
                continue


def _product(
    choices: Sequence[Choice], options: Mapping[str, tuple[Option, ...]]
) -> Iterator[Picks]:
    """All combinations of the options of some choices."""
    names = [choice.name for choice in choices]
    for row in product(*(options[name] for name in names)):
        yield dict(zip(names, row, strict=True))


def _stage_of(values: Mapping[str, Any], stage: int) -> Stage:
    return _make_stage(*(values[axis][stage] for axis in STAGE_AXES))


@lru_cache(maxsize=1 << 17)
def _make_stage(*row: Any) -> Stage:
    """Equal stages as one object: a pool of candidates shares them, and with them their cost."""
    return Stage(**dict(zip(STAGE_AXES, row, strict=True)))


def counted(number: int, noun: str) -> str:
    """A count of things: 1 network, 2,000 networks."""
    return f"{number:,} {noun}" if number == 1 else f"{number:,} {noun}s"


def format_size(value: float) -> str:
    """A count as people write it, to three digits: 300M, 1.24G, 8.2K, 40."""
    scales = {"G": 1e9, "M": 1e6, "K": 1e3, "": 1.0}
    unit = next((unit for unit, scale in scales.items() if value >= 0.9995 * scale), "")
    return f"{float(f'{value / scales[unit]:.3g}'):g}{unit}"


def format_size_up(value: int) -> str:
    """A count in millions (or thousands), rounded up: what to type to get at least this."""
    scale, unit = (1_000_000, "M") if value >= 10_000_000 else (1_000, "K")
    return f"{-(-value // scale)}{unit}"


def parse_size(text: str) -> int:
    """Reads 300M, 1.2G, 40K or 300000000. Raises ValueError for anything else."""
    match = re.fullmatch(r"([0-9]+(?:\.[0-9]+)?)([KMGB]?)", text, re.IGNORECASE)
    if match is None:
        raise ValueError(text)
    value = Decimal(match[1]) * {"": 1, "K": 10**3, "M": 10**6}.get(match[2].upper(), 10**9)
    if not 1 <= value < 10**18:
        raise ValueError(text)
    return round(value)
