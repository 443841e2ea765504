"""How far a share that was counted can be trusted."""

import math


def wilson_interval(hits: int, draws: int, z: float = 1.96) -> tuple[float, float, float]:
    """(share, low, high): a binomial share with its 95 % interval (Wilson 1927), sound also at 0
    and 1.
    """
    share = hits / draws
    centre = (share + z**2 / (2 * draws)) / (1 + z**2 / draws)
    half = z * math.sqrt(share * (1 - share) / draws + z**2 / (4 * draws**2)) / (1 + z**2 / draws)
    return share, max(0.0, centre - half), min(1.0, centre + half)
