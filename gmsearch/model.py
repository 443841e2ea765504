"""The network of an architecture: `build(architecture)`.

Layers and parameter names are those of the authors' GmNet (YFWang1999/GmNet, gment.py), which grew
out of StarNet (timm/models/starnet.py): a bias in every convolution, also before a BN; no BN after
the expansion and after the second depthwise convolution; a layer scale that starts at 1e-6.
"""

import torch
from timm.layers import trunc_normal_
from torch import Tensor, nn

from gmsearch.architecture import FORMS, Architecture, Stage
from gmsearch.depthwise import DepthwiseConv2d
from gmsearch.gates import ACTIVATIONS, Gate

LAYER_SCALE = 1e-6


class ConvBN(nn.Sequential):
    """A convolution that keeps the size (or halves it, at stride 2), with a BN unless told
    otherwise.
    """

    def __init__(
        self,
        in_width: int,
        width: int,
        kernel: int = 1,
        stride: int = 1,
        groups: int = 1,
        with_bn: bool = True,
    ) -> None:
        super().__init__()
        if groups == in_width == width and stride == 1:
            self.conv: nn.Conv2d = DepthwiseConv2d(width, kernel)
        else:
            self.conv = nn.Conv2d(in_width, width, kernel, stride, kernel // 2, groups=groups)
        if with_bn:
            self.bn = nn.BatchNorm2d(width)


class Block(nn.Module):
    """One residual block, (N, C, H, W) to (N, C, H, W), gated or with the plain activation."""

    def __init__(self, stage: Stage, gated: bool) -> None:
        super().__init__()
        width, hidden, kernel = stage.width, stage.width * stage.ratio, stage.kernel
        self.placement = stage.placement if gated else "none"
        twin = self.placement == "expand" and FORMS[stage.form].projections == 2

        self.dwconv = ConvBN(width, width, kernel, groups=width)
        self.f1 = ConvBN(width, hidden, with_bn=False)
        self.f2 = ConvBN(width, hidden, with_bn=False) if twin else None
        self.g = ConvBN(hidden, width)
        self.dwconv2 = ConvBN(width, width, kernel, groups=width, with_bn=False)
        self.gamma = nn.Parameter(LAYER_SCALE * torch.ones(width))
        if self.placement != "none":
            gate_width = hidden if self.placement == "expand" else width
            self.gate = Gate(stage.form, stage.activation, gate_width)
        if self.placement != "expand":
            self.act = ACTIVATIONS[stage.activation]()

    def forward(self, x: Tensor) -> Tensor:
        h = self.dwconv(x)
        if self.placement == "spatial":
            h = self.gate(h)
        if self.placement == "expand":
            h = self.gate(self.f1(h), None if self.f2 is None else self.f2(h))  # N, ratio*C, H, W
        else:
            h = self.act(self.f1(h))  # N, ratio*C, H, W
        h = self.dwconv2(self.g(h))
        if self.placement == "output":
            h = self.gate(h)
        return x + self.gamma.view(-1, 1, 1) * h


class GatedNet(nn.Module):
    """Stem, four stages, norm, average pool, linear head: (N, 3, H, W) to (N, num_classes)."""

    def __init__(self, architecture: Architecture, num_classes: int = 1000) -> None:
        super().__init__()
        width = architecture.stem_width
        self.stem = nn.Sequential(
            ConvBN(3, width, 3, stride=2), ACTIVATIONS[architecture.stem_activation]()
        )
        self.stages = nn.ModuleList()
        for stage in architecture.stages:
            blocks = [Block(stage, gated) for gated in stage.gated]
            self.stages.append(nn.Sequential(_downsampler(stage, width), *blocks))
            width = stage.width
        self.norm = nn.BatchNorm2d(width)
        self.global_pool = nn.AdaptiveAvgPool2d(1)
        self.head = nn.Linear(width, num_classes)
        # The authors mean to initialise convolutions and linear layers alike, but their isinstance
        # test reaches linear layers only; their published accuracies are those of torch's default
        # for convolutions.
        trunc_normal_(self.head.weight, std=0.02)
        nn.init.zeros_(self.head.bias)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)  # N, stem_width, H/2, W/2
        for stage in self.stages:
            x = stage(x)  # N, width, H/4 … H/32, W/4 … W/32
        return self.head(self.global_pool(self.norm(x)).flatten(1))


def build(architecture: Architecture, num_classes: int = 1000) -> GatedNet:
    """The network of an architecture, with fresh weights drawn from torch's global generator."""
    return GatedNet(architecture, num_classes)


def _downsampler(stage: Stage, in_width: int) -> nn.Sequential:
    """Halves the size and takes the width to the stage's; no activation follows, as in GmNet."""
    if stage.downsampler == "separable":
        depthwise = ConvBN(in_width, in_width, 3, stride=2, groups=in_width)
        return nn.Sequential(depthwise, ConvBN(in_width, stage.width))
    return nn.Sequential(ConvBN(in_width, stage.width, 3, stride=2))
