"""How long a report takes and how large its page is, by the number of trials.

    python benchmarks/report.py --trials 20 1000 10000 --folder /tmp/made-up

Each run is made up: networks drawn from search_spaces/gated.yaml within 300M MACs, with curves of 6
epochs from a formula and some noise; its study is written as a search writes it, which takes Optuna
a quarter of an hour for 10,000. `--folder` keeps the runs, for the next time.
"""

import argparse
import math
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import optuna
from optuna.distributions import CategoricalDistribution

from gmsearch.experiment import Experiment, make_settings
from gmsearch.history import read_history
from gmsearch.report.writing import write_report
from gmsearch.run import RunData, RunFolder, write_settings
from gmsearch.space_file import read_space_data

SPACE = Path(__file__).parents[1] / "search_spaces" / "gated.yaml"
BUDGET = 300_000_000
EPOCHS = 6


def main() -> int:
    arguments = parse_arguments()
    print(f"{'trials':>8}{'read s':>9}{'write s':>9}{'page MB':>9}")
    with tempfile.TemporaryDirectory() as scratch:
        for count in arguments.trials:
            folder = made_up(RunFolder((arguments.folder or Path(scratch)) / f"r{count}"), count)
            began = time.perf_counter()
            history = read_history(folder.path)
            read = time.perf_counter()
            out = folder.path / "report.html"
            write_report(history, out=out)
            done = time.perf_counter()
            size = out.stat().st_size / 1e6
            print(f"{count:>8,}{read - began:>9.1f}{done - read:>9.1f}{size:>9.1f}", flush=True)
    return 0


def made_up(folder: RunFolder, count: int) -> RunFolder:
    """A run of so many trials, unless it is there already."""
    done = folder.path / "made"
    if done.exists():
        return folder
    told = {"name": "r", "space": read_space_data(SPACE), "budget": BUDGET, "trials": count}
    experiment = make_settings(Experiment, told)
    write_settings(folder, experiment, RunData(4500, 500, ("a", "b")))
    space = experiment.search_space(folder.experiment_file)
    study = optuna.create_study(
        storage=f"sqlite:///{folder.study_file}",
        study_name="r",
        directions=["maximize", "minimize"],
    )
    options = {choice.name: CategoricalDistribution(choice.options) for choice in space.choices}
    rng = np.random.default_rng(0)
    trials = []
    while len(trials) < count:
        picks, architecture = space.draw(rng)
        cost = space.cost(architecture)
        if cost.macs > BUDGET:
            continue
        final = 40 + 5 * math.log2(cost.macs / 50e6) + rng.normal(0, 2)
        curve = [
            {"epoch": e, "top1": round(final * (1 - 0.5**e), 1), "train_loss": 1.0, "loss": 1.0}
            | {"seconds": 5.0}
            for e in range(1, EPOCHS + 1)
        ]
        notes = {"architecture": architecture.to_dict(), **cost._asdict(), "baseline": None}
        notes |= {"id": architecture.id, "curve": curve, "epochs": EPOCHS, "seconds": 30.0}
        trials.append(
            optuna.create_trial(
                values=[curve[-1]["top1"], cost.macs],
                params=picks,
                distributions=options,
                user_attrs=notes,
                system_attrs={"constraints": [cost.macs / BUDGET - 1]},
            )
        )
    study.add_trials(trials)
    done.touch()
    return folder


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--trials", type=int, nargs="+", default=[20, 1000, 10_000])
    parser.add_argument("--folder", type=Path, help="where the runs are kept")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
