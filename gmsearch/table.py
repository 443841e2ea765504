"""A table of real trainings: the networks of a space, or a share of them, with their whole curves.

    gmsearch table build --space search_spaces/grid.yaml --data packs/in10 --networks 1000

A search can be replayed on it in seconds (`gmsearch.simulator`), as often as a comparison of
search methods needs. It is one Parquet file that holds its settings, with a row for each epoch.
"""

import io
import math
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import pandas as pd

from gmsearch.cost import Cost
from gmsearch.designs import LARGEST_ENUMERATION
from gmsearch.errors import SettingsError, TrainingError
from gmsearch.experiment import COSTS, Tabulation
from gmsearch.files import as_word, replacing
from gmsearch.jobs import Writer
from gmsearch.record import EpochDict, TrialRecord
from gmsearch.run import RunFolder
from gmsearch.session import Ending, open_session
from gmsearch.space import SearchSpace, counted, format_size
from gmsearch.survey import NUM_MISSES, draw_within
from gmsearch.trainings import Plan, Training

EPOCH = ("epoch", "top1", "train_loss", "loss", "seconds")  # what the table keeps of an epoch
ABOUT = "gmsearch_table"  # where the file has the settings
ORDER = ["id", "seed", "epoch"]  # of the rows
_MOST = sys.float_info.max  # finite
LIMITS = {  # what a figure may be; a loss is none where it is not finite for some image
    "top1": (0.0, 100.0),
    "seconds": (0.0, _MOST),
    "train_loss": (-_MOST, _MOST),
    "loss": (-_MOST, _MOST),
}
MOST_TOLD = 12  # epochs, of a training that has others
WHERE = ("cache", "address", "checkpoints")  # settings of the machine that made it


@dataclass(frozen=True)
class TrialTable:
    """Trainings of one fidelity, by network id and seed."""

    tabulation: Tabulation
    frame: pd.DataFrame  # id, seed, macs, params, activations, and the columns of EPOCH

    @cached_property
    def space(self) -> SearchSpace:
        return self.tabulation.search_space(Path("the table"))

    @cached_property
    def curves(self) -> dict[str, dict[int, list[EpochDict]]]:
        """The curve of each training: by id, then by seed."""
        found: dict[str, dict[int, list[EpochDict]]] = {}
        for row in self.frame.to_dict("records"):
            epochs = found.setdefault(row["id"], {}).setdefault(row["seed"], [])
            epochs.append({name: row[name] for name in EPOCH})
        return found


def build_table(tabulation: Tabulation, folder: RunFolder) -> Ending:
    """Trains what the table lacks, or goes on with it, and writes RUN/table.parquet.

    Raises UserError, with no run folder left behind where nothing was trained yet.
    """
    space = tabulation.search_space(folder.experiment_file)
    if tabulation.budget is not None:
        space.check_budget(tabulation.budget)
    planned = list(plan(tabulation, space))
    costs = {each.network.id: _cost(space, each) for each in planned}
    with open_session(tabulation, folder) as session:
        jobs = Plan(folder, planned, costs, tabulation.recipe.num_epochs)
        session.say(
            f"{tabulation.name}: {counted(len(costs), 'network')}, "
            f"{counted(len(planned), 'training')}, "
            f"{tabulation.fidelity_in_words()} each"
        )
        if len(costs) < tabulation.networks_wanted:
            session.say(_fewer_in_words(tabulation, space, len(costs)))
        if jobs.records:
            session.say(
                f"going on with {folder.path}: "
                f"{jobs.num_complete:,} {'is' if jobs.num_complete == 1 else 'are'} trained"
            )
        writer = Writer(lambda records: _forget_checkpoint(folder, records))
        account = None if jobs.is_finished else session.train(jobs, writer)
        records = [record for record in jobs.records.values() if record.state == "complete"]
        if records:
            table = tabulate(session.settings, records)
            write_table(folder.path / "table.parquet", table)
            session.console.print(in_words(table))
        elif jobs.is_finished:
            raise TrainingError("no training is complete, so there is no table")
        else:
            session.say("no training is complete yet, so there is no table")
        if settled := session.settle(account):
            session.console.print(settled.in_words())
        if records:
            session.say(f"wrote {folder.path / 'table.parquet'}")
        if not jobs.is_finished:
            session.say(f"next: gmsearch resume {as_word(folder.path)}")
        return session.ending(jobs.is_finished, account)


