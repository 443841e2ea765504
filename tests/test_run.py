"""Experiments and run folders: they read back, refuse to be mixed, and survive a kill."""

import csv
import json
import os
import shlex
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gmsearch import lock
from gmsearch.architecture import Architecture
from gmsearch.cost import cost
from gmsearch.errors import SettingsError
from gmsearch.experiment import Experiment, make_settings, read_settings
from gmsearch.files import write_atomically
from gmsearch.finalists import choose, trained_in_full
from gmsearch.gmnet import gmnet, without_gates
from gmsearch.recipe import Recipe
from gmsearch.record import TrialRecord
from gmsearch.run import RunData, RunFolder, check_run, write_settings
from gmsearch.space_file import read_space, read_space_data
from gmsearch.trained import find_trained

DATA = RunData(90, 10, ("a", "b"))
TINY = Path(__file__).parents[1] / "search_spaces" / "tiny.yaml"
BASE = {"name": "a-run", "space": read_space_data(TINY), "budget": 30_000_000}
# For every setting something that differs from its default and from BASE.
OTHER = {
    "name": "b",
    "space": {**BASE["space"], "name": "huge"},
    "budget": 40_000_000,
    "objectives": ("top1", "params", "activations"),
    "data": "/data/imagenet",
    "data_digest": "0123456789ab",
    "resolution": 64,
    "recipe": Recipe(num_epochs=8),
    "seed": 1,
    "sampler": "random",
    "early_stop": "off",
    "frequency": (12.0, 24.0),
    "frequency_share": 0.5,
    "trials": 32,
    "workers": 2,
    "gpus_per_trial": 0.5,
    "max_hours": 1.5,
    "device_hours": 2.5,
    "address": "auto",
    "stream": True,
    "cache": "/cache",
    "tensorboard": True,
    "wandb": "project",
    "mlflow": "http://127.0.0.1:5000",
    "checkpoints": "/shared",
    "patience": 30.0,
    "storage": "postgresql://me@db/studies",
    "narrowed": {**BASE["space"], "name": "narrow"},
}
# How much is done and where, not what is searched.
EFFORT = ("trials", "workers", "gpus_per_trial", "max_hours", "device_hours", "address", "cache")
EFFORT += ("tensorboard", "wandb", "mlflow", "checkpoints", "patience", "storage", "narrowed")


def experiment(**settings) -> Experiment:
    return make_settings(Experiment, {**BASE, **settings})


# Experiments


def test_the_other_values_cover_every_setting():
    assert set(OTHER) == set(Experiment.model_fields)
    assert set(EFFORT) < set(OTHER)


@given(
    st.fixed_dictionaries({}, optional={name: st.just(value) for name, value in OTHER.items()}),
    st.builds(
        Recipe,
        num_epochs=st.integers(1, 999),
        lr=st.floats(1e-8, 10),
        weight_decay=st.floats(0, 10),
        flip=st.booleans(),
        precision=st.sampled_from(["auto", "bf16", "fp32"]),
    ),
)
def test_an_experiment_reads_back_from_yaml_as_it_was(tmp_path_factory, settings, recipe):
    path = tmp_path_factory.getbasetemp() / "experiment.yaml"
    written = experiment(**{**settings, "recipe": recipe})
    path.write_text(written.to_yaml(), encoding="utf-8")
    again = read_settings(path)
    assert again == written
    assert again.to_yaml() == written.to_yaml()
    assert again.differences(written) == []


def test_the_space_of_an_experiment_is_that_of_its_file():
    assert experiment().search_space(Path("experiment.yaml")) == read_space(TINY)


@pytest.mark.parametrize("name", sorted(set(OTHER) - set(EFFORT) - {"space", "recipe"}))
def test_a_setting_that_differs_is_named_with_both_values(name):
    there, here = experiment(), experiment(**{name: OTHER[name]})
    values = [getattr(one, name) for one in (there, here)]
    values = [list(value) if isinstance(value, tuple) else value for value in values]
    assert there.differences(here) == [f"{name} is {values[0]} there and {values[1]} here"]


