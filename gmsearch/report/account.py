"""What a search spent and how it was done, as a reader of its figures has to know it.

The questions are those of the checklist for architecture search of Lindauer and Hutter (2020, arXiv
1909.02453), as far as a run can answer them.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from gmsearch.history import History, labels_of
from gmsearch.space import format_size
from gmsearch.wall_time import WallTime

Row = tuple[str, str]


@dataclass(frozen=True)
class Account:
    """Trials and what they cost; `seconds` are summed over the workers."""

    complete: int
    stopped: int
    running: int
    failed: dict[str, int]  # by reason
    repeated: int  # trials of a network that was trained before
    over_budget: int  # trained in spite of it
    foreign: int  # of another program, or cut off before they were described
    epochs: int
    seconds: float
    sessions: tuple[str, ...]  # where the time of each went


def account_of(history: History) -> Account:
    """Counts the trials of a run."""
    records = history.records
    states = Counter(record.state for record in records)
    trained = [record for record in records if record.curve]
    return Account(
        complete=states["complete"],
        stopped=states["stopped"],
        running=states["running"],
        failed=dict(Counter(r.reason or "no reason" for r in records if r.state == "failed")),
        repeated=len(trained) - len({record.id for record in trained}),
        over_budget=sum(record.macs > history.experiment.budget for record in trained),
        foreign=history.num_foreign,
        epochs=sum(record.epochs for record in records),
        seconds=sum(record.seconds for record in records),
        sessions=tuple(map(_where_time_went, history.sessions)),
    )


def _where_time_went(session: Mapping[str, Any]) -> str:
    if "wall_time" not in session:
        return "not on record: it goes on, was cut off, or is of an older version"
    spent = WallTime.from_dict(session["wall_time"])
    return "nothing was left to train" if spent is None else spent.in_words()


def account_rows(account: Account) -> list[Row]:
    """The account as questions and answers; what is none and says nothing is left out."""
    failed = sum(account.failed.values())
    rows = [("trials trained to their last epoch", f"{account.complete:,}")]
    if account.stopped:
        rows.append(("trials stopped early", f"{account.stopped:,}"))
    if account.running:
        rows.append(("trials that are running, or were cut off", f"{account.running:,}"))
    rows.append(("trials that failed", f"{failed:,}"))
    rows += [(f"  {reason}", f"{count:,}") for reason, count in account.failed.items()]
    rows += [
        ("networks trained twice", _in_words(account.repeated)),
        ("networks over the budget trained", _in_words(account.over_budget)),
    ]
    if account.foreign:
        rows.append(
            (
                "trials in the study that are not the search's, were changed, or were cut off",
                f"{account.foreign:,}",
            )
        )
    rows += [
        ("epochs trained", f"{account.epochs:,}"),
        ("hours of workers in training and evaluation", f"{account.seconds / 3600:,.2f}"),
    ]
    for number, told in enumerate(account.sessions, start=1):
        rows.append((f"where the time of session {number} went", told))
    return rows


def checklist(history: History, others: Sequence[History] = ()) -> list[Row]:
    """Questions and answers on how the search was done."""
    experiment, data = history.experiment, history.data
    recipe = experiment.recipe
    labelled = list(zip(labels_of((history, *others))[1:], others, strict=True))
    rows = [
        ("space", f"{experiment.space.get('name', '')}, whole in experiment.yaml"),
        ("budget", f"{format_size(experiment.budget)} MACs, counted before training"),
        ("objectives", ", ".join(experiment.objectives)),
        ("sampler", experiment.sampler),
        ("fidelity of a trial", experiment.fidelity_in_words()),
        (
            "recipe",
            f"AdamW, lr {recipe.lr:g}, weight decay {recipe.weight_decay:g}, batch size "
            f"{recipe.batch_size}, cosine; all of it in experiment.yaml",
        ),
        (
            "same recipe, data and seed for baselines",
            "yes" if any(r.baseline for r in history.complete) else "no baseline was trained",
        ),
        ("data", f"{experiment.data}, digest {experiment.data_digest}"),
        (
            "splits",
            "top1 is of minival, cut from the training images; the official val is not read by a "
            "search"
            + (f"; {data.train:,} and {data.minival:,} images" if data is not None else ""),
        ),
        ("seeds", f"one: {experiment.seed}; a network's own spread over seeds is not known"),
        (
            "searches with other seeds",
            ", ".join(name for name, o in labelled if o.experiment.seed != experiment.seed)
            or "none here; the front hangs on the seed too",
        ),
        (
            "beside random search",
            ", ".join(name for name, o in labelled if o.experiment.sampler == "random")
            or "not here; --versus RUN puts a run with --sampler random beside it",
        ),
    ]
    return rows + _hardware(history)


def _hardware(history: History) -> list[Row]:
    rows: list[Row] = []
    for number, session in enumerate(history.sessions, start=1):
        gpus = ", ".join(session.get("gpus") or []) or "no GPU"
        told = {name: session.get(name) or "?" for name in ("time", "cpus", "platform", "command")}
        command = " ".join(map(str, told["command"]))
        rows.append(
            (
                f"session {number}",
                f"{told['time']}: {told['cpus']} cores, {gpus}; {told['platform']}; {command}",
            )
        )
    # Each that a session had, the first session's first.
    packages = dict.fromkeys(
        f"{name} {version}"
        for session in history.sessions
        for name, version in (session.get("packages") or {}).items()
        if version
    )
    revisions = dict.fromkeys(
        str(session.get("git_revision") or "not from a checkout") for session in history.sessions
    )
    if history.sessions:
        rows += [("versions", ", ".join(packages)), ("revision of the code", ", ".join(revisions))]
    return rows


def _in_words(count: int) -> str:
    return f"{count:,}" if count else "none"
