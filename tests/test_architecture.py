"""Architectures: one id for one network, whatever its spelling; junk is refused in words."""

import copy
import hashlib
import json
import pickle
from dataclasses import FrozenInstanceError, asdict, fields, replace
from itertools import product
from zlib import crc32

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from strategies import architectures, stages
from torch import nn

from gmsearch.architecture import (
    BLOCKS,
    FORMS,
    NUM_STAGES,
    PLACEMENTS,
    Architecture,
    Stage,
    gated_blocks,
)
from gmsearch.block import Block
from gmsearch.errors import ArchitectureError
from gmsearch.model import build

STAGE = Stage(width=8, depth=2, ratio=2)
SELF_GATES = {"sigmoid": "silu", "hardsigmoid": "hardswish"}  # s(h)·h with s is an activation


def network(*four, stem_activation="relu6"):
    stages = four if len(four) == NUM_STAGES else four * NUM_STAGES
    return Architecture(stem_width=4, stem_activation=stem_activation, stages=tuple(stages))


def as_spelled(**values):
    """A stage that was never rewritten to its canonical spelling."""
    stage = object.__new__(Stage)
    for field in fields(Stage):
        object.__setattr__(stage, field.name, values.get(field.name, getattr(STAGE, field.name)))
    return stage


def with_weights_by_name(module, draw):
    """Weights that depend on a parameter's name and the draw alone, large enough to reach every
    bend.
    """
    for name, parameter in module.named_parameters():
        generator = torch.Generator().manual_seed(crc32(f"{draw} {name}".encode()))
        with torch.no_grad():
            parameter.copy_(1.5 * torch.randn(parameter.shape, generator=generator))
    return module.double().eval()


# One network, one id


def test_two_spellings_have_one_id_exactly_where_they_compute_the_same():
    """The referee is torch: all spellings of a small stage are built as they are spelled, with
    equal weights, and run; twice, since some weights close a gate for all images.
    """
    images = torch.randn(16, 3, 3, 3, generator=torch.Generator().manual_seed(0)).double()
    ids, outputs = [], []
    for placement, form, activation, blocks, depth in product(
        PLACEMENTS, FORMS, ("relu6", *SELF_GATES, *SELF_GATES.values()), BLOCKS, (1, 2, 3)
    ):
        if form == "twin" and placement in ("spatial", "output"):
            continue
        spelling = {"placement": placement, "form": form, "activation": activation}
        spelling |= {"blocks": blocks, "depth": depth, "width": 3, "ratio": 1, "kernel": 3}
        stage = as_spelled(**spelling)
        ids.append(network(Stage(**spelling)).id)
        found = []
        for draw in range(2):
            blocks_of = nn.Sequential(*(Block(stage, g) for g in stage.gated))
            with torch.inference_mode():
                output = with_weights_by_name(blocks_of, draw)(images).flatten()
            found.append(output / output.abs().max())
        outputs.append(torch.cat(found))
    outputs = torch.stack(outputs)
    same_output = (torch.cdist(outputs, outputs, p=float("inf")) < 1e-9).numpy()
    same_id = np.array(ids)[:, None] == np.array(ids)[None]
    assert (same_output == same_id).all()
    assert len(set(ids)) < len(ids)


@pytest.mark.parametrize(("gate", "plain"), SELF_GATES.items())
def test_a_self_gate_that_spells_an_activation_is_no_gate(gate, plain):
    gated = Stage(width=8, depth=2, ratio=2, activation=gate)
    ungated = Stage(width=8, depth=2, ratio=2, activation=plain, placement="none")
    assert network(gated).id == network(ungated).id

    spelled = object.__new__(Architecture)
    for name, value in (("stem_width", 4), ("stem_activation", "relu6")):
        object.__setattr__(spelled, name, value)
    object.__setattr__(spelled, "stages", (as_spelled(activation=gate),) * NUM_STAGES)
    as_gate, as_plain = build(spelled, 5), build(network(ungated), 5)
    assert any("Gate" in type(module).__name__ for module in as_gate.modules())
    as_plain.load_state_dict(as_gate.state_dict())
    for model in (as_gate, as_plain):
        with_weights_by_name(model, draw=0)
    image = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(0)).double()
    torch.testing.assert_close(as_gate(image), as_plain(image))


def test_a_self_gate_in_some_blocks_or_elsewhere_stays_a_gate():
    def stage(**values):
        return Stage(width=8, depth=2, ratio=2, activation="sigmoid", **values)

    assert stage(blocks="last").placement == "expand"
    assert stage(blocks="alternate").placement == "expand"
    assert stage(placement="spatial").placement == "spatial"
    assert stage(form="norm").placement == "expand"


