"""One training with a folder: the loop, and what it needs to go on after any stop."""

import json
from collections.abc import Iterator
from functools import partial
from pathlib import Path

from gmsearch import checkpoint
from gmsearch.data import AnyDataset
from gmsearch.errors import TrainingError
from gmsearch.files import write_atomically
from gmsearch.network import Network, network_to_json
from gmsearch.radii import Watch
from gmsearch.recipe import Recipe
from gmsearch.training import EpochResult, start, train


def run_trial(
    network: Network,
    dataset: AnyDataset,
    recipe: Recipe,
    folder: Path,
    *,
    seed: int,
    device: str = "cpu",
    weights: Path | None = None,
    watch: Watch | None = None,
) -> Iterator[list[EpochResult]]:
    """Trains a network from its last checkpoint in `folder`, if any; yields the whole curve after
    each epoch. `weights` is a file to start from, `watch` has bands looked at.

    Writes architecture.json, metrics.jsonl (one line per epoch) and checkpoint.pt. A finished trial
    yields its curve once. Raises TrainingError.
    """
    folder.mkdir(parents=True, exist_ok=True)
    write_atomically(folder / "architecture.json", network_to_json(network))
    fresh = partial(
        start,
        network,
        len(dataset.classes),
        recipe,
        seed=seed,
        resolution=dataset.resolution,
        device=device,
    )
    saved = folder / "checkpoint.pt"
    state = fresh(weights=None if saved.exists() else weights)
    for half_written in folder.glob(".checkpoint.pt.*"):  # by a worker that was killed
        half_written.unlink()
    if saved.exists():
        try:
            checkpoint.load(saved, state)
        except TrainingError:  # unreadable: the training is the same from its start
            saved.unlink()
            state = fresh(weights=weights)
    if state.history:
        write_metrics(folder, state.history)  # a kill may have come between the two files
    if len(state.history) >= recipe.num_epochs:
        yield state.history
    for _ in train(state, dataset, recipe, seed=seed, watch=watch):
        checkpoint.save(saved, state)
        write_metrics(folder, state.history)
        yield state.history


def write_metrics(folder: Path, history: list[EpochResult]) -> None:
    lines = (json.dumps(result.to_dict()) + "\n" for result in history)
    write_atomically(folder / "metrics.jsonl", "".join(lines))
