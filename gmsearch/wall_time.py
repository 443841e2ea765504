"""Where the wall time of a session went."""

import os
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

PARTS = ("data", "start_up", "training", "evaluation", "idle")
LOADED = time.time()  # this module, soon after the process began


@dataclass(frozen=True)
class WallTime:
    """In seconds: `wall` from the start of the process (of the session, for a second one in it)
    until front.png and the tables are written; what the interpreter takes to end is not in it.
    `data`, `start_up` and `answer` are the driver's, all others summed over the workers.
    """

    wall: float
    workers: int
    data: float  # until the images were read
    start_up: float  # all else before the first training: imports, checks, Ray, imports of workers
    training: float  # the steps of finished epochs
    evaluation: float  # on minival after each, looking at bands included
    idle: float  # workers for which no training was left, or none before another one ended
    answer: float = 0.0  # after the last training and the end of Ray: tables, pictures, latencies

    @property
    def shares(self) -> dict[str, float]:
        """Of the time that all workers had; they add up to 1. What is left is orchestration:
        proposals, Ray, starts of trials, checkpoints, and epochs that were cut off. It is less than
        0 where the parts overlap, such as by clocks of nodes that differ.
        """
        all_of_it = self.wall * self.workers
        each = {
            "training": self.training / all_of_it,
            "evaluation": self.evaluation / all_of_it,
            "data": self.data / self.wall,
            "start-up": self.start_up / self.wall,
            "idle": self.idle / all_of_it,
            "answer": self.answer / self.wall,
        }
        return {**each, "orchestration": 1 - sum(each.values())}

    def in_words(self) -> str:
        """Such as `238 s on 2 workers: training 71.2 %, evaluation 4.0 %, …`."""
        rounded = {name: round(share, 3) + 0.0 for name, share in self.shares.items()}  # no -0
        shares = ", ".join(f"{name} {share:.1%}" for name, share in rounded.items())
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
            rest["answer"] = float(data.get("answer", 0.0))  # older versions did not have it
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


_command_waits = False  # for its first session


def command_begins() -> None:
    """Says that this process is one command: its first session counts from the process's start."""
    global _command_waits
    _command_waits = True


def session_begins() -> float:
    """From when a session counts, on the clock of `time.time`."""
    global _command_waits
    is_first, _command_waits = _command_waits, False
    return process_start() if is_first else time.time()


def process_start() -> float:
    """When this process began, on the clock of `time.time`; where there is no /proc (Linux has it),
    when this module was loaded.
    """
    try:
        told = Path("/proc/self/stat").read_text()
        ticks = int(told.rpartition(")")[2].split()[19])  # after the boot; the 22nd field of all
        age = time.clock_gettime(time.CLOCK_BOOTTIME) - ticks / os.sysconf("SC_CLK_TCK")
    except (OSError, ValueError, IndexError, AttributeError):
        return LOADED
    return min(time.time() - age, LOADED)
