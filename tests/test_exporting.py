"""An export computes what the network computes, wherever it is loaded, and says what it is."""

import json
import math
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import timm
import torch
from hypothesis import given, settings
from pictures import flat, make_folder
from safetensors.torch import load_file, save_file
from strategies import architectures
from test_onnx_export import lively

from gmsearch import data, folding
from gmsearch.architecture import ACTIVATIONS, FORMS, PLACEMENTS, Architecture, Stage
from gmsearch.cli import main
from gmsearch.cost import cost
from gmsearch.data.bands import CLASSES, NUM_VAL, make_bands_val
from gmsearch.data.decoding import side_for
from gmsearch.errors import ExportError
from gmsearch.experiment import Experiment, FullTraining, make_settings, read_settings
from gmsearch.exporting.card import write_card
from gmsearch.exporting.check import Check, as_run
from gmsearch.exporting.int8 import calibration_images
from gmsearch.exporting.pretrained import crop_share
from gmsearch.exporting.source_code import import_code, write_code
from gmsearch.exporting.subject import Subject, find_subject
from gmsearch.feeding import in_order, place
from gmsearch.gmnet import gmnet
from gmsearch.model import build
from gmsearch.network import network_to_json
from gmsearch.recipe import Recipe
from gmsearch.record import TrialRecord
from gmsearch.run import RunData, RunFolder, write_settings
from gmsearch.space_file import read_space_data
from gmsearch.trial import run_trial

ROOT = Path(__file__).parents[1]
TOLERANCE = 1e-4  # of the largest logit

