"""WHAT on the command line: the ways to name a network.

gmnet_s3                            a published variant
gmnet@300M                          GmNet scaled to a budget of MACs at 224 px, 1000 classes
gmnet@300M+activation=identity      any of these with other values in every stage
mobilenetv3_large_100               a classifier of timm
best.json                           an architecture's file
runs/NAME:ID                        a network of a run
"""

import re
from pathlib import Path

from gmsearch.architecture import Architecture
from gmsearch.errors import ArchitectureError, SettingsError
from gmsearch.gmnet import VARIANTS, gmnet, gmnet_within, least_macs, with_changes
from gmsearch.network import Network, Peer, read_network
from gmsearch.run import RunFolder
from gmsearch.space import format_size, format_size_up, parse_size
from gmsearch.zoo import is_peer, nearest_names

CHANGES = ("activation", "placement", "form", "blocks", "kernel", "ratio", "downsampler")


def resolve(what: str) -> Network:
    """The network that a user names. Raises UserError that offers the nearest names."""
    if Path(what).is_file():
        return read_network(Path(what))
    base, *changes = re.split(r"\+(?=\w+=)", what)  # a path may have a + too
    network = _resolve_base(base)
    if not changes:
        return network
    if isinstance(network, Peer):
        raise SettingsError(f"{what!r}: only our own networks can be changed, not {network.name}")
    try:
        return with_changes(network, **_values(what, changes))
    except ArchitectureError as error:
        raise ArchitectureError(f"{what!r}: {error}") from None


def _values(what: str, changes: list[str]) -> dict[str, int | str]:
    """What each FIELD=VALUE says. Raises SettingsError for an unknown field, or one twice."""
    values: dict[str, int | str] = {}
    for field, _, value in (change.partition("=") for change in changes):
        if field not in CHANGES or field in values:
            problem = "given twice" if field in values else "no field"
            raise SettingsError(f"{what!r}: {field} is {problem}; allowed: {', '.join(CHANGES)}")
        values[field] = int(value) if value.isdecimal() else value
    return values


def _resolve_base(base: str) -> Network:
    if base in VARIANTS:
        return gmnet(base)
    if base.startswith("gmnet@"):
        return _scaled(base)
    if base.endswith(".json"):
        return read_network(Path(base))
    if ":" in base:
        return _of_run(base)
    if is_peer(base):
        return Peer(base)
    raise SettingsError(f"no network is called {base!r}; {_remedy(base)}")


def _remedy(base: str) -> str:
    if RunFolder(Path(base)).experiment_file.exists():
        return f"it is a run: give {base}:ID"
    if is_peer(base.partition(".")[0]):
        return f"leave the tag out: {base.partition('.')[0]}"
    if "+" in base:
        return f"changes are written +FIELD=VALUE, with FIELD one of {', '.join(CHANGES)}"
    nearest = nearest_names(base)
    offer = f"nearest: {', '.join(nearest)}; " if nearest else ""
    return f"{offer}give a name, a JSON file or RUN:ID"


def _scaled(base: str) -> Architecture:
    text = base.removeprefix("gmnet@")
    try:
        budget = parse_size(text)
    except ValueError:
        raise SettingsError(f"{base!r}: {text!r} is not a size; write gmnet@300M") from None
    network = gmnet_within(budget)
    if network is None:
        raise SettingsError(
            f"{base!r}: no GmNet has {format_size(budget)} MACs or fewer; "
            f"give {format_size_up(least_macs())} or more"
        )
    return network


def _of_run(base: str) -> Network:
    path, _, network_id = base.rpartition(":")
    folder = RunFolder(Path(path))
    if not folder.experiment_file.exists():
        raise SettingsError(f"{path} is not a run, it has no experiment.yaml; give runs/NAME:ID")
    found = None if "/" in network_id else folder.find_trial(network_id)
    if found is None:
        raise SettingsError(f"{path} has no network {network_id!r}; its trials.csv lists the ids")
    return read_network(found / "architecture.json")
