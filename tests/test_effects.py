"""Effects: intervals against studies with known effects, least squares, and meagre runs."""

import math
from dataclasses import replace
from itertools import combinations
from pathlib import Path

import numpy as np
import pytest

from gmsearch.architecture import Architecture, Stage
from gmsearch.effects import Contrast, Effects, effects_of
from gmsearch.network import Peer
from gmsearch.record import TrialRecord
from gmsearch.space_file import read_space

SPACE = Path(__file__).parents[1] / "search_spaces" / "gated.yaml"
NOISE = 1.5
# Points of top1 of a level in all stages; what is not named has no effect.
KNOWN = {
    "placement": {"none": -3.0, "spatial": -1.0, "expand": 1.5},
    "activation": {"relu6": 1.0, "gelu": 0.8, "silu": 0.8, "tanh": -1.5, "identity": -4.0},
    "blocks": {"all": 0.5, "last": -0.5},
    "width": 2.0,  # per doubling
    "depth": 1.0,
    "kernel": 0.3,  # per 2 px
}
NULL = ("form", "downsampler", "ratio", "stem width")
SIZES = ("width", "depth", "ratio", "kernel", "stem width")
STRONG = {
    **KNOWN,
    "form": {"self": 2.0, "norm": -1.0, "dw": 1.0, "fc": -2.0, "twin": 1.5, "squeeze": -1.5},
    "downsampler": {"dense": 2.0, "separable": -2.0},
    "blocks": {"all": 2.0, "last": -2.0},
}


@pytest.fixture(scope="module")
def networks() -> list[tuple[Architecture, int]]:
    """A thousand networks of the gate space with their MACs."""
    space = read_space(SPACE)
    rng = np.random.default_rng(5)
    drawn = [space.draw(rng).architecture for _ in range(1000)]
    return [(network, space.cost(network).macs) for network in drawn]


def expected(network: Architecture, macs: int, known: dict) -> float:
    """The top1 of a network without noise: a curve in MACs and the known effects."""
    top1 = 60 + 8 * math.tanh(math.log2(macs / 1e8) / 2)
    for stage in network.stages:
        gates = ("form", "blocks") if stage.placement != "none" else ()
        for factor in ("placement", "activation", "downsampler", *gates):
            top1 += known.get(factor, {}).get(getattr(stage, factor), 0.0) / 4
        top1 += known.get("width", 0.0) * math.log2(stage.width) / 4
        top1 += known.get("kernel", 0.0) * stage.kernel / 8
    return top1 + known.get("depth", 0.0) * math.log2(sum(s.depth for s in network.stages))


def record(number: int, network: Architecture, macs: int, top1: float | None) -> TrialRecord:
    curve = [] if top1 is None else [{"top1": top1, "seconds": 1.0}]
    return TrialRecord(
        number, network.id, "complete", network, macs, params=1, activations=1, curve=curve
    )


def study(networks, size: int, seed: int, known: dict = KNOWN, noise: float = NOISE):
    """A study of networks drawn at random whose effects are known."""
    rng = np.random.default_rng([seed, size])
    chosen = rng.choice(len(networks), size, replace=size > len(networks))
    return [
        record(n, *networks[i], expected(*networks[i], known) + rng.normal(0, noise))
        for n, i in enumerate(chosen)
    ]


def truth(contrast: Contrast, known: dict = KNOWN) -> float:
    """What a contrast is; the known effects of form and blocks are 0 on average, so that a gate is
    its placement.
    """
    if contrast.factor in SIZES:
        return known.get(contrast.factor, 0.0) * (1 if contrast.better == "larger" else -1)
    effects = known.get(contrast.factor, {})
    return effects.get(contrast.better, 0.0) - effects.get(contrast.worse, 0.0)


# The intervals


def rates(networks, size: int, repetitions: int) -> tuple[float, float]:
    """The coverage of the intervals, and the rate of contrasts resolved where there is none."""
    covered, false = [], []
    for seed in range(repetitions):
        for contrast in effects_of(study(networks, size, seed), seed).contrasts:
            covered.append(contrast.low <= truth(contrast) <= contrast.high)
            if contrast.factor in NULL:
                false.append(contrast.resolved)
    return sum(covered) / len(covered), sum(false) / len(false)


@pytest.mark.parametrize("size", [30, 100, 400])
def test_the_intervals_hold_known_effects_95_times_in_100(networks, size):
    coverage, false = rates(networks, size, repetitions=12)
    assert 0.90 <= coverage <= 0.99
    assert false <= 0.05


@pytest.mark.slow
@pytest.mark.parametrize("size", [30, 100, 400])
def test_the_intervals_hold_known_effects_in_many_studies(networks, size):
    coverage, false = rates(networks, size, repetitions=200)
    assert 0.92 <= coverage <= 0.98
    assert false <= 0.04


