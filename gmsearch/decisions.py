"""The log of what a search decided, and on what: RUN/decisions.jsonl, which only ever grows."""

import datetime
import json
import math
from pathlib import Path
from typing import Any

from gmsearch.errors import SettingsError

Event = dict[str, Any]


# What the events have that a decision cannot be repeated without.
_OF_A_TRIAL: dict[str, Any] = {"number": int, "id": str, "epochs": int}
_NEEDED: dict[str, dict[str, Any]] = {
    "session": {"wanted": int, "trials": dict},
    "ask": {"number": int, "id": str, "what": str},
    "rung": {**_OF_A_TRIAL, "top1": int | float, "goes_on": bool},
}


class DecisionLog:
    """Appends events, a line of JSON each; a kill may leave part of the last one."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def __call__(self, event: Event) -> None:
        now = datetime.datetime.now().astimezone().isoformat(timespec="milliseconds")
        known = {name: _plain(value) for name, value in event.items() if value is not None}
        line = json.dumps({"time": now, **known}) + "\n"
        with self._path.open("ab+") as file:
            if file.tell() and not _ends_in_newline(self._path):
                line = "\n" + line
            file.write(line.encode())


def _ends_in_newline(path: Path) -> bool:
    with path.open("rb") as file:
        file.seek(-1, 2)
        return file.read(1) == b"\n"


def _plain(value: Any) -> Any:
    """JSON knows no infinity: what is not finite is left out as None."""
    if isinstance(value, float):
        return float(f"{value:.6g}") if math.isfinite(value) else None
    return value


def read_decisions(path: Path) -> list[Event]:
    """The events, without lines that a kill cut off. Raises SettingsError."""
    try:
        lines = path.read_bytes().splitlines()
    except FileNotFoundError:
        raise SettingsError(f"{path}: no such log; a search writes it") from None
    events = []
    for number, line in enumerate(lines, 1):
        try:
            event = json.loads(line)
        except ValueError:
            continue
        if isinstance(event, dict) and isinstance(event.get("event"), str):
            for name, kind in _NEEDED.get(event["event"], _OF_A_TRIAL).items():
                if not isinstance(event.get(name), kind):
                    raise SettingsError(
                        f"{path}: line {number}: {name} is {event.get(name)!r}; it was changed by "
                        "another program: restore it from a copy"
                    )
            events.append(event)
    return events
