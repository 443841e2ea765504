"""Trainings side by side: every seed once, nothing lost, and a table that can be checked."""

import json
import re
import shlex
import statistics
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from in_process import gmsearch
from pictures import make_folder
from scipy import stats

from gmsearch import data
from gmsearch.compare import compared
from gmsearch.cost import cost, total
from gmsearch.experiment import Comparison, make_settings, read_settings
from gmsearch.gmnet import ABLATIONS, gmnet, gmnet_within, with_changes
from gmsearch.latency import Latency
from gmsearch.network import Peer, network_from_dict
from gmsearch.recipe import Recipe
from gmsearch.record import ComparedNetwork, TrialRecord, half_interval
from gmsearch.resolved import resolve_bands, resolve_differences
from gmsearch.run import RunFolder
from gmsearch.trainings import Trainings
from gmsearch.trial import run_trial
from gmsearch.zoo import ledger_of

SMALL = gmnet("gmnet_s1", base_width=2)
PEER = Peer("mobilenetv3_small_050")
NETWORKS = {"ours": SMALL, "peer": PEER, "ours again": SMALL}
COSTS = {network.id: total(ledger_of(network)) for network in (SMALL, PEER)}
UNTIMED = dict.fromkeys(
    ("seconds", "images_per_second", "evaluation_seconds", "band_seconds")
)  # what differs from run to run
PATIENCE = 600  # seconds, on a busy machine


def comparison(**settings) -> Comparison:
    networks = {name: network.to_dict() for name, network in NETWORKS.items()}
    base = {"name": "c", "networks": networks, "seeds": 2, "recipe": Recipe(num_epochs=2)}
    return make_settings(Comparison, {**base, **settings})


def epoch(top1: float, number: int = 1) -> dict:
    return {"epoch": number, "top1": top1, "seconds": 2.0, "images_per_second": 10.0 * number}


@pytest.fixture
def trainings(tmp_path) -> Trainings:
    return Trainings(comparison(), RunFolder(tmp_path), NETWORKS, COSTS)


def test_every_network_trains_once_with_every_seed_all_networks_first(trainings):
    jobs = list(iter(trainings.ask, None))
    asked = [(job.network, job.seed) for job in jobs]
    assert asked == [(SMALL, 0), (PEER, 0), (SMALL, 1), (PEER, 1)]
    assert len({job.folder for job in jobs}) == 4 and not trainings.is_finished
    assert jobs[1].folder.name == "mobilenetv3_small_050-seed0"


def test_what_is_on_disk_is_done_and_the_rest_is_to_do(trainings, tmp_path):
    for job, lines in zip(iter(trainings.ask, None), (2, 1), strict=False):
        job.folder.mkdir(parents=True)
        curve = [json.dumps(epoch(50.0, number)) + "\n" for number in (1, 2)]
        (job.folder / "metrics.jsonl").write_text("".join(curve[:lines]))
    again = Trainings(comparison(), RunFolder(tmp_path), NETWORKS, COSTS)
    assert [(r.number, r.state, r.epochs) for r in again.records.values()] == [
        (0, "complete", 2),
        (1, "running", 1),
    ]
    assert [job.number for job in iter(again.ask, None)] == [1, 2, 3]
    more = Trainings(comparison(seeds=3), RunFolder(tmp_path), NETWORKS, COSTS)
    assert [job.number for job in iter(more.ask, None)] == [1, 2, 3, 4, 5]
    fewer = Trainings(comparison(seeds=1), RunFolder(tmp_path), NETWORKS, COSTS)
    assert [job.number for job in iter(fewer.ask, None)] == [1]


def test_what_was_trained_stays_when_fewer_seeds_are_wanted(trainings, tmp_path):
    for job in iter(trainings.ask, None):
        job.folder.mkdir(parents=True)
        curve = [json.dumps(epoch(50.0, number)) + "\n" for number in (1, 2)]
        (job.folder / "metrics.jsonl").write_text("".join(curve))
    fewer = Trainings(comparison(seeds=1), RunFolder(tmp_path), NETWORKS, COSTS)
    assert len(fewer.records) == 4 and fewer.is_finished and fewer.num_complete == 4


