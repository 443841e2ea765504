"""Claims of a paper: the file, the verdicts on made-up results, and a small run from end to end."""

import csv
import json
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from pictures import make_folder

from gmsearch.claims import (
    FAILS,
    HOLDS,
    OPEN,
    UNTESTED,
    Ordering,
    Reproduction,
    claims_csv,
    judge,
    read_reproduction,
)
from gmsearch.claims_figure import claims_of, draw_claims
from gmsearch.cli import main
from gmsearch.contrasts import contrast, pooled_spread
from gmsearch.errors import SettingsError
from gmsearch.experiment import Comparison, make_settings
from gmsearch.recipe import Recipe
from gmsearch.reproduce import claims_table, in_words, networks_of, run_reproduction
from gmsearch.run import RunFolder
from gmsearch.session import Ending
from gmsearch.zoo import ledger_of

SMALL = Reproduction(
    source="made up",
    networks={"a": "gmnet@30M", "b": "gmnet@30M+activation=gelu", "c": "mobilenetv3_small_050"},
    published={"a": {"top1": 79.3, "high12": 51.7}, "b": {"top1": 78.4}},
    claims=(
        Ordering(higher="a", lower="b", measures=("top1", "high12")),
        Ordering(higher="c", lower="a", measures=("high12",)),
    ),
)


def test_the_claims_that_ship_are_those_of_the_issue():
    found = read_reproduction("frequency")
    networks = networks_of(found, 300_000_000)
    assert len({network.id for network in networks.values()}) == len(networks) == 15
    assert found.measures[0] == "top1" and found.radii == (12, 24, 36)
    planned = [(c.higher, c.lower, m) for c in found.claims for m in c.measures]
    assert len(planned) == len(set(planned)) == 30
    for higher, lower, measure in planned:  # no published figure is against its claim
        figures = [found.published.get(name, {}).get(measure) for name in (higher, lower)]
        assert None in figures or figures[0] > figures[1], (higher, lower, measure)
    macs = [sum(row.macs for row in ledger_of(networks[n])) for n in list(networks)[:8]]
    assert max(macs) == min(macs) <= 300_000_000  # activations and gates cost no MACs
    assert networks_of(found, 100_000_000)["relu6"].id != networks["relu6"].id


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"published": {"z": {"top1": 1.0}}}, "'z' is none of the networks"),
        ({"claims": [{"higher": "a", "lower": "z", "measures": ["top1"]}]}, "'z' is none of"),
        ({"published": {"a": {"top5": 1.0}}}, "'top5' is no measure"),
        ({"claims": [{"higher": "a", "lower": "b", "measures": ["hi12"]}]}, "'hi12' is no measure"),
    ],
)
def test_a_file_that_says_what_is_not_there_is_refused(change, message):
    with pytest.raises(SettingsError, match=message):
        Reproduction(**{**SMALL.model_dump(), **change})


def made_up(levels, *, seeds=3, images=2000, seed=0):
    """Hits by network and measure, of networks with these accuracies in per cent."""
    rng = np.random.default_rng(seed)
    return {
        name: {
            measure: rng.random((seeds, images)) < (level + rng.normal(0, 0.3)) / 100
            for measure in ("top1", "high12")
        }
        for name, level in levels.items()
    }


def test_a_claim_holds_fails_or_stays_open():
    judged = judge(SMALL, made_up({"a": 60, "b": 50, "c": 30}))
    assert [(each.words, each.measure) for each in judged] == [
        ("a > b", "top1"),
        ("a > b", "high12"),
        ("c > a", "high12"),
    ]
    assert [each.verdict for each in judged] == [HOLDS, HOLDS, FAILS]
    assert [each.published for each in judged] == [pytest.approx(0.9), None, None]
    assert all(each.low < each.difference < each.high for each in judged)
    assert judged[2].difference == pytest.approx(-30, abs=4)
    same = judge(SMALL, made_up({"a": 50, "b": 50, "c": 30}))
    assert [each.verdict for each in same] == [OPEN, OPEN, FAILS]
    assert "3 claims: 0 holds, 1 does not hold, 2 not resolved at this size" in in_words(same, "x")


def test_the_correction_is_for_all_claims():
    """An interval may leave 0 out, and the claim is open all the same."""
    for seed in range(200):
        judged = judge(SMALL, made_up({"a": 50, "b": 48, "c": 49}, seed=seed))
        alone = [each for each in judged if each.low > 0 or each.high < 0]
        assert all(each.verdict == OPEN for each in judged if each not in alone)
        if any(each.verdict == OPEN for each in alone):
            break
    else:
        pytest.fail("no table shows the correction")


def test_claims_of_a_network_that_failed_are_not_tested(tmp_path):
    judged = judge(SMALL, made_up({"a": 60, "b": 50}))
    assert (judged[2].verdict, judged[2].difference, judged[2].p) == (UNTESTED, None, None)
    rows = list(csv.DictReader(claims_csv(judged).splitlines()))
    assert rows[2]["difference"] == "" and rows[0]["verdict"] == HOLDS
    assert rows[2]["verdict"] == "not tested"
    assert float(rows[0]["published"]) == pytest.approx(0.9)
    draw_claims(tmp_path / "claims.png", judged, "made up")
    assert (tmp_path / "claims.png").stat().st_size > 5000
    assert claims_table(judged).renderables[1].row_count == 3
    words = in_words(judged, "x")
    assert "3 claims: 2 holds, 0 does not hold, 0 not resolved, 1 not tested" in words
    assert "Holm's correction for all 3, tested or not" in words


