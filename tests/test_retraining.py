"""Finalists of a run trained in full: the same after any kill, on val, and told as they are."""

import io
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from in_process import gmsearch
from pictures import make_folder
from rich.console import Console
from safetensors.torch import load_file
from test_crew import EVERYTHING, NET, make_dataset
from timm.data import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD
from torchvision.transforms import Normalize

from gmsearch import data, retraining
from gmsearch.cli import main
from gmsearch.errors import SettingsError
from gmsearch.experiment import FullTraining
from gmsearch.finalists import choose
from gmsearch.full_training import compare_classes
from gmsearch.network import Peer
from gmsearch.progress import following
from gmsearch.recipe import Recipe, learning_rate, peak_learning_rate
from gmsearch.recipe_file import SHIPPED, read_recipe
from gmsearch.retraining import Retraining, retrain
from gmsearch.run import RunFolder
from gmsearch.teacher import distillation_loss, load_teacher
from gmsearch.training import evaluate, start

SPACE = Path(__file__).parents[1] / "search_spaces" / "tiny.yaml"
pytestmark = pytest.mark.filterwarnings("ignore::FutureWarning")


@pytest.fixture(scope="module")
def images(tmp_path_factory) -> Path:
    return make_folder(tmp_path_factory.mktemp("images") / "set", per_class=24, side=32)


@pytest.fixture(scope="module")
def run(images, tmp_path_factory) -> Path:
    """A finished search of three networks, two of them baselines."""
    runs = tmp_path_factory.mktemp("runs")
    words = f"run --space {SPACE} --budget 30M --data {images} --resolution 32 --epochs 1"
    done = gmsearch(*f"{words} --trials 3 --workers 1 --name r --runs-dir {runs}".split())
    assert done.returncode == 0, done.stderr
    return runs / "r"


def mistake(words: str, capsys) -> str:
    assert main(words.split()) == 2
    error = capsys.readouterr().err
    assert error.startswith("gmsearch: ") and error.count("\n") == 1
    return error


def finish(job: Retraining) -> dict:
    for _ in retrain(job):
        pass
    return json.loads((job.folder / "result.json").read_text())


# The training itself


def test_the_figures_are_those_of_the_weights_that_are_kept(tmp_path):
    dataset = make_dataset()
    result = finish(Retraining(NET, dataset, EVERYTHING, tmp_path))
    state = start(NET, 2, EVERYTHING, seed=5, resolution=16)
    state.model.load_state_dict(load_file(tmp_path / "model.safetensors"))
    images = np.stack([dataset.minival.images[i][1:17, 1:17] for i in range(40)])
    from gmsearch.augment import normalise

    with torch.inference_mode():
        logits = state.model.eval()(normalise(torch.from_numpy(images)))
    hits = (logits.argmax(1).numpy() == dataset.minival.labels).astype(float)
    assert result["average"]["top1"] == pytest.approx(100 * hits.mean())
    for label, name in enumerate(dataset.classes):
        mine = dataset.minival.labels == label
        assert result["by_class"][name] == pytest.approx(100 * hits[mine].mean())
    assert result["average"]["top5"] == 100  # of two classes
    assert result["epochs"] == 2 and result["images"] == 72


