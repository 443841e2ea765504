"""One step of a training: forward, backward, clipping, and the optimizer's update.

On a GPU the networks of a search are so small that launching a kernel takes longer than running it.
There a step is captured as one CUDA graph, after some that warm up, and replayed from then on: the
same kernels on the same memory, in one launch.
"""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from gmsearch.crew import Crew
from gmsearch.precision import autocast
from gmsearch.recipe import Recipe
from gmsearch.speedups import is_on
from gmsearch.teacher import distillation_loss

WARM_UP = 3  # steps, in which libraries and the optimizer allocate what they keep
Part = tuple[Tensor, Tensor]  # images (N, 3, H, W), and labels (N,) or shares of classes (N, K)


class Step:
    """Takes one step of an optimizer; gives the mean loss, a scalar on the device."""

    def __init__(
        self,
        crew: Crew,
        optimizer: torch.optim.Optimizer,
        recipe: Recipe,
        teacher: nn.Module | None = None,
    ) -> None:
        self._crew = crew
        self._optimizer = optimizer
        self._recipe = recipe
        self._teacher = teacher
        self._parameters = [p for group in optimizer.param_groups for p in group["params"]]
        self._device = self._parameters[0].device

    def __call__(self, parts: Iterable[Part], lr: float) -> Tensor:
        """On the `accumulate` parts of this worker, one after the other."""
        for group in self._optimizer.param_groups:
            group["lr"] = lr
        return self._take(parts)

    def _take(self, parts: Iterable[Part]) -> Tensor:
        num_parts = self._crew.share.accumulate
        mean_loss = torch.zeros((), device=self._device)
        self._optimizer.zero_grad(set_to_none=True)
        for place, (images, target) in enumerate(parts):
            with self._crew.collecting(is_last=place == num_parts - 1):
                with autocast(self._device, self._recipe.precision):
                    logits = self._crew.model(images)
                    loss = self._loss(images, logits.float(), target)
                (loss / num_parts).backward()
            mean_loss += loss.detach() / num_parts
        if self._recipe.clip_grad:
            nn.utils.clip_grad_norm_(self._parameters, self._recipe.clip_grad)
        self._optimizer.step()
        return mean_loss

    def _loss(self, images: Tensor, logits: Tensor, target: Tensor) -> Tensor:
        """Cross-entropy, and what a teacher says of the same images."""
        recipe = self._recipe
        loss = F.cross_entropy(logits, target, label_smoothing=recipe.label_smoothing)
        if self._teacher is None:
            return loss
        with torch.no_grad():
            taught = self._teacher(images).float()
        theirs = distillation_loss(logits, taught, recipe.temperature)
        return (1 - recipe.distillation) * loss + recipe.distillation * theirs


class GraphStep(Step):
    """The same as one CUDA graph. All batches have the shape of the first.

    What a network draws on the device, such as dropout, follows torch's generator in a replay as it
    does in a call. A network that cannot be captured, since it looks at values on the way, is
    trained without a graph.
    """

    def __init__(
        self,
        crew: Crew,
        optimizer: torch.optim.Optimizer,
        recipe: Recipe,
        teacher: nn.Module | None = None,
    ) -> None:
        super().__init__(crew, optimizer, recipe, teacher)
        self._num_taken = 0
        self._side = torch.cuda.Stream(self._device)
        self._graph: torch.cuda.CUDAGraph | None = None
        for group in optimizer.param_groups:  # a graph reads the rate from the device
            group["capturable"] = True
            group["lr"] = torch.zeros((), device=self._device)

    def __call__(self, parts: Iterable[Part], lr: float) -> Tensor:
        for group in self._optimizer.param_groups:
            group["lr"].fill_(lr)
        ((images, target),) = parts
        self._num_taken += 1
        if self._num_taken <= WARM_UP:
            with self._beside():
                return self._take([(images, target)])
        if self._num_taken == WARM_UP + 1:
            self._capture(images, target)
        if self._graph is None:
            return self._take([(images, target)])
        self._images.copy_(images)
        self._target.copy_(target)
        self._graph.replay()
        return self._loss_of_graph

    def _capture(self, images: Tensor, target: Tensor) -> None:
        """Nothing is computed here, and a network is as it was where it cannot be captured."""
        self._images, self._target = torch.empty_like(images), torch.empty_like(target)
        graph = torch.cuda.CUDAGraph()
        try:
            # Other threads, such as one that feeds, may allocate meanwhile.
            with torch.cuda.graph(graph, stream=self._side, capture_error_mode="thread_local"):
                self._loss_of_graph = self._take([(self._images, self._target)])
        except torch.OutOfMemoryError:
            raise
        except RuntimeError:
            torch.cuda.synchronize(self._device)
            return
        self._graph = graph

    @contextmanager
    def _beside(self) -> Iterator[None]:
        """On the stream that captures."""
        current = torch.cuda.current_stream(self._device)
        self._side.wait_stream(current)
        with torch.cuda.stream(self._side):
            yield
        current.wait_stream(self._side)


def make_step(
    crew: Crew,
    optimizer: torch.optim.Optimizer,
    recipe: Recipe,
    teacher: nn.Module | None = None,
) -> Step:
    """A graph for one worker on a GPU that takes a batch as a whole."""
    alone = crew.share.parts == 1
    on_gpu = next(crew.model.parameters()).is_cuda
    kind = GraphStep if alone and on_gpu and is_on("graph") else Step
    return kind(crew, optimizer, recipe, teacher)
