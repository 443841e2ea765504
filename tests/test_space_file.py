"""Space files: the shipped ones read; every mistake is refused with file, line, path and remedy."""

import re
from pathlib import Path

import numpy as np
import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from strategies import Limited

from gmsearch.errors import SpaceError
from gmsearch.gmnet import VARIANTS, gmnet
from gmsearch.reading import Document
from gmsearch.space import NETWORK_AXES, STAGE_AXES
from gmsearch.space_file import SpaceFile, parse_space, read_space, read_space_data

SPACES = Path(__file__).parents[1] / "search_spaces"
ALL_AXES = (
    "stem_width, stem_activation, base_width, width, depth, ratio, kernel, downsampler, "
    "activation, placement, form, blocks"
)
ACTIVATIONS = "relu6, relu, gelu, silu, hardswish, sigmoid, hardsigmoid, tanh, identity"
# Line by line, so that a test can say which line the complaint must name.
GOOD = """\
name: small
counted_at: {resolution: 224, num_classes: 1000}
fixed:
  stem_width: 8
  width: 8
  depth: 1
  ratio: 2
  kernel: 3
  blocks: all
  downsampler: dense
per_network:
  activation: [relu6, gelu]
per_stage:
  placement: [none, expand]
  form:
    - [self, fc]
    - [self, fc]
    - [self, fc]
    - [self, norm]
"""


def refusal(folder, text):
    """What the file `space.yaml` of this text is refused with; the folder is left out of it."""
    path = folder / "space.yaml"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(SpaceError) as error:
        read_space(path)
    message = str(error.value)
    assert message.startswith(f"{path}:")
    assert "\n" not in message
    return message.removeprefix(f"{folder}/")


def changed(old, new):
    assert GOOD.count(old) == 1
    return GOOD.replace(old, new)


# What reads


def test_shipped_spaces_read_under_their_own_names():
    for path in sorted(SPACES.glob("*.yaml")):
        assert read_space(path).name == path.stem
    assert len(list(SPACES.glob("*.yaml"))) >= 3


def test_the_points_of_gmnet_are_the_published_variants():
    space = read_space(SPACES / "gmnet.yaml")
    assert list(space.points)[: len(VARIANTS)] == list(VARIANTS)
    for variant in VARIANTS:
        assert space.decode({"point": variant}) == gmnet(variant)


def test_every_option_of_a_file_is_an_option_of_its_space(tmp_path):
    path = tmp_path / "space.yaml"
    path.write_text(GOOD)
    space, data = read_space(path), yaml.safe_load(GOOD)
    assert read_space_data(path) == data
    assert (space.name, space.resolution, space.num_classes) == ("small", 224, 1000)
    options = {choice.name: list(choice.options) for choice in space.choices}
    expected = {"activation": data["per_network"]["activation"]}
    for stage in range(4):
        expected[f"stage{stage + 1}.placement"] = data["per_stage"]["placement"]
        expected[f"stage{stage + 1}.form"] = data["per_stage"]["form"][stage]
    assert options == expected
    assert space.fixed["depth"] == [1, 1, 1, 1]


def test_costs_are_counted_at_224_pixels_and_1000_classes_unless_told(tmp_path):
    path = tmp_path / "space.yaml"
    path.write_text(changed("counted_at: {resolution: 224, num_classes: 1000}\n", ""))
    space = read_space(path)
    assert (space.resolution, space.num_classes) == (224, 1000)


def test_anchors_and_aliases_read_as_what_they_stand_for(tmp_path):
    path = tmp_path / "space.yaml"
    path.write_text(
        changed("    - [self, fc]\n" * 3, "    - &gates [self, fc]\n" + "    - *gates\n" * 2)
    )
    plain = tmp_path / "plain.yaml"
    plain.write_text(GOOD)
    assert read_space(path) == read_space(plain)