def test_a_setting_inside_another_is_named_by_its_path():
    there, here = experiment(), experiment(recipe=Recipe(num_epochs=8), space=OTHER["space"])
    assert there.differences(here) == [
        "recipe.num_epochs is 6 there and 8 here",
        "space.name is tiny there and huge here",
    ]
    fixed = {key: value for key, value in BASE["space"].items() if key != "per_stage"}
    (difference,) = there.differences(experiment(space=fixed))
    assert difference.startswith("space.per_stage is {'placement': ")
    assert difference.endswith(" there and None here")


@pytest.mark.parametrize("name", EFFORT)
def test_effort_is_no_difference(name):
    assert experiment().differences(experiment(**{name: OTHER[name]})) == []


NAME = "allowed: letters, digits, '.', '_' and '-', a letter or digit first"


@pytest.mark.parametrize(
    "name", ["a/b", "../b", "", "-a", ".a", "a b", "a\n", "ä", "a\\b", "300M+"]
)
def test_a_bad_run_name_is_refused(name):
    with pytest.raises(SettingsError) as refusal:
        experiment(name=name)
    assert str(refusal.value) == f"run name {name!r}; {NAME}"


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"budget": 0}, "--budget is 0; input should be greater than or equal to 1"),
        ({"seed": -1}, "--seed is -1; input should be greater than or equal to 0"),
        ({"trials": 1_000_001}, "--trials is 1000001; input should be less than or equal to 1000"),
        ({"max_hours": 0}, "--max-hours is 0; input should be greater than 0"),
        ({"max_hours": float("nan")}, "--max-hours is nan; input should be a finite number"),
        ({"gpus_per_trial": 0}, "--gpus-per-trial is 0; input should be greater than 0"),
        ({"sampler": "grid"}, "sampler 'grid'; allowed: gated, random, tpe, nsga2, gp, evolution"),
        (
            {"objectives": ("macs", "top1")},
            "objectives 'macs,top1'; allowed: top1, then one of",
        ),
        ({"objectives": ("top1",)}, "objectives 'top1'; allowed: top1, then one of macs, para"),
        (
            {"objectives": ("top1", "macs", "macs")},
            "objectives 'top1,macs,macs'; allowed: top1,",
        ),
        (
            {"objectives": ("top1", "ms")},
            "objective 'ms'; allowed: top1, macs, params, activations",
        ),
    ],
)
def test_a_bad_setting_is_refused(settings, message):
    with pytest.raises(SettingsError) as refusal:
        experiment(**settings)
    assert str(refusal.value).startswith(message)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        (
            "budget:",
            "bugdet:",
            r":\d+: unknown key 'bugdet'; did you mean 'budget'\? allowed: name,",
        ),
        ("  num_epochs:", "  num_epoch:", r":\d+: recipe\.num_epoch: "),
        ("seed: 0", "seed: one", r":\d+: seed: input should be a valid integer"),
        ("budget: 30000000\n", "", r":1: 'budget' is missing"),
        ("name: a-run", "3: x", r":\d+: "),
        ("name: a-run", "name: [", r":\d+: not valid YAML: "),
    ],
)
def test_a_mistake_in_an_experiment_file_is_refused_with_its_place(tmp_path, old, new, message):
    path, text = tmp_path / "experiment.yaml", experiment().to_yaml()
    assert text.count(old) == 1
    path.write_text(text.replace(old, new))
    with pytest.raises(SettingsError, match=f"^{path}{message}"):
        read_settings(path)


def test_a_space_that_no_longer_reads_is_refused_with_the_file_and_the_axis():
    broken = experiment(space={**BASE["space"], "per_network": {"kernel": [4]}})
    with pytest.raises(SettingsError) as refusal:
        broken.search_space(Path("runs/a/experiment.yaml"))
    assert str(refusal.value) == (
        "runs/a/experiment.yaml: per_network.kernel: 4; allowed: 3, 5, 7, 9"
    )


