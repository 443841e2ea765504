"""Training steps: ours, each of its parts off, and plain PyTorch, on the same batch.

    python benchmarks/speed/steps.py [--images FOLDER] [--networks WHAT ...] [--resolutions PX ...]

For every network, resolution and batch size, a line for each way of training: images per second,
the ratio to plain fp32 PyTorch (median and range), the most memory that it had at once (on a CPU
without weights and moments, `kinds.peak_bytes`), the share of the roofline (`roofline.py`), how far
outputs, gradients and updates of such steps are from those in float64 (`variants.Errors`: of the
gradients of parameters the median and the largest), and what ours gains by a part beside what was
predicted; gains hang on each other, and do not multiply. All ways keep memory from step to step
(`gmsearch.process`), which plain PyTorch by itself does not. On a CPU with one thread, as a worker
of a search has it, the ways taking turns step by step; on a GPU where there is one, one way after
the other, since the graphs of all together would not fit its memory: ratios there are of rounds
that are not paired. With images in ImageNet layout, under each of these stands what all of training
does with them, beside timm's loop (`epochs.py`).
"""

import argparse
import time
from collections.abc import Iterable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict, replace
from itertools import product
from statistics import median
from typing import Any, NamedTuple

import epochs
import roofline
import torch
from flags import add_common, check, existing_folder, run, whole, write_json
from kinds import by_kind, peak_bytes
from machine import machine
from variants import (
    NUM_CLASSES,
    OURS,
    PLAIN,
    PREDICTED,
    STOCK,
    Training,
    Variant,
    errors_of,
    exact_of,
    has_bf16,
    num_compared,
    variants,
)

from gmsearch.process import prepare
from gmsearch.what import resolve
from gmsearch.zoo import ledger_of

ON_CPU = {64: [16, 32, 128], 128: [16, 32, 64], 224: [8, 16]}  # batch sizes by resolution
ON_GPU = {64: [64, 256, 1024], 128: [128, 512], 224: [128, 512]}
STEPS = 5  # of a GPU, between two looks at the clock


class Measured(NamedTuple):
    """Of one way of training."""

    seconds: list[float]  # of a step, turn by turn
    memory: int  # bytes


def main() -> None:
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    arguments = parse_arguments(ON_GPU if device.type == "cuda" else ON_CPU)
    prepare(1)
    sizes = [size for each in arguments.batch_sizes.values() for size in each]
    check(arguments.networks, arguments.batch_sizes, min(sizes))
    packing: AbstractContextManager[dict[int, epochs.Pack]] = nullcontext({})
    if arguments.images:
        packing = epochs.packed(arguments.images, arguments.batch_sizes, max(sizes))
    with packing as packs:
        measure_all(arguments, packs, device)


def measure_all(
    arguments: argparse.Namespace, packs: dict[int, epochs.Pack], device: torch.device
) -> None:
    """Prints all there is, and writes it after each network, resolution and batch size."""
    torch.backends.cuda.matmul.allow_tf32 = (
        True  # as convolutions do unasked: fp32 is TF32 on a GPU
    )
    about = machine(device)
    print(", ".join(f"{name} {value}" for name, value in about.items()))
    images, rounds = arguments.images, arguments.rounds
    found: dict[str, Any] = {"machine": about, "rounds": rounds, "rows": [], "epochs": []}
    for what, (px, sizes) in product(arguments.networks, arguments.batch_sizes.items()):
        for size in sizes:
            found["rows"] += compare(what, px, size, device, arguments)
            if images:
                row = epochs.compare(what, images, packs[px], size, rounds, device)
                found["epochs"].append(row)
            write_json(arguments.json, found)


