"""The published family, and the two baselines of every search: GmNet scaled to the budget, and the
same without gates.
"""

from dataclasses import replace
from itertools import takewhile
from typing import Any, NamedTuple

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


def gmnet_within(
    budget: int, *, resolution: int = 224, num_classes: int = 1000, variant: str | None = None
) -> Architecture | None:
    """GmNet with the largest base width that fits the budget; None where even a base width of one
    does not.

    The layout is that of `variant`, or of the largest published variant within the budget, or of
    S1, the smallest.
    """

    def macs(architecture: Architecture) -> int:
        return cost(architecture, resolution=resolution, num_classes=num_classes).macs

    if variant is None:
        fitting = [name for name in VARIANTS if macs(gmnet(name)) <= budget]
        variant = fitting[-1] if fitting else "gmnet_s1"
    low, high = WHOLE_RANGES["base_width"]
    widths = takewhile(lambda w: macs(gmnet(variant, w)) <= budget, range(low, high + 1))
    base = max(widths, default=None)
    return None if base is None else gmnet(variant, base)


def least_macs(variant: str = "gmnet_s1") -> int:
    """What `gmnet_within` finds at the least budget, at 224 px and 1000 classes."""
    return cost(gmnet(variant, WHOLE_RANGES["base_width"][0])).macs


def with_changes(architecture: Architecture, **changes: Any) -> Architecture:
    """The same network with other values in every stage; the stem follows the activation, as it
    does in the authors' code. Raises ArchitectureError.
    """
    stages = tuple(replace(stage, **changes) for stage in architecture.stages)
    stem_activation = changes.get("activation", architecture.stem_activation)
    return replace(architecture, stages=stages, stem_activation=stem_activation)


def without_gates(architecture: Architecture) -> Architecture:
    """The same network with the plain activation in the place of every gate."""
    return with_changes(architecture, placement="none")


class Ablation(NamedTuple):
    """A published variation of GmNet-S3: what it changes, and its ImageNet top1 in the paper."""

    name: str
    changes: dict[str, str]
    top1: float


# arXiv 2503.22841: activations with s(h)·h, then forms with ReLU6. The last of each is S3 itself.
ABLATIONS = (
    Ablation("activation identity", {"activation": "identity"}, 70.5),
    Ablation("activation relu", {"activation": "relu"}, 78.3),
    Ablation("activation gelu", {"activation": "gelu"}, 78.4),
    Ablation("activation relu6", {"activation": "relu6"}, 79.3),
    Ablation("form norm", {"form": "norm"}, 78.9),
    Ablation("form dw", {"form": "dw"}, 79.0),
    Ablation("form fc", {"form": "fc"}, 79.2),
    Ablation("form self", {"form": "self"}, 79.3),
)
