"""What any torch network costs, counted while it runs once without data.

The rows are those of `cost.ledger`, found the other way round: `cost` knows an architecture of the
family in closed form, `count` watches any network run. A copy on the `meta` device runs once, where
tensors have shapes and no contents, and every operator that reaches torch's dispatcher is written
down, also those that no module stands for, such as the product of a gate or the sum of a residual.
"""

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import flop_registry

from gmsearch.cost import LayerCost

# The kinds of rows. Parameters of a module with several rows go to the first of these kinds.
KINDS = ("conv", "linear", "norm", "elementwise", "activation", "pool", "copy")
UNUSED = "parameter"  # the kind of a row for parameters of modules that never ran

NORMS = ("batch_norm", "layer_norm", "group_norm", "rms_norm")  # parts of operators' names
# Names of operators, without the underscore of those that work in place. A mean is a pool: that
# is what torch makes of a global average pool. Anything in none of the sets is elementwise.
MEANS = {"mean", "amax"}
ACTIVATIONS = {
    *("relu", "hardtanh", "gelu", "silu", "hardswish", "sigmoid", "hardsigmoid", "tanh"),
    *("leaky_relu", "elu", "celu", "mish", "softplus", "prelu", "threshold", "glu"),
    *("log_sigmoid", "softmax", "_softmax", "_safe_softmax", "_prelu_kernel"),
}
COPIES = {
    *("clone", "copy", "_to_copy", "cat", "stack", "repeat", "roll", "flip", "index", "gather"),
    *("index_select", "constant_pad_nd", "reflection_pad2d", "replication_pad2d", "im2col"),
    *("col2im", "pixel_shuffle", "pixel_unshuffle", "arange", "zeros", "ones", "full"),
}
# What gives a tensor and writes nothing into it; views say so of themselves.
NOTHING = {"_unsafe_view", "empty", "empty_like", "empty_strided", "new_empty", "new_empty_strided"}


def count(model: nn.Module, resolution: int, in_chans: int = 3) -> list[LayerCost]:
    """The cost of every layer for one square image of `resolution` pixels, in the order in which
    they first run, in eval mode and fp32; the model itself stays as it is.

    The conventions are those of `cost` and fvcore: one multiply-add counts as one, convolutions
    and matrix products have MACs and nothing else has, and `activations` are the elements that an
    operator writes, in place or not. A matrix product counts as `linear` also where both factors
    are features, as in attention; attention is counted product by product, as if nothing were
    fused. Rows have the path of the module whose forward runs the operators, "" for the network
    itself; a module has one row for each of the `KINDS` of operators that it runs.

    Every parameter is counted once, under its first name in the state dict, on a row of the module
    that has it. Modules that do not run but have parameters get rows of kind `parameter` at the
    end, so that the sum of all rows has the parameters of the network.

    A network that looks at the values of its features cannot run without data and runs on the CPU
    instead, on a black image. Raises what the network raises there.
    """
    try:
        rows = _run(model, resolution, in_chans, "meta")
    except (NotImplementedError, RuntimeError):  # what torch raises where values are needed
        rows = _run(model, resolution, in_chans, "cpu")
    _add_parameters(rows, model)
    return [
        LayerCost(name, kind, row.macs, row.params, row.activations)
        for (name, kind), row in rows.items()
    ]


@dataclass
class _Row:
    macs: int = 0
    params: int = 0
    activations: int = 0


_Rows = dict[tuple[str, str], _Row]  # by module path and kind, in the order of their first operator


@dataclass
class _Where:
    """The paths of the modules whose forward is running, the innermost last."""

    path: list[str] = field(default_factory=list)

    def watch(self, model: nn.Module) -> None:
        """Follows a model with hooks, which stay on it."""
        for name, module in model.named_modules():
            # The default binds this name; the hooks of a module run in any order with others.
            module.register_forward_pre_hook(lambda *_, name=name: self.path.append(name))
            module.register_forward_hook(lambda *_: self._leave())

    def _leave(self) -> None:
        self.path.pop()


class _Ledger(TorchDispatchMode):
    """Writes a row for each operator that torch runs."""

    def __init__(self, where: _Where) -> None:
        super().__init__()
        self.where = where
        self.rows: _Rows = {}

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        out = func(*args, **kwargs)
        written = _written(func, out)
        if written:
            row = self.rows.setdefault((self.where.path[-1], _kind(func)), _Row())
            row.activations += written
            if func.overloadpacket in flop_registry:
                flops = flop_registry[func.overloadpacket](*args, **kwargs, out_val=out)
                row.macs += flops // 2
        return out


def _run(model: nn.Module, resolution: int, in_chans: int, device: str) -> _Rows:
    copied = copy.deepcopy(model).to(device=device, dtype=torch.float32).eval()
    where = _Where()
    where.watch(copied)
    image = torch.zeros(1, in_chans, resolution, resolution, device=device)
    # Not inference mode: there composite operators reach the ledger whole, which knows their parts.
    with torch.no_grad(), _unfused_attention(), _Ledger(where) as ledger:
        copied(image)
    return ledger.rows


@contextmanager
def _unfused_attention() -> Iterator[None]:
    """Has attention run as matrix products and softmax, on any device."""
    fast = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        with sdpa_kernel(SDPBackend.MATH):
            yield
    finally:
        torch.backends.mha.set_fastpath_enabled(fast)


def _written(func: Any, out: Any) -> int:
    """Elements that an operator writes, of its first result: beside it are statistics of norms and
    indices of pools, which inference throws away.
    """
    if func.is_view or func.overloadpacket.__name__ in NOTHING:
        return 0
    first = out[0] if len(func._schema.returns) > 1 else out
    return sum(leaf.numel() for leaf in tree_leaves(first) if isinstance(leaf, Tensor))


def _kind(func: Any) -> str:
    name = func.overloadpacket.__name__
    if "convolution" in name:
        return "conv"
    if func.overloadpacket in flop_registry:
        return "linear"
    if any(norm in name for norm in NORMS):
        return "norm"
    name = name.removesuffix("_")
    if "pool" in name or name in MEANS:
        return "pool"
    if name in ACTIVATIONS:
        return "activation"
    return "copy" if name in COPIES else "elementwise"


def _add_parameters(rows: _Rows, model: nn.Module) -> None:
    for name, parameter in model.named_parameters():
        owner = name.rpartition(".")[0]
        kind = next((kind for kind in KINDS if (owner, kind) in rows), UNUSED)
        rows.setdefault((owner, kind), _Row()).params += parameter.numel()
