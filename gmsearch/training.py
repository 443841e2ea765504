"""The training loop: a generator that yields one result per epoch and knows nothing of who listens.

    state = start(network, num_classes, recipe, seed=0, resolution=32)
    for result in train(state, dataset, recipe, seed=0):
        ...  # save the state, report the result, or stop

A search trial and a full training are two listeners on this loop; they differ in recipe and data
only. All randomness of a step is a function of (seed, epoch, step), so a training that stops after
any epoch and goes on from its saved state equals one that never stopped.
"""

import math
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

import torch
from timm.optim import param_groups_weight_decay
from timm.utils import ModelEmaV3
from torch import Tensor, nn
from torch.nn import functional as F

from gmsearch.block import use_algebra
from gmsearch.crew import Crew
from gmsearch.data import AnyDataset, StreamedDataset
from gmsearch.errors import TrainingError
from gmsearch.feeding import ALONE, ArrayFeed, Batches, Feed, Share, choose_share
from gmsearch.frequency import hits_by_part
from gmsearch.network import Network
from gmsearch.precision import autocast
from gmsearch.radii import Watch
from gmsearch.recipe import Recipe, learning_rate
from gmsearch.speedups import is_on
from gmsearch.step import Step, make_step
from gmsearch.streaming import StreamFeed
from gmsearch.weights import load_weights
from gmsearch.zoo import build_network


@dataclass(frozen=True)
class EpochResult:
    """One finished epoch. `top1` is a percentage of the minival split."""

    epoch: int  # epochs trained so far, from 1
    top1: float
    loss: float | None  # cross-entropy on minival; None where it is not finite for some image
    train_loss: float  # mean over the epoch, label smoothing included
    seconds: float  # of training and evaluation
    images_per_second: float | None = None  # in training
    top5: float | None = None
    raw_top1: float | None = None  # of the weights themselves, where their average gave top1
    bands: dict[str, float] | None = None  # top1 on parts of some minival images, by `radii` names
    band_images: int | None = None  # how many images these are of
    band_seconds: float | None = None  # what looking at them took, of `seconds`
    evaluation_seconds: float | None = None  # of `seconds`, what followed the steps

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


@dataclass
class TrainingState:
    """All that a training needs to go on: `history` has one result for each finished epoch."""

    model: nn.Module
    optimizer: torch.optim.Optimizer
    ema: ModelEmaV3 | None
    device: torch.device
    history: list[EpochResult] = field(default_factory=list)
    step: int = 0  # of the epoch that is under way: so many steps are done
    loss: Tensor = field(default_factory=lambda: torch.zeros(()))  # the sum of their losses
    teacher: nn.Module | None = None

    def state_dict(self) -> dict[str, Any]:
        """Tensors and plain values only, so that it loads with `weights_only`."""
        return {
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "ema": None if self.ema is None else self.ema.module.state_dict(),
            "history": [result.to_dict() for result in self.history],
            "step": self.step,
            "loss": self.loss,
        }

    def load_state_dict(self, saved: dict[str, Any]) -> None:
        self.model.load_state_dict(saved["model"])
        self.optimizer.load_state_dict(saved["optimizer"])
        if self.ema is not None:
            self.ema.module.load_state_dict(saved["ema"])
        self.history = [EpochResult(**result) for result in saved["history"]]
        self.step, self.loss = saved["step"], saved["loss"].to(self.device)


def start(
    network: Network,
    num_classes: int,
    recipe: Recipe,
    *,
    seed: int,
    resolution: int,
    device: str | torch.device = "cpu",
    weights: Path | None = None,
) -> TrainingState:
    """A network, fresh or with `weights` from a file, and its optimizer.

    Seeds torch's global generator, from which fresh weights are drawn. Raises UserError where the
    network cannot be made for images of `resolution` px, or the weights are not its own.
    """
    torch.manual_seed(seed)
    device = torch.device(device)
    model = build_network(network, num_classes, resolution)
    if weights is not None:
        load_weights(model, weights)
    model = model.to(memory_format=torch.channels_last).to(device)
    spared: Any = getattr(model, "no_weight_decay", set)  # by name, as a model of timm may say
    groups = param_groups_weight_decay(model, recipe.weight_decay, no_weight_decay_list=spared())
    optimizer = torch.optim.AdamW(
        groups, lr=recipe.lr, weight_decay=recipe.weight_decay, fused=True
    )
    # The optimizer has all parameters, those without a gradient too.
    use_algebra(model, on=is_on("algebra"))
    # A short training would end in an average of little but its first weights: its decay grows.
    ema = ModelEmaV3(model, decay=recipe.ema_decay, use_warmup=True) if recipe.ema_decay else None
    loss = torch.zeros((), device=device)
    return TrainingState(model, optimizer, ema, device, loss=loss)