def plan(tabulation: Tabulation, space: SearchSpace) -> Iterator[Training]:
    """The trainings of a table; those of several seeds come first, so that a table that is cut
    short knows its noise.
    """
    wanted = tabulation.networks_wanted
    drawn = draw_within(space, tabulation.budget, wanted, seed=tabulation.seed)
    for number, network in enumerate(drawn):
        seeds = tabulation.seeds if number < tabulation.repeated else 1
        for more in range(seeds):
            yield Training("", network, tabulation.seed + more)


def _fewer_in_words(tabulation: Tabulation, space: SearchSpace, found: int) -> str:
    """That there are fewer networks than were asked for, and how well that is known."""
    asked = f"of {counted(tabulation.networks_wanted, 'network')} asked for there are {found:,}: "
    if found == space.num_networks:
        return f"{asked}the space has no more"
    budget = tabulation.budget
    within = "" if budget is None else f" within {format_size(budget)} MACs"
    return f"{asked}{NUM_MISSES:,} more draws found no other{within}"


def _cost(space: SearchSpace, training: Training) -> Cost:
    return space.cost(training.network)  # type: ignore[arg-type]


def _forget_checkpoint(folder: RunFolder, records: Sequence[TrialRecord]) -> None:
    """What is trained to its end needs none, and thousands fill a disk."""
    for record in records:
        if record.state == "complete":
            place = folder.trial_folder(f"{record.id}-seed{record.seed}")
            (place / "checkpoint.pt").unlink(missing_ok=True)


def tabulate(tabulation: Tabulation, records: Sequence[TrialRecord]) -> TrialTable:
    """The table of trainings that are complete."""
    rows = [
        {
            "id": record.id,
            "seed": record.seed,
            "macs": record.macs,
            "params": record.params,
            "activations": record.activations,
            **{name: epoch[name] for name in EPOCH},
        }
        for record in records
        for epoch in record.curve
    ]
    frame = pd.DataFrame(rows).astype(dict.fromkeys(LIMITS, float))  # a loss may be None
    return TrialTable(tabulation, frame.sort_values(ORDER, ignore_index=True))


def write_table(path: Path, table: TrialTable) -> None:
    """Writes a table as Parquet, whole or not at all."""
    frame = table.frame.copy()
    # A table travels: it names its data, and not where that lay.
    told = {"data": Path(table.tabulation.data).name, **dict.fromkeys(WHERE)}
    frame.attrs = {ABOUT: table.tabulation.model_copy(update=told).model_dump(mode="json")}
    content = io.BytesIO()
    frame.to_parquet(content, index=False, compression="zstd")
    with replacing(path) as file:
        file.write(content.getvalue())


def read_table(path: Path) -> TrialTable:
    """Reads a table; its rows come back in the order of id, seed and epoch, however they lie.

    Raises SettingsError for a file that is none, and for rows that no training wrote.
    """
    try:
        frame = pd.read_parquet(path)
        tabulation = Tabulation(**frame.attrs[ABOUT])
        space = tabulation.search_space(path)
    except FileNotFoundError:
        raise SettingsError(f"{path}: no such table; `gmsearch table build` makes one") from None
    except (OSError, ValueError, KeyError, TypeError) as error:
        said = " ".join(str(error).split())
        raise SettingsError(f"{path}: not a table of gmsearch: {said}") from None
    missing = {"id", "seed", *COSTS, *EPOCH} - set(frame.columns)
    if missing:
        raise SettingsError(f"{path}: not a table of gmsearch: no {', '.join(sorted(missing))}")
    fault = next(_faults(frame, tabulation, space), None)
    if fault is not None:
        raise SettingsError(
            f"{path}: {fault}; restore the table from a copy, or build it again with "
            "`gmsearch table build`"
        )
    return TrialTable(tabulation, frame.sort_values(ORDER, ignore_index=True))


