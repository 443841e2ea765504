"""Ray Train starts the workers of a full training, and starts them again where one dies."""

import logging
import shutil
import tempfile
from pathlib import Path
from typing import Any

# isort: off
import gmsearch.tune  # noqa: F401 (sets what Ray reads when it is imported)
import ray.train
from ray.train.torch import TorchConfig, TorchTrainer
# isort: on

from gmsearch.errors import TrainingError
from gmsearch.retraining import Retraining, retrain

MAX_LOST_WORKERS = 3  # a training goes on from its checkpoint this often
SCRATCH = ".train-"  # Ray's own files while it works


def train_together(
    job: Retraining, *, workers: int, cpus: float, gpu: bool, accumulate: int
) -> None:
    """Trains one network on several workers of the cluster that is open. Raises TrainingError."""

    def work(config: dict[str, Any]) -> None:
        # Ray sends a nested function by value: a worker imports what it needs.
        import torch

        from gmsearch.feeding import Share

        context = ray.train.get_context()
        torch.set_num_threads(max(1, int(cpus)))
        share = Share(context.get_world_rank(), context.get_world_size(), accumulate)
        try:
            for curve in retrain(job, device="cuda" if gpu else "cpu", share=share):
                ray.train.report({"epoch": len(curve)})
        except TrainingError as error:  # Ray would only run into it again
            ray.train.report({"failed": str(error)})

    logging.getLogger("ray.train").setLevel(logging.CRITICAL)
    for left_over in job.folder.glob(f"{SCRATCH}*"):  # by a driver that was killed
        shutil.rmtree(left_over, ignore_errors=True)
    with tempfile.TemporaryDirectory(prefix=SCRATCH, dir=job.folder) as scratch:
        trainer = TorchTrainer(
            work,
            torch_config=TorchConfig(backend="nccl" if gpu else "gloo"),
            scaling_config=ray.train.ScalingConfig(
                num_workers=workers,
                use_gpu=gpu,
                resources_per_worker={"CPU": cpus, **({"GPU": 1} if gpu else {})},
            ),
            run_config=ray.train.RunConfig(
                name="train",
                storage_path=str(Path(scratch).absolute()),
                failure_config=ray.train.FailureConfig(max_failures=MAX_LOST_WORKERS),
            ),
        )
        try:
            result = trainer.fit()
        except Exception as error:  # Ray tells it with the tracebacks of all workers
            reason = str(error).strip().splitlines()[-1]
            raise TrainingError(f"{job.network.id}: its workers failed: {reason}") from None
    if result.metrics and "failed" in result.metrics:
        raise TrainingError(result.metrics["failed"])
