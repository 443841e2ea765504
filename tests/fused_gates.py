"""The gate's kernel, alone and in networks, against plain PyTorch in float64.

Run as a program, with TRITON_INTERPRET=1 where there is no GPU: Triton reads that while it is
imported, so an interpreter needs a process of its own.

    python tests/fused_gates.py gates|networks few|all
"""

import copy
import sys
from itertools import product

import torch
from torch import nn

from gmsearch import fused_gate, gates
from gmsearch.architecture import ACTIVATIONS, FORMS, PLACEMENTS, Architecture, Stage
from gmsearch.block import use_algebra
from gmsearch.model import build

KINDS = {
    "self": (False, False, False),  # bias, value, bias of the value
    "self+bias": (True, False, False),
    "value": (False, True, False),
    "twin": (True, True, True),
}
KINKS = torch.tensor([-3.0, 0.0, 3.0, 6.0])
# Lines of one tile and of several, ends within a tile, one number. (N, C, H, W)
FEW = [(2, 24, 5, 4), (3, 5, 7, 11)]
MORE = [(1, 1, 1, 1), (5, 72, 8, 9), (2, 120, 6, 6), (3, 128, 4, 4), (2, 160, 7, 3), (70, 40, 1, 1)]


def features(shape: tuple, seed: int, device: str, dtype: torch.dtype) -> torch.Tensor:
    x = 3 * torch.randn(shape, generator=torch.Generator().manual_seed(seed))
    return x.to(device, dtype).contiguous(memory_format=torch.channels_last)


def inputs(kind: str, shape: tuple, device: str, dtype: torch.dtype) -> dict[str, torch.Tensor]:
    has_bias, has_value, has_value_bias = KINDS[kind]
    found = {"h": features(shape, 0, device, dtype)}
    if not has_bias:
        found["h"].permute(0, 2, 3, 1).flatten()[: len(KINKS)] = KINKS[: found["h"].numel()]
    if has_value:
        found["value"] = features(shape, 1, device, dtype)
    if has_bias:
        found["bias"] = torch.linspace(-2, 2, shape[1], device=device)
    if has_value_bias:
        found["value_bias"] = torch.linspace(1, -1, shape[1], device=device)
    return found


def eager(activation, h, value=None, *, bias=None, value_bias=None):
    """The gate in plain PyTorch, as modules have it."""
    h = h if bias is None else h + bias.view(-1, 1, 1)
    value = h if value is None else value
    value = value if value_bias is None else value + value_bias.view(-1, 1, 1)
    return gates.ACTIVATIONS[activation]()(h) * value


def results(gate, activation, given, grad, dtype=None) -> list[torch.Tensor]:
    """The output, and the gradients of all inputs."""
    leaves = {k: v.detach().clone().to(dtype or v.dtype).requires_grad_() for k, v in given.items()}
    out = gate(activation, **leaves)
    out.backward(grad.to(out.dtype))
    return [out.detach(), *(leaf.grad for leaf in leaves.values())]


def check_gate(activation, kind, shape, device="cpu", dtype=torch.float32) -> float:
    """The largest error to float64, in units of the largest number."""
    given = inputs(kind, shape, device, dtype)
    assert gates.can_fuse(given["h"], given.get("value", given["h"]))
    grad = features(shape, 2, device, dtype)
    ours = results(fused_gate.fused_gate, activation, given, grad)
    exact = results(eager, activation, given, grad, torch.float64)
    worst = 0.0
    for name, mine, right in zip(["out", *given], ours, exact, strict=True):
        rounding = 2.0**-8 if mine.dtype == torch.bfloat16 else 0.0
        error = (mine.double() - right).abs()
        allowed = rounding * right.abs() + 3e-6 * right.abs().max().clamp(min=1.0)
        assert (error <= allowed).all(), (activation, kind, shape, dtype, name, float(error.max()))
        worst = max(worst, float(error.max() / right.abs().max().clamp(min=1.0)))
    return worst


def check_ends(activation: str, device: str = "cpu") -> None:
    """Where exponentials overflow and vanish."""
    ends = torch.tensor([-300.0, -30.0, 30.0, 300.0], device=device).view(1, 4, 1, 1)
    given, grad = {"h": ends, "value": torch.ones_like(ends)}, torch.ones_like(ends)
    ours = results(fused_gate.fused_gate, activation, given, grad)
    exact = results(eager, activation, given, grad, torch.float64)
    for mine, right in zip(ours, exact, strict=True):
        torch.testing.assert_close(mine.double(), right, rtol=1e-6, atol=1e-9)


