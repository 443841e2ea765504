"""A table of real trainings: the networks of a space, or a share of them, with their whole curves.

    gmsearch table build --space search_spaces/grid.yaml --data packs/in10 --networks 1000

A search can be replayed on it in seconds (`gmsearch.simulator`), as often as a comparison of
search methods needs. It is one Parquet file that holds its settings, with a row for each epoch.
"""

import io
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import pandas as pd

from gmsearch.cost import Cost
from gmsearch.errors import SettingsError, TrainingError
from gmsearch.experiment import Tabulation
from gmsearch.files import as_word, replacing
from gmsearch.jobs import Writer
from gmsearch.record import EpochDict, TrialRecord
from gmsearch.run import RunFolder
from gmsearch.session import Ending, open_session
from gmsearch.space import SearchSpace, counted, format_size
from gmsearch.trainings import Plan, Training

EPOCH = ("epoch", "top1", "train_loss", "loss", "seconds")  # what the table keeps of an epoch
ABOUT = "gmsearch_table"  # where the file has the settings
WHERE = ("cache", "address", "checkpoints")  # settings of the machine that made it
NUM_MISSES = 5_000  # draws without a new network, after which a space counts as used up


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
    with open_session(tabulation, folder) as session:
        planned = list(plan(tabulation, space))
        costs = {each.network.id: _cost(space, each) for each in planned}
        jobs = Plan(folder, planned, costs, tabulation.recipe.num_epochs)
        session.say(
            f"{tabulation.name}: {counted(len(costs), 'network')}, "
            f"{counted(len(planned), 'training')}, "
            f"{tabulation.fidelity_in_words()} each"
        )
        if jobs.records:
            session.say(
                f"going on with {folder.path}: "
                f"{jobs.num_complete:,} {'is' if jobs.num_complete == 1 else 'are'} trained"
            )
        writer = Writer(lambda records: _forget_checkpoint(folder, records))
        account = None if jobs.is_finished else session.train(jobs, writer)
        records = [record for record in jobs.records.values() if record.state == "complete"]
        if not records:
            raise TrainingError("no training is complete, so there is no table")
        table = tabulate(session.settings, records)
        write_table(folder.path / "table.parquet", table)
        session.console.print(in_words(table))
        if account:
            session.console.print(account.in_words())
        session.say(f"wrote {folder.path / 'table.parquet'}")
        if not jobs.is_finished:
            session.say(f"next: gmsearch resume {as_word(folder.path)}")
        return session.ending(jobs.is_finished, account)


def plan(tabulation: Tabulation, space: SearchSpace) -> Iterator[Training]:
    """The trainings of a table; those of several seeds come first, so that a table that is cut
    short knows its noise.
    """
    for number, training in enumerate(_drawn(tabulation, space)):
        if number == tabulation.networks_wanted:
            return
        seeds = tabulation.seeds if number < tabulation.repeated else 1
        for more in range(seeds):
            yield training._replace(seed=tabulation.seed + more)


def _drawn(tabulation: Tabulation, space: SearchSpace) -> Iterator[Training]:
    """Different networks within the budget, in an order that the seed alone decides."""
    rng = np.random.default_rng(tabulation.seed)
    seen: set[str] = set()
    misses = 0
    while misses < NUM_MISSES:
        network = space.draw(rng).architecture
        within = tabulation.budget is None or space.cost(network).macs <= tabulation.budget
        if not within or network.id in seen:
            misses += 1
            continue
        misses = 0
        seen.add(network.id)
        yield Training("", network, tabulation.seed)


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
    return TrialTable(tabulation, pd.DataFrame(rows))


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
    """Reads a table. Raises SettingsError for a file that is none."""
    try:
        frame = pd.read_parquet(path)
        tabulation = Tabulation(**frame.attrs[ABOUT])
        missing = {"id", "seed", "macs", *EPOCH} - set(frame.columns)
    except FileNotFoundError:
        raise SettingsError(f"{path}: no such table; `gmsearch table build` makes one") from None
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise SettingsError(f"{path}: not a table of gmsearch: {error}") from None
    if missing:
        raise SettingsError(f"{path}: not a table of gmsearch: no {', '.join(sorted(missing))}")
    return TrialTable(tabulation, frame)


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
    taus = wide.corrwith(wide[wide.columns[-1]], method="kendall")
    told = ", ".join(f"{tau:.2f} of epoch {epoch}" for epoch, tau in taus[:-1].items())
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
