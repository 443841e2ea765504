"""Designs: what a search chooses among, with what is known of each before it is trained."""

import math
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, lru_cache
from itertools import product
from typing import Any, NamedTuple

import numpy as np

from gmsearch.architecture import NUM_STAGES, Architecture
from gmsearch.cost import Cost
from gmsearch.errors import ArchitectureError
from gmsearch.space import Choice, Picks, SearchSpace

LARGEST_ENUMERATION = 50_000  # settings; a smaller space is used up by listing all of it
MOST_REMEMBERED = 1 << 14  # designs: neighbours of a front are drawn again and again
NUM_TRIES = 8  # draws for one that may be trained, before one is taken into the budget
# Axes whose options have an order in every space; whole numbers have one anyway.
_ORDERED = ("blocks",)
_OF_GATES = ("form", "blocks")  # axes that say nothing where there is no gate
_FOLDING = ("placement", "activation", *_OF_GATES)  # that the canonical stage may spell otherwise


class Known(NamedTuple):
    """What is known of a design before it is trained."""

    id: str  # equal for settings that mean the same
    costs: tuple[float, ...]  # as shares of what is allowed; exact
    features: tuple[float, ...]  # physical ones, such as log MACs
    meaningless: frozenset[str] = frozenset()  # choices without a meaning in this design


class Design(NamedTuple):
    """An option for each choice, and what is known of it."""

    picks: Picks
    row: tuple[int, ...]  # the index of each option, -1 where the choice or option means nothing
    known: Known


@dataclass(frozen=True)
class Designs:
    """All designs that may be trained: options by choice, and `describe`, which tells what is known
    of some picks, or None where they are no design or cost more than is allowed.
    """

    options: Mapping[str, Sequence[Any]]
    describe: Callable[[Picks], Known | None]
    ordered: frozenset[str] = frozenset()  # choices whose options are in order
    # All options that there ever were, where some are not to be taken any more.
    declared: Mapping[str, Sequence[Any]] | None = None
    # Takes picks of a design that costs too much into what is allowed; None where they are none.
    reduce: Callable[[Picks, np.random.Generator], Picks | None] | None = None

    @property
    def sizes(self) -> tuple[int, ...]:
        """The number of options of each choice."""
        return tuple(map(len, self.options.values()))

    @property
    def is_ordered(self) -> tuple[bool, ...]:
        """Whether the options of each choice are in order."""
        return tuple(name in self.ordered for name in self.options)

    def design(self, picks: Picks) -> Design | None:
        """Picks with what is known of them; None where they may not be trained."""
        return self._design_of(tuple(picks[name] for name in self.options))

    @cached_property
    def _design_of(self) -> Callable[[tuple[Any, ...]], Design | None]:
        return lru_cache(MOST_REMEMBERED)(self._make)

    def _make(self, options: tuple[Any, ...]) -> Design | None:
        picks = dict(zip(self.options, options, strict=True))
        known = self.describe(picks)
        if known is None:
            return None
        row = [
            options.index(picks[name])
            if name not in known.meaningless and picks[name] in options
            else -1
            for name, options in self.options.items()
        ]
        return Design(picks, tuple(row), known)

    def draw(self, rng: np.random.Generator) -> Design | None:
        """A design drawn uniformly from those that may be trained; None where none was found."""
        for find in (self.design, lambda picks: self.completed(picks, rng)):
            for _ in range(NUM_TRIES):
                found = find(self.any_picks(rng))
                if found is not None:
                    return found
        return None

    def completed(self, picks: Picks, rng: np.random.Generator) -> Design | None:
        """Picks as a design, taken into what is allowed where that is needed and possible."""
        found = self.design(picks)
        if found is None and self.reduce is not None:
            reduced = self.reduce(picks, rng)
            found = None if reduced is None else self.design(reduced)
        return found

    def mutate(
        self, design: Design, rng: np.random.Generator, most: int | None = None
    ) -> Design | None:
        """A neighbour: one choice is drawn anew, with each further one half as likely."""
        number = min(int(rng.geometric(0.5)), most or len(self.options))
        picks = dict(design.picks)
        for index in rng.choice(len(self.options), number, replace=False):
            name = list(self.options)[index]
            others = [option for option in self.options[name] if option != picks[name]]
            if others:
                picks[name] = others[int(rng.integers(len(others)))]
        picks = {**self.any_picks(rng), **self.still_allowed(picks)} if self.declared else picks
        return self.design(picks)

    def around(self, designs: Iterable[Design]) -> Iterator[Design]:
        """Designs that changes of one choice at a time lead to from some, the nearest first."""
        waiting = deque(designs)
        met = {design.known.id for design in waiting}
        while waiting:
            picks = waiting.popleft().picks
            for name, options in self.options.items():
                for option in options:
                    found = self.design({**picks, name: option})
                    if found is not None and found.known.id not in met:
                        met.add(found.known.id)
                        waiting.append(found)
                        yield found

    def still_allowed(self, picks: Picks) -> Picks:
        """Those of some picks that are options now."""
        return {name: option for name, option in picks.items() if option in self.options[name]}

    @property
    def undiminished(self) -> "Designs":
        """These, and those that a narrowed space does not have any more."""
        return replace(self, options=self.declared, declared=None) if self.declared else self

    def others(self, designs: Iterable[Design]) -> Iterator[Design]:
        """What draws did not find: all there are, or where there are too many settings to list,
        what is near to some designs.
        """
        few = math.prod(self.sizes) <= LARGEST_ENUMERATION
        return iter(self.listed()) if few else self.around(designs)

    def listed(self) -> Sequence[Design]:
        """All of them, in order; none where there are too many settings to list."""
        return () if math.prod(self.sizes) > LARGEST_ENUMERATION else self._listed

    @cached_property
    def _listed(self) -> tuple[Design, ...]:
        """Kept, as a search that comes to its end looks through them for each proposal."""
        found = map(self._make, product(*self.options.values()))
        return tuple(design for design in found if design is not None)

    def any_picks(self, rng: np.random.Generator) -> Picks:
        """An option for each choice, drawn uniformly; it may be no design."""
        indices = rng.integers(self.sizes).tolist()
        pairs = zip(self.options.items(), indices, strict=True)
        return {name: options[index] for (name, options), index in pairs}


