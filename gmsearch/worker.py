"""What a Ray worker runs. It imports what training needs and no more, since every worker waits for
it at its start.
"""

import tempfile
import time
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ray import tune
from ray.exceptions import RayError

from gmsearch.data import AnyDataset
from gmsearch.errors import TrainingError
from gmsearch.network import network_from_dict
from gmsearch.process import prepare
from gmsearch.radii import Watch
from gmsearch.recipe import Recipe
from gmsearch.record import SCALARS
from gmsearch.shelf import CHECKPOINT, OwnShelf, Shelf, open_shelf
from gmsearch.trial import run_trial


def train(config: dict[str, Any], dataset: AnyDataset) -> None:
    """Trains one job and reports its curve after every epoch.

    An error of the training is reported, not raised: Ray would only run into it again. One of the
    machine, such as a full disk, is raised: the trial is tried again, on another node if it can.
    """
    prepare(config["threads"])
    began = time.time()
    try:
        with _workplace(config) as (folder, shelf):
            curves = run_trial(
                network_from_dict(config["network"]),
                dataset,
                Recipe(**config["recipe"]),
                folder,
                seed=config["seed"],
                device="cuda" if config["gpu"] else "cpu",
                weights=None if config["weights"] is None else Path(config["weights"]),
                watch=None if config["watch"] is None else Watch(**config["watch"]),
            )
            for curve in curves:
                if shelf is not None:
                    shelf.save(Path(config["folder"]).name, (folder / CHECKPOINT).read_bytes())
                epochs = [result.to_dict() for result in curve]
                last = {name: epochs[-1][name] for name in ("epoch", *SCALARS)}  # for trackers
                tune.report(
                    {"curve": epochs, "began": began, "away": shelf is not None, **last},
                )
    except (OSError, RayError):
        raise
    except TrainingError as error:
        tune.report({"failed": f"{type(error).__name__}: {error}"})
    except Exception as error:
        frame = traceback.extract_tb(error.__traceback__)[-1]
        place = f"{frame.filename}:{frame.lineno}"
        tune.report({"failed": f"{type(error).__name__}: {error} (at {place})"})


@contextmanager
def _workplace(config: dict[str, Any]) -> Iterator[tuple[Path, Shelf | None]]:
    """A folder to train in: that of the trial itself where this node sees it, or else one of its
    own, with the shelf that has the last checkpoint and takes the next.
    """
    folder = Path(config["folder"])
    if config["checkpoints"] is None and Path(config["mark"]).exists():
        yield folder, None
        return
    shelf = open_shelf(config["checkpoints"])
    with tempfile.TemporaryDirectory(prefix="gmsearch-") as scratch:
        own = Path(scratch) / folder.name
        last = shelf.load(folder.name)
        if last is not None:
            OwnShelf(own.parent).save(own.name, last)
        yield own, shelf
