"""Counts of any network: against closed forms, counts by hand, fvcore, and published tables."""

import logging

import pytest
import timm
import torch
from fvcore.nn import ActivationCountAnalysis, FlopCountAnalysis
from hypothesis import given, settings
from hypothesis import strategies as st
from strategies import architectures
from torch import nn
from torch.nn import functional as F

from gmsearch.cost import LayerCost, cost, ledger, total
from gmsearch.counting import count
from gmsearch.fvcore_count import FvcoreCount, explain, fvcore_count
from gmsearch.gmnet import VARIANTS, gmnet
from gmsearch.model import build

RESOLUTIONS = st.integers(32, 64)
PRODUCTS = {"conv", "linear", "addmm", "mm", "bmm", "matmul", "einsum"}  # of fvcore's operators


def convolutions(rows):
    return {row.name: (row.macs, row.params) for row in rows if row.kind == "conv"}


def num_params(model):
    return sum(parameter.numel() for parameter in model.parameters())


@pytest.mark.parametrize("variant", VARIANTS)
def test_the_published_family_counts_as_in_closed_form(variant):
    rows = count(build(gmnet(variant)), 224)
    assert total(rows) == cost(gmnet(variant))
    assert convolutions(rows) == convolutions(ledger(gmnet(variant)))


@settings(max_examples=40, deadline=None)
@given(architectures(), RESOLUTIONS, st.integers(2, 9))
def test_any_architecture_counts_as_in_closed_form(architecture, side, num_classes):
    rows = count(build(architecture, num_classes), side)
    closed = cost(architecture, resolution=side, num_classes=num_classes)
    assert total(rows)[:3] == closed[:3]
    activations = {stage.activation for stage in architecture.stages}
    if "identity" in activations | {architecture.stem_activation}:
        assert total(rows).memory < closed.memory  # which counts it as what it stands for
    else:
        assert total(rows).memory == closed.memory
    in_closed_form = ledger(architecture, resolution=side, num_classes=num_classes)
    assert convolutions(rows) == convolutions(in_closed_form)


class Gated(nn.Module):
    """x + gamma·relu(conv x)·conv x; with functions, a view and a bare parameter."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(4, 4, 3, padding=1, bias=False)
        self.gamma = nn.Parameter(torch.ones(4))

    def forward(self, x):
        h = self.conv(x)
        return x + self.gamma.view(-1, 1, 1) * (F.relu(h) * h)


class ByHand(nn.Module):
    """Two blocks share their convolution; a layer is called twice, one never, one in place."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 4, 3, stride=2, padding=1), nn.BatchNorm2d(4))
        self.act = nn.ReLU(inplace=True)
        self.blocks = nn.Sequential(Gated(), Gated())
        self.blocks[1].conv.weight = self.blocks[0].conv.weight
        self.unused = nn.Linear(7, 7)
        self.head = nn.Linear(4, 5)

    def forward(self, x):
        x = self.blocks(self.act(self.act(self.stem(x))))
        x = torch.cat([x, x.permute(0, 1, 3, 2)], dim=1).chunk(2, dim=1)[0]
        return self.head(F.adaptive_avg_pool2d(x, 1).flatten(1))


def test_a_small_network_counts_as_by_hand():
    pixels = 5 * 5  # of 9 x 9 pixels at stride 2
    features = 4 * pixels
    kernel = 4 * 4 * 9
    assert count(ByHand(), 9) == [
        LayerCost("stem.0", "conv", 3 * 4 * 9 * pixels, 3 * 4 * 9 + 4, features),
        LayerCost("stem.1", "norm", 0, 8, features),
        LayerCost("act", "activation", 0, 0, 2 * features),
        LayerCost("blocks.0.conv", "conv", kernel * pixels, kernel, features),
        LayerCost("blocks.0", "activation", 0, 0, features),
        LayerCost("blocks.0", "elementwise", 0, 4, 3 * features),
        LayerCost("blocks.1.conv", "conv", kernel * pixels, 0, features),
        LayerCost("blocks.1", "activation", 0, 0, features),
        LayerCost("blocks.1", "elementwise", 0, 4, 3 * features),
        LayerCost("", "copy", 0, 0, 2 * features),
        LayerCost("", "pool", 0, 0, 4),
        LayerCost("head", "linear", 4 * 5, 4 * 5 + 5, 5),
        LayerCost("unused", "parameter", 0, 7 * 7 + 7, 0),
    ]


