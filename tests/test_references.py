"""The table of references, against pandas, timm's own list and rows checked by hand."""

import re
from importlib.resources import files

import pandas
import pytest
import timm

from gmsearch.errors import SettingsError
from gmsearch.references import (
    RECIPES,
    Reference,
    parse_references,
    published_macs,
    read_references,
    select,
)

HEADER = "model,img_size,top1,params_m,macs_m,flags,source\n"
NOT_A_SIZE = {"elastic", "192-288"}
# Flags that no recipe knows. A new flag is a decision: a row of RECIPES, or a line here.
OTHER_FLAGS = {
    # where the figures come from
    "published",
    "measured on ImageNet-val by timm",
    "reproduction",
    "img_size from timm",
    "MACs rounded to 0.1G",
    "early checkpoint, superseded",
    "mean of 5 seeds",
    # a training that is neither long nor GmNet's
    "100 ep",
    "300 ep",
    "300 ep (MobileFormer 450)",
    "300 ep AdamW",
    "64 GPU supernet",
    "64 GPU x 360 ep supernet",
    "fp32",
    "reparam",
    # what was not done
    "no distillation",
    "no distillation/NAS/reparam",
}
ACTIVATIONS = re.compile(r"acts \d+\.\d\dM")


@pytest.fixture(scope="module")
def table() -> pandas.DataFrame:
    with files("gmsearch").joinpath("references.csv").open() as file:
        return pandas.read_csv(file, dtype={"img_size": str})


def named(name: str) -> Reference:
    (reference,) = [each for each in read_references() if each.name == name]
    return reference


def example(macs: int | None, *flags: str, name: str = "net") -> Reference:
    return Reference(
        name=name, image_size=224, top1=70.0, params=None, macs=macs, flags=flags, source="a paper"
    )


def millions(value: float) -> int | None:
    return None if pandas.isna(value) else round(value * 1_000_000)


def test_pandas_reads_the_same_302_rows(table):
    references = read_references()
    assert len(references) == len(table) == 302
    for one, row in zip(references, table.itertuples(), strict=True):
        size = None if pandas.isna(row.img_size) or row.img_size in NOT_A_SIZE else row.img_size
        assert (one.name, one.image_size) == (row.model, size and int(size))
        assert (one.top1, one.source) == (row.top1, row.source)
        assert (one.params, one.macs) == (millions(row.params_m), millions(row.macs_m))
        assert ";".join(one.flags).replace("; ", ";") == row.flags.replace("; ", ";")


def test_the_table_is_read_once():
    assert read_references() is read_references()


@pytest.mark.parametrize(
    "name, image_size, top1, params, macs",
    [
        ("MobileNetV3-Large-1.0", 224, 75.2, 5_400_000, 217_000_000),
        ("EfficientNet-Lite0", 224, 75.1, 4_700_000, 407_000_000),
        ("EfficientNet-Lite3", None, 79.8, 8_200_000, 1_440_000_000),
        ("FBNet-A", 224, 73.3, 4_300_000, 249_400_000),
        ("MnasNet", 224, 74.0, None, 317_000_000),
        ("StarNet-S1", 224, 73.6, 2_900_000, 425_000_000),
        ("OFA flops@389M", None, 79.1, 8_400_000, 389_000_000),
        ("AlphaNet-A1", None, 78.94, None, 279_000_000),
        ("GmNet-S3", 224, 79.3, 7_800_000, 1_200_000_000),
        ("timm:mnasnet_small.lamb_in1k", 224, 66.204, 2_030_000, 70_000_000),
    ],
)
def test_rows_checked_by_hand(name, image_size, top1, params, macs):
    one = named(name)
    assert (one.image_size, one.top1, one.params, one.macs) == (image_size, top1, params, macs)


def test_every_row_has_a_source_and_macs_and_stands_once():
    references = read_references()
    assert all(one.source.strip() and one.macs is not None for one in references)
    assert len({(one.name, one.image_size) for one in references}) == len(references)