# The folder


def test_a_folder_that_is_missing_or_empty_is_free_and_stays_as_it_is(tmp_path):
    assert check_run(RunFolder(tmp_path / "missing"), experiment()) is False
    assert check_run(RunFolder(tmp_path), experiment()) is False
    assert list(tmp_path.iterdir()) == []


def test_a_run_with_the_same_settings_goes_on(tmp_path, monkeypatch):
    monkeypatch.setenv("GMSEARCH_OFF", "graph,gate")
    folder = RunFolder(tmp_path / "deep" / "run")
    write_settings(folder, experiment(), DATA)
    assert check_run(folder, experiment()) is True
    assert check_run(folder, experiment(**{name: OTHER[name] for name in EFFORT})) is True
    assert read_settings(folder.experiment_file) == experiment()
    (environment,) = json.loads((folder.path / "environment.json").read_text())
    assert environment["command"] == sys.argv
    assert environment["packages"]["numpy"] == np.__version__
    assert environment["switched_off"] == ["gate", "graph"]


def test_a_run_goes_on_with_the_same_data_only(tmp_path):
    folder = RunFolder(tmp_path / "run")
    write_settings(folder, experiment(data_digest="0123456789ab"), DATA)
    assert check_run(folder, experiment()) is True  # the data is not read yet
    assert check_run(folder, experiment(data_digest="0123456789ab")) is True
    with pytest.raises(SettingsError, match="data_digest is 0123456789ab there and ba98 here"):
        check_run(folder, experiment(data_digest="ba98"))


def test_a_run_with_other_settings_is_refused_with_the_first_three(tmp_path):
    folder = RunFolder(tmp_path)
    write_settings(folder, experiment(), DATA)
    other = {name: OTHER[name] for name in ("budget", "data", "seed", "sampler")}
    with pytest.raises(SettingsError) as refusal:
        check_run(folder, experiment(**other))
    assert str(refusal.value) == (
        f"{tmp_path} exists with other settings (data is bands there and /data/imagenet here; "
        "seed is 0 there and 1 here; budget is 30000000 there and 40000000 here); "
        "choose another --name"
    )


def test_a_folder_or_file_of_others_is_refused_and_left_alone(tmp_path):
    (tmp_path / "foreign").mkdir()
    (tmp_path / "foreign" / "thesis.tex").write_text("precious")
    (tmp_path / "file").write_text("precious")
    for name in ("foreign", "file"):
        with pytest.raises(SettingsError) as refusal:
            check_run(RunFolder(tmp_path / name), experiment())
        assert str(refusal.value) == (
            f"{tmp_path / name} exists and is not a run (no experiment.yaml); choose another --name"
        )
    assert (tmp_path / "file").read_text() == "precious"
    assert [path.name for path in (tmp_path / "foreign").iterdir()] == ["thesis.tex"]


def interrupt(monkeypatch, after):
    """From now on the process dies at the replacing of a file, after so many that succeed."""
    replaced = []

    def replace(source, target, real=os.replace):
        if len(replaced) == after:
            raise KeyboardInterrupt
        replaced.append(target)
        real(source, target)

    monkeypatch.setattr(os, "replace", replace)


def test_an_interrupted_write_leaves_the_old_contents(tmp_path, monkeypatch):
    path = tmp_path / "front.json"
    write_atomically(path, "old ä\n")
    interrupt(monkeypatch, after=0)
    with pytest.raises(KeyboardInterrupt):
        write_atomically(path, "new\n" * 1000)
    assert path.read_text(encoding="utf-8") == "old ä\n"
    with pytest.raises(KeyboardInterrupt):
        write_atomically(tmp_path / "fresh.json", "new\n")
    assert not (tmp_path / "fresh.json").exists()
    monkeypatch.undo()
    write_atomically(path, "new\n")
    assert path.read_text() == "new\n"