# Wrong keys


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        (
            "per_network:",
            "per_netwrok:",
            "space.yaml:11: unknown key 'per_netwrok'; did you mean 'per_network'? "
            "allowed: name, counted_at, fixed, per_network, per_stage, points",
        ),
        (
            "resolution: 224",
            "resolutoin: 224",
            "space.yaml:2: counted_at: unknown key 'resolutoin'; did you mean 'resolution'? "
            "allowed: resolution, num_classes",
        ),
        (
            "  kernel: 3",
            "  kernal: 3",
            "space.yaml:8: fixed: unknown key 'kernal'; did you mean 'kernel'? "
            f"allowed: {ALL_AXES}",
        ),
        (
            "  activation: [relu6, gelu]",
            "  acts: [relu6, gelu]",
            f"space.yaml:12: per_network: unknown key 'acts'; allowed: {ALL_AXES}",
        ),
        (
            "  placement: [none, expand]",
            "  placements: [none, expand]",
            "space.yaml:14: per_stage: unknown key 'placements'; did you mean 'placement'? "
            f"allowed: {', '.join(STAGE_AXES)}",
        ),
    ],
)
def test_an_unknown_key_is_refused_with_its_line_and_the_nearest_known(tmp_path, old, new, message):
    assert refusal(tmp_path, changed(old, new)) == message


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        (
            "  kernel: 3\n",
            "  kernel: 3\n  kernel: 5\n",
            ":9: fixed: the key 'kernel' is given twice",
        ),
        ("name: small\n", "name: small\nname: b\n", ":2: the key 'name' is given twice"),
    ],
)
def test_a_key_that_is_given_twice_is_refused(tmp_path, old, new, message):
    assert refusal(tmp_path, changed(old, new)) == f"space.yaml{message}"


@pytest.mark.parametrize("key", ["3", "null", "true", "1.5", "2020-01-01", ".nan"])
def test_a_key_that_is_no_word_is_refused(tmp_path, key):
    message = refusal(tmp_path, changed("per_stage:", f"{key}: x\nper_stage:"))
    assert re.match(r"space\.yaml:13: .*(key|string)", message)
    message = refusal(tmp_path, changed("  kernel: 3", f"  {key}: x"))
    assert re.match(r"space\.yaml:8: fixed.*(key|string)", message)


def test_a_key_that_is_a_list_is_refused(tmp_path):
    message = refusal(tmp_path, changed("  kernel: 3", "  ? [a, b]\n  : 3"))
    assert message == "space.yaml:8: fixed: a key must be a plain word"


# Wrong values


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("  kernel: 3", "  kernel: 4", "8: fixed.kernel: 4; allowed: 3, 5, 7, 9"),
        (
            "  depth: 1",
            "  depth: true",
            "6: fixed.depth: True; allowed: a whole number from 1 to 64",
        ),
        (
            "  depth: 1",
            "  depth: one",
            "6: fixed.depth: 'one'; allowed: a whole number from 1 to 64",
        ),
        ("  depth: 1", "  depth: 1.0", "6: fixed.depth: 1.0; allowed: a whole number from 1 to 64"),
        ("  depth: 1", "  depth:", "6: fixed.depth: None; allowed: a whole number from 1 to 64"),
        (
            "  depth: 1",
            "  depth: [1, 2, [3], 4]",
            "6: fixed.depth: [3]; allowed: a whole number from 1 to 64",
        ),
        (
            "  depth: 1",
            "  depth: [1, 2, 3]",
            "6: fixed.depth: 3 values; give one, or 4, one for each stage",
        ),
        (
            "  stem_width: 8",
            "  stem_width: [8, 8, 8, 8]",
            "4: fixed.stem_width: [8, 8, 8, 8]; allowed: a whole number from 1 to 4096",
        ),
        (
            "[relu6, gelu]",
            "[relu6, glu]",
            f"12: per_network.activation: 'glu'; allowed: {ACTIVATIONS}",
        ),
        (
            "[relu6, gelu]",
            "[relu6, [gelu]]",
            f"12: per_network.activation: ['gelu']; allowed: {ACTIVATIONS}",
        ),
        (
            "[relu6, gelu]",
            "[]",
            "12: per_network.activation: the list of options is empty; give one at least",
        ),
        (
            "[relu6, gelu]",
            "relu6",
            "12: per_network.activation: a list of options is needed, not 'relu6'; "
            "a single value goes under fixed",
        ),
        (
            "[relu6, gelu]",
            "{relu6: gelu}",
            "12: per_network.activation: a list of options is needed, not {'relu6': 'gelu'}; "
            "a single value goes under fixed",
        ),
        (
            "[relu6, gelu]",
            "[relu6, gelu, relu6]",
            "12: per_network.activation: the option 'relu6' is given twice",
        ),
        (
            "    - [self, norm]",
            "    - [self, star]",
            "19: per_stage.form.3: 'star'; allowed: self, norm, dw, fc, twin, squeeze",
        ),
        (
            "    - [self, norm]",
            "    - []",
            "19: per_stage.form.3: the list of options is empty; give one at least",
        ),
        (
            "    - [self, norm]",
            "    - self",
            "19: per_stage.form.3: a list of options is needed, not 'self'; "
            "a single value goes under fixed",
        ),
        (
            "    - [self, norm]\n",
            "",
            "15: per_stage.form: 3 lists; give one list, or 4, one for each stage",
        ),
        (
            "num_classes: 1000",
            "num_classes: true",
            "2: counted_at.num_classes: input should be a valid integer, not True",
        ),
        (
            "resolution: 224",
            "resolution: 31",
            "2: counted_at.resolution: input should be greater than or equal to 32, not 31",
        ),
        ("name: small", "name: 3", "1: name: input should be a valid string, not 3"),
    ],
)
def test_a_wrong_value_is_refused_with_what_is_allowed(tmp_path, old, new, message):
    assert refusal(tmp_path, changed(old, new)) == f"space.yaml:{message}"