def test_top5_is_told_apart_from_top1():
    logits = torch.eye(10)[torch.arange(40) % 10] * 3
    labels = (torch.arange(40) + torch.arange(40) // 10) % 10  # 10 right, 30 wrong
    noise = torch.arange(10) * 0.1

    class Fixed(torch.nn.Module):
        def forward(self, x):
            return logits + noise

    found = evaluate(Fixed(), [(torch.zeros(40, 3, 1, 1), labels)])
    ranked = (logits + noise).argsort(1, descending=True)[:, :5]
    assert found.top1 == 25.0
    assert found.top5 == pytest.approx(100 * (ranked == labels[:, None]).any(1).double().mean())


def test_a_teacher_is_learned_from(tmp_path):
    dataset = make_dataset()
    recipe = replace(EVERYTHING, distillation=1.0, label_smoothing=0.0)
    finish(Retraining(NET, dataset, EVERYTHING, tmp_path / "teacher"))
    taught = finish(
        Retraining(NET, dataset, recipe, tmp_path / "pupil", teacher=str(tmp_path / "teacher"))
    )
    alone = finish(Retraining(NET, dataset, recipe, tmp_path / "alone"))
    assert taught["teacher"] == str(tmp_path / "teacher") and taught != alone
    for classes in (("a", "b", "c"), tuple(reversed(dataset.classes))):
        with pytest.raises(SettingsError, match="it tells other classes apart than the"):
            load_teacher(str(tmp_path / "teacher"), classes, 16)
    with pytest.raises(SettingsError, match="nearest: mobilenetv3_large_100"):
        load_teacher("mobilenetv3_larg_100", dataset.classes, 16)
    (tmp_path / "teacher/result.json").unlink()
    with pytest.raises(SettingsError, match="no result.json of a full training in it"):
        load_teacher(str(tmp_path / "teacher"), dataset.classes, 16)


def test_a_teacher_sees_images_as_it_was_trained_on(monkeypatch):
    """With another mean and deviation than ours; weights are fresh, since none are at hand."""
    vit = timm.create_model("vit_tiny_patch16_224", num_classes=2)
    own = timm.create_model("mobilenetv3_small_050", num_classes=2).eval()
    own.pretrained_cfg = {**own.pretrained_cfg, "mean": (0.5, 0.4, 0.3), "std": (0.2, 0.5, 0.5)}
    monkeypatch.setattr("gmsearch.teacher.timm.create_model", lambda *_, **__: own)
    monkeypatch.setattr("gmsearch.teacher.timm.get_pretrained_cfg", lambda _: None)
    teacher = load_teacher("mobilenetv3_small_050", ("a", "b"), 64)
    pixels = torch.rand(3, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    ours = Normalize(IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD)(pixels)
    theirs = Normalize((0.5, 0.4, 0.3), (0.2, 0.5, 0.5))(pixels)
    torch.testing.assert_close(teacher(ours), own(theirs), rtol=1e-4, atol=1e-5)
    own = vit
    with pytest.raises(SettingsError, match="vit_tiny_patch16_224 at 64 px: .*doesn't match"):
        load_teacher("vit_tiny_patch16_224", ("a", "b"), 64)


def test_a_teacher_of_other_classes_is_refused_before_it_is_downloaded(monkeypatch):
    monkeypatch.delattr("gmsearch.teacher.timm.create_model")
    with pytest.raises(
        SettingsError, match="resnet18: it tells 1000 classes apart, the data has 2"
    ):
        load_teacher("resnet18", ("a", "b"), 64)


def test_distillation_is_the_divergence_of_softened_answers():
    logits, taught = torch.randn(2, 5, 7, generator=torch.Generator().manual_seed(0))
    p = torch.softmax(taught / 2, 1)
    q = torch.softmax(logits / 2, 1)
    expected = 4 * (p * (p / q).log()).sum(1).mean()
    torch.testing.assert_close(distillation_loss(logits, taught, 2.0), expected)
    assert distillation_loss(taught, taught, 3.0).abs() < 1e-6


def test_it_tells_where_it_is_and_how_fast(tmp_path, monkeypatch):
    monkeypatch.setattr("gmsearch.retraining.TELL_EVERY", 0.0)
    curve = next(retrain(Retraining(NET, make_dataset(), EVERYTHING, tmp_path)))
    told = json.loads((tmp_path / "progress.json").read_text())
    assert told["epoch"] == 0 and 0 < told["share"] < 1
    assert told["images_per_second"] > 0 and told["images_per_second_at_peak"] is None

    shown = told_by(tmp_path)
    assert shown == [f"{curve[0].images_per_second:,.0f} images/s"]
    told |= {"images_per_second_at_peak": 4 * curve[0].images_per_second}
    (tmp_path / "progress.json").write_text(json.dumps(told))
    assert told_by(tmp_path) == [f"{shown[0]}, 25.0% of peak"]


def told_by(folder: Path) -> list[str]:
    """The rates that a log shows of a training which finishes its epochs meanwhile."""
    console = Console(file=io.StringIO(), width=200)
    metrics = folder / "metrics.jsonl"
    lines = metrics.read_text()
    metrics.unlink()
    with following(console, "net", folder, 2):
        metrics.write_text(lines)
    return [line.split("  ")[-1] for line in console.file.getvalue().splitlines()]


# Recipes


@pytest.mark.parametrize("name", SHIPPED)
def test_recipes_that_ship_are_recipes(name):
    recipe = Recipe(**read_recipe(name))
    assert recipe.batch_size == recipe.lr_batch_size


def test_the_paper_recipe_is_the_papers():
    recipe = Recipe(**read_recipe("paper"))
    assert (recipe.num_epochs, recipe.batch_size, recipe.lr) == (300, 8 * 256, 3e-3)
    assert (recipe.mixup, recipe.cutmix, recipe.random_erasing) == (0.8, 0.2, 0.25)
    assert (recipe.weight_decay, recipe.warmup_epochs, recipe.rand_augment) == (0.05, 5, 1)


def test_the_learning_rate_follows_the_square_root_of_the_batch():
    recipe = Recipe(lr=1.0, lr_batch_size=1024, batch_size=256)
    assert peak_learning_rate(recipe) == 0.5
    warm = recipe.warmup_epochs / recipe.num_epochs
    assert learning_rate(recipe, warm) == pytest.approx(0.5)
    assert peak_learning_rate(replace(recipe, lr_batch_size=0)) == 1.0


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("epochs: 3", r"r.yaml:1: unknown key 'epochs'; did you mean"),
        ("lr: fast", r"r.yaml:1: lr: 'fast' is no float"),
        ("num_epochs: 2.5", r"num_epochs: 2.5 is no int"),
        ("flip: 1", r"flip: 1 is no bool"),
        ("lr: 1e9", r"r.yaml:1: lr is 1000000000.0; allowed"),
        ("lr: -1e-3", r"r.yaml:1: lr is -0.001; allowed"),
        ("mixup: 0.2\nlr: 50", r"r.yaml:2: lr is 50; allowed"),
        ("- 3", "a recipe is a mapping"),
        ("", "the file is empty"),
    ],
)
def test_a_wrong_recipe_is_told_with_file_and_line(tmp_path, text, message):
    (tmp_path / "r.yaml").write_text(text)
    with pytest.raises(SettingsError, match=message):
        read_recipe(str(tmp_path / "r.yaml"))


