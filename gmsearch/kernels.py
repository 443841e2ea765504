"""Whether features can go through a kernel of ours. Triton itself is loaded by those alone."""

import os
from functools import cache
from importlib.util import find_spec

import torch
from torch import Tensor

from gmsearch.speedups import VARIABLE, is_on

TYPES = torch.float32, torch.bfloat16, torch.float16


def can_run(speedup: str, *features: Tensor) -> bool:
    """Whether a kernel takes these, each (N, C, H, W) and in channels_last.

    They are on a GPU with Triton, or on a CPU where it interprets its kernels (TRITON_INTERPRET=1);
    nobody compiles, traces, differentiates by torch.func or switched the kernel off.
    """
    if torch.compiler.is_compiling() or torch.jit.is_tracing():
        return False
    if torch._C._are_functorch_transforms_active():
        return False
    return (
        all(type(x) is Tensor for x in features)  # not a proxy of torch.fx, not a fake
        and (features[0].is_cuda or os.environ.get("TRITON_INTERPRET") == "1")
        and all(x.ndim == 4 and x.numel() > 0 and x.dtype in TYPES for x in features)
        and all(x.is_contiguous(memory_format=torch.channels_last) for x in features)
        and is_on(speedup)
        and _has_triton()
    )


def refuse_second_derivatives() -> None:
    """To be called by a backward pass that has none itself. Raises RuntimeError where one would be
    asked for: what PyTorch has for it (`once_differentiable`) takes a gradient for a constant where
    the loss is linear.
    """
    if torch.is_grad_enabled():
        raise RuntimeError(f"gmsearch has no second derivatives; {VARIABLE}=gate,depthwise has")


@cache
def _has_triton() -> bool:
    """A PyTorch for CPUs comes without."""
    return find_spec("triton") is not None
