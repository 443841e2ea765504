"""`gmsearch frequency`: the right networks, the right images, and the numbers that they have."""

import csv
import json
import shutil
from dataclasses import replace

import pytest
import torch
from pictures import make_folder

from gmsearch import checkpoint, data
from gmsearch.architecture import Architecture, Stage
from gmsearch.band_accuracy import BandAccuracy, draw_accuracies
from gmsearch.bias import Bias
from gmsearch.cli import main
from gmsearch.errors import SettingsError
from gmsearch.experiment import Comparison, FullTraining, make_settings
from gmsearch.files import write_atomically
from gmsearch.frequency import parts
from gmsearch.recipe import Recipe
from gmsearch.retraining import Retraining, retrain
from gmsearch.run import RunData, RunFolder, write_settings
from gmsearch.trained import find_trained, tell_apart
from gmsearch.training import evaluate, make_feed, start
from gmsearch.trial import run_trial

NET = Architecture(
    stem_width=8,
    stem_activation="relu6",
    stages=tuple(Stage(width=8 * i, depth=1, ratio=2, kernel=3) for i in (1, 2, 3, 4)),
)
RECIPE = Recipe(num_epochs=1, batch_size=100, ema_decay=0.9)


@pytest.fixture(scope="module")
def dataset():
    return data.load("bands", resolution=32, seed=3)


@pytest.fixture(scope="module")
def run(tmp_path_factory, dataset) -> RunFolder:
    """A comparison of one network with two seeds, of which one is retrained."""
    folder = RunFolder(tmp_path_factory.mktemp("runs") / "c")
    settings = make_settings(
        Comparison,
        {
            **{"name": "c", "networks": {"small": NET.to_dict(), "again": NET.to_dict()}},
            **{"seeds": 2, "seed": 3, "recipe": RECIPE},
        },
    )
    write_settings(folder, settings, RunData(1000, 500, dataset.classes))
    for seed in (3, 4):
        list(
            run_trial(NET, dataset, RECIPE, folder.trial_folder(f"{NET.id}-seed{seed}"), seed=seed)
        )
    full = FullTraining(data="bands", resolution=32, recipe=RECIPE, seed=3)
    place = folder.path / "retrained" / NET.id
    place.mkdir(parents=True)
    write_atomically(place / "settings.yaml", full.to_yaml())
    official = data.load_official("bands", resolution=32, seed=3)
    list(retrain(Retraining(NET, official, RECIPE, place, seed=3)))
    return folder


def expected(dataset, file, radius=12):
    """Accuracies of the averaged weights in a checkpoint, by the evaluation of trainings."""
    state = start(NET, 12, RECIPE, seed=0, resolution=32)
    checkpoint.load(file, state)
    model = state.ema.module
    feed = make_feed(dataset, RECIPE, seed=0, device=torch.device("cpu"))
    found = {"raw": evaluate(model, feed.minival()).top1}
    batches = list(feed.minival())
    for index, name in enumerate((f"low{radius}", f"high{radius}")):
        split = ((list(parts(images, [radius]))[index][1], target) for images, target in batches)
        found[name] = evaluate(model, split).top1
    return found


def asked(capsys, *words):
    assert main(["frequency", *map(str, words), "--json"]) == 0
    return json.loads(capsys.readouterr().out)


def test_all_trainings_of_a_comparison_on_its_minival(run, dataset, capsys):
    rows = asked(capsys, run.path, "--radii", "12")
    assert [row["name"] for row in rows] == ["small, seed 3", "small, seed 4"]
    for row, seed in zip(rows, (3, 4), strict=True):
        file = run.trial_folder(f"{NET.id}-seed{seed}") / "checkpoint.pt"
        assert row["top1"] == pytest.approx(expected(dataset, file))
        assert (row["split"], row["num_images"], row["resolution"]) == ("minival", 500, 32)
        history = json.loads((file.parent / "metrics.jsonl").read_text().splitlines()[-1])
        assert row["top1"]["raw"] == pytest.approx(history["top1"])
    with (run.path / "frequency" / "frequency.csv").open() as file:
        table = list(csv.DictReader(file))
    assert [float(row["high12"]) for row in table] == [row["top1"]["high12"] for row in rows]
    assert (run.path / "frequency" / "frequency.png").stat().st_size > 10_000


