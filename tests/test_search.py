"""The main job end to end, with real Ray workers, kills included.

What trains runs as a user has it, in a process of its own, on a small folder of images; what ends
before Ray starts runs in this one.
"""

import json
import os
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path

import optuna
import pandas as pd
import pytest
from pictures import make_folder

from gmsearch import data
from gmsearch.architecture import Architecture
from gmsearch.cli import main
from gmsearch.experiment import read_settings
from gmsearch.network import read_network
from gmsearch.trial import run_trial
from gmsearch.wall_time import WallTime

SPACE = Path(__file__).parents[1] / "search_spaces" / "tiny.yaml"
PATIENCE = 600  # seconds, on a busy machine
# What differs from run to run.
UNTIMED = dict.fromkeys(("seconds", "images_per_second", "evaluation_seconds"))
pytestmark = pytest.mark.filterwarnings("ignore::optuna.exceptions.ExperimentalWarning")
LOOPBACK = {"0100007F", "0000000000000000FFFF00000100007F"}  # 127.0.0.1, also as seen from IPv6


def command(images: Path, runs: Path, *more: str) -> list[str]:
    words = f"-m gmsearch run --space {SPACE} --budget 30M --data {images} --resolution 32"
    return [sys.executable, *words.split(), "--runs-dir", str(runs), "--name", "r", *more]


def run(*words, **options) -> subprocess.CompletedProcess:
    return subprocess.run(*words, capture_output=True, text=True, timeout=PATIENCE, **options)


@pytest.fixture(scope="module")
def images(tmp_path_factory) -> Path:
    return make_folder(tmp_path_factory.mktemp("images") / "set", per_class=24, side=32)


def curves(run_folder: Path) -> dict[str, list[dict]]:
    """The curve of each trial, without the seconds."""
    found = {}
    for file in run_folder.glob("trials/*/metrics.jsonl"):
        lines = [json.loads(line) for line in file.read_text().splitlines()]
        found[file.parent.name] = [line | UNTIMED for line in lines]
    return found


def stored_states(run_folder: Path) -> list[str]:
    study = optuna.load_study(storage=f"sqlite:///{run_folder}/study.db", study_name="r")
    return [trial.state.name for trial in study.trials]


def uninterrupted(run_folder: Path, scratch: Path, trial_id: str) -> list[dict]:
    """The curve of a trial trained in this process, without Ray and without a stop."""
    experiment = read_settings(run_folder / "experiment.yaml")
    dataset = data.load(experiment.data, resolution=32, seed=0)
    architecture = read_network(run_folder / "trials" / trial_id / "architecture.json")
    *_, curve = run_trial(architecture, dataset, experiment.recipe, scratch / trial_id, seed=0)
    return [result.to_dict() | UNTIMED for result in curve]


def wait_until(condition, process: subprocess.Popen) -> None:
    deadline = time.monotonic() + PATIENCE
    while not condition():
        assert process.poll() is None, "the search ended too early"
        assert time.monotonic() < deadline
        time.sleep(0.05)


def workers_of(driver: int) -> list[int]:
    """Processes of Ray's that train for a driver: they run in its session."""
    listing = run(["ps", "-eo", "pid,sess,args"]).stdout.splitlines()[1:]
    rows = [line.split(None, 2) for line in listing]
    return [
        int(pid) for pid, session, args in rows if int(session) == driver and "ray::Impl" in args
    ]


def listening(session: int) -> set[str]:
    """Addresses, in /proc's hexadecimal, at which the processes of a session listen."""
    listing = run(["ps", "-eo", "pid,sess"]).stdout.splitlines()[1:]
    pids = [pid for pid, owner in map(str.split, listing) if int(owner) == session]
    sockets = set()
    for pid in pids:
        for link in Path(f"/proc/{pid}/fd").glob("*"):
            try:
                sockets.add(os.readlink(link))
            except OSError:  # closed, or its process ended, since it was listed
                continue
    rows = []
    for table in ("tcp", "tcp6"):
        rows += map(str.split, Path(f"/proc/net/{table}").read_text().splitlines()[1:])
    listens = [row for row in rows if row[3] == "0A" and f"socket:[{row[9]}]" in sockets]
    return {row[1].split(":")[0] for row in listens}