# Every kind of gate that has weights, at different places, and blocks without.
MIXED = Architecture(
    stem_width=8,
    stem_activation="silu",
    stages=(
        Stage(width=8, depth=2, ratio=2, kernel=3, placement="spatial", form="dw", blocks="last"),
        Stage(width=12, depth=1, ratio=2, kernel=5, form="fc", downsampler="separable"),
        Stage(width=16, depth=3, ratio=2, placement="output", form="squeeze", activation="gelu"),
        Stage(width=24, depth=1, ratio=2, kernel=3, form="norm"),
    ),
)
RECIPE = Recipe(num_epochs=2, ema_decay=0.9)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A run of one trial, with an average of the weights, as a search leaves it."""
    folder = RunFolder(tmp_path_factory.mktemp("runs") / "r")
    space = read_space_data(ROOT / "search_spaces/tiny.yaml")
    told = {"name": "r", "space": space, "budget": 30_000_000, "recipe": RECIPE}
    write_settings(folder, make_settings(Experiment, told), RunData(9, 9, CLASSES))
    bands = data.load("bands", resolution=32, seed=0)
    *_, history = run_trial(MIXED, bands, RECIPE, folder.trial_folder(MIXED.id), seed=0)
    curve = [result.to_dict() for result in history]
    record = TrialRecord(0, MIXED.id, "complete", MIXED, 1, 2, 3, curve=curve)
    folder.write_front([record])
    return folder


@pytest.fixture(scope="module")
def exported(run):
    """All of it, of the best of the front."""
    assert main(["export", str(run.path), "--int8"]) == 0
    return run.path / "exported" / MIXED.id


@pytest.fixture(scope="module")
def images():
    return np.random.default_rng(7).standard_normal((6, 3, 32, 32), dtype=np.float32)


@pytest.fixture(scope="module")
def expected(run, images):
    """Logits of the network with the average of its weights, in float64."""
    saved = torch.load(run.trial_folder(MIXED.id) / "checkpoint.pt", weights_only=True)
    model = build(MIXED, 12).eval()
    model.load_state_dict(saved["ema"])
    with torch.no_grad():
        return model.double()(torch.from_numpy(images).double()).numpy()


def relative(found, expected):
    assert found.shape == expected.shape
    return np.abs(found - expected).max() / np.abs(expected).max()


def blocks(folder, language="python"):
    """The commands of a model card, by what they mention."""
    text = (folder / "README.md").read_text()
    return re.findall(rf"```{language}\n(.*?)```", text, re.DOTALL)


def run_block(folder, word, images, tmp_path, without=()):
    """Runs the commands that have a word in them, on these images, in a fresh process in the
    folder, where some packages are not to be had; returns the logits.
    """
    (block,) = [each for each in blocks(folder) if word in each]
    np.save(tmp_path / "images.npy", images)
    loaded = f"np.load({str(tmp_path / 'images.npy')!r})"
    loaded = loaded if "onnxruntime" in block else f"torch.from_numpy({loaded})"
    block, count = re.subn(r"^images = .*$", f"images = {loaded}", block, flags=re.MULTILINE)
    assert count == 1
    program = [
        "import sys",
        *(f"sys.modules[{name!r}] = None" for name in without),
        "import numpy as np",
        block,
        "logits = logits if isinstance(logits, np.ndarray) else logits.detach().numpy()",
        f"np.save({str(tmp_path / 'logits.npy')!r}, logits)",
    ]
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    if "gmsearch" not in without:
        environment["PYTHONPATH"] = str(ROOT)
    done = subprocess.run(
        [sys.executable, "-c", "\n".join(program)],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert done.returncode == 0, done.stderr
    return np.load(tmp_path / "logits.npy")


@pytest.mark.parametrize(
    ("word", "without"),
    [
        ("import timm", ()),
        ("torch.export.load", ("gmsearch", "timm", "safetensors")),
        ("from model import load", ("gmsearch", "timm", "safetensors", "torchvision")),
        ('"model.onnx"', ("gmsearch", "timm", "torch")),
    ],
)
def test_the_commands_of_the_card_give_the_logits(
    exported, images, expected, word, without, tmp_path
):
    found = run_block(exported, word, images, tmp_path, without)
    assert found.dtype == np.float32
    assert relative(found, expected) < TOLERANCE


def test_the_card_has_a_command_for_every_format(
    exported, images, expected, tmp_path, monkeypatch, capsys
):
    assert len(blocks(exported)) == 5
    found = run_block(exported, '"model.int8.onnx"', images, tmp_path, ("gmsearch", "torch"))
    assert TOLERANCE < relative(found, expected) < 0.5
    (command,) = blocks(exported, "sh")
    program, *words = command.split()
    assert program == "gmsearch"
    (tmp_path / "photo.jpg").write_bytes(flat(0x80FF00, side=40))
    shutil.copytree(exported, tmp_path / "export")
    monkeypatch.chdir(tmp_path / "export")
    shutil.copy(tmp_path / "photo.jpg", ".")
    assert main(words) == 0
    assert re.match(r"photo.jpg:\n( +[\d.]+ %  \w+ \w+\n){5}$", capsys.readouterr().out)


def test_a_trial_that_is_not_done_is_said_to_be(run, tmp_path):
    folder = RunFolder(shutil.copytree(run.path, tmp_path / "r"))
    text = folder.experiment_file.read_text()
    folder.experiment_file.write_text(text.replace("num_epochs: 2", "num_epochs: 9"))
    assert "trial: 2 of 9 epochs on bands at 32 px" in find_subject(str(folder.path)).weights


@pytest.mark.parametrize("count", [1, 4, 6])
def test_one_onnx_file_takes_any_batch(exported, images, expected, count):
    session = onnxruntime.InferenceSession(exported / "model.onnx")
    (found,) = session.run(["logits"], {"image": images[:count]})
    assert relative(found, expected[:count]) < TOLERANCE


def test_norms_and_layer_scales_are_folded(exported):
    graph = onnx.load(exported / "model.onnx").graph
    kinds = [node.op_type for node in graph.node]
    assert "BatchNormalization" not in kinds
    num_convolutions = sum(kind == "Conv" for kind in kinds)
    model = timm.create_model(f"local-dir:{exported}", pretrained=True)
    # The W of `fc` is in a convolution of its own still; so each is as it was.
    assert num_convolutions == sum(isinstance(m, torch.nn.Conv2d) for m in model.modules())


def test_timm_knows_how_images_are_prepared(exported):
    model = timm.create_model(f"local-dir:{exported}", pretrained=True)
    found = timm.data.resolve_data_config(model=model)
    assert tuple(found["input_size"]) == (3, 32, 32) and found["interpolation"] == "bicubic"
    assert tuple(found["mean"]) == timm.data.IMAGENET_DEFAULT_MEAN
    assert tuple(found["std"]) == timm.data.IMAGENET_DEFAULT_STD
    resize = timm.data.create_transform(**found).transforms[0]
    assert resize.size == side_for(32) == 37
    assert model.pretrained_cfg["label_names"] == list(CLASSES)
    assert model.pretrained_cfg["num_classes"] == model.num_classes == 12
    again = timm.create_model(f"local-dir:{exported}", pretrained=True, num_classes=3)
    assert again.eval()(torch.zeros(1, 3, 32, 32)).shape == (1, 3)
    assert torch.equal(again.stem[0].conv.weight, model.stem[0].conv.weight)


def test_timm_resizes_images_as_packs_do():
    """Which takes the whole part of a quotient."""
    for resolution in range(8, 1025):
        assert math.floor(resolution / crop_share(resolution)) == side_for(resolution)
    assert crop_share(224) == 0.875


def test_the_code_has_the_parameters_of_the_weights(exported):
    model = import_code(exported / "model.py").load(exported / "model.safetensors")
    weights = load_file(exported / "model.safetensors")
    found = model.state_dict()
    assert found.keys() == weights.keys()
    assert all(torch.equal(found[key], weights[key]) for key in weights)


def test_check_json_has_what_was_found(exported, run):
    report = json.loads((exported / "check.json").read_text())
    assert set(report["formats"]) == {"timm", "onnx", "torch", "code", "int8"}
    for name, found in report["formats"].items():
        assert all((exported / file).is_file() for file in found["files"])
        assert found["difference"] < (1 if name == "int8" else TOLERANCE)
    assert report["largest_logit"] > 0.1
    small = report["formats"]["int8"]
    last = json.loads((run.trial_folder(MIXED.id) / "metrics.jsonl").read_text().splitlines()[-1])
    assert small["top1_float"] == pytest.approx(last["top1"], abs=0.5)
    assert abs(small["top1"] - small["top1_float"]) < 10
    assert small["images"] == 500 and small["calibration_images"] >= 100
    counted = cost(MIXED, resolution=32, num_classes=12)
    assert report["cost"] == counted._asdict()
    assert report["deployed_macs"] < counted.macs  # `fc` at `expand`


def test_int8_is_int8(exported):
    graph = onnx.load(exported / "model.int8.onnx").graph
    kinds = {node.op_type for node in graph.node}
    assert {"QuantizeLinear", "DequantizeLinear"} <= kinds
    weights = sum(len(each.raw_data) for each in graph.initializer if each.data_type == 3)
    assert (
        weights
        > 0.9
        * sum(
            parameter.numel() for parameter in build(MIXED, 12).parameters() if parameter.ndim > 1
        )
        * 0.9
    )


def test_the_card_says_what_the_weights_are(exported, run):
    card = (exported / "README.md").read_text()
    top1 = json.loads(run.front_file.read_text())[0]["top1"]
    assert "the average of the weights (EMA) of a short search trial: 2 epochs on bands" in card
    assert f"top1 {top1:.1f} % on its minival split" in card
    assert "resized to 37 px, and the 32 px in its middle are normalised" in card
    assert "Apache-2.0" in card and "ema_decay 0.9" in card
    assert f"| {cost(MIXED, resolution=32, num_classes=12).macs:,} |" in card
    for number, stage in enumerate(MIXED.stages, 1):
        assert re.search(rf"\| {number} \| \d+ \| {stage.width} \| {stage.depth} \|", card)
        assert stage.gate_in_words() in card
    config = json.loads((exported / "config.json").read_text())
    assert "short search trial" in config["pretrained_cfg"]["description"]
    assert config["weights"]["epochs"] == 2 and config["weights"]["top1"] == top1


def test_random_weights_are_said_to_be_random(tmp_path, capsys):
    (tmp_path / "a.json").write_text(network_to_json(MIXED))
    words = ["--to", "timm", "--resolution", "32", "--classes", "4"]
    for name in ("one", "two"):
        out = str(tmp_path / name)
        assert main(["export", str(tmp_path / "a.json"), "--out", out, *words]) == 0
    assert "The weights are random: the network is not trained" in capsys.readouterr().out
    assert "**The weights are random" in (tmp_path / "one/README.md").read_text()
    config = json.loads((tmp_path / "one/config.json").read_text())
    assert "random" in config["pretrained_cfg"]["description"]
    assert config["weights"] == {"kind": "random", "seed": 0}
    assert sorted(path.name for path in (tmp_path / "one").iterdir()) == [
        *("README.md", "architecture.json", "check.json", "config.json", "model.safetensors"),
    ]
    one, two = (tmp_path / name / "model.safetensors" for name in ("one", "two"))
    assert one.read_bytes() == two.read_bytes()
    assert one.stat().st_mode & 0o777 == (tmp_path / "one/config.json").stat().st_mode & 0o777


def test_weights_from_a_file_bring_their_classes(tmp_path, capsys):
    """In the wrapping of the authors' checkpoints."""
    torch.manual_seed(3)
    model = lively(build(gmnet("gmnet_s1", 2), 9))
    torch.save(
        {"state_dict": {f"module.{k}": v for k, v in model.state_dict().items()}},
        tmp_path / "w.pth",
    )
    (tmp_path / "a.json").write_text(network_to_json(gmnet("gmnet_s1", 2)))
    (tmp_path / "names.txt").write_text("".join(f"n{i}\n" for i in range(9)))
    line = ["export", str(tmp_path / "a.json"), "--weights", str(tmp_path / "w.pth")]
    line += ["--resolution", "32", "--to", "timm", "--classes", str(tmp_path / "names.txt")]
    assert main([*line, "--out", str(tmp_path / "out"), "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["num_classes"] == 9 and told["weights"]["file"] == "w.pth"
    found = load_file(tmp_path / "out/model.safetensors")
    assert all(torch.equal(found[key], value) for key, value in model.state_dict().items())
    config = json.loads((tmp_path / "out/config.json").read_text())
    assert config["label_names"] == [f"n{i}" for i in range(9)]


def test_a_run_and_an_id_are_one_word_or_two(run):
    one = find_subject(f"{run.path}:{MIXED.id}")
    two = find_subject(str(run.path), network_id=MIXED.id)
    assert one.facts == two.facts and one.facts["average"]
    assert one.labels == CLASSES and one.resolution == 32


def add_retraining(folder, **settings):
    """A full training that is done, as `retrain` leaves it but for its checkpoint: the weights are
    the last ones of the trial.
    """
    retrained = folder.path / "retrained" / MIXED.id
    retrained.mkdir(parents=True)
    saved = torch.load(folder.trial_folder(MIXED.id) / "checkpoint.pt", weights_only=True)
    state = {key: value.contiguous() for key, value in saved["model"].items()}
    save_file(state, retrained / "model.safetensors")
    settings = {"data": "bands", "resolution": 32, "recipe": Recipe(num_epochs=2), **settings}
    (retrained / "settings.yaml").write_text(FullTraining(**settings).to_yaml())
    write_result(retrained)
    return retrained


def write_result(retrained, **changes):
    raw, by_class = {"top1": 51.25, "top5": 90.0}, dict.fromkeys(CLASSES, 50.0)
    result = {"epochs": 2, "raw": raw, "by_class": by_class, **changes}
    (retrained / "result.json").write_text(json.dumps(result))


def test_a_retraining_comes_before_its_trial(run, tmp_path):
    folder = RunFolder(shutil.copytree(run.path, tmp_path / "r"))
    retrained = add_retraining(folder)
    (retrained / "result.json").unlink()
    assert find_subject(str(folder.path)).facts["kind"] == "short search trial"  # it goes on yet
    write_result(retrained)
    found = find_subject(str(folder.path))
    assert found.facts["kind"] == "full retraining" and not found.facts["average"]
    assert found.facts["split"] == "val" and found.labels == CLASSES
    words = "The weights are those of a full retraining: 2 epochs on bands at 32 px, top1 51.2 %"
    assert found.weights.startswith(words)
    saved = load_file(retrained / "model.safetensors")
    for key, value in found.model.state_dict().items():
        assert torch.equal(value, saved[key])
    write_result(retrained, average={"top1": 54.5, "top5": 91.0})
    found = find_subject(str(folder.path))
    assert found.facts["average"] and found.facts["top1"] == 54.5
    assert found.weights.startswith("The weights are the average of the weights (EMA) of a full")


@pytest.mark.parametrize(
    "text", ['{"id"', "{}", "[]", '{"epochs": 2, "raw": {"top1": 5}, "by_class": 3}', "\udcff"]
)
def test_a_broken_retraining_is_one_line(text, run, tmp_path, capsys):
    folder = RunFolder(shutil.copytree(run.path, tmp_path / "r"))
    shutil.rmtree(folder.path / "exported", ignore_errors=True)
    retrained = add_retraining(folder)
    (retrained / "result.json").write_text(text, errors="surrogateescape")
    message = mistake([str(folder.path)], tmp_path, capsys)
    assert "result.json: not what a full training wrote; remove it" in message


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("settings.yaml", "settings.yaml: no such file"),
        ("model.safetensors", "model.safetensors: no such file of weights"),
    ],
)
def test_a_retraining_that_lacks_a_file_is_one_line(name, message, run, tmp_path, capsys):
    folder = RunFolder(shutil.copytree(run.path, tmp_path / "r"))
    shutil.rmtree(folder.path / "exported", ignore_errors=True)
    (add_retraining(folder) / name).unlink()
    assert message in mistake([str(folder.path)], tmp_path, capsys)


