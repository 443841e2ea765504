"""Latencies: the rules of measuring, with a clock of the test's own; no speed is asserted."""

import sys

import numpy as np
import pytest
import torch
from torch import nn

from gmsearch import latency
from gmsearch.latency import Latency, Subject, eager, measure, onnx
from gmsearch.onnx_export import export_onnx


class Clock:
    """Stands still but for what the subjects take."""

    def __init__(self):
        self.seconds = 0.0
        self.runs = []  # the names of subjects, as they ran
        self.threads = []

    def subject(self, name, milliseconds, threads=None):
        durations = iter(milliseconds)

        def run():
            self.seconds += next(durations) / 1000
            self.runs.append(name)
            self.threads.append(torch.get_num_threads())

        return Subject(run, name, "a device", 4, threads)


@pytest.fixture
def clock(monkeypatch):
    clock = Clock()
    monkeypatch.setattr(latency.time, "perf_counter", lambda: clock.seconds)
    return clock


def endless(milliseconds):
    while True:
        yield milliseconds


@pytest.mark.parametrize(
    ("milliseconds", "repeats"),
    [
        (0.5, 200),  # a second would take 2000
        (5.0, 200),
        (7.0, 140),  # blocks of a tenth of a second
        (100.0, 20),
        (900.0, 20),
    ],
)
def test_repeats_are_enough_and_not_too_many(clock, milliseconds, repeats):
    (found,) = measure([clock.subject("a", endless(milliseconds))])
    assert found.repeats == repeats
    assert found.median_ms == pytest.approx(milliseconds)


def test_median_and_quartiles_are_of_timed_runs_alone(clock):
    def durations():
        yield from [5000.0] * 3  # warm-up
        for block in range(10):
            yield 7000.0  # fills the caches
            yield from range(100 + 2 * block, 102 + 2 * block)

    (found,) = measure([clock.subject("a", durations())])
    assert found.repeats == 20
    low, median, high = np.quantile(np.arange(100, 120), (0.25, 0.5, 0.75))
    assert (found.low_ms, found.median_ms, found.high_ms) == pytest.approx((low, median, high))
    assert found.images_per_second == pytest.approx(4 * 1000 / 109.5)
    assert (found.runtime, found.device, found.batch_size) == ("a", "a device", 4)


def test_several_are_measured_in_turn_and_answered_in_order(clock):
    found = measure([clock.subject("a", endless(50.0)), clock.subject("b", endless(9.0))])
    assert [one.runtime for one in found] == ["a", "b"]
    a, b = ["a"] * 3, ["b"] * 12
    assert clock.runs == ["a"] * 3 + ["b"] * 3 + (a + b) * 10
    assert [one.repeats for one in found] == [20, 110]


def test_a_slow_while_hits_all_alike(clock):
    """The machine has half its speed for some seconds; ratios of medians stay."""

    def slowed(milliseconds):
        while True:
            yield milliseconds * (2 if 1 < clock.seconds < 3 else 1)

    found = measure([clock.subject(str(ms), slowed(ms)) for ms in (5.0, 50.0, 20.0)])
    fast, slow, middle = (one.median_ms for one in found)
    assert slow / fast == pytest.approx(10) and middle / fast == pytest.approx(4)


def test_nothing_is_measured_of_nothing():
    assert measure([]) == []


def test_torch_has_its_threads_during_and_its_own_afterwards(clock):
    before = torch.get_num_threads()
    subjects = [clock.subject(name, endless(60.0), n) for name, n in [("a", 2), ("b", 1)]]
    measure([*subjects, clock.subject("c", endless(60.0))])
    seen = dict(zip(clock.runs, clock.threads, strict=True))
    assert seen == {"a": 2, "b": 1, "c": before}
    assert torch.get_num_threads() == before


def test_threads_are_given_back_after_an_error():
    before = torch.get_num_threads()

    def fail():
        raise RuntimeError("no memory")

    with pytest.raises(RuntimeError, match="no memory"):
        measure([Subject(fail, "a", "a device", 1, before + 1)])
    assert torch.get_num_threads() == before


