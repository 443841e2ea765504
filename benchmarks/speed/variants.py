"""The ways of training that are compared: a network, its optimizer, and one step."""

import copy
import os
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, replace
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from gmsearch.block import use_algebra
from gmsearch.crew import Crew
from gmsearch.depthwise import DepthwiseConv2d
from gmsearch.feeding import ALONE
from gmsearch.network import Network
from gmsearch.pointwise import PointwiseConv2d, StridedPointwise
from gmsearch.recipe import Recipe
from gmsearch.speedups import SPEEDUPS, VARIABLE
from gmsearch.step import make_step
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
    "cpu": {"channels_last": "2-4", "depthwise": "1.55-1.8"},
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
            recipe = Recipe(precision=variant.precision, label_smoothing=0.0)
            self._take_step = make_step(Crew(model, ALONE), optimizer, recipe)

    def step(self) -> None:
        """What the training loop does for a batch, without feeding; a GPU goes on by itself."""
        with switched_off(self.variant.off):
            self._take_step([(self.images, self.targets)], LEARNING_RATE)

    def logits(self, images: Tensor) -> Tensor:
        narrow = self.variant.precision == "bf16"
        with (
            switched_off(self.variant.off),
            torch.autocast(images.device.type, torch.bfloat16, enabled=narrow),
        ):
            logits = self.model(images)
        return logits if logits.dtype == torch.float64 else logits.float()

    def loss(self, logits: Tensor) -> Tensor:
        return F.cross_entropy(logits, self.targets[: len(logits)])

    def saved_bytes(self) -> int:
        """What the backward pass keeps of the forward pass, each storage once, no parameters."""
        held = {p.untyped_storage().data_ptr() for p in self.model.parameters()}
        kept: dict[int, int] = {}

        def pack(tensor: Tensor) -> Tensor:
            storage = tensor.untyped_storage()
            if storage.data_ptr() not in held:
                kept[storage.data_ptr()] = storage.nbytes()
            return tensor.detach()  # a saved output would hold the graph that holds it

        hooks: AbstractContextManager = torch.autograd.graph.saved_tensors_hooks(pack, lambda t: t)
        with hooks:
            self.loss(self.logits(self.images))
        return sum(kept.values())


FEW = 32  # images, of which logits and gradients are compared
SILENT = 1e-5


def without_ours(model: nn.Module) -> None:
    """Puts torch's own convolutions in the place of ours, with the same parameters."""
    for module in model.modules():
        if isinstance(module, (DepthwiseConv2d, PointwiseConv2d, StridedPointwise)):
            module.__class__ = nn.Conv2d


class Errors(NamedTuple):
    """Norms of the difference from float64, as shares of the norm: of the logits, and of gradients
    parameter by parameter, the median and the largest.

    Left out are parameters whose exact gradient is 0 but for rounding, as of a bias before a batch
    norm: the root mean square of its elements is below SILENT of the largest of any parameter. A
    gradient that is missing counts as 0. A feature within rounding of a kink of the activation may
    go to its other side: the largest is then 1e-4 to 1e-2 in fp32, where the median stays.
    """

    logits: float
    median: float
    largest: float


def errors_of(training: Training) -> Errors:
    """How far a fresh training, but for its layer scales, is from the same network in float64 with
    torch's own operators.
    """
    with grown(training.model):
        exact = Training.__new__(Training)
        exact.model = copy.deepcopy(training.model).double()
        without_ours(exact.model)
        use_algebra(exact.model, on=False)
        exact.images, exact.targets = training.images.double(), training.targets
        exact.variant = replace(training.variant, precision="fp32", off=SPEEDUPS)
        (logits, ours), (exact_logits, theirs) = map(_logits_and_gradients, (training, exact))
    sizes = {name: float(gradient.square().mean().sqrt()) for name, gradient in theirs.items()}
    loud = [name for name, size in sizes.items() if size > SILENT * max(sizes.values())]
    silence = torch.zeros((), dtype=torch.float64, device=logits.device)
    errors = torch.tensor([_difference(ours.get(name, silence), theirs[name]) for name in loud])
    return Errors(_difference(logits, exact_logits), float(errors.median()), float(errors.max()))


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


def _logits_and_gradients(training: Training) -> tuple[Tensor, dict[str, Tensor]]:
    """In float64, gradients by parameter; those that are spared have none."""
    training.model.zero_grad(set_to_none=True)
    logits = training.logits(training.images[:FEW])
    training.loss(logits).backward()
    named = training.model.named_parameters()
    gradients = {name: p.grad.double().flatten() for name, p in named if p.grad is not None}
    return logits.detach().double(), gradients
