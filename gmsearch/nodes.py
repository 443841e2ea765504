"""Data on a cluster: before the first trial every node sees what the head sees, or gets a copy."""

import contextlib
from collections.abc import Callable, Container, Iterator
from pathlib import Path
from typing import Any

import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from gmsearch.data import AnyDataset, PackedDataset, StreamedDataset
from gmsearch.data.cache import copy_of
from gmsearch.data.opening import open_source
from gmsearch.data.packs import META, NAMES, Pack, find_pack
from gmsearch.data.receiving import Receiver
from gmsearch.errors import DataError

PIECE = 2**26  # bytes of a file that travel at once


def share_data(dataset: AnyDataset, say: Callable[[str], None], known: Container[str] = ()) -> None:
    """Checks the data on every node but this one and the `known`, and copies a pack to those that
    do not have it.

    A pack counts where its arrays have its checksums, at its own path or in the node's cache.
    Raises DataError that names the node.
    """
    others = {
        node["NodeID"]: f"{node['NodeManagerHostname']} ({node['NodeManagerAddress']})"
        for node in ray.nodes()
        if node["Alive"]
        and node["NodeID"] != ray.get_runtime_context().get_node_id()
        and node["NodeID"] not in known
    }
    if isinstance(dataset, PackedDataset):
        pack = dataset.pack
        path, digest, splits = str(pack.path.absolute()), dataset.digest, dataset.splits
        answers = _ask(others, _see_pack, path, digest, splits)
        for node, answer in answers.items():
            if answer == "missing":
                say(f"copying {pack.path} to {others[node]}, once")
                answers[node] = _copy(dataset, node)
    elif isinstance(dataset, StreamedDataset):
        answers = _ask(others, _see_source, dataset.source.name, dataset.source.contents)
    else:
        return  # made in memory; Ray takes it to every node
    for node, answer in answers.items():
        if answer != "there":
            raise DataError(f"node {others[node]}: {answer}")


def _ask(nodes: dict[str, str], question: Callable[..., str], *words: Any) -> dict[str, str]:
    """What each node answers."""
    task = ray.remote(num_cpus=0)(question)
    asked = [task.options(scheduling_strategy=_on(node)).remote(*words) for node in nodes]
    return dict(zip(nodes, ray.get(asked), strict=True))


def _on(node: str) -> NodeAffinitySchedulingStrategy:
    return NodeAffinitySchedulingStrategy(node, soft=False)


def _see_pack(path: str, digest: str, splits: tuple[str, ...]) -> str:
    """Runs on a node: whether it has the pack."""
    places = Path(path), copy_of(digest)
    pack = next(filter(None, (find_pack(place, digest, splits) for place in places)), None)
    if pack is None:
        return "missing"
    try:
        pack.verify(*splits)
    except DataError as error:
        return str(error)
    return "there"


def _see_source(name: str, contents: str) -> str:
    """Runs on a node: whether it has the same original images."""
    try:
        found = open_source(name).contents
    except DataError as error:
        return str(error)
    return "there" if found == contents else f"{name} holds other images there than on the head"


def _copy(dataset: PackedDataset, node: str) -> str:
    """Sends what a data set has of a pack; returns how the node ends up."""
    pack = dataset.pack
    receiver: Any = (
        ray.remote(num_cpus=0)(Receiver)
        .options(scheduling_strategy=_on(node))
        .remote(dataset.digest, dataset.splits, pack.nbytes)
    )
    try:
        for name, piece in _pieces(pack, dataset.splits):
            ray.get(receiver.receive.remote(name, piece))
        return ray.get(receiver.finish.remote())
    except ray.exceptions.RayError as error:
        with contextlib.suppress(ray.exceptions.RayError):
            ray.get(receiver.discard.remote())
        reason: Any = getattr(error, "cause", None) or error
        return f"the copy of {pack.path} failed: {str(reason).strip().splitlines()[-1]}"
    finally:
        ray.kill(receiver)


def _pieces(pack: Pack, splits: tuple[str, ...]) -> Iterator[tuple[str, bytes]]:
    """The files of some splits of a pack, piece by piece."""
    files = [pack.path / META]
    for split in splits:
        names = [*pack.meta["splits"][split]["sha256"], NAMES]
        files += [pack.path / split / name for name in names]
    for file in files:
        with file.open("rb") as opened:
            while piece := opened.read(PIECE):
                yield file.relative_to(pack.path).as_posix(), piece