def test_a_failed_training_is_told_and_tried_again_next_time(trainings, tmp_path):
    job = trainings.ask()
    record = trainings.tell_failed(job.number, "the loss\nis nan")
    assert (record.state, record.reason) == ("failed", "the loss is nan")
    again = Trainings(comparison(), RunFolder(tmp_path), NETWORKS, COSTS)
    assert again.ask().number == job.number


def test_rows_are_means_and_deviations_over_seeds(trainings):
    top1s = {0: 40.0, 1: 20.0, 2: 43.0, 3: 21.0}
    for job in iter(trainings.ask, None):
        trainings.report(job.number, [epoch(1.0), epoch(top1s[job.number], 2)])
        trainings.tell(job.number)
    milliseconds = Latency("", "", 1, 1, 3.0, 2.0, 4.0, 20)
    latencies = {
        n.id: {"PyTorch eager": milliseconds, "ONNX Runtime": milliseconds}
        for n in NETWORKS.values()
    }
    settings = comparison(published={"peer": 75.2})
    ours, peer, again = compared(settings, NETWORKS, trainings.records.values(), COSTS, latencies)
    assert (ours.name, ours.id, ours.top1s) == ("ours", SMALL.id, [40.0, 43.0])
    assert ours.top1 == 41.5 and ours.spread == pytest.approx(np.std([40, 43], ddof=1))
    assert (ours.macs, ours.params, ours.activations) == cost(SMALL)[:3]
    assert ours.images_per_second == 15.0 and ours.onnx_ms == 3.0
    assert (again.name, again.top1s) == ("ours again", ours.top1s)
    assert peer.published == 75.2 and ours.published is None
    assert trainings.is_finished


def row(network_id: str, *top1s: float) -> ComparedNetwork:
    return ComparedNetwork(
        name=network_id,
        id=network_id,
        words="",
        top1s=list(top1s),
        top1=statistics.fmean(top1s) if top1s else None,
        spread=None,
        macs=1,
        params=1,
        activations=1,
        eager_ms=1,
        onnx_ms=1,
        images_per_second=1,
    )


def test_the_resolved_difference_of_two_is_that_of_a_t_test():
    """Two means that far apart have p = 0.05 by scipy's own test; of two networks Tukey's is it."""
    first, second = [50.0, 51.0, 53.0], [40.0, 42.0, 42.5]
    rows = [row("a", *first), row("b", *second), row("a", *first)]
    found = resolve_differences(rows, 500).between
    shift = statistics.fmean(first) - statistics.fmean(second) - found
    assert stats.ttest_ind(first, [value + shift for value in second]).pvalue == pytest.approx(0.05)


def test_the_resolved_difference_of_several_is_that_of_tukeys_test():
    groups = [[50.0, 51.0, 53.0], [40.0, 42.0, 42.5], [46.0, 47.0, 44.0]]
    found = resolve_differences([row(str(i), *own) for i, own in enumerate(groups)], 500).between
    shift = statistics.fmean(groups[0]) - statistics.fmean(groups[1]) - found
    groups[1] = [value + shift for value in groups[1]]
    assert stats.tukey_hsd(*groups).pvalue[0, 1] == pytest.approx(0.05, abs=1e-4)


def test_with_one_seed_only_the_number_of_images_is_known():
    found = resolve_differences([row("a", 95.0), row("b", 54.0), row("c")], 500)
    assert found.between is None and found.half_interval == half_interval(54.0, 500)
    assert "the noise of training is not known" in found.in_words(500)
    assert resolve_differences([row("c")], 500) is None


def seen(network_id: str, number: int, bands: dict[str, float], state="complete") -> TrialRecord:
    told = {**epoch(50.0), "bands": bands, "band_images": 36, "band_seconds": 0.1}
    return TrialRecord(
        **{"number": number, "id": network_id, "state": state, "network": SMALL},
        **{"macs": 1, "params": 1, "activations": 1, "curve": [told if bands else epoch(50.0)]},
    )


