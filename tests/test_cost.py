"""Costs: exact, against the networks themselves, fvcore, and the published table."""

from collections import Counter
from dataclasses import replace

import pytest
import torch
from fvcore.nn import ActivationCountAnalysis, FlopCountAnalysis
from hypothesis import given, settings
from hypothesis import strategies as st
from strategies import architectures
from torch.utils._python_dispatch import TorchDispatchMode

from gmsearch.architecture import ACTIVATIONS
from gmsearch.cost import Cost, cost, halved, ledger, total
from gmsearch.gmnet import gmnet
from gmsearch.model import build

RESOLUTIONS = st.integers(32, 64)  # odd ones too: every halving rounds up
CLASSES = st.integers(2, 9)


def quiet(analysis):
    """An fvcore analysis without its remarks on operators that it does not count."""
    return (
        analysis.unsupported_ops_warnings(False)
        .uncalled_modules_warnings(False)
        .tracer_warnings("none")
    )


@settings(max_examples=50, deadline=None)
@given(architectures(), RESOLUTIONS, CLASSES)
def test_macs_and_params_of_every_layer_and_in_all_are_those_of_the_network(
    architecture, side, num_classes
):
    network = build(architecture, num_classes).eval()
    image = (torch.zeros(1, 3, side, side),)
    flops = quiet(FlopCountAnalysis(network, image)).by_module_and_operator()
    macs = {name: flops[name]["conv"] + flops[name]["linear"] for name in flops}
    counted = {
        name: (macs[name], sum(parameter.numel() for parameter in layer.parameters()))
        for name, layer in network.named_modules()
        if isinstance(layer, torch.nn.Conv2d | torch.nn.Linear)
    }
    rows = ledger(architecture, resolution=side, num_classes=num_classes)
    ours = {row.name: (row.macs, row.params) for row in rows if row.kind in ("conv", "linear")}
    assert ours == counted
    found = cost(architecture, resolution=side, num_classes=num_classes)
    assert found.macs == macs[""]
    assert found.params == sum(parameter.numel() for parameter in network.parameters())


@settings(max_examples=30, deadline=None)
@given(architectures(), RESOLUTIONS)
def test_activations_of_every_layer_and_in_all_are_fvcores(architecture, side):
    network = build(architecture, 5).eval()
    image = (torch.zeros(1, 3, side, side),)
    outputs = quiet(ActivationCountAnalysis(network, image)).by_module()
    rows = ledger(architecture, resolution=side, num_classes=5)
    ours = {row.name: row.activations for row in rows if row.kind in ("conv", "linear")}
    assert ours == {name: outputs[name] for name in ours}
    assert cost(architecture, resolution=side, num_classes=5).activations == outputs[""]


@settings(max_examples=100, deadline=None)
@given(architectures())
def test_every_parameter_of_the_network_has_its_row(architecture):
    network = build(architecture, 5)
    counted = Counter()  # by the layer, or by its own name where the parameter is no layer's
    for name, parameter in network.named_parameters():
        counted[name.removesuffix(".weight").removesuffix(".bias")] += parameter.numel()
    rows = ledger(architecture, resolution=32, num_classes=5)
    assert {row.name: row.params for row in rows if row.params} == counted
    assert len({row.name for row in rows}) == len(rows)


@settings(max_examples=200, deadline=None)
@given(architectures(), RESOLUTIONS, CLASSES)
def test_cost_is_the_sum_of_the_ledger(architecture, side, num_classes):
    rows = ledger(architecture, resolution=side, num_classes=num_classes)
    assert cost(architecture, resolution=side, num_classes=num_classes) == total(rows)
    assert total(rows) == total(iter(rows)) == Cost(*total(rows))


class Written(TorchDispatchMode):
    """Counts the elements that torch's operators write; views and empty buffers write none."""

    NOTHING = ("view", "permute", "t", "empty", "detach")

    def __init__(self):
        super().__init__()
        self.elements = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        if func.overloadpacket.__name__ not in self.NOTHING:
            self.elements += (out[0] if isinstance(out, tuple) else out).numel()
        return out


def written_by(architecture, side):
    network = build(architecture, 5).eval()
    image = torch.zeros(1, 3, side, side)
    with torch.no_grad(), Written() as written:
        network(image)
    return written.elements


@settings(max_examples=60, deadline=None)
@given(architectures([name for name in ACTIVATIONS if name != "identity"]), RESOLUTIONS)
def test_memory_is_what_torch_writes(architecture, side):
    assert cost(architecture, resolution=side, num_classes=5).memory == written_by(
        architecture, side
    )


@given(st.integers(1, 5000))
def test_halved_is_the_side_after_a_convolution_of_stride_2(side):
    convolution = torch.nn.Conv1d(1, 1, 3, stride=2, padding=1)
    assert halved(side) == convolution(torch.zeros(1, 1, side)).shape[-1]


@pytest.mark.parametrize(
    ("variant", "params", "macs"),
    [
        ("gmnet_s1", "3.66M", "647M"),
        ("gmnet_s2", "6.16M", "882M"),
        ("gmnet_s3", "7.79M", "1236M"),
        ("gmnet_s4", "17.06M", "2748M"),
    ],
)
def test_published_variants_have_their_published_costs(variant, params, macs):
    found = cost(gmnet(variant))
    assert (f"{found.params / 1e6:.2f}M", f"{found.macs / 1e6:.0f}M") == (params, macs)


def test_gmnet_s3_is_counted_to_the_last_parameter():
    found = cost(gmnet("gmnet_s3"), resolution=224, num_classes=1000)
    assert found.params == 7_791_544
    assert f"{found.macs / 1e6:.2f}" == "1236.18"


def test_the_published_ablation_of_the_fc_form_has_its_published_size():
    s3 = gmnet("gmnet_s3")
    stages = tuple(replace(stage, form="fc") for stage in s3.stages)
    params = cost(replace(s3, stages=stages)).params
    assert f"{params / 1e6:.2f}" == "20.15"
