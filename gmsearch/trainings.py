"""The trainings of a comparison, as jobs.

A training is one network with one seed. What became of it lies in its own folder, trials/ID-seedS,
and nowhere else.
"""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from gmsearch.cost import Cost
from gmsearch.experiment import Comparison
from gmsearch.network import Network
from gmsearch.record import EpochDict, Job, TrialRecord
from gmsearch.run import RunFolder, read_curve


class Trainings:
    """The jobs of a comparison: all networks with the first seed, then all with the second, …

    Two names of one network share its trainings. `records` has those that were begun, by number,
    those of more seeds than are wanted now included, which `num_seeds` counts too; one that failed
    is tried again in the next session. `costs` are by network id.
    """

    def __init__(
        self,
        comparison: Comparison,
        folder: RunFolder,
        networks: Mapping[str, Network],
        costs: Mapping[str, Cost],
    ) -> None:
        self._comparison = comparison
        self._folder = folder
        self.records: dict[int, TrialRecord] = {}
        self._waiting: list[TrialRecord] = []
        distinct: dict[str, tuple[str, Network]] = {}
        for name, network in networks.items():
            distinct.setdefault(network.id, (name, network))
        wanted = range(comparison.seed, comparison.seed + comparison.seeds)
        self.num_seeds = max(wanted.stop, self._last_seed() + 1) - wanted.start
        planned = [
            (seed, name, network)
            for seed in range(wanted.start, wanted.start + self.num_seeds)
            for name, network in distinct.values()
        ]
        for number, (seed, name, network) in enumerate(planned):
            macs, params, activations, _ = costs[network.id]
            record = TrialRecord(
                number=number,
                id=network.id,
                state="running",
                network=network,
                macs=macs,
                params=params,
                activations=activations,
                name=name,
                seed=seed,
            )
            record = replace(record, curve=read_curve(self._folder_of(record)))
            if record.epochs >= comparison.recipe.num_epochs:
                record = replace(record, state="complete")
            elif seed in wanted:
                self._waiting.append(record)
            if record.curve and (record.state == "complete" or seed in wanted):
                self.records[number] = record

    def _last_seed(self) -> int:
        """The last seed that anything was trained with; -1 before that."""
        folders = self._folder.trials_folder.glob("*-seed*")
        seeds = (path.name.rpartition("-seed")[2] for path in folders)
        return max((int(seed) for seed in seeds if seed.isdecimal()), default=-1)

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
        weights = self._comparison.weights
        return Job(
            record.number,
            record.network,
            record.seed,
            self._folder_of(record),
            None if weights is None else Path(weights),
        )

    def report(self, number: int, curve: list[EpochDict]) -> None:
        self.records[number] = replace(self.records[number], curve=curve)

    def tell(self, number: int) -> TrialRecord:
        return self._end(number, state="complete")

    def tell_failed(self, number: int, reason: str) -> TrialRecord:
        return self._end(number, state="failed", reason=" ".join(reason.split()))

    def _end(self, number: int, state: str, reason: str | None = None) -> TrialRecord:
        self.records[number] = replace(self.records[number], state=state, reason=reason)
        return self.records[number]

    def _folder_of(self, record: TrialRecord) -> Path:
        return self._folder.trial_folder(f"{record.id}-seed{record.seed}")
