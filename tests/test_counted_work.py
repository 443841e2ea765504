"""What a training step does, counted and not timed: calls of the library, copies, synchronisations.

The referee is the network itself: which modules it has says how many convolutions, norms and gates
a step needs. A step that begins to copy or to wait, or to convolve more than it must, fails here on
any machine.
"""

from collections import Counter
from dataclasses import replace

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.utils._python_dispatch import TorchDispatchMode

from gmsearch import data
from gmsearch.crew import Crew
from gmsearch.depthwise import WIDEST_FAST, DepthwiseConv2d
from gmsearch.feeding import ALONE
from gmsearch.gmnet import gmnet, without_gates
from gmsearch.pointwise import FEW, PointwiseConv2d
from gmsearch.recipe import Recipe
from gmsearch.step import make_step
from gmsearch.training import TrainingState, _train_epoch, evaluate, make_feed, start

RECIPE = Recipe(num_epochs=1, batch_size=32)
MOST_COPIES = 1  # a step: of its batch, on the way to the network
COPIES = ("clone", "_to_copy", "contiguous")
WAITS = ("_local_scalar_dense", "equal", "nonzero")  # what the host waits for a GPU in
NETWORKS = {
    "gmnet": gmnet("gmnet_s1", base_width=8),
    "no gates": without_gates(gmnet("gmnet_s1", base_width=8)),
    "norm": replace(
        gmnet("gmnet_s1", base_width=8),
        stages=tuple(
            replace(stage, form="norm") for stage in gmnet("gmnet_s1", base_width=8).stages
        ),
    ),
}


class Counted(TorchDispatchMode):
    """Counts the calls of the library by name."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: Counter[str] = Counter()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.calls[func.overloadpacket.__name__] += 1
        return func(*args, **(kwargs or {}))


def fresh(network, num_classes: int = 10) -> TrainingState:
    return start(network, num_classes, RECIPE, seed=0, resolution=32)


def modules(state: TrainingState, *kinds: type[nn.Module]) -> list:
    return [module for module in state.model.modules() if isinstance(module, kinds)]


@pytest.mark.parametrize("name", NETWORKS)
def test_a_step_has_the_work_that_its_network_says(name):
    state = fresh(NETWORKS[name])
    state.model.train()
    images, labels = torch.randn(8, 3, 32, 32), torch.arange(8)
    images = images.contiguous(memory_format=torch.channels_last)

    def step() -> None:
        F.cross_entropy(state.model(images), labels).backward()
        state.optimizer.step()
        state.optimizer.zero_grad(set_to_none=True)

    step()  # the optimizer makes its state in the first
    with Counted() as counted:
        step()
    calls = counted.calls
    convolutions = modules(state, nn.Conv2d)
    depthwise = modules(state, DepthwiseConv2d)
    sides = sides_of(state, images)
    narrow = sum(
        -(-min(conv.kernel_size[0], 2 * sides[conv] - 1) // WIDEST_FAST) for conv in depthwise
    )
    assert depthwise and len(convolutions) > len(depthwise)
    # The gradients of a 1x1 convolution of few pixels are matrix products.
    products = [conv for conv in modules(state, PointwiseConv2d) if sides[conv] ** 2 <= FEW]
    # The gradient of a depthwise convolution's input is a convolution too.
    assert products and calls["convolution"] == len(convolutions) + len(depthwise)
    backward = len(convolutions) - len(depthwise) - len(products) + narrow
    assert calls["convolution_backward"] == backward
    norms = len(modules(state, nn.BatchNorm2d))
    assert calls["native_batch_norm"] == calls["native_batch_norm_backward"] == norms
    gates = len(modules(state, nn.ReLU6))
    assert calls["hardtanh"] == calls["hardtanh_backward"] == gates > 0
    assert calls["_fused_adamw_"] == len(state.optimizer.param_groups)
    assert [name for name in (*COPIES, *WAITS) if calls[name]] == []


def sides_of(state: TrainingState, images: torch.Tensor) -> dict[nn.Module, int]:
    """The side of the images that each convolution sees."""
    sides: dict[nn.Module, int] = {}

    def note(module: nn.Module, inputs: tuple[torch.Tensor, ...]) -> None:
        sides[module] = inputs[0].shape[-1]

    hooks = [m.register_forward_pre_hook(note) for m in modules(state, nn.Conv2d)]
    state.model.eval()  # in training algebra computes some without calling the module
    with torch.no_grad():
        state.model(images)
    state.model.train()
    for hook in hooks:
        hook.remove()
    return sides


def test_an_epoch_never_waits_and_a_step_costs_the_same_calls_anywhere_in_it():
    """Two epochs of other lengths: what they differ by is a whole number of steps."""
    dataset = data.load("bands", resolution=32, seed=0)
    found = []
    for num_steps in (3, 6):
        recipe = replace(RECIPE, batch_size=len(dataset.train) // num_steps)
        state = fresh(NETWORKS["gmnet"], len(dataset.classes))
        feed = make_feed(dataset, recipe, seed=0, device=torch.device("cpu"))
        assert feed.num_steps == num_steps
        with Counted() as counted:
            crew = Crew(state.model, ALONE)
            take_step = make_step(crew, state.optimizer, recipe)
            _train_epoch(state, feed, crew, take_step, recipe, lambda num_steps: None)
        assert [name for name in WAITS if counted.calls[name]] == []
        found.append(counted.calls)
    (three, six) = found
    per_step = {name: (six[name] - three[name]) / 3 for name in six}
    per_step = {name: per_step.get(name, 0) for name in ("convolution", "copy_", *COPIES)}
    assert all(calls == int(calls) for calls in per_step.values()), per_step
    assert sum(per_step[name] for name in ("copy_", *COPIES)) <= MOST_COPIES
    assert (six["_fused_adamw_"] - three["_fused_adamw_"]) / 3 == 2


def test_an_evaluation_waits_once_for_all_of_its_batches():
    state = fresh(NETWORKS["gmnet"])
    batches = [(torch.randn(4, 3, 32, 32), torch.arange(4)) for _ in range(5)]
    waits = []
    for number in (1, 5):
        with Counted() as counted:
            evaluate(state.model, iter(batches[:number]))
        waits.append(sum(counted.calls[name] for name in WAITS))
    assert waits[0] == waits[1]
