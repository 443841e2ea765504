"""What is in a search space, and what a budget leaves of it: `gmsearch space FILE`."""

import math
from dataclasses import dataclass

import numpy as np

from gmsearch.architecture import Architecture
from gmsearch.interval import wilson_interval
from gmsearch.space import SearchSpace, format_size

NUM_DRAWS = 4000
NUM_SAMPLES = 3
NUM_BINS = 12
NUM_MISSES = 5_000  # draws in a row without a new network, after which a space counts as used up


@dataclass(frozen=True)
class Survey:
    """Figures about a space; share and histogram are of settings drawn uniformly, by seed."""

    space: SearchSpace
    budget: int | None
    num_networks: int
    smallest: int  # MACs, exact
    largest: int  # MACs, exact
    macs: np.ndarray  # (NUM_DRAWS,) of the drawn settings
    feasible: tuple[float, float, float] | None  # share within the budget, and its 95 % interval
    ruled_out: list[
        tuple[str, int | str, int]
    ]  # choice, option, MACs of the smallest network with it
    samples: list[Architecture]  # within the budget


def survey(space: SearchSpace, budget: int | None = None, *, seed: int = 0) -> Survey:
    """Counts, draws and measures a space; without a budget nothing is ruled out."""
    rng = np.random.default_rng(seed)
    drawn = [space.draw(rng).architecture for _ in range(NUM_DRAWS)]
    macs = np.array([space.cost(architecture).macs for architecture in drawn])
    limit = math.inf if budget is None else budget
    smallest_with = [
        (choice.name, option, space.cost(space.cheapest_with(choice, option).architecture).macs)
        for choice in space.choices
        for option in choice.options
    ]
    return Survey(
        space=space,
        budget=budget,
        num_networks=space.num_networks,
        smallest=space.cost(space.cheapest.architecture).macs,
        largest=space.cost(space.costliest.architecture).macs,
        macs=macs,
        feasible=None
        if budget is None
        else wilson_interval(int((macs <= budget).sum()), len(macs)),
        ruled_out=[row for row in smallest_with if row[2] > limit],
        samples=[a for a, m in zip(drawn, macs, strict=True) if m <= limit][:NUM_SAMPLES],
    )


def draw_within(
    space: SearchSpace, budget: int | None, count: int, *, seed: int = 0
) -> list[Architecture]:
    """Up to `count` different networks within a budget, drawn by seed; a draw over the budget is
    taken into it. More networks of one seed are the same and others; there are fewer where
    NUM_MISSES draws in a row find nothing new. The budget must not lie below the cheapest network.
    """
    rng = np.random.default_rng(seed)
    found: dict[str, Architecture] = {}
    misses = 0
    while len(found) < count and misses < NUM_MISSES:
        picks, network = space.draw(rng)
        if budget is not None and space.cost(network).macs > budget:
            network = space.descend(picks, budget, rng).architecture
        misses = misses + 1 if network.id in found else 0
        found.setdefault(network.id, network)
    return list(found.values())


def shares(result: Survey, budgets: np.ndarray) -> np.ndarray:
    """(N, 3) the share of the drawn settings within each budget, and its 95 % interval."""
    within = np.searchsorted(np.sort(result.macs), budgets, side="right")
    return np.array([wilson_interval(hits, len(result.macs)) for hits in within.tolist()])


def feasible_in_words(result: Survey, budget: int) -> str:
    """The share of the settings within a budget, with its interval where it is not known."""
    if budget >= result.largest:
        return f"budget {format_size(budget)}: every setting fits"
    share, low, high = 100 * shares(result, np.array([budget]))[0]
    return (
        f"budget {format_size(budget)}: {share:.1f} % of the settings fit "
        f"(95 % interval {low:.1f} to {high:.1f}, {len(result.macs):,} drawn)"
    )


