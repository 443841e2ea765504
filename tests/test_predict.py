"""The likeliest classes of images, by an export."""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from pictures import encoded
from PIL import Image
from test_onnx_export import lively

from gmsearch.cli import main
from gmsearch.data.decoding import side_for
from gmsearch.data.packing import Order, make_pack
from gmsearch.data.selection import Selection, choose
from gmsearch.data.sources import Folder
from gmsearch.feeding import in_order, place
from gmsearch.gmnet import gmnet
from gmsearch.model import build
from gmsearch.network import network_to_json
from gmsearch.predict import Predictor

ROOT = Path(__file__).parents[1]
SIDE = 32
LABELS = ("ant", "bee", "cat", "dog", "eel", "fox", "gnu")
NETWORK = gmnet("gmnet_s1", 2)


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    """A network with lively weights in all formats."""
    root = tmp_path_factory.mktemp("export")
    torch.manual_seed(0)
    torch.save(lively(build(NETWORK, len(LABELS))).state_dict(), root / "w.pt")
    (root / "a.json").write_text(network_to_json(NETWORK))
    (root / "labels.txt").write_text("\n".join(LABELS))
    line = ["export", str(root / "a.json"), "--weights", str(root / "w.pt")]
    line += ["--classes", str(root / "labels.txt"), "--resolution", str(SIDE)]
    assert main([*line, "--out", str(root / "out"), "--to", "timm,onnx"]) == 0
    return root / "out"


@pytest.fixture
def photos(tmp_path):
    """Images of several shapes and formats."""
    rng = np.random.default_rng(0)
    files = []
    for name, shape in (("a.jpg", (50, 80)), ("b.png", (120, 61)), ("c.png", (32, 32))):
        pixels = rng.integers(0, 255, (*shape, 3), dtype=np.uint8)
        format = "JPEG" if name.endswith("jpg") else "PNG"
        (tmp_path / name).write_bytes(encoded(pixels, format))
        files.append(tmp_path / name)
    return files


def told(output):
    """What was printed: for each image the classes with their probabilities."""
    found, guesses = {}, []
    for line in output.splitlines():
        if line.startswith("  "):
            percent, label = re.fullmatch(r" +([\d.]+) %  (.+)", line).groups()
            guesses.append((label, float(percent)))
        else:
            guesses = found[line.removesuffix(":")] = []
    return found