@given(stages(), st.sampled_from(tuple(FORMS)), st.sampled_from(BLOCKS))
def test_where_there_is_no_gate_form_and_blocks_mean_nothing(stage, form, blocks):
    ungated = replace(stage, placement="none")
    assert replace(ungated, form=form, blocks=blocks) == ungated
    assert ungated.gated == (False,) * stage.depth


def test_blocks_are_one_where_they_gate_the_same_blocks():
    for depth in range(1, 9):
        by_blocks = {
            blocks: Stage(width=8, depth=depth, ratio=2, blocks=blocks) for blocks in BLOCKS
        }
        masks = {gated_blocks(blocks, depth) for blocks in BLOCKS}
        assert len(set(by_blocks.values())) == len(masks) == (1 if depth == 1 else 3)


def test_gated_blocks_are_the_ones_in_the_words():
    yes, no = True, False
    assert gated_blocks("all", 5) == (yes, yes, yes, yes, yes)
    assert gated_blocks("alternate", 5) == (yes, no, yes, no, yes)
    assert gated_blocks("last", 5) == (no, no, no, no, yes)


@given(stages())
def test_the_canonical_spelling_is_its_own(stage):
    assert Stage(**asdict(stage)) == stage


@given(architectures(), architectures())
def test_equality_hash_and_id_agree(one, other):
    same = one.to_dict() == other.to_dict()
    assert (one == other) is same
    assert (one.id == other.id) is same
    twin = Architecture.from_dict(copy.deepcopy(one.to_dict()))
    assert (twin, hash(twin), twin.id) == (one, hash(one), one.id)


def test_every_field_of_a_network_is_in_its_id():
    base = network(STAGE)
    changes = [replace(base, stem_width=5), replace(base, stem_activation="gelu")]
    for index, (field, value) in product(
        range(NUM_STAGES),
        {
            "width": 9,
            "depth": 3,
            "ratio": 3,
            "kernel": 3,
            "downsampler": "separable",
            "activation": "gelu",
            "placement": "none",
            "form": "fc",
            "blocks": "last",
        }.items(),
    ):
        four = list(base.stages)
        four[index] = replace(four[index], **{field: value})
        changes.append(replace(base, stages=tuple(four)))
    assert len({architecture.id for architecture in [base, *changes]}) == 1 + 2 + 4 * 9


def test_an_id_is_a_digest_of_the_canonical_json():
    """Trial folders are named by it: were it to change, everything would be trained again."""
    stage = (
        '{"activation":"relu6","blocks":"all","depth":2,"downsampler":"dense","form":"self",'
        '"kernel":7,"placement":"expand","ratio":2,"width":8}'
    )
    text = f'{{"stages":[{",".join([stage] * 4)}],"stem_activation":"relu6","stem_width":4}}'
    assert network(STAGE).id == hashlib.sha256(text.encode()).hexdigest()[:10]


# Plain data


@given(architectures())
def test_json_reads_back_as_the_same_network(architecture):
    again = Architecture.from_dict(json.loads(json.dumps(architecture.to_dict())))
    assert again == architecture
    assert again.id == architecture.id
    assert pickle.loads(pickle.dumps(architecture)) == architecture


def test_an_architecture_is_frozen():
    architecture = network(STAGE)
    with pytest.raises(FrozenInstanceError):
        architecture.stem_width = 5
    with pytest.raises(FrozenInstanceError):
        architecture.stages[0].width = 5


# Refusals

SIZE = "width is {}; allowed: a whole number from 1 to 8192"


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("width", 0, SIZE.format(0)),
        ("width", 8193, SIZE.format(8193)),
        ("width", True, SIZE.format(True)),
        ("width", 8.0, SIZE.format(8.0)),
        ("width", "8", SIZE.format("'8'")),
        ("width", None, SIZE.format(None)),
        ("depth", 65, "depth is 65; allowed: a whole number from 1 to 64"),
        ("ratio", 17, "ratio is 17; allowed: a whole number from 1 to 16"),
        ("kernel", 4, "kernel is 4; allowed: 3, 5, 7, 9"),
        ("kernel", 7.0, "kernel is 7.0; allowed: 3, 5, 7, 9"),
        ("downsampler", "pool", "downsampler is 'pool'; allowed: dense, separable"),
        (
            "activation",
            ["relu"],
            "activation is ['relu']; allowed: relu6, relu, gelu, silu, hardswish, sigmoid, "
            "hardsigmoid, tanh, identity",
        ),
        ("placement", "Expand", "placement is 'Expand'; allowed: none, spatial, expand, output"),
        ("form", "star", "form is 'star'; allowed: self, norm, dw, fc, twin, squeeze"),
        ("blocks", {}, "blocks is {}; allowed: all, alternate, last"),
    ],
)
def test_an_impossible_value_is_refused_with_what_is_allowed(field, value, message):
    with pytest.raises(ArchitectureError) as refusal:
        replace(STAGE, **{field: value})
    assert str(refusal.value) == message