# The command


def test_finalists_are_trained_on_all_official_images_and_judged_on_val(run, images):
    line = f"retrain {run} --top 1 --recipe quick --epochs 2 --batch-size 24".split()
    done = gmsearch(*line)
    assert done.returncode == 0, done.stderr
    folders = sorted((run / "retrained").iterdir())
    assert [folder.name for folder in folders] == [front(run)[0]["id"]]
    for folder in folders:
        result = json.loads((folder / "result.json").read_text())
        assert (result["images"], result["val_images"], result["epochs"]) == (72, 6, 2)
        assert set(result["by_class"]) == {"n0", "n1", "n2"}
        assert result["id"] in done.stdout
    before = {f: f.stat().st_mtime_ns for f in (run / "retrained").rglob("result.json")}
    assert gmsearch(*line).returncode == 0  # nothing is left to train
    assert before == {f: f.stat().st_mtime_ns for f in (run / "retrained").rglob("result.json")}


def test_baselines_are_trained_too_where_they_are_asked_for(run):
    best = front(run)[0]["id"]
    few = choose(RunFolder(run), top=1, ids=[], with_baselines=False)
    all_of_them = choose(RunFolder(run), top=1, ids=[best], with_baselines=True)
    assert [finalist.id for finalist in few] == [best]
    assert all_of_them[0].id == best and len({f.id for f in all_of_them}) == len(all_of_them)
    assert {f.baseline for f in all_of_them} >= {"GmNet", "no gates"}
    assert all(finalist.searched is not None for finalist in all_of_them)