def test_two_runs_of_the_same_network_are_told_apart(run, tmp_path, capsys):
    """Rows have other names, wherever they are read, and what is named twice is looked at once."""
    for place in (tmp_path / "d", tmp_path / "more" / "d"):
        shutil.copytree(run.path, place)
    other, third = tmp_path / "d", tmp_path / "more" / "d"
    words = (f"{run.path}:{NET.id}", other / "retrained", other, other / "retrained" / NET.id)
    rows = asked(capsys, *words, "--radii", "12", "--out", tmp_path / "out")
    assert [(row["name"], row["run"]) for row in rows] == [
        (f"c:{NET.id} retrained", "c"),
        (f"d:{NET.id} retrained", "d"),
        ("small, seed 3", "d"),
        ("small, seed 4", "d"),
    ]
    table = list(csv.DictReader((tmp_path / "out" / "frequency.csv").read_text().splitlines()))
    assert [(row["name"], row["run"]) for row in table] == [(r["name"], r["run"]) for r in rows]
    found = [each for place in (other, third, third) for each in find_trained(str(place))]
    assert [each.name for each in tell_apart(found)] == [
        f"{place}:small, seed {seed}" for place in (other, third) for seed in (3, 4)
    ]


def test_two_exports_of_one_name_are_told_apart(run, tmp_path, capsys):
    places = [tmp_path / name / "export" for name in "ab"]
    for place in places:
        words = ["export", f"{run.path}:{NET.id}", "--to", "timm", "--out", str(place)]
        assert main(words) == 0
    capsys.readouterr()
    rows = asked(capsys, *places, "--data", "bands", "--radii", "12")
    assert [(row["name"], row["run"]) for row in rows] == [(str(place), "") for place in places]


def test_what_is_retrained_is_judged_on_val(run, capsys):
    rows = asked(capsys, run.path / "retrained", "--radii", "12,36")
    [same] = asked(capsys, f"{run.path}:{NET.id}", "--radii", "36,12")
    [row] = rows
    assert row == {**same, "name": row["name"]} and row["split"] == "val"
    assert row["num_images"] == 2000 and list(row["top1"]) == [
        *("raw", "low12", "high12", "low36", "high36")
    ]
    result = json.loads((run.path / "retrained" / NET.id / "result.json").read_text())
    assert row["top1"]["raw"] == pytest.approx(result["average"]["top1"])


def test_an_export_and_weights_from_a_file_are_the_same_network(run, tmp_path, capsys):
    out = tmp_path / "export"
    assert main(["export", f"{run.path}:{NET.id}", "--to", "timm", "--out", str(out)]) == 0
    capsys.readouterr()
    weights = run.path / "retrained" / NET.id / "model.safetensors"
    write_atomically(tmp_path / "net.json", json.dumps(NET.to_dict()))
    words = (tmp_path / "net.json", "--weights", weights, "--data", "bands", "--radii", "12")
    [by_export] = asked(capsys, out, "--data", "bands", "--radii", "12")
    [by_file] = asked(capsys, *words)
    assert by_export["top1"] == by_file["top1"] and by_export["split"] == "val"


@pytest.fixture(scope="module")
def unfinished(tmp_path_factory):
    """(run, other) with one of two epochs, on one of two packs of the same images, whose minival
    is cut by other seeds.
    """
    place = tmp_path_factory.mktemp("unfinished")
    images = make_folder(place / "images", per_class=40, side=32)
    for seed in ("0", "1"):
        words = ["pack", images, place / f"pack{seed}", "--resolution", "32", "--seed", seed]
        assert main([*map(str, words)]) == 0
    source, recipe = place / "pack0", replace(RECIPE, num_epochs=2, batch_size=16)
    dataset = data.load(str(source), resolution=32, seed=0)
    settings = make_settings(
        Comparison,
        {
            **{"name": "u", "networks": {"small": NET.to_dict()}, "recipe": recipe},
            **{"data": str(source), "data_digest": dataset.digest},
        },
    )
    folder = RunFolder(place / "u")
    write_settings(folder, settings, RunData(108, 12, dataset.classes))
    training = run_trial(NET, dataset, recipe, folder.trial_folder(f"{NET.id}-seed0"), seed=0)
    next(training)
    training.close()
    return folder, place / "pack1"


def test_a_training_that_was_not_finished_is_told(unfinished, capsys):
    run, _ = unfinished
    [row] = asked(capsys, f"{run.path}:{NET.id}", "--radii", "12")
    assert row["note"] == "trained for 1 of 2 epochs"
    [told] = csv.DictReader((run.path / "frequency" / "frequency.csv").read_text().splitlines())
    assert told["note"] == row["note"]


