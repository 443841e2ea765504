"""What the profiler tells of a training step: time by kind of operator, and memory."""

import json
import os
from collections import Counter
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from torch.profiler import ProfilerActivity, profile
from variants import Training

os.environ.setdefault("KINETO_LOG_LEVEL", "99")  # it says when it starts, stops, and lacks a GPU

KINDS = {  # the first that fits the name of an operator
    "gate kernel": ("FusedGate",),
    "depthwise kernel": ("FusedDepthwise",),
    # Own convolutions: what Python does around the operators that have kinds of their own.
    "own depthwise back": ("_DepthwiseBackward",),
    "own pointwise back": ("_PointwiseBackward",),
    "convolutions back": ("convolution_backward",),
    "convolutions": ("convolution", "conv2d"),
    "matrix products": ("aten::mm", "aten::bmm", "aten::addmm"),
    "norms": ("batch_norm", "layer_norm"),
    "optimizer": ("_fused_adam", "_foreach", "addcdiv", "addcmul", "lerp", "sqrt", "norm"),
    "fills": ("fill_", "zero_"),
    "copies": ("copy", "cat", "clone", "contiguous", "pad"),
    "products and activations": ("mul", "relu", "gelu", "hardtanh", "clamp", "threshold", "silu"),
    "sums": ("add", "sum"),
}


def by_kind(training: Training) -> dict[str, float]:
    """Shares of the time of one step in per cent, the largest first. On a GPU it must be one
    without a graph, in which operators have no names. What an optimizer that is not fused does is
    among products, sums and the rest.
    """
    on_gpu = training.images.device.type == "cuda"
    activities = [ProfilerActivity.CPU] + [ProfilerActivity.CUDA] * on_gpu
    training.step()
    with profile(activities=activities, record_shapes=True) as found:
        training.step()
    time_of = "self_device_time_total" if on_gpu else "self_cpu_time_total"
    spent: Counter[str] = Counter()
    for event in found.key_averages(group_by_input_shape=True):
        if not on_gpu or event.device_type == torch.autograd.DeviceType.CPU:
            spent[kind_of(event.key, event.input_shapes)] += getattr(event, time_of)
    total = sum(spent.values())
    return {kind: 100 * share / total for kind, share in spent.most_common() if share}


def kind_of(operator: str, shapes: list[list[int]]) -> str:
    for kind, parts in KINDS.items():
        if any(part in operator for part in parts):
            # The weights of a depthwise convolution are (channels, 1, kernel, kernel).
            wide = any(len(shape) == 4 and shape[1] == 1 for shape in shapes)
            return f"depthwise {kind}" if wide and kind.startswith("convolutions") else kind
    return "rest"


def peak_bytes(training: Training) -> int:
    """The most that a step on a CPU holds at once, of what it asks PyTorch for itself: features
    and gradients, but neither weights nor the optimizer's moments.
    """
    training.step()  # makes the moments
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as found:
        training.step()
    with TemporaryDirectory() as scratch:
        trace = Path(scratch) / "trace.json"
        found.export_chrome_trace(str(trace))
        events = json.loads(trace.read_text())["traceEvents"]
    memory = [e for e in events if e["name"] == "[memory]"]
    first, *_ = totals = [e["args"]["Total Allocated"] for e in sorted(memory, key=_time)]
    return max(totals) - first  # it starts with what profilers before this one saw come, not go


def _time(event: dict[str, Any]) -> float:
    return event["ts"]