def test_a_run_leaves_a_front_and_the_same_line_again_trains_nothing(
    images, tmp_path, monkeypatch, capsys
):
    line = command(images, Path("."), "--trials", "5", "--epochs", "1")
    before = time.time()
    done = run(line, cwd=tmp_path)
    after = time.time()
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""  # Ray is silent
    assert "front: top1 against macs" in done.stdout and "GmNet" in done.stdout
    folder = tmp_path / "r"

    table = pd.read_csv(folder / "trials.csv")
    assert table.state.tolist() == ["complete"] * 5
    assert table.id.is_unique and (table.macs <= 30_000_000).all()
    assert table.baseline.tolist()[:2] == ["GmNet", "no gates"]
    assert stored_states(folder) == ["COMPLETE"] * 5

    front = json.loads((folder / "front.json").read_text())
    expected = {
        row.id
        for row in table.itertuples()
        if not ((table.top1 >= row.top1) & (table.macs < row.macs)).any()
        and not ((table.top1 > row.top1) & (table.macs <= row.macs)).any()
    }
    assert {entry["id"] for entry in front} == expected
    assert [e["top1"] for e in front] == sorted((e["top1"] for e in front), reverse=True)
    for entry in front:
        assert Architecture.from_dict(entry["architecture"]).id == entry["id"]
    assert (folder / "front.png").stat().st_size > 10_000
    leftovers = {p.name for p in folder.iterdir() if p.name.startswith(".")}
    assert leftovers <= {".lock"}

    (session,) = json.loads((folder / "environment.json").read_text())
    spent = WallTime.from_dict(session["wall_time"])
    lines = [json.loads(p.read_text()) for p in folder.glob("trials/*/metrics.jsonl")]
    evaluation = sum(line["evaluation_seconds"] for line in lines)
    assert 0 < evaluation == pytest.approx(spent.evaluation, abs=1e-3)
    assert sum(line["seconds"] for line in lines) == pytest.approx(
        spent.training + spent.evaluation, abs=1e-2
    )
    assert spent.in_words() in done.stdout.replace("\n", " ")
    assert all(share >= 0 for share in spent.shares.values()) and spent.shares["training"] > 0
    drawn = (folder / "front.png").stat().st_mtime - before
    assert drawn - 0.5 <= spent.wall <= after - before  # from the start of the process
    assert spent.answer > 0

    before = {p: p.stat().st_mtime for p in folder.glob("trials/*/*")}
    monkeypatch.chdir(tmp_path)
    monkeypatch.delattr("gmsearch.cluster.connected")  # what is left to do needs no Ray
    assert main(line[3:]) == 0 and "5 trainings have ended" in capsys.readouterr().out
    assert main(["report", str(folder), "--text"]) == 0
    told = capsys.readouterr().out
    assert f"where the time of session 1 went: {spent.in_words()}" in told
    assert "where the time of session 2 went: nothing was left to train" in told
    assert before == {p: p.stat().st_mtime for p in folder.glob("trials/*/*")}

    assert main(command(images, tmp_path, "--trials", "5", "--epochs", "2")[3:]) == 2
    refused = capsys.readouterr().err
    assert "exists with other settings (recipe.num_epochs is 1 there and 2 here)" in refused
    assert refused.count("\n") == 1


