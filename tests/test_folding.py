"""The deployed form computes what the network computes, to the last digits of float64."""

import pytest
import torch
from hypothesis import example, given, settings
from strategies import architectures
from test_onnx_export import lively
from torch import nn

from gmsearch.architecture import ACTIVATIONS, FORMS, PLACEMENTS, Architecture, Stage
from gmsearch.counting import count
from gmsearch.folding import fold
from gmsearch.gmnet import gmnet
from gmsearch.model import build

TOLERANCE = 1e-12  # of the largest logit, in float64
SIDE = 37  # odd, so that borders differ from stage to stage


def network(**changes) -> Architecture:
    settings = {"width": 6, "depth": 2, "ratio": 3, "kernel": 3, **changes}
    return Architecture(stem_width=5, stem_activation="relu", stages=(Stage(**settings),) * 4)


def difference(model, folded, batch_size=3, side=SIDE):
    """The largest difference of logits, over the largest logit."""
    dtype = next(model.parameters()).dtype
    generator = torch.Generator().manual_seed(1)
    images = torch.randn(batch_size, 3, side, side, generator=generator, dtype=dtype)
    with torch.no_grad():
        expected, found = model(images), folded(images)
    assert expected.isfinite().all() and expected.std() > 0
    return float((found - expected).abs().max() / expected.abs().max())


def in_double(architecture, **settings):
    torch.manual_seed(0)
    return lively(build(architecture, 7, **settings)).double()


PLACES = [
    (placement, form)
    for placement in PLACEMENTS
    for form in FORMS
    if placement == "expand" or form != "twin"
]


@pytest.mark.parametrize(("placement", "form"), PLACES)
@pytest.mark.parametrize("downsampler", ["dense", "separable"])
def test_every_form_at_every_place(placement, form, downsampler):
    model = in_double(network(placement=placement, form=form, downsampler=downsampler))
    assert difference(model, fold(model)) < TOLERANCE


@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("form", ["self", "fc"])
def test_every_activation_with_gates_in_some_blocks(activation, form):
    """The blocks without a gate have a plain activation, the identity among them."""
    model = in_double(network(activation=activation, form=form, blocks="alternate"))
    assert difference(model, fold(model)) < TOLERANCE


@settings(max_examples=60, deadline=None)
@given(architectures())
@example(network(placement="none", activation="identity"))
@example(network(placement="output", form="squeeze"))
def test_any_architecture(architecture):
    model = in_double(architecture)
    assert difference(model, fold(model)) < TOLERANCE


@pytest.mark.parametrize("pool", ["avg", "max", "avgmax", "catavgmax"])
def test_any_pool(pool):
    model = in_double(network(), global_pool=pool)
    assert difference(model, fold(model)) < TOLERANCE


def test_a_network_without_head():
    model = in_double(network())
    model.reset_classifier(0)
    assert difference(model, fold(model)) < TOLERANCE


def test_published_networks_in_single_precision():
    model = lively(build(gmnet("gmnet_s1"), 10))
    assert difference(model, fold(model), side=64) < 1e-5


def test_nothing_is_left_that_can_be_folded():
    folded = fold(in_double(network(downsampler="separable")))
    kinds = [type(module) for module in folded.modules()]
    assert nn.BatchNorm2d not in kinds
    for stage in folded.stages:
        assert stage[0][0].bias is None and stage[0][1].bias is not None
        assert all(block.dwconv.bias is None and block.scale is None for block in stage[1:])


def test_where_a_gate_comes_last_its_value_takes_the_layer_scale():
    for form in FORMS:
        if form != "twin":
            folded = fold(in_double(network(placement="output", form=form)))
            scaled = {block.scale is not None for stage in folded.stages for block in stage[1:]}
            assert scaled == {form in ("self", "squeeze")}, form


def macs(model):
    return sum(row.macs for row in count(model, 64))


def test_joined_convolutions_cost_less():
    fc = in_double(network(form="fc"))
    twin = in_double(network(form="twin"))
    assert macs(fold(fc)) == macs(twin) < macs(fc)
    linear = in_double(network(placement="none", activation="identity"))
    assert macs(fold(linear)) < macs(linear)
    plain = in_double(network())
    assert macs(fold(plain)) == macs(plain)


def test_the_network_stays_as_it_is():
    model = lively(build(network(form="fc"), 7)).train()
    before = {key: value.clone() for key, value in model.state_dict().items()}
    folded = fold(model)
    assert model.training and not folded.training
    assert next(folded.parameters()).dtype == torch.float32
    after = model.state_dict()
    assert before.keys() == after.keys()
    assert all(torch.equal(before[key], after[key]) for key in before)
    shared = {id(p) for p in model.parameters()} & {id(p) for p in folded.parameters()}
    assert not shared


def test_a_difference_is_seen_where_there_is_one():
    model = in_double(network())
    folded = fold(model)
    with torch.no_grad():
        model.stages[0][1].gamma.mul_(1 + 1e-9)
    assert difference(model, folded) > TOLERANCE
