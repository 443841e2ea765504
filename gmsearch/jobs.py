"""Where trainings come from, and who hears of them: what a search and a comparison share."""

from collections.abc import Callable, Iterable
from typing import Protocol

from gmsearch.record import EpochDict, Job, TrialRecord


class Jobs(Protocol):
    """Trainings to do, and the memory of what became of them: by number in `records`."""

    records: dict[int, TrialRecord]

    @property
    def is_finished(self) -> bool:
        """Whether all trainings that are wanted, or possible, have ended."""

    def ask(self) -> Job | None:
        """The next training to do; None where nothing is left, or not before another one ends."""

    def report(self, number: int, curve: list[EpochDict]) -> bool:
        """The curve of a running training, epochs before a restart included. Returns whether it
        goes on.
        """

    def tell(self, number: int) -> TrialRecord:
        """A training reached its last epoch."""

    def tell_stopped(self, number: int) -> TrialRecord:
        """A training was stopped, as `report` said."""

    def tell_failed(self, number: int, reason: str) -> TrialRecord:
        """A training failed, with the reason in one line."""


class Listener(Protocol):
    """Who hears of a run while it goes on."""

    def update(self, records: Iterable[TrialRecord]) -> None:
        """All trials as they stand, after every change."""

    def finished(self, record: TrialRecord) -> None:
        """One trial that is complete, stopped or failed."""


class Writer:
    """A listener that writes the tables of a run whenever a trial ends."""

    def __init__(self, write: Callable[[list[TrialRecord]], None]) -> None:
        self._write = write
        self._records: list[TrialRecord] = []

    def update(self, records: Iterable[TrialRecord]) -> None:
        self._records = list(records)

    def finished(self, record: TrialRecord) -> None:
        self._write(self._records)
