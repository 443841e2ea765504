"""A full training with a folder: by one worker or by several, to go on after any stop.

FOLDER/
  checkpoint.pt        the last state, within an epoch too
  metrics.jsonl        one line per epoch
  progress.json        where it is, for who watches
  model.safetensors    the weights that `top1` is of: their average, where the recipe has one
  result.json          the final figures
"""

import json
import math
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save
from timm.layers import convert_sync_batchnorm

from gmsearch import checkpoint
from gmsearch.crew import Crew
from gmsearch.data import AnyDataset
from gmsearch.errors import TrainingError, WeightsError
from gmsearch.feeding import ALONE, Share
from gmsearch.files import replacing, write_atomically
from gmsearch.network import Network, network_to_json
from gmsearch.precision import uses_bf16
from gmsearch.radii import Watch
from gmsearch.recipe import Recipe
from gmsearch.roofline import peak_flops, training_flops
from gmsearch.teacher import load_teacher
from gmsearch.training import (
    EpochResult,
    Evaluation,
    TrainingState,
    evaluate,
    make_feed,
    start,
    train,
)
from gmsearch.trial import write_metrics

SAVE_EVERY = 60.0  # seconds between two checkpoints within an epoch
TELL_EVERY = 1.0  # seconds between two looks at the progress


@dataclass(frozen=True)
class Retraining:
    """One full training. `dataset` has the official training images, and val for its minival."""

    network: Network
    dataset: AnyDataset
    recipe: Recipe
    folder: Path
    seed: int = 0
    compiled: bool = False
    synchronised: bool = False  # norms see the whole batch, on GPUs
    teacher: str | None = None
    watch: Watch | None = None  # bands that are looked at after every epoch


def retrain(
    job: Retraining, *, device: str = "cpu", share: Share = ALONE
) -> Iterator[list[EpochResult]]:
    """Trains from the last checkpoint, if any; yields the whole curve after each epoch.

    With several workers every one of them runs this with its share; the first one writes. Raises
    TrainingError, and WeightsError for a checkpoint that is not of this training.
    """
    folder, writes = job.folder, share.rank == 0
    if writes:
        folder.mkdir(parents=True, exist_ok=True)
        write_atomically(folder / "architecture.json", network_to_json(job.network))
        for half_written in folder.glob(".checkpoint.pt.*"):  # by a worker that was killed
            half_written.unlink()
    state = _start(job, device)
    listener = _Saver(job, state, share)
    if state.history and writes:
        write_metrics(folder, state.history)
    if len(state.history) >= job.recipe.num_epochs:
        yield state.history
    for _ in train(
        state,
        job.dataset,
        job.recipe,
        seed=job.seed,
        share=share,
        on_step=listener.step,
        watch=job.watch,
    ):
        if writes:
            checkpoint.save(folder / "checkpoint.pt", state)
            write_metrics(folder, state.history)
        yield state.history
    _finish(job, state, share)


def _start(job: Retraining, device: str) -> TrainingState:
    """A fresh state, or the one that was saved."""
    state = start(
        job.network,
        len(job.dataset.classes),
        job.recipe,
        seed=job.seed,
        resolution=job.dataset.resolution,
        device=device,
    )
    if job.synchronised:
        state.model = convert_sync_batchnorm(state.model)  # torch's own drops timm's activations
    if job.compiled:
        state.model.compile()
    if job.teacher is not None:
        teacher = load_teacher(job.teacher, job.dataset.classes, job.dataset.resolution)
        state.teacher = teacher.to(device)
    saved = job.folder / "checkpoint.pt"
    if saved.exists():
        try:
            checkpoint.load(saved, state)
        except TrainingError as error:
            raise WeightsError(f"{error}; remove the file to train from the start") from None
    return state


class _Saver:
    """Saves a state now and then, and tells how far it is and how fast."""

    def __init__(self, job: Retraining, state: TrainingState, share: Share) -> None:
        self._job = job
        self._state = state
        self._writes = share.rank == 0
        self._peak = _images_at_peak(job, state.device, share) if self._writes else None
        self._saved = self._told = time.monotonic()
        self._steps = 0  # since it was told

    def step(self, num_steps: int) -> None:
        """After a step within an epoch."""
        now = time.monotonic()
        self._steps += 1
        if not self._writes:
            return
        if now - self._told > TELL_EVERY:
            told = {
                "epoch": len(self._state.history),
                "share": self._state.step / num_steps,
                "images_per_second": self._steps * self._job.recipe.batch_size / (now - self._told),
                "images_per_second_at_peak": self._peak,
            }
            write_atomically(self._job.folder / "progress.json", json.dumps(told))
            self._told, self._steps = now, 0
        if now - self._saved > SAVE_EVERY:
            checkpoint.save(self._job.folder / "checkpoint.pt", self._state)
            self._saved = time.monotonic()


def _images_at_peak(job: Retraining, device: torch.device, share: Share) -> float | None:
    """Images a second if all of a step ran as fast as a matrix product; None on a CPU."""
    if device.type != "cuda":
        return None
    dtype = torch.bfloat16 if uses_bf16(device, job.recipe.precision) else torch.float32
    resolution, num_classes = job.dataset.resolution, len(job.dataset.classes)
    needed = training_flops(job.network, resolution=resolution, num_classes=num_classes)
    return share.workers * peak_flops(device, dtype) / needed


def _finish(job: Retraining, state: TrainingState, share: Share) -> None:
    """Evaluates what was trained on all images of val, and writes the answer."""
    feed = make_feed(job.dataset, job.recipe, seed=job.seed, device=state.device, share=share)
    crew = Crew(state.model, share)
    models = {"raw": state.model}
    if state.ema is not None:
        models["average"] = state.ema.module
    found = {
        name: evaluate(model, feed.minival(), job.recipe.precision, crew)
        for name, model in models.items()
    }
    if share.rank:
        return
    best = models["average" if state.ema is not None else "raw"]
    with replacing(job.folder / "model.safetensors") as file:
        file.write(save({k: v.contiguous() for k, v in best.state_dict().items()}))
    result = {
        "id": job.network.id,
        "seed": job.seed,
        "epochs": len(state.history),
        "images": len(job.dataset.train),
        "val_images": len(job.dataset.minival),
        "workers": share.workers,
        **{name: _figures(each) for name, each in found.items()},
        "by_class": dict(
            zip(job.dataset.classes, _known(list(found.values())[-1].by_class), strict=True)
        ),
        "recipe": asdict(job.recipe),
        "teacher": job.teacher,
        "seconds": sum(result.seconds for result in state.history),
    }
    write_atomically(job.folder / "result.json", json.dumps(result, indent=2) + "\n")
    (job.folder / "progress.json").unlink(missing_ok=True)


def _figures(found: Evaluation) -> dict[str, Any]:
    if not found.num_finite:
        raise TrainingError("no logits are finite on val")
    return {"top1": found.top1, "top5": found.top5}


def _known(values: tuple[float, ...]) -> list[float | None]:
    return [None if math.isnan(value) else value for value in values]
