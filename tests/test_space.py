"""Search spaces: what they hold, counted and measured against plain enumeration."""

import re
from collections import Counter
from itertools import product
from pathlib import Path

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from strategies import Limited

from gmsearch.architecture import BLOCKS, FORMS, PLACEMENTS
from gmsearch.errors import ArchitectureError, SpaceError
from gmsearch.gmnet import VARIANTS, gmnet
from gmsearch.reading import Document
from gmsearch.space import format_size, format_size_up, parse_size
from gmsearch.space_file import parse_space, read_space

SPACES = Path(__file__).parents[1] / "search_spaces"
PLAIN = {
    "stem_width": 4,
    "stem_activation": "relu6",
    "width": [4, 6, 8, 12],
    "depth": 1,
    "ratio": 2,
    "kernel": 3,
    "downsampler": "dense",
    "activation": "relu6",
    "placement": "expand",
    "form": "self",
    "blocks": "all",
}
OPTIONS = {
    "stem_width": (4, 8),
    "stem_activation": ("relu6", "silu"),
    "width": (1, 4, 8, 40),
    "depth": (1, 2, 3),
    "ratio": (1, 2, 3),
    "kernel": (3, 5),
    "downsampler": ("dense", "separable"),
    "activation": ("relu6", "sigmoid", "silu", "hardsigmoid", "hardswish"),
    "placement": PLACEMENTS,
    "form": tuple(FORMS),
    "blocks": BLOCKS,
}
GATE_AXES = ("activation", "placement", "form", "blocks", "depth")
MOST_SETTINGS = 600


def space_of(*, fixed=(), per_network=(), per_stage=(), stem_follows=False):
    """A small space: `PLAIN`, but for what is given."""
    given = {**dict(per_network), **dict(per_stage)}
    kept = {axis: value for axis, value in PLAIN.items() if axis not in given}
    if stem_follows:
        del kept["stem_activation"]
    data = {"name": "small", "counted_at": {"resolution": 64, "num_classes": 10}}
    data |= {"fixed": kept | dict(fixed)}
    data |= {"per_network": dict(per_network), "per_stage": dict(per_stage)}
    return parse_space(Document(Path("small.yaml"), data, {}, SpaceError))


@st.composite
def small_spaces(draw, axes=tuple(OPTIONS)):
    """A space of a few hundred settings, whose axes are fixed, per network or per stage."""
    num_settings = 1
    sections = {"fixed": {}, "per_network": {}, "per_stage": {}}
    stem_follows = draw(st.booleans())

    def options(axis, most):
        one = st.sampled_from(OPTIONS[axis])
        return draw(st.lists(one, min_size=1, max_size=most, unique=True))

    for axis in draw(st.permutations(axes)):
        if axis == "stem_activation" and stem_follows:
            continue
        room = MOST_SETTINGS // num_settings
        where = draw(st.sampled_from(["fixed", "per_network", "per_network", "per_stage"]))
        if where == "per_stage" and not axis.startswith("stem") and room > 1:
            lists = []
            for _ in range(4):
                lists.append(options(axis, min(3, room)))
                room //= len(lists[-1])
                num_settings *= len(lists[-1])
            sections["per_stage"][axis] = lists
        elif where == "per_network":
            sections["per_network"][axis] = options(axis, min(3, room))
            num_settings *= len(sections["per_network"][axis])
        else:
            sections["fixed"][axis] = options(axis, 1)[0]
    try:
        return space_of(**sections, stem_follows=stem_follows)
    except SpaceError as error:
        assume("needs the placement 'expand'" not in str(error))  # a form that fits nowhere
        assume("needs a form of one projection" not in str(error))  # or a placement
        assume("nothing to choose" not in str(error))
        raise


def everything(space):
    """All settings of a space that are a network: (picks, architecture)."""
    names = [choice.name for choice in space.choices]
    for options in product(*(choice.options for choice in space.choices)):
        picks = dict(zip(names, options, strict=True))
        try:
            yield picks, space.decode(picks)
        except ArchitectureError:
            continue


def macs(space, architecture):
    return space.cost(architecture).macs


# Decoding and drawing