@pytest.mark.parametrize(
    ("size", "repetitions"), [(60, 40), pytest.param(400, 200, marks=pytest.mark.slow)]
)
def test_a_study_without_effects_says_that_nothing_is_resolved(networks, size, repetitions):
    """In 95 of 100, by all of its contrasts: with 40 studies, 5 are more than 2.5 deviations."""
    studies = [
        effects_of(study(networks, size, seed, known={}), seed) for seed in range(repetitions)
    ]
    false = sum(bool(found.resolved()) for found in studies)
    assert len(studies[0].contrasts) == 66 and false <= max(5, 0.08 * repetitions)


def test_what_only_baselines_have_otherwise_is_not_told(networks):
    """All searched networks have one kernel; the baselines have another, and 8 points more."""
    records = study(networks, 60, seed=1)
    for n, r in enumerate(records):
        kernel, gift, name = (9, 8.0, "GmNet") if n < 2 else (3, 0.0, None)
        stages = tuple(replace(stage, kernel=kernel) for stage in r.network.stages)
        network = replace(r.network, stages=stages)
        top1 = r.top1 + gift
        records[n] = replace(record(n, network, r.macs, top1), baseline=name)
    found = effects_of(records)
    told = {effect.factor for effect in found.levels}
    assert "kernel" not in told and {"width", "activation", "form"} <= told
    assert {i.factor for i in found.importances} == told == {c.factor for c in found.contrasts}


@pytest.mark.slow
def test_few_trials_resolve_next_to_nothing_that_is_not_there(networks):
    for size in (5, 6, 8, 12, 20):
        resolved = [
            contrast.resolved
            for seed in range(100)
            for contrast in effects_of(study(networks, size, seed, known={}), seed).contrasts
        ]
        assert sum(resolved) / len(resolved) <= 0.03


def test_more_trials_make_narrower_intervals(networks):
    halves = []
    for size in (10, 40, 200, 1000):
        contrasts = effects_of(study(networks, size, seed=1)).contrasts
        halves.append(np.mean([c.high - c.low for c in contrasts]) / 2)
    assert halves == sorted(halves, reverse=True)
    assert halves[0] > 4 * halves[-1]


def test_with_many_trials_it_is_least_squares(networks):
    """A design matrix of another make: dummy shares without the first level, and raw powers."""
    records = study(networks, 1000, seed=3, known=STRONG)
    stages = [[r.network.stages[i] for i in range(4)] for r in records]
    columns = {("one", ""): np.ones(len(records))}
    macs = np.log([r.macs / 1e8 for r in records])
    columns |= {("macs", "1"): macs, ("macs", "2"): macs**2}
    levels = {}
    for factor in ("placement", "activation", "downsampler", "form", "blocks"):
        gates = factor in ("form", "blocks")
        levels[factor] = sorted({getattr(s, factor) for row in stages for s in row})
        for level in levels[factor]:
            columns[factor, level] = np.array(
                [
                    sum(
                        getattr(s, factor) == level and not (gates and s.placement == "none")
                        for s in row
                    )
                    / 4
                    for row in stages
                ]
            )
    # Against the first level; the sum over the forms says which stages have a gate, as placements.
    kept = [key for key in columns if key[0] not in levels or key[1] != levels[key[0]][0]]
    of_row = {
        "width": lambda row: np.mean([math.log2(s.width) for s in row]),
        "depth": lambda row: math.log2(sum(s.depth for s in row)),
        "ratio": lambda row: np.mean([math.log2(s.ratio) for s in row]),
        "kernel": lambda row: np.mean([s.kernel / 2 for s in row]),
    }
    sizes = {factor: np.array([of(row) for row in stages]) for factor, of in of_row.items()}
    sizes["stem width"] = np.log2([r.network.stem_width for r in records])
    matrix = np.column_stack([columns[key] for key in kept] + [sizes[f] for f in SIZES])
    solution = np.linalg.lstsq(matrix, np.array([r.top1 for r in records]))[0]
    found = dict(zip([*kept, *((f, "larger") for f in SIZES)], solution, strict=True))
    compared = 0
    for contrast in effects_of(records).contrasts:
        exact = found.get((contrast.factor, contrast.better), 0.0)
        exact -= found.get((contrast.factor, contrast.worse), 0.0)
        if contrast.factor == "placement" and "none" in (contrast.better, contrast.worse):
            continue  # its meaning hangs on the coding of form and blocks
        if contrast.factor in STRONG:
            assert abs(contrast.mean - exact) < 0.3 * (contrast.high - contrast.low) / 2
            compared += 1
    assert compared > 50