@pytest.mark.parametrize(
    ("teacher", "distillation", "told"),
    [
        (None, 0.5, ""),
        ("resnet18.a1_in1k", 0.5, "distillation 0.5, temperature 2, teacher resnet18.a1_in1k"),
        ("/runs/a/retrained/0123456789", 0.25, "teacher 0123456789"),
        ("resnet18.a1_in1k", 0.0, ""),
    ],
)
def test_the_card_tells_of_a_teacher_where_one_taught(teacher, distillation, told, run, tmp_path):
    """And of no numbers that did nothing."""
    folder = RunFolder(shutil.copytree(run.path, tmp_path / "r"))
    recipe = Recipe(num_epochs=2, distillation=distillation, temperature=2.0)
    add_retraining(folder, recipe=recipe, teacher=teacher)
    card = write_card(find_subject(str(folder.path)), {"formats": {}, "deployed_macs": 10**9})
    (line,) = re.findall(r"Recipe: .*\n", card)
    assert line.endswith(f"{told}.\n") and "min_crop_area" not in line
    assert all((word in line) == bool(told) for word in ("distillation", "temperature", "teacher"))


def test_int8_of_a_full_training_is_measured_on_val(run, tmp_path, capsys):
    """Which has trained on minival."""
    folder = RunFolder(shutil.copytree(run.path, tmp_path / "r"))
    add_retraining(folder)
    out = tmp_path / "out"
    assert main(["export", str(folder.path), "--int8", "--to", "timm", "--out", str(out)]) == 0
    small = json.loads((out / "check.json").read_text())["formats"]["int8"]
    assert small["split"] == "val" and small["images"] == NUM_VAL
    assert re.search(r"int8: .* top1 [\d.]+ on 2,000 images of val, ", capsys.readouterr().out)
    card = (out / "README.md").read_text()
    assert "2,000 images of val of bands; the ranges were taken from 256 training images" in card
    model, val = find_subject(str(folder.path)).model, make_bands_val(32, seed=0)
    images = place(val.images, torch.device("cpu"))
    correct = sum(
        int((model(batch).argmax(1) == labels).sum())
        for batch, labels in in_order(images, val.labels, 32, torch.device("cpu"))
    )
    assert small["top1_float"] == pytest.approx(100 * correct / NUM_VAL, abs=0.1)