@pytest.mark.parametrize("section", ["counted_at", "fixed", "per_network", "per_stage", "points"])
def test_a_section_that_is_no_mapping_is_refused(tmp_path, section):
    for value in ("3", "[]", "", "word"):
        message = refusal(tmp_path, f"name: a\n{section}: {value}\n")
        assert message.startswith(f"space.yaml:2: {section}: a mapping is needed, not")


@pytest.mark.parametrize("name", ["a b", "a/b", "-a", "", "..", "é"])
def test_a_name_that_is_no_file_name_is_refused(tmp_path, name):
    message = refusal(tmp_path, changed("name: small", f"name: '{name}'"))
    assert message.startswith("space.yaml:1: name: ") and message.endswith(f"not {name!r}")


# Axes that do not fit together


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        (
            "  kernel: 3\n",
            "",
            "1: the axis 'kernel' is not given; put it under one of fixed, per_network, per_stage",
        ),
        (
            "  stem_width: 8\n",
            "",
            "1: the axis 'stem_width' is not given; "
            "put it under one of fixed, per_network, per_stage",
        ),
        (
            "per_stage:\n",
            "per_stage:\n  kernel: [3, 5]\n",
            "14: per_stage.kernel: is given twice, also under fixed",
        ),
        (
            "  width: 8\n",
            "  width: 8\n  base_width: 8\n",
            "1: both width and base_width are given; keep one",
        ),
        ("  width: 8\n", "", "1: neither width nor base_width is given"),
        (
            "per_stage:\n",
            "per_stage:\n  base_width: [8, 16]\n",
            "14: per_stage.base_width: is chosen once; put it under per_network",
        ),
        (
            "per_stage:\n",
            "per_stage:\n  stem_width: [8, 16]\n",
            "14: per_stage.stem_width: is chosen once; put it under per_network",
        ),
        (
            "per_stage:\n",
            "points: {a: {depth: 2}}\nper_stage:\n",
            "13: points: a space of points has no per_network or per_stage choices",
        ),
    ],
)
def test_axes_that_do_not_fit_together_are_refused(tmp_path, old, new, message):
    assert refusal(tmp_path, changed(old, new)) == f"space.yaml:{message}"


def test_a_space_without_choices_is_refused(tmp_path):
    fixed = "\n".join(
        f"  {axis}: 3" for axis in ("stem_width", "width", "depth", "ratio", "kernel")
    )
    fixed += "\n  activation: relu\n  placement: expand\n  form: self\n  blocks: all"
    message = refusal(tmp_path, f"name: none\nfixed:\n{fixed}\n  downsampler: dense\n")
    assert message == "space.yaml:1: nothing to choose: per_network and per_stage are empty"


