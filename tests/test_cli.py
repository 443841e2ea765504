"""A mistake of the user ends in one clear line and exit code 2, with nothing half-written."""

import re
import subprocess
import sys
from pathlib import Path

import pytest
from pictures import make_folder

from gmsearch.cli import main
from gmsearch.cli.flags import Parser, run_name
from gmsearch.cli.searching import add_search, experiment_said
from gmsearch.errors import SettingsError
from gmsearch.experiment import Experiment, make_settings
from gmsearch.run import RunData, RunFolder, write_settings
from gmsearch.space_file import read_space_data

DATA = RunData(90, 10, ("a", "b"))
SPACES = Path(__file__).parents[1] / "search_spaces"
TINY = str(SPACES / "tiny.yaml")


def edited(tmp_path: Path, old: str, new: str) -> str:
    text = (SPACES / "tiny.yaml").read_text()
    assert old in text
    (tmp_path / "edited.yaml").write_text(text.replace(old, new))
    return str(tmp_path / "edited.yaml")


def corrupt_folder(tmp_path: Path) -> str:
    folder = make_folder(tmp_path / "set")
    (folder / "train/n2/0.png").write_bytes(b"junk")
    return str(folder)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (lambda t: ["--space", "none.yaml"], "none.yaml: no such file"),
        (lambda t: ["--space", str(SPACES / "gatd.yaml")], "did you mean .*gated.yaml"),
        (
            lambda t: ["--space", edited(t, "fixed:", "fixed: [")],
            r"edited.yaml:\d+: not valid YAML: ",
        ),
        (
            lambda t: ["--space", edited(t, "kernel:", "kernal:")],
            r"edited.yaml:\d+: fixed: unknown key 'kernal'; did you mean 'kernel'\?",
        ),
        (
            lambda t: ["--space", edited(t, "ratio: [2, 3]", "ratio: []")],
            r"edited.yaml:\d+: per_network.ratio: the list of options is empty",
        ),
        (lambda t: ["--budget", "3X"], "--budget: '3X' is not a size; write 300M"),
        (lambda t: ["--budget", "-3M"], "--budget"),
        (
            lambda t: ["--budget", "1M"],
            "the smallest network .* 7,657,824 MACs; use --budget 7658K",
        ),
        (lambda t: ["--data", str(t / "nowhere")], "nowhere: no such data"),
        (lambda t: ["--data", str(make_folder(t / "one", 1))], r"one class \('n0'\)"),
        (
            lambda t: ["--data", corrupt_folder(t)],
            "1 of 30 images cannot be read, such as train/n2/0.png",
        ),
        (lambda t: ["--name", "a/b"], "run name 'a/b'; allowed: letters, digits"),
        (lambda t: ["--name", ""], "run name ''; allowed"),
        (lambda t: ["--name", 256 * "n"], "run name n+… has 256 characters; give .* 255 or fewer"),
        (lambda t: ["--trials", "0"], "--trials: '0' is not a whole number of 1 or more"),
        (lambda t: ["--trials", "two"], "--trials: 'two' is not a whole number"),
        (
            lambda t: ["--resolution", "7"],
            "--resolution is 7; .* a stride of 32: give 32 px or more",
        ),
        (lambda t: ["--epochs", "20000"], "num_epochs is 20000; allowed: from 1 to"),
        (lambda t: ["--seed", "-1"], "--seed is -1"),
        (
            lambda t: ["--sampler", "magic"],
            "sampler 'magic'; allowed: gated, random, tpe, nsga2, gp, evolution",
        ),
        (lambda t: ["--objectives", "top1,beauty"], "objective 'beauty'; allowed: top1, macs"),
        (lambda t: ["--objectives", "macs"], "allowed: top1, then one of macs, params"),
        (lambda t: ["--objectives", "top1,macs,high200"], "radius 200 at 224 px: the highest"),
        (lambda t: ["--frequency", "12,0"], "radius 0: no frequency is lower"),
        (lambda t: ["--frequency", "x"], "'x' is no list of radii; write .*12,24,36, or leave it"),
        (lambda t: ["--frequency="], "'' is no list of radii; .* put --frequency last"),
        (lambda t: ["--frequency-share", "0.5"], "--frequency-share is that of --frequency"),
        (lambda t: ["--max-hours", "-1"], "--max-hours is -1"),
        (lambda t: ["--gpus-per-trial", "0"], "--gpus-per-trial is 0"),
        (lambda t: ["--max-hours", "nan"], "--max-hours is nan"),
        (lambda t: ["--bugdet", "30M"], "unrecognized arguments: --bugdet 30M; see gmsearch"),
    ],
)
def test_a_mistake_in_run_is_one_line_and_leaves_nothing(words, message, tmp_path, capsys):
    runs = tmp_path / "runs"
    defaults = {"--space": TINY, "--budget": "30M", "--runs-dir": str(runs)}
    given = words(tmp_path)
    line = [w for k, v in defaults.items() if k not in given for w in (k, v)]
    assert main(["run", *line, *given]) == 2
    output = capsys.readouterr()
    assert output.out == ""
    assert output.err.startswith("gmsearch: ") and output.err.count("\n") == 1
    assert re.search(message, output.err), output.err
    assert not runs.exists()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "the following arguments are required: COMMAND"),
        (["fly"], "invalid choice: 'fly'"),
        (["resume", "nowhere"], "nowhere is not a run"),
        *(
            ([*verb, "nowhere"], "has no experiment.yaml; give a folder like runs/NAME")
            for verb in (["resume"], ["report"], ["dashboard"], ["retrain"])
        ),
        (["space", TINY, "--plot", "no/a.png"], "--plot no/a.png: there is no folder no; make it"),
        (["reproduce", "magic"], "reproduce 'magic': no such claims; give frequency"),
        (["profile", "gmnet@1"], "'gmnet@1': no GmNet has 1 MACs or fewer; give "),
        (
            ["compare", "--preset", "ablation", "--budget", "1M"],
            "--budget 1M: too small for GmNet-S3; give ",
        ),
        (["space"], "the following arguments are required: FILE"),
        (["space", TINY, "--budget", "1M"], "below the smallest network"),
        (["space", "/dev/null"], "the file is empty"),
        (["space", "."], "cannot be read"),
    ],
)
def test_a_mistake_elsewhere_is_one_line_too(words, message, capsys):
    assert main(words) == 2
    error = capsys.readouterr().err
    assert message in error and error.count("\n") == 1