@pytest.mark.parametrize("after", [0, 1])
def test_a_run_that_was_killed_while_its_folder_was_made_starts_again(tmp_path, monkeypatch, after):
    folder = RunFolder(tmp_path / "run")
    interrupt(monkeypatch, after)
    with folder.locked(), pytest.raises(KeyboardInterrupt):
        write_settings(folder, experiment(), DATA)
    monkeypatch.undo()
    check_run(folder, experiment())
    write_settings(folder, experiment(), DATA)
    assert check_run(folder, experiment()) is True


# The lock

HOLD = """
import sys, time
from pathlib import Path
from gmsearch.run import RunFolder
with RunFolder(Path(sys.argv[1])).locked():
    print("held", flush=True)
    time.sleep(60)
"""


def test_a_second_process_is_refused_until_the_first_is_gone_even_by_a_kill(tmp_path):
    folder = RunFolder(tmp_path)
    holder = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(tmp_path)], stdout=subprocess.PIPE, text=True
    )
    with holder:
        try:
            assert holder.stdout.readline() == "held\n"
            for _ in range(2):  # a refusal must not wipe out whose lock it is
                with pytest.raises(SettingsError) as refusal, folder.locked():
                    pass
                who = f"process {holder.pid} on {socket.gethostname()}"
                assert str(refusal.value) == (
                    f"{tmp_path}: another gmsearch ({who}) "
                    "works on this run; wait for it or stop it"
                )
        finally:
            holder.send_signal(signal.SIGKILL)
            holder.wait()
    for _ in range(2):
        with folder.locked():
            assert (tmp_path / ".lock").read_text().split()[0] == str(os.getpid())
        assert (tmp_path / ".lock").read_text() == ""


def test_a_driver_on_another_host_is_known_by_its_pulse(tmp_path, monkeypatch):
    """The other host's lock is not seen here: a process writes the file as that host would."""
    monkeypatch.setattr(lock, "BEAT", 0.1)
    file = tmp_path / ".lock"
    beat = "import sys, time, pathlib\nfor i in range(999):\n"
    beat += "    pathlib.Path(sys.argv[1]).write_text(f'7 elsewhere {i}'); time.sleep(0.1)"
    with subprocess.Popen([sys.executable, "-c", beat, str(file)]) as other:
        try:
            while not (file.exists() and file.read_text()):
                time.sleep(0.01)
            with (
                pytest.raises(SettingsError, match="process 7 on elsewhere"),
                RunFolder(tmp_path).locked(),
            ):
                pass
        finally:
            other.kill()
    with RunFolder(tmp_path).locked():  # its pulse is gone
        assert file.read_text().split()[0] == str(os.getpid())


def test_a_file_that_is_held_is_never_empty(tmp_path, monkeypatch):
    """Not even between two pulses, to one who reads it at any time."""
    monkeypatch.setattr(lock, "BEAT", 1e-4)
    program = """
import sys
from pathlib import Path
seen = [Path(sys.argv[1]).read_text() for _ in range(20_000)]
print(seen.count(""), len(set(seen)))
"""
    with RunFolder(tmp_path).locked():
        file = str(tmp_path / ".lock")
        told = subprocess.check_output([sys.executable, "-c", program, file], text=True)
    empty, different = map(int, told.split())
    assert empty == 0 and different > 10


