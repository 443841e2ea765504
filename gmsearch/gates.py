"""The gates as modules: s(P h)·Q h, one class for every form.

A form is a row of `architecture.FORMS` that names its operators P and Q; the operators and the
activations are the rows of the two tables below.
"""

from timm.layers import LayerNorm2d
from torch import Tensor, nn

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

    def forward(self, h: Tensor, k: Tensor | None = None) -> Tensor:
        return self.act(self.gate(h)) * self.value(h if k is None else k)
