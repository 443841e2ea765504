"""What an architecture costs, in closed form: instantly, exactly, without building it.

The convention is that of the published tables and of fvcore: one multiply-add counts as one, and
`macs` are those of convolutions and linear layers at the resolution where the budget is counted.
Norms, activations, gate products and the residual sum have no MACs, but they have parameters and
they move memory, so they have rows of their own.
"""

from collections.abc import Iterable, Iterator
from functools import lru_cache
from typing import NamedTuple

from gmsearch.architecture import FORMS, Architecture, Stage


class LayerCost(NamedTuple):
    """One layer for one image. `activations` are the elements it writes: times 4 bytes in fp32, 2
    in bf16.
    """

    name: str  # as in the network's state dict
    kind: str  # conv, linear, norm, activation, gate, scale, sum or pool
    macs: int
    params: int
    activations: int


class Cost(NamedTuple):
    """Totals of a network for one image.

    `activations` are the outputs of convolutions and linear layers alone, the convention of pycls
    and fvcore, so that any two networks compare; `memory` are the elements that all layers
    write, the gates' included; an identity counts as the activation that it stands for.
    """

    macs: int
    params: int
    activations: int
    memory: int


def cost(architecture: Architecture, *, resolution: int = 224, num_classes: int = 1000) -> Cost:
    """MACs, parameters and activations of a network on square images of `resolution` pixels.

    The cost of a stage is remembered, so a pool of architectures that share stages is counted at a
    few microseconds each.
    """
    side = halved(resolution)
    width = architecture.stem_width
    macs, params, activations, memory = _stem_cost(width, side)
    for stage in architecture.stages:
        side = halved(side)
        part = stage_cost(stage, width, side)
        macs += part[0]
        params += part[1]
        activations += part[2]
        memory += part[3]
        width = stage.width
    part = _head_cost(width, side, num_classes)
    return Cost(macs + part[0], params + part[1], activations + part[2], memory + part[3])


def ledger(
    architecture: Architecture, *, resolution: int = 224, num_classes: int = 1000
) -> list[LayerCost]:
    """The cost of every layer, in the order in which they run."""
    side = halved(resolution)
    width = architecture.stem_width
    rows = list(_stem(width, side))
    for index, stage in enumerate(architecture.stages):
        side = halved(side)
        rows += _stage(stage, width, side, f"stages.{index}")
        width = stage.width
    rows += _head(width, side, num_classes)
    return rows


def total(rows: Iterable[LayerCost]) -> Cost:
    """The sum of a ledger's rows."""
    macs = params = activations = memory = 0
    for row in rows:
        macs += row.macs
        params += row.params
        memory += row.activations
        if row.kind in ("conv", "linear"):
            activations += row.activations
    return Cost(macs, params, activations, memory)


def halved(side: int) -> int:
    """The side of a feature map after a 3x3 convolution of stride 2 with padding 1."""
    return (side + 1) // 2


@lru_cache(maxsize=1 << 10)
def _stem_cost(width: int, side: int) -> Cost:
    return total(_stem(width, side))


@lru_cache(maxsize=1 << 17)
def stage_cost(stage: Stage, in_width: int, side: int) -> Cost:
    """Totals of a stage on feature maps of `in_width` channels; `side` is that of its blocks.

    All gated blocks of a stage cost the same, and so do all others: one of each is counted.
    """
    num_gated = sum(stage.gated)
    parts = [
        (1, _downsampler_cost(stage.downsampler, in_width, stage.width, side)),
        (num_gated, _block_cost(*_block_shape(stage, gated=True), side)),
        (stage.depth - num_gated, _block_cost(*_block_shape(stage, gated=False), side)),
    ]
    return Cost(*(sum(count * part[column] for count, part in parts) for column in range(4)))


@lru_cache(maxsize=1 << 14)
def _downsampler_cost(kind: str, in_width: int, width: int, side: int) -> Cost:
    return total(_downsampler(kind, in_width, width, side, ""))


@lru_cache(maxsize=1 << 16)
def _block_cost(width: int, ratio: int, kernel: int, placement: str, form: str, side: int) -> Cost:
    return total(_block(width, ratio, kernel, placement, form, side, ""))


@lru_cache(maxsize=1 << 10)
def _head_cost(width: int, side: int, num_classes: int) -> Cost:
    return total(_head(width, side, num_classes))


def _conv(
    name: str, width_in: int, width: int, kernel: int, side: int, groups: int = 1
) -> LayerCost:
    weights = width_in // groups * width * kernel**2
    return LayerCost(name, "conv", weights * side**2, weights + width, width * side**2)


