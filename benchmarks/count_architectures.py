"""How many architectures per second the closed form counts on one core, beside fvcore.

    python benchmarks/count_architectures.py

Architectures are drawn before the clock starts: what is timed is counting alone. fvcore has to
build a network and run it once, so its time holds both. The MACs of the networks that fvcore
counts must be equal to ours, or the program ends with exit code 1.
"""

import argparse
import json
import sys
import time
import warnings
from collections.abc import Sequence
from pathlib import Path
from statistics import median

import numpy as np
import torch

from gmsearch import cost as costs
from gmsearch.architecture import NUM_STAGES, Architecture, Stage
from gmsearch.cost import cost
from gmsearch.model import build
from gmsearch.space import SearchSpace
from gmsearch.space_file import read_space

GATED = Path(__file__).parents[1] / "search_spaces" / "gated.yaml"


def main() -> int:
    arguments = parse_arguments()
    torch.set_num_threads(1)
    space = read_space(arguments.space)
    rng = np.random.default_rng(arguments.seed)
    fresh = draw_fresh(space, arguments.fresh, rng)
    pool = draw_pool(space, arguments.pool, arguments.stages, rng)
    repeats = range(arguments.repeats)

    cold = [count_rate(space, fresh, clear=True) for _ in repeats]
    first = [count_rate(space, pool, clear=True) for _ in repeats]
    warm = [count_rate(space, pool, clear=False) for _ in repeats]
    sample = pool[: arguments.fvcore]
    fvcore_rate, unequal = compare_with_fvcore(space, sample)
    ratio = median(warm) / fvcore_rate

    rows = [
        ("gmsearch: every stage new", len(fresh), cold),
        ("gmsearch: a pool that shares stages, first pass", len(pool), first),
        ("gmsearch: the same pool again", len(pool), warm),
        ("fvcore: network built, run once and counted", len(sample), [fvcore_rate]),
    ]
    print(f"Counting networks of '{space.name}' at {space.resolution} px on one core\n")
    print(f"{'':48}{'networks':>9}{'per second':>13}   min-max of {len(repeats)}")
    for name, num, rates in rows:
        spread = f"{min(rates):,.0f}-{max(rates):,.0f}" if len(rates) > 1 else ""
        digits = 0 if median(rates) >= 100 else 1
        print(f"{name:48}{num:>9,}{median(rates):>13,.{digits}f}   {spread}")
    print(f"\nthe pool has {arguments.stages} different stages at each of {NUM_STAGES} places")
    print(f"the pool again against fvcore: {ratio:,.0f} times as fast")
    num_equal = len(sample) - len(unequal)
    print(f"conv and linear MACs equal to fvcore's: {num_equal} of {len(sample)}")
    for line in unequal:
        print(line, file=sys.stderr)
    if arguments.json:
        result = {
            "space": space.name,
            "resolution": space.resolution,
            "seed": arguments.seed,
            "stages_per_place": arguments.stages,
            "rows": [{"what": name, "networks": n, "per_second": r} for name, n, r in rows],
            "ratio_to_fvcore": ratio,
            "equal_macs": num_equal,
        }
        arguments.json.write_text(json.dumps(result, indent=2) + "\n")
    return 1 if unequal else 0


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--space", type=Path, default=GATED, metavar="FILE", help="of the space")
    parser.add_argument("--fresh", type=int, default=2_000, help="networks of new stages")
    parser.add_argument("--pool", type=int, default=20_000, help="networks that share stages")
    parser.add_argument("--stages", type=int, default=32, help="of the pool, for each place")
    parser.add_argument("--fvcore", type=int, default=8, help="networks that fvcore counts")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures there")
    return parser.parse_args()


def draw_fresh(space: SearchSpace, num: int, rng: np.random.Generator) -> list[Architecture]:
    """Networks drawn uniformly, less those with a stage that one before has."""
    seen: set[Stage] = set()
    fresh = []
    while len(fresh) < num:
        architecture = space.draw(rng).architecture
        if seen.isdisjoint(architecture.stages):
            seen.update(architecture.stages)
            fresh.append(architecture)
    return fresh


def draw_pool(
    space: SearchSpace, num: int, num_stages: int, rng: np.random.Generator
) -> list[Architecture]:
    """Random combinations of `num_stages` stages for each place, which they share as objects."""
    places: list[dict[Stage, None]] = [{} for _ in range(NUM_STAGES)]  # in the order drawn
    stems = []
    while min(map(len, places)) < num_stages:
        architecture = space.draw(rng).architecture
        stems.append((architecture.stem_width, architecture.stem_activation))
        for stages, stage in zip(places, architecture.stages, strict=True):
            if len(stages) < num_stages:
                stages[stage] = None
    options = [list(stages) for stages in places]
    pool = []
    for picks in rng.integers(num_stages, size=(num, NUM_STAGES)).tolist():
        width, activation = stems[rng.integers(len(stems))]
        stages = tuple(place[pick] for place, pick in zip(options, picks, strict=True))
        pool.append(Architecture(stem_width=width, stem_activation=activation, stages=stages))
    return pool


def count_rate(space: SearchSpace, architectures: Sequence[Architecture], *, clear: bool) -> float:
    """Architectures counted per second, after forgetting all costs or not."""
    if clear:
        for remembered in (costs._stem_cost, costs.stage_cost, costs._head_cost):
            remembered.cache_clear()
    began = time.perf_counter()
    for architecture in architectures:
        cost(architecture, resolution=space.resolution, num_classes=space.num_classes)
    return len(architectures) / (time.perf_counter() - began)


def compare_with_fvcore(
    space: SearchSpace, architectures: Sequence[Architecture]
) -> tuple[float, list[str]]:
    """fvcore's architectures per second, and a line for each whose MACs are not ours."""
    fvcore_macs(space, architectures[0])  # what is loaded at first use is not timed
    began = time.perf_counter()
    theirs = [fvcore_macs(space, architecture) for architecture in architectures]
    rate = len(architectures) / (time.perf_counter() - began)
    ours = [space.cost(architecture).macs for architecture in architectures]
    unequal = [
        f"{architecture.id}: {our:,} MACs, fvcore counts {their:,}"
        for architecture, our, their in zip(architectures, ours, theirs, strict=True)
        if our != their
    ]
    return rate, unequal


def fvcore_macs(space: SearchSpace, architecture: Architecture) -> int:
    """Conv and linear MACs of the built network; fvcore counts norms and pooling beside them."""
    model = build(architecture, space.num_classes).eval()
    image = torch.zeros(1, 3, space.resolution, space.resolution)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it uses parts of torch.jit that torch deprecates
        from fvcore.nn import FlopCountAnalysis

        counter = FlopCountAnalysis(model, image)
        counter.unsupported_ops_warnings(False).uncalled_modules_warnings(False)
        by_operator = counter.by_operator()
    return int(by_operator["conv"] + by_operator["linear"])


if __name__ == "__main__":
    sys.exit(main())
