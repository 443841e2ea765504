"""Several workers that train one network: what each does for the others. The one door to
torch.distributed.

Alone, everything here does nothing.
"""

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

from torch import Tensor, distributed, nn
from torch.nn.parallel import DistributedDataParallel

from gmsearch.feeding import Share


class Crew:
    """The workers of one training, seen from one of them.

    With more than one the process group must be there already. `model` is what to call in training:
    its gradients are the means over the workers, once `collecting` lets them.
    """

    def __init__(self, model: nn.Module, share: Share) -> None:
        self.share = share
        self.model: Any = model
        if share.workers > 1:
            # Statistics of norms follow the first worker, and are sent when they are needed.
            self.model = DistributedDataParallel(model, broadcast_buffers=False)

    @contextmanager
    def collecting(self, *, is_last: bool) -> Iterator[None]:
        """Around each part of a step: gradients are exchanged with the last."""
        alone = self.share.workers == 1
        with nullcontext() if alone or is_last else self.model.no_sync():
            yield

    def sum(self, values: Tensor) -> Tensor:
        """The sum over all workers."""
        if self.share.workers > 1:
            distributed.all_reduce(values)
        return values

    def follow_first(self, *models: nn.Module) -> None:
        """Gives all workers the buffers of the first, such as the statistics of norms."""
        if self.share.workers > 1:
            for model in models:
                for buffer in model.buffers():
                    distributed.broadcast(buffer, 0)