def _faults(frame: pd.DataFrame, tabulation: Tabulation, space: SearchSpace) -> Iterator[str]:
    """In what the rows are not those of whole trainings; each holds only where those before do
    not.
    """
    if frame.empty:
        yield "it has no rows"
    if not all(isinstance(name, str) for name in frame["id"]):
        yield "id is not text in every row"
    for names, kinds, words in (
        (("seed", *COSTS, "epoch"), "iu", "whole numbers"),
        (tuple(LIMITS), "iuf", "numbers"),
    ):
        for name in names:
            kind = frame[name].dtype
            if not isinstance(kind, np.dtype) or kind.kind not in kinds:
                yield f"{name} is {kind}, not {words}"
    for name, (low, high) in LIMITS.items():
        values = frame[name]
        wrong = frame[~(values.between(low, high) | (values.isna() & (name == "loss")))]
        if len(wrong):
            row = wrong.iloc[0]
            yield f"{name} is {row[name]:g} in epoch {row.epoch} of {row.id} with seed {row.seed}"
    whole = range(1, tabulation.recipe.num_epochs + 1)
    for (name, seed), epochs in frame.groupby(["id", "seed"])["epoch"]:
        if sorted(epochs) != list(whole):
            told = ", ".join(map(str, sorted(epochs)[:MOST_TOLD]))
            yield f"{name} with seed {seed} has the epochs {told}, not 1 to {whole[-1]} once each"
    yield from _faults_of_networks(frame, space)


def _faults_of_networks(frame: pd.DataFrame, space: SearchSpace) -> Iterator[str]:
    """What disagrees with the networks, of which a table has the ids: where the space is small
    enough to list, each of them is known.
    """
    costs = frame[["id", *COSTS]].drop_duplicates()
    twice = costs[costs["id"].duplicated()]
    if len(twice):
        yield f"{twice.iloc[0].id} has more than one cost"
    if math.prod(len(choice.options) for choice in space.choices) > LARGEST_ENUMERATION:
        return
    known = {each.architecture.id: space.cost(each.architecture) for each in space.candidates()}
    for row in costs.itertuples():
        if row.id not in known:
            yield f"{row.id} is no network of its space '{space.name}'"
            return
        for name in COSTS:
            told, true = getattr(row, name), getattr(known[row.id], name)
            if told != true:
                yield f"{name} of {row.id} is {told:,}, the network has {true:,}"


def in_words(table: TrialTable) -> str:
    """What the table says of itself: its size, the noise between seeds, and how well each epoch
    ranks networks as the last does.
    """
    frame = table.frame
    last = frame[frame["epoch"] == frame["epoch"].max()]
    lines = [
        f"{counted(last['id'].nunique(), 'network')} from {format_size(last['macs'].min())} to "
        f"{format_size(last['macs'].max())} MACs, {counted(len(last), 'training')}, "
        f"top1 {last['top1'].min():.1f} to {last['top1'].max():.1f}"
    ]
    spread = noise(table)
    if spread is not None:
        lines.append(f"standard deviation between seeds of one network: {spread:.2f} points")
    first_seed = frame[frame["seed"] == table.tabulation.seed]
    wide = first_seed.pivot(index="id", columns="epoch", values="top1")
    taus = wide.corrwith(wide[wide.columns[-1]], method="kendall")[:-1].dropna()
    told = ", ".join(f"{tau:.2f} of epoch {epoch}" for epoch, tau in taus.items())
    if told:
        lines.append(f"Kendall's tau with the last epoch: {told}")
    return "\n".join(lines)


def noise(table: TrialTable) -> float | None:
    """The standard deviation of the last top1 between seeds, pooled over networks, in points; None
    where no network has two.
    """
    frame = table.frame
    last = frame[frame["epoch"] == frame["epoch"].max()]
    groups = last.groupby("id")["top1"]
    freedom = int((groups.size() - 1).sum())
    if freedom == 0:
        return None
    squares = (groups.var().fillna(0) * (groups.size() - 1)).sum()
    return float(np.sqrt(squares / freedom))
