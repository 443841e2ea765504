"""One step of a training: forward, backward, clipping, and the optimizer's update.

On a GPU the networks of a search are so small that launching a kernel takes longer than running it.
There a step is captured as one CUDA graph, after some that warm up, and replayed from then on: the
same kernels on the same memory, in one launch.
"""

import sys
import warnings
from collections.abc import Iterable
from functools import cache

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
        self._parameters = list(crew.model.parameters())
        self._device = self._parameters[0].device

    def __call__(self, parts: Iterable[Part], lr: float) -> Tensor:
        """On the `accumulate` parts of this worker, one after the other."""
        for group in self._optimizer.param_groups:
            group["lr"] = lr
        return self._eager(parts)

    def _eager(self, parts: Iterable[Part]) -> Tensor:
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
    """The same as one CUDA graph. A state is loaded before the first step, not later.

    What a network draws on the device, such as dropout, follows torch's generator in a replay as it
    does in a call; hooks are called no more. A network that cannot be captured, since it waits for
    values on the way, is trained without a graph, and so is a batch of another shape.
    """

    def __init__(
        self,
        crew: Crew,
        optimizer: torch.optim.Optimizer,
        recipe: Recipe,
        teacher: nn.Module | None = None,
    ) -> None:
        super().__init__(crew, optimizer, recipe, teacher)
        self._side = _side_stream(self._device)
        self._num_warm = 0
        self._may_capture = True
        self._graph: torch.cuda.CUDAGraph | None = None
        self._inputs: Part = (torch.empty(0), torch.empty(0))  # of the graph
        self._loss_of_graph = torch.empty(0)
        for group in optimizer.param_groups:  # a graph reads the rate from the device
            group["capturable"] = True
            group["lr"] = torch.zeros((), device=self._device)

    def __call__(self, parts: Iterable[Part], lr: float) -> Tensor:
        for group in self._optimizer.param_groups:
            group["lr"].fill_(lr)
        (part,) = parts
        if self._num_warm < WARM_UP:
            return self._warm(part)
        if self._graph is None and self._may_capture:
            self._capture(part)
        if self._graph is None or not self._fits(part):
            return self._eager([part])
        for ours, given in zip(self._inputs, part, strict=True):
            ours.copy_(given)
        self._graph.replay()
        return self._loss_of_graph.clone()  # the next replay writes over it

    def _fits(self, part: Part) -> bool:
        pairs = zip(self._inputs, part, strict=True)
        return all(a.shape == b.shape and a.dtype == b.dtype for a, b in pairs)

    def _warm(self, part: Part) -> Tensor:
        """A step on the stream that captures. The last one tells whether the host waits for the
        device anywhere: a capture would fail there, and leave the process in a bad state.
        """
        self._num_warm += 1
        current = torch.cuda.current_stream(self._device)
        self._side.wait_stream(current)
        with torch.cuda.stream(self._side), warnings.catch_warnings(record=True) as told:
            warnings.simplefilter("always")
            try:
                if self._num_warm == WARM_UP:
                    torch.cuda.set_sync_debug_mode("warn")
                loss = self._eager([part])
            finally:
                torch.cuda.set_sync_debug_mode("default")
        current.wait_stream(self._side)
        waits = [
            each for each in told if "called a synchronizing CUDA operation" in str(each.message)
        ]
        if waits:
            self._may_capture = False
            _say_why(f"the host waits for the device in {waits[0].filename}:{waits[0].lineno}")
        return loss

    def _capture(self, part: Part) -> None:
        """Nothing is computed here, and a network is as it was where it cannot be captured."""
        self._may_capture = False  # again
        self._inputs = torch.empty_like(part[0]), torch.empty_like(part[1])
        graph = torch.cuda.CUDAGraph()
        try:
            # Other threads, such as one that feeds, may allocate meanwhile.
            with torch.cuda.graph(graph, stream=self._side, capture_error_mode="thread_local"):
                self._loss_of_graph = self._eager([self._inputs])
        except torch.OutOfMemoryError:
            raise
        except RuntimeError as error:
            torch.cuda.synchronize(self._device)
            _say_why(str(error).splitlines()[0])
            return
        self._graph = graph


def _say_why(reason: str) -> None:
    print(f"a step is no CUDA graph: {reason}", file=sys.stderr)


@cache
def _side_stream(device: torch.device) -> torch.cuda.Stream:
    """One for all trainings of a process: libraries keep memory for each stream."""
    return torch.cuda.Stream(device)


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