def test_twin_where_no_gate_is_at_expand_is_refused(tmp_path):
    text = changed("[self, norm]", "[self, twin]").replace("[none, expand]", "[none, spatial]")
    assert refusal(tmp_path, text) == (
        "space.yaml:15: per_stage.form: 'twin' needs the placement 'expand', but stage 4 has only "
        "none, spatial; add 'expand' or drop 'twin'"
    )


def test_a_width_that_no_stage_can_have_is_refused(tmp_path):
    """The fourth stage is eight times as wide as `base_width`: 8 x 1025 is above 8192."""
    path = tmp_path / "space.yaml"
    path.write_text(changed("  width: 8", "  base_width: 1024"))
    assert read_space(path).draw(np.random.default_rng(0)).architecture.stages[3].width == 8192
    message = refusal(tmp_path, changed("  width: 8", "  base_width: 1025"))
    assert message == "space.yaml:5: fixed.base_width: 1025; allowed: a whole number from 1 to 1024"


@pytest.mark.parametrize(
    ("point", "message"),
    [
        ("{depth: 2}", "points.a: neither width nor base_width is given"),
        ("{width: 8, base_width: 8}", "points.a: both width and base_width are given; keep one"),
        ("{width: 8, kernel: 4}", "points.a.kernel: 4; allowed: 3, 5, 7, 9"),
        ("{width: 8, kernl: 3}", "points.a: unknown key 'kernl'; did you mean 'kernel'? allowed: "),
        (
            "{width: 8, form: twin, placement: output}",
            "points.a: form 'twin' at placement 'output': it needs the two projections of 'expand'",
        ),
        ("3", "points.a: a mapping is needed, not 3"),
    ],
)
def test_a_point_that_is_no_network_is_refused(tmp_path, point, message):
    fixed = "{stem_width: 8, depth: 1, ratio: 2, kernel: 3, downsampler: dense, activation: relu"
    fixed += ", placement: expand, form: self, blocks: all}"
    text = f"name: points\nfixed: {fixed}\npoints:\n  a: {point}\n"
    assert refusal(tmp_path, text).startswith(f"space.yaml:4: {message}")


# Files that are no YAML, or not of a space


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "space.yaml: the file is empty"),
        ("# nothing but a comment\n", "space.yaml: the file is empty"),
        ("a: 1\n  b: 2\n", "space.yaml:2: not valid YAML: mapping values are not allowed here"),
        ('name: "open\n', "space.yaml:2: not valid YAML: found unexpected end of stream"),
        ("\tname: small\n", "space.yaml:1: not valid YAML: found character '\\t' that cannot "),
        ("name: a\n---\nname: b\n", "space.yaml:2: not valid YAML: but found another document"),
        ("name: *nowhere\n", "space.yaml:1: not valid YAML: found undefined alias 'nowhere'"),
        ("name: a\0\n", "space.yaml: not valid YAML: unacceptable character #x0000"),
        ("- a\n- b\n", "space.yaml:1: a space is a mapping with the keys name, counted_at, fixed"),
        ("tiny", "space.yaml:1: a space is a mapping with the keys name, counted_at, fixed"),
        ("{}", "space.yaml:1: 'name' is missing"),
        ("name: !!python/name:os.system ''\n", "space.yaml:1: name: "),
        ("name: !!python/object/apply:os.getcwd []\n", "space.yaml:1: name: "),
        ("name: !!int abc\n", "space.yaml:1: name: 'abc' cannot be read"),
        ("name: !!bool abc\n", "space.yaml:1: name: 'abc' cannot be read"),
        ("name: !!timestamp abc\n", "space.yaml:1: name: 'abc' cannot be read"),
        ("name: !!int ''\n", "space.yaml:1: name: '' cannot be read"),
    ],
)
def test_a_file_that_is_no_space_is_refused(tmp_path, text, message):
    assert refusal(tmp_path, text).startswith(message)


def test_a_tag_of_python_is_refused_and_runs_nothing(tmp_path):
    made = tmp_path / "made"
    for text in (
        changed("name: small", f"name: !!python/object/apply:os.mkdir ['{made}']"),
        changed("fixed:", "fixed: !!python/object:gmsearch.recipe.Recipe"),
    ):
        refusal(tmp_path, text)
        assert not made.exists()