def test_a_driver_that_slept_stops_where_another_host_took_its_run(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(lock, "BEAT", 0.1)
    with pytest.raises(KeyboardInterrupt), RunFolder(tmp_path).locked():
        (tmp_path / ".lock").write_text("7 elsewhere 1")
        time.sleep(10)
    assert "process 7 on elsewhere" in capsys.readouterr().err
    assert (tmp_path / ".lock").read_text() == "7 elsewhere 1"


# Tables


def record(number, architecture, **values) -> TrialRecord:
    found = cost(architecture)
    costs = {"macs": found.macs, "params": found.params, "activations": found.activations}
    return TrialRecord(number, architecture.id, network=architecture, **costs, **values)


S1 = gmnet("gmnet_s1")
CURVE = [{"top1": 10.5, "seconds": 1.5}, {"top1": 20.25, "seconds": 2.0}]
RECORDS = [
    record(0, S1, state="complete", baseline="GmNet", curve=CURVE),
    record(1, without_gates(S1), state="running", picks={"ratio": 3, "form": "fc"}),
    record(
        2, gmnet("gmnet_s2"), state="failed", reason='the loss is "nan",\nso', picks={"ratio": 2}
    ),
]


def test_trials_csv_has_a_row_for_each_trial_and_reads_back(tmp_path):
    RunFolder(tmp_path).write_trials(RECORDS, ["ratio", "form"])
    with (tmp_path / "trials.csv").open(newline="", encoding="utf-8") as file:
        header, *rows = csv.reader(file)
    assert (
        header
        == (
            "id number state reason baseline top1 macs params activations epochs seconds ratio form"
        ).split()
    )
    first, second, third = (dict(zip(header, row, strict=True)) for row in rows)
    s1 = cost(S1)
    assert first == {
        "id": S1.id,
        "number": "0",
        "state": "complete",
        "reason": "",
        "baseline": "GmNet",
        "top1": "20.25",
        "macs": str(s1.macs),
        "params": str(s1.params),
        "activations": str(s1.activations),
        "epochs": "2",
        "seconds": "3.5",
        "ratio": "",
        "form": "",
    }
    assert [second[key] for key in ("state", "top1", "epochs", "ratio", "form")] == [
        "running",
        "",
        "0",
        "3",
        "fc",
    ]
    assert third["reason"] == 'the loss is "nan",\nso'
    assert [path.name for path in tmp_path.iterdir()] == ["trials.csv"]


def test_front_json_has_all_that_it_takes_to_build_the_networks_in_the_order_given(tmp_path):
    folder = RunFolder(tmp_path)
    folder.write_front([RECORDS[0], RECORDS[2]])
    first, last = json.loads(folder.front_file.read_text())
    assert Architecture.from_dict(first.pop("architecture")) == S1
    assert first == {
        "id": S1.id,
        "number": 0,
        "top1": 20.25,
        "macs": cost(S1).macs,
        "params": cost(S1).params,
        "activations": cost(S1).activations,
        "baseline": "GmNet",
    }
    assert (last["number"], last["top1"], last["baseline"]) == (2, None, None)
    folder.write_front([])
    assert json.loads(folder.front_file.read_text()) == []


def test_names_of_classes_may_be_no_utf_8(tmp_path):
    """As folders are: they lie in data.json as on the disk."""
    folder = RunFolder(tmp_path / "r")
    data = RunData(90, 10, (os.fsdecode(b"caf\xe9"), "naïve", "a\nb"))
    write_settings(folder, experiment(), data)
    assert b'"caf\xe9"' in folder.data_file.read_bytes()
    assert folder.data == data


def test_a_line_to_type_names_any_folder(tmp_path):
    """What a message has between backticks, as a shell takes it apart."""
    folder = RunFolder(tmp_path / "my <b>'s $runs" / "a run")
    told = {"name": "r", "space": read_space_data(TINY), "budget": 30_000_000}
    write_settings(folder, make_settings(Experiment, told), RunData(90, 10, ("a", "b")))
    with pytest.raises(SettingsError) as untrained:
        find_trained(str(folder.path))
    write_atomically(folder.front_file, '[{"id": "x"}]')
    with pytest.raises(SettingsError) as no_baselines:
        choose(folder, top=None, ids=[], with_baselines=True)
    refusals = [untrained, no_baselines]
    for file in (folder.data_file, folder.front_file, folder.path / "trials.csv"):
        file.write_text("{\n1\n")
    for read in (
        lambda: folder.data,
        folder.front_ids,
        folder.baseline_ids,
        lambda: trained_in_full(folder),
    ):
        with pytest.raises(SettingsError) as refusal:
            read()
        refusals.append(refusal)
    for refusal in refusals:
        _, line, _ = str(refusal.value).split("`")
        assert shlex.split(line) == ["gmsearch", "resume", str(folder.path)]