def test_data_must_have_the_classes_of_the_search(run, tmp_path, capsys):
    data = make_folder(tmp_path / "more", num_classes=4, per_class=24, side=32)
    line = f"retrain {run} --recipe quick --batch-size 2000 --data {data}"
    assert "there are 96 images to train on" in mistake(line, capsys)  # the last check of all
    for split in ("train", "val"):
        shutil.rmtree(data / split / "n0")
    error = mistake(line, capsys)
    assert "1 of the search's 3 classes are not in it, such as 'n0'; give" in error
    assert "there are 72 images" in mistake(f"{line} --other-classes", capsys)


def test_more_classes_than_the_search_had_are_said(run):
    folder, dataset = RunFolder(run), make_dataset()
    more = replace(dataset, classes=("n2", "x", "n0", "n1"))
    words = compare_classes(folder, more, "more")
    assert words == "more has 4 classes, the search's 3 among them"
    assert compare_classes(folder, replace(dataset, classes=("n0", "n1", "n2")), "same") is None


def front(run: Path) -> list[dict]:
    return json.loads((run / "front.json").read_text())


def test_mistakes_are_one_line(run, images, capsys, tmp_path):
    best = front(run)[0]["id"]
    assert "has no network 'nosuch'" in mistake(f"retrain {run} --id nosuch", capsys)
    assert "is not a run" in mistake(f"retrain {tmp_path}", capsys)
    assert "there are 72 images to train on" in mistake(f"retrain {run} --id {best}", capsys)
    line = f"retrain {run} --id {best} --recipe quick --batch-size 24"
    assert "does not divide into 5 equal parts" in mistake(f"{line} --workers 5", capsys)
    assert "no classifier of timm" in mistake(f"{line} --epochs 2 --teacher nosuch", capsys)
    assert "--recipe 'nosuch'" in mistake(f"retrain {run} --recipe nosuch", capsys)
    bare = tmp_path / "bare"
    shutil.copytree(run, bare, ignore=shutil.ignore_patterns("front.json", "retrained"))
    assert "has no front yet" in mistake(f"retrain {bare} --top 1 --recipe quick", capsys)


def test_baselines_that_are_not_on_record_are_told(run, capsys, tmp_path):
    copy = tmp_path / "copy"
    shutil.copytree(run, copy, ignore=shutil.ignore_patterns("retrained"))
    line, file = f"retrain {copy} --top 1 --with-baselines --recipe quick", copy / "trials.csv"
    rows = [row for row in file.read_text().splitlines() if ",GmNet," not in row]
    file.write_text("\n".join(row for row in rows if ",no gates," not in row) + "\n")
    assert f"--with-baselines: {file} has none; leave it out" in mistake(line, capsys)
    file.unlink()
    error = mistake(line, capsys)
    assert f"{file} is not there, which names them; `gmsearch resume {copy}` writes it" in error
    assert not (copy / "retrained").exists()


def test_what_looking_at_bands_costs_is_told_before_anything_is_trained(run, capsys, tmp_path):
    copy = tmp_path / "copy"
    shutil.copytree(run, copy, ignore=shutil.ignore_patterns("retrained"))
    line = f"retrain {copy} --top 1 --recipe quick --batch-size 24 --address 127.0.0.1:1"
    told = {}
    for flags in ("", "--frequency 12", "--frequency --frequency-share 1"):
        assert main(f"{line} {flags}".split()) == 2
        output = capsys.readouterr()
        assert "no Ray cluster at 127.0.0.1:1" in output.err
        told[flags] = [each for each in output.out.splitlines() if each.startswith("bands: ")]
    assert list(map(len, told.values())) == [0, 0, 1]
    [warning] = told["--frequency --frequency-share 1"]
    assert "6 parts of 6 images will take about 16% of the rest" in warning


def test_a_training_that_was_begun_otherwise_is_refused(run, capsys):
    best = front(run)[0]["id"]
    line = f"retrain {run} --id {best} --recipe quick --batch-size 24"
    folder = run / "retrained" / best
    if not (folder / "settings.yaml").exists():
        assert gmsearch(*f"{line} --epochs 1".split()).returncode == 0
    error = mistake(f"{line} --epochs 7", capsys)
    assert "was begun with other settings (recipe.num_epochs is" in error


