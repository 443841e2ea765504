"""Pictures show names as they are, and each figure the numbers that it is of."""

import xml.etree.ElementTree as ElementTree
from dataclasses import replace
from itertools import product
from pathlib import Path

import matplotlib
import numpy as np
import pandas as pd
import pytest
import torch
from made_runs import curve, make_run
from matplotlib.figure import Figure
from PIL import Image, ImageChops
from scipy.stats import binomtest

from gmsearch.band_accuracy import BandAccuracy, accuracies_figure
from gmsearch.band_picture import Line, bands_figure
from gmsearch.bias import Bias
from gmsearch.claims import HOLDS, Judged
from gmsearch.claims_figure import claims_of
from gmsearch.cli import main
from gmsearch.experiment import Experiment, make_settings
from gmsearch.figure_file import add_legend, new_figure, svg_of, write_png
from gmsearch.history import read_history
from gmsearch.palette import BLUE, ORANGE
from gmsearch.picture import front_picture, space_picture
from gmsearch.report.pictures import (
    band_effects_figure,
    growth_figure,
    learning_figure,
    objectives_figure,
)
from gmsearch.space_file import read_space, read_space_data
from gmsearch.spectra import BEFORE, StageSpectra
from gmsearch.spectra_figures import draw_inside
from gmsearch.survey import survey

pytestmark = pytest.mark.filterwarnings("ignore::optuna.exceptions.ExperimentalWarning")
TINY = Path(__file__).parents[1] / "search_spaces" / "tiny.yaml"
NAMES = (r"_p$\q$ <b>", r"\$ and $")


def front(name):
    said = {"name": "r", "data": name, "space": read_space_data(TINY), "trials": 3}
    experiment = make_settings(Experiment, {**said, "budget": 30_000_000, "sampler": "random"})
    return front_picture(experiment, [], None)


def growth(name):
    rows = [(run, i, 2.0 * i) for run in (name, "other") for i in (1, 2, 3)]
    return growth_figure(pd.DataFrame(rows, columns=["run", "epochs", "hypervolume"]))


def accuracies(name):
    top1 = {"raw": 60.0, "low12": 20.0, "high12": 30.0}
    said = {"id": "0", "data": "d", "resolution": 32, "split": "val", "num_images": 500}
    return accuracies_figure(
        [
            BandAccuracy(name=each, top1=top1, bias=Bias(1.0, 0.0, 2.0), **said)
            for each in (name, "other")
        ]
    )


def bands(name):
    epoch = {"epoch": 1, "bands": {"low12": 3.0, "high12": 4.0}}
    return bands_figure([Line(each, "red", [[epoch]]) for each in (name, "other")])


def inside(name):
    stage = StageSpectra(name)
    stage.add(BEFORE, torch.randn(2, 3, 16, 16, generator=torch.Generator().manual_seed(0)))
    return draw_inside(name, [stage])


def claims(name):
    judged = Judged(name, "b", "top1", HOLDS, 1.0, 0.5, 1.5, 0.01, None)
    return claims_of([judged], name)


def space(name):
    tiny = read_space(TINY)
    return space_picture(replace(survey(tiny), space=replace(tiny, name=name)))


def learning(name):
    rows = [(name, 0, "complete", e, 10.0 * e) for e in (1, 2)]
    rows += [("other", 1, "stopped", 1, 5.0)]
    return learning_figure(
        pd.DataFrame(rows, columns=["id", "number", "state", "epoch", "top1"]), [name]
    )


PICTURES = (front, growth, accuracies, bands, inside, claims, space)
OF_SEVERAL = (growth, accuracies, bands)  # each a line of its own in the legend


@pytest.mark.parametrize("picture", (*PICTURES, learning), ids=lambda each: each.__name__)
def test_axes_say_what_they_are_of(picture):
    figure = picture("a")
    across = [axes.get_xlabel() for axes in figure.axes] + [figure.get_supxlabel()]
    upwards = [axes.get_ylabel() for axes in figure.axes] + [figure.get_supylabel()]
    assert any(across) and (any(upwards) or picture is claims)  # whose rows have names


def test_curves_are_one_line_for_each_state_and_one_for_the_front():
    [axes] = learning("best").axes
    lines = {
        text.get_text(): handle
        for text, handle in zip(
            axes.get_legend().get_texts(), axes.get_legend().legend_handles, strict=True
        )
    }
    assert list(lines) == ["stopped early", "front"]
    drawn = [line.get_xydata().tolist() for line in axes.lines]
    assert drawn[0][:1] == [[1.0, 5.0]] and drawn[1][:2] == [[1.0, 10.0], [2.0, 20.0]]


