"""The ways of training that are compared: a network, its optimizer, and one step."""

import copy
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from statistics import median
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from gmsearch.block import use_algebra
from gmsearch.crew import Crew
from gmsearch.depthwise import DepthwiseConv2d
from gmsearch.feeding import ALONE
from gmsearch.network import Network
from gmsearch.pointwise import PointwiseConv2d
from gmsearch.recipe import Recipe
from gmsearch.speedups import SPEEDUPS, VARIABLE
from gmsearch.step import WARM_UP, make_step
from gmsearch.zoo import build_network

NUM_CLASSES = 100
LEARNING_RATE = 1e-4  # so small that many steps on noise change nothing that could be slow


@dataclass(frozen=True)
class Variant:
    """`gmsearch` is all of it; what is off is as PyTorch has it."""

    channels_last: bool = True
    fused_optimizer: bool = True
    precision: str = "fp32"
    compiled: bool = False
    off: tuple[str, ...] = ()  # of gmsearch.speedups


# How many times as fast each part was expected to make a step, before it was written.
PREDICTED = {
    "cpu": {"channels_last": "2-4", "depthwise": "1.55-1.8", "algebra": "1.03"},
    "cuda": {"graph": "2-8", "gate": "1.5", "depthwise": "1.4-4", "algebra": "1.2-1.3"},
}
OURS, PLAIN, STOCK = "gmsearch", "plain fp32", "plain bf16 channels_last"


def variants(device: torch.device) -> dict[str, Variant]:
    """Plain PyTorch, ours, and ours with each of its parts off."""
    on_gpu, narrow = device.type == "cuda", has_bf16(device)
    ours = Variant(precision="bf16" if on_gpu and narrow else "fp32")
    plain = Variant(channels_last=False, fused_optimizer=False, off=SPEEDUPS)
    found = {PLAIN: plain}
    if narrow:
        found[STOCK] = replace(plain, channels_last=True, precision="bf16")
    found |= {OURS: ours, "- channels_last": replace(ours, channels_last=False)}
    of_another = ("pointwise",) if on_gpu else ("graph", "gate")
    for name in SPEEDUPS:
        if name not in of_another:
            found[f"- {name}"] = replace(ours, off=(name,))
    if on_gpu:
        found["+ compile"] = replace(ours, compiled=True)
    found["- fused optimizer"] = replace(ours, fused_optimizer=False)
    if narrow:
        other = "fp32" if ours.precision == "bf16" else "bf16"
        found["- bf16" if other == "fp32" else "+ bf16"] = replace(ours, precision=other)
    return found


def has_bf16(device: torch.device) -> bool:
    """Whether a device computes in bf16; others emulate it, many times slower."""
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(False)
    return torch.ops.mkldnn._is_mkldnn_bf16_supported()


@contextmanager
def switched_off(names: tuple[str, ...]) -> Iterator[None]:
    """Some of gmsearch.speedups."""
    before = os.environ.get(VARIABLE)
    os.environ[VARIABLE] = ",".join(names)
    try:
        yield
    finally:
        os.environ.pop(VARIABLE)
        if before is not None:
            os.environ[VARIABLE] = before


class Training:
    """One network that is trained in one way on one batch."""

    def __init__(
        self, network: Network, variant: Variant, resolution: int, batch_size: int, device: str
    ) -> None:
        torch.manual_seed(0)
        model = build_network(network, NUM_CLASSES, resolution).train()
        images = torch.randn(batch_size, 3, resolution, resolution)
        self.targets = torch.randint(0, NUM_CLASSES, (batch_size,)).to(device)
        if set(variant.off) == set(SPEEDUPS):
            without_ours(model)
        use_algebra(model, on="algebra" not in variant.off)
        layout = torch.channels_last if variant.channels_last else torch.contiguous_format
        self.model = model.to(device=device, memory_format=layout)
        self.images = images.to(device=device, memory_format=layout)
        self.variant = variant
        optimizer = torch.optim.AdamW(
            model.parameters(), LEARNING_RATE, fused=variant.fused_optimizer
        )
        if variant.compiled:
            model.compile()
        with switched_off(variant.off):
            self.recipe = Recipe(precision=variant.precision)
            self._take_step = make_step(Crew(model, ALONE), optimizer, self.recipe)

    def step(self, learning_rate: float = LEARNING_RATE, *, other: bool = False) -> Tensor:
        """What the training loop does for a batch, or another one, without feeding; a GPU goes on
        by itself. The loss.
        """
        batch = self.other() if other else (self.images, self.targets)
        with switched_off(self.variant.off):
            return self._take_step([batch], learning_rate)

    def other(self) -> tuple[Tensor, Tensor]:
        """A batch of mirrored images, with each other's targets."""
        return self.images.flip(3), self.targets.flip(0)

    def logits(self, images: Tensor) -> Tensor:
        narrow = self.variant.precision == "bf16"
        with (
            switched_off(self.variant.off),
            torch.autocast(images.device.type, torch.bfloat16, enabled=narrow),
        ):
            logits = self.model(images)
        return logits.float()


MOST_PIXELS = 1 << 20  # of the images of which errors are told: float64 takes memory
SILENT = 1e-5
# Of the step whose update is compared: so large that weights of 1 have digits for it.
COMPARED_RATE = 1e-2