def test_the_five_likeliest_by_timm_and_pillow(exported, photos, capsys):
    """With the network as timm loads it, on images as Pillow cuts them."""
    assert main(["predict", str(exported), *map(str, photos)]) == 0
    found = told(capsys.readouterr().out)
    assert list(found) == [str(photo) for photo in photos]
    model = timm.create_model(f"local-dir:{exported}", pretrained=True).eval()
    for photo in photos[:2]:  # the third is smaller than the head-room
        image = Image.open(photo)
        short, whole = min(image.size), side_for(SIDE)
        left, top = ((length - short) // 2 for length in image.size)
        box = (left, top, left + short, top + short)
        square = image.resize((whole, whole), Image.Resampling.BICUBIC, box)
        corner = (whole - SIDE) // 2
        centre = square.crop((corner, corner, corner + SIDE, corner + SIDE))
        pixels = torch.from_numpy(np.array(centre)).permute(2, 0, 1) / 255
        mean, std = (
            torch.tensor(model.pretrained_cfg[key])[:, None, None] for key in ("mean", "std")
        )
        with torch.no_grad():
            odds = model(((pixels - mean) / std)[None]).softmax(1)[0]
        values, best = odds.topk(5)
        assert [label for label, _ in found[str(photo)]] == [LABELS[i] for i in best]
        percents = [percent for _, percent in found[str(photo)]]
        assert percents == pytest.approx([100 * float(value) for value in values], abs=0.2)


def test_a_program_reads_the_same(exported, photos, capsys):
    assert main(["predict", str(exported), *map(str, photos)]) == 0
    by_eye = told(capsys.readouterr().out)
    assert main(["predict", str(exported), *map(str, photos), "--json"]) == 0
    by_program = json.loads(capsys.readouterr().out)
    assert list(by_program) == list(by_eye)
    for photo, guesses in by_eye.items():
        found = [(each["label"], round(100 * each["probability"], 1)) for each in by_program[photo]]
        assert found == guesses


def test_images_are_prepared_as_those_of_a_pack(exported, tmp_path):
    """So what a search saw in minival is what predict sees of the same file."""
    rng = np.random.default_rng(1)
    for label in ("x", "y"):
        for split, count in (("train", 10), ("val", 2)):
            folder = tmp_path / "set" / split / label
            folder.mkdir(parents=True)
            for i in range(count):
                side = int(rng.integers(20, 90))
                pixels = rng.integers(0, 255, (side, 70, 3), dtype=np.uint8)
                (folder / f"{i}.png").write_bytes(encoded(pixels))
    source = Folder(tmp_path / "set")
    order = Order(source, Selection(), choose(source, Selection()), SIDE)
    pack = make_pack(order, tmp_path / "pack", workers=1)
    names = (tmp_path / "pack/val/names.txt").read_text().splitlines()
    val = pack.split("val")
    ((images, _),) = in_order(
        place(val.images, torch.device("cpu")), val.labels, SIDE, torch.device("cpu")
    )
    predictor = Predictor(exported)
    for name, image in zip(names, images.numpy(), strict=True):
        found = predictor.prepare(tmp_path / "set" / name)
        assert np.abs(found - image).max() < 1e-5


def test_without_onnx_timm_does_it(exported, photos, tmp_path, capsys):
    folder = shutil.copytree(exported, tmp_path / "out")
    main(["predict", str(folder), str(photos[0])])
    by_onnx = told(capsys.readouterr().out)
    (folder / "model.onnx").unlink()
    main(["predict", str(folder), str(photos[0])])
    by_timm = told(capsys.readouterr().out)
    ((one, two),) = zip(by_onnx.values(), by_timm.values(), strict=True)
    assert [label for label, _ in one] == [label for label, _ in two]
    assert [p for _, p in one] == pytest.approx([p for _, p in two], abs=0.1)


def test_classes_without_names_and_fewer_than_five(tmp_path, photos, capsys):
    (tmp_path / "a.json").write_text(network_to_json(NETWORK))
    line = ["export", str(tmp_path / "a.json"), "--classes", "3", "--resolution", "32"]
    assert main([*line, "--to", "onnx", "--out", str(tmp_path / "out")]) == 0
    capsys.readouterr()
    assert main(["predict", str(tmp_path / "out"), str(photos[0])]) == 0
    ((guesses),) = told(capsys.readouterr().out).values()
    assert {label for label, _ in guesses} == {"class 0", "class 1", "class 2"}
    assert sum(percent for _, percent in guesses) == pytest.approx(100, abs=0.2)


@pytest.mark.parametrize("onnx", [True, False])
def test_names_that_are_no_utf_8_are_escaped(onnx, exported, photos, tmp_path):
    """And a name of two lines stays on one."""
    folder = shutil.copytree(exported, tmp_path / "out")
    broken(folder, label_names=["caf\udce9", "naïve", "a\nb", "d", "e", "f", "\ud800"])
    if not onnx:
        (folder / "model.onnx").unlink()
    photo = os.fsencode(tmp_path) + b"/caf\xe9.jpg"
    shutil.copy(photos[0], photo)
    command = [sys.executable, "-m", "gmsearch", "predict", os.fsencode(folder), photo]
    environment = {**os.environ, "PYTHONIOENCODING": "utf-8:strict", "PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, capture_output=True, env=environment)
    assert done.returncode == 0, done.stderr
    found = told(done.stdout.decode())
    assert list(found) == [f"{tmp_path}/caf\\udce9.jpg"]
    known = {"caf\\udce9", "naïve", "a\\nb", "d", "e", "f", "\\ud800"}
    (guesses,) = found.values()
    assert len(guesses) == 5 and {label for label, _ in guesses} < known


def broken(folder, **changes):
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, **changes}))


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda t: (t / "a.jpg").write_text("no image"), r"a.jpg: not an image .* no format"),
        (lambda t: (t / "a.jpg").unlink(), "a.jpg: not an image .* No such file"),
        (
            lambda t: (t / "a.jpg").write_bytes((t / "a.jpg").read_bytes()[:300]),
            "a.jpg: not an image that can be read: .*[Tt]runcated",
        ),
        (lambda t: shutil.rmtree(t / "out"), "out is no export, it has no config.json"),
        (lambda t: (t / "out/config.json").write_text("{"), "config.json: not what gmsearch"),
        (lambda t: (t / "out/config.json").write_text("[]"), "config.json: not what gmsearch"),
        (lambda t: broken(t / "out", label_names=["ant"]), "config.json: not what gmsearch"),
        (lambda t: broken(t / "out", label_names=[*range(7)]), "config.json: not what gmsearch"),
        (lambda t: broken(t / "out", pretrained_cfg={}), "config.json: not what gmsearch"),
        (lambda t: broken(t / "out", num_classes=6, label_names=None), "not the network of"),
        (lambda t: (t / "out/model.onnx").write_text("x"), "model.onnx: cannot be loaded"),
        (
            lambda t: [(t / "out" / name).unlink() for name in ("model.onnx", "model.safetensors")],
            "has neither model.onnx nor model.safetensors; export it --to onnx",
        ),
    ],
)
def test_a_mistake_is_one_line(spoil, message, exported, photos, tmp_path, capsys):
    shutil.copytree(exported, tmp_path / "out")
    spoil(tmp_path)
    assert main(["predict", str(tmp_path / "out"), str(tmp_path / "a.jpg")]) == 2
    output = capsys.readouterr()
    assert output.out == ""
    assert re.search(message, output.err) and output.err.count("\n") == 1