class Spy(nn.Module):
    """A network that notes what it is run on; its copies note it in the same place."""

    seen: dict = {}

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(4, 5, 3)

    def forward(self, x):
        Spy.seen = {
            "shape": tuple(x.shape),
            "dtype": x.dtype,
            "channels_last": x.is_contiguous(memory_format=torch.channels_last),
            "weight": self.conv.weight.is_contiguous(memory_format=torch.channels_last),
            "training": self.training,
            "inference": torch.is_inference_mode_enabled(),
        }
        return self.conv(x).mean((2, 3))


def test_a_network_in_pytorch():
    model = Spy().to(torch.bfloat16).train()
    (found,) = measure([eager(model, 12, batch_size=3, threads=2, in_chans=4)])
    assert Spy.seen == {
        "shape": (3, 4, 12, 12),
        "dtype": torch.float32,
        "channels_last": True,
        "weight": True,
        "training": False,
        "inference": True,
    }
    assert model.training and model.conv.weight.dtype == torch.bfloat16
    assert (found.runtime, found.threads, found.batch_size) == ("PyTorch eager", 2, 3)
    assert 20 <= found.repeats <= 200
    assert 0 < found.low_ms <= found.median_ms <= found.high_ms
    assert found.device == latency.cpu_name()


def test_a_network_in_onnx_runtime():
    exported = export_onnx(Spy(), 12, in_chans=4)
    (found,) = measure([onnx(exported, 12, batch_size=3, in_chans=4)])
    assert (found.runtime, found.batch_size) == ("ONNX Runtime", 3)
    assert found.threads == torch.get_num_threads()
    assert 20 <= found.repeats <= 200
    assert 0 < found.low_ms <= found.median_ms <= found.high_ms


def test_both_run_the_same_noise_on_the_threads_that_were_asked_for():
    model = Spy().eval()
    assert eager(model, 12, 2, threads=2, in_chans=4).threads == 2
    subject = onnx(export_onnx(model, 12, in_chans=4), 12, 2, threads=2, in_chans=4)
    assert subject.threads == 2
    noise = torch.from_numpy(latency._noise(2, 4, 12))
    assert torch.equal(noise, torch.from_numpy(latency._noise(2, 4, 12)))
    with torch.no_grad():
        assert np.allclose(subject.run(), model(noise).numpy(), atol=1e-5)


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("processor\t: 0\nmodel name\t: AMD EPYC 7B13 @ 2:1\nmodel name\t: other\n", None),
        ("processor\t: 0\nBogoMIPS\t: 50.00\n", "armv9"),
        (None, "armv9"),
    ],
)
def test_the_name_of_the_cpu(tmp_path, monkeypatch, text, name):
    path = tmp_path / "cpuinfo"
    if text is not None:
        path.write_text(text)
    monkeypatch.setattr(latency, "CPU_INFO", path)
    monkeypatch.setattr(latency.platform, "processor", lambda: "")
    monkeypatch.setattr(latency.platform, "machine", lambda: "armv9")
    assert latency.cpu_name() == (name or "AMD EPYC 7B13 @ 2:1")


def test_measuring_in_pytorch_needs_no_onnx_runtime(monkeypatch):
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    assert isinstance(measure([eager(Spy(), 8, 1, in_chans=4)])[0], Latency)


@pytest.mark.gpu
def test_a_network_on_a_gpu():
    if not torch.cuda.is_available():
        pytest.skip("no CUDA device")
    (found,) = measure([eager(Spy(), 12, batch_size=3, device="cuda", in_chans=4)])
    assert found.threads is None
    assert found.device == torch.cuda.get_device_name()
    assert Spy.seen["shape"] == (3, 4, 12, 12) and not Spy.seen["channels_last"]
    assert 0 < found.low_ms <= found.median_ms <= found.high_ms