def test_a_broken_experiment_file_is_one_line(tmp_path, capsys):
    (tmp_path / "experiment.yaml").write_text("name: r\nbudgte: 3\n")
    assert main(["resume", str(tmp_path)]) == 2
    error = capsys.readouterr().err
    assert "unknown key 'budgte'; did you mean 'budget'?" in error and error.count("\n") == 1


@pytest.mark.parametrize("verb", ["frequency", "spectra"])
def test_figures_that_cannot_be_written_are_one_line(verb, capsys):
    """Root may write anywhere, and yet not everywhere."""
    words = [verb, "gmnet_s1", "--data", "bands", "--out", "/proc/nowhere"]
    assert main(words) == 2
    error = capsys.readouterr().err
    assert "--out /proc/nowhere: cannot be written to: No such file" in error
    assert error.endswith("; give another place\n") and error.count("\n") == 1


@pytest.mark.parametrize("what", ["gmnet@{}", "--budget {}"])
def test_the_least_budget_that_is_offered_is_enough_and_little_more(what, capsys):
    words = ["compare", "--preset", "ablation", "--seed", "-1"]  # which is refused after it

    def refused(budget):
        flag, _, value = what.format(budget).rpartition(" ")
        given = ["compare", value, "--seed", "-1"] if not flag else [*words, flag, value]
        assert main(given) == 2
        return capsys.readouterr().err

    offered = int(re.search("give ([0-9]+)M or more", refused("1"))[1])
    assert "--seed is -1" in refused(f"{offered}M")
    assert f"give {offered}M or more" in refused(f"{offered - 1}M")


def test_objectives_may_have_blanks_and_bands_before_costs():
    for text, meant in [
        ("top1, macs", ("top1", "macs")),
        (" top1,macs,high12 , params", ("top1", "macs", "high12", "params")),
    ]:
        assert said("--objectives", text).objectives == meant
    assert said().objectives == ("top1", "macs")


def said(*flags: str) -> Experiment:
    """What the flags of a search say."""
    parser = Parser()
    add_search(parser)
    return experiment_said(parser.parse_args(["--space", TINY, "--budget", "30M", *flags]))