def test_a_pick_lands_in_the_stage_that_it_names():
    space = space_of(
        fixed={"kernel": [3, 5, 7, 9]},
        per_network={"ratio": [1, 3], "stem_width": [4, 8]},
        per_stage={"depth": [[1, 2], [3], [4, 5], [6]], "downsampler": ["dense", "separable"]},
    )
    picks = {"ratio": 3, "stem_width": 8}
    picks |= {"stage1.depth": 2, "stage2.depth": 3, "stage3.depth": 4, "stage4.depth": 6}
    picks |= {f"stage{stage}.downsampler": "dense" for stage in (1, 2, 4)}
    architecture = space.decode(picks | {"stage3.downsampler": "separable"})
    assert architecture.stem_width == 8
    assert architecture.layout_in_words() == "w4-6-8-12 d2-3-4-6 r3-3-3-3 k3-5-7-9"
    assert [stage.downsampler for stage in architecture.stages] == [
        "dense",
        "dense",
        "separable",
        "dense",
    ]


def test_base_width_doubles_from_stage_to_stage():
    data = {"name": "b", "fixed": {**PLAIN}, "per_network": {"base_width": [3, 5]}}
    del data["fixed"]["width"]
    space = parse_space(Document(Path("b.yaml"), data, {}, SpaceError))
    widths = [stage.width for stage in space.decode({"base_width": 5}).stages]
    assert widths == [5, 10, 20, 40]


def test_without_a_stem_activation_the_stem_follows_the_first_stage():
    space = space_of(per_stage={"activation": ["gelu", "relu"]}, stem_follows=True)
    picks = {f"stage{stage}.activation": "relu" for stage in (2, 3, 4)}
    for activation in ("gelu", "relu"):
        decoded = space.decode(picks | {"stage1.activation": activation})
        assert decoded.stem_activation == activation


@settings(max_examples=40, deadline=None)
@given(small_spaces(), st.integers(0, 2**32 - 1))
def test_what_is_drawn_is_in_the_space(space, seed):
    drawn = space.draw(np.random.default_rng(seed))
    assert list(drawn.picks) == [choice.name for choice in space.choices]
    assert all(drawn.picks[choice.name] in choice.options for choice in space.choices)
    assert drawn.architecture == space.decode(drawn.picks)
    assert drawn.architecture.id in {architecture.id for _, architecture in everything(space)}


def test_a_seed_draws_the_same_again():
    space = read_space(SPACES / "gated.yaml")

    def ids(seed):
        rng = np.random.default_rng(seed)
        return [space.draw(rng).architecture.id for _ in range(20)]

    assert ids(5) == ids(5) != ids(6)


def test_draws_are_uniform_over_the_settings_that_are_a_network():
    """Chi-square over the settings, `twin` away from `expand` left out: seeded, and loose."""
    space = space_of(
        per_network={"form": ["self", "twin"], "placement": ["expand", "spatial"]},
        per_stage={"kernel": [[3, 5], [3], [3, 5], [3]]},
    )
    rng = np.random.default_rng(0)
    num_draws = 6000
    counts = Counter(tuple(space.draw(rng).picks.values()) for _ in range(num_draws))
    allowed = {tuple(picks.values()) for picks, _ in everything(space)}
    assert set(counts) == allowed and len(allowed) == 3 * 4
    expected = num_draws / len(allowed)
    chi_square = sum((counts[setting] - expected) ** 2 / expected for setting in allowed)
    assert chi_square < 32  # of 11 degrees of freedom: 1 in 1,000 draws by chance


# Counting


@pytest.mark.parametrize("name", ["tiny", "gmnet"])
def test_the_networks_of_a_shipped_space_are_counted_exactly(name):
    space = read_space(SPACES / f"{name}.yaml")
    assert space.num_networks == len({architecture.id for _, architecture in everything(space)})


@settings(max_examples=60, deadline=None)
@given(small_spaces(axes=(*GATE_AXES, "stem_activation")))
def test_networks_are_counted_exactly_however_their_gates_fold(space):
    assert space.num_networks == len({architecture.id for _, architecture in everything(space)})


@settings(max_examples=30, deadline=None)
@given(small_spaces())
def test_networks_are_counted_exactly_over_all_axes(space):
    assert space.num_networks == len({architecture.id for _, architecture in everything(space)})