def test_a_band_is_resolved_as_a_top1_with_its_values_and_images_would_be():
    highs = {"a": [50.0, 51.0, 53.0], "b": [40.0, 42.0, 42.5]}
    records = [
        seen(name, number, {"low12": 20.0, "high12": value})
        for name, values in highs.items()
        for number, value in enumerate(values)
    ]
    records.append(seen("b", 9, {"low12": 90.0, "high12": 90.0}, "running"))
    found = resolve_bands(records)
    rows = [row(name, *values) for name, values in highs.items()]
    assert found.by_band["high12"] == resolve_differences(rows, 36)
    assert found.by_band["low12"].between == 0 and list(found.by_band) == ["low12", "high12"]
    words = found.in_words()
    assert "not resolved on the 36 images of the bands are differences below: low12 0.0" in words
    half = half_interval(50.0, 36)
    assert f"for new images each is known to ±{half:.1f} or closer" in words
    one = resolve_bands([seen("a", 0, {"high12": 50.0}), seen("b", 1, {"high12": 30.0})])
    known = f"on the 36 images of the bands, each is known to ±{half:.1f} or closer (95 %)"
    assert one.in_words() == known
    assert resolve_bands([seen("a", 0, {})]) is None


def test_a_table_with_bands_says_whose_differences_are_resolved():
    found = resolve_differences([row("a", 50.0, 51.0), row("b", 40.0, 42.0)], 500)
    assert found.in_words(500, of="top1").startswith(
        f"differences of top1 below {found.between:.1f}"
    )
    assert found.in_words(500).startswith(f"differences below {found.between:.1f} points")


def test_noise_is_called_a_difference_as_rarely_as_promised():
    """In 5 % of the tables of seven equal networks, any pair at all is further apart."""
    top1s = 50 + np.random.default_rng(0).standard_normal((20_000, 7, 3))
    deviations = np.sqrt(top1s.var(axis=2, ddof=1).mean(axis=1))  # pooled, by table
    rows = [row(str(i), *own) for i, own in enumerate(top1s[0])]
    factor = resolve_differences(rows, 500).between / deviations[0]
    furthest = np.ptp(top1s.mean(axis=2), axis=1)
    assert np.mean(furthest > factor * deviations) == pytest.approx(0.05, abs=0.005)


@pytest.fixture(scope="module")
def images(tmp_path_factory) -> Path:
    return make_folder(tmp_path_factory.mktemp("images") / "set", per_class=24, side=32)


@pytest.fixture(scope="module")
def finished(images, tmp_path_factory):
    """(the folder, what was printed) of a comparison of ours and a peer, two seeds each."""
    runs = tmp_path_factory.mktemp("runs")
    words = ["gmnet@30M", PEER.name, "gmnet@30M+form=self", "--data", images, "--resolution", 32]
    line = [
        "compare",
        *words,
        "--frequency",
        "12",
        "--epochs",
        2,
        "--seeds",
        2,
        "--runs-dir",
        runs,
        "--name",
        "c",
    ]
    done = gmsearch(*line)
    assert done.returncode == 0, done.stderr
    return runs / "c", done.stdout, line


def test_compare_trains_what_a_search_would(finished, images, tmp_path):
    """Each curve is that of the same training in this process, bit by bit."""
    folder, _, _ = finished
    settings = read_settings(folder / "experiment.yaml")
    dataset = data.load(str(images), resolution=32, seed=0)
    trials = sorted(path.name for path in (folder / "trials").iterdir())
    ours = gmnet_within(30_000_000)
    assert trials == sorted(f"{id}-seed{s}" for id in (ours.id, PEER.name) for s in (0, 1))
    for name in (f"{ours.id}-seed1", f"{PEER.name}-seed0"):
        network = ours if ours.id in name else PEER
        *_, curve = run_trial(
            network,
            dataset,
            settings.recipe,
            tmp_path / name,
            seed=int(name[-1]),
            watch=settings.watch,
        )
        lines = (folder / "trials" / name / "metrics.jsonl").read_text().splitlines()
        untimed = [
            {k: v for k, v in json.loads(line).items() if k not in UNTIMED} for line in lines
        ]
        assert untimed == [
            {k: v for k, v in result.to_dict().items() if k not in UNTIMED} for result in curve
        ]


