"""model.pt2: a network as a program of torch.export, for any batch size."""

import copy
import io
import warnings

import torch
from torch import nn

from gmsearch.errors import ExportError


def export_program(model: nn.Module, resolution: int) -> bytes:
    """A network in eval mode as the bytes of a .pt2 file: (N, 3, H, W) to (N, num_classes).

    Raises ExportError.
    """
    images = torch.zeros(2, 3, resolution, resolution)  # not 1, which would be a constant
    batch = torch.export.Dim("batch", min=1)
    file = io.BytesIO()
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            program = torch.export.export(
                copy.deepcopy(model), (images,), dynamic_shapes=({0: batch},)
            )
            torch.export.save(program, file)
        except Exception as error:  # each operator stumbles in its own way
            reason = (str(error).strip() or type(error).__name__).splitlines()[0]
            raise ExportError(f"cannot be exported by torch.export: {reason}") from error
    return file.getvalue()


def load_program(exported: bytes) -> nn.Module:
    """The program of a file that `export_program` made, as a module."""
    return torch.export.load(io.BytesIO(exported)).module()
