"""The one door to fvcore: its count of a network, and where it differs from ours, in words.

fvcore traces a network and counts by its own rules: what papers and the tables of timm report as
MACs is most often fvcore's total, which has norms and some pools in it.
"""

import copy
import warnings
from collections.abc import Iterable
from dataclasses import dataclass
from math import prod
from typing import Any

import torch
from torch import nn

# The operators of fvcore that multiply by weights or features, as `counting` counts them.
PRODUCTS = ("conv", "linear", "addmm", "mm", "bmm", "matmul", "einsum")
ATTENTION = "scaled_dot_product_attention"  # one operator to fvcore, of which it counts nothing
MOST_NAMED = 6  # operators in one line of words


@dataclass(frozen=True)
class FvcoreCount:
    """fvcore's count of a network, for one image. A multiply-add counts as one."""

    by_operator: dict[str, int]
    ignored: dict[str, int]  # operators without a rule of fvcore's, and how often they are called
    uncalled: tuple[str, ...]  # paths of modules that do not run
    attention: int  # MACs of fused attention, which are ignored and not in the total

    @property
    def total(self) -> int:
        return sum(self.by_operator.values())


def fvcore_count(model: nn.Module, resolution: int, in_chans: int = 3) -> FvcoreCount:
    """What fvcore counts for one square image of `resolution` pixels, in eval mode and fp32, on the
    CPU; the model stays as it is. Raises ModuleNotFoundError where fvcore is not installed.
    """
    with warnings.catch_warnings():
        # fvcore's own code and the functions that it calls; timm's scripted ones come up, too.
        warnings.filterwarnings("ignore", "`torch.jit", FutureWarning)
        warnings.filterwarnings("ignore", "`torch.jit", DeprecationWarning)
        from fvcore.nn import FlopCountAnalysis  # not needed to search

        copied = copy.deepcopy(model).to(device="cpu", dtype=torch.float32).eval()
        image = torch.zeros(1, in_chans, resolution, resolution)
        analysis = FlopCountAnalysis(copied, (image,))
        analysis.unsupported_ops_warnings(False).uncalled_modules_warnings(False)
        analysis.tracer_warnings("none")
        by_operator = _whole(analysis.by_operator())
        ignored = _whole(analysis.unsupported_ops())
        uncalled = tuple(sorted(analysis.uncalled_modules()))
        attention = 0
        if f"aten::{ATTENTION}" in ignored:
            analysis.set_op_handle(f"aten::{ATTENTION}", _attention_products)
            attention = int(analysis.by_operator()[ATTENTION])
    ignored = {name.removeprefix("aten::"): calls for name, calls in ignored.items()}
    return FvcoreCount(by_operator, ignored, uncalled, attention)


def explain(theirs: FvcoreCount, macs: int) -> str:
    """One line on why fvcore's total is not our `macs` of the same network at the same size."""
    products = sum(theirs.by_operator.get(name, 0) for name in PRODUCTS)
    others = {name: n for name, n in theirs.by_operator.items() if name not in PRODUCTS and n}
    line = f"fvcore's {_short(theirs.total)} = {_short(products)} of convolutions and linear layers"
    if others:
        names = _listed(sorted(others, key=lambda name: -others[name]))
        line += f" + {_short(sum(others.values()))} of {names}, which we do not count"
    if theirs.ignored:
        line += f"; it ignores {_calls(theirs.ignored)}"
    if theirs.attention:
        line += f"; we count {_short(theirs.attention)} of the products in fused attention"
    if remainder := macs - products - theirs.attention:
        more = "more" if remainder > 0 else "less"
        line += f"; {_short(abs(remainder))} that we count {more} remain unexplained"
    return line


def _attention_products(inputs: list[Any], outputs: list[Any]) -> int:
    query, key, value = (tensor.type().sizes() for tensor in inputs[:3])
    return prod(query[:-1]) * key[-2] * (query[-1] + value[-1])


def _whole(counts: dict[str, float]) -> dict[str, int]:
    return {name: int(number) for name, number in counts.items()}


def _short(number: int) -> str:
    return f"{number / 1e6:,.1f}M" if number >= 100_000 else f"{number:,}"


def _listed(names: Iterable[str]) -> str:
    *most, last = names
    return f"{', '.join(most)} and {last}" if most else last


def _calls(ignored: dict[str, int]) -> str:
    """Such as `mul (26 calls), add (17)`, most calls first."""
    ordered = sorted(ignored.items(), key=lambda item: -item[1])
    named = [f"{name} ({calls})" for name, calls in ordered[:MOST_NAMED]]
    first, calls = ordered[0]
    named[0] = f"{first} ({calls} call{'s' if calls > 1 else ''})"
    more = len(ordered) - MOST_NAMED
    return ", ".join(named) + (f" and {more} more" if more > 0 else "")
