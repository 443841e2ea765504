"""What is told of bands: in tables, pictures and reports, by what the curves have."""

import csv
import json
from dataclasses import replace

import pandas as pd
import pytest
from made_runs import make_run
from rich.console import Console

from gmsearch.band_picture import Line, bands_figure
from gmsearch.cli import main
from gmsearch.compare import compared
from gmsearch.console import comparison_table
from gmsearch.cost import total
from gmsearch.effects import effects_by_band, effects_of
from gmsearch.experiment import Comparison, make_settings
from gmsearch.gmnet import gmnet
from gmsearch.history import read_history
from gmsearch.notes import trial_note
from gmsearch.record import TrialRecord, band_cost_in_words, front_of
from gmsearch.report.pictures import band_lines
from gmsearch.zoo import ledger_of

pytestmark = pytest.mark.filterwarnings("ignore::optuna.exceptions.ExperimentalWarning")
SMALL = gmnet("gmnet_s1", base_width=2)


def epochs(*pairs):
    """A curve whose epochs have these (low12, high12)."""
    return [
        {
            **{"epoch": i, "top1": 50.0 + i, "train_loss": 1.0, "loss": 1.0, "seconds": 22.0},
            "bands": {"low12": low, "high12": high},
            **{"band_images": 40, "band_seconds": 2.0},
        }
        for i, (low, high) in enumerate(pairs, start=1)
    ]


