"""Files for TensorBoard, read back record by record with their checksums, and without TensorBoard:
a record is its length, the length's checksum, an event in protobuf, and the event's checksum.
"""

import struct
from pathlib import Path

import pytest
from made_runs import make_run
from tensorboardX.proto.event_pb2 import Event
from tensorboardX.proto.plugin_hparams_pb2 import HParamsPluginData
from test_scatter import trial

from gmsearch.cli import main
from gmsearch.gmnet import gmnet_within
from gmsearch.network import Peer
from gmsearch.record import front_of
from gmsearch.tensorboard import TensorBoard


def checksum(data: bytes) -> int:
    """CRC-32C, bit by bit, turned and shifted as TFRecord has it."""
    crc = 0xFFFFFFFF
    for byte in data:
        crc ^= byte
        for _ in range(8):
            crc = crc >> 1 ^ (0x82F63B78 if crc & 1 else 0)
    crc ^= 0xFFFFFFFF
    return ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF


def events(folder: Path) -> list[Event]:
    """Those of all files, as TensorBoard reads them."""
    files = sorted(folder.glob("events.out.tfevents.*"))
    assert files
    return [event for file in files for event in events_of(file)]


def events_of(file: Path) -> list[Event]:
    data, found = file.read_bytes(), []
    while data:
        (length,) = struct.unpack("<Q", data[:8])
        assert struct.unpack("<I", data[8:12]) == (checksum(data[:8]),)
        event = data[12 : 12 + length]
        assert struct.unpack("<I", data[12 + length : 16 + length]) == (checksum(event),)
        found.append(Event.FromString(event))
        data = data[16 + length :]
    assert found[0].file_version == "brain.Event:2"
    return found[1:]


def scalars(folder: Path) -> dict[str, dict[int, float]]:
    """Values by name and step; each is there once."""
    found: dict[str, dict[int, float]] = {}
    for event in events(folder):
        for value in event.summary.value:
            if not value.tag.startswith("_hparams_/"):
                steps = found.setdefault(value.tag, {})
                assert event.step not in steps
                steps[event.step] = value.simple_value
    return found


def hyperparameters(folder: Path) -> dict[str, object]:
    for event in events(folder):
        for value in event.summary.value:
            if value.tag == "_hparams_/session_start_info":
                content = HParamsPluginData.FromString(value.metadata.plugin_data.content)
                told = content.session_start_info.hparams
                return {name: told[name].string_value or told[name].number_value for name in told}
    return {}


def told_metrics(folder: Path) -> set[str]:
    for event in events(folder):
        for value in event.summary.value:
            if value.tag == "_hparams_/experiment":
                content = HParamsPluginData.FromString(value.metadata.plugin_data.content)
                return {metric.name.tag for metric in content.experiment.metric_infos}
    return set()


def epoch(number: int, loss: float | None = 0.5) -> dict:
    values = {"epoch": number, "top1": 10.0 * number, "train_loss": 4.0 / number, "loss": loss}
    return values | {"seconds": 1.0, "top5": None}


def test_each_epoch_is_written_once_when_it_is_there(tmp_path):
    with TensorBoard(tmp_path) as board:
        for epochs in range(4):
            state = "complete" if epochs == 3 else "running"
            curve = [epoch(number, None if number == 2 else 0.5) for number in range(1, epochs + 1)]
            record = trial(7, 0.0, 9_000_000, id="abc", state=state, curve=curve)
            board.update([record])
            board.update([record])
        board.finished(record)
    found = scalars(tmp_path / "abc")
    assert found["top1"] == {1: 10.0, 2: 20.0, 3: 30.0}
    assert found["train_loss"] == pytest.approx({1: 4.0, 2: 2.0, 3: 4 / 3})
    assert found["loss"] == {1: 0.5, 3: 0.5}
    assert found["macs"] == {3: 9_000_000}
    assert told_metrics(tmp_path / "abc") == {"top1", "macs", "params", "activations"} <= set(found)