class Odd(nn.Module):
    """Operators beside those of ordinary classifiers."""

    def __init__(self):
        super().__init__()
        self.up = nn.ConvTranspose2d(2, 6, 3, stride=2, groups=2)
        self.norm = nn.GroupNorm(2, 6)
        self.pool = nn.MaxPool2d(2)
        self.weight = nn.Parameter(torch.ones(6, 3))

    def forward(self, x):
        x = self.pool(self.norm(self.up(x))).mean((2, 3))
        return torch.einsum("nc,ck->nk", x, self.weight).softmax(-1)


def test_transposed_grouped_and_einsum_count_as_by_hand():
    side = 2 * 4 + 1  # the transposed convolution of 4 x 4 pixels; its pool halves it
    assert count(Odd(), 4, in_chans=2) == [
        LayerCost("up", "conv", 2 * 3 * 9 * 4**2, 2 * 3 * 9 + 6, 6 * side**2),
        LayerCost("norm", "norm", 0, 12, 6 * side**2),
        LayerCost("pool", "pool", 0, 0, 6 * 4**2),
        LayerCost("", "pool", 0, 0, 6),
        LayerCost("", "linear", 6 * 3, 6 * 3, 3),
        LayerCost("", "activation", 0, 0, 3),
    ]


def test_the_model_stays_as_it_is():
    model = ByHand().train()
    before = {name: (id(tensor), tensor.clone()) for name, tensor in model.state_dict().items()}
    parameters = {name: id(parameter) for name, parameter in model.named_parameters()}
    count(model, 9)
    assert model.training and model.blocks.training
    assert {name: id(parameter) for name, parameter in model.named_parameters()} == parameters
    for name, tensor in model.state_dict().items():
        assert tensor.device.type == "cpu" and torch.equal(tensor, before[name][1])
    hooks = [module._forward_hooks or module._forward_pre_hooks for module in model.modules()]
    assert not any(hooks)


def test_half_precision_counts_like_single():
    assert count(ByHand().to(torch.bfloat16), 9) == count(ByHand(), 9)


class Attending(nn.Module):
    """A transformer layer on 4 x 4 patches; `looks` at its features' values."""

    def __init__(self, looks):
        super().__init__()
        self.patches = nn.Conv2d(3, 8, 4, stride=4)
        self.layer = nn.TransformerEncoderLayer(8, 2, 16, dropout=0.0, batch_first=True)
        self.looks = looks

    def forward(self, x):
        x = self.layer(self.patches(x).flatten(2).mT)
        return x.neg() if self.looks and x.min() < x.max() else x


def test_a_network_that_looks_at_its_features_counts_on_real_ones():
    seen, blind = (count(Attending(looks), 16) for looks in (True, False))
    patches = 4 * 4
    products = patches * (4 * 8 * 8 + 2 * 8 * 16) + 2 * patches**2 * 8
    assert total(blind).macs == 3 * 8 * 4**2 * patches + products
    assert total(blind).params == num_params(Attending(False))
    in_both = [row for row in seen if row.name]  # not what the network itself does: to look
    assert in_both == [row for row in blind if row.name]
    assert {row.kind for row in seen if not row.name} == {"elementwise"}


@pytest.mark.parametrize("fast", [True, False])
def test_what_the_network_raises_is_raised_and_settings_stay(fast):
    torch.backends.mha.set_fastpath_enabled(fast)
    try:
        with pytest.raises(RuntimeError, match="to have 3 channels"):
            count(ByHand(), 9, in_chans=2)
        assert torch.backends.mha.get_fastpath_enabled() == fast
        assert torch.backends.cuda.flash_sdp_enabled()
    finally:
        torch.backends.mha.set_fastpath_enabled(True)


def unfused(name):
    """A network of timm whose attention is single operators, which fvcore counts."""
    model = timm.create_model(name).eval()
    for module in model.modules():
        if hasattr(module, "fused_attn"):
            module.fused_attn = False
    return model


def quiet(analysis):
    analysis.unsupported_ops_warnings(False).uncalled_modules_warnings(False)
    return analysis.tracer_warnings("none")


@pytest.mark.parametrize(
    "name",
    [
        *("mobilenetv3_large_100", "starnet_s1", "convnext_atto", "ghostnetv2_100"),
        *("vit_tiny_patch16_224", "efficientvit_b0", "levit_128s"),
    ],
)
def test_macs_and_activations_of_timms_networks_are_fvcores(name):
    model = unfused(name)
    image = (torch.zeros(1, 3, 224, 224),)
    flops = quiet(FlopCountAnalysis(model, image)).by_operator()
    outputs = quiet(ActivationCountAnalysis(model, image)).total()
    found = total(count(model, 224))
    assert found.macs == sum(number for name, number in flops.items() if name in PRODUCTS)
    assert found.activations == outputs
    assert found.params == num_params(model)


