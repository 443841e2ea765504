"""Trainings that are planned beforehand, as jobs: those of a comparison and of a table.

A training is one network with one seed. What became of it lies in its own folder, trials/ID-seedS,
and nowhere else.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

from gmsearch.cost import Cost
from gmsearch.experiment import Comparison
from gmsearch.network import Network
from gmsearch.record import EpochDict, Job, TrialRecord
from gmsearch.run import RunFolder, read_curve


class Training(NamedTuple):
    """A training that is planned."""

    name: str  # what the user calls the network, or nothing
    network: Network
    seed: int


class Plan:
    """The jobs of a fixed list of trainings, in its order.

    `records` has those that were begun, by their place in the list; one that failed is tried again
    in the next session. `costs` are by network id. What is not `wanted` now counts where it is
    complete, and is not gone on with.
    """

    def __init__(
        self,
        folder: RunFolder,
        planned: Sequence[Training],
        costs: Mapping[str, Cost],
        num_epochs: int,
        weights: Path | None = None,
        wanted: Callable[[Training], bool] = lambda training: True,
    ) -> None:
        self._folder = folder
        self._weights = weights
        self.records: dict[int, TrialRecord] = {}
        self._waiting: list[TrialRecord] = []
        for number, training in enumerate(planned):
            macs, params, activations, _ = costs[training.network.id]
            record = TrialRecord(
                number=number,
                id=training.network.id,
                state="running",
                network=training.network,
                macs=macs,
                params=params,
                activations=activations,
                name=training.name,
                seed=training.seed,
            )
            record = replace(record, curve=read_curve(self._folder_of(record)))
            if record.epochs >= num_epochs:
                record = replace(record, state="complete")
            elif wanted(training):
                self._waiting.append(record)
            if record.curve and (record.state == "complete" or wanted(training)):
                self.records[number] = record

    @property
    def all_begun(self) -> bool:
        """Whether no training that is left has to start from its first epoch."""
        folders = map(self._folder_of, self._waiting)
        return all((folder / "checkpoint.pt").exists() for folder in folders)

    @property
    def num_complete(self) -> int:
        return sum(record.state == "complete" for record in self.records.values())

    @property
    def is_finished(self) -> bool:
        return not self._waiting and all(r.state != "running" for r in self.records.values())

    def ask(self) -> Job | None:
        if not self._waiting:
            return None
        record = self._waiting.pop(0)
        self.records[record.number] = record
        place = self._folder_of(record)
        return Job(record.number, record.network, record.seed, place, self._weights)

    def report(self, number: int, curve: list[EpochDict]) -> bool:
        self.records[number] = replace(self.records[number], curve=curve)
        return True

    def tell(self, number: int) -> TrialRecord:
        return self._end(number, state="complete")

    def tell_stopped(self, number: int) -> TrialRecord:
        return self._end(number, state="stopped")

    def tell_failed(self, number: int, reason: str) -> TrialRecord:
        return self._end(number, state="failed", reason=" ".join(reason.split()))

    def _end(self, number: int, state: str, reason: str | None = None) -> TrialRecord:
        self.records[number] = replace(self.records[number], state=state, reason=reason)
        return self.records[number]

    def _folder_of(self, record: TrialRecord) -> Path:
        return self._folder.trial_folder(f"{record.id}-seed{record.seed}")


class Trainings(Plan):
    """The jobs of a comparison: all networks with the first seed, then all with the second, …

    Two names of one network share its trainings. Those of more seeds than are wanted now are kept,
    and `num_seeds` counts them too.
    """

    def __init__(
        self,
        comparison: Comparison,
        folder: RunFolder,
        networks: Mapping[str, Network],
        costs: Mapping[str, Cost],
    ) -> None:
        distinct: dict[str, tuple[str, Network]] = {}
        for name, network in networks.items():
            distinct.setdefault(network.id, (name, network))
        wanted = range(comparison.seed, comparison.seed + comparison.seeds)
        self.num_seeds = max(wanted.stop, last_seed(folder) + 1) - wanted.start
        super().__init__(
            folder,
            [
                Training(name, network, seed)
                for seed in range(wanted.start, wanted.start + self.num_seeds)
                for name, network in distinct.values()
            ],
            costs,
            comparison.recipe.num_epochs,
            None if comparison.weights is None else Path(comparison.weights),
            lambda training: training.seed in wanted,
        )


def last_seed(folder: RunFolder) -> int:
    """The last seed that anything was trained with; -1 before that."""
    folders = folder.trials_folder.glob("*-seed*")
    seeds = (path.name.rpartition("-seed")[2] for path in folders)
    return max((int(seed) for seed in seeds if seed.isdecimal()), default=-1)
