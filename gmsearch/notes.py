"""What a dashboard tells of a trial and of a run, as Markdown."""

from functools import cache
from pathlib import Path

from gmsearch.architecture import Architecture
from gmsearch.experiment import Experiment
from gmsearch.files import as_word
from gmsearch.recipe import Recipe
from gmsearch.recipe_file import SHIPPED, read_recipe
from gmsearch.record import TrialRecord, interval_of
from gmsearch.run import RunData, RunFolder
from gmsearch.space import format_size
from gmsearch.spending import spent_in_words

BARS = "▁▂▃▄▅▆▇█"
# What a trial did that ended before its last epoch, by its state.
ENDED_EARLY = {"failed": "failed", "stopped": "was stopped"}
LONGEST_CURVE = 12  # epochs in a table; of a longer training, evenly chosen ones


def trial_note(record: TrialRecord, run: Path, experiment: Experiment, data: RunData | None) -> str:
    """All that is known of one trial, and what to type to go on with its network."""
    lines = lines_to_type(run, record.id, data)
    parts = [
        _headline(record, experiment, None if data is None else data.minival),
        _layout(record),
        _costs(record, experiment.budget),
        _curve(record),
        "\n".join(["```", *lines, "```"]),
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def taken_up_note(number: int, now: TrialRecord) -> str:
    """What is said of a trial that was stopped, and that trial `number` went on with; `now` is how
    the training stands.
    """
    return (
        f"### {now.id}: stopped\n\nStopped here, and taken up again as trial {number}: the note "
        f"of trial {now.number} tells of its network.\n"
    )


def lines_to_type(run: Path, network_id: str, data: RunData | None) -> list[str]:
    """Commands to go on with a network of a run. Where the run's images are fewer than a batch of
    the recipe that `retrain` takes by default, the first names a recipe and a batch that fit; what
    has no weights yet cannot be exported.
    """
    place = as_word(run)
    fits = "" if data is None else _fitting_recipe(data.train + data.minival)
    lines = [f"gmsearch retrain {place} --id {network_id}{fits}"]
    if (RunFolder(run).trial_folder(network_id) / "checkpoint.pt").exists():
        lines.append(f"gmsearch export {place} --id {network_id}")
    return lines


@cache
def _fitting_recipe(num_images: int) -> str:
    """Flags of `retrain` for so many official training images, a blank before each."""
    sizes = {name: Recipe(**read_recipe(name)).batch_size for name in SHIPPED}
    if num_images >= sizes["paper"]:
        return ""
    if num_images >= sizes["quick"]:
        return " --recipe quick"
    return f" --recipe quick --batch-size {2 ** (num_images.bit_length() - 1)}"


def run_note(experiment: Experiment, records: list[TrialRecord], num_foreign: int) -> str:
    """What the run searches, and how far it is."""
    lines = [
        f"Networks within **{format_size(experiment.budget)} MACs**; a training to its end is "
        f"{experiment.fidelity_in_words()}. {spent_in_words(experiment, records)}; the run ends "
        "sooner where its budget allows no other network. Every trial has a note with its network, "
        "costs and curve.",
        "Top1 is that of a short training on minival, and not comparable with published figures. "
        "This page only reads: the search alone writes its study.",
    ]
    if num_foreign:
        lines.append(
            f"{num_foreign} trials in the study are not the search's, were changed, "
            "or were cut off."
        )
    return "\n\n".join(lines) + "\n"


FOREIGN = (
    "Another program wrote this trial, or it was cut off before it was described: "
    "gmsearch knows nothing of its network.\n"
)


BEGINNING = "This trial is about to begin: its network is not described yet.\n"


def sparkline(values: list[float]) -> str:
    """A curve as blocks, from its least value to its largest; a longer one than 40 in parts."""
    step = max(1.0, len(values) / 40)
    shown = [values[int(i * step)] for i in range(int(len(values) / step))]
    low, high = min(shown), max(shown)
    scale = (len(BARS) - 1) / (high - low) if high > low else 0.0
    return "".join(BARS[round((value - low) * scale)] for value in shown)


def _headline(record: TrialRecord, experiment: Experiment, num_minival: int | None) -> str:
    state = "running, or cut off" if record.state == "running" else record.state
    title = f"### {record.id}: {state}"
    if record.baseline:
        title += f", the baseline {record.baseline}"
    lines = [title]
    if record.reason and record.state in ENDED_EARLY:
        reason = " ".join(record.reason.replace("`", "'").split())
        lines.append(f"It {ENDED_EARLY[record.state]} because: `{reason}`")
    if record.top1 is not None:
        top1 = f"**{record.top1:.1f} %**"
        if num_minival:
            low, high = interval_of(record.top1, num_minival)
            top1 += f" ({low:.1f} to {high:.1f})"
        planned = experiment.recipe.num_epochs
        lines.append(f"top1 {top1} on minival after {record.epochs} of {planned} epochs")
    return "\n\n".join(lines)


def _layout(record: TrialRecord) -> str:
    network = record.network
    if not isinstance(network, Architecture):
        return network.in_words()
    heads = ("stage", "width", "depth", "ratio", "kernel", "down-sampler", "gate")
    rows: list[tuple[str, ...]] = [heads]
    rows.append(("stem", str(network.stem_width), "", "", "", "", network.stem_activation))
    for number, stage in enumerate(network.stages, start=1):
        sizes = (stage.width, stage.depth, stage.ratio, stage.kernel)
        words = (stage.downsampler, stage.gate_in_words())
        rows.append((str(number), *map(str, sizes), *words))
    return _table(rows)


def _costs(record: TrialRecord, budget: int) -> str:
    macs, params, activations = map(format_size, (record.macs, record.params, record.activations))
    share = f"{100 * record.macs / budget:.0f} % of the budget"
    return f"**{macs} MACs** ({share}), **{params} params**, {activations} activations"


def _curve(record: TrialRecord) -> str:
    """The epochs with their top1, and above them a line that shows their shape."""
    if not record.curve:
        return "No epoch is done yet."
    top1 = [float(result["top1"]) for result in record.curve]
    shown = min(len(top1), LONGEST_CURVE)
    chosen = [round(i * (len(top1) - 1) / max(1, shown - 1)) for i in range(shown)]
    heads = ("epoch", *(str(i + 1) for i in chosen))
    shape = f"curve `{sparkline(top1)}`, trained for {record.seconds:,.0f} s"
    rows = [heads, ("top1", *(f"{top1[i]:.1f}" for i in chosen))]
    for band in record.bands:
        values = ((record.curve[i].get("bands") or {}).get(band) for i in chosen)
        rows.append((band, *("" if value is None else f"{value:.1f}" for value in values)))
    return f"{shape}\n\n" + _table(rows)


def _table(rows: list[tuple[str, ...]]) -> str:
    head, *body = ("| " + " | ".join(row) + " |" for row in rows)
    return "\n".join([head, "|" + ":--|" * len(rows[0]), *body])
