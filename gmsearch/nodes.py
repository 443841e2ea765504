"""Data on a cluster: before the first trial every node sees what the head sees, or gets a copy."""

import contextlib
from collections.abc import Callable, Iterator
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


def share_data(dataset: AnyDataset, say: Callable[[str], None]) -> None:
    """Checks the data on every node but this one, and copies a pack to those that do not have it.

    A pack counts where its arrays have its checksums, at its own path or in the node's cache.
    Raises DataError that names the node.
    """
    others = {
        node["NodeID"]: f"{node['NodeManagerHostname']} ({node['NodeManagerAddress']})"
        for node in ray.nodes()
        if node["Alive"] and node["NodeID"] != ray.get_runtime_context().get_node_id()
    }
    if isinstance(dataset, PackedDataset):
        pack = dataset.pack
        answers = _ask(others, _see_pack, str(pack.path.absolute()), pack.digest)
        for node, answer in answers.items():
            if answer == "missing":
                say(f"copying {pack.path} to {others[node]}, once")
                answers[node] = _copy(pack, node)
    elif isinstance(dataset, StreamedDataset):
        answers = _ask(others, _see_source, dataset.source.name, dataset.source.contents)
    else:
        return  # made in memory; Ray takes it to every node
    for node, answer in answers.items():
        if answer != "there":
            raise DataError(f"node {others[node]}: {answer}")


def _ask(nodes: dict[str, str], question: Callable[..., str], *words: str) -> dict[str, str]:
    """What each node answers."""
    task = ray.remote(num_cpus=0)(question)
    asked = [task.options(scheduling_strategy=_on(node)).remote(*words) for node in nodes]
    return dict(zip(nodes, ray.get(asked), strict=True))


def _on(node: str) -> NodeAffinitySchedulingStrategy:
    return NodeAffinitySchedulingStrategy(node, soft=False)


def _see_pack(path: str, digest: str) -> str:
    """Runs on a node: whether it has the pack."""
    pack = find_pack(Path(path), digest) or find_pack(copy_of(digest), digest)
    if pack is None:
        return "missing"
    try:
        pack.verify("train", "minival")
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


def _copy(pack: Pack, node: str) -> str:
    """Sends what a search needs of a pack; returns how the node ends up."""
    receiver: Any = (
        ray.remote(num_cpus=0)(Receiver)
        .options(scheduling_strategy=_on(node))
        .remote(pack.digest, pack.nbytes)
    )
    try:
        for name, piece in _pieces(pack):
            ray.get(receiver.receive.remote(name, piece))
        return ray.get(receiver.finish.remote())
    except ray.exceptions.RayError as error:
        with contextlib.suppress(ray.exceptions.RayError):
            ray.get(receiver.discard.remote())
        reason: Any = getattr(error, "cause", None) or error
        return f"the copy of {pack.path} failed: {str(reason).strip().splitlines()[-1]}"
    finally:
        ray.kill(receiver)


def _pieces(pack: Pack) -> Iterator[tuple[str, bytes]]:
    """The files of a pack but for val, which no search opens, piece by piece."""
    files = [pack.path / META]
    for split in ("train", "minival"):
        names = [*pack.meta["splits"][split]["sha256"], NAMES]
        files += [pack.path / split / name for name in names]
    for file in files:
        with file.open("rb") as opened:
            while piece := opened.read(PIECE):
                yield file.relative_to(pack.path).as_posix(), piece