def test_a_gate_is_told_at_the_average_of_forms_and_blocks(networks):
    """So `none` against a placement does not hang on which form happens to be the first."""
    found = effects_of(study(networks, 1000, seed=4, known=STRONG, noise=0.1)).contrasts
    gate = [c for c in found if c.factor == "placement" and c.worse == "none"]
    assert len(gate) == 3
    for contrast in gate:
        assert contrast.mean == pytest.approx(truth(contrast, STRONG), abs=0.5)


# What is in the answer


def test_importance_says_which_factors_matter(networks):
    found = effects_of(study(networks, 1000, seed=6))
    shares = {importance.factor: importance.share for importance in found.importances}
    assert list(shares)[:2] == ["placement", "activation"]
    assert list(shares.values()) == sorted(shares.values(), reverse=True)
    assert sum(shares.values()) <= 1
    assert all(shares[factor] < 0.02 for factor in NULL)
    assert all(0 <= i.low <= i.share <= i.high <= 1 for i in found.importances)
    assert found.noise == pytest.approx(NOISE, abs=0.2)


def test_levels_are_deviations_from_the_average_of_their_factor(networks):
    found = effects_of(study(networks, 200, seed=7))
    for factor in ("placement", "form", "activation", "blocks", "downsampler"):
        of_factor = [effect for effect in found.levels if effect.factor == factor]
        means = {effect.level: effect.mean for effect in of_factor}
        assert sum(means.values()) == pytest.approx(0, abs=1e-9)
        assert all(e.low < e.mean < e.high and 0 < e.num_networks <= 200 for e in of_factor)
        of_factor = [c for c in found.contrasts if c.factor == factor]
        assert {frozenset((c.better, c.worse)) for c in of_factor} == {
            frozenset(pair) for pair in combinations(means, 2)
        }
        for contrast in of_factor:
            difference = means[contrast.better] - means[contrast.worse]
            assert contrast.mean == pytest.approx(difference, abs=1e-9) and contrast.mean >= 0
    units = {effect.factor: effect.level for effect in found.levels if effect.factor in SIZES}
    assert units == {f: "per 2 px" if f == "kernel" else "per doubling" for f in SIZES}


def test_words_say_what_the_intervals_allow(networks):
    found = effects_of(study(networks, 400, seed=8))
    resolved = found.resolved()
    assert [c.mean for c in resolved] == sorted((c.mean for c in resolved), reverse=True)
    assert all(c.low > 0 for c in resolved)
    lines = found.in_words()
    assert sum(line.startswith("activation ") for line in lines) == 3
    assert any(line.startswith("width: +") and line.endswith("per doubling") for line in lines)
    (last,) = [line for line in lines if line.startswith("not resolved by this run: ")]
    unresolved = set(last.partition(": ")[2].split(", "))
    assert unresolved == {i.factor for i in found.importances} - {c.factor for c in resolved}


@pytest.mark.parametrize(
    ("contrast", "words"),
    [
        (
            Contrast("activation", "relu6", "gelu", 0.83, 0.5, 1.1, True),
            "activation relu6 over gelu: +0.8 ± 0.3 points",
        ),
        (
            Contrast("kernel", "smaller", "larger", 0.4, 0.02, 0.78, True),
            "kernel: -0.40 ± 0.38 points per 2 px",
        ),
        (
            Contrast("width", "larger", "smaller", 0.02, 0.01, 0.03, True),
            "width: +0.02 ± 0.01 points per doubling",
        ),
    ],
)
def test_a_contrast_in_words(contrast, words):
    assert contrast.in_words() == words


def test_what_is_not_resolved_is_said_to_be_so():
    unresolved = Effects((), (), (Contrast("form", "self", "dw", 1.0, -0.1, 2.1, False),), 1.0, 9)
    assert unresolved.resolved() == () and unresolved.in_words() == ()


def test_the_answer_hangs_on_the_seed_alone(networks):
    records = study(networks, 40, seed=9)
    shuffled = [records[i] for i in np.random.default_rng(0).permutation(len(records))]
    assert effects_of(records, seed=2) == effects_of(records, seed=2) == effects_of(shuffled, 2)
    first, second = effects_of(records, seed=2), effects_of(records, seed=3)
    assert first != second
    for one, other in zip(first.levels, second.levels, strict=True):
        assert one.mean == pytest.approx(other.mean, abs=0.15 * (one.high - one.low))


def test_points_of_top1_scale(networks):
    """Ten times the differences are ten times the effects: the priors follow the run."""
    records = study(networks, 60, seed=10)
    larger = [record(r.number, r.network, r.macs, 10 * r.top1 - 500) for r in records]
    for one, ten in zip(effects_of(records).levels, effects_of(larger).levels, strict=True):
        assert ten.high - ten.low == pytest.approx(10 * (one.high - one.low), rel=1e-6)


