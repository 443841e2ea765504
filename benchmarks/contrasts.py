"""How often the intervals and verdicts of `gmsearch reproduce` are right, on made-up results.

    python benchmarks/contrasts.py

Tables of 15 networks and 27 planned contrasts: an image is hard for all networks and harder for
some, a seed is luckier than another, and the luck of one network may be larger than that of others.
Prints the share of 95 % intervals that hold the truth, and the share of tables of equal networks
in which Holm's correction lets any contrast pass.
"""

import argparse

import numpy as np
from scipy import stats

from gmsearch.contrasts import contrast, holm, pooled_spread

NETWORKS, SHARED, OWN = 15, 1.5, 1.0
PAIRS = [(i, j) for i in range(NETWORKS) for j in range(i)][::4]
CASES = (  # seeds, images, the luck of the steadiest network and of the least steady one
    (2, 500, 0.1, 0.1),
    (3, 500, 0.1, 0.1),
    (3, 500, 0.05, 0.3),
    (5, 2000, 0.1, 0.1),
    (2, 200, 0.02, 0.4),
)


def made_up(
    rng: np.random.Generator, levels: np.ndarray, luck: np.ndarray, seeds: int, images: int
) -> np.ndarray:
    """Hits (networks, seeds, images)."""
    latent = (
        levels[:, None, None]
        + SHARED * rng.standard_normal(images)
        + OWN * rng.standard_normal((NETWORKS, 1, images))
        + luck[:, None, None] * rng.standard_normal((NETWORKS, seeds, 1))
        + rng.standard_normal((NETWORKS, seeds, images))
    )
    return latent > 0


def measure(case: tuple[int, int, float, float], tables: int) -> tuple[float, float, float]:
    """Coverage, false alarms among tables of equal networks, and the mean half width."""
    seeds, images, steady, unsteady = case
    rng, luck = np.random.default_rng(0), np.linspace(steady, unsteady, NETWORKS)
    levels = np.linspace(-1.5, 1.0, NETWORKS)
    truth = 100 * stats.norm.cdf(levels / np.sqrt(SHARED**2 + OWN**2 + luck**2 + 1))
    inside, widths, alarms = [], [], 0
    for _ in range(tables):
        hits = made_up(rng, levels, luck, seeds, images)
        spread = pooled_spread(hits)
        for i, j in PAIRS:
            found = contrast(hits[i], hits[j], spread)
            inside.append(found.low <= truth[i] - truth[j] <= found.high)
            widths.append((found.high - found.low) / 2)
        equal = made_up(rng, np.zeros(NETWORKS), luck, seeds, images)
        spread = pooled_spread(equal)
        alarms += min(holm([contrast(equal[i], equal[j], spread).p for i, j in PAIRS])) < 0.05
    return float(np.mean(inside)), alarms / tables, float(np.mean(widths))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--tables", type=int, default=300)
    tables = parser.parse_args().tables
    for case in CASES:
        coverage, alarms, width = measure(case, tables)
        seeds, images, steady, unsteady = case
        print(
            f"{seeds} seeds, {images} images, luck {steady:g} to {unsteady:g}: coverage "
            f"{coverage:.1%}, false alarms in {alarms:.1%} of tables, intervals ± {width:.1f}",
            flush=True,
        )


if __name__ == "__main__":
    main()