def check_gates(more: bool) -> None:
    """Every activation and kind; where not all are asked for, not all of both together."""
    for number, (activation, kind) in enumerate(product(ACTIVATIONS, KINDS)):
        for shape in FEW + MORE if more else [FEW[number % 2]] * (kind == "twin" or number < 8):
            check_gate(activation, kind, shape)
    for activation in ACTIVATIONS:
        check_ends(activation)
    # What is no number stays so: by that a loss that diverges is known.
    lost = inputs("value", FEW[0], "cpu", torch.float32)
    lost["h"][0, 0, 0, 0] = torch.nan
    assert fused_gate.fused_gate("relu6", **lost).isnan().sum() == 1
    leaf = inputs("self", FEW[0], "cpu", torch.float32)["h"].requires_grad_()
    try:
        torch.autograd.grad(fused_gate.fused_gate("silu", leaf).sum(), leaf, create_graph=True)
    except RuntimeError as error:
        assert "GMSEARCH_OFF=gate" in str(error)
    else:
        raise AssertionError("a gradient that cannot be differentiated was given for one")
    # Programs of the backward pass that take several tiles, the last not all of its own.
    fused_gate.PROGRAMS = 8
    check_gate("relu6", "twin", (3, 24, 32, 29))


def networks() -> dict[str, Architecture]:
    """One for every form and placement of a gate, its blocks of several widths and kinds."""
    found = {}
    for form, placement in product(FORMS, PLACEMENTS[1:]):
        if FORMS[form].projections == 2 and placement != "expand":
            continue
        stages = tuple(
            Stage(width=w, depth=1, ratio=2, kernel=3, form=form, placement=placement, activation=a)
            for w, a in zip((3, 4, 5, 8), ("relu6", "gelu", "tanh", "hardswish"), strict=True)
        )
        name = f"{form}.{placement}"
        found[name] = Architecture(stem_width=4, stem_activation="relu6", stages=stages)
    return found


def training(architecture: Architecture, algebra: bool) -> nn.Module:
    """A network whose layer scales and biases are not where they start."""
    torch.manual_seed(0)
    model = build(architecture, 5).train().to(memory_format=torch.channels_last)
    for name, parameter in model.named_parameters():
        if parameter.ndim == 1:
            noise = torch.randn_like(parameter)
            parameter.data.add_(noise * (0.3 if "gamma" in name else 0.1))
    use_algebra(model, algebra)
    return model


def pass_through(model: nn.Module, images: torch.Tensor) -> dict[str, torch.Tensor]:
    logits = model(images.contiguous(memory_format=torch.channels_last))
    weights = torch.linspace(-1, 1, logits.numel(), device=images.device).view_as(logits)
    (logits * weights.to(logits.dtype)).sum().backward()
    gradients = {n: p.grad for n, p in model.named_parameters() if p.grad is not None}
    return {"logits": logits.detach(), **gradients}


def check_network(name: str, architecture: Architecture, device: str = "cpu") -> None:
    """In float32 with the kernel, which must have run, against eager float64."""
    calls = []
    kernel = fused_gate.fused_gate
    fused_gate.fused_gate = lambda *a, **k: calls.append(k) or kernel(*a, **k)
    try:
        ours = training(architecture, algebra=True).to(device)
        exact = copy.deepcopy(ours).double()
        images = torch.randn(4, 3, 64, 64).to(device)
        expected = pass_through(exact, images.double())
        assert not calls, "float64 is plain PyTorch"
        found = pass_through(ours, images)
    finally:
        fused_gate.fused_gate = kernel
    form, _, placement = name.partition(".")
    assert len(calls) == (0 if form == "squeeze" else 4), (name, len(calls))
    num_biases = sum(value is not None for call in calls for value in call.values())
    assert num_biases == {"self.expand": 4, "twin.expand": 8}.get(name, 0), (name, num_biases)
    assert found.keys() == expected.keys()
    largest = max(float(g.abs().max()) for g in expected.values())
    for key, right in expected.items():
        error = float((found[key].double() - right).abs().max())
        assert error < 1e-4 * (float(right.abs().max()) + 1e-2 * largest), (name, key, error)
    before, off = len(calls), ours.eval()
    off(images)
    assert len(calls) == before, "in eval mode it is plain PyTorch"


def main(what: str, how_many: str) -> None:
    torch.set_num_threads(1)
    if what == "gates":
        check_gates(how_many == "all")
    else:
        chosen = networks() if how_many == "all" else {"self.expand": networks()["self.expand"]}
        for name, architecture in chosen.items():
            check_network(name, architecture)
            print(name, flush=True)
    print("done")


if __name__ == "__main__":
    main(*sys.argv[1:])
