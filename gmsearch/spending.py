"""What the trainings of a run spend: epochs, of which a search may spend so many, and device time,
with the limit that may be set to it.
"""

import time
from collections.abc import Callable, Iterable, Mapping, Sequence

from gmsearch.experiment import Experiment
from gmsearch.record import TrialRecord
from gmsearch.space import counted


def epochs_promised(records: Iterable[TrialRecord], num_epochs: int) -> int:
    """Epochs that trainings of `num_epochs` have taken, or may still take where they run; one that
    fails has cost as much as any.
    """
    return sum(record.epochs if record.state == "stopped" else num_epochs for record in records)


def epochs_left(experiment: Experiment, records: Iterable[TrialRecord]) -> int:
    """Epochs that a search has neither spent nor promised to a training that runs."""
    num_epochs = experiment.recipe.num_epochs
    return experiment.trials * num_epochs - epochs_promised(records, num_epochs)


def has_spent_all(experiment: Experiment, records: Sequence[TrialRecord]) -> bool:
    """Whether a search has ended by its epochs: nothing runs, and what is left is too little for a
    new network, and for what a stopped one that may be taken up again still needs.
    """
    left, num_epochs = epochs_left(experiment, records), experiment.recipe.num_epochs
    taken_up = experiment.early_stop == "gated"
    needed = [num_epochs - r.epochs for r in records if r.state == "stopped" and taken_up]
    is_running = any(record.state == "running" for record in records)
    return not is_running and left < min([num_epochs, *needed])


def spent_in_words(experiment: Experiment, records: Sequence[TrialRecord]) -> str:
    """How far a search is, as it counts: in trials, or in epochs where trials may be stopped."""
    running = [record for record in records if record.state == "running"]
    ended = [record for record in records if record.state != "running"]
    if experiment.early_stop == "off":
        have = "has" if len(ended) == experiment.trials == 1 else "have"
        return f"{len(ended):,} of {counted(experiment.trials, 'trial')} {have} ended"
    num_epochs = experiment.recipe.num_epochs
    spent = epochs_promised(ended, num_epochs) + sum(record.epochs for record in running)
    trials = "1 trial has" if len(ended) == 1 else f"{len(ended):,} trials have"
    whole = "1 training has" if experiment.trials == 1 else f"{experiment.trials:,} trainings have"
    words = (
        f"{trials} ended, and {spent:,} of {experiment.trials * num_epochs:,} epochs, as many as "
        f"{whole}, are spent"
    )
    if any(record.state == "failed" for record in ended):
        words += " (one that failed counts as a whole one)"
    return words


class Meter:
    """Device-hours of a run, those of earlier sessions included.

    A training takes `devices` devices: its share of GPUs, or 1 for a worker without one. Counted
    are the seconds of all finished epochs, evaluation included, whatever became of their trial, and
    of each training that runs the time since its last epoch in this session. Not counted are the
    start of workers, a first epoch in a session before it is finished, and, in later sessions, an
    epoch that a stop cut off. Earlier sessions count with the share of this one.
    """

    def __init__(
        self,
        limit: float | None,
        devices: float,
        records: Mapping[int, TrialRecord],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._limit = limit
        self._devices = devices
        self._clock = clock
        self._records = records
        self._seconds = {_training_of(record): record.seconds for record in records.values()}
        self._total = sum(self._seconds.values())
        self._since: dict[int, float] = {}

    def heard(self, number: int) -> None:
        """A training told of an epoch."""
        record = self._records[number]
        training = _training_of(record)
        self._total += record.seconds - self._seconds.get(training, 0.0)
        self._seconds[training] = record.seconds
        self._since[number] = self._clock()

    def ended(self, number: int) -> None:
        """A training does not run any more."""
        self._since.pop(number, None)

    @property
    def hours(self) -> float:
        """Device-hours so far."""
        now = self._clock()
        under_way = sum(now - since for since in self._since.values())
        return self._devices * (self._total + under_way) / 3600

    @property
    def is_spent(self) -> bool:
        """Whether the limit is reached; never where there is none."""
        return self._limit is not None and self.hours >= self._limit


def _training_of(record: TrialRecord) -> tuple[str, int]:
    """What stays the same where a stopped training is taken up as another trial."""
    return record.id, record.seed
