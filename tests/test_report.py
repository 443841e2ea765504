"""What a report tells is what the run has."""

import csv
import gc
import json
import shlex
import sqlite3
from html.parser import HTMLParser
from pathlib import Path

import matplotlib.image
import optuna
import pandas as pd
import pytest
from hypothesis import given, settings
from made_runs import curve, read_only
from strategies import stages

from gmsearch.architecture import gated_blocks
from gmsearch.cli import main
from gmsearch.experiment import Experiment, FullTraining, make_settings
from gmsearch.history import read_history
from gmsearch.plots import hypervolume_figure
from gmsearch.recipe import Recipe
from gmsearch.record import interval_of, tied
from gmsearch.report.account import account_of, account_rows, checklist
from gmsearch.report.charts import curves_figure, shown_curves
from gmsearch.report.drawing import ACTIVATION, GATE, steps
from gmsearch.report.page import lead, warnings
from gmsearch.report.tables import curves_table
from gmsearch.run import RunData, RunFolder, write_settings, write_trial
from gmsearch.space_file import read_space_data
from gmsearch.study import SearchStudy

TINY = Path(__file__).parents[1] / "search_spaces" / "tiny.yaml"
BUDGET = 30_000_000
pytestmark = pytest.mark.filterwarnings("ignore::optuna.exceptions.ExperimentalWarning")


def make_run(path: Path, ends: str, sampler: str = "random", **settings) -> Path:
    """A run with a trial for each letter: c complete, f failed, r running, s stopped. What is
    stopped is not taken up again, unless `early_stop` says so.
    """
    folder = RunFolder(path)
    told = {"name": path.name, "space": read_space_data(TINY), "budget": BUDGET}
    told |= {"trials": 12, "sampler": sampler, "early_stop": "asha", **settings}
    experiment = make_settings(Experiment, told)
    write_settings(folder, experiment, RunData(4500, 500, ("a", "b")))
    study = SearchStudy(folder, experiment, experiment.search_space(folder.experiment_file))
    for index, end in enumerate(ends):
        number = study.ask().number
        study.report(number, curve(20.0 + index, 30.0 + 2 * index))
        if end == "c":
            study.tell(number)
        elif end == "f":
            study.tell_failed(number, "out of <memory>")
        elif end == "s":
            study.tell_stopped(number)
    return path


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Path:
    return make_run(tmp_path_factory.mktemp("runs") / "r", "ccccccccfsr")


@pytest.fixture(scope="module")
def reported(run) -> Path:
    assert main(["report", str(run)]) == 0
    return run


