"""The designs that a search chooses from: a pool that is drawn, and neighbours of the best."""

from collections.abc import Collection, Iterable, Mapping, Sequence
from itertools import islice

import numpy as np

from gmsearch.designs import Design, Designs
from gmsearch.outlook import Observation, Outlooks, Worth

POOL = 1500  # designs that are drawn at once
RENEWAL = 1000  # designs that are known, after which others are drawn
NUM_SCORED = 400  # of these, drawn for each proposal
NUM_PARENTS = 20
NUM_CHILDREN = 5  # of each parent, in each round
NUM_ROUNDS = 2  # of children, the second of the best of the first
NUM_NEAR = 12  # designs nearest to a cost, among which the spread start draws
LEAST_COST = 1e-6  # of what is allowed, below which costs are alike


class Candidates:
    """What a search may draw; that depends on the seed."""

    def __init__(self, designs: Designs, seed: int) -> None:
        self._designs = designs
        self._seed = seed
        self._pools: dict[int, list[Design]] = {}

    def pool(self, age: int) -> list[Design]:
        """Designs to choose from; fewer where the space has fewer. Others of another age."""
        if age not in self._pools:
            self._pools = {age: _drawn(self._designs, np.random.default_rng([self._seed, age]))}
        return self._pools[age]

    def undiminished(self) -> list[Design]:
        """The first pool, or where the space was narrowed one of all that there ever was."""
        if self._designs.declared is None:
            return self.pool(0)
        return _drawn(self._designs.undiminished, np.random.default_rng([self._seed, 0]))

    def is_of_space(self, design: Design) -> bool:
        """Whether it is modelled, and not outside of a space that was narrowed."""
        is_whole = self._designs.declared is None
        return bool(design.row) and (
            is_whole or self._designs.still_allowed(design.picks) == design.picks
        )

    def fresh(self, known: Mapping[str, Observation]) -> list[Design]:
        """Designs to choose from, none of them known."""
        pool = self.pool(len(known) // RENEWAL)
        fresh = [design for design in pool if design.known.id not in known]
        if len(fresh) < NUM_SCORED:
            taken = [s.design for s in known.values() if self.is_of_space(s.design)]
            met = {design.known.id for design in fresh} | set(known)
            others = (d for d in self._designs.others(pool + taken) if d.known.id not in met)
            fresh += islice(others, NUM_SCORED - len(fresh))
        return fresh

    def spread(
        self, fresh: Sequence[Design], known: Iterable[Design], rng: np.random.Generator
    ) -> Design:
        """One of some in the widest gap between the costs that are known, on a logarithmic
        scale.
        """
        costs = _log(fresh)
        ends = [costs.min() - 1e-9, costs.max() + 1e-9]
        edges = np.unique(np.clip([*ends, *_log(known)], *ends))
        widest = int(np.argmax(np.diff(edges)))
        middle = (edges[widest] + edges[widest + 1]) / 2
        nearest = np.argsort(abs(costs - middle), kind="stable")[:NUM_NEAR]
        return fresh[int(rng.choice(nearest))]

    def scored(
        self,
        outlook: Outlooks,
        fresh: Sequence[Design],
        known: Collection[str],
        rng: np.random.Generator,
    ) -> list[Worth]:
        """Some of those to choose from, neighbours of the front and neighbours of the best so
        far, and what each is worth.
        """
        scored = rng.choice(len(fresh), min(NUM_SCORED, len(fresh)), replace=False)
        worths = outlook.worths([Observation(fresh[i]) for i in sorted(scored.tolist())])
        parents = outlook.front(NUM_PARENTS // 2)
        for _ in range(NUM_ROUNDS):
            worths.sort(key=lambda worth: -worth.gain)
            parents = parents + [worth.design for worth in worths[: NUM_PARENTS - len(parents)]]
            met = {*known, *(worth.design.known.id for worth in worths)}
            born = [self._designs.mutate(p, rng) for p in parents for _ in range(NUM_CHILDREN)]
            children = {c.known.id: c for c in born if c is not None and c.known.id not in met}
            worths += outlook.worths([Observation(child) for child in children.values()])
            parents = []
        return worths


def _drawn(designs: Designs, rng: np.random.Generator) -> list[Design]:
    """Different designs of as many draws as make a pool; where few are allowed, others too."""
    drawn = (designs.draw(rng) for _ in range(POOL))
    found = {design.known.id: design for design in drawn if design is not None}
    if len(found) < NUM_SCORED:
        others = islice(designs.others(list(found.values())), NUM_SCORED)
        found |= {design.known.id: design for design in others}
    return list(found.values())


def _log(designs: Iterable[Design]) -> np.ndarray:
    """Their costs, as shares of what is allowed; one of nothing is as small as can be told."""
    costs = np.array([design.known.costs[0] for design in designs], float)
    return np.log(np.maximum(costs, LEAST_COST))
