"""How fast the files of exports are, beside each other.

    gmsearch export runs/NAME --int8
    gmsearch export gmnet@300M --int8 --data PACK --classes N --resolution PX --out gmnet
    python benchmarks/exports.py runs/NAME/exported/ID gmnet --threads 1

model.onnx and model.int8.onnx in ONNX Runtime and model.pt2 in PyTorch, each on one batch of noise,
all files of all exports in turn. Times are the median of all repeats and their quartiles.
"""

import argparse
import json
import sys
from dataclasses import asdict
from pathlib import Path

import torch

from gmsearch import latency
from gmsearch.exporting.folder import INT8, ONNX, PROGRAM
from gmsearch.exporting.program import load_program

FILES = {ONNX: "ONNX Runtime", INT8: "ONNX Runtime, 8 bits", PROGRAM: "PyTorch"}


def main() -> int:
    arguments = parse_arguments()
    torch.set_num_threads(arguments.threads)
    known = [
        (folder, name, subject_of(folder, name, arguments.batch_size))
        for folder in arguments.folders
        for name in FILES
        if (folder / name).is_file()
    ]
    found = latency.measure([subject for _, _, subject in known])
    print(
        f"{latency.cpu_name()}, {arguments.threads} threads, batch of {arguments.batch_size}; "
        "milliseconds, median (quartiles)\n"
    )
    for (folder, name, _), each in zip(known, found, strict=True):
        times = f"{each.median_ms:7.2f} ({each.low_ms:.2f}-{each.high_ms:.2f})"
        print(f"{folder.name:24}{macs_of(folder) / 1e6:>8.1f}M  {FILES[name]:22}{times}")
    if arguments.json:
        rows = [
            {"export": str(folder), "file": name, **asdict(each)}
            for (folder, name, _), each in zip(known, found, strict=True)
        ]
        arguments.json.write_text(json.dumps(rows, indent=2) + "\n")
    return 0


def subject_of(folder: Path, name: str, batch_size: int) -> latency.Subject:
    """What is timed: a file of an export, on images of the size that it is for."""
    resolution, exported = about(folder)["resolution"], (folder / name).read_bytes()
    if name != PROGRAM:
        return latency.onnx(exported, resolution, batch_size)
    program = load_program(exported)
    images = torch.randn(batch_size, 3, resolution, resolution)
    images = images.to(memory_format=torch.channels_last)

    @torch.inference_mode()
    def run() -> None:
        program(images)

    threads = torch.get_num_threads()
    return latency.Subject(run, latency.EAGER, latency.cpu_name(), batch_size, threads)


def about(folder: Path) -> dict:
    return json.loads((folder / "check.json").read_text())


def macs_of(folder: Path) -> int:
    return about(folder)["deployed_macs"]


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folders", nargs="+", type=Path, metavar="EXPORT_DIR")
    parser.add_argument("--threads", type=int, default=1, help="(default: 1)")
    parser.add_argument("--batch-size", type=int, default=1, help="(default: 1)")
    parser.add_argument("--json", type=Path, metavar="FILE")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
