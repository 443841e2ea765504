"""What can be trained: an architecture of ours, or a peer, which is any classifier of timm.

A network is data here; `zoo.build_network` makes the module. Its file is JSON: an architecture's
fields, or `{"timm": NAME}`, and the number of the format.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gmsearch.architecture import Architecture
from gmsearch.errors import ArchitectureError

FORMAT = 1  # of a file; one with a higher number is from a newer gmsearch


@dataclass(frozen=True)
class Peer:
    """A classifier of timm by its registered name, without weights."""

    name: str

    @property
    def id(self) -> str:
        return self.name

    def to_dict(self) -> dict[str, Any]:
        return {"timm": self.name}

    def in_words(self) -> str:
        return "as in timm"


Network = Architecture | Peer


def network_from_dict(data: Any) -> Network:
    """Reads the `to_dict` of a network, or the contents of its file. Raises ArchitectureError."""
    if not isinstance(data, Mapping):
        raise ArchitectureError(f"not an architecture: {_kind(data)}")
    fields = dict(data)
    number = fields.pop("format", FORMAT)
    if type(number) is not int or number < 1:
        raise ArchitectureError(f"format is {number!r}; allowed: a whole number up to {FORMAT}")
    if number > FORMAT:
        raise ArchitectureError(
            f"written by a newer gmsearch (format {number}, this one reads up to {FORMAT}); "
            "update gmsearch"
        )
    if set(fields) == {"timm"} and isinstance(fields["timm"], str):
        return Peer(fields["timm"])
    return Architecture.from_dict(fields)


def network_to_json(network: Network) -> str:
    """The contents of a network's file."""
    return json.dumps({"format": FORMAT, **network.to_dict()}, indent=2) + "\n"


def read_network(path: Path) -> Network:
    """Reads a network's file. Raises ArchitectureError, with the file in its message."""
    try:
        return network_from_dict(json.loads(path.read_text(encoding="utf-8")))
    except (OSError, UnicodeDecodeError, json.JSONDecodeError, RecursionError) as error:
        raise ArchitectureError(f"{path}: not a readable JSON file ({error})") from None
    except ArchitectureError as error:
        raise ArchitectureError(f"{path}: {error}") from None


def _kind(data: Any) -> str:
    """What a JSON value is, in words."""
    return {list: "a list", str: "a text", type(None): "nothing"}.get(type(data), repr(data))