@pytest.mark.parametrize("source", ["bands", "/data/my images (2)", "/data/größe.zip", "/", "a'b"])
def test_any_data_makes_a_name_that_a_run_may_have(source):
    name = run_name("gated", "300M", Path(source).stem)
    assert name.startswith("gated-300M-")
    settings = {"name": name, "space": read_space_data(Path(TINY)), "budget": 30_000_000}
    assert make_settings(Experiment, settings).name == name


@pytest.mark.parametrize("trained", [False, True])
def test_a_mistake_that_shows_late_removes_a_run_only_if_nothing_is_trained(
    tmp_path, monkeypatch, capsys, trained
):
    folder = RunFolder(tmp_path / "r")

    def fail(*_):
        if trained:
            folder.trial_folder("0123456789").mkdir(parents=True)
        raise SettingsError("too late")

    monkeypatch.setattr("gmsearch.search._search", fail)
    words = ["--space", TINY, "--budget", "30M", "--runs-dir", str(tmp_path), "--name", "r"]
    assert main(["run", *words]) == 2
    assert capsys.readouterr().err == "gmsearch: too late\n"
    assert folder.experiment_file.exists() == trained
    assert folder.path.exists() == trained


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--storage", "journal://here.log"], "write journal:///PATH"),
        (["--storage", "/nowhere/x.log"], "--storage journal:///nowhere/x.log: cannot be used: "),
        (["--storage", "nonsense://me:secret@x/y"], "--storage nonsense://me@x/y: cannot be used"),
        (["--storage", "postgresql://me:secret@127.0.0.1:1/x"], "postgresql://me@127.0.0.1:1/x: "),
        (["--patience", "0"], "--patience is 0"),
    ],
)
def test_a_storage_that_refuses_is_one_line_without_a_password(tmp_path, capsys, flags, message):
    words = ["--space", TINY, "--budget", "30M", "--runs-dir", str(tmp_path), "--name", "r"]
    assert main(["run", *words, *flags]) == 2
    error = capsys.readouterr().err
    assert message in error and error.count("\n") == 1 and "secret" not in error
    assert not (tmp_path / "r").exists()


@pytest.mark.parametrize("junk", ["garbage", "SQLite format 3\0 and no more"])
def test_a_broken_study_is_one_line_and_stays_as_it_is(tmp_path, capsys, junk):
    settings = {"name": "r", "space": read_space_data(Path(TINY)), "budget": 30_000_000}
    folder = RunFolder(tmp_path / "r")
    write_settings(folder, make_settings(Experiment, settings), DATA)
    folder.study_file.write_text(junk * 100)
    assert main(["resume", str(folder.path)]) == 2
    error = capsys.readouterr().err
    assert f"{folder.study_file}: cannot be used: " in error and error.count("\n") == 1
    assert folder.study_file.read_text() == junk * 100


def test_what_is_wrong_with_a_narrower_space_is_said_of_its_own_file(tmp_path, capsys):
    settings = {"name": "r", "space": read_space_data(Path(TINY)), "budget": 30_000_000}
    folder = RunFolder(tmp_path / "r")
    write_settings(folder, make_settings(Experiment, settings), DATA)
    file = tmp_path / "narrower.yaml"
    file.write_text(Path(TINY).read_text().replace("per_stage:", "per_stage:\n  kernel: [11]", 1))
    assert main(["resume", str(folder.path), "--space", str(file)]) == 2
    error = capsys.readouterr().err
    assert error.startswith(f"gmsearch: {file}:") and "11" in error and error.count("\n") == 1


@pytest.mark.parametrize(
    "verb",
    [
        *(
            "run",
            "resume",
            "space",
            "train",
            "compare",
            "profile",
            "export",
            "predict",
            "spectra",
            "reproduce",
        )
    ],
)
def test_every_command_has_help_with_an_example(verb, capsys):
    with pytest.raises(SystemExit) as caught:
        main([verb, "--help"])
    assert caught.value.code == 0
    assert f"example: gmsearch {verb} " in " ".join(capsys.readouterr().out.split())


def test_the_module_runs_as_the_command_does():
    line = [sys.executable, "-m", "gmsearch", "space", "nowhere.yaml"]
    done = subprocess.run(line, capture_output=True, text=True, timeout=300)
    assert done.returncode == 2 and done.stderr.startswith("gmsearch: nowhere.yaml: no such file")