@pytest.mark.parametrize(
    "text",
    [
        "name: a\nfixed: &loop {depth: *loop}\n",
        "name: a\npoints: &loop [*loop]\n",
        "name: a\nfixed: " + "[" * 2000 + "]" * 2000 + "\n",
        "name: a\nfixed: {depth: 0x" + "f" * 5000 + "}\n",
    ],
    ids=["loop in a mapping", "loop in a list", "2000 deep", "a number of 6000 digits"],
)
def test_a_file_without_end_is_refused(tmp_path, text):
    refusal(tmp_path, text)


def test_a_file_that_is_not_there_is_refused_with_what_is(tmp_path):
    (tmp_path / "gated.yaml").write_text(GOOD)
    (tmp_path / "tiny.yaml").write_text(GOOD)
    for name, hint in (
        ("gatde.yaml", f"; did you mean {tmp_path}/gated.yaml?"),
        ("other", f"; {tmp_path} has: gated.yaml, tiny.yaml"),
        ("no/gated.yaml", f"; there is no folder {tmp_path}/no either"),
    ):
        with pytest.raises(SpaceError) as error:
            read_space(tmp_path / name)
        assert str(error.value) == f"{tmp_path / name}: no such file{hint}"


def test_a_folder_and_a_picture_are_refused(tmp_path):
    picture = tmp_path / "picture.png"
    picture.write_bytes(b"\x89PNG\r\n\xff")
    for path in (tmp_path, picture, picture / "gated.yaml"):
        with pytest.raises(SpaceError, match=f"^{re.escape(str(path))}: cannot be read: "):
            read_space(path)


# Any junk

KEYS = st.sampled_from([*SpaceFile.model_fields, "resolution", *NETWORK_AXES, *STAGE_AXES])
VALUES = (
    st.none()
    | st.booleans()
    | st.integers(-2, 9000)
    | st.floats()
    | st.dates()
    | st.text(max_size=4)
    | st.sampled_from(["self", "twin", "expand", "none", "relu6", "all", "dense"])
)
JUNK = st.recursive(
    VALUES,
    lambda inner: (
        st.lists(inner, max_size=5)
        | st.dictionaries(KEYS | st.text(max_size=3) | st.integers(0, 3), inner, max_size=8)
    ),
    max_leaves=20,
)
SECTION = st.dictionaries(KEYS | st.text(max_size=3), JUNK | VALUES | st.lists(VALUES), max_size=9)


def read_or_refuse(read):
    try:
        space = read()
    except SpaceError:
        return
    drawn = space.draw(Limited(0))
    assert drawn.architecture == space.decode(drawn.picks)


@settings(max_examples=300, deadline=None)
@given(
    JUNK
    | SECTION
    | st.fixed_dictionaries(
        {"name": st.just("a")},
        optional={
            section: SECTION
            for section in ("counted_at", "fixed", "per_network", "per_stage", "points")
        },
    )
)
def test_junk_raises_nothing_but_space_errors(document):
    read_or_refuse(lambda: parse_space(Document(Path("junk.yaml"), document, {}, SpaceError)))


@settings(max_examples=300, deadline=None)
@given(st.data())
def test_a_good_space_with_one_junk_value_raises_nothing_but_space_errors(data):
    document = yaml.safe_load(GOOD)
    inside = document
    section = data.draw(st.sampled_from(list(document)))
    if isinstance(document[section], dict) and data.draw(st.booleans()):
        inside = document[section]
        section = data.draw(st.sampled_from(list(inside)) | KEYS)
    inside[section] = data.draw(JUNK)
    read_or_refuse(lambda: parse_space(Document(Path("junk.yaml"), document, {}, SpaceError)))


@settings(max_examples=200, deadline=None)
@given(st.text(max_size=60) | st.text(alphabet="ab:-[]{}&*!?#|>%@' \n\t,0123", max_size=60))
def test_a_file_of_any_text_raises_nothing_but_space_errors(tmp_path_factory, text):
    path = tmp_path_factory.getbasetemp() / "junk.yaml"
    path.write_text(text, encoding="utf-8")
    read_or_refuse(lambda: read_space(path))
