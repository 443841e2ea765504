"""Trainings on as many workers of Ray as a run has, for some seconds: what they will take."""

from typing import Any

# isort: off
import gmsearch.cluster  # noqa: F401 (sets what Ray reads when it is imported)
import ray
# isort: on

from gmsearch.cluster import Resources
from gmsearch.data import AnyDataset
from gmsearch.experiment import Settings
from gmsearch.network import Network
from gmsearch.timing import Timing


class Rehearsal:
    """The workers of a run, on the cluster that is open. All train at once, as they will in the
    run, since they share the memory of a machine.
    """

    def __init__(self, settings: Settings, resources: Resources, dataset: AnyDataset) -> None:
        self._settings = settings
        self._device = "cuda" if resources.gpus else "cpu"
        held = ray.put(dataset)
        kind: Any = ray.remote(num_cpus=resources.cpus, num_gpus=resources.gpus)(_Player)
        self._players = [kind.remote(resources.threads, held) for _ in range(resources.workers)]
        ray.get([player.is_ready.remote() for player in self._players])

    def time(self, network: Network, seconds: float) -> list[Timing]:
        """What a training of a network takes each worker; `seconds` are those to find out."""
        return ray.get(
            [
                player.play.remote(network.to_dict(), self._settings, seconds, self._device)
                for player in self._players
            ]
        )


class _Player:
    """A worker. What training needs is imported here, and so in its own process."""

    def __init__(self, threads: int, dataset: AnyDataset) -> None:
        import gmsearch.worker  # noqa: F401 (what a worker of a run imports)
        from gmsearch.process import prepare

        prepare(threads)
        self._dataset = dataset

    def is_ready(self) -> bool:
        return True

    def play(
        self, network: dict[str, Any], settings: Settings, seconds: float, device: str
    ) -> Timing:
        import tempfile
        from pathlib import Path

        from gmsearch.network import network_from_dict
        from gmsearch.timing import time_training

        with tempfile.TemporaryDirectory() as scratch:
            return time_training(
                network_from_dict(network),
                self._dataset,
                settings.recipe,
                seed=settings.seed,
                seconds=seconds,
                device=device,
                scratch=Path(scratch),
                watch=settings.watch,
            )
