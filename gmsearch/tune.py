"""Ray Tune trains the jobs of a search or a comparison: the one door to Ray.

The jobs are the only truth. Ray gets a Searcher that asks them and a Callback that tells them;
neither keeps anything, so nothing of Ray's has to be restored: a run that goes on is a fresh Tuner
on the same jobs.
"""

import logging
import os
import shutil
import signal
import socket
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

os.environ.update(
    RAY_USAGE_STATS_ENABLED="0",
    RAY_AIR_NEW_OUTPUT="0",
    RAY_CHDIR_TO_TRIAL_DIR="0",
    RAY_DEDUP_LOGS="0",
    RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO="0",
    TUNE_DISABLE_AUTO_CALLBACK_LOGGERS="1",
    TUNE_PRINT_ALL_TRIAL_ERRORS="0",
    TUNE_GLOBAL_CHECKPOINT_S="1e9",
)

import ray  # noqa: E402 (Ray reads its environment when it is imported)
from ray import tune  # noqa: E402
from ray._private import ray_constants  # noqa: E402
from ray._private import worker as ray_worker  # noqa: E402
from ray.tune.schedulers import FIFOScheduler  # noqa: E402
from ray.tune.search import Searcher  # noqa: E402

from gmsearch.data import AnyDataset  # noqa: E402
from gmsearch.errors import SettingsError, TrainingError  # noqa: E402
from gmsearch.experiment import Settings  # noqa: E402
from gmsearch.jobs import Jobs, Listener  # noqa: E402
from gmsearch.nodes import share_data  # noqa: E402
from gmsearch.record import Job, TrialRecord  # noqa: E402
from gmsearch.run import RunFolder, write_trial  # noqa: E402
from gmsearch.shelf import CHECKPOINT, OwnShelf, Shelf, check_place, put_up  # noqa: E402
from gmsearch.spending import Meter  # noqa: E402
from gmsearch.trackers import make_trackers  # noqa: E402

WORKER_MEMORY = 1.2e9  # bytes of a worker with torch and timm, beside its share of the data
MOST_FAILURES = 5  # trials that fail before one is complete: the cause is not in the networks
SCRATCH = ".tune-"  # Ray's own files while it works
MARK = "here"  # a file among these: who sees it sees the run folder
LOOK = 3.0  # seconds from one look at the nodes to the next
HELD_UP = 5.0  # seconds of a step after which the driver was held up itself
NODE_LOST = ("node has died", "node was terminated")  # in what Ray says of a worker
SLOWER = 10  # times the longest epoch so far: a worker that is silent for longer is hung


@dataclass(frozen=True)
class Resources:
    """How many trials run at once, and what each gets."""

    workers: int
    cpus: float
    gpus: float

    @property
    def threads(self) -> int:
        return max(1, int(self.cpus))

    @property
    def devices(self) -> float:
        """GPUs of a trial, or 1 for a worker without one: what device-hours are hours of."""
        return self.gpus or 1.0


@contextmanager
def cluster(address: str | None) -> Iterator[None]:
    """Ray on this machine, or the cluster at `address`. Raises SettingsError."""
    _check_reachable(address)
    # A single-host run listens on 127.0.0.1 only; on a cluster the host's own address is needed.
    ray_constants.ENABLE_RAY_CLUSTER = address is not None
    os.environ["RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"] = "0" if address is None else "1"
    try:
        ray.init(
            address=address or "local",  # without a word Ray would follow a stale address file
            include_dashboard=None if address else False,
            logging_level=logging.CRITICAL,
            log_to_driver=False,
            configure_logging=True,
        )
    except Exception as error:  # Ray raises a plain one where a node does not start in time
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise SettingsError(f"no Ray cluster at {address or 'this machine'}: {reason}") from None
    logging.getLogger("ray").setLevel(logging.CRITICAL)
    # A polite kill is a Ctrl-C, on which Tune stops its trials; Ray's own handler would abort.
    signal.signal(signal.SIGTERM, lambda *_: signal.raise_signal(signal.SIGINT))
    try:
        yield
    finally:
        ray.shutdown()


def _check_reachable(address: str | None) -> None:
    """Raises SettingsError where nobody listens at host:port; Ray itself would try for a minute."""
    host, _, port = (address or "").rpartition(":")
    if not host or not port.isdecimal():
        return  # none, or a word such as `auto`
    try:
        socket.create_connection((host, int(port)), timeout=10).close()
    except (OSError, OverflowError) as error:
        raise SettingsError(f"no Ray cluster at {address}: {error}") from None


