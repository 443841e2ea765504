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
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import torch
from timm.optim import param_groups_weight_decay
from timm.utils import ModelEmaV3
from torch import nn
from torch.nn import functional as F

from gmsearch.data import AnyDataset, StreamedDataset
from gmsearch.errors import TrainingError
from gmsearch.feeding import ArrayFeed, Batches, Feed
from gmsearch.network import Network
from gmsearch.recipe import Recipe, learning_rate
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

    def state_dict(self) -> dict[str, Any]:
        """Tensors and plain values only, so that it loads with `weights_only`."""
        return {
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "ema": None if self.ema is None else self.ema.module.state_dict(),
            "history": [result.to_dict() for result in self.history],
        }

    def load_state_dict(self, saved: dict[str, Any]) -> None:
        self.model.load_state_dict(saved["model"])
        self.optimizer.load_state_dict(saved["optimizer"])
        if self.ema is not None:
            self.ema.module.load_state_dict(saved["ema"])
        self.history = [EpochResult(**result) for result in saved["history"]]


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
    ema = ModelEmaV3(model, decay=recipe.ema_decay) if recipe.ema_decay else None
    return TrainingState(model, optimizer, ema, device)


def train(
    state: TrainingState, dataset: AnyDataset, recipe: Recipe, *, seed: int
) -> Iterator[EpochResult]:
    """Trains from where `state` stands to the recipe's last epoch; yields after each, with `state`
    up to date.

    Raises TrainingError where the training loss is not finite, or the logits of no minival image
    are.
    """
    feed = make_feed(dataset, recipe, seed=seed, device=state.device)
    for epoch in range(len(state.history), recipe.num_epochs):
        began = time.perf_counter()
        train_loss = _train_epoch(state, feed, recipe, epoch)
        trained = time.perf_counter() - began
        if not math.isfinite(train_loss):
            raise TrainingError(f"the training loss is {train_loss} in epoch {epoch + 1}")
        model = state.model if state.ema is None else state.ema.module
        top1, loss, num_finite = evaluate(model, feed.minival(), recipe.precision)
        if not num_finite:
            raise TrainingError(f"no logits are finite on minival after epoch {epoch + 1}")
        seconds = time.perf_counter() - began
        num_images = feed.num_steps * feed.batch_size
        known_loss = loss if math.isfinite(loss) else None
        result = EpochResult(epoch + 1, top1, known_loss, train_loss, seconds, num_images / trained)
        state.history.append(result)
        yield result


def make_feed(
    dataset: AnyDataset, recipe: Recipe, *, seed: int, device: torch.device
) -> ArrayFeed | StreamFeed:
    """The batches of a training on a data set of either kind."""
    kind: Any = StreamFeed if isinstance(dataset, StreamedDataset) else ArrayFeed
    return kind(dataset, recipe, seed=seed, device=device)


def _train_epoch(state: TrainingState, feed: Feed, recipe: Recipe, epoch: int) -> float:
    """One pass over the training images; returns the mean loss."""
    state.model.train()
    total = torch.zeros((), device=state.device)
    for step, (batch, target) in enumerate(feed.batches(epoch)):
        lr = learning_rate(recipe, (epoch + (step + 0.5) / feed.num_steps) / recipe.num_epochs)
        for group in state.optimizer.param_groups:
            group["lr"] = lr
        with _autocast(state.device, recipe.precision):
            logits = state.model(batch)
            loss = F.cross_entropy(logits.float(), target, label_smoothing=recipe.label_smoothing)
        state.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        if recipe.clip_grad:
            nn.utils.clip_grad_norm_(state.model.parameters(), recipe.clip_grad)
        state.optimizer.step()
        if state.ema is not None:
            state.ema.update(state.model)
        total += loss.detach()
    return total.item() / feed.num_steps


class Evaluation(NamedTuple):
    """How a model does on some images."""

    top1: float  # in per cent
    loss: float  # mean cross-entropy, which a single image can make infinite
    num_finite: int  # images with finite logits


@torch.inference_mode()
def evaluate(model: nn.Module, batches: Batches, precision: str = "fp32") -> Evaluation:
    """Evaluates a model on normalised images and their labels, both on its own device.

    An image with logits that are not finite counts as wrong. They come from products of features
    without a bound, such as h·h, where the running statistics of a BN lag behind the network: a few
    images overflow, and the rest of the answer is as good as any.
    """
    model.eval()
    correct = total = num_finite = torch.zeros(())
    num_images = 0
    for batch, target in batches:
        with _autocast(batch.device, precision):
            logits = model(batch).float()
        finite = logits.isfinite().all(1)
        correct = correct + (finite & (logits.argmax(1) == target)).sum()
        total = total + F.cross_entropy(logits, target, reduction="sum")
        num_finite = num_finite + finite.sum()
        num_images += len(target)
    return Evaluation(100 * float(correct) / num_images, float(total) / num_images, int(num_finite))


def _autocast(device: torch.device, precision: str) -> torch.autocast:
    """bf16 where it is asked for or, under `auto`, where it is faster.

    On a CPU that is nowhere yet: without bf16 instructions it is 5-10 times slower, and with them
    the weight gradient of depthwise convolutions eats the gain.
    """
    faster = device.type == "cuda" and torch.cuda.is_bf16_supported(False)
    enabled = precision == "bf16" or (precision == "auto" and faster)
    return torch.autocast(device.type, torch.bfloat16, enabled=enabled)
