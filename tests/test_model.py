"""The network of an architecture: every gate runs, GmNet is the authors'."""

import itertools

import pytest
import torch
from torch.nn import functional as F

from gmsearch.architecture import ACTIVATIONS, FORMS, PLACEMENTS, Architecture, Stage
from gmsearch.cost import OPERATORS as COST_OPERATORS
from gmsearch.errors import ArchitectureError
from gmsearch.gates import ACTIVATIONS as ACTIVATION_MODULES
from gmsearch.gates import OPERATORS, Gate
from gmsearch.gmnet import gmnet
from gmsearch.model import build


def small(**stage) -> Architecture:
    stages = tuple(Stage(width=4 * i, depth=2, ratio=2, **stage) for i in (1, 2, 3, 4))
    return Architecture(stem_width=4, stem_activation="relu6", stages=stages)


@pytest.mark.parametrize(("placement", "form"), list(itertools.product(PLACEMENTS, FORMS)))
@pytest.mark.parametrize("blocks", ["all", "alternate", "last"])
def test_every_placement_and_form_runs_forward_and_backward(placement, form, blocks):
    try:
        architecture = small(placement=placement, form=form, blocks=blocks, activation="gelu")
    except ArchitectureError:
        assert form == "twin" and placement in ("spatial", "output")
        return
    torch.manual_seed(0)
    model = build(architecture, num_classes=5)
    logits = model(torch.randn(3, 3, 33, 33))  # an odd side: every halving rounds up
    assert logits.shape == (3, 5)
    F.cross_entropy(logits, torch.tensor([0, 1, 2])).backward()
    assert torch.isfinite(logits).all()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None and torch.isfinite(parameter.grad).all(), name


def test_tables_of_floor_0_and_of_torch_have_the_same_rows():
    assert set(ACTIVATION_MODULES) == set(ACTIVATIONS)
    assert set(OPERATORS) == set(COST_OPERATORS)


def test_gates_compute_their_formulas():
    torch.manual_seed(0)
    h, k = torch.randn(2, 2, 6, 5, 5)
    silu = F.silu

    def gate(form):
        module = Gate(form, "silu", width=6)
        for parameter in module.parameters():
            torch.nn.init.normal_(parameter)
        return module, dict(module.named_parameters())

    module, _ = gate("self")
    torch.testing.assert_close(module(h), silu(h) * h)

    module, p = gate("norm")
    centred = h - h.mean(1, keepdim=True)
    unit = centred / (centred.square().mean(1, keepdim=True) + 1e-6).sqrt()
    scale, shift = (p[f"value.{name}"].view(-1, 1, 1) for name in ("weight", "bias"))
    torch.testing.assert_close(module(h), silu(h) * (unit * scale + shift))

    module, p = gate("dw")
    conv = torch.stack(
        [
            F.conv2d(
                h[:, c : c + 1], p["value.weight"][c : c + 1], p["value.bias"][c : c + 1], 1, 1
            )
            for c in range(6)
        ],
        dim=1,
    ).squeeze(2)
    torch.testing.assert_close(module(h), silu(h) * conv)

    module, p = gate("fc")
    mixed = torch.einsum("oc,nchw->nohw", p["value.weight"][:, :, 0, 0], h)
    torch.testing.assert_close(module(h), silu(h) * (mixed + p["value.bias"].view(-1, 1, 1)))

    module, _ = gate("twin")
    torch.testing.assert_close(module(h, k), silu(h) * k)

    module, p = gate("squeeze")
    pooled = h.mean((2, 3)) @ p["gate.1.weight"][:, :, 0, 0].T + p["gate.1.bias"]
    torch.testing.assert_close(module(h), silu(pooled)[:, :, None, None] * h)


def authors_forward(weights: dict[str, torch.Tensor], x: torch.Tensor) -> torch.Tensor:
    """The authors' forward pass (gment.py) restated on a state dict in their naming."""

    def conv(name, x, stride=1, depthwise=False):
        weight = weights[f"{name}.conv.weight"]
        padding, groups = weight.shape[-1] // 2, len(weight) if depthwise else 1
        x = F.conv2d(x, weight, weights[f"{name}.conv.bias"], stride, padding, 1, groups)
        return batch_norm(f"{name}.bn", x) if f"{name}.bn.weight" in weights else x

    def batch_norm(name, x):
        parts = [weights[f"{name}.{p}"] for p in ("running_mean", "running_var", "weight", "bias")]
        return F.batch_norm(x, *parts)

    x = F.relu6(conv("stem.0", x, stride=2))
    for stage in range(4):
        x = conv(f"stages.{stage}.0.0", x, stride=2)
        block = 1
        while (name := f"stages.{stage}.{block}") + ".gamma" in weights:
            h = conv(f"{name}.f1", conv(f"{name}.dwconv", x, depthwise=True))
            h = conv(f"{name}.g", F.relu6(h) * h)
            h = conv(f"{name}.dwconv2", h, depthwise=True)
            x = x + weights[f"{name}.gamma"].view(-1, 1, 1) * h
            block += 1
    x = batch_norm("norm", x).mean((2, 3))
    return F.linear(x, weights["head.weight"], weights["head.bias"])


def test_gmnet_s3_is_the_authors_network():
    torch.manual_seed(0)
    model = build(gmnet("gmnet_s3")).eval()
    assert sum(p.numel() for p in model.parameters()) == 7_791_544
    state = model.state_dict()
    for name, value in state.items():  # as if trained: a fresh network hides its blocks
        if name.endswith("gamma"):
            value.fill_(0.5)
        elif "running_mean" in name or name.endswith("bn.bias"):
            value.normal_(std=0.1)
    x = torch.randn(2, 3, 64, 64)
    with torch.inference_mode():
        torch.testing.assert_close(model(x), authors_forward(state, x), rtol=1e-5, atol=1e-5)
