"""Ray Tune trains the jobs of a search or a comparison.

The jobs are the only truth. Ray gets a Searcher that asks them and a Callback that tells them;
neither keeps anything, so nothing of Ray's has to be restored: a run that goes on is a fresh Tuner
on the same jobs.
"""

import shutil
import signal
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

# isort: off
import gmsearch.cluster  # noqa: F401 (sets what Ray reads when it is imported)
from ray import tune
from ray.tune.schedulers import FIFOScheduler
from ray.tune.search import Searcher
# isort: on

from gmsearch.cluster import Resources
from gmsearch.data import AnyDataset
from gmsearch.driver import FINISHED, Driver
from gmsearch.experiment import Settings
from gmsearch.jobs import Jobs, Listener
from gmsearch.lookout import Lookout
from gmsearch.run import RunFolder
from gmsearch.shelf import check_place, put_up
from gmsearch.spending import Meter
from gmsearch.trackers import make_trackers

SCRATCH = ".tune-"  # Ray's own files while it works
MARK = "here"  # a file among these: who sees it sees the run folder
LEAST_TIME = 1e-3  # seconds; Ray takes 0 for no limit
NODE_LOST = ("node has died", "node was terminated")  # in what Ray says of a worker


def run_trials(
    settings: Settings,
    resources: Resources,
    folder: RunFolder,
    jobs: Jobs,
    dataset: AnyDataset,
    listeners: Sequence[Listener],
    meter: Meter,
    say: Callable[[str], None],
    until: float | None,
) -> Driver:
    """Trains until there are no more jobs, or it is `until` on the clock of `time.time`, or the
    device-hours of `meter` are spent, or the user stops it; the jobs then have all results.

    Returns the driver, which knows when the first training began and how long workers had no job.
    """

    def train(config: dict[str, Any], dataset: AnyDataset) -> None:
        # Ray sends a nested function by value: a worker imports this one module and not the
        # driver's.
        from gmsearch import worker

        worker.train(config, dataset)

    trackers = make_trackers(settings)
    trainable = tune.with_resources(
        tune.with_parameters(train, dataset=dataset),
        {"cpu": resources.cpus, "gpu": resources.gpus},
    )
    for left_over in folder.path.glob(f"{SCRATCH}*"):  # by a driver that was killed
        shutil.rmtree(left_over, ignore_errors=True)
    scratch = Path(tempfile.mkdtemp(prefix=SCRATCH, dir=folder.path.absolute()))
    (scratch / MARK).touch()
    shelf, place = None, None
    if settings.checkpoints is not None:
        place = f"{settings.checkpoints.rstrip('/')}/{settings.name}-{settings.digest}"
        shelf = check_place(place)
    elif settings.address is not None:
        _keeper = put_up(folder.trials_folder)
    ways = {"mark": str(scratch / MARK), "checkpoints": place}
    lookout = Lookout(settings, resources, dataset, say)
    driver = Driver(settings, lookout, jobs, listeners, meter, ways, shelf)
    on_ctrl_c = signal.getsignal(signal.SIGINT)
    try:
        tune.Tuner(
            trainable,
            tune_config=tune.TuneConfig(
                search_alg=_Asks(driver),
                scheduler=_Decides(driver),
                num_samples=-1,
                reuse_actors=True,
                trial_name_creator=lambda trial: Path(trial.config["folder"]).name,
                time_budget_s=None if until is None else max(LEAST_TIME, until - time.time()),
            ),
            run_config=tune.RunConfig(
                storage_path=str(scratch),
                name="tune",
                callbacks=[_Tells(driver), *trackers],
                stop=_Stops(meter),
                failure_config=tune.FailureConfig(max_failures=0),  # the driver tries again
                verbose=0,
            ),
        ).fit()
    except Exception:
        if driver.error is None:
            raise
        # Ray wraps what a callback raises into its own traceback.
        raise driver.error from driver.error.__cause__
    finally:
        signal.signal(signal.SIGINT, on_ctrl_c)  # Ray would swallow the first one after it
        shutil.rmtree(scratch, ignore_errors=True)
    return driver


class _Asks(Searcher):
    """Ray's question for the next trial, passed to the jobs."""

    def __init__(self, driver: Driver) -> None:
        super().__init__()
        self._driver = driver

    def suggest(self, trial_id: str) -> Any:
        with self._driver.keeping_errors():
            config = self._driver.next_config()
            return Searcher.FINISHED if config == FINISHED else config

    def on_trial_complete(
        self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False
    ) -> None:
        """The callback hears of every ending, with more to tell."""

    def save(self, checkpoint_path: str) -> None:
        """Nothing: the jobs have it."""

    def restore(self, checkpoint_path: str) -> None:
        """Nothing: the jobs have it."""

    def get_state(self) -> dict[str, Any]:
        return {}

    def __getstate__(self) -> dict[str, Any]:
        return {}


class _Decides(FIFOScheduler):
    """Results, passed to the jobs, which say whether a training goes on. It keeps nothing: what is
    stopped may be taken up as another trial of Ray's.
    """

    def __init__(self, driver: Driver) -> None:
        super().__init__()
        self._driver = driver

    def on_trial_result(self, tune_controller: Any, trial: Any, result: dict[str, Any]) -> str:
        with self._driver.keeping_errors():
            goes_on = self._driver.on_result(trial.config["number"], result)
        return FIFOScheduler.CONTINUE if goes_on else FIFOScheduler.STOP

    def __getstate__(self) -> dict[str, Any]:
        return {}


class _Stops(tune.Stopper):
    """Stops everything once the device-hours are spent, as Ray does when the time is up."""

    def __init__(self, meter: Meter) -> None:
        self._meter = meter

    def __call__(self, trial_id: str, result: dict[str, Any]) -> bool:
        return False

    def stop_all(self) -> bool:
        return self._meter.is_spent

    def __getstate__(self) -> dict[str, Any]:
        return {}


class _Tells(tune.Callback):
    """What Ray says of trials that it lost, passed to the jobs."""

    def __init__(self, driver: Driver) -> None:
        self._driver = driver

    def on_trial_start(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        self._driver.on_started(trial.config["number"], trial)

    def on_step_end(self, iteration: int, trials: list[Any], **info: Any) -> None:
        with self._driver.keeping_errors():
            self._driver.step()

    def on_trial_error(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        said = ""
        if trial.error_file and Path(trial.error_file).exists():
            said = Path(trial.error_file).read_text(encoding="utf-8").strip()
        with self._driver.keeping_errors():
            self._driver.on_lost(
                trial.config["number"],
                _cause(said),
                with_its_node=any(words in said for words in NODE_LOST)
                or ("DataError" in said and self._driver.lookout.has_news()),
            )

    def __getstate__(self) -> dict[str, Any]:
        return {}


def _cause(said: str) -> str:
    """Why a worker was lost, in a line: what Ray writes of it fills a page."""
    if "OutOfMemory" in said or "low on memory" in said:
        return "its worker ran out of memory"
    if "actor died" in said or "process has died" in said:
        return "its worker died: out of memory, killed, or a crash inside a library"
    return said.splitlines()[-1] if said else "its worker died"
