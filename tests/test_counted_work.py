"""What a training step does, counted and not timed: calls of the library, passes over features,
copies, synchronisations.

The referee is the network itself: which modules it has says how many convolutions, norms and gates
a step needs, and how many passes over features are left. A step that begins to copy or to wait, or
to do anything with features that it need not, fails here on any machine.
"""

import math
from collections import Counter
from dataclasses import replace

import pytest
import torch
from torch import nn
from torch.profiler import profile
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_iter

from gmsearch import data
from gmsearch.block import Block, ConvBN
from gmsearch.crew import Crew
from gmsearch.depthwise import DepthwiseConv2d
from gmsearch.feeding import ALONE
from gmsearch.gates import Gate
from gmsearch.gmnet import gmnet, without_gates
from gmsearch.pointwise import FEW, FEWEST, PointwiseConv2d
from gmsearch.recipe import Recipe
from gmsearch.step import make_step
from gmsearch.training import TrainingState, _train_epoch, evaluate, make_feed, start

pytestmark = pytest.mark.usefixtures("few_are_many")

RECIPE = Recipe(num_epochs=1, batch_size=32)
# A size is a multiple of this number only where it counts images; the library has other paths for
# fewer than 16.
BATCH, NUM_CLASSES = 17, 10
MOST_COPIES = 1  # a step: of its batch, on the way to the network
COPIES = ("clone", "_to_copy", "contiguous")
TOLD_BY_MODULES = (  # how often, exactly
    *("convolution", "convolution_backward", "hardtanh", "hardtanh_backward"),
    *("native_batch_norm", "native_batch_norm_backward"),
)
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
    """Counts the calls of the library by name, and those of them that go over features."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: Counter[str] = Counter()
        self.passes: Counter[str] = Counter()  # in place or not is the same

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        name = func.overloadpacket.__name__
        self.calls[name] += 1
        given, made = tensors((args, kwargs)), tensors(result)
        held = {each.untyped_storage().data_ptr() for each in given}
        is_view = all(each.untyped_storage().data_ptr() in held for each in made)
        if func._schema.is_mutable or not is_view:
            if any(is_of_features(each.shape) for each in given + made):
                self.passes[name.rstrip("_")] += 1
        return result


def tensors(tree) -> list[torch.Tensor]:
    return [each for each in tree_iter(tree) if isinstance(each, torch.Tensor)]


def is_of_features(shape) -> bool:
    """Of a batch of BATCH images, and more than their logits."""
    sizes = [size for size in shape if isinstance(size, int)]  # a profiler has lists of shapes too
    return any(size % BATCH == 0 for size in sizes) and math.prod(sizes) > BATCH * NUM_CLASSES


def fresh(network, num_classes: int = NUM_CLASSES) -> TrainingState:
    return start(network, num_classes, RECIPE, seed=0, resolution=32)


def modules(state: TrainingState, *kinds: type[nn.Module]) -> list:
    return [module for module in state.model.modules() if isinstance(module, kinds)]


def step_of(state: TrainingState):
    """A step as the training loop takes it, ready to be counted."""
    state.model.train()
    images, labels = torch.randn(BATCH, 3, 32, 32), torch.arange(BATCH) % NUM_CLASSES
    images = images.contiguous(memory_format=torch.channels_last)
    take_step = make_step(Crew(state.model, ALONE), state.optimizer, RECIPE)

    def step() -> None:
        take_step([(images, labels)], lr=1e-3)

    step()  # the optimizer makes its state in the first
    return step


def slices_of(state: TrainingState) -> list[int]:
    """In how many parts the weight gradient of each depthwise convolution is computed."""
    sides = sides_of(state)
    return [
        -(-min(conv.kernel_size[0], 2 * sides[conv] - 1) // 3)  # the library is fast up to there
        for conv in modules(state, DepthwiseConv2d)
    ]


def padded_in(state: TrainingState) -> int:
    """How many of these parts see a padded copy of the features: all of a kernel that is higher
    than they are, and else all but the one in the middle.
    """
    sides, parts = sides_of(state), slices_of(state)
    excess = [
        min(conv.kernel_size[0], 2 * sides[conv] - 1) - sides[conv]
        for conv in modules(state, DepthwiseConv2d)
    ]
    return sum(n if over > 0 else n - n % 2 for over, n in zip(excess, parts, strict=True))


@pytest.mark.parametrize("name", NETWORKS)
def test_a_step_has_the_work_that_its_network_says(name):
    state = fresh(NETWORKS[name])
    step = step_of(state)
    with Counted() as counted:
        step()
    calls = counted.calls
    convolutions = modules(state, nn.Conv2d)
    across = modules(state, DepthwiseConv2d)
    sides = sides_of(state)
    assert across and len(convolutions) > len(across)
    # Gradients of a 1x1 convolution of few pixels are matrix products, with a bias of some more.
    spared = {conv.conv for conv in modules(state, ConvBN) if hasattr(conv, "bn")}
    products = [
        conv
        for conv in modules(state, PointwiseConv2d)
        if sides[conv] ** 2 <= (FEWEST if conv in spared else FEW)
    ]
    # The gradient of a depthwise convolution's input is a convolution too.
    assert products and calls["convolution"] == len(convolutions) + len(across)
    backward = len(convolutions) - len(across) - len(products) + sum(slices_of(state))
    assert calls["convolution_backward"] == backward
    norms = len(modules(state, nn.BatchNorm2d))
    assert calls["native_batch_norm"] == calls["native_batch_norm_backward"] == norms
    gates = len(modules(state, nn.ReLU6))
    assert calls["hardtanh"] == calls["hardtanh_backward"] == gates > 0
    assert calls["_fused_adamw_"] == len(state.optimizer.param_groups)
    assert [name for name in (*COPIES, *WAITS) if calls[name]] == []


@pytest.mark.parametrize("name", NETWORKS)
def test_a_step_goes_over_its_features_no_more_often_than_its_network_says(name):
    """Beside what the test above counts. A bias before a BN is neither added nor given a gradient,
    and no layer scale multiplies features.
    """
    state = fresh(NETWORKS[name])
    step = step_of(state)
    with Counted() as counted:
        step()
    blocks, gates = len(modules(state, Block)), len(modules(state, Gate))
    layer_norms = len(modules(state, nn.LayerNorm))
    most = Counter(
        mul=3 * gates,  # the product, and the gradient of each factor
        add=2 * blocks + gates,  # residuals; sums of two gradients, there and in gates
        sum=sum(not hasattr(conv, "bn") for conv in modules(state, ConvBN)),  # gradients of biases
        constant_pad_nd=padded_in(state),  # for gradients of weights
        native_layer_norm=layer_norms,
        native_layer_norm_backward=layer_norms,
        mm=2 * len(modules(state, PointwiseConv2d, nn.Linear)),  # gradients
        **dict.fromkeys(("mean", "div", "addmm"), 1),  # the head
    )
    over_features = Counter({n: c for n, c in counted.passes.items() if n not in TOLD_BY_MODULES})
    assert over_features["add"] and over_features - most == Counter()


@pytest.mark.parametrize("name", NETWORKS)
def test_a_step_does_no_more_with_parameters_than_its_network_says(name):
    """Each such call is a launch on a GPU, as long as one over features where images are small."""
    state = fresh(NETWORKS[name])
    step = step_of(state)
    with Counted() as counted:
        step()
    blocks, calls = len(modules(state, Block)), counted.calls
    of_parameters = calls - counted.passes
    # A layer scale goes into a weight and a bias, and has a gradient of each, as these of it; the
    # rest is of the loss and of clipping.
    assert of_parameters["mul"] <= 6 * blocks + 5
    assert max(of_parameters["add"], of_parameters["sum"]) <= blocks + 4
    assert calls["_foreach_norm"] == calls["_foreach_mul_"] == 1  # to clip, once
    assert calls["_foreach_add_"] <= len(state.optimizer.param_groups)  # numbers of the step
    assert [name for name in ("zero_", "_foreach_zero_", "fill_") if calls[name]] == []


@pytest.mark.parametrize("name", NETWORKS)
def test_inside_the_library_a_step_copies_no_features_but_for_weight_gradients(name):
    """Composite operators copy where no dispatch mode looks; a profiler does."""
    state = fresh(NETWORKS[name])
    step = step_of(state)
    with profile(record_shapes=True) as profiled:
        step()
    found = Counter(e.name for e in profiled.events() if any(map(is_of_features, e.input_shapes)))
    assert 0 < found["aten::copy_"] <= padded_in(state)
    filled = found["aten::fill_"] + found["aten::zero_"]
    assert filled <= padded_in(state) + 1  # the mean of the head


def test_what_is_switched_off_is_as_pytorch_has_it(monkeypatch):
    """To the bit, beside a network of its own convolutions."""
    monkeypatch.setenv("GMSEARCH_OFF", "depthwise,pointwise,algebra")
    images, labels = torch.randn(BATCH, 3, 32, 32), torch.arange(BATCH) % NUM_CLASSES

    def gradients(plain: bool) -> list[torch.Tensor]:
        state = fresh(NETWORKS["gmnet"])
        for module in modules(state, DepthwiseConv2d, PointwiseConv2d) if plain else []:
            module.__class__ = nn.Conv2d
        nn.functional.cross_entropy(state.model.train()(images), labels).backward()
        return [each.grad for each in state.model.parameters()]

    for ours, theirs in zip(gradients(False), gradients(True), strict=True):
        assert torch.equal(ours, theirs)
    monkeypatch.delenv("GMSEARCH_OFF")
    assert any(each is None for each in gradients(False))  # of biases that are spared


def sides_of(state: TrainingState) -> dict[nn.Module, int]:
    """The side of the images that each convolution sees."""
    sides: dict[nn.Module, int] = {}

    def note(module: nn.Module, inputs: tuple[torch.Tensor, ...]) -> None:
        sides[module] = inputs[0].shape[-1]

    hooks = [m.register_forward_pre_hook(note) for m in modules(state, nn.Conv2d)]
    state.model.eval()  # in training algebra computes some without calling the module
    with torch.no_grad():
        state.model(torch.zeros(2, 3, 32, 32))
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
