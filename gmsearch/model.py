"""The network of an architecture, with the whole contract of a timm model: `build(architecture)`.

What timm expects of a model is written down in its own test suite (tests/test_models.py); the
model file that this one follows is timm/models/starnet.py.
"""

from collections.abc import Iterator
from typing import Any

import torch
from timm.layers import SelectAdaptivePool2d, calculate_drop_path_rates, trunc_normal_
from timm.models import checkpoint_seq
from timm.models._features import feature_take_indices
from torch import Tensor, nn
from torch.nn import functional as F

from gmsearch.architecture import Architecture
from gmsearch.block import Block, ConvBN, downsampler
from gmsearch.gates import ACTIVATIONS


class GatedNet(nn.Module):
    """Stem, four stages, norm, pool, linear head: (N, in_chans, H, W) to (N, num_classes).

    `global_pool` is avg, max, avgmax, catavgmax or empty for none; `num_classes` 0 leaves the head
    out. `drop_rate` is the dropout before the head, `drop_path_rate` the stochastic depth of the
    last block, from 0 at the first.
    """

    def __init__(
        self,
        architecture: Architecture,
        num_classes: int = 1000,
        in_chans: int = 3,
        global_pool: str = "avg",
        drop_rate: float = 0.0,
        drop_path_rate: float = 0.0,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        self.architecture = architecture
        self.num_classes = num_classes
        self.in_chans = in_chans
        self.drop_rate = drop_rate
        self.grad_checkpointing = False

        width = architecture.stem_width
        self.stem = nn.Sequential(
            ConvBN(in_chans, width, 3, stride=2), ACTIVATIONS[architecture.stem_activation]()
        )
        num_blocks = sum(stage.depth for stage in architecture.stages)
        rates: Iterator[Any] = iter(calculate_drop_path_rates(drop_path_rate, num_blocks))
        stages, feature_info = [], list[dict[str, Any]]()
        for index, stage in enumerate(architecture.stages):
            blocks = [Block(stage, gated, next(rates)) for gated in stage.gated]
            stages.append(nn.Sequential(downsampler(stage, width), *blocks))
            width = stage.width
            feature_info.append(dict(num_chs=width, reduction=4 << index, module=f"stages.{index}"))
        self.stages = nn.Sequential(*stages)
        self.feature_info = feature_info
        self.num_features = width
        self.norm: nn.Module = nn.BatchNorm2d(width)
        self.global_pool = SelectAdaptivePool2d(pool_type=global_pool, flatten=bool(global_pool))
        self.head_hidden_size = width * self.global_pool.feat_mult()
        self.head = self._new_head()
        self.to(device=device, dtype=dtype)

    def _new_head(self) -> nn.Module:
        """A linear head with fresh weights.

        The authors mean to initialise convolutions and linear layers alike, but their isinstance
        test reaches linear layers only; their published accuracies are those of torch's default for
        convolutions.
        """
        if not self.num_classes:
            return nn.Identity()
        like = next(self.parameters())
        head = nn.Linear(
            self.head_hidden_size, self.num_classes, device=like.device, dtype=like.dtype
        )
        trunc_normal_(head.weight, std=0.02)
        nn.init.zeros_(head.bias)
        return head.train(self.training)

    def forward(self, x: Tensor) -> Tensor:
        return self.forward_head(self.forward_features(x))

    def forward_features(self, x: Tensor) -> Tensor:
        """The normed feature map before the pool, (N, num_features, H/32, W/32)."""
        x = self.stem(x)  # N, stem_width, H/2, W/2
        if self.grad_checkpointing and not torch.jit.is_scripting():
            x = checkpoint_seq(self.stages, x)
        else:
            x = self.stages(x)  # N, width, H/4 … H/32, W/4 … W/32
        return self.norm(x)

    def forward_head(self, x: Tensor, pre_logits: bool = False) -> Tensor:
        """From the feature map to logits, or with `pre_logits` to (N, head_hidden_size)."""
        x = self.global_pool(x)
        if self.drop_rate > 0.0:
            x = F.dropout(x, p=self.drop_rate, training=self.training)
        return x if pre_logits else self.head(x)

    def forward_intermediates(
        self,
        x: Tensor,
        indices: int | list[int] | None = None,
        norm: bool = False,
        stop_early: bool = False,
        output_fmt: str = "NCHW",
        intermediates_only: bool = False,
    ) -> list[Tensor] | tuple[Tensor, list[Tensor]]:
        """The outputs of stages, all or those that `indices` takes, and the final feature map.

        `norm` puts the final norm on that of the last stage; `stop_early` runs no stage beyond the
        last one that is wanted; `intermediates_only` leaves the final feature map out.
        """
        if output_fmt != "NCHW":
            raise ValueError(f"output_fmt is {output_fmt!r}; allowed: NCHW")
        wanted, deepest = feature_take_indices(len(self.stages), indices)
        last = len(self.stages) - 1
        intermediates = []
        x = self.stem(x)
        for index, stage in enumerate(self.stages[: deepest + 1] if stop_early else self.stages):
            x = checkpoint_seq(stage, x) if self.grad_checkpointing else stage(x)
            if index in wanted:
                intermediates.append(self.norm(x) if norm and index == last else x)
        if intermediates_only:
            return intermediates
        return (self.norm(x) if index == last else x), intermediates

    def prune_intermediate_layers(
        self, indices: int | list[int] = 1, prune_norm: bool = False, prune_head: bool = True
    ) -> list[int]:
        """Drops what the stages at `indices` do not need; returns their indices."""
        wanted, deepest = feature_take_indices(len(self.stages), indices)
        cut = deepest < len(self.stages) - 1
        if prune_norm or cut:  # the norm is as wide as the last stage
            self.norm = nn.Identity()
        self.stages = self.stages[: deepest + 1]
        if cut:
            self.num_features = self.feature_info[deepest]["num_chs"]
        if prune_head or cut:
            self.reset_classifier(0, "")
        return wanted

    def get_classifier(self) -> nn.Module:
        return self.head

    def reset_classifier(self, num_classes: int, global_pool: str | None = None) -> None:
        """A new head for other classes (0 for none) and, if given, another pool."""
        self.num_classes = num_classes
        if global_pool is not None:
            pool = SelectAdaptivePool2d(pool_type=global_pool, flatten=bool(global_pool))
            self.global_pool = pool.train(self.training)
        self.head_hidden_size = self.num_features * self.global_pool.feat_mult()
        self.head = self._new_head()

    def set_grad_checkpointing(self, enable: bool = True) -> None:
        """Whether training keeps only the stages' inputs and computes the rest again."""
        self.grad_checkpointing = enable

    def no_weight_decay(self) -> set[str]:
        """None by name: biases, norms and layer scales are spared by their single dimension."""
        return set()

    def group_matcher(self, coarse: bool = False) -> dict[str, Any]:
        """Parameter groups for layer-wise rates: stem, each block (or stage, if coarse), norm."""
        blocks = r"^stages\.(\d+)" if coarse else r"^stages\.(\d+)\.(\d+)"
        return {"stem": r"^stem", "blocks": [(blocks, None), (r"^norm", (99999,))]}


def build(architecture: Architecture, num_classes: int = 1000, **settings: Any) -> GatedNet:
    """The network of an architecture, with fresh weights drawn from torch's global generator."""
    return GatedNet(architecture, num_classes, **settings)