@pytest.mark.parametrize("placement", ["spatial", "output"])
def test_twin_away_from_expand_is_refused(placement):
    with pytest.raises(ArchitectureError) as refusal:
        Stage(width=8, depth=1, ratio=2, form="twin", placement=placement)
    assert str(refusal.value) == (
        f"form 'twin' at placement '{placement}': it needs the two projections of 'expand'"
    )


def test_an_impossible_stem_or_number_of_stages_is_refused():
    with pytest.raises(ArchitectureError, match="^stem_width is 0; allowed: a whole number from"):
        Architecture(stem_width=0, stem_activation="relu", stages=(STAGE,) * 4)
    with pytest.raises(ArchitectureError, match="^stem_activation is 'relu7'; allowed: relu6, "):
        Architecture(stem_width=4, stem_activation="relu7", stages=(STAGE,) * 4)
    with pytest.raises(ArchitectureError, match="^3 stages; a network has 4$"):
        Architecture(stem_width=4, stem_activation="relu", stages=(STAGE,) * 3)


def damaged(change):
    data = copy.deepcopy(network(STAGE).to_dict())
    change(data)
    return data


@pytest.mark.parametrize(
    "data",
    [
        None,
        3,
        "stages",
        [],
        {},
        damaged(lambda data: data.pop("stem_width")),
        damaged(lambda data: data.pop("stages")),
        damaged(lambda data: data["stages"][0].pop("width")),
        damaged(lambda data: data["stages"][0].pop("kernel")),
        damaged(lambda data: data.update(head=3)),
        damaged(lambda data: data.update({3: 3})),
        damaged(lambda data: data["stages"][0].update(dropout=0.1)),
        damaged(lambda data: data["stages"][0].update({3: 3})),
        damaged(lambda data: data.update(stages=None)),
        damaged(lambda data: data.update(stages=4)),
        damaged(lambda data: data.update(stages="four")),
        damaged(lambda data: data.update(stages=[1, 2, 3, 4])),
        damaged(lambda data: data.update(stages=[None] * 4)),
        damaged(lambda data: data.update(stages=data["stages"][:3])),
        damaged(lambda data: data["stages"][0].update(width="8")),
        damaged(lambda data: data["stages"][0].update(form=["self"])),
        damaged(lambda data: data.update(stem_activation=None)),
    ],
)
def test_junk_is_refused_as_no_architecture(data):
    with pytest.raises(ArchitectureError, match=r"^(not an architecture: |\w+ is |\d stages; )."):
        Architecture.from_dict(data)


JUNK = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(
            st.sampled_from([*network(STAGE).to_dict(), *asdict(STAGE)]) | st.text(max_size=5),
            inner,
            max_size=4,
        )
    ),
)


@given(JUNK, st.sampled_from(["whole", "stages", "stage", "value"]), st.data())
def test_no_junk_raises_anything_else(junk, where, data):
    document = network(STAGE).to_dict()
    if where == "whole":
        document = junk
    elif where == "stages":
        document["stages"] = junk
    elif where == "stage":
        document["stages"][0] = junk
    else:
        document["stages"][0][data.draw(st.sampled_from(sorted(asdict(STAGE))))] = junk
    try:
        read = Architecture.from_dict(document)
    except ArchitectureError:
        return
    assert Architecture.from_dict(read.to_dict()) == read


# Words


def test_a_network_in_words():
    plain = Stage(width=16, depth=2, ratio=3, kernel=3, activation="gelu", placement="none")
    fc = Stage(width=32, depth=2, ratio=4, form="fc", placement="output", blocks="last")
    architecture = network(STAGE, STAGE, plain, fc)
    assert architecture.layout_in_words() == "w8-8-16-32 d2-2-2-2 r2-2-3-4 k7-7-3-7"
    assert architecture.in_words() == (
        "1-2 relu6(h)·h; 3 no gate, gelu; 4 relu6(h)·Wh at output, last"
    )
