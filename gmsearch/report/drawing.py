"""An architecture as a block diagram: a row for each stage, with its block and its gate."""

from collections.abc import Iterator
from typing import TYPE_CHECKING, NamedTuple

from gmsearch.architecture import FORMS, Architecture, Stage
from gmsearch.cost import halved, ledger
from gmsearch.figure_file import new_figure
from gmsearch.history import History
from gmsearch.palette import BLUE, ORANGE
from gmsearch.record import TrialRecord
from gmsearch.space import format_size

if TYPE_CHECKING:
    from gmsearch.figure_file import Axes, Figure

NUM_DRAWN = 3
PLAIN, GATE, ACTIVATION, INK = "#f2f2f2", BLUE, ORANGE, "0.25"
WIDTH, ROW = 9.0, 0.95  # of the drawing and of a stage, in inches
LEFT, GAP, HEIGHT = 2.6, 0.14, 0.42  # of the labels, between boxes and of boxes, in inches


class Box(NamedTuple):
    """A step of a block."""

    words: str
    colour: str
    inches: float


def draw_best(history: History) -> Iterator[tuple[TrialRecord, "Figure"]]:
    """The first NUM_DRAWN of the front."""
    space = history.space
    for record in history.front[:NUM_DRAWN]:
        if isinstance(record.network, Architecture):
            yield (
                record,
                draw(record.network, resolution=space.resolution, num_classes=space.num_classes),
            )


def draw(architecture: Architecture, *, resolution: int, num_classes: int) -> "Figure":
    """The stem, the four stages and the head, from top to bottom, with sizes at `resolution` px.

    A gate is blue, a plain activation orange; a dotted line is the residual path of a block.
    """
    height = ROW * len(architecture.stages) + 1.0
    figure = new_figure(WIDTH, height, layout="none")
    axes = figure.add_axes((0, 0, 1, 1))
    axes.set(xlim=(0, WIDTH), ylim=(-height, 0))
    axes.set_axis_off()
    costs = ledger(architecture, resolution=resolution, num_classes=num_classes)
    whole = sum(row.macs for row in costs)
    side = halved(resolution)
    stem = f"3x3, {architecture.stem_width} channels, {architecture.stem_activation}, {side} px"
    _write(axes, -0.3, "stem", stem)
    for index, stage in enumerate(architecture.stages):
        side = halved(side)
        macs = sum(row.macs for row in costs if row.name.startswith(f"stages.{index}."))
        blocks = "1 block" if stage.depth == 1 else f"{stage.depth} blocks"
        top = -0.8 - ROW * index
        _write(
            axes,
            top,
            f"stage {index + 1}",
            f"{stage.width} channels, {blocks}, {side} px",
            f"{format_size(macs)} MACs, {macs / whole:.0%}; {stage.downsampler} down-sampler",
        )
        _draw_block(axes, stage, top - 0.2)
    _write(axes, 0.25 - height, "head", f"norm, mean over {side} px, {num_classes:,} classes")
    return figure


def _write(axes: "Axes", y: float, name: str, words: str, more: str = "") -> None:
    """The label of a part: its name, what it is, and what it costs."""
    if not more:
        axes.text(0.1, y, f"{name}: {words}", fontsize=9, color=INK, va="center")
        return
    axes.text(0.1, y, name, fontsize=9, weight="bold", va="center")
    axes.text(0.1, y - 0.22, words, fontsize=8, color=INK, va="center")
    axes.text(0.1, y - 0.42, more, fontsize=7, color=INK, va="center")


def _draw_block(axes: "Axes", stage: Stage, y: float) -> None:
    """The steps of a stage's gated block from left to right, or of its plain one."""
    from matplotlib.patches import FancyBboxPatch

    x = LEFT + 0.25
    axes.plot([LEFT, x], [y, y], color=INK, lw=0.8)
    start = x - 0.12
    for box in steps(stage):
        patch = FancyBboxPatch(
            (x, y - HEIGHT / 2),
            box.inches,
            HEIGHT,
            boxstyle="round,pad=0,rounding_size=0.06",
            facecolor=box.colour,
            edgecolor=INK,
            linewidth=0.7,
        )
        axes.add_patch(patch)
        axes.text(
            x + box.inches / 2,
            y,
            box.words,
            fontsize=7.5,
            ha="center",
            va="center",
            color="white" if box.colour == GATE else "black",
        )
        axes.plot([x + box.inches, x + box.inches + GAP], [y, y], color=INK, lw=0.8)
        x += box.inches + GAP
    axes.text(x + 0.06, y, "+", fontsize=10, ha="center", va="center", color=INK)
    around = y + HEIGHT / 2 + 0.1
    axes.plot(
        [start, start, x + 0.06, x + 0.06], [y, around, around, y + 0.08], ":", color=INK, lw=1
    )
    if note := which(stage):
        axes.text(LEFT + 0.25, y - HEIGHT / 2 - 0.12, note, fontsize=7, color=INK, va="center")


def steps(stage: Stage) -> Iterator[Box]:
    """What a block does in turn, the gate where it sits."""
    formula = FORMS[stage.form].formula.replace("s(", f"{stage.activation}(", 1)
    gate = Box(formula, GATE, 1.1 if len(formula) < 18 else 1.45)
    depthwise = Box(f"DW {stage.kernel}x{stage.kernel}", PLAIN, 0.62)
    at = stage.placement
    yield depthwise
    if at == "spatial":
        yield gate
    two = at == "expand" and FORMS[stage.form].projections == 2
    yield Box(f"1x1 to {stage.ratio}C" + (", twice" if two else ""), PLAIN, 1.05 if two else 0.75)
    if at == "expand":
        yield gate
    else:
        yield Box(stage.activation, ACTIVATION, 0.85)
    yield Box("1x1 to C", PLAIN, 0.7)
    yield depthwise
    if at == "output":
        yield gate


def which(stage: Stage) -> str:
    """Which blocks of a stage have the gate, where not all have it."""
    if stage.placement == "none" or all(stage.gated):
        return ""
    gated = ", ".join(str(number) for number, has in enumerate(stage.gated, start=1) if has)
    blocks = "block" if sum(stage.gated) == 1 else "blocks"
    plain = f"plain {stage.activation} there" if stage.placement == "expand" else "none"
    return f"gate in {blocks} {gated} of {stage.depth}; the others have {plain}"
