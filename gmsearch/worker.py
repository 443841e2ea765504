"""What a Ray worker runs. It imports what training needs and no more, since every worker waits for
it at its start.
"""

import time
from pathlib import Path
from typing import Any

import torch
from ray import tune

from gmsearch.data import AnyDataset
from gmsearch.network import network_from_dict
from gmsearch.recipe import Recipe
from gmsearch.record import SCALARS
from gmsearch.trial import run_trial


def train(config: dict[str, Any], dataset: AnyDataset) -> None:
    """Trains one job and reports its curve after every epoch.

    An error of the training is reported, not raised: Ray would only run into it again. One of the
    machine, such as a full disk, is raised: Ray tries the trial again, on another node if it can.
    """
    torch.set_num_threads(config["threads"])
    began = time.time()
    try:
        curves = run_trial(
            network_from_dict(config["network"]),
            dataset,
            Recipe(**config["recipe"]),
            Path(config["folder"]),
            seed=config["seed"],
            device="cuda" if config["gpu"] else "cpu",
            weights=None if config["weights"] is None else Path(config["weights"]),
        )
        for curve in curves:
            epochs = [result.to_dict() for result in curve]
            last = {name: epochs[-1][name] for name in ("epoch", *SCALARS)}  # for trackers
            tune.report({"curve": epochs, "began": began, **last})
    except OSError:
        raise
    except Exception as error:
        tune.report({"failed": f"{type(error).__name__}: {error}"})