def train(
    state: TrainingState,
    dataset: AnyDataset,
    recipe: Recipe,
    *,
    seed: int,
    share: Share = ALONE,
    on_step: Callable[[int], None] = lambda num_steps: None,
    watch: Watch | None = None,
) -> Iterator[EpochResult]:
    """Trains from where `state` stands to the recipe's last epoch; yields after each, with `state`
    up to date.

    `share` is this worker's of a training by several. `on_step` is called after every step of an
    epoch but the last, with the number of steps that an epoch has; `state` may be saved there too.
    `watch` has the bands looked at after every epoch; nothing that is trained depends on it.
    Raises TrainingError where the training loss is not finite, or the logits of no minival image
    are.
    """
    feed = make_feed(dataset, recipe, seed=seed, device=state.device, share=share)
    crew = Crew(state.model, share)
    take_step = make_step(crew, state.optimizer, recipe, state.teacher)
    while len(state.history) < recipe.num_epochs:
        began, steps_left = time.perf_counter(), feed.num_steps - state.step
        _train_epoch(state, feed, crew, take_step, recipe, on_step)
        train_loss = state.loss.item() / feed.num_steps  # which waits for a GPU
        trained = time.perf_counter() - began
        state.step, state.loss = 0, torch.zeros((), device=state.device)
        epoch = len(state.history) + 1
        if not math.isfinite(train_loss):
            raise TrainingError(f"the training loss is {train_loss} in epoch {epoch}")
        models = [state.model] if state.ema is None else [state.model, state.ema.module]
        crew.follow_first(*models)
        found = [evaluate(model, feed.minival(), recipe.precision, crew) for model in models]
        best = found[-1]
        if not best.num_finite:
            raise TrainingError(f"no logits are finite on minival after epoch {epoch}")
        bands = {} if watch is None else _look_at(watch, models[-1], feed, recipe, crew)
        seconds = time.perf_counter() - began
        result = EpochResult(
            epoch=epoch,
            top1=best.top1,
            loss=best.loss if math.isfinite(best.loss) else None,
            train_loss=train_loss,
            seconds=seconds,
            images_per_second=steps_left * feed.batch_size / trained,
            top5=best.top5,
            raw_top1=None if state.ema is None else found[0].top1,
            evaluation_seconds=seconds - trained,
            **bands,
        )
        state.history.append(result)
        yield result


def make_feed(
    dataset: AnyDataset,
    recipe: Recipe,
    *,
    seed: int,
    device: torch.device,
    share: Share = ALONE,
) -> Feed:
    """The batches of a training on a data set of either kind."""
    kind: Any = StreamFeed if isinstance(dataset, StreamedDataset) else ArrayFeed
    return kind(dataset, recipe, seed=seed, device=device, share=share)


def _train_epoch(
    state: TrainingState,
    feed: Feed,
    crew: Crew,
    take_step: Step,
    recipe: Recipe,
    on_step: Callable[[int], None],
) -> None:
    """The steps of an epoch that are left; their losses add up in `state`."""
    state.model.train()
    epoch = len(state.history)
    batches = feed.batches(epoch, state.step)
    for step in range(state.step, feed.num_steps):
        progress = (epoch + (step + 0.5) / feed.num_steps) / recipe.num_epochs
        parts = islice(batches, feed.share.accumulate)
        loss = take_step(parts, learning_rate(recipe, progress))
        state.loss += crew.sum(loss) / crew.share.workers
        if state.ema is not None:
            state.ema.update(state.model, step=epoch * feed.num_steps + step + 1)
        state.step = step + 1
        if state.step < feed.num_steps:
            on_step(feed.num_steps)


def _look_at(
    watch: Watch, model: nn.Module, feed: Feed, recipe: Recipe, crew: Crew
) -> dict[str, Any]:
    """What an epoch result has of the bands."""
    began = time.perf_counter()
    labels = feed.minival_labels
    which = choose_share(labels, watch.share_of(len(feed.chosen), len(labels)), seed=0)
    hits = hits_by_part(model, feed.minival(which), watch.names, recipe.precision)
    found = torch.stack(list(hits.values())).double()  # (parts, images), of this worker
    num_images = int(crew.sum(found.new_tensor(found.shape[1])))
    shares = (crew.sum(found.sum(1)) / num_images).tolist()
    return {
        "bands": {name: 100 * share for name, share in zip(hits, shares, strict=True)},
        "band_images": num_images,
        "band_seconds": time.perf_counter() - began,
    }


class Evaluation(NamedTuple):
    """How a model does on some images."""

    top1: float  # in per cent
    top5: float  # in per cent
    loss: float  # mean cross-entropy, which a single image can make infinite
    num_finite: int  # images with finite logits
    by_class: tuple[float, ...]  # top1 of each class; NaN for one without images


@torch.inference_mode()
def evaluate(
    model: nn.Module, batches: Batches, precision: str = "fp32", crew: Crew | None = None
) -> Evaluation:
    """Evaluates a model on normalised images and their labels, both on its own device; with a
    crew, on those of all its workers together.

    An image with logits that are not finite counts as wrong. They come from products of features
    without a bound, such as h·h, where the running statistics of a BN lag behind the network: a few
    images overflow, and the rest of the answer is as good as any.
    """
    model.eval()
    tally: Any = 0.0  # (4, num_classes): hits, hits among five, loss, images with finite logits
    counts: Any = 0  # (num_classes,): images
    for batch, target in batches:
        with autocast(batch.device, precision):
            logits = model(batch).float()
        num_classes = logits.shape[1]
        finite = logits.isfinite().all(1)
        best = logits.topk(min(5, num_classes)).indices == target[:, None]
        loss = F.cross_entropy(logits, target, reduction="none")
        hits = finite & (logits.argmax(1) == target)
        columns = torch.stack([hits, finite & best.any(1), loss, finite]).double()
        ours = F.one_hot(target, num_classes)
        tally = tally + torch.stack([torch.where(ours.T > 0, c, 0).sum(1) for c in columns])
        counts = counts + ours.sum(0)
    if crew is not None:
        tally, counts = crew.sum(tally), crew.sum(counts)
    (hits, among_five, loss, finite), count = tally.sum(1).tolist(), int(counts.sum())
    by_class = (100 * tally[0] / counts).tolist()
    return Evaluation(
        100 * hits / count, 100 * among_five / count, loss / count, int(finite), tuple(by_class)
    )
