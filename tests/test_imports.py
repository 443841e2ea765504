"""The floors of the house: imports only go down, and each big dependency has one door."""

import ast
import subprocess
import sys
from collections import defaultdict
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "gmsearch"
FLOORS = (
    {
        *{"errors", "architecture", "cost", "gmnet", "network", "pareto", "recipe", "record"},
        *{"files", "interval", "palette", "lock", "radii", "bias", "speedups"},
    },
    {
        *{"references", "reading", "space", "space_file", "survey", "experiment", "run"},
        *{"recipe_file", "effects", "ranking", "contrasts", "claims", "resolved"},
        *{"designs", "gain", "surrogate", "watched", "outlook", "candidates", "strategy"},
        *{"stopping"},
    },
    {
        *{"data", "data.records", "data.bands", "data.decoding", "data.sources", "data.named"},
        *{"data.decoders"},
        *{"data.selection", "data.packs", "data.packing", "data.cache", "data.receiving"},
        *{"data.opening", "data.streamed", "data.shrinking"},
        *{"depthwise", "pointwise", "gates", "block", "model", "registry", "weights"},
        *{"kernels", "fused_depthwise", "fused_gate"},
        *{"counting", "zoo"},
        *{"fvcore_count", "onnx_export", "folding"},
    },
    {
        *{"augment", "feeding", "crew", "streaming", "teacher", "step", "training"},
        *{"checkpoint"},
        *{
            "process",
            "trial",
            "retraining",
            "roofline",
            "latency",
            "what",
            "timing",
            "frequency",
            "precision",
        },
        *{"bandlimited", "spectra", "band_cost"},
    },
    {
        *{"jobs", "trainings", "sampler", "gated_sampler", "storage", "stored", "study"},
        *{"console", "picture", "progress", "band_picture", "spectra_figures"},
        *{"claims_figure", "figure_file"},
        *{"notes", "scatter", "tensorboard", "trackers", "wall_time"},
        *{"cluster", "shelf", "worker", "lookout", "driver", "tune", "nodes", "session", "launch"},
        *{"spending", "rehearsal"},
        *{"decisions", "simulator"},
    },
    {
        *{"search", "compare", "profile", "finalists", "agreement", "full_training"},
        *{"predict", "history"},
        *{"certificate", "proxy", "plan"},
        *{"trained", "band_accuracy", "inside", "reproduce", "hits_file"},
        *{"plots", "dashboard"},
        *{"replay", "table"},
        *{"report", "report.account", "report.tables", "report.charts", "report.drawing"},
        *{"report.pictures", "report.page", "report.text", "report.writing"},
        *{"exporting", "exporting.subject", "exporting.pretrained", "exporting.source_code"},
        *{"exporting.program", "exporting.int8", "exporting.check", "exporting.card"},
        *{"exporting.folder"},
    },
    {
        *{"cli", "cli.flags", "cli.searching", "cli.networks", "cli.packing", "cli.finals"},
        *{"cli.exporting", "cli.watching", "cli.reporting", "cli.tables", "cli.judging"},
        *{"cli.frequency", "cli.spectral"},
        *{"__main__", ""},
    },
)
TRAINING_CORE = ("gates", "model", "zoo", "weights", "data", "training", "checkpoint", "trial")
FOREIGN_TO_TRAINING = {"pydantic", "optuna", "ray", "rich", "yaml", "matplotlib"}
# Which modules may import a package, wherever in the file.
DOORS = {
    "torch": {
        *{"depthwise", "pointwise", "gates", "block", "model", "registry", "weights"},
        *{"kernels", "fused_depthwise", "fused_gate"},
        *{"counting", "zoo"},
        *{"fvcore_count", "onnx_export", "latency", "profile", "training", "checkpoint", "process"},
        *{"augment", "feeding", "crew", "streaming", "teacher", "step", "retraining", "roofline"},
        *{"folding", "timing", "frequency", "precision"},
        *{"predict", "band_accuracy", "bandlimited", "spectra", "inside"},
        *{"reproduce"},
        *{"exporting.subject", "exporting.pretrained", "exporting.source_code"},
        *{"exporting.program", "exporting.int8", "exporting.check", "exporting.folder"},
    },
    "triton": {"fused_depthwise", "fused_gate"},
    "torchvision": {"augment", "streaming"},
    "timm": {
        *{"depthwise", "pointwise", "gates", "block", "model", "registry", "zoo", "training"},
        *{"augment", "streaming", "teacher", "retraining", "data.named", "spectra"},
        *{"exporting.subject", "exporting.pretrained"},
    },
    "ray": {
        *{"cluster", "lookout", "tune", "worker", "nodes", "shelf", "launch", "trackers"},
        *{"rehearsal"},
    },
    "optuna": {"sampler", "gated_sampler", "storage", "stored", "study", "replay"},
    "optuna_dashboard": {"dashboard"},
    "bottle": {"dashboard"},
    "plotly": {"plots", "report.charts", "report.page"},
    "pandas": {"report.tables", "report.charts", "report.pictures", "report.page", "table"},
    "jinja2": {"report.page"},
    "pydantic": {"reading", "space_file", "experiment", "claims"},
    "yaml": {"reading", "experiment"},
    "rich": {
        *{"console", "progress", "session", "profile", "agreement", "full_training", "report.text"},
        *{"certificate", "proxy", "plan", "band_accuracy", "reproduce"},
    },
    "fvcore": {"fvcore_count"},
    "onnxruntime": {"onnx_export", "exporting.int8"},
    "safetensors": {"exporting.pretrained", "retraining", "weights"},
    "scipy": {"resolved", "agreement", "ranking", "surrogate", "gain", "contrasts"},
    "matplotlib": {"figure_file", "picture", "report.drawing"},
    "tensorboardX": {"tensorboard"},
    "PIL": {"data.decoding", "data.sources", "data.named", "data.streamed"},
}