def test_images_that_may_be_of_the_training_are_told(unfinished, run, capsys):
    folder, other = unfinished
    [row] = asked(capsys, f"{folder.path}:{NET.id}", "--radii", "12", "--data", other)
    assert row["note"].endswith("; trained on other data, which may have had some of these images")
    words = ["frequency", f"{folder.path}:{NET.id}", "--radii", "12", "--data", str(other)]
    assert main(words) == 0
    told = " ".join(capsys.readouterr().out.split())
    assert "small: trained for 1 of 2 epochs; trained on other data" in told
    assert [row["note"] for row in asked(capsys, run.path, "--radii", "12")] == ["", ""]


def test_a_place_that_cannot_be_written_is_told_first(run, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("gmsearch.band_accuracy.Looking.at", lambda *_: pytest.fail("looked"))
    (tmp_path / "file").touch()
    for out in ("/proc/nobody/here", str(tmp_path / ("n" * 300) / "x")):
        assert main(["frequency", str(run.path), "--out", out]) == 2
        error = capsys.readouterr().err
        assert error.startswith(f"gmsearch: --out {out}: cannot be written to: ")
        assert error.endswith("; give another place\n")
    assert list(tmp_path.iterdir()) == [tmp_path / "file"]
    for out in (tmp_path / "file", tmp_path / "file" / "below"):
        assert main(["frequency", str(run.path), "--out", str(out)]) == 2
        error = capsys.readouterr().err
        assert f"--out {out}: {tmp_path / 'file'} is not a folder; give a new one" in error
        assert error.count("\n") == 1


def test_the_table_says_what_it_is_of(run, capsys):
    assert main(["frequency", str(run.path)]) == 0
    told = capsys.readouterr().out
    assert "500 minival" in told and "12 is 1.71, 24 is 3.43, 36 is 5.14" in told
    assert "bias" in told and "frequency.csv" in told


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--radii", "0"], "radius 0: no frequency is lower"),
        (["--radii=-5"], "radius -5: no frequency is lower"),
        (["--radii", "200"], "radius 200 at 224 px: the highest frequency lies at 158.4"),
        (["--radii", "inf"], "radius inf: not a number of bins"),
        (["--radii", "12,nan"], "radius nan: not a number of bins"),
        (["--radii", "a"], "'a' is no list of radii; write some at 224 px, such as 12,24,36; see"),
        (["--radii", ""], "'' is no list of radii; write some at 224 px, such as 12,24,36; see"),
        (["--radii", ","], "',' is no list of radii; write some at 224 px, such as 12,24,36; see"),
        (["--data", "nowhere"], "--data nowhere: no such data"),
        (["--resolution", "64"], "--resolution 64: without --weights, networks have the size"),
    ],
)
def test_bad_words_are_one_line(run, capsys, words, message):
    assert main(["frequency", str(run.path), *words]) == 2
    assert message in capsys.readouterr().err


def test_names_that_mean_nothing(run, tmp_path, capsys):
    for what, message in [
        ("gmnet_s1", "no run, no export and no weights"),
        (f"{run.path}:0123456789", "has no network '0123456789'"),
        (str(tmp_path), "no run, no export and no weights"),
        (str(run.path / "retrained" / "x"), "nothing there is trained in full"),
    ]:
        with pytest.raises(SettingsError, match=message):
            find_trained(what)
    assert main(["frequency", str(run.path), "x", "--weights", "w"]) == 2
    assert "of which of 2 networks" in capsys.readouterr().err


def test_data_of_other_classes_is_refused(run, tmp_path, capsys):
    make_folder(tmp_path / "images")
    words = ["frequency", str(run.path), "--data", str(tmp_path / "images")]
    assert main([*words, "--cache", str(tmp_path / "cache")]) == 2
    assert "but the network has 12" in capsys.readouterr().err


def test_a_picture_of_many_networks(tmp_path):
    rows = [
        BandAccuracy(
            **{"name": f"network {i}", "id": "0", "data": "d", "resolution": 32, "split": "val"},
            num_images=500,
            top1={"raw": 60.0 + i, "low12": 20.0 + i, "high12": 30.0, "low24": 40.0, "high24": 9.0},
            bias=Bias(1.0, 0.0, 2.0),
        )
        for i in range(9)
    ]
    draw_accuracies(tmp_path / "p.png", rows)
    assert (tmp_path / "p.png").stat().st_size > 20_000
