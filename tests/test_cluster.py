"""A search over several nodes, and with its study in PostgreSQL: real nodes, a real server."""

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

import pandas as pd
import pytest
from pictures import make_folder
from test_nodes import BLIND_NODE
from test_search import command, curves, run, uninterrupted, wait_until

pytestmark = pytest.mark.cluster

HIDDEN_PASSWORD = "s3cret"


@pytest.fixture(scope="module")
def images(tmp_path_factory) -> Path:
    return make_folder(tmp_path_factory.mktemp("images") / "set", per_class=24, side=32)


def kill_session(session: int) -> None:
    """Kills a node with all that it started."""
    for line in run(["ps", "-eo", "pid,sess"]).stdout.splitlines()[1:]:
        pid, owner = map(int, line.split())
        if owner == session:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)


def under_way(folder: Path) -> dict[str, list[dict]]:
    """The curves that have not come to their end."""
    return {trial: curve for trial, curve in curves(folder).items() if len(curve) < 100}


def test_a_node_without_the_runs_disk_joins_and_is_lost_in_mid_run(images, tmp_path):
    """Its trial goes on from its last epoch on the other node, with the same numbers."""
    from ray.cluster_utils import Cluster

    # Without mount namespaces of its own, a user's second node sees the same disk.
    unshare = ["unshare", "-m"]
    blind = subprocess.run([*unshare, "true"], capture_output=True).returncode == 0
    runs = tmp_path / "runs"
    folder = runs / "r"
    runs.mkdir()
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1})
    line = command(images, runs, "--trials", "3", "--epochs", "100", "--address", cluster.address)
    line += ["--early-stop", "off"]
    driver = subprocess.Popen(line, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    node = None
    try:
        wait_until(lambda: len(curves(folder)) == 1, driver)
        (first,) = curves(folder)
        script = BLIND_NODE.format(
            hidden=runs,
            cache=tmp_path / "blind",
            ray=Path(sys.executable).with_name("ray"),
            address=cluster.address,
        )
        if not blind:
            unshare, script = [], script.replace("mount -t tmpfs none", "echo")
        node = subprocess.Popen(
            [*unshare, "sh", "-c", script], stdout=subprocess.DEVNULL, start_new_session=True
        )
        wait_until(lambda: len(under_way(folder)) == 2, driver)  # a trial on each node
        second = list(under_way(folder).keys() - {first})[-1]
        wait_until(lambda: len(curves(folder)[second]) >= 3, driver)
        assert (folder / "trials" / second / "checkpoint.pt").exists()
        kill_session(node.pid)
        output, errors = driver.communicate(timeout=600)
    finally:
        driver.kill()
        driver.wait()
        if node is not None:
            kill_session(node.pid)
            node.wait()
        cluster.shutdown()
    assert driver.returncode == 0, errors
    assert "nodes: 2, trials at once: 1 -> 2" in output
    table = pd.read_csv(folder / "trials.csv")
    assert table.state.tolist() == ["complete"] * 3 and table.epochs.tolist() == [100] * 3
    found = curves(folder)
    epochs = [len(curve) for curve in found.values()]
    assert epochs == [100] * 3
    assert found[second] == uninterrupted(folder, tmp_path / "alone", second)


def programs_of_postgres() -> Path | None:
    """The folder of initdb, where PostgreSQL is installed; Debian keeps it off the PATH."""
    places = [Path(found).parent for found in [shutil.which("initdb")] if found]
    places += sorted(Path("/usr/lib/postgresql").glob("*/bin"), reverse=True)
    return next((place for place in places if (place / "initdb").exists()), None)


@pytest.fixture(scope="module")
def postgres():
    """A server of its own, with a user and a password: its URL without the password."""
    programs = programs_of_postgres()
    if programs is None:
        pytest.skip("PostgreSQL is not installed; apt-get install postgresql")
    pytest.importorskip("psycopg", reason="pip install psycopg[binary]")
    place = Path(tempfile.mkdtemp(prefix="gmsearch-postgres-"))
    (place / "password").write_text(HIDDEN_PASSWORD)
    options = {"check": True, "capture_output": True, "cwd": "/", "timeout": 120}
    if os.geteuid() == 0:  # which PostgreSQL refuses
        options["user"] = "nobody"
        for path in (place, place / "password"):
            shutil.chown(path, "nobody")
    data, port = place / "data", 20000 + os.getpid() % 10000
    words = f"--username me --pwfile {place}/password --auth scram-sha-256"
    subprocess.run([programs / "initdb", "-D", data, *words.split()], **options)
    served = f"-c port={port} -c listen_addresses=127.0.0.1 -c unix_socket_directories={place}"
    control = [programs / "pg_ctl", "-D", data, "-w", "-l", place / "log"]
    subprocess.run([*control, "-o", served, "start"], **options)
    try:
        yield f"postgresql://me@127.0.0.1:{port}/postgres"
    finally:
        subprocess.run([*control, "-m", "immediate", "stop"], **options)
        shutil.rmtree(place, ignore_errors=True)


def test_a_search_in_postgres_survives_a_kill_and_tells_no_password(images, tmp_path, postgres):
    folder = tmp_path / "r"
    told = postgres.replace("me@", f"me:{HIDDEN_PASSWORD}@")
    line = command(images, tmp_path, "--trials", "2", "--epochs", "12", "--workers", "1")
    line += ["--early-stop", "off"]
    driver = subprocess.Popen([*line, "--storage", told], stdout=subprocess.DEVNULL)
    try:
        wait_until(lambda: any(len(c) >= 3 for c in curves(folder).values()), driver)
    finally:
        driver.kill()
        driver.wait()
    assert not (folder / "study.db").exists()
    assert postgres in (folder / "experiment.yaml").read_text()
    resume = [sys.executable, "-m", "gmsearch", "resume", str(folder), "--workers", "1"]
    refused = run(resume, env={**os.environ, "PGPASSWORD": "wrong"})
    assert refused.returncode == 2 and refused.stderr.count("\n") == 1
    assert f"--storage {postgres}: cannot be used: " in refused.stderr
    known = {**os.environ, "PGPASSWORD": HIDDEN_PASSWORD}
    done = run(resume, env=known)
    assert done.returncode == 0, done.stderr
    table = pd.read_csv(folder / "trials.csv")
    assert table.state.tolist() == ["complete"] * 2 and table.epochs.tolist() == [12] * 2
    report = run([sys.executable, "-m", "gmsearch", "report", str(folder), "--text"], env=known)
    assert report.returncode == 0 and table.id[0] in report.stdout
    for file in folder.rglob("*"):
        assert not file.is_file() or HIDDEN_PASSWORD.encode() not in file.read_bytes(), file
    environment = json.loads((folder / "environment.json").read_text())
    assert postgres in environment[0]["command"]

    other = run([*line, "--runs-dir", str(tmp_path / "other"), "--storage", told])
    assert other.returncode == 2
    assert "has a study 'r' of another run already; choose another --name" in other.stderr
    assert HIDDEN_PASSWORD not in other.stderr and not (tmp_path / "other" / "r").exists()


WHAT_A_WORKER_HAS = """
import os, sys
import ray
from gmsearch.cluster import connected
with connected(sys.argv[1]):
    print(repr(ray.get(ray.remote(lambda: os.environ.get("GMSEARCH_OFF")).remote())))
"""


def test_what_is_switched_off_is_so_on_nodes_whatever_they_were_started_with(monkeypatch):
    from ray.cluster_utils import Cluster

    monkeypatch.setenv("GMSEARCH_OFF", "depthwise")
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1})
    try:
        for off, expected in (("", "''"), ("graph, gate", "'gate,graph'")):
            done = subprocess.run(
                [sys.executable, "-c", WHAT_A_WORKER_HAS, cluster.address],
                env={**os.environ, "GMSEARCH_OFF": off},
                capture_output=True,
                text=True,
                timeout=300,
                check=True,
            )
            assert done.stdout.split() == [expected]
    finally:
        cluster.shutdown()
