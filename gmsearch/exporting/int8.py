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
from gmsearch.augment import normalise
from gmsearch.errors import SettingsError
from gmsearch.experiment import FullTraining, Settings
from gmsearch.exporting.subject import Subject, check_classes
from gmsearch.feeding import Batches, Crops, in_order, place
from gmsearch.onnx_export import INPUT, OrtNetwork

CALIBRATION = 256  # training images, or all where there are fewer
FEWEST = 100
BATCH = 16  # images that are calibrated with at once


class Int8Data(NamedTuple):
    """What a network is quantised with: ranges come from training images, top1 from held-out ones,
    which are `minival` of the data set.
    """

    dataset: data.Dataset
    split: str  # what the held-out images are: minival, or val in its place


class Quantised(NamedTuple):
    """A quantised network, and how well it does beside the one that it comes from."""

    onnx: bytes
    top1: float  # in per cent of the held-out images
    top1_float: float
    num_images: int  # that are held out
    num_calibration: int


def data_for(subject: Subject, source: str | None) -> Int8Data:
    """The data to quantise with: `source`, or that of the run that the network comes from.

    A full training has seen minival, and weights from a file may come from one, so val is held out
    there. Raises UserError where it is not the data of the network.
    """
    settings = subject.settings
    if source is None:
        source = _source_of(settings)
    official = isinstance(settings, FullTraining) or subject.facts["kind"] == "file"
    load = data.load_official if official else data.load
    dataset = load(
        source,
        resolution=subject.resolution,
        seed=0 if settings is None else settings.seed,
        cache=None if settings is None or settings.cache is None else Path(settings.cache),
    )
    check_classes(subject, dataset, source)
    if len(dataset.train) < FEWEST:
        raise SettingsError(
            f"--data {source}: {len(dataset.train)} training images; "
            f"calibration takes {FEWEST} or more: pack more images"
        )
    return Int8Data(dataset, "val" if official else "minival")


def _source_of(settings: Settings | FullTraining | None) -> str:
    """The data of a training. Raises SettingsError where there is none at hand."""
    if settings is None:
        raise SettingsError("--int8 needs images to calibrate with; give --data PACK")
    if settings.stream:
        raise SettingsError(
            f"--int8: {settings.data} was streamed, there is no pack of it; "
            "give --data PACK, which gmsearch pack makes"
        )
    return settings.data


def quantise(onnx: bytes, dataset: data.Dataset) -> Quantised:
    """Quantises an exported network, and evaluates both on the held-out images."""
    images = calibration_images(dataset)
    small = _quantise(onnx, images)
    return Quantised(
        small,
        _top1(small, _held_out(dataset)),
        _top1(onnx, _held_out(dataset)),
        len(dataset.minival),
        len(images),
    )


def calibration_images(dataset: data.Dataset) -> np.ndarray:
    """Centres of training images that are spread evenly over their split; no other is read."""
    images, count = dataset.train.images, min(CALIBRATION, len(dataset.train))
    chosen = np.arange(count) * len(images) // count
    corners = np.full(count, (images.side - dataset.resolution) // 2)
    crops = Crops(chosen, corners, corners, dataset.resolution)
    return normalise(place(images, torch.device("cpu")).take(crops)).contiguous().numpy()


def _held_out(dataset: data.Dataset) -> Batches:
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
