"""What a search does when its workers, its Ray, its disk or its study fail it: real kills, each in
a run of its own.
"""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest
import torch
import yaml
from faults import SITE
from in_process import gmsearch
from pictures import make_folder
from test_search import SPACE, curves, run, uninterrupted, wait_until
from test_search import command as the_command

ON_CPU = {**os.environ, "CUDA_VISIBLE_DEVICES": ""}


def command(images: Path, runs: Path, *more: str) -> list[str]:
    return the_command(images, runs, "--workers", "1", "--early-stop", "off", *more)


@pytest.fixture(scope="module")
def images(tmp_path_factory) -> Path:
    return make_folder(tmp_path_factory.mktemp("images") / "set", per_class=24, side=32)


def resume(folder: Path, *more: str, **options) -> subprocess.CompletedProcess:
    line = [sys.executable, "-m", "gmsearch", "resume", str(folder), "--workers", "1", *more]
    return run(line, env=ON_CPU, **options)


def alone(folder: Path, scratch: Path, trial_id: str) -> list[dict]:
    """The curve of a trial without a stop, with as many threads as the one worker had."""
    torch.set_num_threads(len(os.sched_getaffinity(0)))
    try:
        return uninterrupted(folder, scratch, trial_id)
    finally:
        torch.set_num_threads(1)


def is_there(process: int) -> bool:
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def test_a_crash_an_error_and_a_hang_cost_a_trial_at_most(images, tmp_path):
    """The first training crashes twice after the same epoch, the next has an error in its code, the
    third hangs once and goes on; checkpoints are on a shelf that all nodes see.
    """
    faults = tmp_path / "faults"
    faults.mkdir()
    for fault in ("crash", "raise", "hang"):
        (faults / fault).touch()
    site = tmp_path / "site"
    site.mkdir()
    (site / "sitecustomize.py").write_text(SITE)
    path = os.pathsep.join(filter(None, [str(site), os.environ.get("PYTHONPATH")]))
    line = command(images, tmp_path, "--trials", "4", "--epochs", "2", "--patience", "0.5")
    line += ["--checkpoints", str(tmp_path / "shared")]
    done = run(line, env={**ON_CPU, "PYTHONPATH": path, "FAULTS": str(faults)})
    assert done.returncode == 0, done.stderr
    table = pd.read_csv(tmp_path / "r" / "trials.csv")
    assert table.state.tolist() == ["failed", "failed", "complete", "complete"]
    assert table.epochs.tolist() == [1, 1, 2, 2]
    died, wrong = table.reason[:2]
    assert died.startswith("its worker died: ") and died.endswith(" (twice, after epoch 1)")
    assert "IndexError: list index out of range (at " in wrong and "sitecustomize.py:" in wrong
    hung = table.id[2]
    said, process = (faults / f"lot-{hung}").read_text().split()
    assert said == "hung" and not is_there(int(process))
    assert curves(tmp_path / "r")[hung] == alone(tmp_path / "r", tmp_path / "alone", hung)
    (shelf,) = (tmp_path / "shared").iterdir()
    assert {file.stem for file in shelf.iterdir()} == {"probe", *table.id}
    assert all((tmp_path / "r" / "trials" / i / "checkpoint.pt").exists() for i in table.id[2:])


def test_a_run_whose_ray_dies_ends_in_a_line_and_goes_on_narrower_in_a_journal(images, tmp_path):
    """The journal loses its last line to a power cut, too."""
    folder, journal = tmp_path / "r", tmp_path / "studies.log"
    line = command(images, tmp_path, "--trials", "3", "--epochs", "20", "--storage", str(journal))
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    driver = subprocess.Popen(line, **pipes, env=ON_CPU, start_new_session=True)
    try:
        wait_until(lambda: any(len(c) >= 3 for c in curves(folder).values()), driver)
        listing = run(["ps", "-ww", "-eo", "pid,sess,args"]).stdout.splitlines()
        rows = [row.split(None, 2) for row in listing if "raylet/raylet --" in row]
        (raylet,) = [int(pid) for pid, session, _ in rows if session == str(driver.pid)]
        os.kill(raylet, signal.SIGKILL)
        _, errors = driver.communicate(timeout=300)
    finally:
        driver.kill()
    assert driver.returncode == 1
    # Ray has its own words for it around ours.
    assert sum(
        line.startswith("gmsearch: Ray on this machine died") for line in errors.splitlines()
    )
    (begun,) = curves(folder)
    with journal.open("a") as file:
        file.write('{"op_code":')

    space = yaml.safe_load(SPACE.read_text())
    space["per_network"] |= {"base_width": [8, 12], "form": ["self"]}
    narrow = tmp_path / "narrow.yaml"
    narrow.write_text(yaml.safe_dump(space))
    done = resume(folder, "--space", str(narrow))
    assert done.returncode == 0, done.stderr
    assert "these options went away: base_width 16; form norm, twin" in done.stdout
    table = pd.read_csv(folder / "trials.csv")
    assert table.state.tolist() == ["complete"] * 3 and table.epochs.tolist() == [20] * 3
    assert curves(folder)[begun] == alone(folder, tmp_path / "alone", begun)
    assert table.base_width[2] in (8, 12) and table.form[2] == "self"
    assert not (folder / "study.db").exists()
    report = gmsearch("report", folder, "--text")
    assert report.returncode == 0 and begun in report.stdout


SMALL_DISK = "mount -t tmpfs -o size={size} none {place} && exec {command}"


def test_a_full_disk_is_one_line_and_leaves_nothing(images, tmp_path):
    if subprocess.run(["unshare", "-m", "true"], capture_output=True).returncode:
        pytest.skip("no mount namespaces for this user: no disk that is full")
    line = " ".join(command(images, tmp_path / "small", "--trials", "2", "--epochs", "1"))
    (tmp_path / "small").mkdir()
    script = SMALL_DISK.format(size="64k", place=tmp_path / "small", command=line)
    script = script.replace("exec ", "") + f"; code=$?; ls -A {tmp_path}/small; exit $code"
    done = run(["unshare", "-m", "sh", "-c", script], env=ON_CPU)
    assert done.returncode == 2
    assert "full" in done.stderr or "No space left" in done.stderr
    assert done.stderr.count("\n") == 1
    assert not done.stdout.endswith("r\n")