def without_ours(model: nn.Module) -> None:
    """Puts torch's own convolutions in the place of ours, with the same parameters; not where
    they stand for one that crashes (`StridedPointwise`).
    """
    for module in model.modules():
        if isinstance(module, (DepthwiseConv2d, PointwiseConv2d)):
            module.__class__ = nn.Conv2d


class Exact(NamedTuple):
    """Of a network in float64, with torch's own operators."""

    loss: float
    logits: Tensor
    gradients: dict[str, Tensor]  # flat, by parameter
    updates: dict[str, Tensor]


class Errors(NamedTuple):
    """Of a step, and of one on another batch after it: norms of the difference from float64, as
    shares of the norm. `outputs` is the larger of that of the second loss, and that of the logits
    which the network has in evaluation after the first step, so of its statistics too. Gradients
    are those that the second step leaves, clipped, parameter by parameter, the median and the
    largest; `updates` is of what it does to all parameters together.

    A parameter is silent where its exact gradient is 0 but for rounding, as that of a bias before a
    batch norm: the root mean square of its elements is below SILENT of the largest of any. The
    median and the updates are without these; to the largest they add what they have, as a share of
    that largest root mean square. A gradient that is missing counts as 0. A feature within rounding
    of a kink of the activation may go to its other side: the largest is then 1e-4 to 1e-2 in fp32,
    where the median stays.
    """

    outputs: float
    median: float
    largest: float
    updates: float


def num_compared(resolution: int, batch_size: int) -> int:
    """The images of which errors are told."""
    return min(batch_size, max(1, MOST_PIXELS // resolution**2))


def exact_of(training: Training) -> Exact:
    """What `errors_of` has a training do, but in float64 with torch's own operators; the training
    is left as it was.
    """
    with grown(training.model):
        model = copy.deepcopy(training.model).double()
    without_ours(model)
    use_algebra(model, on=False)
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.0)
    images = training.images.double()
    _backward(model, images, training.targets, training.recipe)
    for _ in range(num_first(training)):
        optimizer.step()  # its moments; statistics are those of one step
    with torch.no_grad():
        logits = model.eval()(images)
    before = _parameters(model)
    images, targets = training.other()
    loss = _backward(model.train(), images.double(), targets, training.recipe)
    optimizer.param_groups[0]["lr"] = COMPARED_RATE
    optimizer.step()
    return Exact(loss, logits, _gradients(model), _updates(model, before))


def _backward(model: nn.Module, images: Tensor, targets: Tensor, recipe: Recipe) -> float:
    model.zero_grad()
    with switched_off(SPEEDUPS):
        logits = model(images)
    loss = F.cross_entropy(logits, targets, label_smoothing=recipe.label_smoothing)
    loss.backward()
    if recipe.clip_grad:
        nn.utils.clip_grad_norm_(model.parameters(), recipe.clip_grad)
    return loss.item()


def num_first(training: Training) -> int:
    """Steps on the first batch: on a GPU until it is the graph that steps."""
    return 1 + WARM_UP * training.images.is_cuda


def errors_of(training: Training, exact: Exact) -> Errors:
    """Of a fresh training, which is another one thereafter."""
    with grown(training.model):
        training.step(learning_rate=0.0)
        with torch.no_grad():
            training.model.eval()
            logits = training.logits(training.images).double()
            training.model.train()
        for _ in range(num_first(training) - 1):
            training.step(learning_rate=0.0)
        before = _parameters(training.model)
        loss = training.step(COMPARED_RATE, other=True).item()
        found, updates = _gradients(training.model), _updates(training.model, before)
    outputs = max(abs(loss / exact.loss - 1), _difference(logits, exact.logits))
    sizes = {name: float(g.square().mean().sqrt()) for name, g in exact.gradients.items()}
    most = max(sizes.values())
    told = [name for name, size in sizes.items() if size > SILENT * most]
    silence = torch.zeros((), dtype=torch.float64, device=logits.device)
    loud, silent = [], []
    for name, wanted in exact.gradients.items():
        mine = found.get(name, silence)
        if name in told:
            loud.append(_difference(mine, wanted))
        else:
            silent.append(float(mine.square().mean().sqrt()) / most)
    mine, wanted = (torch.cat([each[name] for name in told]) for each in (updates, exact.updates))
    return Errors(outputs, median(loud), max(loud + silent), _difference(mine, wanted))


@contextmanager
def grown(model: nn.Module) -> Iterator[None]:
    """Layer scales as training makes them: at those of a fresh network, 1e-6, what is in the blocks
    counts for nothing.
    """
    scales = [p for name, p in model.named_parameters() if name.endswith("gamma")]
    before = [scale.detach().clone() for scale in scales]
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for scale in scales:
            scale.copy_(0.5 + 0.1 * torch.randn(scale.shape, generator=generator))
    try:
        yield
    finally:
        with torch.no_grad():
            for scale, old in zip(scales, before, strict=True):
                scale.copy_(old)


def _difference(found: Tensor, wanted: Tensor) -> float:
    return float((found - wanted).norm() / wanted.norm())


def _gradients(model: nn.Module) -> dict[str, Tensor]:
    named = model.named_parameters()
    return {name: p.grad.double().flatten() for name, p in named if p.grad is not None}


def _parameters(model: nn.Module) -> dict[str, Tensor]:
    return {name: p.detach().double().flatten().clone() for name, p in model.named_parameters()}


def _updates(model: nn.Module, before: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: after - before[name] for name, after in _parameters(model).items()}
