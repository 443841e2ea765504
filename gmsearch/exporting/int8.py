"""model.int8.onnx: a network with weights and features of 8 bits, by static quantisation."""

import logging
import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import NamedTuple

import numpy as np
import torch

from gmsearch import data
from gmsearch.errors import SettingsError
from gmsearch.exporting.subject import Subject
from gmsearch.feeding import Batches, in_order, place
from gmsearch.onnx_export import INPUT, OrtNetwork

CALIBRATION = 256  # images of minival, or all where it has fewer
FEWEST = 100
BATCH = 16  # images that are calibrated with at once


class Quantised(NamedTuple):
    """A quantised network, and how well it does beside the one that it comes from."""

    onnx: bytes
    top1: float  # in per cent of minival
    top1_float: float
    num_images: int  # of minival
    num_calibration: int


def minival_for(subject: Subject, source: str | None) -> data.Dataset:
    """The data to calibrate with: `source`, or that of the run that the network comes from.

    Raises UserError where it is not that of the network.
    """
    settings = subject.settings
    if source is None:
        if settings is None:
            raise SettingsError("--int8 needs images to calibrate with; give --data PACK")
        source = settings.data
    dataset = data.load(
        source,
        resolution=subject.resolution,
        seed=0 if settings is None else settings.seed,
        cache=None if settings is None or settings.cache is None else Path(settings.cache),
    )
    if len(dataset.classes) != subject.num_classes:
        raise SettingsError(
            f"--data {source}: {len(dataset.classes):,} classes, but the network has "
            f"{subject.num_classes:,}; give the data that it was trained on"
        )
    if subject.labels is not None and dataset.classes != subject.labels:
        raise SettingsError(
            f"--data {source}: other classes than those of the network; "
            "give the data that it was trained on"
        )
    if len(dataset.minival) < FEWEST:
        raise SettingsError(
            f"--data {source}: {len(dataset.minival)} images in minival; "
            f"calibration takes {FEWEST} or more: pack more images"
        )
    return dataset


def quantise(onnx: bytes, dataset: data.Dataset) -> Quantised:
    """Quantises an exported network, and evaluates both on minival.

    Calibration images are spread over minival; what they cost in honesty is small, since ranges
    are all that is taken from them.
    """
    step = max(1, len(dataset.minival) // CALIBRATION)
    chosen = np.arange(len(dataset.minival))[::step][:CALIBRATION]
    images = np.concatenate([batch.numpy() for batch, _ in _minival(dataset)])[chosen]
    small = _quantise(onnx, images)
    return Quantised(
        small,
        _top1(small, _minival(dataset)),
        _top1(onnx, _minival(dataset)),
        len(dataset.minival),
        len(chosen),
    )


def _minival(dataset: data.Dataset) -> Batches:
    split, cpu = dataset.minival, torch.device("cpu")
    return in_order(place(split.images, cpu), split.labels, dataset.resolution, cpu)


def _quantise(onnx: bytes, images: np.ndarray) -> bytes:
    """Features with one range a tensor, weights with one a channel, in 7 bits: on a CPU without
    instructions for 8, sums of two products of 8 bits would not fit 16 and be cut off.
    """
    os.environ["ORT_DISABLE_TELEMETRY"] = "1"  # read once, when it is imported
    from onnxruntime import quantization
    from onnxruntime.quantization.shape_inference import quant_pre_process

    class Reader(quantization.CalibrationDataReader):
        def __init__(self) -> None:
            self._batches = iter(_in_batches(images))

        def get_next(self) -> dict[str, np.ndarray] | None:
            batch = next(self._batches, None)
            return None if batch is None else {INPUT: batch}

    with TemporaryDirectory() as folder, _no_advice():
        plain, prepared, small = (Path(folder) / f"{name}.onnx" for name in "abc")
        plain.write_bytes(onnx)
        quant_pre_process(plain, prepared, skip_symbolic_shape=True)
        quantization.quantize_static(
            prepared,
            small,
            Reader(),
            quant_format=quantization.QuantFormat.QDQ,
            per_channel=True,
            activation_type=quantization.QuantType.QUInt8,
            weight_type=quantization.QuantType.QInt8,
            reduce_range=True,
        )
        return small.read_bytes()


def _in_batches(images: np.ndarray) -> Iterator[np.ndarray]:
    yield from np.array_split(images, range(BATCH, len(images), BATCH))


class _no_advice:
    """The quantiser gives advice through the root logger, on what is done already."""

    def __enter__(self) -> None:
        self._before = logging.root.manager.disable
        logging.disable(logging.WARNING)

    def __exit__(self, *_: object) -> None:
        logging.disable(self._before)


def _top1(onnx: bytes, batches: Iterable[tuple[torch.Tensor, torch.Tensor]]) -> float:
    network = OrtNetwork(onnx, threads=torch.get_num_threads())
    correct = count = 0
    for images, labels in batches:
        found = network.run(images.contiguous().numpy()).argmax(1)
        correct += int((found == labels.numpy()).sum())
        count += len(labels)
    return 100 * correct / count