def network_designs(
    space: SearchSpace,
    budget: int,
    limits: Mapping[str, float],
    allowed: Callable[[Architecture], bool] = lambda network: True,
) -> Designs:
    """The networks of a space within a budget of MACs. `limits` has the costs that count, and what
    of each is a share of 1. `allowed` may rule out more.
    """

    folding = [choice for choice in space.choices if choice.axis in _FOLDING]

    def describe(picks: Picks) -> Known | None:
        try:
            network = space.decode(picks)
        except ArchitectureError:
            return None
        cost = space.cost(network)
        if cost.macs > budget or not allowed(network):
            return None
        meaningless = _meaningless(folding, picks, network)
        return known_of(network, cost, limits)._replace(meaningless=meaningless)

    def reduce(picks: Picks, rng: np.random.Generator) -> Picks | None:
        try:
            space.decode(picks)
        except ArchitectureError:
            return None
        return space.descend(picks, budget, rng).picks

    return Designs(
        {choice.name: choice.options for choice in space.choices},
        describe,
        frozenset(choice.name for choice in space.choices if _is_ordered(choice)),
        {choice.name: choice.options for choice in space.before} or None,
        reduce,
    )


def known_of(network: Architecture, cost: Cost, limits: Mapping[str, float]) -> Known:
    """What is known of a network; its features are log MACs, log params and log blocks."""
    features = (cost.macs, cost.params, sum(stage.depth for stage in network.stages))
    costs = tuple(getattr(cost, name) / limit for name, limit in limits.items())
    return Known(network.id, costs, tuple(map(math.log, features)))


def _is_ordered(choice: Choice) -> bool:
    return choice.axis in _ORDERED or all(isinstance(option, int) for option in choice.options)


def _meaningless(folding: Sequence[Choice], picks: Picks, network: Architecture) -> frozenset[str]:
    """Choices whose option does not show in the network, such as the form of a gate that is not
    there: the canonical stages have another.
    """
    gated = [stage.placement != "none" for stage in network.stages]
    return frozenset(
        choice.name
        for choice in folding
        if not any(
            getattr(network.stages[i], choice.axis) == picks[choice.name]
            and (gated[i] or choice.axis not in _OF_GATES)
            for i in (range(NUM_STAGES) if choice.stage is None else (choice.stage,))
        )
    )