def record(number, top1, macs, high, state="complete"):
    curve = [{**epochs((30.0, high))[0], "top1": top1}]
    return TrialRecord(
        number=number,
        id=f"{number}",
        state=state,
        network=SMALL,
        macs=macs,
        params=1,
        activations=1,
        curve=curve,
    )


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A search whose networks are better at high frequencies where they have gates."""
    folder, study = make_run(
        tmp_path_factory.mktemp("runs") / "r", [], frequency=(12.0,), sampler="random"
    )
    for index in range(24):
        job = study.ask()
        gates = sum(stage.placement != "none" for stage in job.network.stages)
        study.report(job.number, epochs((20.0, 5.0), (40.0 - index % 3, 10.0 + 8 * gates)))
        study.tell(job.number)
    return folder


def test_a_band_is_told_as_top1_is():
    """The effects on a band are those on top1 where the trials have it for their top1."""
    records = [record(i, 40 + 3 * i % 7, 1000 + 57 * i, 20 + 5 * i % 11) for i in range(12)]
    networks = [gmnet("gmnet_s1", base_width=2 + i % 5) for i in range(12)]
    records = [replace(r, network=n) for r, n in zip(records, networks, strict=True)]
    swapped = [replace(r, curve=[{**r.curve[-1], "top1": r.bands["high12"]}]) for r in records]
    assert effects_of(records, of="high12") == effects_of(swapped)
    assert effects_of(records, of="high12") != effects_of(records)
    assert list(effects_by_band(records)) == ["low12", "high12"]
    assert effects_of(records, of="high36") is None


def test_the_front_of_three_objectives_has_what_is_best_at_any():
    records = [
        record(0, 60.0, 100, 10.0),
        record(1, 55.0, 100, 20.0),  # better at high frequencies
        record(2, 55.0, 100, 15.0),  # dominated
        record(3, 50.0, 90, 5.0),  # cheaper
        record(4, 90.0, 90, 90.0, state="stopped"),
    ]
    assert [r.number for r in front_of(records, ("top1", "macs"))] == [0, 3]
    assert [r.number for r in front_of(records, ("top1", "macs", "high12"))] == [0, 1, 3]
    assert [r.number for r in front_of(records, ("top1", "macs", "low12"))] == [0, 3]


def test_what_looking_cost():
    assert band_cost_in_words([record(0, 60.0, 100, 10.0)] * 3) == (
        "bands: of 40 images, the same in every epoch and for every network; looking at them took "
        "10.0% of the rest of an epoch"
    )
    plain = replace(record(0, 60.0, 100, 10.0), curve=[{"epoch": 1, "top1": 3.0, "seconds": 2.0}])
    assert band_cost_in_words([plain]) is None and plain.bands == {}


def test_a_comparison_has_the_means_over_seeds():
    settings = make_settings(Comparison, {"name": "c", "networks": {"a": SMALL.to_dict()}})
    records = [
        replace(record(0, 60.0, 1, 10.0), id=SMALL.id),
        replace(record(1, 62.0, 1, 14.0), id=SMALL.id, seed=1),
    ]
    costs = {SMALL.id: total(ledger_of(SMALL))}
    [row] = compared(settings, {"a": SMALL}, records, costs, {})
    assert row.bands == {"low12": 30.0, "high12": 12.0}
    console = Console(width=140, record=True, file=None, quiet=False)
    with console.capture() as captured:
        console.print(comparison_table([row]))
    assert "high12" in captured.get() and "12.0" in captured.get()
    [plain] = compared(settings, {"a": SMALL}, [], costs, {})
    with console.capture() as captured:
        console.print(comparison_table([plain]))
    assert "high12" not in captured.get()


def test_a_panel_for_each_band_and_a_line_for_each_training():
    curves = [epochs((1, 2), (3, 4)), epochs((5, 6))]
    other = [{**epochs((7, 8))[0], "bands": {"low12": 7, "high12": 8, "low36": 9, "high36": 9}}]
    figure = bands_figure([Line("a", "red", curves), Line("b", "blue", [other, []])])
    drawn = {
        axes.get_title().partition(":")[0]: [line.get_ydata().tolist() for line in axes.lines]
        for axes in figure.axes
    }
    assert drawn == {
        "low12": [[1, 3], [5], [7]],
        "high12": [[2, 4], [6], [8]],
        "low36": [[9]],
        "high36": [[9]],
    }
    for axes in figure.axes:  # nothing is cut off, whichever panel has the most
        for line in axes.lines:
            assert axes.get_ylim()[0] == 0 and axes.get_xlim()[0] == 0
            assert max(line.get_ydata()) < axes.get_ylim()[1]
            assert max(line.get_xdata()) < axes.get_xlim()[1]
    assert figure.axes[0].lines[0].get_xdata().tolist() == [1, 2]
    [legend] = figure.legends
    assert [text.get_text() for text in legend.get_texts()] == ["a", "b"]


def test_a_report_tells_what_gates_do_to_each_band(run, capsys):
    assert main(["report", str(run.path)]) == 0
    table = pd.read_csv(run.path / "report" / "band_effects.csv")
    assert set(table.band) == {"low12", "high12"}
    high = table[(table.band == "high12") & (table.factor == "placement")].set_index("level")
    assert high.loc["none", "high"] < 0  # without gates, worse at high frequencies
    low = table[(table.band == "low12") & (table.factor == "placement")].set_index("level")
    assert not low.resolved.any()
    page = (run.path / "report.html").read_text(encoding="utf-8")
    assert "Who learns which band when" in page and "looking at them took 10.0%" in page
    curves = pd.read_csv(run.path / "report" / "curves.csv")
    assert curves[curves.epoch == 1].high12.eq(5.0).all()
    for name in ("bands", "band_effects"):
        assert (run.path / "report" / f"{name}.png").stat().st_size > 10_000
    capsys.readouterr()
    assert main(["report", str(run.path), "--text"]) == 0
    told = capsys.readouterr().out
    assert "what the gates did to high12, at equal MACs" in told
    assert "placement" in told.split("high12")[1]


def test_the_front_has_its_bands_wherever_it_is_told(run):
    history = read_history(run.path)
    best, bands = history.front[0], {"low12", "high12"}
    assert main(["report", str(run.path)]) == 0
    table = pd.read_csv(run.path / "report" / "front.csv").set_index("id")
    columns = list(table)
    assert [c for c in columns if c in bands] == ["low12", "high12"]
    assert columns.index("high12") < columns.index("macs")
    run.write_front(history.front)
    told = json.loads(run.front_file.read_text())[0]
    for name, value in best.bands.items():
        assert table[name][best.id] == told[name] == value
    note = trial_note(best, run.path, history.experiment, history.data)
    rows = [line for line in note.splitlines() if line.startswith(("| low12", "| high12"))]
    assert [row.split("|")[-2].strip() for row in rows] == [
        f"{best.bands[name]:.1f}" for name in ("low12", "high12")
    ]


def test_not_all_bands_are_drawn_of_a_long_run(run):
    """300 of the others, among them the first and the last, and every one of the front."""
    short = read_history(run.path)
    front = {r.id for r in short.front}
    others = [r for r in short.records if r.id not in front and not r.baseline]
    many = [replace(others[i % len(others)], number=100 + i, id=f"n{i}") for i in range(1000)]
    many = [replace(r, curve=[{**r.curve[0], "top1": i / 1000}]) for i, r in enumerate(many)]
    front_only = [r for r in short.records if r.id in front]
    lines = {
        line.label: line.curves for line in band_lines(replace(short, records=[*many, *front_only]))
    }
    drawn = [curve[0]["top1"] for curve in lines["other trials"]]
    assert len(drawn) == 300 and drawn == sorted(drawn)
    assert (drawn[0], drawn[-1]) == (0.0, 0.999)


def test_a_report_without_bands_says_nothing_of_them(tmp_path):
    folder, _ = make_run(tmp_path / "r", [40.0, 50.0, 45.0])
    assert main(["report", str(folder.path)]) == 0
    names = {path.name for path in (folder.path / "report").iterdir()}
    assert not names & {"bands.png", "band_effects.png", "band_effects.csv"}
    assert "frequencies" not in (folder.path / "report.html").read_text(encoding="utf-8")


def test_trials_csv_has_a_column_for_each_band(run):
    records = read_history(run.path).records
    run.write_trials(records, also=["low12", "high12"])
    with (run.path / "trials.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [float(row["high12"]) for row in rows] == [r.bands["high12"] for r in records]
