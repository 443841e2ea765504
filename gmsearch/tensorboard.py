"""The curves of a run as TensorBoard shows them: `tensorboard --logdir RUN/tensorboard`.

A session writes what it knows of every trial anew, so that the files are those of the records
whether or not the sessions before it wrote any. Importing tensorboardX brings torch into the
driver: only who asks for these files waits for it.
"""

import shutil
from collections.abc import Iterable
from pathlib import Path
from types import TracebackType
from typing import Any

from gmsearch.errors import SettingsError
from gmsearch.record import SCALARS, TrialRecord, front_of

FLUSH_SECONDS = 5
ON_FRONT = "on_front"  # 1 for the networks of the front
COSTS = ("macs", "params", "activations")


def check_place(folder: Path) -> None:
    """Raises SettingsError where the files cannot lie."""
    if folder.exists() and not folder.is_dir():
        raise SettingsError(f"--tensorboard: {folder} is a file; move it away")


class TensorBoard:
    """A listener that writes the scalars of each epoch, and of a complete trial its network and
    figures for the page of hyperparameters. At the end it marks the front of the `objectives`,
    where there are any, with `on_front`. Use as a context manager.
    """

    def __init__(self, folder: Path, objectives: tuple[str, ...] = ()) -> None:
        self._folder = folder
        self._objectives = objectives
        self._records: list[TrialRecord] = []
        self._writers: dict[int, Any] = {}
        self._written: dict[int, int] = {}  # epochs, by the number of the trial
        self._ended: set[int] = set()

    def __enter__(self) -> "TensorBoard":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        from tensorboardX import SummaryWriter

        for writer in self._writers.values():
            writer.close()
        for record in front_of(self._records, self._objectives) if self._objectives else ():
            # A name of its own: files are called by the second in which they are made.
            with SummaryWriter(str(self._place_of(record)), filename_suffix=".front") as writer:
                writer.add_scalar(ON_FRONT, 1, record.epochs)

    def update(self, records: Iterable[TrialRecord]) -> None:
        self._records = list(records)
        for record in self._records:
            self._write_epochs(record)
            if record.state != "running" and record.number not in self._ended:
                self._end(record)

    def finished(self, record: TrialRecord) -> None:
        """Nothing: an update came before it."""

    def _write_epochs(self, record: TrialRecord) -> None:
        for epoch in record.curve[self._written.get(record.number, 0) :]:
            writer = self._writer(record)
            told = {name: epoch.get(name) for name in SCALARS} | (epoch.get("bands") or {})
            for name, value in told.items():
                if value is not None:
                    writer.add_scalar(name, value, epoch["epoch"])
        self._written[record.number] = record.epochs

    def _end(self, record: TrialRecord) -> None:
        from tensorboardX.summary import hparams

        self._ended.add(record.number)
        if record.state == "complete":
            writer = self._writer(record)
            for name in COSTS:
                writer.add_scalar(name, getattr(record, name), record.epochs)
            metrics = ("top1", *record.bands, *COSTS, *((ON_FRONT,) if self._objectives else ()))
            for summary in hparams(hyperparameters(record), dict.fromkeys(metrics)):
                writer.file_writer.add_summary(summary)
        if writer := self._writers.pop(record.number, None):
            writer.close()

    def _writer(self, record: TrialRecord) -> Any:
        from tensorboardX import SummaryWriter

        if record.number not in self._writers:
            place = self._place_of(record)
            shutil.rmtree(place, ignore_errors=True)  # of sessions before this one
            writer = SummaryWriter(str(place), flush_secs=FLUSH_SECONDS)
            self._writers[record.number] = writer
        return self._writers[record.number]

    def _place_of(self, record: TrialRecord) -> Path:
        return self._folder / (f"{record.id}-seed{record.seed}" if record.name else record.id)


def hyperparameters(record: TrialRecord) -> dict[str, int | float | str]:
    """What a network is, flat: `stem_width`, `stage1.depth` and so on, and its seed."""
    found: dict[str, int | float | str] = {"network": record.words, "seed": record.seed}
    for name, value in record.network.to_dict().items():
        if name == "stages":
            for number, stage in enumerate(value, 1):
                found |= {f"stage{number}.{axis}": option for axis, option in stage.items()}
        else:
            found[name] = value
    return found