def test_the_table_is_that_of_the_files(finished):
    folder, printed, _ = finished
    trials = pd.read_csv(folder / "trials.csv")
    assert list(trials.groupby("id").seed.apply(list)) == [[0, 1], [0, 1]]
    assert set(trials.name) == {"gmnet@30M", PEER.name}
    document = json.loads((folder / "comparison.json").read_text())
    first, peer, again = document["networks"]
    assert first["top1"] == pytest.approx(trials[trials.id == first["id"]].top1.mean())
    assert peer["spread"] == pytest.approx(trials[trials.id == PEER.name].top1.std())
    assert again["top1s"] == first["top1s"] and again["name"] == "gmnet@30M+form=self"
    assert first["macs"] == cost(gmnet_within(30_000_000)).macs
    for network in document["networks"]:
        line = next(
            li for li in printed.splitlines() if li.strip().startswith(network["name"] + " ")
        )
        assert f"{network['top1']:.1f} ± {network['spread']:.1f}" in line
    resolved, bands = document["resolved"], document["bands_resolved"]
    assert f"of top1 below {resolved['between']:.1f} points are not resolved" in printed
    assert list(bands["bands"]) == ["low12", "high12"]
    told = f"low12 {bands['bands']['low12']['between']:.1f}, high12 "
    assert f"the {bands['num_images']} images of the bands are differences below: {told}" in printed


def test_a_stopped_one_tells_a_line_that_can_be_typed(images, tmp_path):
    runs = tmp_path / "my <runs>"
    words = ["train", "gmnet@30M", "--data", images, "--resolution", 32, "--batch-size", 8]
    words += ["--frequency", "6,12,24,36", "--runs-dir", runs, "--name", "t", "--workers", 1]
    done = gmsearch(*words, "--max-hours", 1e-9)
    assert done.returncode == 0, done.stderr
    told = [line for line in done.stdout.splitlines() if line.startswith("next: ")]
    words = ["next:", "gmsearch", "resume", str(runs / "t")]
    assert [shlex.split(line) for line in told] == [words]
    assert "1 network, 1 seed each" in done.stdout
    assert "\nstopped: --max-hours 1e-09 are over\n" in done.stdout
    before, _, _ = done.stdout.partition("network  ")  # the table
    assert "so the least, will take about" in before


def test_a_finished_comparison_answers_without_training(finished):
    folder, _, _ = finished
    before = {p: p.stat().st_mtime_ns for p in folder.glob("trials/*/*")}
    again = gmsearch("resume", folder)
    assert again.returncode == 0 and "4 are trained" in again.stdout
    assert {p: p.stat().st_mtime_ns for p in folder.glob("trials/*/*")} == before


def test_another_comparison_does_not_take_its_folder(finished):
    folder, _, line = finished
    other = gmsearch(*("gmnet@40M" if word == "gmnet@30M" else word for word in line))
    assert other.returncode == 2 and other.stderr.count("\n") == 1
    assert "exists with other settings" in other.stderr
    assert "networks are gmnet@30M, " in other.stderr and len(other.stderr) < 500
    refused = gmsearch("resume", folder, "--trials", 3)
    assert refused.returncode == 2 and "has --seeds" in refused.stderr


def test_a_comparison_that_is_killed_goes_on_to_the_same_end(finished, tmp_path):
    folder, _, line = finished
    line = [tmp_path if word == folder.parent else word for word in line]
    words = [sys.executable, "-m", "gmsearch", *map(str, line)]
    driver = subprocess.Popen(words, stdout=subprocess.DEVNULL, start_new_session=True)
    began = time.time()
    while not list(tmp_path.glob("c/trials/*/metrics.jsonl")):
        assert time.time() - began < PATIENCE and driver.poll() is None
        time.sleep(0.05)
    driver.kill()
    driver.wait()
    again = subprocess.run(words, capture_output=True, text=True, timeout=PATIENCE)
    assert again.returncode == 0 and "going on with" in again.stdout, again.stderr
    for file in folder.glob("trials/*/metrics.jsonl"):
        resumed = tmp_path / file.relative_to(folder.parent)
        curves = [
            [json.loads(text) | UNTIMED for text in one.read_text().splitlines()]
            for one in (file, resumed)
        ]
        assert curves[0] == curves[1] and len(curves[0]) == 2