def test_int8_of_weights_from_a_file_is_measured_on_val(run, tmp_path, capsys):
    """They may be those of a full training, and have its average."""
    folder = RunFolder(shutil.copytree(run.path, tmp_path / "r"))
    retrained = add_retraining(folder)
    line = ["export", str(folder.path), "--weights", str(retrained / "model.safetensors")]
    assert main([*line, "--int8", "--to", "torch", "--out", str(tmp_path / "out")]) == 0
    small = json.loads((tmp_path / "out/check.json").read_text())["formats"]["int8"]
    assert small["split"] == "val" and small["images"] == NUM_VAL
    card = (tmp_path / "out/README.md").read_text()
    assert "Nothing is known" not in card and "model.onnx and" not in card


def test_a_checkpoint_of_ours_gives_its_average(run, tmp_path):
    checkpoint = run.trial_folder(MIXED.id) / "checkpoint.pt"
    found = find_subject(str(run.trial_folder(MIXED.id) / "architecture.json"), weights=checkpoint)
    average = torch.load(checkpoint, weights_only=True)["ema"]
    assert all(torch.equal(found.model.state_dict()[key], average[key]) for key in average)


def test_calibration_takes_training_images_all_over_the_split(monkeypatch):
    bands = data.load("bands", resolution=32, seed=0)
    taken = []
    whole = data.Shards.__getitem__
    monkeypatch.setattr(
        data.Shards, "__getitem__", lambda self, i: taken.append((self, i)) or whole(self, i)
    )
    found = calibration_images(bands)
    assert len(found) == len(taken) == 256 and {images for images, _ in taken} == {
        bands.train.images
    }
    chosen = [index for _, index in taken]
    assert chosen[0] == 0 and set(np.diff(chosen)) == {3, 4} and chosen[-1] >= 996
    pixels = bands.train.images[chosen[7]][4:36, 4:36].astype(np.float32) / 255
    expected = (pixels - timm.data.IMAGENET_DEFAULT_MEAN) / timm.data.IMAGENET_DEFAULT_STD
    assert np.abs(found[7] - expected.transpose(2, 0, 1)).max() < 1e-5