FOLDING = {
    "across settings of the whole network": {
        "per_network": {"activation": ["sigmoid", "silu"], "blocks": ["all", "last", "alternate"]},
        "per_stage": {
            "placement": [["none", "expand"], ["expand"], ["none"], ["spatial", "expand"]],
            "depth": [[1, 2], [1], [3], [1]],
        },
    },
    "within a stage": {
        "per_stage": {"activation": ["sigmoid", "silu"], "placement": ["none", "expand"]},
    },
}


@pytest.mark.parametrize("stem_follows", [True, False])
@pytest.mark.parametrize("sections", FOLDING.values(), ids=FOLDING)
def test_spellings_of_one_network_count_once(sections, stem_follows):
    space = space_of(**sections, stem_follows=stem_follows)
    settings = list(everything(space))
    num_networks = len({architecture.id for _, architecture in settings})
    assert space.num_networks == num_networks < len(settings)


def test_the_gated_space_is_vast_and_holds_the_gate_of_gmnet():
    space = read_space(SPACES / "gated.yaml")
    assert space.num_networks > 10**12
    picks = {choice.name: choice.options[0] for choice in space.choices}
    gate = {"placement": "expand", "form": "self", "activation": "relu6", "blocks": "all"}
    gate |= {"downsampler": "dense", "kernel": 7}
    for choice in space.choices:
        picks[choice.name] = gate.get(choice.axis, picks[choice.name])
    architecture = space.decode(picks)
    assert architecture.in_words() == "1-4 relu6(h)·h"
    published = gmnet("gmnet_s1").stages[0]
    assert {stage.gate_in_words() for stage in architecture.stages} == {published.gate_in_words()}
    assert architecture.stem_activation == gmnet("gmnet_s1").stem_activation


def test_points_are_counted_and_drawn():
    space = read_space(SPACES / "gmnet.yaml")
    rng = np.random.default_rng(0)
    drawn = {space.draw(rng).architecture for _ in range(300)}
    assert drawn == {space.decode({"point": name}) for name in space.points}
    assert {gmnet(variant) for variant in VARIANTS} <= drawn


# Extremes and budgets


def assert_extremes_are_those_of_enumeration(space):
    settings = [(picks, macs(space, architecture)) for picks, architecture in everything(space)]
    assert macs(space, space.cheapest.architecture) == min(m for _, m in settings)
    assert macs(space, space.costliest.architecture) == max(m for _, m in settings)
    costs = [space.cost(architecture) for _, architecture in everything(space)]
    for name in ("macs", "params", "activations"):
        assert space.most(name) == max(getattr(cost, name) for cost in costs), name
    for choice in space.choices:
        for option in choice.options:
            taking = [m for picks, m in settings if picks[choice.name] == option]
            if taking:
                found = space.cheapest_with(choice, option)
                assert found.picks[choice.name] == option
                assert found.architecture == space.decode(found.picks)
                assert macs(space, found.architecture) == min(taking), (choice.name, option)


@pytest.mark.parametrize("name", ["tiny", "gmnet"])
def test_extremes_of_a_shipped_space_are_those_of_enumeration(name):
    assert_extremes_are_those_of_enumeration(read_space(SPACES / f"{name}.yaml"))


@settings(max_examples=60, deadline=None)
@given(small_spaces())
def test_extremes_are_those_of_enumeration(space):
    assert_extremes_are_those_of_enumeration(space)


# Spaces in which the best option of one choice depends on that of another.
ENTANGLED = {
    "twin costs most, at expand alone": {
        "per_stage": {"form": ["self", "twin"], "placement": ["spatial", "expand"]},
    },
    "twin costs least, at expand alone": {
        "fixed": {"width": 2, "ratio": 2},
        "per_stage": {"form": ["dw", "twin"], "placement": ["spatial", "expand"]},
    },
    "any form is cheapest until there is a gate": {
        "per_network": {"placement": ["none", "spatial"], "form": ["dw", "self"]},
    },
    "dw or squeeze, by the width": {
        "per_network": {"form": ["dw", "squeeze"]},
        "per_stage": {"width": [1, 400]},
    },
    "dense or separable, by the width": {
        "per_network": {"downsampler": ["dense", "separable"]},
        "per_stage": {"width": [1, 4]},
    },
}
entangled = pytest.mark.parametrize("sections", ENTANGLED.values(), ids=ENTANGLED)