def test_training_starts_from_weights_and_goes_on_without_them(finished, images, tmp_path):
    """The weights of a finished network: the first epoch is better than its own first was."""
    folder, _, _ = finished
    ours = gmnet_within(30_000_000)
    trained = folder / "trials" / f"{ours.id}-seed0"
    weights = tmp_path / "weights.pt"
    weights.write_bytes((trained / "checkpoint.pt").read_bytes())
    line = ["train", "gmnet@30M", "--data", images, "--resolution", 32, "--epochs", 1]
    line += ["--weights", weights, "--runs-dir", tmp_path, "--name", "t"]
    assert gmsearch(*line).returncode == 0
    first, _ = (trained / "metrics.jsonl").read_text().splitlines()
    [again] = (tmp_path / f"t/trials/{ours.id}-seed0/metrics.jsonl").read_text().splitlines()
    assert json.loads(again)["loss"] < json.loads(first)["loss"]
    weights.unlink()
    assert gmsearch("resume", tmp_path / "t").returncode == 0


def test_profile_knows_the_networks_of_a_comparison(finished):
    folder, _, _ = finished
    network_id = gmnet_within(30_000_000).id
    done = gmsearch("profile", f"{folder}:{network_id}", "--json", "--resolution", 32)
    found = json.loads(done.stdout)
    costs = cost(gmnet_within(30_000_000), resolution=32)._asdict()
    assert found["id"] == network_id and costs.items() <= found.items()
    for key in ("macs", "params", "memory"):
        assert sum(layer[key] for layer in found["layers"]) == found[key], key


def test_the_ablation_is_the_papers():
    settings = {}

    def keep(comparison, folder):
        settings["made"] = comparison
        raise KeyboardInterrupt

    from gmsearch import cli, compare

    original, compare.run_comparison = compare.run_comparison, keep
    try:
        cli.main(["compare", "--preset", "ablation", "--budget", "60M"])
    finally:
        compare.run_comparison = original
    made = settings["made"]
    base = gmnet_within(60_000_000, variant="gmnet_s3")
    networks = {name: network_from_dict(data) for name, data in made.networks.items()}
    assert networks == {each.name: with_changes(base, **each.changes) for each in ABLATIONS}
    assert len(networks) == 8 and len({network.id for network in networks.values()}) == 7
    assert made.published["activation identity"] == 70.5
    assert [len(base.stages), *(s.depth for s in base.stages)] == [4, 3, 3, 8, 3]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["compare"], "nothing to compare; name networks, or give --preset ablation"),
        (["compare", "--preset", "all"], "invalid choice: 'all'"),
        (["compare", "gmnet_s7"], "no network is called 'gmnet_s7'; nearest: gmnet_s"),
        (["compare", "gmnet_s1", "--seeds", "0"], "'0' is not a whole number"),
        (["compare", "--preset", "ablation", "--budget", "1M"], "too small for GmNet-S3"),
        (["compare", "gmnet_s1", "--budget", "300M"], "--budget is that of --preset"),
        (
            ["train", "mobilenetv3_small_050", "--resolution", "32", "--batch-size", "1"],
            "more than 1",
        ),
        (["train"], "the following arguments are required: WHAT"),
        (["train", "gmnet_s1", "mobilenetv2_100"], "unrecognized arguments: mobilenetv2_100"),
        (["train", "gmnet_s1", "--resolution", "16"], "give 32 px or more"),
        (["train", "maxvit_tiny_rw_224", "--resolution", "40"], "maxvit_tiny_rw_224 at 40 px"),
        (["train", "gmnet_s1", "--weights", "no.pth"], "no.pth: no such file of weights"),
        (["train", "gmnet_s1", "--data", "/nowhere"], "/nowhere: no such data"),
        (["profile", "gmnet_s3", "--resolution", "16"], "give 32 px or more"),
        (["profile", "gmnet_s3", "--threads", "10000"], "--threads 10000: this machine has"),
        (["profile", "setup.jsn"], "no network is called 'setup.jsn'"),
    ],
)
def test_a_mistake_is_one_line_and_leaves_nothing(words, message, tmp_path, monkeypatch, capsys):
    from gmsearch.cli import main

    monkeypatch.chdir(tmp_path)
    assert main(words) == 2
    error = capsys.readouterr().err
    assert message in error and error.count("\n") == 1
    assert re.fullmatch(r"gmsearch: .*\n", error)
    assert not list(tmp_path.glob("runs/*"))
