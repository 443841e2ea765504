"""In which numbers a network computes."""

import torch


def uses_bf16(device: torch.device, precision: str) -> bool:
    """bf16 where it is asked for or, under `auto`, where it is faster.

    On a CPU it is off: without bf16 instructions it is 5-10 times slower, and with them, where the
    library's weight gradient of depthwise convolutions ate the gain, ours is not measured yet. On a
    GPU it takes half the memory; small images may be 10 % faster in TF32 (docs/log.md). Shapes have
    no say: networks of one search compare only where all are trained in the same numbers.
    """
    faster = device.type == "cuda" and torch.cuda.is_bf16_supported(False)
    return precision == "bf16" or (precision == "auto" and faster)


def autocast(device: torch.device, precision: str) -> torch.autocast:
    enabled = uses_bf16(device, precision)
    return torch.autocast(device.type, torch.bfloat16, enabled=enabled)