def test_the_figure_says_what_was_not_tested():
    tested = judge(SMALL, made_up({"a": 60, "b": 50, "c": 30}))
    for judged, marked in ((tested, 0), (judge(SMALL, made_up({"a": 60, "b": 50})), 1)):
        told = [text.get_text() for text in claims_of(judged, "x").axes[0].texts]
        assert told.count("not tested") == marked


def test_what_was_not_tested_counts_in_the_correction():
    """A p-value is multiplied by the number of all claims, not of those that could be tested."""
    hits = made_up({"a": 50, "b": 48})
    spreads = {m: pooled_spread(own[m] for own in hits.values()) for m in ("top1", "high12")}
    ps = [contrast(hits["a"][m], hits["b"][m], spreads[m]).p for m in ("top1", "high12")]
    least = min(ps)
    corrected = [each.p for each in judge(SMALL, hits)[:2]]
    assert min(corrected) == pytest.approx(3 * least)
    assert max(corrected) == pytest.approx(min(1, max(3 * least, 2 * max(ps))))


def settings(images, **more) -> Comparison:
    told = {name: network.to_dict() for name, network in networks_of(SMALL, 1).items()}
    base = {"name": "r", "data": str(images), "resolution": 32, "networks": told, "seeds": 2}
    recipe = Recipe(num_epochs=1, batch_size=16)
    return make_settings(Comparison, {**base, "recipe": recipe, "frequency": SMALL.radii, **more})


def test_one_seed_and_streams_are_refused(tmp_path):
    for more, message in (({"seeds": 1}, "--seeds 1"), ({"stream": True}, "--stream")):
        with pytest.raises(SettingsError, match=message):
            run_reproduction(SMALL, settings(tmp_path, **more), RunFolder(tmp_path / "r"))
    assert not (tmp_path / "r").exists()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["magic"], "reproduce 'magic': no such claims; give frequency"),
        (["frequency", "--budget", "1M"], "no GmNet has 1M MACs or fewer; give "),
        (["frequency", "--seeds", "1"], "--seeds 1: without a second seed"),
        (["frequency", "--data", "nowhere"], "--data nowhere: no such data"),
    ],
)
def test_a_mistake_is_one_line(words, message, tmp_path, capsys):
    assert main(["reproduce", *words, "--runs-dir", str(tmp_path / "runs")]) == 2
    error = capsys.readouterr().err
    assert message in error and error.count("\n") == 1
    assert not (tmp_path / "runs").exists()


PROGRAM = """
import json, sys
from test_claims import RunFolder, SMALL, settings, run_reproduction
from pathlib import Path
done = run_reproduction(SMALL, settings(sys.argv[1]), RunFolder(Path(sys.argv[2])))
print(json.dumps(done.document))
"""


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """(settings, folder, what claims.json says) of three networks with two seeds each."""
    place = tmp_path_factory.mktemp("reproduction")
    images = make_folder(place / "images", per_class=24, side=32)
    line = [sys.executable, "-c", PROGRAM, str(images), str(place / "r")]
    done = subprocess.run(
        line, capture_output=True, text=True, cwd=Path(__file__).parent, timeout=600
    )
    assert done.returncode == 0, done.stderr
    return settings(images), RunFolder(place / "r"), json.loads(done.stdout.splitlines()[-1])


@pytest.mark.slow
def test_a_run_ends_in_its_claims(finished):
    run, folder, document = finished
    written = {path.name for path in folder.path.iterdir()}
    assert {"claims.csv", "claims.json", "claims.png", "comparison.json", "bands.png"} <= written
    assert json.loads((folder.path / "claims.json").read_text()) == document
    assert len(document["claims"]) == 3 and document["images"] == 6
    metrics = folder.trials_folder / "mobilenetv3_small_050-seed1" / "metrics.jsonl"
    (row,) = metrics.read_text().splitlines()
    known = document["networks"]["c"]["top1"][1]
    assert known == pytest.approx(json.loads(row)["top1"])  # the training's own evaluation


@pytest.mark.slow
def test_damaged_hits_are_looked_at_again(finished):
    run, folder, document = finished
    files = sorted(folder.trials_folder.glob("*/hits.npz"))
    before = [dict(np.load(file)) for file in files]
    files[0].write_bytes(files[0].read_bytes()[:100])
    files[1].write_bytes(b"")
    np.savez(files[2], **{name: hits[:-1] for name, hits in before[2].items()})
    assert run_reproduction(SMALL, run, folder).document == document
    for file, hits in zip(files, before, strict=True):
        again = dict(np.load(file))
        assert list(again) == list(hits)
        assert all(np.array_equal(again[name], hits[name]) for name in hits)


@pytest.mark.slow
def test_what_is_trained_is_only_judged_again(finished, monkeypatch, capsys):
    run, folder, document = finished
    monkeypatch.setattr(
        "gmsearch.reproduce.run_comparison", lambda *_, **__: pytest.fail("trained")
    )
    monkeypatch.setattr("gmsearch.reproduce.hits_by_part", lambda *_: pytest.fail("looked"))
    again = run_reproduction(SMALL, run, folder)
    assert again.ending is Ending.FINISHED and again.document == document
    with pytest.raises(SettingsError, match="exists with other settings"):
        run_reproduction(SMALL, run.model_copy(update={"seed": 5}), folder)
    file = folder.experiment_file  # of other images under the same name
    written = file.read_text()
    file.write_text(re.sub(r"data_digest: \w+", "data_digest: '0123456789ab'", written))
    with pytest.raises(SettingsError, match="data_digest is 0123456789ab there"):
        run_reproduction(SMALL, run, folder)
    file.write_text(written)
    (folder.trials_folder / "mobilenetv3_small_050-seed1" / "checkpoint.pt").unlink()
    with pytest.raises(SettingsError, match="no weights of this training"):
        run_reproduction(SMALL, run, folder)
