"""Checkpoints: one file per training, replaced atomically, read back without running code."""

import io
from pathlib import Path

import torch

from gmsearch.errors import TrainingError
from gmsearch.files import replacing
from gmsearch.training import TrainingState


def save(path: Path, state: TrainingState) -> None:
    """Writes weights, optimizer, averages and history. A kill leaves the old file or the new one,
    never a part.
    """
    saved = io.BytesIO()
    torch.save(state.state_dict(), saved)  # into a file it tells a full disk as an error of its own
    with replacing(path, durable=True) as file:
        file.write(saved.getbuffer())


def load(path: Path, state: TrainingState) -> None:
    """Takes `state` to where it was saved. Raises TrainingError for a file that does not belong to
    its network.
    """
    try:
        saved = torch.load(path, map_location=state.device, weights_only=True)
        state.load_state_dict(saved)
    except (OSError, MemoryError):  # of the machine: the file may be sound
        raise
    except Exception as error:  # a broken file may make the reader stumble in any way
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise TrainingError(f"{path}: not a checkpoint of this network: {reason}") from error