def test_every_flag_is_a_recipe_or_known_to_be_none():
    flags = {flag for one in read_references() for flag in one.flags}
    stated = frozenset().union(*RECIPES.values())
    assert not OTHER_FLAGS & stated
    quantities = {flag for flag in flags if ACTIVATIONS.fullmatch(flag)}
    assert flags - quantities == OTHER_FLAGS | stated


def test_gmnet_and_the_published_starnets_share_the_recipe():
    names = {one.name for one in read_references() if "same recipe" in one.recipes}
    published = {f"{family}-S{size}" for family in ("GmNet", "StarNet") for size in (1, 2, 3, 4)}
    assert names == published | {f"timm:starnet_s{size}.in1k" for size in (1, 2, 3, 4)}


@pytest.mark.parametrize(
    "name, recipes",
    [
        ("StarNet-S1", {"same recipe"}),
        ("GmNet-S3", {"same recipe"}),  # and "no distillation/NAS/reparam"
        ("MobileNetV3-Large-1.0", set()),
        ("FBNet-C", {"searched"}),
        ("AlphaNet-A1", {"searched", "distilled"}),
        ("AttentiveNAS-A1", {"searched", "distilled"}),
        ("OFA w/ PS (no finetune)", {"searched", "distilled"}),
        ("OFA flops@389M", {"searched", "distilled"}),
        ("ZenNet-400M-SE", {"searched", "distilled"}),  # a flag with a semicolon inside
        ("RegNetX-400MF", {"basic"}),
        ("timm:efficientnet_b1.ra4_e3600_r240_in1k", {"long"}),
        ("timm:mobilenetv4_conv_medium.e500_r256_in1k", {"long"}),
        ("timm:mobilenetv3_large_100.miil_in21k_ft_in1k", {"extra data"}),
        ("timm:hgnetv2_b0.ssld_stage1_in22k_in1k", {"extra data", "distilled"}),
    ],
)
def test_recipes_checked_by_hand(name, recipes):
    assert {recipe for one in read_references() if one.name == name for recipe in one.recipes} == (
        recipes
    )


def test_a_flag_that_denies_something_counts_for_nothing():
    assert not example(None, "no distillation", "no distillation/NAS/reparam", "300 ep").recipes
    denied = [one for one in read_references() if any(flag.startswith("no ") for flag in one.flags)]
    assert {recipe for one in denied for recipe in one.recipes} == {"same recipe", "basic"}


def test_long_is_what_says_at_least_500_epochs():
    for one in read_references():
        epochs = [int(flag.split()[0]) for flag in one.flags if re.match(r"\d+ ep", flag)]
        assert ("long" in one.recipes) == any(count >= 500 for count in epochs)


def test_weights_of_timm_whose_tag_names_another_data_set_had_extra_data():
    for one in read_references():
        other_data = re.search(r"in(12|21|22)k|jft", one.timm_tag or "")
        assert ("extra data" in one.recipes) == bool(other_data), one.name


def test_weights_of_timm_whose_name_tells_a_distillation_were_distilled():
    for one in read_references():
        if one.timm_tag:
            tells = re.search(r"dist|ssld", one.name)
            assert ("distilled" in one.recipes) == bool(tells), one.name


def test_timm_knows_every_model_and_tag():
    known = set(timm.list_models(pretrained=True))
    names = {one.name: (one.timm_name, one.timm_tag) for one in read_references()}
    of_timm = {f"{name}.{tag}" for name, tag in names.values() if name}
    assert of_timm <= known
    assert of_timm == {name.removeprefix("timm:") for name in names if name.startswith("timm:")}


def test_a_dot_in_another_name_is_no_tag():
    one = named("RepViT-M0.9 (300e)")
    assert (one.timm_name, one.timm_tag) == (None, None)