@pytest.mark.parametrize("full", [False, True])
def test_int8_does_not_pack_what_was_streamed(full, run, tmp_path, capsys):
    source = str(make_folder(tmp_path / "set"))
    folder = RunFolder(shutil.copytree(run.path, tmp_path / "r"))
    shutil.rmtree(folder.path / "exported", ignore_errors=True)
    if full:
        add_retraining(folder, data=source, stream=True)
    else:
        text = folder.experiment_file.read_text()
        text = text.replace("stream: false", "stream: true").replace(
            "data: bands", f"data: {source}"
        )
        folder.experiment_file.write_text(text)
    message = mistake([str(folder.path), "--int8"], tmp_path, capsys)
    assert f"--int8: {source} was streamed" in message and "give --data PACK" in message


def test_names_that_are_no_utf_8_come_through(run, tmp_path, capsys):
    """Classes are folders, and so is an export."""
    folder = RunFolder(shutil.copytree(run.path, tmp_path / "r"))
    classes = (os.fsdecode(b"caf\xe9"), "naïve", "a\nb", *CLASSES[3:])
    write_settings(folder, read_settings(folder.experiment_file), RunData(9, 9, classes))
    out = tmp_path / "out"
    assert main(["export", str(folder.path), "--to", "timm", "--out", str(out)]) == 0
    model = timm.create_model(f"local-dir:{out}", pretrained=True)
    assert tuple(model.pretrained_cfg["label_names"]) == classes
    other = tmp_path / os.fsdecode(b"caf\xe9")
    assert main(["export", str(folder.path), "--to", "onnx", "--out", str(other)]) == 0
    assert capsys.readouterr().out.endswith(f"all of it is in {tmp_path}/caf\\udce9\n")
    assert (other / "model.onnx").is_file()


