"""Where the time of a training step goes, by kind of operator."""

from collections import Counter

import torch
from torch.profiler import ProfilerActivity, profile
from variants import Training

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
    without a graph, in which operators have no names.
    """
    on_gpu = training.images.device.type == "cuda"
    activities = [ProfilerActivity.CPU] + [ProfilerActivity.CUDA] * on_gpu
    training.step()
    with profile(activities=activities) as found:
        training.step()
    time_of = "self_device_time_total" if on_gpu else "self_cpu_time_total"
    spent: Counter[str] = Counter()
    for event in found.key_averages():
        if not on_gpu or event.device_type == torch.autograd.DeviceType.CPU:
            spent[kind_of(event.key)] += getattr(event, time_of)
    total = sum(spent.values())
    return {kind: 100 * share / total for kind, share in spent.most_common() if share}


def kind_of(operator: str) -> str:
    for kind, parts in KINDS.items():
        if any(part in operator for part in parts):
            return kind
    return "rest"