# Runs that say little


@pytest.mark.parametrize("size", [0, 1, 2, 3, 4])
def test_a_run_of_a_few_trials_says_nothing(networks, size):
    assert effects_of(study(networks, size, seed=11)) is None


def test_five_trials_say_that_they_say_nothing(networks):
    found = effects_of(study(networks, 5, seed=11))
    assert found.num_networks == 5
    assert found.resolved() == ()
    assert all("not resolved" in line for line in found.in_words())


def test_one_network_many_times_says_nothing(networks):
    network, macs = networks[0]
    assert effects_of([record(n, network, macs, 50.0 + n % 3) for n in range(20)]) is None


def test_a_repeated_network_counts_once(networks):
    records = study(networks, 30, seed=12)
    assert effects_of(records * 2).num_networks == effects_of(records).num_networks


@pytest.mark.parametrize("top1", [0.0, 10.0, 71.3])
def test_equal_top1_resolves_nothing(networks, top1):
    records = [record(n, *networks[n], top1) for n in range(40)]
    found = effects_of(records)
    assert found.resolved() == ()
    assert all(abs(effect.mean) < 0.05 for effect in found.levels)


def test_without_noise_the_effects_are_exact(networks):
    found = effects_of(study(networks, 1000, seed=13, noise=0.0))
    strong = [c for c in found.contrasts if c.factor == "placement"]
    assert all(c.mean == pytest.approx(truth(c), abs=0.3) for c in strong)


def test_trials_without_a_result_are_passed_over(networks):
    records = study(networks, 30, seed=14)
    more = [
        record(30, *networks[1], math.nan),
        record(31, *networks[2], math.inf),
        record(32, *networks[3], None),
        TrialRecord(33, "x", "failed", *networks[4], 1, 1, curve=[{"top1": 1.0}]),
        TrialRecord(34, "resnet18", "complete", Peer("resnet18"), 10**9, 1, 1, curve=[{"top1": 9}]),
    ]
    assert effects_of(records + more) == effects_of(records)


def plain(activation: str = "relu6", width: int = 16, depth: int = 2) -> Architecture:
    stages = (Stage(width=width, depth=depth, ratio=2, activation=activation),) * 4
    return Architecture(stem_width=16, stem_activation="relu6", stages=stages)


def test_a_run_with_one_factor_tells_of_it_alone():
    """All MACs are equal here: there is no curve but the mean."""
    rng = np.random.default_rng(15)
    records = [
        record(n, plain("relu6" if n % 2 else "gelu"), 10**8, 50 + n % 2 + rng.normal(0, 0.3))
        for n in range(40)
    ]
    found = effects_of(records)
    assert [importance.factor for importance in found.importances] == ["activation"]
    (contrast,) = found.contrasts
    assert (contrast.better, contrast.worse) == ("relu6", "gelu")
    assert contrast.low < 1 < contrast.high and contrast.resolved
    assert found.num_networks == 2


def test_a_width_that_macs_decide_is_left_out_or_not_resolved():
    """MACs go as the square of the width: at equal MACs there is one width."""
    rng = np.random.default_rng(16)

    def run(rounding: float):
        records = []
        for n in range(60):
            width = int(rng.integers(8, 64))
            macs = round(1e5 * width**2 * (1 + rounding * rng.normal()))
            top1 = 50 + 5 * math.log2(width) + rng.normal()
            records.append(record(n, plain(("relu6", "gelu")[n % 2], width), macs, top1))
        return effects_of(records)

    exact, nearly = run(0.0), run(0.001)
    assert [importance.factor for importance in exact.importances] == ["activation"]
    (width,) = [contrast for contrast in nearly.contrasts if contrast.factor == "width"]
    assert not width.resolved and width.high - width.low > 50


def test_two_factors_that_always_come_together_are_wide_and_not_wrong():
    rng = np.random.default_rng(17)
    records = []
    for n in range(100):
        network = plain(*(("relu6", 16, 2), ("gelu", 16, 4))[n % 2])
        records.append(record(n, network, 10**8, 50 + 2 * (n % 2) + rng.normal(0, 0.5)))
    found = {contrast.factor: contrast for contrast in effects_of(records).contrasts}
    assert set(found) == {"activation", "depth"}
    assert not any(contrast.resolved for contrast in found.values())
    assert all(contrast.high > 2 for contrast in found.values())


def test_ten_thousand_trials(networks):
    found = effects_of(study(networks, 10_000, seed=18))
    assert found.num_networks == len(networks)
    assert np.mean([c.low <= truth(c) <= c.high for c in found.contrasts]) > 0.8
