"""The published family, and the two baselines of every search: GmNet scaled to the budget, and the
same without gates.
"""

from dataclasses import replace
from itertools import takewhile

from gmsearch.architecture import NUM_STAGES, WHOLE_RANGES, Architecture, Stage
from gmsearch.cost import cost

# name: (base width, depths, ratios). S3 is in the authors' code (gment.py); the layouts of S1, S2
# and S4 are the ones whose parameters and MACs match the published figures to rounding.
VARIANTS = {
    "gmnet_s1": (40, (2, 2, 10, 2), (3, 3, 3, 2)),
    "gmnet_s2": (48, (2, 2, 8, 3), (3, 3, 3, 3)),
    "gmnet_s3": (48, (3, 3, 8, 3), (4, 4, 4, 4)),
    "gmnet_s4": (68, (3, 3, 11, 3), (4, 4, 4, 4)),
}


def gmnet(variant: str, base_width: int | None = None) -> Architecture:
    """A variant of GmNet, as published or with another base width; stages are base x 1, 2, 4, 8
    wide.
    """
    published_width, depths, ratios = VARIANTS[variant]
    base = base_width or published_width
    stages = (
        Stage(width=base << stage, depth=depths[stage], ratio=ratios[stage])
        for stage in range(NUM_STAGES)
    )
    return Architecture(stem_width=32, stem_activation="relu6", stages=tuple(stages))


def gmnet_within(budget: int, *, resolution: int, num_classes: int) -> Architecture | None:
    """GmNet with the largest base width that fits the budget; None where even a base width of one
    does not.

    The layout is that of the largest published variant within the budget, or of S1, the smallest.
    """

    def macs(architecture: Architecture) -> int:
        return cost(architecture, resolution=resolution, num_classes=num_classes).macs

    fitting = [variant for variant in VARIANTS if macs(gmnet(variant)) <= budget]
    variant = fitting[-1] if fitting else "gmnet_s1"
    low, high = WHOLE_RANGES["base_width"]
    widths = takewhile(lambda w: macs(gmnet(variant, w)) <= budget, range(low, high + 1))
    base = max(widths, default=None)
    return None if base is None else gmnet(variant, base)


def without_gates(architecture: Architecture) -> Architecture:
    """The same network with the plain activation in the place of every gate."""
    stages = tuple(replace(stage, placement="none") for stage in architecture.stages)
    return replace(architecture, stages=stages)