def live_nodes() -> list[dict[str, float]]:
    """The resources of each node of the cluster: CPU, GPU, memory in bytes."""
    return [node["Resources"] for node in ray.nodes() if node["Alive"]]


def plan_resources(settings: Settings, nodes: Sequence[Mapping[str, float]]) -> Resources:
    """As many trials at once as GPUs, or else cores, allow; each gets its share of a node's cores.

    Raises SettingsError where so many, or even one, do not fit.
    """
    has_gpus = any(node.get("GPU") for node in nodes)
    gpus = settings.gpus_per_trial if has_gpus else 0.0
    if gpus > 1 and gpus != int(gpus):
        raise SettingsError(f"--gpus-per-trial {gpus:g}; above one it must be a whole number")

    def slots(cpus: float) -> int:
        return _slots(nodes, cpus, gpus)

    workers = settings.workers
    if workers is None:
        memory = sum(node.get("memory", 0) for node in nodes)
        most = slots(0.01) if has_gpus else min(slots(1), int(memory / WORKER_MEMORY))
        workers = max(1, min(most, settings.num_trials))
    shares = [*range(int(max(node.get("CPU", 1) for node in nodes)), 0, -1), 0.5, 0.25, 0.1, 0.01]
    share = next((share for share in shares if slots(share) >= workers), None)
    if share is None:
        raise SettingsError(
            f"--workers {workers}"
            + (f" with --gpus-per-trial {gpus:g}" if gpus else "")
            + f": only {slots(0.01)} trials fit at once"
        )
    return Resources(workers, share, gpus)


def replan(
    settings: Settings, planned: Resources, nodes: Sequence[Mapping[str, float]]
) -> Resources:
    """As many trials at once as fit now, where nodes came or went; each gets what was planned."""
    if settings.workers is not None:
        return planned
    fit = min(_slots(nodes, planned.cpus, planned.gpus), settings.num_trials)
    if not planned.gpus:
        fit = min(fit, int(sum(node.get("memory", 0) for node in nodes) / WORKER_MEMORY))
    return replace(planned, workers=max(1, fit))