def test_a_comparison_is_exported_by_seed(run, tmp_path):
    folder = RunFolder(shutil.copytree(run.path, tmp_path / "r"))
    folder.trial_folder(MIXED.id).rename(folder.trials_folder / f"{MIXED.id}-seed4")
    assert find_subject(str(folder.path), network_id=MIXED.id).facts["epochs"] == 2


class Bomb:
    def __reduce__(self):
        return print, ("boom",)


def mistake(words, tmp_path, capsys):
    """The message of an export that is refused, and that leaves nothing."""
    before = sorted(tmp_path.rglob("*"))
    assert main(["export", *words]) == 2
    output = capsys.readouterr()
    assert output.out == "" and output.err.count("\n") == 1
    assert sorted(tmp_path.rglob("*")) == before
    return output.err


MISTAKES = [
    (["RUN", "--id", "0123456789"], "has no network '0123456789'; its trials.csv lists the ids"),
    (["RUN:0123456789"], "has no network '0123456789'"),
    (["RUN", "--id", f"../trials/{MIXED.id}"], "has no network '../trials/.*lists the ids"),
    (["RUN", "--to", "timm,tflite"], "no format 'tflite'; allowed: timm, onnx, torch, code"),
    (["RUN", "--classes", "5"], "--classes: 5 classes, but .*checkpoint.pt is for 12; leave it"),
    (["RUN", "--data", "bands"], "--data is that of --int8"),
    (["RUN", "--resolution", "16"], "resolution is 16 px, but .* give 32 px or more"),
    (["RUN", "--int8", "--data", "SMALL"], "SMALL: 3 classes, but the network has 12"),
    (["RUN", "--weights", "nowhere.pth"], "nowhere.pth: no such file of weights"),
    (["RUN", "--weights", "OTHER"], "weights of another network: "),
    (["RUN", "--weights", "BOMB"], "not readable as weights"),
    (["gmnet_s1"], "give --out DIR"),
    (["gmnet_s1", "--out", "OUT", "--id", "0123456789"], "gmnet_s1 is no run"),
    (["gmnet_s9", "--out", "OUT"], "no network is called 'gmnet_s9'"),
    (["gmnet_s1", "--out", "OUT", "--int8"], "--int8 needs images .* give --data PACK"),
    (["gmnet_s1", "--out", "RUN"], "RUN exists and is not empty; give another --out"),
    (["starnet_s1", "--to", "code", "--out", "OUT"], "--to code: starnet_s1 is timm's"),
    (["gmnet_s1", "--classes", "NONE", "--out", "OUT"], "--classes .*NONE: No such file"),
    (["gmnet_s1", "--classes", "0", "--out", "OUT"], "--classes: 0 classes; give 1 or more"),
    (["gmnet_s1", "--bits", "8"], "unrecognized arguments: --bits 8"),
]


