"""Device time that the trainings of a run take, and the limit that may be set to it."""

import time
from collections.abc import Callable, Mapping

from gmsearch.record import TrialRecord


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