def plan_workers(workers: int, nodes: Sequence[Mapping[str, float]]) -> tuple[float, bool]:
    """Cores for each worker of one training, and whether each has a GPU, where there are GPUs.

    Raises SettingsError where so many do not fit.
    """
    gpus = sum(int(node.get("GPU", 0)) for node in nodes)
    if gpus and workers > gpus:
        raise SettingsError(f"--workers {workers}: there are {gpus} GPUs, one for each worker")
    for cpus in range(int(max(node.get("CPU", 1) for node in nodes)), 0, -1):
        if sum(int(node.get("CPU", 0) // cpus) for node in nodes) >= workers:
            return cpus, bool(gpus)
    cores = sum(int(node.get("CPU", 0)) for node in nodes)
    raise SettingsError(
        f"--workers {workers}: there are {cores} cores, one or more for each worker"
    )


def _slots(nodes: Sequence[Mapping[str, float]], cpus: float, gpus: float) -> int:
    """Trials that fit at once where each takes `cpus` cores and its GPUs, all on one node."""
    return sum(
        min(
            int(node.get("CPU", 0) / cpus + 1e-9),
            _gpu_slots(node.get("GPU", 0), gpus) if gpus else 10**6,
        )
        for node in nodes
    )


def _gpu_slots(available: float, gpus: float) -> int:
    """Trials of `gpus` GPUs each on a node: a fraction comes out of a single GPU."""
    return int(available) * int(1 / gpus + 1e-9) if gpus <= 1 else int(available // gpus)


def run_trials(
    settings: Settings,
    resources: Resources,
    folder: RunFolder,
    jobs: Jobs,
    dataset: AnyDataset,
    listeners: Sequence[Listener],
    meter: Meter,
    say: Callable[[str], None],
) -> float | None:
    """Trains until there are no more jobs, the time is up or the device-hours of `meter` are spent,
    or the user stops it; the jobs then have all results.

    Returns when the first training began, on the clock of `time.time`.
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
    hours = settings.max_hours
    shelf, place = None, None
    if settings.checkpoints is not None:
        place = f"{settings.checkpoints.rstrip('/')}/{settings.name}-{settings.digest}"
        shelf = check_place(place)
    elif settings.address is not None:
        _keeper = put_up(folder.trials_folder)
    ways = {"mark": str(scratch / MARK), "checkpoints": place}
    watch = _Watch(settings, resources, dataset, say)
    driver = _Driver(settings, watch, jobs, listeners, meter, ways, shelf)
    try:
        tune.Tuner(
            trainable,
            tune_config=tune.TuneConfig(
                search_alg=_Asks(driver),
                scheduler=_Decides(driver),
                num_samples=-1,
                reuse_actors=True,
                trial_name_creator=lambda trial: Path(trial.config["folder"]).name,
                time_budget_s=None if hours is None else 3600 * hours,
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
        raise driver.error from None  # Ray wraps what a callback raises into its own traceback
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    return driver.first_training


class _Watch:
    """Looks after the nodes, which come and go, and after workers that do not speak any more."""

    def __init__(
        self,
        settings: Settings,
        resources: Resources,
        dataset: AnyDataset,
        say: Callable[[str], None],
    ) -> None:
        self.resources = resources
        self._settings = settings
        self._dataset = dataset
        self._say = say
        self._here = ray.get_runtime_context().get_node_id()
        self._nodes = {node["NodeID"] for node in ray.nodes() if node["Alive"]}
        self._longest = 0.0  # seconds of an epoch
        self._trials: dict[int, Any] = {}
        self._heard: dict[int, float] = {}
        self._stepped = self._looked = time.monotonic()

    def began(self, number: int, trial: Any) -> None:
        """A worker took up a training."""
        self._trials[number] = trial
        self._heard[number] = time.monotonic()

    def heard(self, number: int, seconds: float) -> None:
        """A worker finished an epoch of so many seconds."""
        self._longest = max(self._longest, seconds)
        self._heard[number] = time.monotonic()

    def ended(self, number: int) -> None:
        """A training does not run any more."""
        self._trials.pop(number, None)
        self._heard.pop(number, None)

    @property
    def patience(self) -> float:
        """Seconds after which a silent worker is hung. A first epoch may take much longer than it
        should, with nothing to compare it to.
        """
        floor = 60 * self._settings.patience
        return max(floor, SLOWER * self._longest) if self._longest else SLOWER * floor

    def step(self) -> dict[int, str]:
        """Looks around; returns why workers were killed, by the number of their trial.

        Raises TrainingError where Ray is gone, and DataError for a node that cannot have the data.
        """
        now = time.monotonic()
        if now - self._stepped > HELD_UP:  # what was said meanwhile is only heard now
            self._heard = {number: now for number in self._heard}
        if now - self._looked > LOOK:
            self._looked = now
            self._look()
        self._stepped = time.monotonic()
        silent = [n for n, heard in self._heard.items() if now - heard > self.patience]
        for number in silent:
            ray.kill(self._trials[number].temporary_state.ray_actor)
            self.ended(number)
        return {n: f"its worker hung: silent for {self.patience:.0f} s" for n in silent}

    def has_news(self) -> bool:
        """Whether there are nodes that may not have the data yet."""
        return not {node["NodeID"] for node in ray.nodes() if node["Alive"]} <= self._nodes

    def _look(self) -> None:
        # Ray itself would wait for its node forever, or end this process without a word of ours.
        gone = TrainingError(
            "Ray on this machine died: killed, or out of memory; `gmsearch resume` goes on"
        )
        own = ray_worker._global_node
        if own is not None and own.dead_processes():
            raise gone
        nodes = [node for node in ray.nodes() if node["Alive"]]
        ids = {node["NodeID"] for node in nodes}
        if self._here not in ids:
            raise gone
        if ids == self._nodes:
            return
        try:
            share_data(self._dataset, self._say, self._nodes)
        except ray.exceptions.RayError:
            return  # a node that came and went
        self._nodes = ids
        before = self.resources.workers
        self.resources = replan(
            self._settings, self.resources, [node["Resources"] for node in nodes]
        )
        self._say(f"nodes: {len(ids)}, trials at once: {before} -> {self.resources.workers}")


class _Driver:
    """What the searcher and the callback share: the jobs, and which trials run.

    A training whose worker dies is tried again from its last epoch; where it dies twice after the
    same epoch, the trial fails. A lost node is not its fault, and does not count.
    """

    def __init__(
        self,
        settings: Settings,
        watch: _Watch,
        jobs: Jobs,
        listeners: Sequence[Listener],
        meter: Meter,
        ways: Mapping[str, str | None],
        shelf: Shelf | None,
    ) -> None:
        self.settings = settings
        self.watch = watch
        self.jobs = jobs
        self.listeners = listeners
        self.is_dry = False  # nothing more to do, until a training ends
        self.meter = meter
        self.ways = ways  # of a worker to the run folder
        self.shelf = shelf  # where checkpoints are, if not in the run folder
        self.running: dict[int, Job] = {}
        self.again: list[Job] = []
        self.died_after: dict[int, int] = {}  # epochs, by trial
        self.hung: dict[int, str] = {}
        self.first_training: float | None = None
        self.error: Exception | None = None

    @contextmanager
    def keeping_errors(self) -> Iterator[None]:
        """Keeps an error as it is, beside what Ray makes of it."""
        try:
            yield
        except Exception as error:
            self.error = self.error or error
            raise

    def next_config(self) -> dict[str, Any] | str | None:
        """The configuration of the next trial; None while all workers are busy, FINISHED when
        nothing is left.
        """
        if len(self.running) >= self.watch.resources.workers:
            return None  # a proposal waits until the results before it are in
        if self.meter.is_spent:
            return Searcher.FINISHED
        if self.is_dry and not self.again:
            return None
        job = self.again.pop(0) if self.again else self.jobs.ask()
        if job is None:
            # What runs may have to be done again, and what ends may leave room for more.
            self.is_dry = bool(self.running)
            return None if self.running else Searcher.FINISHED
        self.running[job.number] = job
        self.update()
        saved = job.folder / CHECKPOINT
        if self.shelf is not None and saved.is_file() and self.shelf.load(job.folder.name) is None:
            self.shelf.save(job.folder.name, saved.read_bytes())
        return {
            "number": job.number,
            "network": job.network.to_dict(),
            "recipe": asdict(self.settings.recipe),
            "seed": job.seed,
            "folder": str(job.folder.absolute()),
            "weights": None if job.weights is None else str(job.weights),
            "threads": self.watch.resources.threads,
            "gpu": self.watch.resources.gpus > 0,
            **self.ways,
        }

    def update(self) -> None:
        for listener in self.listeners:
            listener.update(self.jobs.records.values())

    def on_result(self, number: int, result: dict[str, Any]) -> bool:
        """Takes in a result; returns whether the training goes on."""
        if number not in self.running:
            return True  # Ray repeats the last result when a trial ends
        if "failed" in result:
            self.finish(number, self.jobs.tell_failed(number, result["failed"]))
            return True
        if self.first_training is None:
            self.first_training = result["began"]
        curve = result["curve"]
        self.watch.heard(number, curve[-1]["seconds"])
        if result["away"]:
            job = self.running[number]
            write_trial(job.folder, job.network, curve)
        goes_on = self.jobs.report(number, curve)
        self.meter.heard(number)
        if len(curve) >= self.settings.recipe.num_epochs:
            self.finish(number, self.jobs.tell(number))
        elif goes_on:
            self.update()
        else:
            self.finish(number, self.jobs.tell_stopped(number))
        return goes_on

    def on_lost(self, number: int, reason: str, *, with_its_node: bool) -> None:
        """A worker died, or its machine failed it."""
        if number not in self.running:
            return
        reason = self.hung.pop(number, reason)
        epochs = self.jobs.records[number].epochs
        if not with_its_node:
            if self.died_after.get(number) == epochs:
                reason += f" (twice, after epoch {epochs})"
                self.finish(number, self.jobs.tell_failed(number, reason))
                return
            self.died_after[number] = epochs
        self.watch.ended(number)
        self.meter.ended(number)
        self.again.append(self.running.pop(number))

    def step(self) -> None:
        self.hung |= self.watch.step()

    def finish(self, number: int, record: TrialRecord) -> None:
        job = self.running.pop(number)
        self.is_dry = False
        self.meter.ended(number)
        self.watch.ended(number)
        if self.shelf is not None and record.epochs:
            self._fetch(job, self.shelf)
        self.update()
        for listener in self.listeners:
            listener.finished(record)
        states = [other.state for other in self.jobs.records.values()]
        if states.count("failed") >= MOST_FAILURES and "complete" not in states:
            raise TrainingError(
                f"the first {MOST_FAILURES} trials failed, the last because: {record.reason}"
            )

    def _fetch(self, job: Job, shelf: Shelf) -> None:
        """Brings the last checkpoint to the run folder, where exports look for the weights."""
        checkpoint = shelf.load(job.folder.name)
        if checkpoint is not None:
            OwnShelf(job.folder.parent).save(job.folder.name, checkpoint)


class _Asks(Searcher):
    """Ray's question for the next trial, passed to the jobs."""

    def __init__(self, driver: _Driver) -> None:
        super().__init__()
        self._driver = driver

    def suggest(self, trial_id: str) -> Any:
        with self._driver.keeping_errors():
            return self._driver.next_config()

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

    def __init__(self, driver: _Driver) -> None:
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

    def __init__(self, driver: _Driver) -> None:
        self._driver = driver

    def on_trial_start(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        self._driver.watch.began(trial.config["number"], trial)

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
                or ("DataError" in said and self._driver.watch.has_news()),
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