def compare(
    what: str,
    resolution: int,
    batch_size: int,
    device: torch.device,
    arguments: argparse.Namespace,
) -> list[dict[str, Any]]:
    """Prints and returns a line for each way of training."""

    def make(way: Variant, count: int = batch_size) -> Training:
        return Training(resolve(what), way, resolution, count, str(device))

    ways = variants(device)
    if not arguments.compile:
        ways.pop("+ compile", None)
    few = num_compared(resolution, batch_size)
    exact = exact_of(make(ways[PLAIN], few))
    errors = {name: errors_of(make(way, few), exact) for name, way in ways.items()}
    del exact
    dtypes = [torch.float32] + [torch.bfloat16] * has_bf16(device)
    # For each case anew: what else the machine does changes.
    ceilings = {dtype: roofline.measure(device, dtype) for dtype in dtypes}
    measure = one_by_one if device.type == "cuda" else in_turn
    found = measure({name: (make, way) for name, way in ways.items()}, arguments.rounds)
    ledger = ledger_of(resolve(what), resolution=resolution, num_classes=NUM_CLASSES)
    print(
        f"\n{what} at {resolution} px, batch of {batch_size}"
        + f", errors of {few} images" * (few < batch_size)
    )
    for dtype, each in ceilings.items():
        print(f"{dtype}: {each.operations / 1e9:,.0f} GFLOP/s, {each.bytes / 1e9:,.1f} GB/s")
    print(
        f"{'':26}{'images/s':>9}{'to plain':>22}{'memory':>10}{'roofline':>10}{'outputs':>10}"
        f"{'gradients':>11}{'largest':>10}{'updates':>10}{'gains':>22} (predicted)"
    )
    predicted = PREDICTED[device.type]
    rows = []
    for name, took in found.items():
        ratios = [a / b for a, b in zip(found[PLAIN].seconds, took.seconds, strict=True)]
        dtype = torch.bfloat16 if ways[name].precision == "bf16" else torch.float32
        best = roofline.floor(ledger, batch_size, ceilings[dtype])
        row: dict[str, Any] = {
            "network": what,
            "resolution": resolution,
            "batch_size": batch_size,
            "way": name,
            "images_per_second": batch_size / median(took.seconds),
            "ratios": ratios,
            "bytes": took.memory,
            "ceilings": asdict(ceilings[dtype]),
            "roofline_share": best / median(took.seconds),
            "images_compared": few,
            "outputs_error": errors[name].outputs,
            "gradient_error": errors[name].median,
            "largest_gradient_error": errors[name].largest,
            "updates_error": errors[name].updates,
        }
        rows.append(row)
        part = name.removeprefix("- ")
        gain = ""
        if part != name:  # what ours gains by it
            gains = [a / b for a, b in zip(took.seconds, found[OURS].seconds, strict=True)]
            row["gains"] = gains
            gain = f"{roofline.spread(gains):>22} ({predicted.get(part, 'none')})"
        print(
            f"{name:26}{row['images_per_second']:>9,.0f}{roofline.spread(ratios):>22}"
            f"{took.memory / 1e6:>7,.0f} MB{100 * row['roofline_share']:>8.0f} %"
            f"{errors[name].outputs:>10.1e}{errors[name].median:>11.1e}{errors[name].largest:>10.1e}"
            f"{errors[name].updates:>10.1e}{gain}",
            flush=True,
        )
    for name in [PLAIN, STOCK, OURS]:
        if name in ways:
            way = ways[name]
            kinds = by_kind(make(replace(way, off=(*way.off, "graph"))))
            shares = ", ".join(f"{kind} {share:.0f} %" for kind, share in kinds.items())
            rows[list(ways).index(name)]["kinds"] = kinds
            print(f"  {name}: {shares}", flush=True)
    return rows


def in_turn(ways: dict[str, Any], rounds: int) -> dict[str, Measured]:
    """All ways, step by step."""
    trainings = {name: make(way) for name, (make, way) in ways.items()}
    most = {name: peak_bytes(training) for name, training in trainings.items()}
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    for turn in range(-1, rounds):  # the first warms up
        for name, training in trainings.items():
            began = time.perf_counter()
            training.step()
            if turn >= 0:
                seconds[name].append(time.perf_counter() - began)
    return {name: Measured(seconds[name], most[name]) for name in ways}


def one_by_one(ways: dict[str, Any], rounds: int) -> dict[str, Measured]:
    """Each way by itself on a GPU."""
    found = {}
    for name, (make, way) in ways.items():
        training = make(way)
        torch.cuda.reset_peak_memory_stats()
        seconds = []
        for turn in range(-1, rounds):  # the first warms up, and captures
            torch.cuda.synchronize()
            began = time.perf_counter()
            for _ in range(STEPS):
                training.step()
            torch.cuda.synchronize()
            if turn >= 0:
                seconds.append((time.perf_counter() - began) / STEPS)
        found[name] = Measured(seconds, torch.cuda.max_memory_allocated())
        del training
        torch.cuda.empty_cache()
    return found


def parse_arguments(defaults: dict[int, list[int]]) -> argparse.Namespace:
    """`batch_sizes` are by resolution; `defaults` are this device's."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add_common(parser)
    parser.add_argument(
        "--resolutions",
        type=whole,
        nargs="+",
        default=list(defaults),
        metavar="PX",
        help=f"default: {_words(defaults)}",
    )
    parser.add_argument(
        "--batch-sizes",
        type=whole,
        nargs="+",
        metavar="N",
        help=f"default: on a CPU {_by_resolution(ON_CPU)}; on a GPU {_by_resolution(ON_GPU)}; "
        "needed for other resolutions",
    )
    parser.add_argument(
        "--images", type=existing_folder, metavar="FOLDER", help="timm's loop on these too"
    )
    parser.add_argument("--compile", action="store_true", help="torch.compile too, on a GPU")
    arguments = parser.parse_args()
    given = arguments.batch_sizes
    unknown = [px for px in arguments.resolutions if px not in defaults]
    if unknown and not given:
        parser.error(f"no batch sizes are known for {_words(unknown)} px; give --batch-sizes")
    arguments.batch_sizes = {px: given or defaults[px] for px in arguments.resolutions}
    return arguments


def _by_resolution(sizes: dict[int, list[int]]) -> str:
    return ", ".join(f"{_words(each)} at {px} px" for px, each in sizes.items())


def _words(numbers: Iterable[int]) -> str:
    return " ".join(map(str, numbers))


if __name__ == "__main__":
    run(main)