@pytest.mark.parametrize(
    "macs, kept",
    [
        (None, [100, 200, 300, None]),
        ((None, None), [100, 200, 300]),
        ((100, 300), [100, 200, 300]),
        ((101, 299), [200]),
        ((None, 200), [100, 200]),
        ((200, None), [200, 300]),
        ((200, 200), [200]),
        ((300, 100), []),
    ],
)
def test_both_ends_of_a_macs_range_belong_to_it(macs, kept):
    references = [example(count) for count in (300, None, 100, 200)]
    assert [one.macs for one in select(references, macs=macs)] == kept


def test_a_selection_is_what_its_words_say_and_sorted():
    chosen = select(
        read_references(), recipe="searched", without=["distilled"], macs=(None, 300_000_000)
    )
    by_hand = [
        one
        for one in read_references()
        if "searched" in one.flags
        and not any("distill" in flag for flag in one.flags)
        and one.macs <= 300_000_000
    ]
    assert chosen == sorted(by_hand, key=lambda one: one.macs) and len(chosen) > 5


def test_a_selection_leaves_out_every_recipe_it_is_told_to():
    left = select(read_references(), without=iter(["distilled", "extra data", "long"]))
    assert all(one.recipes <= {"same recipe", "searched", "basic"} for one in left)
    left_out = [one for one in read_references() if one not in left]
    assert left_out and all(one.recipes & {"distilled", "extra data", "long"} for one in left_out)


def test_equal_macs_keep_the_order_of_the_table():
    references = [example(5, name=name) for name in ("b", "a", "c")]
    assert [one.name for one in select(references)] == ["b", "a", "c"]


@pytest.mark.parametrize("words", [{"recipe": "distiled"}, {"without": ["long", "distiled"]}])
def test_an_unknown_recipe_is_refused_with_the_allowed_ones(words):
    with pytest.raises(SettingsError) as error:
        select([], **words)
    assert str(error.value) == (
        "recipe is 'distiled'; allowed: same recipe, distilled, extra data, searched, long, basic"
    )


def test_published_macs_are_of_that_model_at_that_size():
    rows = published_macs("mobilenetv3_large_100", 224)
    assert [one.timm_tag for one in rows] == [
        "ra_in1k",
        "ra4_e3600_r224_in1k",
        "miil_in21k_ft_in1k",
    ]
    assert {one.macs for one in rows} == {230_000_000}
    assert [one.macs for one in published_macs("mobilenetv3_large_100", 256)] == [290_000_000]
    assert published_macs("mobilenetv3_large_100", 192) == []
    assert published_macs("mobilenetv3_large", 224) == []


GOOD = "net,224,70,1.5,100,published,a paper\n"


@pytest.mark.parametrize(
    "bad, reason",
    [
        ("net,224,70,1.5,100,published\n", "6 values; expected 7"),
        ("net,224,70,1.5,100,published,a paper,more\n", "8 values; expected 7"),
        ("net,224px,70,1.5,100,published,a paper\n", "img_size is '224px'; allowed: "),
        ("net,0,70,1.5,100,published,a paper\n", "img_size is '0'; allowed: "),
        ("net,224,,1.5,100,published,a paper\n", "could not convert string to float"),
        ("net,224,170,1.5,100,published,a paper\n", "top1 is 170; allowed: above 0, at most 100"),
        ("net,224,70,-1,100,published,a paper\n", "params_m is -1; allowed: above 0"),
        ("net,224,70,1.5,nan,published,a paper\n", "macs_m is nan; allowed: above 0"),
        ("net,224,70,1.5,inf,published,a paper\n", "macs_m is inf; allowed: above 0"),
        (",224,70,1.5,100,published,a paper\n", "no model"),
        ("net,224,70,1.5,100,,a paper\n", "no flags"),
        ("net,224,70,1.5,100,published, \n", "no source"),
    ],
)
def test_a_malformed_row_is_named_by_its_number(bad, reason):
    with pytest.raises(ValueError, match=rf"^references\.csv, row 3: {re.escape(reason)}"):
        parse_references(HEADER + GOOD + bad + GOOD)


def test_other_columns_are_refused():
    with pytest.raises(ValueError, match=r"^references\.csv, row 1: columns"):
        parse_references(HEADER.replace("macs_m", "flops") + GOOD)
