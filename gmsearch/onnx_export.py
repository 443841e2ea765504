"""The one door to ONNX and ONNX Runtime: a network as a file, and the file as a network that runs.

torch has two exporters, and both export the networks that we compare with and give files that run
equally fast. We use the older one: it takes a second where the other takes ten, and needs nothing
but `onnx`, where the other needs `onnxscript` too. torch means to remove it some day; then
`torch.onnx.export(..., dynamo=True, dynamic_shapes=({0: torch.export.Dim("batch")},))` and `.save`
take its place.
"""

import copy
import os
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.jit import TracerWarning

from gmsearch.errors import ExportError

INPUT, OUTPUT = "image", "logits"


def export_onnx(model: nn.Module, resolution: int, in_chans: int = 3) -> bytes:
    """A network in eval mode and fp32 as the bytes of an ONNX file, for square images of
    `resolution` pixels and any batch size: (N, in_chans, H, W) `image` to (N, num_classes)
    `logits`. The model stays as it is. Raises ExportError.
    """
    copied = copy.deepcopy(model).to(device="cpu", dtype=torch.float32).eval()
    images = torch.zeros(2, in_chans, resolution, resolution)  # not 1, which might be broadcast
    with TemporaryDirectory() as folder, warnings.catch_warnings(), torch.no_grad():
        # The two remarks of the exporter that it is the older one.
        warnings.filterwarnings("ignore", "You are using the legacy Torch", DeprecationWarning)
        warnings.filterwarnings("ignore", "The feature will be removed", DeprecationWarning)
        # Sizes that a network computes in Python are fixed in the file: so they should be, all but
        # the batch.
        warnings.simplefilter("ignore", TracerWarning)
        warnings.filterwarnings("ignore", "Constant folding", UserWarning)  # left undone; harmless
        path = Path(folder) / "network.onnx"
        try:
            with _quiet():
                torch.onnx.export(
                    copied,
                    (images,),
                    path,
                    dynamo=False,
                    input_names=[INPUT],
                    output_names=[OUTPUT],
                    dynamic_axes={INPUT: {0: "batch"}, OUTPUT: {0: "batch"}},
                )
        except Exception as error:  # each operator stumbles in its own way
            reason = (str(error).strip() or type(error).__name__).splitlines()[0]
            raise ExportError(f"cannot be exported to ONNX: {reason}") from error
        return path.read_bytes()


@contextmanager
def _quiet() -> Iterator[None]:
    """Drops what is written to standard output, also from below Python: where the exporter
    stumbles, it prints the whole graph.
    """
    sys.stdout.flush()
    kept = os.dup(1)
    try:
        with open(os.devnull, "w") as nowhere:
            os.dup2(nowhere.fileno(), 1)
        yield
    finally:
        sys.stdout.flush()
        os.dup2(kept, 1)
        os.close(kept)


class OrtNetwork:
    """An exported network in ONNX Runtime, on `threads` cores of the CPU.

    Operators run one after the other, with all optimisations of the graph, which fold the norms
    into the convolutions. As by default, threads wait busily for a while after each run.
    """

    def __init__(self, onnx: bytes, threads: int) -> None:
        os.environ["ORT_DISABLE_TELEMETRY"] = "1"  # read once, when it is imported
        import onnxruntime  # not needed to search

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        options.inter_op_num_threads = 1
        options.execution_mode = onnxruntime.ExecutionMode.ORT_SEQUENTIAL
        options.log_severity_level = 3  # errors
        self.threads = threads
        self._session: Any = onnxruntime.InferenceSession(
            onnx, options, providers=["CPUExecutionProvider"]
        )

    def run(self, images: np.ndarray) -> np.ndarray:
        """fp32 images (N, C, H, W) to logits (N, num_classes)."""
        (logits,) = self._session.run([OUTPUT], {INPUT: images})
        return logits
