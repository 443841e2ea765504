"""Services that follow a run: a line where a package is missing, and what the workers tell them.

Neither package is a part of the tests: where one appears here it is a stand-in, which shows what
we pass on and not what the service makes of it.
"""

import sys
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType, SimpleNamespace

import pytest
from ray import tune

from gmsearch import worker
from gmsearch.cli import main
from gmsearch.errors import SettingsError
from gmsearch.experiment import Experiment, make_settings
from gmsearch.space_file import read_space_data
from gmsearch.trackers import check_trackers, make_trackers
from gmsearch.training import EpochResult

TINY = str(Path(__file__).parents[1] / "search_spaces" / "tiny.yaml")

pytestmark = pytest.mark.filterwarnings("ignore::FutureWarning")


def experiment(**settings) -> Experiment:
    base = {"name": "r", "space": read_space_data(Path(TINY)), "budget": 30_000_000}
    return make_settings(Experiment, base | settings)


def absent(package: str):
    return pytest.mark.skipif(find_spec(package) is not None, reason=f"{package} is installed")


@pytest.mark.parametrize(
    ("package", "value"),
    [
        pytest.param("wandb", "p", marks=absent("wandb")),
        pytest.param("mlflow", "http://127.0.0.1:1", marks=absent("mlflow")),
    ],
)
@pytest.mark.parametrize("verb", ["run", "train", "compare"])
def test_a_missing_package_is_one_line_that_names_it(verb, package, value, tmp_path, capsys):
    what = ["--space", TINY, "--budget", "30M"] if verb == "run" else ["gmnet@30M"]
    flags = [f"--{package}", value, "--runs-dir", str(tmp_path / "runs")]
    assert main([verb, *what, *flags]) == 2
    said = capsys.readouterr()
    assert said.out == ""
    assert said.err == (
        f"gmsearch: --{package} {value}: the package {package} is not installed; "
        f"pip install {package}\n"
    )
    assert not (tmp_path / "runs").exists()


def test_a_folder_that_is_called_like_a_package_is_none(tmp_path, monkeypatch):
    (tmp_path / "wandb").mkdir()
    monkeypatch.setattr(sys, "path", [str(tmp_path)])
    monkeypatch.delitem(sys.modules, "wandb", raising=False)
    with pytest.raises(SettingsError, match="pip install wandb"):
        check_trackers(experiment(wandb="p"))


def test_nothing_is_asked_for_unless_it_is_said():
    settings = experiment()
    assert (settings.tensorboard, settings.wandb, settings.mlflow) == (False, None, None)
    check_trackers(settings)
    assert make_trackers(settings) == []


@pytest.fixture
def stand_in(monkeypatch):
    calls: dict[str, object] = {}
    module = ModuleType("mlflow")
    module.set_tracking_uri = lambda uri: calls.update(uri=uri)
    module.set_registry_uri = lambda uri: None
    module.get_experiment_by_name = lambda name: None
    module.create_experiment = lambda name, artifact_location: calls.update(name=name)
    monkeypatch.setitem(sys.modules, "mlflow", module)
    monkeypatch.delenv("MLFLOW_EXPERIMENT_ID", raising=False)
    return SimpleNamespace(module=module, calls=calls)


def test_mlflow_is_told_where_to_log_and_the_name_of_the_run(stand_in):
    (tracker,) = make_trackers(experiment(mlflow="http://127.0.0.1:5000", name="my-run"))
    assert isinstance(tracker, tune.Callback)
    assert stand_in.calls == {"uri": "http://127.0.0.1:5000", "name": "my-run"}


def test_a_service_that_does_not_let_us_in_is_a_mistake_with_its_words(stand_in):
    def refuse(uri):
        raise ConnectionError("no route to host")

    stand_in.module.set_tracking_uri = refuse
    with pytest.raises(SettingsError, match=r"--mlflow http://nowhere: no route to host"):
        make_trackers(experiment(mlflow="http://nowhere"))


def test_a_worker_reports_the_last_epoch_flat_beside_the_curve(monkeypatch, tmp_path):
    curve = [EpochResult(1, 10.0, None, 2.0, 1.0), EpochResult(2, 20.0, 1.5, 1.0, 1.0)]
    reports = []
    monkeypatch.setattr(worker, "run_trial", lambda *_, **__: iter([curve[:1], curve]))
    monkeypatch.setattr(worker.tune, "report", reports.append)
    monkeypatch.setattr(worker, "prepare", lambda threads: None)
    config = {"threads": 1, "network": {"timm": "resnet18"}, "recipe": {}, "seed": 0, "gpu": False}
    here = {"folder": str(tmp_path), "mark": str(tmp_path), "checkpoints": None}
    worker.train({**config, **here, "weights": None, "watch": None}, None)
    names = ("epoch", "top1", "train_loss", "loss")
    assert [tuple(report[name] for name in names) for report in reports] == [
        (1, 10.0, 2.0, None),
        (2, 20.0, 1.0, 1.5),
    ]
    assert [len(report["curve"]) for report in reports] == [1, 2]
