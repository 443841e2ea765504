"""The gate as one kernel is the gate of plain PyTorch; `fused_gates.py` has the comparison."""

import copy
import os
import subprocess
import sys
from itertools import product
from pathlib import Path

import pytest
import torch
from torch import nn

from gmsearch import kernels
from gmsearch.architecture import ACTIVATIONS
from gmsearch.errors import SettingsError
from gmsearch.gates import Gate, can_fuse
from gmsearch.gmnet import gmnet

pytest.importorskip("triton")  # torch for CPUs alone comes without
import fused_gates  # noqa: E402

from gmsearch import fused_gate  # noqa: E402

REAL = [(256, 72, 32, 32), (256, 120, 32, 32), (256, 480, 8, 8), (128, 2176, 7, 7), (3, 24, 5, 5)]


def interpret(*arguments: str) -> None:
    program = Path(__file__).with_name("fused_gates.py")
    done = subprocess.run(
        [sys.executable, str(program), *arguments],
        env={**os.environ, "TRITON_INTERPRET": "1"},
        capture_output=True,
        text=True,
        timeout=900,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stdout.splitlines()[-1] == "done"


@pytest.mark.parametrize("what", ["gates", "networks"])
def test_the_kernel_computes_what_pytorch_does(what):
    interpret(what, "few")


@pytest.mark.slow
def test_kernels_are_compiled_to_wide_reads_and_writes():
    """For an H100, without one: 16 bytes at a time, and as many of them as there are numbers."""
    from triton import compile as compiled
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    for activation, kernel in product(ACTIVATIONS, (fused_gate._forward, fused_gate._backward)):
        constants = dict(ACTIVATION=activation, ROWS=fused_gate.ROWS, LINE=fused_gate.LINE)
        types, aligned, features = dict[str, str](), {}, 0
        for index, name in enumerate(kernel.arg_names):
            of_bias = "bias" in name
            features += name.endswith("_at") and not of_bias
            pointer = "*fp32" if of_bias else "*bf16"
            types[name] = pointer if name.endswith("_at") else "i32"
            if name in constants:
                types[name] = "constexpr"
            elif name.endswith("_at") or name == "count":
                aligned[index,] = [["tt.divisibility", 16]]
        source = ASTSource(kernel, types, constants, aligned)
        code = compiled(source, target=GPUTarget("cuda", 90, 32)).asm["ptx"]
        numbers = fused_gate.ROWS * fused_gate.LINE // 128  # of a thread
        assert code.count("global.v4.b32") == features * numbers * 2 // 16, (activation, kernel)


@pytest.mark.slow
@pytest.mark.parametrize("what", ["gates", "networks"])
def test_every_gate_and_every_form_and_placement_computes_what_pytorch_does(what):
    interpret(what, "all")


class TestWhereItIsUsed:
    @pytest.fixture(autouse=True)
    def interpreted(self, monkeypatch):
        monkeypatch.setenv("TRITON_INTERPRET", "1")

    def features(self, *shape: int, layout=torch.channels_last) -> torch.Tensor:
        return torch.randn(shape).contiguous(memory_format=layout)

    def test_features_of_one_shape_in_channels_last(self):
        x = self.features(2, 3, 4, 5)
        assert can_fuse(x) and can_fuse(x, x.bfloat16())
        assert not can_fuse(self.features(2, 3, 4, 5, layout=torch.contiguous_format))
        assert not can_fuse(x, self.features(2, 3, 1, 1))  # the gate of `squeeze`
        assert not can_fuse(x.double()) and not can_fuse(x[0]) and not can_fuse(x[:0])

    def test_not_where_it_is_switched_off(self, monkeypatch):
        x = self.features(2, 3, 4, 5)
        monkeypatch.setenv("GMSEARCH_OFF", "graph,gate")
        assert not can_fuse(x)
        monkeypatch.setenv("GMSEARCH_OFF", "gates")
        with pytest.raises(SettingsError, match="'gates'"):
            can_fuse(x)

    def test_not_on_a_cpu_that_does_not_interpret_and_not_without_triton(self, monkeypatch):
        x = self.features(2, 3, 4, 5)
        monkeypatch.setattr(kernels, "_has_triton", lambda: False)
        assert not can_fuse(x)
        monkeypatch.undo()
        monkeypatch.delenv("TRITON_INTERPRET", raising=False)
        assert not can_fuse(x)

    def test_not_by_who_traces_scripts_or_compiles(self, monkeypatch):
        """They would not get through the kernel: as it is, they see plain PyTorch."""

        def kernel(*_, **__):
            raise AssertionError("the kernel is used")

        monkeypatch.setattr(fused_gate, "fused_gate", kernel)
        gate, x = nn.Sequential(Gate("self", "relu6", 3)).train(), self.features(2, 3, 4, 5)
        with pytest.raises(AssertionError, match="the kernel is used"):
            gate(x)
        right = x.clamp(0, 6) * x
        ways = [
            torch.jit.trace(gate, x, check_trace=False),
            torch.jit.script(gate),
            torch.fx.symbolic_trace(gate),
            torch.export.export(gate, (x,)).module(),
            torch.compile(gate, backend="eager", fullgraph=True),
            copy.deepcopy(gate).eval(),
        ]
        for way in ways:
            assert torch.equal(way(x), right), way

    def test_a_whole_network_is_scripted(self, monkeypatch):
        model = fused_gates.training(fused_gates.networks()["twin.expand"], algebra=False)
        images = self.features(2, 3, 64, 64)
        scripted = torch.jit.script(model)
        monkeypatch.setenv("GMSEARCH_OFF", "gate,depthwise")
        torch.testing.assert_close(scripted(images), model(images))


def test_networks_on_a_cpu_never_load_triton():
    program = """
import sys, torch
from gmsearch.gmnet import gmnet
from gmsearch.model import build
sys.modules["triton"] = None  # an import of it raises
model = build(gmnet("gmnet_s1", base_width=8), 4).train()
model(torch.randn(2, 3, 32, 32)).sum().backward()
print("gmsearch.fused_gate" in sys.modules)
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout == "False\n"


def test_a_gate_adds_the_biases_itself_where_features_are_not_for_the_kernel():
    h, k = torch.randn(2, 2, 3, 4, 5)
    bias, k_bias = torch.randn(2, 3)
    gate = Gate("twin", "gelu", 3)
    biased = h + bias.view(-1, 1, 1), k + k_bias.view(-1, 1, 1)
    assert torch.equal(gate.with_biases(h, bias, k, k_bias), gate(*biased))
    assert torch.equal(gate.with_biases(h, bias), gate(biased[0]))


@pytest.mark.gpu
class TestOnAGPU:
    @pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
    @pytest.mark.parametrize("kind", fused_gates.KINDS)
    def test_the_kernel_at_real_sizes(self, kind, dtype):
        for shape in REAL:
            fused_gates.check_gate("relu6", kind, shape, "cuda", dtype)

    @pytest.mark.parametrize("activation", ACTIVATIONS)
    def test_every_activation(self, activation):
        fused_gates.check_gate(activation, "twin", REAL[0], "cuda", torch.bfloat16)
        fused_gates.check_gate(activation, "self+bias", REAL[0], "cuda", torch.float32)
        fused_gates.check_ends(activation, "cuda")

    def test_networks(self, monkeypatch):
        monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", False)
        for name, architecture in fused_gates.networks().items():
            fused_gates.check_network(name, architecture, "cuda")

    def test_more_numbers_than_an_int32_counts(self):
        """The last pixels of 2.2e9 numbers are those of a small map."""
        last = fused_gates.features((1, 72, 32, 32), 0, "cuda", torch.bfloat16)
        h = torch.zeros(30_000, 72, 32, 32, dtype=torch.bfloat16, device="cuda")
        h = h.contiguous(memory_format=torch.channels_last)
        h[-1:] = last
        bias = torch.linspace(-2, 2, 72, device="cuda")
        out = fused_gate.fused_gate("relu6", h, bias=bias)
        assert torch.equal(out[-1:], fused_gate.fused_gate("relu6", last, bias=bias))
        assert torch.equal(out[0], out[-2])

    def test_the_same_inputs_give_the_same_bits(self):
        given = fused_gates.inputs("twin", REAL[0], "cuda", torch.bfloat16)
        grad = fused_gates.features(REAL[0], 2, "cuda", torch.bfloat16)
        first, second = (
            fused_gates.results(fused_gate.fused_gate, "gelu", given, grad) for _ in range(2)
        )
        assert all(map(torch.equal, first, second))

    @pytest.mark.parametrize("form", ["self", "twin", "dw"])
    def test_a_cuda_graph_of_a_step_replays_it_on_other_images(self, form):
        """In bf16 as a training has it; the gradients as without a graph."""
        architecture = fused_gates.networks()[f"{form}.expand"]
        model = fused_gates.training(architecture, algebra=True).cuda()
        torch.manual_seed(1)
        first, second = (
            torch.randn(8, 3, 64, 64, device="cuda").contiguous(memory_format=torch.channels_last)
            for _ in range(2)
        )
        eager = gradients_of(copy.deepcopy(model), second)
        images = first.clone()
        side = torch.cuda.Stream()
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):  # kernels are compiled here
            for _ in range(3):
                gradients_of(model, images)
        torch.cuda.current_stream().wait_stream(side)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            captured = gradients_of(model, images)
        images.copy_(second)
        graph.replay()
        assert distance(captured, eager) < 0.02
        graph.replay()  # with nothing left over from the last
        assert distance(captured, eager) < 0.02
        images.copy_(first)
        graph.replay()
        assert distance(captured, eager) > 0.2

    def test_a_published_network_in_bf16(self):
        """As far from float64 as plain PyTorch in bf16 is, or nearer."""
        model = fused_gates.training(gmnet("gmnet_s1"), algebra=True).to("cuda")
        images = torch.randn(16, 3, 128, 128, device="cuda")
        images = images.contiguous(memory_format=torch.channels_last)
        exact = gradients_of(copy.deepcopy(model).double(), images.double(), narrow=False)
        ours = distance(gradients_of(copy.deepcopy(model), images), exact)
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("GMSEARCH_OFF", "gate")
            plain = distance(gradients_of(copy.deepcopy(model), images), exact)
        assert ours < 1.25 * plain


def gradients_of(model: nn.Module, images: torch.Tensor, narrow: bool = True) -> dict:
    model.zero_grad(set_to_none=True)
    with torch.autocast("cuda", torch.bfloat16, enabled=narrow, cache_enabled=False):
        logits = model(images)
    weights = torch.linspace(-1, 1, logits.numel(), device="cuda", dtype=logits.dtype)
    (logits * weights.view_as(logits)).sum().backward()
    return {name: p.grad for name, p in model.named_parameters() if p.grad is not None}


def distance(found: dict, exact: dict) -> float:
    """Of all gradients together, as a share of their length."""
    off = sum(float((found[name].double() - g).square().sum()) for name, g in exact.items())
    return (off / sum(float(g.square().sum()) for g in exact.values())) ** 0.5