class _Page(HTMLParser):
    """The texts of the cells of each table, and whatever would be loaded from elsewhere."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tables: list[list[list[str]]] = []
        self.loaded: list[str] = []
        self.texts: list[str] = []
        self._in_cell = self._in_script = False
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self._in_script = tag in ("script", "style")
        self.loaded += [value for name, value in attrs if name in ("src", "href") and tag != "use"]
        if tag == "table":
            self.tables.append([])
        elif tag == "tr":
            self.tables[-1].append([])
        elif tag in ("td", "th"):
            self.tables[-1][-1].append("")
            self._in_cell = True

    def handle_endtag(self, tag):
        self._in_script = False
        if tag in ("td", "th"):
            self._in_cell = False

    def handle_data(self, data):
        if self._in_cell:
            self.tables[-1][-1][-1] += data
        if not self._in_script:
            self.texts.append(data)


def page(run: Path) -> _Page:
    return _Page((run / "report.html").read_text(encoding="utf-8"))


def test_the_page_stands_alone(reported):
    found = page(reported)
    assert [each for each in found.loaded if not each.startswith("#")] == []
    assert "Plotly.newPlot" in (reported / "report.html").read_text(encoding="utf-8")


def test_the_front_on_the_page_is_the_front(reported):
    history = read_history(reported)
    head, *rows = page(reported).tables[0]
    assert head == ["id", "top1, %", "", "MACs", "params", "activations", "gates"]
    assert [row[0] for row in rows] == [record.id for record in history.front]
    assert [row[1] for row in rows] == [f"{record.top1:.1f}" for record in history.front]


def test_the_tables_behind_the_page(reported):
    history = read_history(reported)
    with (reported / "report/curves.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == sum(record.epochs for record in history.records)
    front = pd.read_csv(reported / "report/front.csv")
    assert list(front.id) == [record.id for record in history.front]
    for low, top1, high in zip(front.low, front.top1, front.high, strict=True):
        assert (low, high) == pytest.approx(interval_of(top1, 500)) and low < top1 < high
    assert {"effects", "importance", "hypervolume", "baselines"} <= {
        file.stem for file in (reported / "report").glob("*.csv")
    }


def test_the_pictures_are_pictures(reported):
    history = read_history(reported)
    wanted = {"front", "curves", "hypervolume", "effects"} | {r.id for r in history.front[:3]}
    assert {file.stem for file in (reported / "report").glob("*.png")} == wanted
    for file in (reported / "report").glob("*.png"):
        pixels = matplotlib.image.imread(file)
        assert pixels[..., :3].std() > 0.02, file  # something is drawn


def test_the_account_is_counted(run):
    account = account_of(read_history(run))
    assert (account.complete, account.stopped, account.running) == (8, 1, 1)
    assert account.failed == {"out of <memory>": 1}
    assert (account.repeated, account.over_budget, account.foreign) == (0, 0, 0)
    assert account.epochs == 2 * 10 and account.seconds == 4.0 * 10  # the running one has none


def test_the_account_does_not_say_who_wrote_what_the_search_does_not_know(tmp_path):
    run = make_run(tmp_path / "r", "c")
    optuna.load_study(study_name="r", storage=f"sqlite:///{run / 'study.db'}").ask()  # cut off
    told = dict(account_rows(account_of(read_history(run))))
    assert (
        told["trials in the study that are not the search's, were changed, or were cut off"] == "1"
    )


def test_the_sentence_at_the_top_counts_baselines_apart(run, tmp_path):
    assert lead(read_history(run)).startswith(
        "9 networks proposed by random (6 trained to the end, 1 stopped early, 1 failed, 1 not "
        "ended) and 2 baselines, within 30M MACs; a training to its end is 6 epochs "
    )
    one = make_run(tmp_path / "one", "fcc")
    assert lead(read_history(one)).startswith("1 network proposed by random and 1 baseline, ")


def test_a_run_is_over_when_its_epochs_are_spent_and_not_its_number_of_trials(tmp_path):
    part = make_run(tmp_path / "part", "ccssss", trials=5)  # 2 * 6 + 4 * 2 of 30 epochs
    assert warnings(read_history(part))[0].startswith(
        "6 trials have ended, and 20 of 30 epochs, as many as 5 trainings have, are spent: the run "
        "goes on, was stopped, "
    )
    done = make_run(tmp_path / "done", "ccs", trials=3)  # 14 of 18 epochs, and 4 train nothing new
    assert warnings(read_history(done)) == []
    again = make_run(tmp_path / "again", "ccs", trials=3, early_stop="gated")  # 4 end the stopped
    assert warnings(read_history(again))[0].startswith("3 trials have ended, and 14 of 18 epochs, ")
    off = make_run(tmp_path / "off", "ccf", trials=4, early_stop="off")
    assert warnings(read_history(off))[0].startswith("3 of 4 trials have ended: ")


def test_lines_to_type_have_their_path_quoted(tmp_path):
    run = make_run(tmp_path / "my runs" / "r", "c")
    assert main(["report", str(run)]) == 0
    lines = [text for text in page(run).texts if text.startswith(("gmsearch r", "gmsearch e"))]
    assert len(lines) == 1 and shlex.split(lines[0])[2] == str(run)
    (weights,) = [run / "trials" / shlex.split(lines[0])[4] / "checkpoint.pt"]
    weights.parent.mkdir(parents=True)
    weights.touch()
    assert main(["report", str(run)]) == 0
    lines = [text for text in page(run).texts if text.startswith(("gmsearch r", "gmsearch e"))]
    assert len(lines) == 2 and all(shlex.split(line)[2] == str(run) for line in lines)


def test_names_are_not_taken_for_html(reported):
    text = (reported / "report.html").read_text(encoding="utf-8")
    assert "out of <memory>" not in text and "out of &lt;memory&gt;" in text


@pytest.mark.parametrize("ends", ["", "r", "c", "f", "ff", "cc", "s", "fcr"])
def test_any_state_of_a_run_has_a_report(tmp_path, ends, capsys):
    run = make_run(tmp_path / "r", ends)
    assert main(["report", str(run)]) == 0
    found = page(run)
    said = " ".join(found.texts)
    assert "has ended, and " in said or "trials have ended, and " in said
    assert " of 72 epochs, as many as 12 trainings have, are spent" in said
    if "c" not in ends:
        assert "No trial is trained to its last epoch yet" in said
    if ends in ("f", "ff", "s"):
        assert "every one failed or was stopped" in said
    assert main(["report", str(run), "--text"]) == 0
    assert "the account" in capsys.readouterr().out


def test_a_random_run_beside_it_is_named(run, tmp_path):
    other = make_run(tmp_path / "by-chance", "cccc")
    assert (
        main(["report", str(run), "--versus", str(other), "--out", str(tmp_path / "a.html")]) == 0
    )
    rows = dict(
        row
        for table in _Page((tmp_path / "a.html").read_text()).tables
        for row in table
        if len(row) == 2
    )
    assert rows["beside random search"] == "by-chance"
    hypervolume = pd.read_csv(tmp_path / "a/hypervolume.csv")
    assert set(hypervolume.run) == {"r", "by-chance"}


def test_runs_of_one_name_are_told_by_their_folders(run, tmp_path):
    folders = [make_run(tmp_path / each / "r", "ccc", seed=seed) for seed, each in enumerate("ab")]
    out, versus = tmp_path / "beside.html", [word for f in folders for word in ("--versus", str(f))]
    assert main(["report", str(run), *versus, "--out", str(out)]) == 0
    growth = pd.read_csv(tmp_path / "beside/hypervolume.csv")
    labels = [str(run), *map(str, folders)]
    assert list(growth.run.unique()) == labels
    history, *others = [read_history(each) for each in (run, *folders)]
    assert [line.name for line in hypervolume_figure(history, others).data] == labels
    told = dict(checklist(history, others))
    assert told["searches with other seeds"] == str(folders[1])
    assert told["beside random search"] == ", ".join(map(str, folders))


def test_a_run_is_not_laid_beside_itself(run, tmp_path, capsys, monkeypatch):
    link = tmp_path / "link"
    link.symlink_to(run)
    other = make_run(tmp_path / "other", "cc")
    for versus in ([run], [link], [run / ".." / run.name], [other, other]):
        words = [word for folder in versus for word in ("--versus", str(folder))]
        assert main(["report", str(run), *words]) == 2
        error = capsys.readouterr().err
        assert error == (
            f"gmsearch: --versus {versus[-1]}: that run is there already; give another\n"
        )


def test_the_essentials_in_a_terminal(reported, capsys):
    before = (reported / "report.html").stat().st_mtime_ns
    assert main(["report", str(reported), "--text"]) == 0
    out = capsys.readouterr().out
    for record in read_history(reported).front:
        assert record.id in out
    assert "trials that failed: 1" in out and "budget 30M MACs" in out
    assert (reported / "report.html").stat().st_mtime_ns == before


def test_what_was_trained_in_full_is_beside_what_was_searched(tmp_path):
    run = make_run(tmp_path / "r", "ccc")
    records = read_history(run).records
    whole = {"data": "x", "resolution": 32, "recipe": Recipe(num_epochs=30)}
    for record, top1 in zip(records, (50.0, 60.0, 70.0), strict=True):
        RunFolder(run).trial_folder(record.id).mkdir(parents=True)
        network = json.dumps({"format": 1, **record.network.to_dict()})
        (RunFolder(run).trial_folder(record.id) / "architecture.json").write_text(network)
        (run / "retrained" / record.id).mkdir(parents=True)
        result = {"id": record.id, "seed": 0, "epochs": 30, "raw": {"top1": top1, "top5": 90.0}}
        (run / "retrained" / record.id / "result.json").write_text(json.dumps(result))
        settings_file = run / "retrained" / record.id / "settings.yaml"
        settings_file.write_text(FullTraining(**whole).to_yaml())
        write_trial(RunFolder(run).trial_folder(record.id), record.network, record.curve)
    assert main(["report", str(run)]) == 0
    (table,) = [t for t in page(run).tables if "searched, %" in t[0]]
    assert [row[2] for row in table[1:]] == ["70.0", "60.0", "50.0"]
    assert table[1][1] == "34.0 after 2 of 6 epochs" and "settings" not in table[0]
    settings_file.write_text(FullTraining(**{**whole, "resolution": 64}).to_yaml())  # of the best
    assert main(["report", str(run)]) == 0
    (table,) = [t for t in page(run).tables if "searched, %" in t[0]]
    place = table[0].index("settings")
    assert [row[place] for row in table[1:]] == ["1", "2", "2"]
    assert "(1: resolution 64; 2: resolution 32)" in " ".join(page(run).texts)
    saved = pd.read_csv(run / "report" / "retrained.csv")
    assert list(saved.differs) == ["resolution 64", "resolution 32", "resolution 32"]
    assert list(saved.settings) == [1, 2, 2] and list(saved.epochs) == [30] * 3
    assert set(saved.searched_epochs) == {2} and set(saved.searched_of) == {6}
    assert saved.searched[0] == 34.0
    (run / "retrained" / records[0].id / "result.json").write_text("{")
    assert main(["report", str(run)]) == 2


def test_mistakes_are_one_line(run, tmp_path, capsys):
    def mistake(*words: str) -> str:
        assert main(["report", *words]) == 2
        error = capsys.readouterr().err
        assert error.count("\n") == 1
        return error

    assert "is not a run, it has no experiment.yaml" in mistake(str(tmp_path))
    bare = make_run(tmp_path / "bare", "")
    for file in bare.glob("study.db*"):
        file.unlink()
    assert "has no study.db yet" in mistake(str(bare))
    (bare / "study.db").write_text("junk" * 1000)
    assert "study.db: cannot be read" in mistake(str(bare))
    assert "is not a run" in mistake(str(run), "--versus", str(tmp_path))


@pytest.mark.parametrize("log", [False, True])
def test_a_run_on_a_disk_that_is_read_only_can_be_read(tmp_path, log, capsys):
    """After its search closed the study, and with a write-ahead log that a kill left there."""
    folder = RunFolder(make_run(tmp_path / "r", "ccc"))
    assert main(["report", str(folder.path)]) == 0
    with sqlite3.connect(folder.study_file) as opened:
        if log:  # a reader that stays keeps what is committed in the log
            study = optuna.load_study(study_name="r", storage=f"sqlite:///{folder.study_file}")
            opened.execute("SELECT count(*) FROM trials").fetchall()
            study.add_trial(optuna.create_trial(values=[1.0, 2.0]))
        else:
            gc.collect()
            opened.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        with read_only(folder) as copy:
            before = sorted(copy.rglob("*"))
            assert copy / "study.db-wal" in before or not log
            history = read_history(copy)
            assert (len(history.complete), history.num_foreign) == (3, int(log))
            assert main(["report", str(copy), "--text"]) == 0
            assert main(["report", str(copy)]) == 2
            assert sorted(copy.rglob("*")) == before
    opened.close()
    error = capsys.readouterr().err
    assert error == (
        f"gmsearch: --out {copy / 'report.html'}: cannot be written: Permission denied; "
        "give another place\n"
    )


def test_only_like_is_laid_beside_like(run, tmp_path, capsys):
    other = make_run(tmp_path / "other", "cc", budget=29_000_000)
    assert main(["report", str(run), "--versus", str(other)]) == 2
    assert f"--versus {other}: another budget than that of {run}" in capsys.readouterr().err


def test_bands_of_another_seed_are_other_data(tmp_path, capsys):
    """They are drawn from the seed, so nothing but the seed has to be told."""
    runs = []
    for seed in (0, 1):
        digest = f"digest of {seed}"
        folder = make_run(tmp_path / f"r{seed}", "cc", seed=seed, data_digest=digest)
        runs.append(str(folder))
    assert main(["report", runs[0], "--versus", runs[1]]) == 2
    said = capsys.readouterr().err
    assert "hang on the seed; give a run with --seed 0" in said and said.count("\n") == 1


def test_a_report_takes_the_place_of_a_report_alone(tmp_path, capsys):
    run = make_run(tmp_path / "r", "cc")
    trial = run / "trials" / "x"
    trial.mkdir(parents=True)
    for out in ("trials.csv", "trials.html", "x", ".", "trials"):
        assert main(["report", str(run), "--out", str(run / out)]) == 2
        assert capsys.readouterr().err.count("\n") == 1
    assert trial.is_dir() and not (run / "trials.html").exists()
    assert main(["report", str(run)]) == 0
    listed = run / "report" / "files.txt"
    before = listed.read_text()
    assert set(before.splitlines()[1:]) | {"files.txt"} == {
        f.name for f in (run / "report").iterdir()
    }
    listed.write_text(before + "0123456789.png\n")  # as a report of another front left it
    of_before = [run / "report" / name for name in ("0123456789.png", ".front.png.0a1b2c3d")]
    for file in of_before:
        file.write_bytes(b"")
    assert main(["report", str(run)]) == 0
    assert not any(file.exists() for file in of_before) and listed.read_text() == before


@pytest.mark.parametrize("out", ["", ".", "/", "x", "nowhere/a.html", "nowhere/b/a.html"])
def test_a_report_has_to_have_a_place(tmp_path, out, capsys, monkeypatch):
    run = make_run(tmp_path / "r", "cc")
    monkeypatch.chdir(tmp_path)
    assert main(["report", str(run), "--out", out]) == 2
    said = capsys.readouterr().err
    assert said.count("\n") == 1 and "--out" in said
    assert [path.name for path in tmp_path.iterdir()] == ["r"]


@pytest.mark.parametrize("name", ["mine.png", "front.csv", "0123456789.png", "files.txt", "x.txt"])
def test_a_report_deletes_nothing_of_the_user(tmp_path, name, capsys):
    run = make_run(tmp_path / "r", "cc")
    mine = tmp_path / "figures" / name
    mine.parent.mkdir()
    mine.write_text("precious")
    assert main(["report", str(run), "--out", str(tmp_path / "figures.html")]) == 2
    assert "something else" in capsys.readouterr().err
    assert mine.read_text() == "precious" and not (tmp_path / "figures.html").exists()


@pytest.mark.parametrize(
    "notes",
    [
        {"macs": "12M"},
        {"baseline": "other"},
        {"curve": [{}]},
        {"curve": [{"epoch": 1, "top1": float("nan"), "seconds": 1.0}]},
        {"curve": [{"epoch": 1, "top1": 1.0}]},
    ],
)
def test_a_trial_that_is_not_whole_is_left_out_and_counted(tmp_path, notes):
    run = make_run(tmp_path / "r", "cc")
    study = optuna.load_study(study_name="r", storage=f"sqlite:///{run / 'study.db'}")
    whole = study.trials[0]
    study.add_trial(
        optuna.create_trial(values=whole.values, user_attrs={**whole.user_attrs, **notes})
    )
    assert main(["report", str(run), "--text"]) == 0
    history = read_history(run)
    assert (len(history.records), history.num_foreign) == (2, 1)


# The parts


@settings(max_examples=50, deadline=None)
@given(stages())
def test_a_block_is_drawn_as_it_is(stage):
    """One gate at its place, and the plain activation where the gate leaves room for it."""
    boxes = list(steps(stage))
    words = [box.words for box in boxes]
    gates = [i for i, box in enumerate(boxes) if box.colour == GATE]
    plain = [i for i, box in enumerate(boxes) if box.colour == ACTIVATION]
    assert len(gates) == (stage.placement != "none")
    assert len(plain) == (stage.placement != "expand")
    down = words.index("1x1 to C")
    place = {"spatial": 1, "expand": down - 1, "output": len(boxes) - 1, "none": None}
    assert gates == [place[stage.placement]] * len(gates)
    assert words[0] == f"DW {stage.kernel}x{stage.kernel}" and len(gated_blocks(stage.blocks, 1))


def test_ties_are_intervals_that_overlap(run):
    front = read_history(run).front
    n = 500
    overlap = {
        record.id
        for i, record in enumerate(front)
        for other in front[max(0, i - 1) : i] + front[i + 1 : i + 2]
        if interval_of(min(record.top1, other.top1), n).high
        > interval_of(max(record.top1, other.top1), n).low
    }
    assert tied(front, n) == overlap
    assert tied(front, None) == set() and tied(front, 10**9) == set()


def test_not_all_curves_are_drawn_of_a_long_run(run):
    table = curves_table(read_history(run))
    many = pd.concat([table.assign(number=table.number + 100 * i, id=f"n{i}") for i in range(100)])
    shown = shown_curves(many, ["n3"])
    assert shown.number.nunique() <= 300 + 11 and set(shown[shown.id == "n3"].number) == set(
        many[many.id == "n3"].number
    )
    points = [y for trace in curves_figure(many, ["n3"]).data for y in trace.y if y is not None]
    assert len(points) == len(shown)
