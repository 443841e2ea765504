"""How much of a search is not training, beside the same trials in plain Ray Tune.

    python benchmarks/overhead.py

A search by `gmsearch run`, then `plain_tune.py` on what it trained, one after the other on this
machine's CPU, one core to a trial. Walls are those of the whole processes, so Python's start and
the imports count too. Ours goes first, so whatever the disk cache gains is the other's. The
machine must have nothing else to do: the training is the same, so where its seconds differ much,
measure again.
"""

import argparse
import csv
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
SPACE = HERE.parent / "search_spaces" / "gated.yaml"


def main() -> int:
    arguments = parse_arguments()
    workers = len(os.sched_getaffinity(0))
    load = os.getloadavg()[0]
    with tempfile.TemporaryDirectory() as scratch:
        run, plain_file = Path(scratch) / "overhead", Path(scratch) / "plain.json"
        search = ["-m", "gmsearch", "run", "--space", str(SPACE), "--budget", "300M"]
        search += ["--trials", str(arguments.trials), "--epochs", str(arguments.epochs)]
        search += ["--seed", str(arguments.seed), "--workers", str(workers)]
        search += ["--runs-dir", scratch, "--name", run.name]
        wall = timed(search)
        with (run / "trials.csv").open(newline="") as file:
            trained = sum(float(row["seconds"]) for row in csv.DictReader(file))
        ours = account(wall, trained, workers)

        plain = [str(HERE / "plain_tune.py"), str(run), "--workers", str(workers)]
        wall = timed([*plain, "--json", str(plain_file)])
        figures = json.loads(plain_file.read_text())
        theirs = account(wall, figures["trained"], workers)

    ratio = theirs["wall"] / ours["wall"]
    print(
        f"trials {arguments.trials}, epochs {arguments.epochs}, workers {workers}; "
        f"load average before: {load:.2f}\n"
    )
    print(f"{'':16}{'wall s':>10}{'training s':>12}{'not training':>14}")
    for name, row in (("gmsearch run", ours), ("plain Ray Tune", theirs)):
        print(f"{name:16}{row['wall']:>10.1f}{row['trained']:>12.1f}{row['not_training']:>14.1%}")
    print(f"\nplain Ray Tune took {ratio:.2f} times the wall of gmsearch run")
    print(f"equal top1 in both: {figures['equal_top1']} of {arguments.trials} trials")
    if arguments.json:
        result = {
            "trials": arguments.trials,
            "epochs": arguments.epochs,
            "seed": arguments.seed,
            "workers": workers,
            "load_before": load,
            "gmsearch": ours,
            "plain": theirs,
            "ratio": ratio,
            "equal_top1": figures["equal_top1"],
        }
        arguments.json.write_text(json.dumps(result, indent=2) + "\n")
    return 0


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--trials", type=int, default=8, metavar="N")
    parser.add_argument("--epochs", type=int, default=2, metavar="E")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures there")
    return parser.parse_args()


def timed(command: list[str]) -> float:
    """Seconds of a whole Python process. What it prints goes to standard error."""
    environment = {**os.environ, "CUDA_VISIBLE_DEVICES": ""}  # the plain script trains on the CPU
    began = time.perf_counter()
    subprocess.run([sys.executable, *command], stdout=sys.stderr, env=environment, check=True)
    return time.perf_counter() - began


def account(wall: float, trained: float, workers: int) -> dict[str, Any]:
    return {"wall": wall, "trained": trained, "not_training": 1 - trained / (wall * workers)}


if __name__ == "__main__":
    sys.exit(main())
