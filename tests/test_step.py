"""A step of a training: a graph on a GPU does what plain calls do."""

from dataclasses import replace

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from gmsearch import data
from gmsearch.crew import Crew
from gmsearch.errors import SettingsError
from gmsearch.feeding import ALONE
from gmsearch.gmnet import gmnet_within
from gmsearch.recipe import Recipe
from gmsearch.speedups import VARIABLE, is_on
from gmsearch.step import WARM_UP, GraphStep, Step, make_step
from gmsearch.training import evaluate, start, train
from gmsearch.zoo import build_network

NETWORK, NUM_CLASSES = gmnet_within(60_000_000), 12
RECIPE = Recipe(num_epochs=2, batch_size=32, warmup_epochs=0.5, precision="fp32")


@pytest.fixture(scope="module")
def dataset():
    return data.load("bands", resolution=32, seed=0)


def test_a_speedup_that_is_unknown_is_refused(monkeypatch):
    monkeypatch.setenv(VARIABLE, "graph, gats")
    with pytest.raises(SettingsError, match="'gats'; allowed: graph, gate, depthwise"):
        is_on("graph")
    monkeypatch.setenv(VARIABLE, "graph, gate")
    assert [is_on(name) for name in ("graph", "gate", "depthwise")] == [False, False, True]


def test_the_loss_and_the_step_are_those_of_a_linear_model():
    """From weights of zero the softmax of two classes is a half each."""
    model = nn.Linear(3, 2, bias=False)
    nn.init.zeros_(model.weight)
    optimizer = torch.optim.SGD(model.parameters())
    recipe = Recipe(label_smoothing=0.0, clip_grad=0.0, precision="fp32")
    images, target = torch.eye(3)[:2], torch.tensor([0, 1])
    loss = Step(Crew(model, ALONE), optimizer, recipe)([(images, target)], lr=1.0)
    assert loss.item() == pytest.approx(torch.log(torch.tensor(2.0)).item())
    expected = torch.tensor([[0.25, -0.25, 0.0], [-0.25, 0.25, 0.0]])
    torch.testing.assert_close(model.weight.detach(), expected)


def test_a_step_is_the_plain_loop_to_the_last_bit():
    """Norm and decay over parameters in their own order, as everybody writes it."""
    recipe = replace(RECIPE, clip_grad=0.1)
    states = [start(NETWORK, NUM_CLASSES, recipe, seed=0, resolution=32) for _ in range(2)]
    ours, plain = states
    take_step = make_step(Crew(ours.model.train(), ALONE), ours.optimizer, recipe)
    plain.model.train()
    for seed in range(3):
        generator = torch.Generator().manual_seed(seed)
        images = torch.randn(8, 3, 32, 32, generator=generator)
        target = torch.randint(0, NUM_CLASSES, (8,), generator=generator)
        loss = take_step([(images, target)], lr=1e-3)
        for group in plain.optimizer.param_groups:
            group["lr"] = 1e-3
        plain.optimizer.zero_grad()
        smoothing = recipe.label_smoothing
        expected = F.cross_entropy(plain.model(images), target, label_smoothing=smoothing)
        expected.backward()
        nn.utils.clip_grad_norm_(plain.model.parameters(), 0.1)
        plain.optimizer.step()
        assert loss == expected.detach()
    pairs = zip(ours.model.parameters(), plain.model.parameters(), strict=True)
    assert all(torch.equal(a, b) for a, b in pairs)


def _training(seed=0, **settings):
    recipe = replace(RECIPE, **settings)
    return start(NETWORK, NUM_CLASSES, recipe, seed=seed, resolution=32, device="cuda"), recipe


def _batches(count):
    generator = torch.Generator().manual_seed(1)
    for _ in range(count):
        images = torch.randn(32, 3, 32, 32, generator=generator).cuda()
        target = torch.randint(0, 10, (32,), generator=generator).cuda()
        yield images.contiguous(memory_format=torch.channels_last), target


def _losses(monkeypatch, off, count=12, **settings):
    monkeypatch.setenv(VARIABLE, off)
    state, recipe = _training(**settings)
    take_step = make_step(Crew(state.model.train(), ALONE), state.optimizer, recipe)
    losses = [
        take_step([batch], lr=1e-3 * (1 + place)) for place, batch in enumerate(_batches(count))
    ]
    return take_step, torch.stack(losses), state.model


@pytest.mark.gpu
def test_a_graph_trains_as_plain_calls_do(monkeypatch):
    """Every step at another rate: a graph that kept the first would be seen."""
    step, losses, model = _losses(monkeypatch, "")
    plain, expected, other = _losses(monkeypatch, "graph")
    assert isinstance(step, GraphStep) and step._graph is not None
    assert not isinstance(plain, GraphStep)
    torch.testing.assert_close(losses, expected, rtol=2e-3, atol=2e-3)
    assert losses[WARM_UP + 1] != losses[-1]
    for (name, ours), theirs in zip(
        model.named_buffers(), [b for _, b in other.named_buffers()], strict=True
    ):
        torch.testing.assert_close(ours, theirs, rtol=2e-2, atol=2e-2, msg=name)