def modules() -> dict[str, Path]:
    """Every module of the package by its dotted name, the package itself as the empty one."""
    found = {}
    for path in PACKAGE.rglob("*.py"):
        parts = path.relative_to(PACKAGE).with_suffix("").parts
        found[".".join(parts).removesuffix("__init__").rstrip(".")] = path
    return found


MODULES = modules()


def imports() -> dict[str, set[str]]:
    """What each module imports, anywhere in its text; modules of the house start with a dot."""
    found = defaultdict(set)
    for name, path in MODULES.items():
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                targets = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom):
                assert node.level == 0, f"{name}: a relative import"
                # `from gmsearch import data` names a module, `from gmsearch.cost import cost` not
                inside = [f"{node.module}.{alias.name}" for alias in node.names]
                as_modules = [
                    target for target in inside if target.removeprefix("gmsearch.") in MODULES
                ]
                targets = as_modules or [node.module]
            else:
                continue
            for target in targets:
                top, _, rest = target.partition(".")
                found[name].add(f".{rest}" if top == "gmsearch" else top)
    return found


IMPORTS = imports()


def of_the_house(name: str) -> set[str]:
    return {target[1:] for target in IMPORTS[name] if target.startswith(".")}


def foreign(name: str) -> set[str]:
    return {target for target in IMPORTS[name] if not target.startswith(".")}


def all_below(name: str) -> set[str]:
    """The module and all that it brings along; importing `data.records` runs `data` too."""
    found, left = set(), [name]
    while left:
        module = left.pop()
        if module not in found:
            found.add(module)
            left += [*of_the_house(module), module.rpartition(".")[0]]
    return found


def floor(name: str) -> int:
    return next(number for number, names in enumerate(FLOORS) if name in names)


def test_every_module_is_on_one_floor():
    listed = [name for names in FLOORS for name in names]
    assert sorted(listed) == sorted(MODULES)


@pytest.mark.parametrize("name", sorted(MODULES))
def test_imports_only_go_down(name):
    above = {target for target in of_the_house(name) if floor(target) > floor(name)}
    assert not above
    assert of_the_house(name) <= set(MODULES)


def test_imports_have_no_cycles():
    order = TopologicalSorter({name: of_the_house(name) for name in MODULES}).static_order()
    assert set(order) == set(MODULES)


@pytest.mark.parametrize("name", sorted(FLOORS[0]))
def test_the_lowest_floor_needs_the_standard_library_and_numpy_alone(name):
    assert foreign(name) <= {*sys.stdlib_module_names, "numpy"}


@pytest.mark.parametrize("package", DOORS)
def test_a_big_dependency_has_its_doors_and_no_other(package):
    assert {name for name in MODULES if package in foreign(name)} == DOORS[package]


@pytest.mark.parametrize("name", TRAINING_CORE)
def test_training_knows_nothing_of_the_search(name):
    for module in all_below(name):
        assert not foreign(module) & FOREIGN_TO_TRAINING, module


def test_the_training_core_runs_where_the_search_is_not_installed():
    """What timm itself brings along may complain on its way; it does without, too."""
    program = f"""
import sys
for name in {sorted(FOREIGN_TO_TRAINING)}:
    sys.modules[name] = None
import gmsearch.trial, gmsearch.training, gmsearch.checkpoint
from gmsearch import data
from gmsearch.architecture import Architecture, Stage
from gmsearch.recipe import Recipe
stages = (Stage(width=4, depth=1, ratio=1, kernel=3),) * 4
small = Architecture(stem_width=4, stem_activation="relu6", stages=stages)
state = gmsearch.training.start(small, 4, Recipe(num_epochs=1), seed=0, resolution=32)
print(len(state.history), state.model(gmsearch.training.torch.zeros(2, 3, 32, 32)).shape)
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == "0 torch.Size([2, 4])"
