"""The training loop: deterministic, resumable, and doing what the recipe says."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from gmsearch import checkpoint
from gmsearch.architecture import Architecture, Stage
from gmsearch.augment import normalise
from gmsearch.data.records import Dataset, Split
from gmsearch.errors import SettingsError, TrainingError
from gmsearch.recipe import Recipe, learning_rate
from gmsearch.training import evaluate, start, train
from gmsearch.trial import run_trial

NET = Architecture(
    stem_width=8,
    stem_activation="relu6",
    stages=tuple(Stage(width=8 * i, depth=1, ratio=2, kernel=3) for i in (1, 2, 3, 4)),
)
RECIPE = Recipe(num_epochs=3, batch_size=16)


@pytest.fixture(scope="module")
def dataset() -> Dataset:
    """Two classes that brightness tells apart, under noise."""
    rng = np.random.default_rng(0)

    def split(count):
        labels = np.arange(count) % 2
        images = 90 + 70 * labels[:, None, None, None] + rng.normal(0, 40, (count, 16, 16, 3))
        return Split.of(images.clip(0, 255).astype(np.uint8), labels.astype(np.int64))

    return Dataset("brightness", ("dark", "bright"), 16, split(72), split(40))


def results(state, dataset, recipe=RECIPE, seed=0):
    """The results but for the seconds."""
    return [
        (r.epoch, r.top1, r.loss, r.train_loss) for r in train(state, dataset, recipe, seed=seed)
    ]


def whole(split):
    """All images of a split, normalised, and their labels."""
    images = np.stack([split.images[i] for i in range(len(split))])
    return normalise(torch.from_numpy(images)), torch.from_numpy(split.labels)


def weights(state):
    return {name: value.clone() for name, value in state.model.state_dict().items()}


def assert_same(first, second):
    assert first.keys() == second.keys()
    for name in first:
        assert torch.equal(first[name], second[name]), name


def test_it_learns(dataset):
    state = start(NET, 2, RECIPE, seed=0, resolution=32)
    assert results(state, dataset)[-1][1] == 100


def test_two_runs_agree_bit_for_bit_and_seeds_differ(dataset):
    states = [start(NET, 2, RECIPE, seed=0, resolution=32) for _ in range(2)]
    curves = [results(state, dataset) for state in states]
    assert curves[0] == curves[1]
    assert_same(weights(states[0]), weights(states[1]))
    assert curves[0] != results(start(NET, 2, RECIPE, seed=1, resolution=32), dataset, seed=1)


@pytest.mark.parametrize("ema_decay", [0.0, 0.9])
def test_a_training_that_stops_and_goes_on_equals_one_that_never_stopped(
    dataset, tmp_path, ema_decay
):
    recipe = replace(RECIPE, ema_decay=ema_decay)
    whole = start(NET, 2, recipe, seed=0, resolution=32)
    expected = results(whole, dataset, recipe)

    stopped = start(NET, 2, recipe, seed=0, resolution=32)
    next(train(stopped, dataset, recipe, seed=0))
    checkpoint.save(tmp_path / "c.pt", stopped)
    resumed = start(
        NET, 2, recipe, seed=123, resolution=32
    )  # other fresh weights, all to be overwritten
    checkpoint.load(tmp_path / "c.pt", resumed)
    assert results(resumed, dataset, recipe) == expected[1:]
    assert_same(weights(resumed), weights(whole))
    assert [r.epoch for r in resumed.history] == [1, 2, 3]


def test_a_checkpoint_of_another_network_is_refused(dataset, tmp_path):
    checkpoint.save(tmp_path / "c.pt", start(NET, 2, RECIPE, seed=0, resolution=32))
    with pytest.raises(TrainingError, match="not a checkpoint of this network"):
        checkpoint.load(tmp_path / "c.pt", start(NET, 3, RECIPE, seed=0, resolution=32))
    for junk in (b"junk", b""):
        (tmp_path / "c.pt").write_bytes(junk)
        with pytest.raises(TrainingError, match="not a checkpoint of this network"):
            checkpoint.load(tmp_path / "c.pt", start(NET, 2, RECIPE, seed=0, resolution=32))


def test_a_trial_with_an_unreadable_checkpoint_starts_again(dataset, tmp_path):
    def curve(folder):
        *_, last = run_trial(NET, dataset, RECIPE, folder, seed=0)
        return [
            replace(result, seconds=0, images_per_second=0, evaluation_seconds=0) for result in last
        ]

    expected = curve(tmp_path / "a")
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / "checkpoint.pt").write_bytes(b"junk")
    assert curve(tmp_path / "b") == expected
    assert curve(tmp_path / "a") == expected  # finished: read, not trained


def test_a_checkpoint_cannot_run_code(tmp_path):
    torch.save({"model": print}, tmp_path / "c.pt")
    with pytest.raises(TrainingError, match="not a checkpoint"):
        checkpoint.load(tmp_path / "c.pt", start(NET, 2, RECIPE, seed=0, resolution=32))


def test_a_loss_that_is_not_finite_ends_the_training_with_a_reason(dataset):
    state = start(NET, 2, RECIPE, seed=0, resolution=32)
    with torch.no_grad():
        state.model.head.weight.fill_(math.inf)
    with pytest.raises(TrainingError, match=r"the training loss is nan in epoch 1"):
        results(state, dataset)


def test_a_network_that_breaks_in_the_last_step_is_not_a_result(dataset):
    """The training losses are finite, since each is taken before its step: minival tells."""
    recipe = replace(RECIPE, num_epochs=1, batch_size=72, lr=10.0, clip_grad=0.0)
    state = start(NET, 2, recipe, seed=0, resolution=32)
    state.optimizer.register_step_post_hook(lambda *_: state.model.head.weight.data.fill_(math.nan))
    with pytest.raises(TrainingError, match=r"no logits are finite on minival after epoch 1"):
        results(state, dataset, recipe)


def test_images_that_overflow_count_as_wrong_and_not_as_a_failure(dataset):
    """As with h·h, where the features of some images have no bound."""

    class Overflows(torch.nn.Module):
        def forward(self, x):
            right = torch.tensor([[0.0, 1.0]]).expand(len(x), 2)
            return torch.where(torch.arange(len(x))[:, None] % 4 == 0, math.nan, right)

    images, labels = torch.zeros(12, 3, 8, 8), torch.ones(12, dtype=torch.int64)
    found = evaluate(Overflows(), [(images, labels)])
    assert (found.top1, found.num_finite) == (75.0, 9) and math.isnan(found.loss)

    state = start(NET, 2, RECIPE, seed=0, resolution=32)
    run = train(state, dataset, RECIPE, seed=0)
    overflows = [True, False]
    state.model.head.register_forward_hook(
        lambda module, _, logits: (
            logits
            if module.training or not overflows[0]
            else torch.cat([logits[:1] * math.inf, logits[1:]])
        )
    )
    assert next(run).loss is None
    overflows[0] = False
    assert next(run).loss > 0


@pytest.mark.parametrize("decay", [0.3, 0.99])
def test_the_average_of_the_weights_is_one_that_grows_longer(dataset, decay):
    """By hand: the first weights leave no trace, however large the decay."""
    recipe = replace(RECIPE, ema_decay=decay, num_epochs=2)
    state = start(NET, 2, recipe, seed=0, resolution=32)
    heads = []

    def note(_num_steps: int = 0) -> None:
        heads.append(state.model.head.weight.detach().clone())

    for _ in train(state, dataset, recipe, seed=0, on_step=note):
        note()  # the last step of an epoch
    average = torch.zeros_like(heads[0])
    for step, head in enumerate(heads, start=1):
        average.lerp_(head, 1 - min(decay, 1 - step ** (-2 / 3)))
    assert len(heads) > 4
    torch.testing.assert_close(state.ema.module.head.weight, average)
    assert state.history[-1].raw_top1 is not None


def test_one_step_is_adamw_with_clipping_on_the_smoothed_loss(dataset):
    """One batch by hand: torch's own parts in the plainest order."""
    recipe = Recipe(num_epochs=1, batch_size=72, warmup_epochs=0, flip=False)
    state = start(NET, 2, recipe, seed=0, resolution=32)
    reference = start(NET, 2, recipe, seed=0, resolution=32).model.train()
    results(state, dataset, recipe)

    images, labels = whole(dataset.train)
    decayed = [p for p in reference.parameters() if p.ndim > 1]
    others = [p for p in reference.parameters() if p.ndim <= 1]
    optimizer = torch.optim.AdamW(
        [{"params": decayed, "weight_decay": 0.05}, {"params": others, "weight_decay": 0.0}],
        lr=1.5e-3,  # the only step lies in the middle of the cosine
    )
    log_p = torch.log_softmax(reference(images), 1)
    target = torch.full_like(log_p, 0.1 / 2)
    target[torch.arange(72), labels] += 0.9
    (-(target * log_p).sum(1).mean()).backward()
    torch.nn.utils.clip_grad_norm_(reference.parameters(), 1.0)
    optimizer.step()
    # Adam divides by the size of the gradient, so that rounding shows where that is tiny:
    # compare parameters whose gradients are not.
    for (name, ours), theirs in zip(
        state.model.named_parameters(), reference.parameters(), strict=True
    ):
        if name in ("head.weight", "norm.weight", "stem.0.conv.weight"):
            torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-4)


