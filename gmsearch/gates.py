"""The gates as modules: s(P h)·Q h, one class for every form.

A form is a row of `architecture.FORMS` that names its operators P and Q; the operators and the
activations are the rows of the two tables below. In training on a GPU the product is one kernel,
where `can_fuse` says so; everywhere else it is plain PyTorch, and the modules are the same.
"""

from collections.abc import Callable

import torch
from timm.layers import LayerNorm2d
from torch import Tensor, nn

from gmsearch import kernels
from gmsearch.architecture import FORMS
from gmsearch.depthwise import DepthwiseConv2d
from gmsearch.pointwise import PointwiseConv2d

ACTIVATIONS: dict[str, type[nn.Module]] = {
    "relu6": nn.ReLU6,
    "relu": nn.ReLU,
    "gelu": nn.GELU,
    "silu": nn.SiLU,
    "hardswish": nn.Hardswish,
    "sigmoid": nn.Sigmoid,
    "hardsigmoid": nn.Hardsigmoid,
    "tanh": nn.Tanh,
    "identity": nn.Identity,
}

# An operator on features of `width` channels; `cost.OPERATORS` has the cost of the same name.
OPERATORS = {
    "same": lambda width: nn.Identity(),
    "norm": lambda width: LayerNorm2d(width, eps=1e-6),
    "dw3x3": lambda width: DepthwiseConv2d(width, kernel=3),
    "linear": lambda width: PointwiseConv2d(width, width),
    "pool_linear": lambda width: nn.Sequential(
        nn.AdaptiveAvgPool2d(1), PointwiseConv2d(width, width)
    ),
}


class Gate(nn.Module):
    """s(P h)·Q k on features of `width` channels, (N, C, H, W) to (N, C, H, W).

    k is h itself, except for the forms of two projections, where h = A x and k = B x.
    """

    def __init__(self, form: str, activation: str, width: int) -> None:
        super().__init__()
        self.gate = OPERATORS[FORMS[form].gate](width)
        self.act = ACTIVATIONS[activation]()
        self.value = OPERATORS[FORMS[form].value](width)
        self.activation = activation
        self.takes_biases = FORMS[form].gate == FORMS[form].value == "same"

    def forward(self, h: Tensor, k: Tensor | None = None) -> Tensor:
        p, q = self.gate(h), self.value(h if k is None else k)
        if not torch.jit.is_scripting():
            if self.training and can_fuse(p, q):
                return _kernel()(self.activation, p, None if q is p else q)
        return self.act(p) * q

    def with_biases(
        self, h: Tensor, bias: Tensor, k: Tensor | None = None, k_bias: Tensor | None = None
    ) -> Tensor:
        """The gate of h + bias, and of k + k_bias if there are two; biases are (C,).

        For forms whose P and Q are the identity.
        """
        if can_fuse(h, h if k is None else k):
            return _kernel()(self.activation, h, k, bias=bias, value_bias=k_bias)
        h = h + bias.view(-1, 1, 1).to(h.dtype)
        if k is not None and k_bias is not None:
            k = k + k_bias.view(-1, 1, 1).to(k.dtype)
        return self(h, k)


def can_fuse(*features: Tensor) -> bool:
    """Whether a gate of these can be the kernel of `fused_gate`: all of one shape."""
    return kernels.can_run("gate", *features) and len({x.shape for x in features}) == 1


def _kernel() -> Callable[..., Tensor]:
    """Loads Triton, which not every machine has."""
    from gmsearch.fused_gate import fused_gate

    return fused_gate
