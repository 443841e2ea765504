"""Who looks after a cluster while a run goes on: nodes come and go, and workers hang."""

import time
from collections.abc import Callable
from typing import Any

# isort: off
import gmsearch.cluster  # noqa: F401 (sets what Ray reads when it is imported)
import ray
from ray._private import worker as ray_worker
# isort: on

from gmsearch.cluster import Resources, replan
from gmsearch.data import AnyDataset
from gmsearch.errors import TrainingError
from gmsearch.experiment import Settings
from gmsearch.nodes import share_data

LOOK = 3.0  # seconds from one look at the nodes to the next
HELD_UP = 5.0  # seconds of a step after which the driver was held up itself
SLOWER = 10  # times the longest epoch so far: a worker that is silent for longer is hung


class Lookout:
    """Looks after the nodes, which come and go, and after workers that do not speak any more."""

    def __init__(
        self,
        settings: Settings,
        resources: Resources,
        dataset: AnyDataset,
        say: Callable[[str], None],
    ) -> None:
        self.resources = resources
        self._settings = settings
        self._dataset = dataset
        self._say = say
        self._here = ray.get_runtime_context().get_node_id()
        self._nodes = {node["NodeID"] for node in ray.nodes() if node["Alive"]}
        self._longest = 0.0  # seconds of an epoch
        self._trials: dict[int, Any] = {}
        self._heard: dict[int, float] = {}
        self._stepped = self._looked = time.monotonic()

    def began(self, number: int, trial: Any) -> None:
        """A worker took up a training."""
        self._trials[number] = trial
        self._heard[number] = time.monotonic()

    def heard(self, number: int, seconds: float) -> None:
        """A worker finished an epoch of so many seconds."""
        self._longest = max(self._longest, seconds)
        self._heard[number] = time.monotonic()

    def ended(self, number: int) -> None:
        """A training does not run any more."""
        self._trials.pop(number, None)
        self._heard.pop(number, None)

    @property
    def patience(self) -> float:
        """Seconds after which a silent worker is hung. A first epoch may take much longer than it
        should, with nothing to compare it to.
        """
        floor = 60 * self._settings.patience
        return max(floor, SLOWER * self._longest) if self._longest else SLOWER * floor

    def step(self) -> dict[int, str]:
        """Looks around; returns why workers were killed, by the number of their trial.

        Raises TrainingError where Ray is gone, and DataError for a node that cannot have the data.
        """
        now = time.monotonic()
        if now - self._stepped > HELD_UP:  # what was said meanwhile is only heard now
            self._heard = {number: now for number in self._heard}
        if now - self._looked > LOOK:
            self._looked = now
            self._look()
        self._stepped = time.monotonic()
        silent = [n for n, heard in self._heard.items() if now - heard > self.patience]
        for number in silent:
            ray.kill(self._trials[number].temporary_state.ray_actor)
            self.ended(number)
        return {n: f"its worker hung: silent for {self.patience:.0f} s" for n in silent}

    def has_news(self) -> bool:
        """Whether there are nodes that may not have the data yet."""
        return not {node["NodeID"] for node in ray.nodes() if node["Alive"]} <= self._nodes

    def _look(self) -> None:
        # Ray itself would wait for its node forever, or end this process without a word of ours.
        gone = TrainingError(
            "Ray on this machine died: killed, or out of memory; `gmsearch resume` goes on"
        )
        own = ray_worker._global_node
        if own is not None and own.dead_processes():
            raise gone
        nodes = [node for node in ray.nodes() if node["Alive"]]
        ids = {node["NodeID"] for node in nodes}
        if self._here not in ids:
            raise gone
        if ids == self._nodes:
            return
        try:
            share_data(self._dataset, self._say, self._nodes)
        except ray.exceptions.RayError:
            return  # a node that came and went
        self._nodes = ids
        before = self.resources.workers
        self.resources = replan(
            self._settings, self.resources, [node["Resources"] for node in nodes]
        )
        self._say(f"nodes: {len(ids)}, trials at once: {before} -> {self.resources.workers}")