@pytest.mark.parametrize(("words", "message"), MISTAKES)
def test_a_mistake_is_one_line_and_leaves_nothing(words, message, run, tmp_path, capsys):
    shutil.copytree(run.path, tmp_path / "RUN", ignore=shutil.ignore_patterns("exported"))
    make_folder(tmp_path / "SMALL", side=32)
    torch.save(build(gmnet("gmnet_s1", 2), 12).state_dict(), tmp_path / "OTHER")
    torch.save(Bomb(), tmp_path / "BOMB")
    places = "RUN|SMALL|OTHER|BOMB|OUT|NONE"
    words = [re.sub(rf"^({places})\b", rf"{tmp_path}/\1", word) for word in words]
    assert re.search(message, mistake(words, tmp_path, capsys))


def test_a_run_without_a_front_or_with_broken_weights(run, tmp_path, capsys):
    folder = RunFolder(shutil.copytree(run.path, tmp_path / "r"))
    shutil.rmtree(folder.path / "exported", ignore_errors=True)
    checkpoint = folder.trial_folder(MIXED.id) / "checkpoint.pt"
    for junk in (b"junk", checkpoint.read_bytes()[:-1000]):
        checkpoint.write_bytes(junk)
        assert "not a checkpoint of a training" in mistake([str(folder.path)], tmp_path, capsys)
    torch.save(Bomb(), checkpoint)
    assert "not a checkpoint of a training" in mistake([str(folder.path)], tmp_path, capsys)
    checkpoint.unlink()
    assert "the training has no weights yet" in mistake([str(folder.path)], tmp_path, capsys)
    folder.front_file.write_text("[]")
    assert "has no front yet; give --id" in mistake([str(folder.path)], tmp_path, capsys)


@pytest.mark.parametrize("what", ["gmnet_s1", f"trials/{MIXED.id}/architecture.json"])
def test_a_run_has_no_place_for_a_network_of_another_origin(what, run, monkeypatch, capsys):
    """Even where the run is the folder that one is in."""
    monkeypatch.chdir(run.path)
    before = sorted(run.path.rglob("*"))
    assert main(["export", what, "--to", "timm"]) == 2
    assert "give --out DIR" in capsys.readouterr().err
    assert sorted(run.path.rglob("*")) == before


def test_the_folder_that_one_is_in_may_be_the_run(run, tmp_path, monkeypatch):
    folder = shutil.copytree(run.path, tmp_path / "r", ignore=shutil.ignore_patterns("exported"))
    monkeypatch.chdir(folder)
    assert main(["export", f".:{MIXED.id}", "--to", "code"]) == 0
    assert (folder / "exported" / MIXED.id / "model.py").is_file()


def test_an_export_that_exists_stays(exported, run, capsys):
    before = {path: path.read_bytes() for path in exported.iterdir()}
    assert main(["export", str(run.path)]) == 2
    assert f"{exported} exists and is not empty" in capsys.readouterr().err
    assert {path: path.read_bytes() for path in exported.iterdir()} == before


@pytest.mark.parametrize("dot", [False, True])
def test_an_empty_folder_may_be_there(dot, run, tmp_path, monkeypatch):
    (tmp_path / "out").mkdir()
    monkeypatch.chdir(tmp_path / "out")
    out = "." if dot else str(tmp_path / "out")
    assert main(["export", str(run.path), "--to", "code", "--out", out]) == 0
    assert (tmp_path / "out/model.py").is_file()
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


@pytest.mark.parametrize("there", [True, False])
def test_a_link_to_an_empty_folder_is_followed(there, run, tmp_path):
    if there:
        (tmp_path / "there").mkdir()
    (tmp_path / "out").symlink_to(tmp_path / "there")
    words = ["--to", "code", "--out", str(tmp_path / "out")]
    assert main(["export", str(run.path), *words]) == 0
    assert (tmp_path / "there/model.py").is_file() and (tmp_path / "out").is_symlink()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out", "there"]


