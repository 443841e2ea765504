"""How a network is trained, as data, and the schedule of its learning rate."""

import math
from dataclasses import dataclass, field, fields
from typing import Any

from gmsearch.errors import SettingsError

PRECISIONS = ("auto", "bf16", "fp32")


def _setting(default: Any, low: float, high: float, words: str) -> Any:
    """A number of a recipe: its default, its range, and what `--help` says of it."""
    return field(default=default, metadata={"low": low, "high": high, "help": words})


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """The settings of one training. The defaults are those of a search trial: few epochs, a short
    warm-up.

    Raises SettingsError for a value out of range.
    """

    num_epochs: int = _setting(6, 1, 10_000, "of each training")
    batch_size: int = _setting(32, 1, 65_536, "images in a batch")
    lr: float = _setting(3e-3, 1e-8, 10, "peak learning rate of AdamW at this batch size")
    lr_batch_size: int = _setting(
        0, 0, 1_000_000, "the batch size that lr is for, which grows with its square root; 0: any"
    )
    weight_decay: float = _setting(0.05, 0, 10, "on weights of two and more dimensions only")
    warmup_epochs: float = _setting(1.0, 0, 1_000, "of a learning rate that grows from zero")
    label_smoothing: float = _setting(0.1, 0, 0.9, "share of a target that goes to all classes")
    clip_grad: float = _setting(1.0, 0, 1e6, "largest norm of the gradient; 0 leaves it as it is")
    min_crop_area: float = _setting(
        1.0, 0.01, 1, "smallest share of an image in a resized crop; 1: crops only move"
    )
    train_share: float = _setting(
        1.0, 0.001, 1, "of the training images of each class, the same in every epoch"
    )
    flip: bool = True  # half of the images, left to right
    color_jitter: float = _setting(
        0.0, 0, 1, "largest change of brightness, contrast and saturation, as a share"
    )
    rand_augment: float = _setting(0.0, 0, 10, "magnitude of two random operations; 0 for none")
    random_erasing: float = _setting(0.0, 0, 1, "share of images with an erased rectangle")
    mixup: float = _setting(0.0, 0, 100, "alpha of mixup; 0 for none")
    cutmix: float = _setting(
        0.0, 0, 100, "alpha of CutMix; 0 for none. With both, a batch draws one of the two"
    )
    distillation: float = _setting(0.5, 0, 1, "share of the loss that is a teacher's, if any")
    temperature: float = _setting(1.0, 0.01, 100, "by which the answers of a teacher are softened")
    ema_decay: float = _setting(
        0.0,
        0,
        0.99999,
        "of an average of the weights that is evaluated instead, once so many steps are done that "
        "1 - steps^(-2/3) is as large; 0 for none",
    )
    precision: str = "auto"  # auto: bf16 on a GPU that has it, else fp32

    def __post_init__(self) -> None:
        for setting in fields(self):
            value, told = getattr(self, setting.name), setting.metadata
            if told and not told["low"] <= value <= told["high"]:
                raise SettingsError(
                    f"{setting.name} is {value!r}; allowed: "
                    f"from {told['low']:g} to {told['high']:g}"
                )
        if self.precision not in PRECISIONS:
            allowed = ", ".join(PRECISIONS)
            raise SettingsError(f"precision is {self.precision!r}; allowed: {allowed}")


def peak_learning_rate(recipe: Recipe) -> float:
    """The learning rate at its highest. For AdamW it follows the square root of the batch size
    (Malladi et al. 2022, arXiv 2205.10287).
    """
    if not recipe.lr_batch_size:
        return recipe.lr
    return recipe.lr * math.sqrt(recipe.batch_size / recipe.lr_batch_size)


def learning_rate(recipe: Recipe, progress: float) -> float:
    """The learning rate at `progress` in [0, 1] of a training: a linear warm-up, then half a cosine
    to zero.
    """
    peak = peak_learning_rate(recipe)
    warmup = min(recipe.warmup_epochs / recipe.num_epochs, 0.5)
    if progress < warmup:
        return peak * progress / warmup
    return peak * (1 + math.cos(math.pi * (progress - warmup) / (1 - warmup))) / 2