def test_workers_and_parts_are_the_same_training():
    recipe = Recipe(num_epochs=2, batch_size=24)
    both = {"data": "x", "resolution": 32, "recipe": recipe}
    one, two = (FullTraining(**both, workers=w, accumulate=a) for w, a in ((1, 2), (2, 1)))
    assert one.differences(two) == []
    other = FullTraining(**both)
    assert one.differences(other) == ["workers times accumulate is 2 there and 1 here"]
    one, two = (each.model_copy(update={"stream": True}) for each in (one, two))
    assert one.differences(two) == ["workers of a stream is 1 there and 2 here"]
    one, two = (FullTraining(**{**both, "data": d}, data_digest="4a") for d in "xy")
    assert one.differences(two) == []  # a pack that was moved
    assert one.differences(two.model_copy(update={"data_digest": "4b"}))
    with pytest.raises(SettingsError, match="a part has one image, and norms need two"):
        FullTraining(**both, accumulate=24)


def test_broken_files_of_a_run_are_one_line(run, tmp_path, capsys):
    best = front(run)[0]["id"]
    for file, junk in {
        "front.json": "[{}]",
        "trials.csv": "a,b\n1,2\n",
        f"trials/{best}/metrics.jsonl": '{"epoch": ',
        f"retrained/{best}/result.json": "{}",
        "data.json": "[1",
    }.items():
        copy = tmp_path / "copy"
        shutil.copytree(run, copy)
        (copy / file).parent.mkdir(parents=True, exist_ok=True)
        (copy / file).write_text(junk)
        error = mistake(f"retrain {copy} --top 1 --recipe quick --epochs 2 --batch-size 24", capsys)
        assert str(copy / file) in error, error
        shutil.rmtree(copy)


def test_a_checkpoint_of_another_network_is_told(run, tmp_path):
    """From inside a worker of Ray, with neither a table nor a second try."""
    copy = tmp_path / "copy"
    shutil.copytree(run, copy, ignore=shutil.ignore_patterns("retrained"))
    first, second = (trial.name for trial in sorted((copy / "trials").iterdir())[:2])
    folder = copy / "retrained" / first
    folder.mkdir(parents=True)
    shutil.copy(copy / "trials" / second / "checkpoint.pt", folder)
    words = f"retrain {copy} --id {first} --recipe quick --epochs 2 --batch-size 24"
    line = [sys.executable, "-m", "gmsearch", *words.split()]
    done = subprocess.run(line, capture_output=True, text=True, timeout=600)
    assert done.returncode == 2, done.stdout
    assert done.stderr.count("\n") == 1
    assert f"{folder / 'checkpoint.pt'}: not a checkpoint of this network" in done.stderr
    assert "remove the file to train from the start" in done.stderr