def test_a_complete_trial_has_its_network_as_hyperparameters(tmp_path):
    network = gmnet_within(300_000_000)
    own = trial(0, 0.0, 1, id="own", curve=[epoch(1)], network=network, baseline="GmNet")
    failed = trial(1, 0.0, 1, id="failed", curve=[epoch(1)], state="failed", reason="it did")
    with TensorBoard(tmp_path) as board:
        board.update([own, failed])
    told = hyperparameters(tmp_path / "own")
    assert told["network"] == own.words and "GmNet baseline" in own.words
    for number, stage in enumerate(network.stages, 1):
        assert told[f"stage{number}.width"] == stage.width
        assert told[f"stage{number}.placement"] == stage.placement
    assert told["stem_width"] == network.stem_width
    assert hyperparameters(tmp_path / "failed") == {}
    assert scalars(tmp_path / "failed")["top1"] == {1: 10.0}


def test_bands_are_scalars_too(tmp_path):
    curve = [{**epoch(n), "bands": {"low12": 1.5 * n, "high12": 0.5 * n}} for n in (1, 2)]
    with TensorBoard(tmp_path) as board:
        board.update([trial(0, 0.0, 1, id="a", curve=curve)])
    found = scalars(tmp_path / "a")
    assert found["low12"] == {1: 1.5, 2: 3.0} and found["high12"] == {1: 0.5, 2: 1.0}
    assert {"low12", "high12", "top1"} <= told_metrics(tmp_path / "a")


def test_a_stop_in_the_middle_loses_nothing_and_the_next_session_writes_it_anew(tmp_path):
    running = trial(0, 0.0, 1, id="a", state="running", curve=[epoch(1)])
    with TensorBoard(tmp_path) as board:
        board.update([running])
    assert scalars(tmp_path / "a")["top1"] == {1: 10.0}
    done = trial(0, 0.0, 1, id="a", curve=[epoch(1), epoch(2)])
    with TensorBoard(tmp_path) as board:
        board.update([done])
    assert scalars(tmp_path / "a")["top1"] == {1: 10.0, 2: 20.0}


def test_the_seeds_of_a_comparison_have_folders_of_their_own(tmp_path):
    records = [
        trial(
            i, 0.0, 1, id="resnet18", name="r", seed=i, network=Peer("resnet18"), curve=[epoch(1)]
        )
        for i in range(2)
    ]
    with TensorBoard(tmp_path) as board:
        board.update(records)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["resnet18-seed0", "resnet18-seed1"]
    assert hyperparameters(tmp_path / "resnet18-seed1") == {
        "network": "r",
        "seed": 1.0,
        "timm": "resnet18",
    }


def test_trials_without_an_epoch_leave_nothing(tmp_path):
    with TensorBoard(tmp_path / "board") as board:
        board.update([trial(0, 0.0, 1, state="running", curve=[])])
        board.update([trial(0, 0.0, 1, state="failed", curve=[], reason="it did")])
    assert not (tmp_path / "board").exists()


@pytest.mark.filterwarnings("ignore::optuna.exceptions.ExperimentalWarning")
def test_a_run_that_is_done_gets_its_curves_when_it_is_resumed(tmp_path):
    folder, study = make_run(tmp_path / "r", [40.0, 50.0, 60.0], trials=3)
    assert main(["resume", str(folder.path)]) == 0
    assert not folder.tensorboard_folder.exists()
    assert main(["resume", str(folder.path), "--tensorboard"]) == 0
    for record in study.records.values():
        found = scalars(folder.tensorboard_folder / record.id)
        assert found["top1"] == {1: record.top1 / 2, 2: record.top1}
    front = {r.id for r in front_of(study.records.values(), ("top1", "macs"))}
    marked = {
        path.name for path in folder.tensorboard_folder.iterdir() if "on_front" in scalars(path)
    }
    assert marked == front and 0 < len(front) < 3


@pytest.mark.filterwarnings("ignore::optuna.exceptions.ExperimentalWarning")
def test_a_file_in_the_place_of_the_curves_is_told_before_any_work(tmp_path, capsys, monkeypatch):
    folder, _ = make_run(tmp_path / "r", [40.0])
    folder.tensorboard_folder.write_text("mine")
    monkeypatch.delattr("gmsearch.session.load_searched")
    assert main(["resume", str(folder.path), "--tensorboard"]) == 2
    assert capsys.readouterr() == (
        "",
        f"gmsearch: --tensorboard: {folder.tensorboard_folder} is a file; move it away\n",
    )
