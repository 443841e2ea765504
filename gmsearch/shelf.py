"""Checkpoints of trainings on nodes that do not see the run folder: kept there through the driver's
node, or in a place that all nodes see.
"""

import os
from pathlib import Path
from typing import Any, Protocol

import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from gmsearch.errors import SettingsError
from gmsearch.files import replacing

CHECKPOINT = "checkpoint.pt"
THROUGH_DRIVER = "gmsearch-shelf"  # the name of the actor on the driver's node


class Shelf(Protocol):
    """Checkpoints by the name of their trial's folder. A kill leaves the old one or the new one."""

    def load(self, trial: str) -> bytes | None:
        """The last checkpoint, if there is one."""

    def save(self, trial: str, checkpoint: bytes) -> None:
        """Takes the place of the last checkpoint."""


class OwnShelf:
    """The trial folders of a run, for a process that sees them."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def load(self, trial: str) -> bytes | None:
        file = self._folder / trial / CHECKPOINT
        return file.read_bytes() if file.is_file() else None

    def save(self, trial: str, checkpoint: bytes) -> None:
        folder = self._folder / trial
        folder.mkdir(parents=True, exist_ok=True)
        with replacing(folder / CHECKPOINT, durable=True) as file:
            file.write(checkpoint)


class _DriversShelf:
    """The trial folders of a run, seen from another node."""

    def __init__(self) -> None:
        self._actor: Any = ray.get_actor(THROUGH_DRIVER)

    def load(self, trial: str) -> bytes | None:
        return ray.get(self._actor.load.remote(trial))

    def save(self, trial: str, checkpoint: bytes) -> None:
        ray.get(self._actor.save.remote(trial, checkpoint))


class _SharedShelf:
    """A folder that all nodes see: a path, or a URI that pyarrow knows."""

    def __init__(self, place: str) -> None:
        from pyarrow import fs  # half a second, which a worker without it is spared

        self._files, self._root = fs.FileSystem.from_uri(place)
        self._missing = fs.FileType.NotFound

    def load(self, trial: str) -> bytes | None:
        path = f"{self._root}/{trial}.pt"
        if self._files.get_file_info(path).type == self._missing:
            return None
        with self._files.open_input_stream(path) as file:
            return file.read()

    def save(self, trial: str, checkpoint: bytes) -> None:
        self._files.create_dir(self._root, recursive=True)
        path = f"{self._root}/{trial}.pt"
        with self._files.open_output_stream(f"{path}.new") as file:
            file.write(checkpoint)
        self._files.move(f"{path}.new", path)


def put_up(trials_folder: Path) -> Any:
    """Lets other nodes reach the trial folders through this one, as long as the result is kept."""
    here = ray.get_runtime_context().get_node_id()
    keeper = ray.remote(num_cpus=0, max_restarts=-1, max_task_retries=-1)(OwnShelf)
    strategy = NodeAffinitySchedulingStrategy(here, soft=False)
    return keeper.options(name=THROUGH_DRIVER, scheduling_strategy=strategy).remote(
        trials_folder.absolute()
    )


def open_shelf(place: str | None) -> Shelf:
    """The shelf of a worker: in `place`, or through the driver's node."""
    return _DriversShelf() if place is None else _SharedShelf(place)


def check_place(place: str) -> Shelf:
    """The shelf in a place, once it has shown that it keeps what it is given. Raises
    SettingsError.
    """
    probe = os.urandom(16)
    try:
        shelf = open_shelf(place)
        shelf.save("probe", probe)
        if shelf.load("probe") == probe:
            return shelf
        reason = "it does not give back what it was given"
    except (OSError, ValueError, NotImplementedError) as error:  # pyarrow's own are of these
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
    raise SettingsError(f"--checkpoints {place}: {reason}; give a folder that all nodes may write")