def test_fused_attention_counts_like_the_single_operators():
    fused = total(count(timm.create_model("vit_tiny_patch16_224"), 224))
    single = total(count(unfused("vit_tiny_patch16_224"), 224))
    assert (fused.macs, fused.activations) == (single.macs, single.activations)


# timm's results/benchmark-infer-amp-nchw-pt240-cu124-rtx3090.csv: millions of parameters, GMACs and
# millions of activations; for StarNet the paper's (arXiv 2403.19967) parameters and MACs.
PUBLISHED = [
    ("mobilenetv3_large_100", "5.48", "0.23", "4.41"),
    ("efficientnet_lite0", "4.65", "0.40", "6.74"),
    ("mobilenetv2_100", "3.50", "0.31", "6.68"),
    ("convnext_atto", "3.70", "0.55", "3.81"),
    ("starnet_s1", "2.87", "0.42", None),
]
# Of convolutions and linear layers alone, in millions, as the papers have it: MobileNetV3-Large
# (arXiv 1905.02244) and MobileNetV2 (arXiv 1801.04381).
PUBLISHED_MACS = {"mobilenetv3_large_100": 217, "mobilenetv2_100": 300}


@pytest.mark.parametrize(("name", "params", "gmacs", "activations"), PUBLISHED)
def test_timms_networks_have_their_published_costs(name, params, gmacs, activations):
    model = timm.create_model(name)
    found, theirs = total(count(model, 224)), fvcore_count(model, 224)
    assert f"{found.params / 1e6:.2f}" == params
    assert f"{theirs.total / 1e9:.2f}" == gmacs  # timm publishes fvcore's total
    assert activations is None or f"{found.activations / 1e6:.2f}" == activations
    assert found.macs / 1e6 == pytest.approx(PUBLISHED_MACS.get(name, found.macs / 1e6), rel=0.005)
    assert "unexplained" not in explain(theirs, found.macs)


def test_fvcores_count_of_a_small_network_is_explained_by_hand():
    theirs = fvcore_count(ByHand(), 9)
    pixels = 5 * 5
    products = 3 * 4 * 9 * pixels + 2 * 4 * 4 * 9 * pixels + 4 * 5
    assert theirs == FvcoreCount(
        by_operator={
            "conv": products - 4 * 5,
            "batch_norm": 2 * 4 * pixels,
            "adaptive_avg_pool2d": 4 * pixels,
            "linear": 4 * 5,
        },
        ignored={"mul": 4, "add": 2},  # it takes ReLUs for free and does not say so
        uncalled=("unused",),
        attention=0,
    )
    assert explain(theirs, products) == (
        "fvcore's 10,220 = 9,920 of convolutions and linear layers + 300 of batch_norm and "
        "adaptive_avg_pool2d, which we do not count; it ignores mul (4 calls), add (2)"
    )


def test_fvcore_is_explained_where_attention_is_fused_and_where_nothing_is_known():
    theirs = FvcoreCount(
        by_operator={"conv": 1_236_150_000, "layer_norm": 0},
        ignored={name: 9 - index for index, name in enumerate("abcdefgh")},
        uncalled=(),
        attention=200_000,
    )
    assert explain(theirs, 1_236_350_000) == (
        "fvcore's 1,236.2M = 1,236.2M of convolutions and linear layers; it ignores "
        "a (9 calls), b (8), c (7), d (6), e (5), f (4) and 2 more; we count 0.2M of the products "
        "in fused attention"
    )
    assert explain(theirs, 1_236_350_001).endswith("; 1 that we count more remain unexplained")
    assert explain(theirs, 1_236_349_000).endswith("; 1,000 that we count less remain unexplained")


def test_fvcore_leaves_fused_attention_out_and_we_say_how_much():
    model = timm.create_model("vit_tiny_patch16_224")
    theirs = fvcore_count(model, 224)
    tokens, width, depth = 14 * 14 + 1, 192, 12
    assert theirs.attention == depth * 2 * tokens**2 * width
    assert theirs.ignored["scaled_dot_product_attention"] == depth
    assert "unexplained" not in explain(theirs, total(count(model, 224)).macs)


def test_fvcore_is_quiet_and_leaves_the_model(capfd, caplog):
    caplog.set_level(logging.DEBUG)
    model = ByHand().train()
    fvcore_count(model, 9)
    assert model.training
    assert capfd.readouterr() == ("", "") and not caplog.records
