"""Ray Train starts the workers of a full training, and starts them again where one dies."""

import json
import logging
import shutil
import signal
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

# isort: off
import gmsearch.cluster  # noqa: F401 (sets what Ray reads when it is imported)
import ray.train
from ray.train.torch import TorchConfig, TorchTrainer
# isort: on

from gmsearch.errors import TrainingError, UserError
from gmsearch.files import write_atomically
from gmsearch.retraining import Retraining, retrain

MAX_LOST_WORKERS = 3  # a training goes on from its checkpoint this often
SCRATCH = ".train-"  # Ray's own files while it works
FAILED = "failed.json"  # why a worker gave up, among these


def train_together(
    job: Retraining, *, workers: int, cpus: float, gpu: bool, accumulate: int
) -> None:
    """Trains one network on several workers of the cluster that is open.

    Raises UserError for what the user can mend, a full disk included, and TrainingError.
    """
    logging.getLogger("ray.train").setLevel(logging.CRITICAL)
    for left_over in job.folder.glob(f"{SCRATCH}*"):  # by a driver that was killed
        shutil.rmtree(left_over, ignore_errors=True)
    with tempfile.TemporaryDirectory(prefix=SCRATCH, dir=job.folder) as scratch:
        for attempt in range(1 + MAX_LOST_WORKERS):
            place = Path(scratch).absolute()
            trainer = TorchTrainer(
                _worker_of(job, place / FAILED, cpus, gpu, accumulate),
                torch_config=TorchConfig(backend="nccl" if gpu else "gloo"),
                scaling_config=ray.train.ScalingConfig(
                    num_workers=workers,
                    use_gpu=gpu,
                    resources_per_worker={"CPU": cpus, **({"GPU": 1} if gpu else {})},
                ),
                run_config=ray.train.RunConfig(name=f"train-{attempt}", storage_path=str(place)),
            )
            lost = _fit(trainer)
            _raise_failure(place / FAILED)
            if lost is None:
                return
    raise TrainingError(f"{job.network.id}: its workers failed: {lost}")


def _worker_of(
    job: Retraining, failed: Path, cpus: float, gpu: bool, accumulate: int
) -> Callable[[dict[str, Any]], None]:
    """What each worker does. What another try would only run into again is told in `failed`; Ray
    itself tells a driver nothing of an error but its text.
    """

    def work(config: dict[str, Any]) -> None:
        # Ray sends a nested function by value: a worker imports what it needs.
        from gmsearch.feeding import Share
        from gmsearch.process import prepare

        context = ray.train.get_context()
        prepare(max(1, int(cpus)))
        share = Share(context.get_world_rank(), context.get_world_size(), accumulate)
        try:
            for curve in retrain(job, device="cuda" if gpu else "cpu", share=share):
                ray.train.report({"epoch": len(curve)})
        except ConnectionError:  # another worker died
            raise
        except (TrainingError, UserError, OSError, ValueError, TypeError) as error:
            users = isinstance(error, UserError | OSError)
            told = {"users": users, "reason": f"{job.network.id}: {error or type(error).__name__}"}
            write_atomically(failed, json.dumps(told))
            raise

    return work


def _fit(trainer: TorchTrainer) -> str | None:
    """Trains; returns in a line why workers were lost, if they were.

    Ray takes Ctrl-C for itself and ends the process; here it is what it is elsewhere.
    """
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        trainer.fit()
    except SystemExit:
        raise KeyboardInterrupt from None
    except Exception as error:  # Ray tells it with the tracebacks of all workers
        return (str(error).strip() or type(error).__name__).splitlines()[-1]
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    return None


def _raise_failure(failed: Path) -> None:
    """Raises what a worker could not go on with, if there is any."""
    if not failed.exists():
        return
    told = json.loads(failed.read_text(encoding="utf-8"))
    raise (UserError if told["users"] else TrainingError)(told["reason"])