@pytest.mark.gpu
def test_a_replay_draws_anew_from_the_seed(monkeypatch):
    monkeypatch.setenv(VARIABLE, "")
    model = nn.Sequential(nn.Flatten(), nn.Dropout(0.5), nn.Linear(3 * 32 * 32, 10)).cuda()
    optimizer = torch.optim.AdamW(model.parameters(), fused=True)
    take_step = make_step(Crew(model, ALONE), optimizer, RECIPE)
    (batch,) = _batches(1)

    def loss(seed):
        torch.manual_seed(seed)
        return take_step([batch], lr=0.0).item()

    for seed in range(WARM_UP + 1):
        loss(seed)
    assert take_step._graph is not None
    assert loss(5) == loss(5) != loss(6)


@pytest.mark.gpu
def test_what_cannot_be_captured_trains_without_a_graph(monkeypatch):
    monkeypatch.setenv(VARIABLE, "")

    class Looks(nn.Linear):
        def forward(self, x):
            x = super().forward(x.flatten(1))
            return x if x.sum().item() > 0 else 2 * x

    model = Looks(3 * 32 * 32, 10).cuda()
    optimizer = torch.optim.AdamW(model.parameters(), fused=True)
    take_step = make_step(Crew(model, ALONE), optimizer, RECIPE)
    losses = [take_step([next(_batches(1))], lr=1e-3).item() for _ in range(12)]
    assert take_step._graph is None
    assert losses[-1] < losses[0] / 2


@pytest.mark.gpu
def test_a_training_goes_on_from_its_state(dataset, monkeypatch):
    monkeypatch.setenv(VARIABLE, "")
    state, recipe = _training()
    whole = list(train(state, dataset, recipe, seed=0))
    first, recipe = _training()
    next(train(first, dataset, recipe, seed=0))
    second, recipe = _training(seed=1)
    second.load_state_dict(first.state_dict())
    (rest,) = train(second, dataset, recipe, seed=0)
    assert rest.train_loss == pytest.approx(whole[1].train_loss, rel=0.02)
    lr = second.optimizer.state_dict()["param_groups"][0]["lr"]
    assert float(lr) < 0.1 * recipe.lr  # near the end of the cosine


@pytest.mark.gpu
@pytest.mark.filterwarnings("ignore:Synchronization debug mode is a prototype")
def test_nothing_waits_for_the_gpu_within_an_epoch(dataset, monkeypatch):
    """PyTorch raises where a call would wait for the device."""
    monkeypatch.setenv(VARIABLE, "")
    state, recipe = _training(flip=True, min_crop_area=0.5, mixup=0.8, cutmix=0.2)
    num_seen = 0  # of all epochs; an epoch calls once less than it has steps

    def on_step(num_steps):
        nonlocal num_seen
        num_seen += 1
        late = WARM_UP + 2 <= num_seen % (num_steps - 1)  # the last call of an epoch is not
        torch.cuda.set_sync_debug_mode("error" if late else "default")

    try:
        list(train(state, dataset, recipe, seed=0, on_step=on_step))
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert num_seen > 2 * (WARM_UP + 4)


@pytest.mark.gpu
def test_the_accuracy_is_that_of_a_cpu(dataset, monkeypatch):
    """The weights that a GPU trained with all that is ours, evaluated in float32 on a CPU."""
    monkeypatch.setenv(VARIABLE, "")
    state, recipe = _training(precision="auto")
    *_, last = train(state, dataset, recipe, seed=0)
    on_cpu = build_network(NETWORK, NUM_CLASSES, 32)
    on_cpu.load_state_dict(state.model.state_dict())
    images = torch.randn(64, 3, 32, 32)
    with torch.inference_mode():
        ours = state.model.eval()(images.cuda()).cpu()
        torch.testing.assert_close(ours, on_cpu.eval()(images), rtol=1e-3, atol=1e-3)
    assert last.train_loss < 2.5
    assert evaluate(on_cpu, [(images, torch.zeros(64, dtype=torch.int64))]).num_finite == 64


@pytest.mark.gpu
@pytest.mark.filterwarnings("ignore:.*Profiler clears events")
def test_a_step_is_one_launch(monkeypatch):
    """Counted by the profiler: a graph, and a few kernels that copy its inputs and set the rate."""
    monkeypatch.setenv(VARIABLE, "")
    state, recipe = _training()
    take_step = make_step(Crew(state.model.train(), ALONE), state.optimizer, recipe)
    batches = list(_batches(WARM_UP + 2))
    for batch in batches[:-1]:
        take_step([batch], lr=1e-3)
    activities = torch.profiler.ProfilerActivity.CPU, torch.profiler.ProfilerActivity.CUDA
    with torch.profiler.profile(activities=activities) as profiled:
        take_step([batches[-1]], lr=1e-3)
    calls = {event.key: event.count for event in profiled.key_averages()}
    assert calls["cudaGraphLaunch"] == 1
    assert calls.get("cudaLaunchKernel", 0) <= 8