def test_a_full_disk_is_told_and_leaves_no_part_of_a_checkpoint(tmp_path):
    """Files may not grow beyond 20 KB in that process."""
    program = f"""
import resource, signal, sys
sys.path.insert(0, {str(Path(__file__).parent)!r})
from pathlib import Path
from test_retraining import EVERYTHING, NET, Retraining, finish, make_dataset
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))
try:
    finish(Retraining(NET, make_dataset(), EVERYTHING, Path({str(tmp_path)!r})))
except OSError as error:
    print(error)
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert f"File too large: '{tmp_path / 'checkpoint.pt'}'" in done.stdout, done.stderr
    left = {file.name for file in tmp_path.iterdir()} - {"progress.json"}  # once a second
    assert left == {"architecture.json"}


def test_ctrl_c_leaves_what_was_done(run, tmp_path):
    copy = tmp_path / "copy"
    shutil.copytree(run, copy, ignore=shutil.ignore_patterns("retrained"))
    best = front(run)[0]["id"]
    words = f"retrain {copy} --id {best} --recipe quick --epochs 500 --batch-size 24"
    line = [sys.executable, "-m", "gmsearch", *words.split()]
    process = subprocess.Popen(
        line,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        # A shell's background jobs ignore Ctrl-C, and so would what they start.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )
    metrics = copy / "retrained" / best / "metrics.jsonl"
    try:
        while not metrics.exists():
            time.sleep(0.05)
            assert process.poll() is None
        process.send_signal(signal.SIGINT)
        _, error = process.communicate(timeout=300)
    finally:
        process.kill()
    assert process.returncode == 130 and error == "gmsearch: stopped\n"
    assert (copy / "retrained" / best / "checkpoint.pt").exists()


def test_norms_that_are_synchronised_keep_their_activations():
    job = Retraining(Peer("mobilenetv3_small_050"), make_dataset(), EVERYTHING, Path("x"))
    model = retraining._start(replace(job, synchronised=True), "cpu").model
    plain = retraining._start(job, "cpu").model
    images = torch.rand(2, 3, 32, 32)
    with torch.inference_mode():
        torch.testing.assert_close(model.eval()(images), plain.eval()(images))
    assert any(isinstance(module, torch.nn.SyncBatchNorm) for module in model.modules())


@pytest.mark.slow
@pytest.mark.parametrize("victim", ["driver", "worker"])
def test_a_killed_retraining_ends_with_the_same_weights(run, tmp_path, victim):
    """kill -9 within an epoch; checkpoints are a step apart here."""
    program = """
import sys
from gmsearch import retraining
from gmsearch.cli import main
retraining.SAVE_EVERY = retraining.TELL_EVERY = 0.0
sys.exit(main(sys.argv[1:]))
"""
    best = front(run)[0]["id"]
    weights = {}
    for name in ("whole", "killed"):
        copy = tmp_path / name
        shutil.copytree(run, copy, ignore=shutil.ignore_patterns("retrained"))
        words = f"retrain {copy} --id {best} --recipe quick --epochs 6 --batch-size 8 --workers 2"
        line = [sys.executable, "-c", program, *words.split()]
        folder = copy / "retrained" / best
        if name == "killed":
            process = subprocess.Popen(line, start_new_session=True)
            metrics = folder / "metrics.jsonl"
            while not metrics.exists() or len(metrics.read_text().splitlines()) < 2:
                time.sleep(0.05)
                assert process.poll() is None
            pid = process.pid if victim == "driver" else worker_of(folder)
            os.kill(pid, signal.SIGKILL)
            process.wait(timeout=600)
            if victim == "worker":
                assert process.returncode == 0
        if not (folder / "result.json").exists():
            done = subprocess.run(line, capture_output=True, text=True, timeout=600)
            assert done.returncode == 0, done.stderr
        weights[name] = load_file(folder / "model.safetensors")
        assert len((folder / "metrics.jsonl").read_text().splitlines()) == 6
    for key, value in weights["whole"].items():
        assert torch.equal(value, weights["killed"][key]), key


def worker_of(folder: Path) -> int:
    """A process of Ray Train that has the pack of the run mapped."""
    for maps in Path("/proc").glob("[0-9]*/maps"):
        try:
            text = maps.read_text()
            name = (maps.parent / "comm").read_text()
        except OSError:
            continue
        if ".npy" in text and "ray" in name:
            return int(maps.parent.name)
    raise AssertionError("no worker")


def test_official_images_are_train_and_minival_and_val(images):
    searched = data.load(str(images), resolution=32, seed=0)
    official = data.load_official(str(images), resolution=32, seed=0)
    assert len(official.train) == len(searched.train) + len(searched.minival)
    assert len(official.minival) == 6  # a tenth of 24 of each of three classes
    seen = {official.train.images[i].tobytes() for i in range(len(official.train))}
    assert seen == {
        split.images[i].tobytes()
        for split in (searched.train, searched.minival)
        for i in range(len(split))
    }
    assert official.digest != searched.digest
    bands = data.load_official("bands", resolution=32, seed=0)
    assert len(bands.train) == 1500 and len(bands.minival) == 2000
