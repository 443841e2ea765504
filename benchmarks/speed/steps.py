"""Training steps: ours, each of its parts off, and plain PyTorch, in turn on the same batch.

    python benchmarks/speed/steps.py [--networks WHAT ...] [--resolutions PX ...] [--json FILE]

For every network, resolution and batch size, a line for each way of training: images per second,
the ratio to plain fp32 PyTorch step by step (median and range), what the backward pass keeps of
the forward pass, the share of the roofline (`roofline.py`), and how far the gradients are from
those in float64. On a CPU with one thread, as a worker of a search has it; on a GPU where there is
one.
"""

import argparse
import json
import time
from itertools import product
from pathlib import Path
from statistics import median
from typing import Any

import roofline
import torch
from kinds import by_kind
from variants import NUM_CLASSES, OURS, PLAIN, Training, error_of, has_bf16, variants

from gmsearch.what import resolve
from gmsearch.zoo import ledger_of

ON_CPU = {64: [16, 32, 128], 128: [32], 224: [16]}  # batch sizes by resolution
ON_GPU = {64: [128, 1024], 128: [128, 1024], 224: [128, 512]}


def main() -> None:
    arguments = parse_arguments()
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    torch.set_num_threads(1)
    dtypes = [torch.float32] + [torch.bfloat16] * has_bf16(device)
    ceilings = {dtype: roofline.measure(device, dtype) for dtype in dtypes}
    for dtype, each in ceilings.items():
        print(f"{dtype}: {each.operations / 1e9:,.0f} GFLOP/s, {each.bytes / 1e9:,.1f} GB/s")
    sizes = ON_GPU if device.type == "cuda" else ON_CPU
    rows = []
    for what, resolution in product(arguments.networks, arguments.resolutions):
        for batch_size in arguments.batch_sizes or sizes[resolution]:
            rows += compare(what, resolution, batch_size, device, arguments.rounds, ceilings)
    if arguments.json:
        arguments.json.write_text(json.dumps(rows, indent=2) + "\n")


def compare(
    what: str,
    resolution: int,
    batch_size: int,
    device: torch.device,
    rounds: int,
    ceilings: dict[torch.dtype, roofline.Ceilings],
) -> list[dict[str, Any]]:
    """Prints and returns a line for each way of training."""
    ways = variants(device)
    trainings = {
        name: Training(resolve(what), way, resolution, batch_size, str(device))
        for name, way in ways.items()
    }
    errors = {name: error_of(training) for name, training in trainings.items()}
    kept = {name: training.saved_bytes() for name, training in trainings.items()}
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    for turn in range(-1, rounds):  # the first warms up
        for name, training in trainings.items():
            took = timed(training)
            if turn >= 0:
                seconds[name].append(took)
    ledger = ledger_of(resolve(what), resolution=resolution, num_classes=NUM_CLASSES)
    print(f"\n{what} at {resolution} px, batch of {batch_size}")
    print(f"{'':26}{'images/s':>9}{'to plain':>22}{'kept':>9}{'roofline':>10}{'gradients':>11}")
    rows = []
    for name, way in ways.items():
        ratios = [a / b for a, b in zip(seconds[PLAIN], seconds[name], strict=True)]
        best = roofline.floor(ledger, batch_size, ceilings[way.precision])
        row = {
            "network": what,
            "resolution": resolution,
            "batch_size": batch_size,
            "way": name,
            "images_per_second": batch_size / median(seconds[name]),
            "ratios": ratios,
            "kept_bytes": kept[name],
            "roofline_share": best / median(seconds[name]),
            "gradient_error": errors[name],
        }
        rows.append(row)
        print(
            f"{name:26}{row['images_per_second']:>9,.0f}{roofline.spread(ratios):>22}"
            f"{kept[name] / 1e6:>6,.0f} MB{100 * row['roofline_share']:>8.0f} %"
            f"{errors[name]:>11.1e}",
            flush=True,
        )
    for name in (PLAIN, OURS):
        shares = ", ".join(f"{k} {s:.0f} %" for k, s in by_kind(trainings[name]).items())
        print(f"  {name}: {shares}", flush=True)
    return rows


def timed(training: Training) -> float:
    began = time.perf_counter()
    training.step()
    return time.perf_counter() - began


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--networks", nargs="+", default=["gmnet_s1", "gmnet@300M"], metavar="WHAT")
    parser.add_argument("--resolutions", type=int, nargs="+", default=[64, 128, 224], metavar="PX")
    parser.add_argument("--batch-sizes", type=int, nargs="+", metavar="N")
    parser.add_argument("--rounds", type=int, default=7, metavar="N", help="steps of each, in turn")
    parser.add_argument("--json", type=Path, metavar="FILE")
    return parser.parse_args()


if __name__ == "__main__":
    main()
