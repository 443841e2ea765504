"""The trials of a finished run once more, as one would write it with Ray Tune alone.

    python benchmarks/plain_tune.py runs/gated-300M-bands

A function trainable, Ray's own OptunaSearch and Ray's defaults: a new worker process for each
trial, which reads the data itself, and Ray's loggers. Networks, data, recipe, seed and the one
thread of each trial are those of the run, so the accuracies must be too. It does less than the run:
it keeps no checkpoints and proposes no networks of its own.
"""

import argparse
import csv
import json
import logging
import os
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import ray
from ray import tune
from ray.tune.search.optuna import OptunaSearch
from torch import set_num_threads

from gmsearch import data
from gmsearch.experiment import read_settings
from gmsearch.network import read_network
from gmsearch.training import start, train


def train_one(config: dict[str, Any]) -> None:
    """One trial, in a worker.

    It must not name the module torch: Ray would take `dataset.classes` for `torch.classes`, which
    cannot be pickled.
    """
    set_num_threads(1)
    run = Path(config["run"])
    experiment = read_settings(run / "experiment.yaml")
    architecture = read_network(run / "trials" / config["id"] / "architecture.json")
    macs = experiment.search_space(run).cost(architecture).macs
    seed = experiment.seed
    dataset = data.load(experiment.data, resolution=experiment.resolution, seed=seed)
    state = start(
        architecture,
        len(dataset.classes),
        experiment.recipe,
        seed=seed,
        resolution=experiment.resolution,
    )
    for result in train(
        state, dataset, experiment.recipe, seed=seed, resolution=experiment.resolution
    ):
        seconds = sum(epoch.seconds for epoch in state.history)
        tune.report({"top1": result.top1, "macs": macs, "seconds": seconds})


def main() -> int:
    began = time.perf_counter()
    arguments = parse_arguments()
    with (arguments.run / "trials.csv").open(newline="") as file:
        rows = [row for row in csv.DictReader(file) if row["state"] == "complete"]
    ids = [row["id"] for row in rows]
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    ray.init(
        address="local",  # without a word Ray would follow a stale address file
        num_cpus=arguments.workers,
        logging_level=logging.ERROR,
        log_to_driver=False,
    )
    with tempfile.TemporaryDirectory() as storage:
        results = tune.Tuner(
            train_one,
            param_space={"id": tune.choice(ids), "run": str(arguments.run.absolute())},
            tune_config=tune.TuneConfig(
                search_alg=OptunaSearch(
                    metric=["top1", "macs"],
                    mode=["max", "min"],
                    points_to_evaluate=[{"id": id_} for id_ in ids],
                    seed=0,
                ),
                num_samples=len(ids),
            ),
            run_config=tune.RunConfig(storage_path=storage, verbose=0),
        ).fit()
    ray.shutdown()
    wall = time.perf_counter() - began
    if results.errors:
        print(f"{len(results.errors)} trials failed: {results.errors[0]}", file=sys.stderr)
        return 1

    trained = sum(result.metrics["seconds"] for result in results)
    idle = 1 - trained / (wall * arguments.workers)
    top1 = {result.config["id"]: result.metrics["top1"] for result in results}
    num_equal = sum(top1.get(row["id"]) == float(row["top1"]) for row in rows)
    print(
        f"plain Ray Tune: {wall:.1f} s for {len(ids)} trials on {arguments.workers} workers, "
        f"{trained:.1f} s of training; {idle:.1%} of the workers' time was not training; "
        f"top1 as in the run: {num_equal} of {len(ids)}"
    )
    if arguments.json:
        result = {"wall": wall, "trained": trained, "not_training": idle, "equal_top1": num_equal}
        arguments.json.write_text(json.dumps(result, indent=2) + "\n")
    return 0


def parse_arguments() -> argparse.Namespace:
    cores = len(os.sched_getaffinity(0))
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("run", type=Path, metavar="RUN", help="a finished run, such as runs/NAME")
    parser.add_argument("--workers", type=int, default=cores, help="trials at once")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures there")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
