"""An export as a whole: every format written and checked, and the folder there whole or not at
all.
"""

import json
import os
import shutil
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib import metadata
from pathlib import Path
from typing import Any

import torch

from gmsearch.cost import total
from gmsearch.counting import count
from gmsearch.errors import SettingsError
from gmsearch.exporting import printable
from gmsearch.exporting.card import write_card
from gmsearch.exporting.check import BATCHES, SEED, TOLERANCE, Check, as_run
from gmsearch.exporting.int8 import Int8Data, quantise
from gmsearch.exporting.pretrained import WEIGHTS, load_pretrained, write_config, write_weights
from gmsearch.exporting.program import export_program, load_program
from gmsearch.exporting.source_code import load_code, write_code
from gmsearch.exporting.subject import Subject
from gmsearch.files import write_atomically
from gmsearch.network import network_to_json
from gmsearch.onnx_export import OrtNetwork, export_onnx

ONNX, INT8, PROGRAM, CODE = "model.onnx", "model.int8.onnx", "model.pt2", "model.py"

Say = Callable[[str], None]


def export(
    subject: Subject,
    folder: Path,
    formats: tuple[str, ...],
    *,
    int8_data: Int8Data | None = None,
    say: Say = lambda line: None,
) -> dict[str, Any]:
    """Writes a network in some of FORMATS, and quantised where `int8_data` is given; returns what
    check.json has.

    Raises SettingsError for a folder that is not free, and ExportError for a format that the
    network cannot have, or that computes something else.
    """
    refuse_used(folder)
    with _whole(folder) as partial:
        report = _write(subject, partial, formats, int8_data, say)
        refuse_used(folder)
    return report


def refuse_used(folder: Path) -> None:
    """Raises SettingsError where a folder exists and has something in it."""
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise SettingsError(f"{folder} exists and is not empty; give another --out, or remove it")


@contextmanager
def _whole(folder: Path) -> Iterator[Path]:
    """A folder to fill that takes its name at the end, and leaves nothing after an error."""
    folder = Path(os.path.realpath(folder))  # `.` has no name, and no folder replaces a link
    partial = folder.with_name(f".{folder.name}.{uuid.uuid4().hex[:8]}")
    partial.mkdir(parents=True)
    try:
        yield partial
        os.replace(partial, folder)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _write(
    subject: Subject,
    folder: Path,
    formats: tuple[str, ...],
    int8_data: Int8Data | None,
    say: Say,
) -> dict[str, Any]:
    check = Check(subject.model, subject.resolution)
    found: dict[str, dict[str, Any]] = {}

    def hold(name: str, run: Any, *files: str) -> None:
        size = sum((folder / file).stat().st_size for file in files)
        worst = check.hold(name, run)
        found[name] = {"difference": worst, "files": list(files), "bytes": size}
        say(f"{name}: {', '.join(files)}, {size / 1e6:.1f} MB, logits differ by {worst:.1e}")

    write_atomically(folder / "architecture.json", network_to_json(subject.network))
    write_config(subject, folder)
    if {"timm", "code"} & set(formats):
        write_weights(subject, folder)
    if "timm" in formats:
        hold("timm", as_run(load_pretrained(folder)), "config.json", WEIGHTS)
    deployed = subject.deployed()
    exported = b""
    if "onnx" in formats or int8_data is not None:
        exported = export_onnx(deployed, subject.resolution)
    if "onnx" in formats:
        (folder / ONNX).write_bytes(exported)
        hold("onnx", OrtNetwork(exported, torch.get_num_threads()).run, ONNX)
    if "torch" in formats:
        program = export_program(deployed, subject.resolution)
        (folder / PROGRAM).write_bytes(program)
        hold("torch", as_run(load_program(program)), PROGRAM)
    if "code" in formats:
        write_atomically(folder / CODE, write_code(subject))
        hold("code", as_run(load_code(folder / CODE, folder / WEIGHTS)), CODE, WEIGHTS)
    if int8_data is not None:
        found["int8"] = _write_int8(exported, folder, int8_data, check, say)
    report = {
        "network": subject.network.id,
        "resolution": subject.resolution,
        "num_classes": subject.num_classes,
        "weights": subject.facts,
        "cost": subject.cost._asdict(),
        "deployed_macs": total(count(deployed, subject.resolution)).macs,
        "images": f"{' + '.join(map(str, BATCHES))} of normal noise, seed {SEED}",
        "reference": "the network in float32, in PyTorch",
        "difference": "of logits, the largest, over the largest logit",
        "largest_logit": check.largest,
        "allowed": TOLERANCE,
        "formats": found,
        "versions": {name: metadata.version(name) for name in ("torch", "timm", "onnxruntime")},
    }
    write_atomically(folder / "check.json", json.dumps(report, indent=2) + "\n")
    write_atomically(folder / "README.md", write_card(subject, report))
    return report


def _write_int8(
    exported: bytes, folder: Path, int8_data: Int8Data, check: Check, say: Say
) -> dict[str, Any]:
    dataset, split = int8_data
    small = quantise(exported, dataset)
    (folder / INT8).write_bytes(small.onnx)
    size = len(small.onnx)
    say(
        f"int8: {INT8}, {size / 1e6:.1f} MB, top1 {small.top1:.1f} on {small.num_images:,} images "
        f"of {split}, {small.top1_float:.1f} with floats"
    )
    run = OrtNetwork(small.onnx, torch.get_num_threads()).run
    return {
        "difference": max(check.differences(run).values()),  # no limit holds for it
        "files": [INT8],
        "bytes": size,
        "top1": small.top1,
        "top1_float": small.top1_float,
        "data": printable(dataset.name),
        "split": split,
        "images": small.num_images,
        "calibration_images": small.num_calibration,
    }