def texts_of(svg: str) -> list[str]:
    """What a reader of the page reads, by another parser."""
    root = ElementTree.fromstring(svg)
    found = root.iter("{http://www.w3.org/2000/svg}text")
    return ["".join(each.itertext()) for each in found]


@pytest.mark.parametrize("picture", PICTURES, ids=lambda each: each.__name__)
@pytest.mark.parametrize("name", NAMES)
def test_names_are_drawn_as_they_are(tmp_path, picture, name):
    figure = picture(name)
    write_png(figure, tmp_path / "p.png")
    with Image.open(tmp_path / "p.png") as image:
        image.load()
        assert image.format == "PNG" and len(image.convert("RGB").getcolors(1 << 20)) > 10
    texts = texts_of(svg_of(figure))
    assert any(name in text for text in texts)
    assert not any("mathdefault" in text for text in texts)  # of tick labels
    if picture in OF_SEVERAL:
        [legend] = figure.legends or [axes.get_legend() for axes in figure.axes]
        assert [text.get_text() for text in legend.get_texts()] == [name, "other"]
        assert name in texts and "other" in texts


@pytest.mark.parametrize("name", [r"p$\q$", "_x", "$a$ and $b", "plain"])
def test_a_png_has_the_pixels_of_the_name(tmp_path, name):
    """As those of a figure without any of ours, in which each dollar is escaped by hand."""
    ours, theirs = new_figure(4, 3), Figure(figsize=(4, 3), layout="constrained")
    for figure, words in ((ours, name), (theirs, name.replace("$", r"\$"))):
        figure.subplots().set_title(words)
        figure.supxlabel(words)
    write_png(ours, tmp_path / "ours.png")
    theirs.savefig(tmp_path / "theirs.png", dpi=130)
    with Image.open(tmp_path / "ours.png") as one, Image.open(tmp_path / "theirs.png") as other:
        assert one.size == other.size
        assert ImageChops.difference(one.convert("RGB"), other.convert("RGB")).getbbox() is None
    assert matplotlib.rcParams["text.parse_math"]  # as it was, for others


def test_a_name_of_a_file_that_is_no_utf_8_is_drawn(tmp_path):
    name = b"caf\xe9".decode("utf-8", "surrogateescape")
    figure = accuracies(name)
    write_png(figure, tmp_path / "p.png")
    assert "caf?" in texts_of(svg_of(figure))


def test_a_legend_has_every_entry_and_none_is_no_legend():
    figure = new_figure(3, 3)
    axes = figure.subplots()
    lines = [axes.plot([0, 1], [0, i])[0] for i in range(4)]
    add_legend(axes, [])
    assert axes.get_legend() is None
    labels = ["_a", "", "_a", "$b"]
    add_legend(axes, zip(labels, lines, strict=True))
    assert [text.get_text() for text in axes.get_legend().get_texts()] == labels


def test_a_report_of_runs_with_dollars_in_their_paths(tmp_path):
    paths = [tmp_path / "a" / "r", tmp_path / r"a$\q$" / "r"]
    for seed, path in enumerate(paths):
        path.parent.mkdir()
        make_run(path, [60.0, 50.0, 40.0], seed=seed, data=r"packs/p$\q$")
    versus = [word for path in paths[1:] for word in ("--versus", str(path))]
    assert main(["report", str(paths[0]), *versus]) == 0
    for name in ("front", "hypervolume"):
        assert (paths[0] / "report" / f"{name}.png").stat().st_size > 10_000


@pytest.mark.parametrize("num_runs", [1, 8, 15, 21])
def test_no_two_runs_look_alike(num_runs):
    rows = [(f"run {i}", 1, float(i)) for i in range(num_runs)]
    [axes] = growth_figure(pd.DataFrame(rows, columns=["run", "epochs", "hypervolume"])).axes
    assert len({(line.get_color(), line.get_linestyle()) for line in axes.lines}) == num_runs


# The front in each accuracy

TOP1S = (70.0, 62.0, 66.0, 40.0, 63.0, 45.0, 30.0, 50.0)
HIGHS = (20.0, 44.0, 40.0, 60.0, 41.0, 42.0, 61.0, 38.0)
NUM_IMAGES = {"top1": 500, "high12": 150}


