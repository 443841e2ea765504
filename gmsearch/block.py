"""The residual block that a stage repeats, and the down-sampler before it.

Layers and parameter names are those of the authors' GmNet (YFWang1999/GmNet, gment.py), which grew
out of StarNet (timm/models/starnet.py): a bias in every convolution, also before a BN; no BN after
the expansion and after the second depthwise convolution; a layer scale that starts at 1e-6.
"""

import torch
from timm.layers import DropPath
from torch import Tensor, nn

from gmsearch.architecture import FORMS, Stage
from gmsearch.depthwise import DepthwiseConv2d
from gmsearch.gates import ACTIVATIONS, Gate, can_fuse
from gmsearch.pointwise import PointwiseConv2d

LAYER_SCALE = 1e-6


class ConvBN(nn.Sequential):
    """A convolution that keeps the size (or halves it, at stride 2), with a BN unless told
    otherwise.

    In training a BN takes away what a bias before it adds. With `spares_bias` it is not added, and
    goes to the running mean alone: outputs and all other gradients are the same, its own is 0.
    Before a BN that is frozen, or keeps its statistics in another way than a moving average, it is
    added as ever, but not trained.
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
        elif kernel == stride == groups == 1:
            self.conv = PointwiseConv2d(in_width, width)
        else:
            self.conv = nn.Conv2d(in_width, width, kernel, stride, kernel // 2, groups=groups)
        if with_bn:
            self.bn = nn.BatchNorm2d(width)
        self.spares_bias = False

    def forward(self, x: Tensor) -> Tensor:
        if not torch.jit.is_scripting():
            if self.spares_bias and takes_away_bias(self.bn):
                mean, share = self.bn.running_mean, self.bn.momentum  # of this batch in the new
                assert mean is not None and share is not None and self.conv.bias is not None
                with torch.no_grad():  # before the norm, which keeps 1 - share of it
                    mean.add_(self.conv.bias, alpha=share / (1 - share))
                return self.bn(convolve(self.conv, x, self.conv.weight, None))
        for module in self:
            x = module(x)
        return x

    def without_bias(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """The convolution of x, and the bias that is still to be added."""
        assert self.conv.bias is not None
        return convolve(self.conv, x, self.conv.weight, None), self.conv.bias


def convolve(conv: nn.Conv2d, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """What a convolution makes of x with other weights in the place of its own."""
    if isinstance(conv, (DepthwiseConv2d, PointwiseConv2d)):
        return conv.convolve(x, weight, bias)
    return conv._conv_forward(x, weight, bias)


def takes_away_bias(bn: nn.Module) -> bool:
    """Whether a BN norms by its batch, and keeps a share of its running mean for what is added."""
    if not (isinstance(bn, nn.BatchNorm2d) and bn.training and bn.track_running_stats):
        return False  # frozen: timm puts another module there
    share = bn.momentum  # None for the mean of all batches
    return bn.running_mean is not None and share is not None and share < 1


class Block(nn.Module):
    """One residual block, (N, C, H, W) to (N, C, H, W), gated or with the plain activation.

    A gate is the submodule named after its placement; `expand` is the plain activation where no
    gate sits there. `drop_path` is the rate of stochastic depth. With `folds_scale` the layer scale
    multiplies the weights of the second depthwise convolution in training, not its output: the same
    function, without a pass over the features.
    """

    def __init__(self, stage: Stage, gated: bool, drop_path: float = 0.0) -> None:
        super().__init__()
        width, hidden, kernel = stage.width, stage.width * stage.ratio, stage.kernel
        placement = stage.placement if gated else "none"
        twin = placement == "expand" and FORMS[stage.form].projections == 2

        def gate_or(instead: nn.Module, place: str, features: int) -> nn.Module:
            return Gate(stage.form, stage.activation, features) if placement == place else instead

        self.dwconv = ConvBN(width, width, kernel, groups=width)
        self.f1 = ConvBN(width, hidden, with_bn=False)
        self.f2 = ConvBN(width, hidden, with_bn=False) if twin else None
        self.g = ConvBN(hidden, width)
        self.dwconv2 = ConvBN(width, width, kernel, groups=width, with_bn=False)
        self.gamma = nn.Parameter(LAYER_SCALE * torch.ones(width))
        self.spatial = gate_or(nn.Identity(), "spatial", width)
        self.expand = gate_or(ACTIVATIONS[stage.activation](), "expand", hidden)
        self.output = gate_or(nn.Identity(), "output", width)
        self.drop_path = DropPath(drop_path) if drop_path else nn.Identity()
        self.folds_scale = False

    def forward(self, x: Tensor) -> Tensor:
        h = self._expanded(self.spatial(self.dwconv(x)))  # N, ratio*C, H, W
        h = self.g(h)
        if self.folds_scale and self.training and not torch.jit.is_scripting():
            conv: nn.Conv2d = self.dwconv2.conv
            assert conv.bias is not None
            weight, bias = self.gamma.view(-1, 1, 1, 1) * conv.weight, self.gamma * conv.bias
            return x + self.drop_path(convolve(conv, h, weight, bias))
        h = self.output(self.dwconv2(h))
        return x + self.drop_path(self.gamma.view(-1, 1, 1) * h)

    def _expanded(self, h: Tensor) -> Tensor:
        """The gate or the activation of the projections; a gate that is one kernel adds biases."""
        if not torch.jit.is_scripting():
            if self.training and isinstance(self.expand, Gate):
                if self.expand.takes_biases and can_fuse(h):
                    first = self.f1.without_bias(h)
                    second = () if self.f2 is None else self.f2.without_bias(h)
                    return self.expand.with_biases(*first, *second)
        if self.f2 is None:
            return self.expand(self.f1(h))
        return self.expand(self.f1(h), self.f2(h))


def use_algebra(model: nn.Module, on: bool = True) -> None:
    """Lets a network train by what is the same and takes less: biases before a BN are spared, and
    get no gradient (nor before one that is frozen, where they count); layer scales go into weights,
    where no gate is in between. In eval mode, and for who does not ask for it, nothing changes.
    """
    for module in model.modules():
        if isinstance(module, ConvBN) and hasattr(module, "bn"):
            module.spares_bias = on
            module.conv.bias.requires_grad_(not on)  # type: ignore[union-attr]
        elif isinstance(module, Block):
            module.folds_scale = on and isinstance(module.output, nn.Identity)


def downsampler(stage: Stage, in_width: int) -> nn.Sequential:
    """Halves the size and takes the width to the stage's; no activation follows, as in GmNet."""
    if stage.downsampler == "separable":
        depthwise = ConvBN(in_width, in_width, 3, stride=2, groups=in_width)
        return nn.Sequential(depthwise, ConvBN(in_width, stage.width))
    return nn.Sequential(ConvBN(in_width, stage.width, 3, stride=2))
