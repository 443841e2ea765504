"""Surveys: figures of a space against enumeration, and an answer without torch."""

import json
import math
import os
import re
import subprocess
import sys
from itertools import product
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from gmsearch.architecture import Architecture
from gmsearch.cli import main
from gmsearch.errors import ArchitectureError
from gmsearch.space import format_size
from gmsearch.space_file import read_space
from gmsearch.survey import NUM_DRAWS, shares, survey, to_dict, to_text, wilson_interval

SPACES = Path(__file__).parents[1] / "search_spaces"


@pytest.fixture(scope="module")
def tiny():
    return read_space(SPACES / "tiny.yaml")


@pytest.fixture(scope="module")
def settings(tiny):
    """All settings of `tiny` that are a network: (picks, MACs)."""
    names = [choice.name for choice in tiny.choices]
    found = []
    for options in product(*(choice.options for choice in tiny.choices)):
        picks = dict(zip(names, options, strict=True))
        try:
            found.append((picks, tiny.cost(tiny.decode(picks)).macs))
        except ArchitectureError:
            continue
    return found


# The interval


@pytest.mark.parametrize(("hits", "draws"), [(0, 10), (1, 10), (5, 10), (37, 4000), (4000, 4000)])
def test_the_ends_of_the_interval_are_1_96_deviations_from_the_share(hits, draws):
    """Wilson's interval holds the shares p that a test at p does not reject: its ends solve
    |share - p| = 1.96 sqrt(p(1-p)/draws).
    """
    share, low, high = wilson_interval(hits, draws)
    assert share == hits / draws
    for end in (low, high):
        deviation = math.sqrt(end * (1 - end) / draws)
        assert abs(share - end) == pytest.approx(1.96 * deviation, abs=1e-9)
    assert 0 <= low <= share + 1e-12 and share - 1e-12 <= high <= 1


@pytest.mark.parametrize("draws", [30, 100])
def test_the_interval_covers_the_true_share_95_times_in_100(draws):
    """Summed over the binomial distribution, for shares from 2 to 98 per cent."""
    coverages = []
    for true in (percent / 100 for percent in range(2, 99)):
        coverage = 0.0
        for hits in range(draws + 1):
            _, low, high = wilson_interval(hits, draws)
            if low <= true <= high:
                chance = math.comb(draws, hits) * true**hits * (1 - true) ** (draws - hits)
                coverage += chance
        coverages.append(coverage)
    assert sum(coverages) / len(coverages) == pytest.approx(0.95, abs=0.01)
    assert min(coverages) > 0.85


# Figures


@pytest.mark.parametrize("budget", [8_000_000, 13_000_000, 20_000_000, 40_000_000])
def test_the_share_within_a_budget_is_that_of_enumeration(tiny, settings, budget):
    exact = sum(macs <= budget for _, macs in settings) / len(settings)
    share, low, high = survey(tiny, budget).feasible
    assert abs(share - exact) <= 4 * math.sqrt(exact * (1 - exact) / NUM_DRAWS)
    assert low - 1e-12 <= share <= high + 1e-12


@pytest.mark.parametrize("budget", [7_700_000, 10_000_000, 20_000_000])
def test_a_budget_rules_out_the_options_that_no_network_within_it_takes(tiny, settings, budget):
    ruled_out = set()
    for choice in tiny.choices:
        for option in choice.options:
            smallest = min(macs for picks, macs in settings if picks[choice.name] == option)
            if smallest > budget:
                ruled_out.add((choice.name, option, smallest))
    found = survey(tiny, budget).ruled_out
    assert set(found) == ruled_out and len(found) == len(ruled_out)


def test_extremes_and_number_are_those_of_enumeration(tiny, settings):
    result = survey(tiny)
    assert result.smallest == min(macs for _, macs in settings)
    assert result.largest == max(macs for _, macs in settings)
    assert result.num_networks == len({tiny.decode(picks).id for picks, _ in settings})
    assert (result.budget, result.feasible, result.ruled_out) == (None, None, [])


@pytest.mark.parametrize("name", ["tiny", "gmnet", "gated"])
def test_the_histogram_holds_every_draw(name):
    space = read_space(SPACES / f"{name}.yaml")
    report = to_dict(survey(space))
    assert sum(report["histogram"]["counts"]) == report["num_draws"] == NUM_DRAWS
    edges = report["histogram"]["edges"]
    assert edges[0] <= report["smallest_macs"] and report["largest_macs"] <= edges[-1]


def test_samples_lie_within_the_budget_and_read_back(tiny):
    report = to_dict(survey(tiny, 10_000_000))
    assert report["samples"]
    for sample in report["samples"]:
        architecture = Architecture.from_dict(sample["architecture"])
        assert architecture.id == sample["id"]
        assert tiny.cost(architecture).macs == sample["macs"] <= 10_000_000


