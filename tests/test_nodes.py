"""Data on a cluster: every node sees the same, or gets a copy, before the first trial."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from pictures import make_folder

from gmsearch import data
from gmsearch.data.cache import copy_of
from gmsearch.data.packs import SEARCHED, open_packed, read_pack
from gmsearch.data.receiving import Receiver
from gmsearch.errors import DataError


@pytest.fixture
def dataset(tmp_path, monkeypatch) -> data.PackedDataset:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "node"))
    folder = make_folder(tmp_path / "set", per_class=24, side=32)
    return data.load(str(folder), resolution=32, seed=0, cache=tmp_path / "head")


def send(dataset: data.PackedDataset) -> str:
    from gmsearch.nodes import _pieces

    receiver = Receiver(dataset.digest, dataset.splits, dataset.pack.nbytes)
    for name, piece in _pieces(dataset.pack, dataset.splits):
        receiver.receive(name, piece)
    return receiver.finish()


def test_a_copy_is_the_pack_without_val(dataset, monkeypatch):
    monkeypatch.setattr("gmsearch.nodes.PIECE", 1000)
    assert send(dataset) == "there"
    copy = copy_of(dataset.digest)
    for file in dataset.pack.path.rglob("*"):
        name = file.relative_to(dataset.pack.path)
        if file.is_file() and name.parts[0] != "val":
            assert (copy / name).read_bytes() == file.read_bytes()
    assert not (copy / "val").exists()
    assert [path.name for path in copy.parent.iterdir()] == [dataset.digest]


def test_a_node_without_the_path_opens_its_copy(dataset):
    assert send(dataset) == "there"
    open_packed.cache_clear()
    shutil.rmtree(dataset.pack.path)
    opened = open_packed(str(dataset.pack.path), dataset.digest, dataset.splits)
    assert opened.pack.path == copy_of(dataset.digest) and opened.digest == dataset.digest
    shutil.rmtree(copy_of(dataset.digest))
    open_packed.cache_clear()
    with pytest.raises(DataError, match="the pack that this run began with is not there"):
        open_packed(str(dataset.pack.path), dataset.digest, dataset.splits)


def test_a_copy_that_is_cut_short_is_no_copy(dataset):
    receiver = Receiver(dataset.digest, dataset.splits, dataset.pack.nbytes)
    receiver.receive("meta.json", (dataset.pack.path / "meta.json").read_bytes())
    assert "cannot be read" in receiver.finish()
    assert not any(copy_of(dataset.digest).parent.iterdir())


# A second node in a mount namespace of its own, where the folder with the data is empty.
BLIND_NODE = """
mount -t tmpfs none {hidden} &&
XDG_CACHE_HOME={cache} exec {ray} start --address {address} --num-cpus 1 --block
"""


@pytest.mark.cluster
def test_a_node_that_does_not_see_the_pack_gets_a_copy(tmp_path):
    from ray.cluster_utils import Cluster

    if subprocess.run(["unshare", "-m", "true"], capture_output=True).returncode:
        pytest.skip("no mount namespaces for this user: a second node would see the same disk")
    hidden = tmp_path / "hidden"
    images = make_folder(hidden / "set", per_class=24, side=32)
    head = {**os.environ, "XDG_CACHE_HOME": str(hidden / "cache")}
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1})
    script = BLIND_NODE.format(
        hidden=hidden,
        cache=tmp_path / "blind",
        ray=Path(sys.executable).with_name("ray"),
        address=cluster.address,
    )
    node = subprocess.Popen(["unshare", "-m", "sh", "-c", script], stdout=subprocess.DEVNULL)
    try:
        _wait_for_nodes(cluster.address, 2)
        space = Path(__file__).parents[1] / "search_spaces" / "tiny.yaml"
        words = f"-m gmsearch run --space {space} --budget 30M --data {images} --resolution 32"
        words += f" --trials 4 --epochs 1 --runs-dir {tmp_path} --name r --workers 2"
        line = [sys.executable, *words.split(), "--address", cluster.address]
        done = subprocess.run(line, env=head, capture_output=True, text=True, timeout=600)
        assert done.returncode == 0, done.stderr + done.stdout
        assert done.stdout.count("copying") == 1
        (copy,) = (tmp_path / "blind" / "gmsearch" / "copies").iterdir()
        (pack,) = (hidden / "cache" / "gmsearch" / "packs").iterdir()
        assert read_pack(copy).digest(SEARCHED) == read_pack(pack).digest(SEARCHED) == copy.name
        again = subprocess.run(
            [*line, "--trials", "6"], env=head, capture_output=True, text=True, timeout=600
        )
        assert again.returncode == 0, again.stderr
        assert "copying" not in again.stdout
    finally:
        node.terminate()
        node.wait(30)
        cluster.shutdown()


def _wait_for_nodes(address: str, count: int) -> None:
    """Until Ray knows of so many nodes that are alive."""
    program = f"""
import ray, time
ray.init(address={address!r}, log_to_driver=False)
while sum(node["Alive"] for node in ray.nodes()) < {count}:
    time.sleep(0.5)
"""
    subprocess.run([sys.executable, "-c", program], check=True, capture_output=True, timeout=300)
