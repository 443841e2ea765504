"""Compares searches: what each finds for the epochs that it spends.

    python benchmarks/search/compare.py --methods gated,random,tpe --seeds 20
    python benchmarks/search/compare.py --table benchmarks/search/grid.parquet --seeds 20
    python benchmarks/search/compare.py --show [--table benchmarks/search/grid.parquet]

On the stand-in, or on a table of real trainings, with asynchronous workers on a simulated clock.
Each search that is done is a line of FOLDER/results.jsonl, and is not done again: a comparison that
is cut off goes on. A table is known by its name and contents. Remove the lines of a method that has
changed. `--show` prints the tables of all that is there, and draws a figure of each; with a table,
also the hypervolume of all of its networks, which no search can pass.
"""

import argparse
import hashlib
import os
import signal
import sys
import traceback
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from functools import cache
from importlib.util import find_spec
from multiprocessing import active_children, get_context, parent_process
from pathlib import Path
from threading import Thread

os.environ.setdefault("OMP_NUM_THREADS", "1")  # before NumPy is imported; one search, one core

from contest import Key, Result, append_result, best_of, contest, read_results  # noqa: E402
from methods import METHODS  # noqa: E402
from problems import Problem, ceiling, of_table, stand_in  # noqa: E402

from gmsearch.cli.flags import natural, whole  # noqa: E402
from gmsearch.errors import SettingsError, UserError  # noqa: E402
from gmsearch.table import TrialTable, read_table  # noqa: E402

STAND_IN = "stand-in"


def main() -> int:
    arguments = parse_arguments()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that what it began ends too
    file = arguments.folder / "results.jsonl"
    try:
        if arguments.show:
            return show_all(file, arguments.table)
        check(arguments)
        arguments.folder.mkdir(parents=True, exist_ok=True)
        file.open("a").close()  # or it would fail when the first search is done
        return compare(arguments, file)
    except (UserError, OSError) as error:
        print(error, file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("stopped; the same line goes on", file=sys.stderr)
        return 130


def show_all(file: Path, table: Path | None) -> int:
    from show import show

    if table is not None:
        count, volume = ceiling(read_table(table))
        print(f"all {count} networks of {table} have a hypervolume of {volume:.2f}\n")
    if not (results := list(read_results(file))):
        raise SettingsError(f"{file} has no searches")
    show(results, file.parent)
    return 0


def check(arguments: argparse.Namespace) -> None:
    """Raises UserError for what would fail after others have been computed for hours."""
    if arguments.table is not None:
        read_table(arguments.table)
    for name in arguments.methods:
        package = METHODS[name].needs
        if package and find_spec(package) is None:
            raise SettingsError(
                f"{name} needs {package}: pip install {package.replace('_', '-')}, "
                "or name others with --methods"
            )


def compare(arguments: argparse.Namespace, file: Path) -> int:
    """Runs the searches that are not done; one that fails is told, and the others go on."""
    bench = STAND_IN if arguments.table is None else bench_of(arguments.table)
    done = {key: result.trainings for key, result in best_of(read_results(file)).items()}
    most = arguments.most
    wanted = {
        Key(bench, method, seed, arguments.workers): METHODS[method].most if most is None else most
        for seed in arguments.seeds
        for method in arguments.methods
    }
    wanted = {key: most for key, most in wanted.items() if done.get(key, 0) < most}
    code = 0
    with pool_of(arguments.processes) as pool:
        running = {
            pool.submit(run, key, most, arguments.table): key for key, most in wanted.items()
        }
        for number, each in enumerate(as_completed(running), 1):
            key = running[each]
            words = (
                f"{number} of {len(wanted)}: {key.method}, seed {key.seed}, {key.workers} workers: "
            )
            error = each.exception()
            if isinstance(error, BrokenProcessPool):
                print("a process was killed; the same line goes on", file=sys.stderr)
                return 1
            if error is not None:
                traceback.print_exception(error)
                print(f"{words}failed", flush=True)
                code = 1
                continue
            result = each.result()
            append_result(file, result)
            print(f"{words}{result.steps[-1][1]:.2f} after {result.trainings}", flush=True)
    return code


@contextmanager
def pool_of(processes: int) -> Iterator[ProcessPoolExecutor]:
    """Ends what its processes do when it is left."""
    pool = ProcessPoolExecutor(processes, get_context("spawn"), _ends_with_parent)
    try:
        yield pool
    finally:
        for child in active_children():
            child.terminate()
        pool.shutdown(cancel_futures=True)


def _ends_with_parent() -> None:
    """Of a process that computes. Ctrl-C is for the one that began it."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    parent = parent_process()
    assert parent is not None

    def end() -> None:
        parent.join()
        os._exit(1)

    Thread(target=end, daemon=True).start()


def bench_of(table: Path) -> str:
    """The name of a table's file, and what tells it from another of that name."""
    return f"{table.stem}-{hashlib.sha256(table.read_bytes()).hexdigest()[:8]}"


def run(key: Key, trainings: int, table: Path | None) -> Result:
    problem: Problem = stand_in(key.seed) if table is None else of_table(_read(table))
    return contest(key, problem, trainings)


@cache
def _read(table: Path) -> TrialTable:
    return read_table(table)


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--table", type=Path, metavar="FILE", help="default: the stand-in")
    parser.add_argument(
        "--methods",
        type=_methods,
        default=list(METHODS),
        help="any of: " + ", ".join(METHODS) + " (default: all)",
    )
    parser.add_argument("--seeds", type=_seeds, default=range(20), metavar="N or A-B")
    parser.add_argument("--workers", type=whole, default=4, metavar="N")
    parser.add_argument(
        "--most", type=whole, metavar="N", help="trainings' worth of epochs (default: the method's)"
    )
    cores = len(os.sched_getaffinity(0))
    parser.add_argument("--processes", type=whole, default=cores, metavar="N")
    parser.add_argument("--folder", type=Path, default=Path("runs/searches"))
    parser.add_argument(
        "--show", action="store_true", help="the tables and figures of what is done"
    )
    return parser.parse_args()


def _methods(text: str) -> list[str]:
    names = text.split(",")
    for name in names:
        if name not in METHODS:
            raise argparse.ArgumentTypeError(f"{name}: no such method")
    return names


def _seeds(text: str) -> range:
    first, dash, last = text.rpartition("-")
    seeds = range(natural(first), natural(last) + 1) if dash else range(natural(text))
    if not seeds:
        raise argparse.ArgumentTypeError(f"{text} is no seed at all")
    return seeds


if __name__ == "__main__":
    sys.exit(main())