@entangled
def test_extremes_of_an_entangled_space_are_those_of_enumeration(sections):
    assert_extremes_are_those_of_enumeration(space_of(**sections))


@settings(max_examples=40, deadline=None)
@given(small_spaces(), st.floats(0, 1), st.integers(0, 2**32 - 1))
def test_descent_ends_within_any_budget_that_some_network_fits(space, share, seed):
    all_macs = [macs(space, architecture) for _, architecture in everything(space)]
    budget = round(min(all_macs) + share * (max(all_macs) - min(all_macs)))
    start = space.draw(np.random.default_rng(seed))
    reached = space.descend(start.picks, budget, Limited(seed))
    assert macs(space, reached.architecture) <= budget
    assert reached.architecture == space.decode(reached.picks)
    assert all(reached.picks[choice.name] in choice.options for choice in space.choices)
    if macs(space, start.architecture) <= budget:
        assert reached == start


@entangled
def test_descent_in_an_entangled_space_ends_at_the_very_smallest_budget(sections):
    space = space_of(**sections)
    budget = min(macs(space, architecture) for _, architecture in everything(space))
    for seed in range(5):
        start = space.draw(np.random.default_rng(seed))
        reached = space.descend(start.picks, budget, Limited(seed))
        assert macs(space, reached.architecture) == budget


def test_descent_in_the_gated_space_ends_at_the_very_smallest_budget():
    space = read_space(SPACES / "gated.yaml")
    budget = macs(space, space.cheapest.architecture)
    start = space.draw(np.random.default_rng(0))
    reached = space.descend(start.picks, budget, Limited(0))
    assert macs(space, reached.architecture) == budget


def test_a_budget_below_the_smallest_network_is_refused_with_its_exact_size():
    space = read_space(SPACES / "tiny.yaml")
    smallest = min(macs(space, architecture) for _, architecture in everything(space))
    with pytest.raises(SpaceError) as refusal:
        space.check_budget(smallest - 1)
    assert str(refusal.value) == (
        f"budget {format_size(smallest - 1)} is below the smallest network of space 'tiny', "
        f"which has {smallest:,} MACs; use --budget {format_size_up(smallest)} or more"
    )
    advised = re.search(r"use --budget (\S+) or more", str(refusal.value))[1]
    space.check_budget(parse_size(advised))
    space.check_budget(smallest)


# Sizes


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("300M", 300_000_000),
        ("300m", 300_000_000),
        ("1.2G", 1_200_000_000),
        ("1.2B", 1_200_000_000),
        ("40K", 40_000),
        ("300000000", 300_000_000),
        ("1", 1),
        ("0.5K", 500),
    ],
)
def test_a_size_is_read_as_people_write_it(text, size):
    assert parse_size(text) == size


@pytest.mark.parametrize(
    "text",
    ["", "M", "0", "0M", "0.4", "3X", "MM", "3MM", "M3", "1.2.3M", "-5M", "+5M", "- 5", ".5M"]
    + ["nan", "inf", "nanM", "infG", "1e3M", "1e3", "1_0M", "5 M", " 5M", "5M ", "0x10", "٣M"]
    + ["1000000000G", "9" * 400],
)
def test_anything_else_is_no_size(text):
    with pytest.raises(ValueError):
        parse_size(text)


@given(st.integers(1, 10**12))
def test_a_formatted_size_reads_back_to_three_digits(value):
    text = format_size(value)
    assert re.fullmatch(r"\d+(\.\d+)?[KMG]?", text)
    assert parse_size(text) == pytest.approx(value, rel=5.01e-3)


@pytest.mark.parametrize("value", [999_499, 999_500, 999_999, 999_999_999])
def test_a_size_just_below_the_next_unit_has_no_exponent(value):
    assert re.fullmatch(r"\d+(\.\d+)?[KMG]?", format_size(value))


@given(st.integers(1, 10**15))
def test_a_size_rounded_up_is_enough_and_hardly_more(value):
    up = parse_size(format_size_up(value))
    assert value <= up < value + (10**6 if value >= 10**7 else 10**3)
