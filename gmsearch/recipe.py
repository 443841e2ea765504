"""How a network is trained, as data, and the schedule of its learning rate."""

import math
from dataclasses import dataclass

from gmsearch.errors import SettingsError

PRECISIONS = ("auto", "bf16", "fp32")


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """The settings of one training. The defaults are those of a search trial: few epochs, a short
    warm-up.

    Raises SettingsError for a value out of range.
    """

    num_epochs: int = 6
    batch_size: int = 32
    lr: float = 3e-3  # peak learning rate of AdamW at this batch size
    weight_decay: float = 0.05  # on weights of two and more dimensions only
    warmup_epochs: float = 1.0
    label_smoothing: float = 0.1
    clip_grad: float = 1.0  # largest norm of the gradient; 0 leaves it as it is
    crop_padding: float = 0.125  # random crops move by up to this share of the side
    flip: bool = True
    ema_decay: float = 0.0  # of an average of the weights that is evaluated instead; 0 for none
    precision: str = "auto"  # auto: bf16 on a GPU that has it, else fp32

    def __post_init__(self) -> None:
        for name, low, high in (
            ("num_epochs", 1, 10_000),
            ("batch_size", 1, 65_536),
            ("lr", 1e-8, 10.0),
            ("weight_decay", 0.0, 10.0),
            ("warmup_epochs", 0.0, 1_000.0),
            ("label_smoothing", 0.0, 0.9),
            ("clip_grad", 0.0, 1e6),
            ("crop_padding", 0.0, 0.5),
            ("ema_decay", 0.0, 0.99999),
        ):
            value = getattr(self, name)
            if not low <= value <= high:
                raise SettingsError(f"{name} is {value!r}; allowed: from {low:g} to {high:g}")
        if self.precision not in PRECISIONS:
            allowed = ", ".join(PRECISIONS)
            raise SettingsError(f"precision is {self.precision!r}; allowed: {allowed}")


def learning_rate(recipe: Recipe, progress: float) -> float:
    """The learning rate at `progress` in [0, 1] of a training: a linear warm-up, then half a cosine
    to zero.
    """
    warmup = min(recipe.warmup_epochs / recipe.num_epochs, 0.5)
    if progress < warmup:
        return recipe.lr * progress / warmup
    return recipe.lr * (1 + math.cos(math.pi * (progress - warmup) / (1 - warmup))) / 2