def test_a_seed_surveys_the_same_again(tiny):
    once, again, other = (to_dict(survey(tiny, 10_000_000, seed=seed)) for seed in (1, 1, 2))
    assert once == again != other


def test_the_text_says_what_the_figures_say(tiny):
    result = survey(tiny, 10_000_000)
    text = to_text(result)
    share, low, high = (100 * value for value in result.feasible)
    assert f"{result.num_networks:,} networks, from {format_size(result.smallest)} to " in text
    assert (
        f"budget 10M: {share:.1f} % of the settings fit "
        f"(95 % interval {low:.1f} to {high:.1f}, 4,000 drawn)"
    ) in text
    assert result.ruled_out
    for name, option, macs in result.ruled_out:
        line = f"  {name} = {option}: the smallest network with it has {format_size(macs)} MACs"
        assert line in text.splitlines()
    for architecture in result.samples:
        assert architecture.id in text and architecture.in_words() in text
    assert "◀ budget" in text and "◀ budget" not in to_text(survey(tiny))


# The command


def test_the_command_answers_in_json_and_agrees_with_the_survey():
    command = [sys.executable, "-m", "gmsearch", "space", str(SPACES / "gated.yaml")]
    done = subprocess.run([*command, "--budget", "300M", "--json"], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    expected = to_dict(survey(read_space(SPACES / "gated.yaml"), 300_000_000))
    assert json.loads(done.stdout) == json.loads(json.dumps(expected))


def test_the_command_answers_in_words_with_the_interval():
    command = [sys.executable, "-m", "gmsearch", "space", str(SPACES / "tiny.yaml")]
    done = subprocess.run([*command, "--budget", "10M"], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("space 'tiny': 516 networks, from ")
    assert "(95 % interval " in done.stdout


def test_the_command_needs_neither_torch_nor_ray_nor_optuna():
    program = f"""
import sys
from gmsearch.cli import main
assert main(["space", {str(SPACES / "tiny.yaml")!r}, "--budget", "300M", "--json"]) == 0
heavy = {{"torch", "torchvision", "timm", "ray", "optuna", "matplotlib", "pandas"}}
print(sorted(heavy & set(sys.modules)), file=sys.stderr)
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "[]\n")
    assert json.loads(done.stdout)["name"] == "tiny"


# The picture


def test_the_share_curve_counts_the_draws_within_each_budget(tiny):
    result = survey(tiny)
    budgets = np.unique([1, *result.macs, *(result.macs - 1), 10**9])
    found = shares(result, budgets)
    assert found.shape == (len(budgets), 3)
    for budget, (share, low, high) in zip(budgets.tolist(), found.tolist(), strict=True):
        count = sum(1 for macs in result.macs.tolist() if macs <= budget)
        assert share == count / NUM_DRAWS
        for end in {low, high} - {0.0, 1.0}:  # as Wilson has it, see above
            deviation = math.sqrt(end * (1 - end) / NUM_DRAWS)
            assert abs(share - end) == pytest.approx(1.96 * deviation, abs=1e-9)
        assert low <= share + 1e-12 and share - 1e-12 <= high


@pytest.mark.parametrize("words", [[], ["--budget", "10M"], ["--json"]])
def test_the_command_draws_a_png(tmp_path, capsys, words):
    file = tmp_path / "space.png"
    assert main(["space", str(SPACES / "tiny.yaml"), "--plot", str(file), *words]) == 0
    with Image.open(file) as image:
        image.load()
        assert image.format == "PNG" and min(image.size) > 600
        assert len(image.convert("RGB").getcolors(1 << 20)) > 10
    assert os.listdir(tmp_path) == ["space.png"]
    out = capsys.readouterr().out
    assert json.loads(out) if "--json" in words else out.endswith(f"\nwrote {file}\n")


@pytest.mark.parametrize(
    ("name", "message"),
    [
        (
            "no/space.png",
            "--plot .*no/space.png: there is no folder .*no; make it, or give another place",
        ),
        ("", "--plot .*: a PNG is drawn; give a file such as space.png"),
        ("space.svg", "--plot .*space.svg: a PNG is drawn; give a file such as space.png"),
    ],
)
def test_a_picture_that_cannot_be_written_is_one_line(tmp_path, capsys, name, message):
    assert main(["space", str(SPACES / "tiny.yaml"), "--plot", str(tmp_path / name)]) == 2
    said = capsys.readouterr()
    assert re.fullmatch(f"gmsearch: {message}\n", said.err) and said.out == ""
    assert os.listdir(tmp_path) == []


def test_what_the_smallest_space_says_of_itself(tiny):
    first = (SPACES / "tiny.yaml").read_text(encoding="utf-8").splitlines()[0]
    result = survey(tiny, None)
    span = f"{format_size(result.smallest)} to {format_size(result.largest)} MACs"
    assert f"{result.num_networks:,} networks of {span}" in first
