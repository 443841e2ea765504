"""The likeliest classes of images, by an export: `gmsearch predict`."""

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch

from gmsearch.data.decoding import reason_of, side_for, to_square
from gmsearch.errors import DataError, UserError
from gmsearch.exporting.check import as_run
from gmsearch.exporting.folder import ONNX
from gmsearch.exporting.pretrained import CONFIG, WEIGHTS, load_pretrained
from gmsearch.onnx_export import OrtNetwork

TOP = 5


class Guess(NamedTuple):
    """A class and its probability."""

    label: str
    probability: float


class Predictor:
    """A network of an export folder: its ONNX file in ONNX Runtime, or else what timm loads.

    Raises DataError where the folder is no export, or a broken one.
    """

    def __init__(self, folder: Path) -> None:
        self._read_config(folder)
        self._run = self._load(folder)

    def guesses(self, image: Path) -> list[Guess]:
        """The likeliest classes of an image file, at most TOP. Raises DataError."""
        (logits,) = self._run(self.prepare(image)[None])
        odds = np.exp(logits.astype(np.float64) - logits.max())
        probabilities = odds / odds.sum()
        best = np.argsort(-probabilities, kind="stable")[:TOP]
        return [Guess(self._label(int(each)), float(probabilities[each])) for each in best]

    def prepare(self, image: Path) -> np.ndarray:
        """An image file as the network takes it, float32 (3, H, W): the centre as packs have it,
        normalised.
        """
        resolution = self.resolution
        side = side_for(resolution)
        try:
            square = to_square(image.read_bytes(), resolution, side)
        except Exception as error:  # whatever a broken file makes of the decoder
            raise DataError(f"{image}: not an image that can be read: {reason_of(error)}") from None
        corner = (side - resolution) // 2
        centre = square[corner : corner + resolution, corner : corner + resolution]
        pixels = centre.astype(np.float32) / 255
        return ((pixels - self._mean) / self._std).transpose(2, 0, 1).copy()

    def _label(self, index: int) -> str:
        return self._labels[index] if self._labels else f"class {index}"

    def _read_config(self, folder: Path) -> None:
        file = folder / CONFIG
        if not file.is_file():
            raise DataError(f"{folder} is no export, it has no {CONFIG}; see gmsearch export")
        try:
            config = json.loads(file.read_text(encoding="utf-8", errors="surrogateescape"))
            about = config["pretrained_cfg"]
            channels, height, width = about["input_size"]
            self._mean, self._std = (_channels(about[key]) for key in ("mean", "std"))
            self._labels: list[str] = config.get("label_names") or []
            self._num_classes = config["num_classes"]
            if (channels, height) != (3, width) or not isinstance(height, int) or height < 1:
                raise ValueError
            if self._labels and (
                not isinstance(self._labels, list)
                or len(self._labels) != self._num_classes
                or not all(isinstance(label, str) for label in self._labels)
            ):
                raise ValueError
        except (OSError, ValueError, LookupError, TypeError, AttributeError):
            raise DataError(f"{file}: not what gmsearch export wrote; export it again") from None
        self.resolution: int = height

    def _load(self, folder: Path) -> Callable[[np.ndarray], np.ndarray]:
        onnx, weights = folder / ONNX, folder / WEIGHTS
        if not onnx.is_file() and not weights.is_file():
            raise DataError(f"{folder} has neither {ONNX} nor {WEIGHTS}; export it --to onnx")
        file = onnx if onnx.is_file() else weights
        run: Callable[[np.ndarray], np.ndarray]
        try:
            if file is onnx:
                run = OrtNetwork(onnx.read_bytes(), torch.get_num_threads()).run
            else:
                run = as_run(load_pretrained(folder))
            logits = run(np.zeros((1, 3, self.resolution, self.resolution), np.float32))
        except Exception as error:  # a broken file may make the readers stumble in any way
            reason = error if isinstance(error, UserError) else reason_of(error)
            raise DataError(f"{file}: cannot be loaded; export it again ({reason})") from None
        if logits.shape != (1, self._num_classes):
            raise DataError(f"{file}: not the network of {CONFIG}; export it again")
        return run


def _channels(values: Sequence[float]) -> np.ndarray:
    array = np.array(values, np.float32)
    if array.shape != (3,):
        raise ValueError
    return array