def to_dict(result: Survey) -> dict[str, object]:
    """The figures as plain JSON types, for a program to read."""
    counts, edges = _histogram(result)
    return {
        "name": result.space.name,
        "counted_at": {
            "resolution": result.space.resolution,
            "num_classes": result.space.num_classes,
        },
        "num_networks": result.num_networks,
        "choices": {choice.name: list(choice.options) for choice in result.space.choices},
        "smallest_macs": result.smallest,
        "largest_macs": result.largest,
        "budget": result.budget,
        "feasible": dict(zip(("share", "low", "high"), result.feasible, strict=True))
        if result.feasible
        else None,
        "num_draws": len(result.macs),
        "histogram": {"edges": edges.tolist(), "counts": counts.tolist()},
        "ruled_out": [
            dict(zip(("choice", "option", "smallest_macs"), row, strict=True))
            for row in result.ruled_out
        ],
        "samples": [
            {"id": a.id, "macs": result.space.cost(a).macs, "architecture": a.to_dict()}
            for a in result.samples
        ],
    }


def to_text(result: Survey) -> str:
    """The figures for people."""
    space = result.space
    lines = [
        f"space '{space.name}': {_count(result.num_networks)} networks, from "
        f"{format_size(result.smallest)} to {format_size(result.largest)} MACs "
        f"(at {space.resolution} px and {space.num_classes} classes)",
        "",
        *_choice_lines(space),
        "",
        *_histogram_lines(result),
    ]
    if result.budget is not None:
        lines += ["", feasible_in_words(result, result.budget), *_ruled_out_lines(result)]
    if result.samples:
        lines += ["", "for example" + (", within the budget" if result.budget else "")]
    for architecture in result.samples:
        macs = format_size(space.cost(architecture).macs)
        lines.append(f"  {architecture.id}  {macs:>6}  {architecture.layout_in_words()}")
        lines.append(f"  {'':10}  {'':6}  {architecture.in_words()}")
    return "\n".join(lines)


def _count(number: int) -> str:
    return f"{number:,}" if number < 1e9 else f"{number:.2g}".replace("e+", "e")


def _choice_lines(space: SearchSpace) -> list[str]:
    """A line for each axis; stages with the same options together."""
    rows: dict[tuple[str, tuple[int | str, ...]], list[str]] = {}
    for choice in space.choices:
        where = "network" if choice.stage is None else f"stage {choice.stage + 1}"
        rows.setdefault((choice.axis, choice.options), []).append(where)
    return [
        f"  {axis:<12} {_stages(where):<12} {', '.join(map(str, options))}"
        for (axis, options), where in sorted(rows.items(), key=lambda row: row[0][0])
    ]


def _stages(where: list[str]) -> str:
    return "each stage" if len(where) == 4 else ", ".join(where)


def _histogram(result: Survey) -> tuple[np.ndarray, np.ndarray]:
    edges = np.geomspace(result.smallest, result.largest * (1 + 1e-9), NUM_BINS + 1)
    return np.histogram(result.macs, edges)[0], edges


def _histogram_lines(result: Survey) -> list[str]:
    """MACs of the drawn settings, as bars; the budget is a line between them."""
    counts, edges = _histogram(result)
    lines = []
    for count, low, high in zip(counts, edges, edges[1:], strict=False):
        share = 100 * count / len(result.macs)
        bar = "█" * round(40 * count / max(counts))
        mark = "  ◀ budget" if result.budget is not None and low <= result.budget < high else ""
        label = f"{format_size(low):>6} to {format_size(high):<6}"
        lines.append(f"  {label} {share:5.1f} %  {bar}{mark}".rstrip())
    return lines


def _ruled_out_lines(result: Survey) -> list[str]:
    if not result.ruled_out:
        return ["it rules out no option: each fits in some network"]
    return [
        "it rules out:",
        *(
            f"  {name} = {option}: the smallest network with it has {format_size(macs)} MACs"
            for name, option, macs in result.ruled_out
        ),
    ]