def _norm(name: str, width: int, side: int) -> LayerCost:
    return LayerCost(name, "norm", 0, 2 * width, width * side**2)


def _elementwise(name: str, kind: str, width: int, side: int, params: int = 0) -> LayerCost:
    return LayerCost(name, kind, 0, params, width * side**2)


def _stem(width: int, side: int) -> Iterator[LayerCost]:
    yield _conv("stem.0.conv", 3, width, 3, side)
    yield _norm("stem.0.bn", width, side)
    yield _elementwise("stem.1", "activation", width, side)


def _head(width: int, side: int, num_classes: int) -> Iterator[LayerCost]:
    yield _norm("norm", width, side)
    yield LayerCost("global_pool", "pool", 0, 0, width)
    yield LayerCost("head", "linear", width * num_classes, (width + 1) * num_classes, num_classes)


def _stage(stage: Stage, in_width: int, side: int, name: str) -> Iterator[LayerCost]:
    yield from _downsampler(stage.downsampler, in_width, stage.width, side, f"{name}.0")
    for index, gated in enumerate(stage.gated, start=1):
        yield from _block(*_block_shape(stage, gated), side, f"{name}.{index}")


def _block_shape(stage: Stage, gated: bool) -> tuple[int, int, int, str, str]:
    """All that the cost of a block hangs on, beside the side of its feature maps."""
    placement = stage.placement if gated else "none"
    return stage.width, stage.ratio, stage.kernel, placement, stage.form


def _downsampler(kind: str, in_width: int, width: int, side: int, name: str) -> Iterator[LayerCost]:
    if kind == "separable":
        yield _conv(f"{name}.0.conv", in_width, in_width, 3, side, groups=in_width)
        yield _norm(f"{name}.0.bn", in_width, side)
        yield _conv(f"{name}.1.conv", in_width, width, 1, side)
        yield _norm(f"{name}.1.bn", width, side)
    else:
        yield _conv(f"{name}.0.conv", in_width, width, 3, side)
        yield _norm(f"{name}.0.bn", width, side)


def _block(
    width: int, ratio: int, kernel: int, placement: str, form: str, side: int, name: str
) -> Iterator[LayerCost]:
    hidden = width * ratio
    yield _conv(f"{name}.dwconv.conv", width, width, kernel, side, groups=width)
    yield _norm(f"{name}.dwconv.bn", width, side)
    if placement == "spatial":
        yield from _gate(form, width, side, f"{name}.spatial")
    yield _conv(f"{name}.f1.conv", width, hidden, 1, side)
    if placement == "expand":
        if FORMS[form].projections == 2:
            yield _conv(f"{name}.f2.conv", width, hidden, 1, side)
        yield from _gate(form, hidden, side, f"{name}.expand")
    else:
        yield _elementwise(f"{name}.expand", "activation", hidden, side)
    yield _conv(f"{name}.g.conv", hidden, width, 1, side)
    yield _norm(f"{name}.g.bn", width, side)
    yield _conv(f"{name}.dwconv2.conv", width, width, kernel, side, groups=width)
    if placement == "output":
        yield from _gate(form, width, side, f"{name}.output")
    yield _elementwise(f"{name}.gamma", "scale", width, side, params=width)
    yield _elementwise(f"{name}.add", "sum", width, side)


def _gate(form_name: str, width: int, side: int, name: str) -> Iterator[LayerCost]:
    form = FORMS[form_name]
    yield from OPERATORS[form.gate](f"{name}.gate", width, side)
    gate_side = 1 if form.gate.startswith("pool") else side
    yield _elementwise(f"{name}.act", "activation", width, gate_side)
    yield from OPERATORS[form.value](f"{name}.value", width, side)
    yield _elementwise(name, "gate", width, side)


def _pool_linear(name: str, width: int, side: int) -> Iterator[LayerCost]:
    yield LayerCost(f"{name}.0", "pool", 0, 0, width)
    yield _conv(f"{name}.1", width, width, 1, 1)


# The cost of an operator that a gate form may use; `gates.OPERATORS` has the module of the same
# name.
OPERATORS = {
    "same": lambda name, width, side: iter(()),
    "norm": lambda name, width, side: iter([_norm(name, width, side)]),
    "dw3x3": lambda name, width, side: iter([_conv(name, width, width, 3, side, groups=width)]),
    "linear": lambda name, width, side: iter([_conv(name, width, width, 1, side)]),
    "pool_linear": _pool_linear,
}
