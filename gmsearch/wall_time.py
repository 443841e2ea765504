"""Where the wall time of a session went."""

import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

PARTS = ("data", "start_up", "training", "evaluation", "idle")


@dataclass(frozen=True)
class WallTime:
    """In seconds: `wall` from the command to its last training, `data` and `start_up` the driver's,
    all others summed over the workers.
    """

    wall: float
    workers: int
    data: float  # until the images were read
    start_up: float  # from then until the first training began: Ray, and imports of the workers
    training: float  # the steps of finished epochs
    evaluation: float  # on minival after each, looking at bands included
    idle: float  # workers for which no training was left, or none before another one ended

    @property
    def shares(self) -> dict[str, float]:
        """Of the time that all workers had; they add up to 1. What is left is orchestration:
        proposals, Ray, starts of trials, checkpoints, and epochs that were cut off.
        """
        all_of_it = self.wall * self.workers
        each = {
            "training": self.training / all_of_it,
            "evaluation": self.evaluation / all_of_it,
            "data": self.data / self.wall,
            "start-up": self.start_up / self.wall,
            "idle": self.idle / all_of_it,
        }
        return {**each, "orchestration": max(0.0, 1 - sum(each.values()))}

    def in_words(self) -> str:
        """Such as `238 s on 2 workers: training 71.2 %, evaluation 4.0 %, …`."""
        shares = ", ".join(f"{name} {share:.1%}" for name, share in self.shares.items())
        workers = "1 worker" if self.workers == 1 else f"{self.workers} workers"
        return f"{self.wall:.0f} s on {workers}: {shares}"

    def to_dict(self) -> dict[str, Any]:
        return {name: round(value, 3) for name, value in asdict(self).items()}

    @classmethod
    def from_dict(cls, data: Any) -> "WallTime | None":
        """What `to_dict` wrote; None for anything else, or where nothing took any time."""
        try:
            wall, workers = float(data["wall"]), int(data["workers"])
            rest = {name: float(data[name]) for name in PARTS}
        except (LookupError, TypeError, ValueError):
            return None
        return cls(wall, workers, **rest) if wall > 0 and workers > 0 else None


class IdleTime:
    """Seconds of workers that have nothing to do, while that changes."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._since = clock()
        self._workers = 0
        self._seconds = 0.0

    def changed(self, workers: int) -> None:
        """So many have nothing to do from now on."""
        self._seconds, self._since, self._workers = self.seconds, self._clock(), workers

    @property
    def seconds(self) -> float:
        """So far."""
        return self._seconds + self._workers * (self._clock() - self._since)
