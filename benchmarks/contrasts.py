"""How often the intervals and verdicts of `gmsearch reproduce` are right, on made-up results.

    python benchmarks/contrasts.py

Tables of 15 networks and 27 planned contrasts: an image is hard for all networks and harder for
some, a seed is luckier than another, and the luck of one network may be larger than that of others.
In the last cases a part of the luck is of the seed, the same for all networks, as of the order of
data. Prints the share of 95 % intervals that hold the truth, and the share of tables of equal
networks in which Holm's correction lets any contrast pass.
"""

import argparse

import numpy as np
from scipy import stats

from gmsearch.contrasts import contrast, holm, pooled_spread

NETWORKS, SHARED, OWN = 15, 1.5, 1.0
PAIRS = [(i, j) for i in range(NETWORKS) for j in range(i)][::4]
CASES = (  # seeds, images, the luck of the steadiest network and the least steady, what is shared
    (2, 500, 0.1, 0.1, 0.0),
    (3, 500, 0.1, 0.1, 0.0),
    (3, 500, 0.05, 0.3, 0.0),
    (5, 2000, 0.1, 0.1, 0.0),
    (2, 200, 0.02, 0.4, 0.0),
    (3, 500, 0.1, 0.1, 0.5),
    (3, 500, 0.1, 0.1, 0.9),
)


def made_up(
    rng: np.random.Generator,
    levels: np.ndarray,
    luck: np.ndarray,
    seeds: int,
    images: int,
    shared: float,
) -> np.ndarray:
    """Hits (networks, seeds, images)."""
    latent = (
        levels[:, None, None]
        + SHARED * rng.standard_normal(images)
        + OWN * rng.standard_normal((NETWORKS, 1, images))
        + luck[:, None, None] * lucky(rng, seeds, shared)
        + rng.standard_normal((NETWORKS, seeds, images))
    )
    return latent > 0


def lucky(rng: np.random.Generator, seeds: int, shared: float) -> np.ndarray:
    """Standard normal luck (networks, seeds, 1), of whose variance a part is that of the seed for
    all networks.
    """
    own = rng.standard_normal((NETWORKS, seeds, 1))
    if not shared:
        return own
    return shared**0.5 * rng.standard_normal((seeds, 1)) + (1 - shared) ** 0.5 * own


def measure(case: tuple[int, int, float, float, float], tables: int) -> tuple[float, float, float]:
    """Coverage, false alarms among tables of equal networks, and the mean half width."""
    seeds, images, steady, unsteady, shared = case
    rng, luck = np.random.default_rng(0), np.linspace(steady, unsteady, NETWORKS)
    levels = np.linspace(-1.5, 1.0, NETWORKS)
    truth = 100 * stats.norm.cdf(levels / np.sqrt(SHARED**2 + OWN**2 + luck**2 + 1))
    inside, widths, alarms = [], [], 0
    for _ in range(tables):
        hits = made_up(rng, levels, luck, seeds, images, shared)
        spread = pooled_spread(hits)
        for i, j in PAIRS:
            found = contrast(hits[i], hits[j], spread)
            inside.append(found.low <= truth[i] - truth[j] <= found.high)
            widths.append((found.high - found.low) / 2)
        equal = made_up(rng, np.zeros(NETWORKS), luck, seeds, images, shared)
        spread = pooled_spread(equal)
        alarms += min(holm([contrast(equal[i], equal[j], spread).p for i, j in PAIRS])) < 0.05
    return float(np.mean(inside)), alarms / tables, float(np.mean(widths))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--tables", type=int, default=300)
    tables = parser.parse_args().tables
    for case in CASES:
        coverage, alarms, width = measure(case, tables)
        seeds, images, steady, unsteady, shared = case
        of_all = f", {shared:.0%} of it of all" if shared else ""
        print(
            f"{seeds} seeds, {images} images, luck {steady:g} to {unsteady:g}{of_all}: coverage "
            f"{coverage:.1%}, false alarms in {alarms:.1%} of tables, intervals ± {width:.1f}",
            flush=True,
        )


if __name__ == "__main__":
    main()