def test_nothing_is_lost_when_a_worker_and_then_the_driver_are_killed(images, tmp_path):
    one_thread_each = ["--workers", str(len(os.sched_getaffinity(0)))]
    line = command(images, tmp_path, "--trials", "4", "--epochs", "25", *one_thread_each)
    folder = tmp_path / "r"
    on_cpu = {**os.environ, "CUDA_VISIBLE_DEVICES": ""}
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    driver = subprocess.Popen(line, **quiet, env=on_cpu, start_new_session=True)
    try:
        wait_until(lambda: any(len(c) >= 3 for c in curves(folder).values()), driver)
        assert {"0100007F"} <= listening(driver.pid) <= LOOPBACK
        os.kill(workers_of(driver.pid)[0], signal.SIGKILL)
        epochs = sum(map(len, curves(folder).values()))
        wait_until(lambda: sum(map(len, curves(folder).values())) >= epochs + 15, driver)
    finally:
        driver.kill()
        driver.wait()
    epochs_at_kill = {trial: len(curve) for trial, curve in curves(folder).items()}
    assert any(0 < epochs < 25 for epochs in epochs_at_kill.values())

    done = run(
        [sys.executable, "-m", "gmsearch", "resume", str(folder), *one_thread_each], env=on_cpu
    )
    assert done.returncode == 0, done.stderr
    assert stored_states(folder) == ["COMPLETE"] * 4
    found = curves(folder)
    assert len(found) == 4 and set(epochs_at_kill) <= set(found)
    for trial_id, epochs in epochs_at_kill.items():
        assert found[trial_id] == uninterrupted(folder, tmp_path / "alone", trial_id), epochs
    table = pd.read_csv(folder / "trials.csv")
    assert table.epochs.tolist() == [25] * 4


def stopped_by(number: signal.Signals, images: Path, tmp_path: Path) -> Path:
    """Stops a run in the middle of its first trial; returns its folder."""
    runs = tmp_path / "my <runs>"
    folder = runs / "r"
    line = command(images, runs, "--trials", "4", "--epochs", "40", "--workers", "1")
    stopped = subprocess.Popen(
        line, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True
    )
    try:
        wait_until(lambda: any(len(c) >= 3 for c in curves(folder).values()), stopped)
        stopped.send_signal(number)
        output, errors = stopped.communicate(timeout=300)
    finally:
        stopped.kill()
    assert stopped.returncode == 130, errors
    told = [line for line in output.splitlines() if line.startswith("next: ")]
    words = ["next:", "gmsearch", "resume", str(folder)]  # as a shell takes them
    assert [shlex.split(line) for line in told] == [words] and errors == ""
    assert stored_states(folder) == ["RUNNING"]
    return folder


def test_a_polite_kill_stops_cleanly(images, tmp_path):
    stopped_by(signal.SIGTERM, images, tmp_path)


# Ray would keep Ctrl-C for itself, and what comes after the trainings could not be stopped at once.
WATCHED = """
import signal, sys
from gmsearch.cli import main

before = signal.getsignal(signal.SIGINT)
assert main(sys.argv[1:]) == 0
assert signal.getsignal(signal.SIGINT) is before
"""


def test_ctrl_c_keeps_everything_and_a_failed_trial_keeps_its_reason(images, tmp_path):
    """Between stop and resume a file of the trial becomes a folder: it cannot be written. After the
    trainings, Ctrl-C is what it was.
    """
    folder = stopped_by(signal.SIGINT, images, tmp_path)
    (trial_id,) = curves(folder)
    blocked = folder / "trials" / trial_id / "architecture.json"
    blocked.unlink()
    blocked.mkdir()
    done = run([sys.executable, "-c", WATCHED, "resume", str(folder), "--trials", "2"])
    assert done.returncode == 0, done.stderr
    table = pd.read_csv(folder / "trials.csv")
    assert table.state.tolist() == ["failed", "complete"]
    assert "IsADirectoryError" in table.reason[0]
    assert json.loads((folder / "front.json").read_text())[0]["number"] == 1


def test_a_mistake_that_shows_late_leaves_nothing_either(images, tmp_path, capsys):
    assert main(command(images, tmp_path, "--address", "127.0.0.1:1")[3:]) == 2
    refused = capsys.readouterr().err
    assert "no Ray cluster at 127.0.0.1:1" in refused and refused.count("\n") == 1
    assert not (tmp_path / "r").exists()
