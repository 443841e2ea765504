"""What makes a training faster, each with a switch: GMSEARCH_OFF=graph,depthwise, or any of these.

`graph` and `gate` are of a GPU, `pointwise` is of a CPU, `depthwise` and `algebra` are of both. All
of it is chosen by itself where device and shapes allow; what is switched off is as PyTorch has it.
The environment is read where a training begins (`graph`, `algebra`) or a network is called, so that
a process that measures can compare.
"""

import os

from gmsearch.errors import SettingsError

VARIABLE = "GMSEARCH_OFF"
SPEEDUPS = ("graph", "gate", "depthwise", "pointwise", "algebra")


def is_on(speedup: str) -> bool:
    """Whether a speed-up may be used. Raises SettingsError where the variable names an unknown."""
    return speedup not in _off(os.environ.get(VARIABLE, ""))


def check() -> None:
    """Raises SettingsError where the variable names what is no speed-up."""
    switched_off()


def switched_off() -> tuple[str, ...]:
    """In order. Raises SettingsError as `check` does."""
    return tuple(sorted(_off(os.environ.get(VARIABLE, ""))))


def _off(names: str) -> frozenset[str]:
    found = frozenset(name.strip() for name in names.split(",") if name.strip())
    for name in found - set(SPEEDUPS):
        raise SettingsError(f"{VARIABLE} has {name!r}; allowed: {', '.join(SPEEDUPS)}")
    return found
