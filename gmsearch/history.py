"""A run as it stands, read from its folder: what reports and dashboards tell."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

from gmsearch.data import BUILT_IN
from gmsearch.errors import SettingsError
from gmsearch.experiment import Experiment, read_settings
from gmsearch.pareto import hypervolume
from gmsearch.record import TrialRecord, front_of
from gmsearch.run import RunData, RunFolder
from gmsearch.space import SearchSpace
from gmsearch.stored import StudyReader


class Step(NamedTuple):
    """A trial of a search, and how far the search was with it."""

    number: int
    id: str
    epochs: int  # trained so far, by all trials together
    hypervolume: float  # so far, in points of top1


@dataclass(frozen=True)
class History:
    """A search that is done, or goes on meanwhile."""

    folder: RunFolder
    experiment: Experiment
    data: RunData | None  # None for a run from before data.json
    records: list[TrialRecord]  # by number
    num_foreign: int  # trials of its study that it did not write
    sessions: list[dict[str, Any]]  # environment.json
    successors: dict[int, int]  # trials that were stopped, and those that went on with them

    @cached_property
    def space(self) -> SearchSpace:
        """The space that was searched."""
        return self.experiment.search_space(self.folder.experiment_file)

    @property
    def complete(self) -> list[TrialRecord]:
        """The trials that were trained to their last epoch."""
        return [record for record in self.records if record.state == "complete"]

    @cached_property
    def front(self) -> list[TrialRecord]:
        """The trials that no other dominates, best top1 first."""
        return front_of(self.records, self.experiment.objectives)

    def taken_up_as(self, number: int) -> tuple[int, TrialRecord] | None:
        """The number of the trial that went on with a stopped one, and how that training stands
        now, which may have been stopped and taken up more than once; None where nothing did.
        """
        last = number
        while last < self.successors.get(last, last):  # a later trial goes on with an earlier one
            last = self.successors[last]
        found = next((record for record in self.records if record.number == last), None)
        return None if last == number or found is None else (self.successors[number], found)

    @property
    def num_minival(self) -> int | None:
        """Images that a top1 is of."""
        return None if self.data is None else self.data.minival

    @cached_property
    def limit(self) -> float:
        """The cost up to which a hypervolume counts: the budget, or for a cost without one the
        most that a network of the space has. It hangs on the experiment alone, so that the same
        front has the same hypervolume whenever it is looked at.
        """
        cost = self.experiment.objectives[1]
        return float(self.experiment.budget if cost == "macs" else self.space.most(cost))

    def growth(self, limit: float) -> list[Step]:
        """The hypervolume over the first cost up to `limit`, trial after trial in the order in
        which they began; the epochs of failed and running ones count too.
        """
        steps: list[Step] = []
        best: list[tuple[float, float]] = []  # the front so far, as (top1, cost)
        epochs, reached = 0, 0.0
        for record in self.records:
            new = (record.top1 or 0.0, getattr(record, self.experiment.objectives[1]))
            dominated = any(top1 >= new[0] and spent <= new[1] for top1, spent in best)
            if record.state == "complete" and not dominated:
                best = [each for each in best if each[0] > new[0] or each[1] < new[1]] + [new]
                reached = hypervolume(best, limit)
            epochs += record.epochs
            steps.append(Step(record.number, record.id, epochs, reached))
        return steps


class HistoryReader:
    """Reads a search's folder, again and again while the search goes on.

    `storage` is where its study lies, if not in the folder. Raises SettingsError for what is no
    search, or has no study yet.
    """

    def __init__(self, path: Path, storage: str | None = None) -> None:
        self.folder = RunFolder(path)
        if not self.folder.experiment_file.is_file():
            raise SettingsError(
                f"{path} is not a run, it has no experiment.yaml; give a folder like runs/NAME"
            )
        experiment = read_settings(self.folder.experiment_file)
        if not isinstance(experiment, Experiment):
            raise SettingsError(
                f"{path} is a comparison, and has no front; its table is all it has"
            )
        self.experiment = experiment
        self.study = StudyReader(self.folder, experiment, storage)

    def read(self) -> History:
        """The search as it stands. Raises SettingsError for what cannot be read any more."""
        records, num_foreign, successors = self.study.read()
        return History(
            folder=self.folder,
            experiment=self.experiment,
            data=self.folder.data,
            records=records,
            num_foreign=num_foreign,
            sessions=self.folder.sessions(),
            successors=successors,
        )


def read_history(path: Path) -> History:
    """A search's folder. Raises SettingsError for what is none, or has no study yet."""
    return HistoryReader(path).read()


def labels_of(histories: Sequence[History]) -> list[str]:
    """What to call searches beside each other: their names, or their folders where two have one
    name.
    """
    names = [each.experiment.name for each in histories]
    if len(set(names)) == len(names):
        return names
    return [str(each.folder.path) for each in histories]


def read_others(one: History, folders: Sequence[Path]) -> list[History]:
    """Searches to lay beside another. Raises SettingsError for a folder that is given twice, and
    for a search that had something else to find.
    """
    known, others = {one.folder.path.resolve()}, []
    for folder in folders:
        if folder.resolve() in known:
            raise SettingsError(f"--versus {folder}: that run is there already; give another")
        known.add(folder.resolve())
        others.append(read_history(folder))
        check_comparable(one, others[-1])
    return others


def check_comparable(one: History, other: History) -> None:
    """Raises SettingsError where two searches had something else to find."""
    for name in ("space", "budget", "objectives", "data_digest", "resolution", "recipe"):
        if getattr(one.experiment, name) != getattr(other.experiment, name):
            what = f"--versus {other.folder.path}: another {name} than that of {one.folder.path}; "
            if name == "data_digest" and one.experiment.data == other.experiment.data == BUILT_IN:
                raise SettingsError(
                    f"{what}the images of {BUILT_IN} hang on the seed; give a run with --seed "
                    f"{one.experiment.seed}"
                )
            raise SettingsError(
                f"{what}only the sampler, the seed, early stops and the number of trials may differ"
            )
