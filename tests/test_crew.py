"""Several workers on one training, and a training that is stopped anywhere."""

import multiprocessing
import os
import socket
from dataclasses import replace

import numpy as np
import pytest
import torch
from test_training import NET, RECIPE, weights

from gmsearch import checkpoint
from gmsearch.data import Dataset, Split
from gmsearch.feeding import ALONE, ArrayFeed, Share
from gmsearch.training import start, train

EVERYTHING = replace(
    RECIPE,
    num_epochs=2,
    ema_decay=0.9,
    rand_augment=1.0,
    random_erasing=0.25,
    mixup=0.8,
    cutmix=0.2,
    min_crop_area=0.3,
)


@pytest.fixture(scope="module")
def dataset() -> Dataset:
    return make_dataset()


def make_dataset() -> Dataset:
    rng = np.random.default_rng(0)

    def split(count: int) -> Split:
        labels = np.arange(count) % 2
        images = 90 + 70 * labels[:, None, None, None] + rng.normal(0, 40, (count, 18, 18, 3))
        return Split.of(images.clip(0, 255).astype(np.uint8), labels.astype(np.int64))

    return Dataset("brightness", ("dark", "bright"), 16, split(72), split(40))


def fresh(recipe=RECIPE):
    torch.set_num_threads(1)
    return start(NET, 2, recipe, seed=0, resolution=16)


def curve(state) -> list[tuple]:
    return [(r.top1, r.top5, r.loss, r.train_loss, r.raw_top1) for r in state.history]


def test_the_parts_of_a_step_are_the_batch(dataset):
    cpu = torch.device("cpu")
    recipe = replace(RECIPE, flip=False)
    whole = ArrayFeed(dataset, recipe, seed=0, device=cpu)
    shares = [Share(rank, workers=2, accumulate=2) for rank in range(2)]
    feeds = [ArrayFeed(dataset, recipe, seed=0, device=cpu, share=share) for share in shares]
    batches = [list(feed.batches(1)) for feed in feeds]
    for step, (_, labels) in enumerate(whole.batches(1)):
        parts = [b[2 * step + i][1] for b in batches for i in range(2)]
        assert torch.cat(parts).bincount().tolist() == labels.bincount().tolist()
        assert [len(part) for part in parts] == [4] * 4
    later = list(feeds[1].batches(1, start=2))
    assert len(later) == len(batches[1]) - 4
    for (a, x), (b, y) in zip(later, batches[1][4:], strict=True):
        assert torch.equal(a, b) and torch.equal(x, y)


@pytest.mark.parametrize("stop", [1, 2, 3])
def test_a_training_that_is_stopped_within_an_epoch_goes_on_as_if_it_never_had(
    dataset, tmp_path, stop
):
    whole = fresh(EVERYTHING)
    for _ in train(whole, dataset, EVERYTHING, seed=0):
        pass

    class Killed(Exception):
        pass

    stopped = fresh(EVERYTHING)

    def save_and_die(num_steps: int) -> None:
        if len(stopped.history) == 1 and stopped.step == stop:
            checkpoint.save(tmp_path / "c.pt", stopped)
            raise Killed

    with pytest.raises(Killed):
        for _ in train(stopped, dataset, EVERYTHING, seed=0, on_step=save_and_die):
            pass
    resumed = start(NET, 2, EVERYTHING, seed=9, resolution=16)
    checkpoint.load(tmp_path / "c.pt", resumed)
    assert (len(resumed.history), resumed.step) == (1, stop)
    for _ in train(resumed, dataset, EVERYTHING, seed=0):
        pass
    assert curve(resumed) == curve(whole)
    for name, value in weights(whole).items():
        assert torch.equal(value, resumed.model.state_dict()[name]), name


def work(rank: int, port: int, results) -> None:
    os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port))
    torch.distributed.init_process_group("gloo", rank=rank, world_size=2)
    state = fresh(replace(EVERYTHING, mixup=0.0, cutmix=0.0))
    recipe = replace(EVERYTHING, mixup=0.0, cutmix=0.0)
    for _ in train(state, make_dataset(), recipe, seed=0, share=Share(rank, workers=2)):
        pass
    results.put((rank, curve(state), {k: v.numpy() for k, v in weights(state).items()}))
    torch.distributed.destroy_process_group()


def test_two_workers_train_as_one_that_accumulates(dataset):
    """The same parts, so the same norms: gradients differ by the rounding of a mean."""
    recipe = replace(EVERYTHING, mixup=0.0, cutmix=0.0)
    alone = fresh(recipe)
    for _ in train(alone, dataset, recipe, seed=0, share=Share(accumulate=2)):
        pass
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    context = multiprocessing.get_context("spawn")
    results = context.Queue()
    workers = [context.Process(target=work, args=(rank, port, results)) for rank in range(2)]
    for worker in workers:
        worker.start()
    found = sorted(results.get(timeout=300) for _ in workers)
    for worker in workers:
        worker.join()
    (_, first, state), (_, second, other) = found
    assert first == second
    for name in state:
        assert np.array_equal(state[name], other[name]), name
    for (*_, loss, _), result in zip(first, alone.history, strict=True):
        assert loss == pytest.approx(result.train_loss, rel=1e-4)
    for name, parameter in alone.model.named_parameters():  # statistics of norms are one worker's
        np.testing.assert_allclose(parameter.detach(), state[name], rtol=0, atol=2e-3)
    assert ALONE.parts == 1
