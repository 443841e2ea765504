"""front.png: what a search found, to look at."""

import os
from collections.abc import Sequence
from pathlib import Path

from gmsearch.experiment import Experiment
from gmsearch.record import TrialRecord, front_of, half_interval
from gmsearch.space import format_size

COST_LABELS = {"macs": "MACs", "params": "parameters", "activations": "activations"}
BASELINE_MARKS = {"GmNet": "^", "no gates": "v"}


def draw_front(
    path: Path, experiment: Experiment, records: Sequence[TrialRecord], num_minival: int
) -> None:
    """Draws all complete trials, the front, the baselines and the budget: top1 over the first cost.

    The bars are 95 % intervals from the number of minival images; a seed's own noise comes on top.
    """
    import matplotlib  # takes a second to import, and only the end of a run needs it

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    cost = experiment.objectives[1]
    complete = [record for record in records if record.state == "complete"]
    searched = [record for record in complete if not record.baseline]
    best = sorted(front_of(complete, ("top1", cost)), key=lambda record: getattr(record, cost))

    figure, axes = plt.subplots(figsize=(8, 5), layout="constrained")
    for record in complete:
        x, y = _point(record, cost)
        half = half_interval(y, num_minival)
        axes.errorbar(x, y, half, color="0.85", lw=1, zorder=0)
    axes.scatter(*_columns(searched, cost), s=28, color="0.6", label="searched")
    axes.step(*_columns(best, cost), where="post", color="tab:blue", lw=1.2)
    axes.scatter(*_columns(best, cost), s=44, color="tab:blue", zorder=3, label="front")
    for record in best:
        at = _point(record, cost)
        axes.annotate(record.id, at, xytext=(4, -10), textcoords="offset points", fontsize=7)
    for record in complete:
        if record.baseline:
            x, y = _point(record, cost)
            mark = BASELINE_MARKS[record.baseline]
            axes.scatter(
                x, y, s=70, marker=mark, color="tab:orange", label=record.baseline, zorder=4
            )
    if cost == "macs":
        axes.axvline(experiment.budget / 1e6, color="0.3", ls=":", lw=1)
        axes.annotate(
            f"budget {format_size(experiment.budget)}",
            (experiment.budget / 1e6, 0.02),
            xycoords=("data", "axes fraction"),
            xytext=(-4, 0),
            textcoords="offset points",
            ha="right",
            fontsize=8,
        )
    axes.set(xlabel=f"million {COST_LABELS[cost]}", ylabel="top1 on minival, %")
    axes.set_title(f"{experiment.name}: {experiment.fidelity_in_words()}", fontsize=10)
    axes.grid(alpha=0.2)
    axes.legend(loc="upper left", fontsize=8)
    temporary = path.with_name(f".{path.name}")
    figure.savefig(temporary, dpi=130, format="png")
    plt.close(figure)
    os.replace(temporary, path)


def _point(record: TrialRecord, cost: str) -> tuple[float, float]:
    return getattr(record, cost) / 1e6, record.curve[-1]["top1"]


def _columns(records: Sequence[TrialRecord], cost: str) -> tuple[list[float], list[float]]:
    points = [_point(record, cost) for record in records]
    return [x for x, _ in points], [y for _, y in points]