def test_the_learning_rate_warms_up_and_follows_half_a_cosine():
    recipe = Recipe(num_epochs=10, lr=2.0, warmup_epochs=2)
    assert learning_rate(recipe, 0.0) == 0.0
    assert learning_rate(recipe, 0.1) == pytest.approx(1.0)
    assert learning_rate(recipe, 0.2) == pytest.approx(2.0)
    assert learning_rate(recipe, 0.6) == pytest.approx(1.0)
    assert learning_rate(recipe, 1.0) == pytest.approx(0.0)
    steps = [learning_rate(recipe, i / 100) for i in range(20, 101)]
    assert steps == sorted(steps, reverse=True)


def test_evaluate_counts_every_image_once(dataset):
    state = start(NET, 2, RECIPE, seed=0, resolution=32)
    images, labels = (part.repeat_interleave(8, 0) for part in whole(dataset.train))
    batches = zip(images.split(100), labels.split(100), strict=True)  # the last is smaller
    top1, _, loss, _, by_class = evaluate(state.model, batches)
    state.model.eval()
    images, labels = whole(dataset.train)
    with torch.inference_mode():
        logits = torch.cat([state.model(image[None]) for image in images])
    hits = (logits.argmax(1) == labels).float()
    assert top1 == pytest.approx(100 * hits.mean().item())
    expected = torch.nn.functional.cross_entropy(logits, labels).item()
    assert loss == pytest.approx(expected, rel=1e-4)


def test_bf16_trains_too(dataset):
    recipe = replace(RECIPE, precision="bf16", num_epochs=1)
    state = start(NET, 2, recipe, seed=0, resolution=32)
    (only,) = results(state, dataset, recipe)
    assert math.isfinite(only[3])
    assert state.model.head.weight.dtype == torch.float32


@pytest.mark.gpu
def test_it_learns_on_a_gpu(dataset):
    state = start(NET, 2, RECIPE, seed=0, resolution=32, device="cuda")
    assert results(state, dataset)[-1][1] == 100


@pytest.mark.parametrize(
    ("field", "value"),
    [("num_epochs", 0), ("batch_size", 0), ("lr", 0.0), ("lr", math.nan), ("precision", "fp8")],
)
def test_a_recipe_out_of_range_is_refused(field, value):
    with pytest.raises(SettingsError, match=f"^{field} is {value!r}; allowed: "):
        Recipe(**{field: value})
