"""The kernels of the depthwise convolution against PyTorch's in float64.

Without a GPU Triton interprets them, which takes seconds for a few hundred pixels.
"""

import itertools
import os
import subprocess
import sys

import pytest
import torch
from torch.nn import functional as F

from gmsearch import depthwise, kernels

SIZES = ((1, 1), (2, 3), (7, 5), (4, 17))
CHANNELS = (1, 5, 24, 40, 70)
KERNELS = (3, 5, 7, 9)
DTYPES = (torch.float32, torch.bfloat16)
FEW = [  # images' shape, kernel, dtype
    ((2, 24, 7, 5), 7, torch.bfloat16),
    ((1, 40, 9, 2), 3, torch.float32),
    ((2, 5, 2, 3), 5, torch.bfloat16),
    ((3, 40, 1, 1), 9, torch.float32),
]


def images(shape, dtype, device, seed):
    drawn = torch.randn(shape, generator=torch.Generator().manual_seed(seed))
    return drawn.to(device, dtype).contiguous(memory_format=torch.channels_last)


def check(shape, kernel, dtype, device="cpu", with_bias=True):
    """Outputs and gradients are those of float64, but for one rounding to their dtype; the
    gradients of the weights are the library's.
    """
    from gmsearch import fused_depthwise

    x, grad = (images(shape, dtype, device, seed) for seed in (0, 1))
    weight = torch.randn((shape[1], 1, kernel, kernel), device=device)
    bias = torch.randn(shape[1], device=device) if with_bias else None
    given = [tensor for tensor in (x, weight, bias) if tensor is not None]
    ours = [tensor.clone().requires_grad_() for tensor in given]
    exact = [tensor.double().requires_grad_() for tensor in given]
    outputs = fused_depthwise.depthwise(*ours, *[None] * (not with_bias))
    wanted = F.conv2d(*exact, padding=kernel // 2, groups=shape[1])
    outputs.backward(grad)
    wanted.backward(grad.double())
    assert outputs.is_contiguous(memory_format=torch.channels_last) and outputs.dtype == dtype
    pairs = [(outputs, wanted)] + [(a.grad, b.grad) for a, b in zip(ours, exact, strict=True)]
    rounding = 2**-7 if device == "cpu" else 2**-8  # the interpreter cuts off what a GPU rounds
    for mine, theirs in pairs:
        narrow = mine.dtype == torch.bfloat16
        largest = 5e-6
        if dtype == torch.bfloat16 and mine.shape == weight.shape:  # the library's, in bf16
            narrow, largest = True, 2**-6
        allowed = rounding * narrow * theirs.abs() + largest * theirs.abs().max() + 1e-30
        assert ((mine.double() - theirs).abs() <= allowed).all(), (shape, kernel, dtype)


def check_few():
    for case in FEW:
        check(*case)
    check((2, 8, 3, 3), 3, torch.float32, with_bias=False)


def check_many():
    for case in itertools.product(SIZES, CHANNELS, (1, 3), KERNELS, DTYPES):
        size, channels, batch, kernel, dtype = case
        if (channels + batch + kernel) % 4 < 2 or max(size) < 4:  # half of those that take long
            check((batch, channels, *size), kernel, dtype, with_bias=batch == 3)


def check_parts():
    """However the sums are shared out among lanes and rows, they are the same."""
    from gmsearch.fused_depthwise import convolve

    x = images((1, 24, 9, 4), torch.float32, "cpu", 0)
    taps = torch.randn(25, 24)
    out = convolve(x, taps, None, x.dtype)
    for tiling in ({"ROWS": 2, "VECTOR": 4}, {"ROWS": 9, "LANES": 32}):
        torch.testing.assert_close(convolve(x, taps, None, x.dtype, **tiling), out)


def check_module():
    """The module of a network takes the kernels in training, under autocast too."""
    conv = depthwise.DepthwiseConv2d(8, 3)
    x = images((1, 8, 3, 3), torch.float32, "cpu", 0).requires_grad_()
    assert depthwise.trains_on_gpu(conv, x, conv.weight)
    with torch.autocast("cpu", torch.bfloat16):
        outputs = conv(x)
    assert outputs.dtype == torch.bfloat16
    assert (
        type(outputs.grad_fn).__name__ == "_FusedDepthwiseBackward"
        and outputs.grad_fn.saved_tensors
    )
    outputs.sum().backward()
    assert x.grad.dtype == conv.weight.grad.dtype == torch.float32
    torch.testing.assert_close(conv.bias.grad, torch.full((8,), 9.0))
    exact = F.conv2d(x, conv.weight, conv.bias, padding=1, groups=8)
    torch.testing.assert_close(outputs, exact.bfloat16(), rtol=2**-7, atol=1e-6)
    os.environ["GMSEARCH_OFF"] = "depthwise"
    assert not depthwise.trains_on_gpu(conv, x, conv.weight)
    del os.environ["GMSEARCH_OFF"]
    assert not depthwise.trains_on_gpu(conv.eval(), x, conv.weight)
    conv.train()
    contiguous = torch.randn(2, 8, 3, 3)
    torch.testing.assert_close(conv(contiguous), conv._conv_forward(contiguous, *conv.parameters()))


def interpret(*checks):
    """Runs checks of this file in a process where Triton interprets kernels."""
    pytest.importorskip("triton")
    program = f"import torch; torch.set_num_threads(1); import {__name__} as it"
    program += "".join(f"; it.{check.__name__}()" for check in checks)
    environment = {**os.environ, "TRITON_INTERPRET": "1"}
    environment["PYTHONPATH"] = os.pathsep.join([os.path.dirname(__file__), *sys.path])
    done = subprocess.run(
        [sys.executable, "-c", program], env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr[-3000:]


def test_the_kernels_are_the_convolution():
    interpret(check_few, check_parts, check_module)


@pytest.mark.slow
def test_the_kernels_are_the_convolution_at_all_sizes():
    interpret(check_many)


def test_without_triton_there_are_no_kernels(monkeypatch):
    monkeypatch.setenv("TRITON_INTERPRET", "1")
    monkeypatch.setattr(kernels, "_has_triton", lambda: False)
    conv = depthwise.DepthwiseConv2d(8, 3)
    x = images((1, 8, 3, 3), torch.float32, "cpu", 0)
    assert not depthwise.trains_on_gpu(conv, x, conv.weight)
    monkeypatch.setattr(kernels, "_has_triton", lambda: True)
    assert depthwise.trains_on_gpu(conv, x, conv.weight)
    assert not depthwise.trains_on_gpu(conv, x.bfloat16(), conv.weight)  # PyTorch refuses it
    found = []
    torch.func.grad(lambda w: found.append(depthwise.trains_on_gpu(conv, x, w)) or w.sum())(
        conv.weight
    )
    assert found == [False]


def test_a_tracer_sees_the_plain_convolution():
    conv = depthwise.DepthwiseConv2d(8, 3).eval()
    x = torch.randn(1, 8, 4, 4)
    assert torch.equal(torch.fx.symbolic_trace(conv)(x), conv(x))


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize(
    "shape",
    [(64, 24, 32, 32), (64, 40, 16, 16), (3, 70, 7, 5), (64, 160, 8, 8), (64, 320, 2, 2)]
    + [(5, 1, 12, 3), (16, 96, 56, 56), (64, 72, 14, 14), (64, 320, 1, 1), (8, 16, 112, 112)],
)
def test_the_kernels_on_a_gpu(shape, kernel, dtype):
    check(shape, kernel, dtype, "cuda")


@pytest.mark.gpu
def test_a_cuda_graph_repeats_the_same_sums():
    from gmsearch import fused_depthwise

    x = images((64, 40, 16, 16), torch.bfloat16, "cuda", 0)
    weight = torch.randn((40, 1, 7, 7), device="cuda", requires_grad=True)

    def step():
        return torch.autograd.grad(
            fused_depthwise.depthwise(x, weight, None).float().square().sum(), weight
        )[0]

    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        eager = step()
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        replayed = step()
    for _ in range(2):
        graph.replay()
        torch.cuda.synchronize()
        torch.testing.assert_close(replayed, eager, rtol=1e-4, atol=1e-3)