@pytest.fixture(scope="module")
def judged_twice(tmp_path_factory):
    """A search for top1 and high12, of which there are fewer images."""
    path = tmp_path_factory.mktemp("runs") / "r"
    folder, study = make_run(
        path, [], frequency=(12.0,), objectives=("top1", "macs", "high12"), num_minival=500
    )
    for top1, high in zip(TOP1S, HIGHS, strict=True):
        looked = {"bands": {"low12": 50.0, "high12": high}, "band_images": 150, "band_seconds": 1.0}
        number = study.ask().number
        study.report(number, [{**each, **looked} for each in curve(top1 / 2, top1)])
        study.tell(number)
    return read_history(folder.path)


@pytest.mark.parametrize(("place", "accuracy"), list(enumerate(NUM_IMAGES)))
def test_each_accuracy_has_the_intervals_of_its_own_images(judged_twice, place, accuracy):
    """By scipy's Wilson intervals."""
    axes = objectives_figure(judged_twice).axes[place]
    values = TOP1S if accuracy == "top1" else HIGHS
    expected = sorted(wilson(value, NUM_IMAGES[accuracy]) for value in values)
    bars = sorted(tuple(path.vertices[:, 1]) for path in axes.collections[0].get_paths())
    assert np.array(bars) == pytest.approx(np.array(expected), abs=0.01)
    assert axes.get_ylabel() == f"{accuracy} on minival, %"


def wilson(value, num_images):
    found = binomtest(round(value / 100 * num_images), num_images)
    return tuple(100 * end for end in found.proportion_ci(method="wilson"))


@pytest.mark.parametrize(("place", "accuracy"), list(enumerate(NUM_IMAGES)))
def test_a_dot_is_hollow_where_it_ties_in_that_accuracy(judged_twice, place, accuracy):
    """A point of the front is, whose interval has a neighbour's next to it within reach."""
    axes = objectives_figure(judged_twice).axes[place]
    front = sorted((r.figure(accuracy), r.macs / 1e6) for r in judged_twice.front)
    hollow = set()
    for (one, at), (other, there) in zip(front, front[1:], strict=False):
        if wilson(one, NUM_IMAGES[accuracy])[1] > wilson(other, NUM_IMAGES[accuracy])[0]:
            hollow |= {(at, one), (there, other)}
    drawn = {True: set(), False: set()}
    for dots in axes.collections[1:]:
        if dots.get_label() != "searched":
            assert set(map(tuple, dots.get_edgecolor())) <= {
                matplotlib.colors.to_rgba(colour) for colour in (BLUE, ORANGE)
            }
            is_hollow = bool((dots.get_facecolor() == 1).all())
            assert is_hollow == dots.get_label().endswith(": a tie")
            drawn[is_hollow] |= set(map(tuple, dots.get_offsets().tolist()))
    assert drawn[True] == hollow and 0 < len(hollow) < len(front)
    assert drawn[False] >= {(at, value) for value, at in front} - hollow


def test_the_legend_has_what_any_panel_has(judged_twice):
    figure = objectives_figure(judged_twice)
    drawn = {dots.get_label() for axes in figure.axes for dots in axes.collections[1:]}
    [legend] = figure.legends
    assert {text.get_text() for text in legend.get_texts()} == drawn


# The effects on each band

BANDS = [f"{side}{radius}" for radius, side in product((12, 24, 36), ("low", "high"))]


def effects_on(bands):
    rows = [
        {"factor": "placement", "level": level, "band": band, "mean": 10.0 * BANDS.index(band) + i}
        for band in bands
        for i, level in enumerate(("none", "expand"))
    ]
    found = pd.DataFrame(rows)
    return found.assign(low=found["mean"] - 1, high=found["mean"] + 1, resolved=True)


@pytest.mark.parametrize("missing", [None, *BANDS])
def test_each_band_has_its_panel_whichever_is_missing(missing):
    figure = band_effects_figure(effects_on([band for band in BANDS if band != missing]))
    known = {}
    for axes in figure.axes:
        band, _, unknown = axes.get_title().removeprefix("on ").partition(": ")
        at = axes.get_subplotspec()
        assert BANDS.index(band) == 2 * at.colspan.start + at.rowspan.start
        known[band] = [
            x for line in axes.lines for x in line.get_xdata() if line.get_marker() == "o"
        ]
        assert (unknown == "not known") == (band == missing)
    for index, band in enumerate(BANDS):
        assert known[band] == ([] if band == missing else [10.0 * index, 10.0 * index + 1])
