"""The log of what a search decided, and on what: RUN/decisions.jsonl, which only ever grows."""

import datetime
import json
import math
from pathlib import Path
from typing import Any

from gmsearch.errors import SettingsError

Event = dict[str, Any]


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
        lines = path.read_text(encoding="utf-8").splitlines()
    except FileNotFoundError:
        raise SettingsError(f"{path}: no such log; a search writes it") from None
    events = []
    for line in lines:
        try:
            event = json.loads(line)
        except ValueError:
            continue
        if isinstance(event, dict) and "event" in event:
            events.append(event)
    return events
