"""Whether an exported network computes what the network computes."""

from collections.abc import Callable

import numpy as np
import torch
from torch import nn

from gmsearch.errors import ExportError

TOLERANCE = 1e-4  # of the largest logit
BATCHES = (1, 5)
SEED = 0

Run = Callable[[np.ndarray], np.ndarray]


class Check:
    """Compares logits with those of a network in float32 on fixed images, normal noise as
    normalised images are, one alone and five at once.
    """

    def __init__(self, model: nn.Module, resolution: int) -> None:
        shape = sum(BATCHES), 3, resolution, resolution
        noise = np.random.default_rng(SEED).standard_normal(shape, dtype=np.float32)
        self._batches = np.split(noise, np.cumsum(BATCHES)[:-1])
        run = as_run(model)
        self._expected = [run(batch) for batch in self._batches]
        if not all(np.isfinite(logits).all() for logits in self._expected):
            raise ExportError("cannot be checked: the network's own logits are not finite")
        self.largest = max(float(np.abs(logits).max()) for logits in self._expected)

    def differences(self, run: Run) -> dict[int, float]:
        """The largest difference of logits over the largest logit, by batch size."""
        found = [run(batch) for batch in self._batches]
        scale = self.largest or 1.0
        return {
            len(batch): float(np.abs(logits - expected).max()) / scale
            for batch, logits, expected in zip(self._batches, found, self._expected, strict=True)
        }

    def hold(self, name: str, run: Run) -> float:
        """The largest of the differences. Raises ExportError where it is above TOLERANCE."""
        worst = max(self.differences(run).values())
        if not worst <= TOLERANCE:
            raise ExportError(
                f"{name}: logits differ by {worst:.1e} of the largest from those of the network, "
                f"and {TOLERANCE:g} is allowed; nothing was written"
            )
        return worst


def as_run(model: nn.Module) -> Run:
    """A module as a function of arrays."""

    def run(images: np.ndarray) -> np.ndarray:
        with torch.no_grad():
            return model(torch.from_numpy(images)).float().numpy()

    return run
