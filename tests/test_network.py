"""Networks as data: files, words of the command line, and what is wrong with them in one line."""

import json
import re
from pathlib import Path

import numpy as np
import pytest

from gmsearch.cost import cost
from gmsearch.errors import ArchitectureError, SettingsError, UserError
from gmsearch.experiment import Comparison, make_settings
from gmsearch.gmnet import ABLATIONS, VARIANTS, gmnet, gmnet_within, with_changes, without_gates
from gmsearch.network import Peer, network_from_dict, network_to_json, read_network
from gmsearch.run import RunData, RunFolder, write_settings
from gmsearch.space_file import read_space
from gmsearch.what import resolve

GMNET = Path(__file__).parents[1] / "search_spaces" / "gmnet.yaml"
S1 = gmnet("gmnet_s1")


@pytest.mark.parametrize("network", [S1, Peer("mobilenetv3_large_100")])
def test_a_file_is_read_back(network, tmp_path):
    file = tmp_path / "network.json"
    file.write_text(network_to_json(network))
    assert read_network(file) == network and resolve(str(file)) == network
    assert json.loads(file.read_text())["format"] == 1
    assert network_from_dict(network.to_dict()) == network


def without(data, key):
    return {name: value for name, value in data.items() if name != key}


@pytest.mark.parametrize(
    ("contents", "message"),
    [
        ("[1, 2]", "not an architecture: a list"),
        ('"gmnet_s1"', "not an architecture: a text"),
        ("null", "not an architecture: nothing"),
        ("{}", "not an architecture: it has no stages, stem_activation, stem_width"),
        ('{"timm": 3}', "not an architecture"),
        ("{", "not a readable JSON file"),
        ("[" * 100_000, "not a readable JSON file"),
        (json.dumps(without(S1.to_dict(), "stem_width")), "not an architecture"),
        (json.dumps({**S1.to_dict(), "heads": 2}), "not an architecture"),
        (json.dumps({**S1.to_dict(), "stem_width": 0}), "stem_width is 0; allowed: a whole"),
        (
            json.dumps({**S1.to_dict(), "format": 2}),
            "written by a newer gmsearch (format 2, this one reads up to 1); update gmsearch",
        ),
        (json.dumps({**S1.to_dict(), "format": "one"}), "format is 'one'; allowed: a whole"),
    ],
)
def test_a_file_that_is_no_architecture_is_one_line(contents, message, tmp_path):
    file = tmp_path / "a.json"
    file.write_text(contents)
    with pytest.raises(ArchitectureError, match=re.escape(message)) as caught:
        resolve(str(file))
    assert str(caught.value).startswith(f"{file}: ") and "\n" not in str(caught.value)


def test_a_path_may_hold_any_sign(tmp_path):
    file = tmp_path / "c++=1" / "a:b.txt"
    file.parent.mkdir()
    file.write_text(network_to_json(S1))
    assert resolve(str(file)) == S1


def test_names_of_the_family():
    assert [resolve(name) for name in VARIANTS] == [gmnet(name) for name in VARIANTS]
    scaled = resolve("gmnet@300M")
    assert scaled == gmnet_within(300_000_000) and cost(scaled).macs <= 300_000_000
    wider = gmnet("gmnet_s1", scaled.stages[0].width + 1)
    assert cost(wider).macs > 300_000_000
    assert resolve("gmnet@1.3G") == gmnet_within(1_300_000_000)
    assert resolve("mobilenetv3_large_100") == Peer("mobilenetv3_large_100")


def test_changes():
    assert resolve("gmnet_s1+placement=none") == without_gates(S1)
    changed = resolve("gmnet_s1+activation=gelu+kernel=5")
    assert {(s.activation, s.kernel) for s in changed.stages} == {("gelu", 5)}
    assert changed.stem_activation == "gelu" and changed == with_changes(
        S1, activation="gelu", kernel=5
    )


@pytest.mark.parametrize(
    ("what", "message"),
    [
        (
            "mobilenetv3_larg_100",
            "no network is called 'mobilenetv3_larg_100'; nearest: mobilenetv3_large_100",
        ),
        ("gmnet_s5", "nearest: gmnet_s"),
        ("gmnet", "no network is called 'gmnet'; nearest: gmnet_s"),
        ("mobilenetv3_large_100.ra_in1k", "leave the tag out: mobilenetv3_large_100"),
        ("?", "no network is called '?'; give a name, a JSON file or RUN:ID"),
        ("", "no network is called ''"),
        ("gmnet@3X", "'3X' is not a size; write gmnet@300M"),
        ("gmnet@1M", "no GmNet has 1M MACs or fewer"),
        ("gmnet_s1+colour=red", "colour is no field; allowed: activation, placement"),
        ("gmnet_s1+kernel=3+kernel=5", "kernel is given twice"),
        ("gmnet_s1+gelu", "no network is called 'gmnet_s1+gelu'; changes are written +FIELD=VALUE"),
        (
            "gmnet_s1+activation=glu",
            "'gmnet_s1+activation=glu': activation is 'glu'; allowed: relu6",
        ),
        ("gmnet_s1+kernel=4", "kernel is 4; allowed: 3, 5, 7, 9"),
        ("mobilenetv2_100+kernel=5", "only our own networks can be changed"),
        ("missing.json", "missing.json: not a readable JSON file"),
        ("nowhere:0123456789", "nowhere is not a run"),
    ],
)
def test_what_is_no_network_is_one_line(what, message):
    with pytest.raises(UserError, match=re.escape(message)) as caught:
        resolve(what)
    assert "\n" not in str(caught.value)


def test_a_network_of_a_run(tmp_path):
    folder = RunFolder(tmp_path / "r")
    settings = {"name": "r", "networks": {"gmnet_s1": S1.to_dict()}}
    write_settings(folder, make_settings(Comparison, settings), RunData(90, 10, ("a", "b")))
    trial = folder.trial_folder(f"{S1.id}-seed0")
    trial.mkdir(parents=True)
    (trial / "architecture.json").write_text(network_to_json(S1))
    assert resolve(f"{folder.path}:{S1.id}") == resolve(f"{folder.path}:{S1.id}-seed0") == S1
    with pytest.raises(SettingsError, match="it is a run: give .*:ID"):
        resolve(str(folder.path))
    for unknown in ("ffff", "", "/etc", "../trials", "*"):
        with pytest.raises(SettingsError, match="has no network .*; its trials.csv lists the ids"):
            resolve(f"{folder.path}:{unknown}")


def test_the_ablations_are_the_points_of_the_space():
    """`search_spaces/gmnet.yaml` spells the same networks another way."""
    points = {}
    for text in ("identity", "relu", "gelu", "relu6", "norm", "dw", "fc", "self"):
        kind = "form" if text in ("norm", "dw", "fc", "self") else "activation"
        points[f"{kind} {text}"] = with_changes(gmnet("gmnet_s3"), **{kind: text})
    assert {e.name: with_changes(gmnet("gmnet_s3"), **e.changes) for e in ABLATIONS} == points
    space = read_space(GMNET)
    rng = np.random.default_rng(0)
    drawn = {space.draw(rng).architecture.id for _ in range(200)}
    assert {network.id for network in points.values()} <= drawn
