"""The ways of training that are compared: a network, its optimizer, and one step."""

import copy
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from gmsearch.block import use_algebra
from gmsearch.depthwise import DepthwiseConv2d
from gmsearch.network import Network
from gmsearch.pointwise import PointwiseConv2d, StridedPointwise
from gmsearch.zoo import build_network

NUM_CLASSES = 100
LEARNING_RATE = 1e-4  # so small that many steps on noise change nothing that could be slow


@dataclass(frozen=True)
class Variant:
    """`gmsearch` is all of it; what is off is as PyTorch has it."""

    channels_last: bool = True
    own_depthwise: bool = True  # gmsearch.depthwise
    own_pointwise: bool = True  # gmsearch.pointwise
    algebra: bool = True  # gmsearch.block.use_algebra
    fused_optimizer: bool = True
    precision: torch.dtype = torch.float32
    compiled: bool = False


OURS, PLAIN = "gmsearch", "plain fp32"


def variants(device: torch.device) -> dict[str, Variant]:
    """Plain PyTorch, ours, and ours with each of its parts off."""
    narrow = has_bf16(device)
    ours = Variant(precision=torch.bfloat16 if device.type == "cuda" else torch.float32)
    found = {
        PLAIN: Variant(
            channels_last=False,
            own_depthwise=False,
            own_pointwise=False,
            algebra=False,
            fused_optimizer=False,
        ),
        OURS: ours,
        "- channels_last": replace(ours, channels_last=False),
        "- own depthwise": replace(ours, own_depthwise=False),
        "- own pointwise": replace(ours, own_pointwise=False),
        "- algebra": replace(ours, algebra=False),
        "- fused optimizer": replace(ours, fused_optimizer=False),
    }
    if narrow:
        stock = replace(found[PLAIN], channels_last=True, precision=torch.bfloat16)
        found["plain bf16 channels_last"] = stock
        other = torch.float32 if ours.precision == torch.bfloat16 else torch.bfloat16
        name = "- bf16" if other == torch.float32 else "+ bf16"
        found[name] = replace(ours, precision=other)
    if device.type == "cuda":
        found["+ compile"] = replace(ours, compiled=True)
    return found


def has_bf16(device: torch.device) -> bool:
    """Whether a device computes in bf16; others emulate it, many times slower."""
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(False)
    return torch.ops.mkldnn._is_mkldnn_bf16_supported()


class Training:
    """One network that is trained in one way on one batch."""

    def __init__(
        self, network: Network, variant: Variant, resolution: int, batch_size: int, device: str
    ) -> None:
        torch.manual_seed(0)
        model = build_network(network, NUM_CLASSES, resolution).train()
        images = torch.randn(batch_size, 3, resolution, resolution)
        self.targets = torch.randint(0, NUM_CLASSES, (batch_size,)).to(device)
        if not variant.own_depthwise:
            without_ours(model, (DepthwiseConv2d,))
        if not variant.own_pointwise:
            without_ours(model, POINTWISE)
        if variant.algebra:
            use_algebra(model)
        layout = torch.channels_last if variant.channels_last else torch.contiguous_format
        self.model = model.to(device=device, memory_format=layout)
        self.images = images.to(device=device, memory_format=layout)
        self.optimizer = torch.optim.AdamW(
            model.parameters(), LEARNING_RATE, fused=variant.fused_optimizer
        )
        self.precision = variant.precision
        self.forward: Callable[[Tensor], Tensor] = model
        if variant.compiled:
            self.forward = torch.compile(model)

    def loss(self) -> Tensor:
        kind, narrow = self.images.device.type, self.precision == torch.bfloat16
        with torch.autocast(kind, torch.bfloat16, enabled=narrow):
            logits = self.forward(self.images)
        return F.cross_entropy(
            logits if logits.dtype == torch.float64 else logits.float(), self.targets
        )

    def step(self) -> None:
        """What the training loop does for a batch, without feeding."""
        self.optimizer.zero_grad(set_to_none=True)
        self.loss().backward()
        nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        self.optimizer.step()
        if self.images.device.type == "cuda":
            torch.cuda.synchronize()

    def saved_bytes(self) -> int:
        """What the backward pass keeps of the forward pass, each storage once, no parameters."""
        held = {p.untyped_storage().data_ptr() for p in self.model.parameters()}
        kept: dict[int, int] = {}

        def pack(tensor: Tensor) -> Tensor:
            storage = tensor.untyped_storage()
            if storage.data_ptr() not in held:
                kept[storage.data_ptr()] = storage.nbytes()
            return tensor

        hooks: AbstractContextManager = torch.autograd.graph.saved_tensors_hooks(pack, lambda t: t)
        with hooks:
            self.loss()
        return sum(kept.values())


POINTWISE = PointwiseConv2d, StridedPointwise


def without_ours(
    model: nn.Module, kinds: tuple[type[nn.Module], ...] = (DepthwiseConv2d, *POINTWISE)
) -> None:
    """Puts torch's own convolutions in the place of ours, with the same parameters."""
    for module in model.modules():
        if isinstance(module, kinds):
            module.__class__ = nn.Conv2d


def gradients(training: Training) -> dict[str, Tensor]:
    """Of one batch, in float64, by parameter; those that are spared have none."""
    training.model.zero_grad(set_to_none=True)
    training.loss().backward()
    named = training.model.named_parameters()
    return {name: p.grad.double().flatten() for name, p in named if p.grad is not None}


def error_of(training: Training) -> float:
    """How far the gradients of a fresh training are from those of the same network in float64 with
    torch's own operators: the norm of the difference, as a share of the norm.
    """
    exact = Training.__new__(Training)
    exact.model = copy.deepcopy(training.model).double()
    without_ours(exact.model)
    use_algebra(exact.model, on=False)
    exact.images, exact.targets = training.images.double(), training.targets
    exact.precision, exact.forward = torch.float64, exact.model
    ours, theirs = gradients(training), gradients(exact)
    wanted = torch.cat([theirs[name] for name in ours])
    return float((torch.cat(list(ours.values())) - wanted).norm() / wanted.norm())
