"""How long the parts of a training take: the real loop, for some seconds."""

import time
from dataclasses import dataclass, fields
from pathlib import Path
from statistics import fmean

import torch

from gmsearch import checkpoint, step
from gmsearch.data import AnyDataset
from gmsearch.feeding import EVAL_BATCH_SIZE, Feed
from gmsearch.network import Network
from gmsearch.radii import Watch
from gmsearch.recipe import Recipe
from gmsearch.training import EpochResult, evaluate, make_feed, start, train

# Steps that are not timed: memory is taken, kernels are chosen, a graph is captured.
WARM_UP, WARM_UP_OF_GPU = 2, step.WARM_UP + 2
LEAST = 2  # steps that are, however long they take
FOR_STEPS = 0.8  # of the seconds; evaluation may have the rest


@dataclass(frozen=True)
class Timing:
    """Seconds of each part of one training."""

    start: float  # the network and its optimizer
    training: float  # all steps of an epoch
    evaluation: float  # of all minival images, after each epoch
    checkpoint: float  # after each epoch

    @property
    def epoch(self) -> float:
        """What a trial counts: training and evaluation."""
        return self.training + self.evaluation

    @classmethod
    def mean(cls, timings: list["Timing"]) -> "Timing":
        """Of several workers."""
        names = [each.name for each in fields(cls)]
        return cls(*(fmean(getattr(timing, name) for timing in timings) for name in names))


class _Enough(Exception):
    """Ends the loop in the middle of an epoch."""


def time_training(
    network: Network,
    dataset: AnyDataset,
    recipe: Recipe,
    *,
    seed: int,
    seconds: float,
    device: str,
    scratch: Path,
    watch: Watch | None = None,
) -> Timing:
    """Trains for about so many seconds, a few steps at least; what an epoch takes is taken from
    whole epochs, where there was time for any. A checkpoint is written to `scratch`.
    """
    began = time.perf_counter()
    num_classes, resolution = len(dataset.classes), dataset.resolution
    state = start(network, num_classes, recipe, seed=seed, resolution=resolution, device=device)
    started = time.perf_counter()
    until = started + FOR_STEPS * seconds
    warm_up = WARM_UP_OF_GPU if state.device.type == "cuda" else WARM_UP
    marks: list[float] = []  # when each step of the epoch that is under way was done

    def on_step(num_steps: int) -> None:
        _wait_for(state.device)
        marks.append(time.perf_counter())
        if marks[-1] > until and (epochs or len(marks) >= warm_up + LEAST):
            raise _Enough

    epochs: list[EpochResult] = []
    try:
        for result in train(state, dataset, recipe, seed=seed, on_step=on_step, watch=watch):
            epochs.append(result)
            marks.clear()
            if time.perf_counter() > until:
                break
    except _Enough:
        pass
    feed = make_feed(dataset, recipe, seed=seed, device=state.device)
    if epochs:
        whole = epochs[1:] or epochs  # the first warms up
        images = feed.num_steps * feed.batch_size
        training = fmean(images / (result.images_per_second or 1) for result in whole)
        evaluation = fmean(result.seconds for result in whole) - training
    else:
        timed = marks[warm_up - 1 :]
        training = feed.num_steps * (timed[-1] - timed[0]) / (len(timed) - 1)
        evaluation = _time_evaluation(state.model, feed, recipe, len(dataset.minival), until)
        passes = 1.0 if state.ema is None else 2.0  # an average of the weights is evaluated too
        if watch is not None:
            share = watch.share_of(len(feed.chosen), len(dataset.minival))
            passes += share * len(watch.names)
        evaluation *= passes
    saving = time.perf_counter()
    checkpoint.save(scratch / "checkpoint.pt", state)
    return Timing(started - began, training, evaluation, time.perf_counter() - saving)


def _time_evaluation(
    model: torch.nn.Module, feed: Feed, recipe: Recipe, num_images: int, until: float
) -> float:
    """Seconds for all images, from as many batches as there is time for."""
    num_batches = -(-num_images // EVAL_BATCH_SIZE)
    began = time.perf_counter()
    done = 0
    for batch in feed.minival():
        evaluate(model, iter([batch]), recipe.precision)
        done += 1
        if time.perf_counter() > until:
            break
    return num_batches * (time.perf_counter() - began) / done


def _wait_for(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