def test_what_computes_something_else_is_not_exported(run, tmp_path, monkeypatch, capsys):
    def wrong(model):
        folded = folding.fold(model)
        with torch.no_grad():
            folded.head.bias += 0.01
        return folded

    monkeypatch.setattr("gmsearch.exporting.subject.fold", wrong)
    assert main(["export", str(run.path), "--to", "onnx", "--out", str(tmp_path / "out")]) == 1
    error = capsys.readouterr().err
    assert re.fullmatch(r"gmsearch: onnx: logits differ by \S+ of the largest .*\n", error)
    assert list(tmp_path.iterdir()) == []


def test_a_disk_that_is_full_leaves_nothing(run, tmp_path, monkeypatch, capsys):
    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("gmsearch.exporting.folder.write_card", full)
    assert main(["export", str(run.path), "--to", "timm", "--out", str(tmp_path / "out")]) == 2
    assert "No space left on device" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_logits_that_are_not_finite_pass_no_check():
    model = lively(build(MIXED, 5))
    check = Check(model, 32)
    assert check.hold("same", as_run(model)) == 0
    with pytest.raises(ExportError, match="logits differ by nan"):
        check.hold("nan", lambda images: np.full((len(images), 5), np.nan, np.float32))
    with torch.no_grad():
        model.head.bias[0] = float("inf")
    with pytest.raises(ExportError, match="not finite"):
        Check(model, 32)


def subject_of(architecture, num_classes=5):
    return Subject(
        name="any",
        network=architecture,
        model=lively(build(architecture, num_classes)),
        resolution=33,
        num_classes=num_classes,
        labels=None,
        weights="",
        facts={},
    )


@settings(max_examples=40, deadline=None)
@given(architectures())
def test_the_code_of_any_architecture_computes_the_same(tmp_path_factory, architecture):
    subject = subject_of(architecture)
    file = tmp_path_factory.mktemp("code") / "model.py"
    file.write_text(write_code(subject))
    model = import_code(file).Network().eval()
    model.load_state_dict(subject.model.state_dict())
    images = torch.randn(2, 3, 33, 33, generator=torch.Generator().manual_seed(0)).double()
    with torch.no_grad():
        found, expected = model.double()(images), subject.model.double()(images)
    assert (found - expected).abs().max() <= 1e-12 * expected.abs().max()


def test_the_code_is_formatted_and_clean(tmp_path):
    """As black does it, and by ruff's usual rules and some more."""
    widest = {"width": 8192, "depth": 64, "ratio": 16}
    for placement in PLACEMENTS:
        for form in FORMS:
            if placement in ("expand", "none") or form != "twin":
                for activation in ACTIVATIONS:
                    gate = {"placement": placement, "form": form, "activation": activation}
                    stages = (
                        Stage(width=4, depth=1, ratio=2, **gate),
                        Stage(width=4, depth=3, ratio=2, **gate, blocks="alternate"),
                        Stage(width=4, depth=3, ratio=2, **gate, downsampler="separable"),
                        Stage(**gate, **widest),
                    )
                    network = Architecture(stem_width=4, stem_activation=activation, stages=stages)
                    subject = Subject(
                        name="",
                        network=network,
                        model=torch.nn.Identity(),
                        resolution=1024,
                        num_classes=21843,
                        labels=None,
                        weights="",
                        facts={},
                    )
                    (tmp_path / f"{placement}_{form}_{activation}.py").write_text(
                        write_code(subject)
                    )
    ruff = shutil.which("ruff", path=Path(sys.executable).parent) or "ruff"
    for words in (["format", "--check"], ["check", "--select", "B,E,F,I,UP,W,ANN,C4,SIM"]):
        done = subprocess.run(
            [ruff, *words, "--isolated", str(tmp_path)], capture_output=True, text=True
        )
        assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.slow
@pytest.mark.parametrize(
    "name", ["gmnet_s3", "mobilenetv3_large_100", "mobileone_s0", "deit_tiny_patch16_224"]
)
def test_published_networks_and_peers(name, tmp_path, capsys):
    assert main(["export", name, "--out", str(tmp_path / "out"), "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    ours = name.startswith("gmnet")
    assert set(told["formats"]) == {"timm", "onnx", "torch", *(["code"] if ours else [])}
    images = np.random.default_rng(1).standard_normal((2, 3, 224, 224), dtype=np.float32)
    session = onnxruntime.InferenceSession(tmp_path / "out/model.onnx")
    (found,) = session.run(["logits"], {"image": images})
    model = timm.create_model(f"local-dir:{tmp_path / 'out'}", pretrained=True).eval()
    with torch.no_grad():
        assert relative(found, model(torch.from_numpy(images)).numpy()) < TOLERANCE
