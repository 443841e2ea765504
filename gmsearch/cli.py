"""The command line: each verb parses its words and calls one function.

A mistake of the user ends in one line on standard error and exit code 2.
"""

import argparse
import json
import os
import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NoReturn

from gmsearch.data import BUILT_IN
from gmsearch.errors import SettingsError, TrainingError, UserError
from gmsearch.experiment import EFFORT, Experiment, make_experiment, read_experiment
from gmsearch.recipe import Recipe
from gmsearch.run import RunFolder
from gmsearch.space import format_size, parse_size
from gmsearch.space_file import read_space, read_space_data

# What a search trains at unless told otherwise: (pixels, images in a batch).
FIDELITIES = {"bands": (32, 32), "images": (128, 128)}
STOPPED = 130  # the exit code after Ctrl-C, as shells have it


class _Parser(argparse.ArgumentParser):
    def __init__(self, **settings: Any) -> None:
        super().__init__(allow_abbrev=False, **settings)

    def error(self, message: str) -> NoReturn:
        raise SettingsError(f"{message}; see {self.prog} --help")


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one command. Returns 0, 1 where all failed, 2 after a mistake, 130 after Ctrl-C."""
    try:
        arguments = _parser().parse_args(argv)
        return arguments.run(arguments)
    except UserError as error:
        print(f"gmsearch: {' '.join(str(error).split())}", file=sys.stderr)
        return 2
    except TrainingError as error:
        print(f"gmsearch: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("gmsearch: stopped", file=sys.stderr)
        return STOPPED
    except BrokenPipeError:  # the reader of our output, such as `head`, has seen enough
        sys.stderr.close()
        return 0
    except OSError as error:  # a disk that is full, a folder that may not be written
        print(f"gmsearch: {error}", file=sys.stderr)
        return 2


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(
        prog="gmsearch",
        description="Searches over gating designs of lightweight image classifiers.",
        epilog="example: gmsearch run --space search_spaces/gated.yaml --budget 300M",
    )
    verbs = parser.add_subparsers(metavar="COMMAND", required=True, parser_class=_Parser)
    _add_run(verbs)
    _add_resume(verbs)
    _add_space(verbs)
    return parser


def _add_run(verbs: "argparse._SubParsersAction[_Parser]") -> None:
    parser = verbs.add_parser(
        "run",
        help="search a space for the best networks within a budget",
        description="Trains networks of a space and shows the front of accuracy against MACs. "
        "The same line again goes on where it stopped.",
        epilog="example: gmsearch run --space search_spaces/gated.yaml --budget 300M",
    )
    parser.add_argument(
        "--space", type=Path, required=True, metavar="FILE", help="YAML of the space"
    )
    parser.add_argument(
        "--budget",
        type=_size,
        required=True,
        metavar="MACS",
        help="most MACs, such as 300M or 1.2G",
    )
    parser.add_argument(
        "--data",
        default=BUILT_IN,
        metavar="SRC",
        help="folder or zip in ImageNet layout (default: bands, made in memory)",
    )
    parser.add_argument("--name", help="of the run folder (default: SPACE-BUDGET-DATA)")
    parser.add_argument(
        "--trials", type=_whole, default=20, metavar="N", help="networks to train (default: 20)"
    )
    parser.add_argument(
        "--epochs", type=_whole, default=6, metavar="E", help="of each trial (default: 6)"
    )
    parser.add_argument(
        "--resolution",
        type=_whole,
        metavar="PX",
        help="of the training images (default: 32 for bands, else 128)",
    )
    parser.add_argument(
        "--seed", type=int, default=0, metavar="S", help="of everything random (default: 0)"
    )
    parser.add_argument(
        "--sampler", default="tpe", metavar="NAME", help="tpe, nsga2 or random (default: tpe)"
    )
    parser.add_argument(
        "--objectives",
        default="top1,macs",
        metavar="LIST",
        help="top1 and costs of macs, params, activations (default: top1,macs)",
    )
    parser.add_argument(
        "--runs-dir", type=Path, default=Path("runs"), metavar="DIR", help="default: runs"
    )
    _add_effort(parser)
    parser.set_defaults(run=_run)


def _add_resume(verbs: "argparse._SubParsersAction[_Parser]") -> None:
    parser = verbs.add_parser(
        "resume",
        help="go on with a run after a stop, a crash or a kill",
        description="Goes on with a run: unfinished trials from their last epoch, then new ones.",
        epilog="example: gmsearch resume runs/gated-300M-bands --trials 32",
    )
    parser.add_argument(
        "folder", type=Path, metavar="RUN", help="the run folder, such as runs/NAME"
    )
    parser.add_argument(
        "--trials", type=_whole, metavar="N", help="networks to train in all (default: as before)"
    )
    _add_effort(parser)
    parser.set_defaults(run=_resume)


def _add_effort(parser: argparse.ArgumentParser) -> None:
    """Flags that say how a search is carried out, not what is searched; they may change when it
    goes on.
    """
    parser.add_argument(
        "--workers",
        type=_whole,
        metavar="N",
        help="trials at once (default: as cores or GPUs allow)",
    )
    parser.add_argument(
        "--gpus-per-trial",
        type=float,
        metavar="F",
        help="such as 0.5 for two trials on a GPU (default: 1)",
    )
    parser.add_argument(
        "--address", metavar="ADDR", help="of a Ray cluster (default: this machine)"
    )
    parser.add_argument(
        "--max-hours", type=float, metavar="H", help="stop after H hours; resume goes on"
    )


def _add_space(verbs: "argparse._SubParsersAction[_Parser]") -> None:
    parser = verbs.add_parser(
        "space",
        help="what a space holds, and what a budget leaves of it",
        description="Counts a space: its networks, and what a budget leaves of it and rules out.",
        epilog="example: gmsearch space search_spaces/gated.yaml --budget 300M",
    )
    parser.add_argument("file", type=Path, metavar="FILE", help="YAML of the space")
    parser.add_argument(
        "--budget", type=_size, metavar="MACS", help="most MACs, such as 300M or 1.2G"
    )
    parser.add_argument("--json", action="store_true", help="plain numbers, for a program to read")
    parser.set_defaults(run=_space)


def _run(arguments: argparse.Namespace) -> int:
    space = read_space(arguments.space)
    built_in = arguments.data == BUILT_IN
    source = arguments.data if built_in else os.path.abspath(os.path.expanduser(arguments.data))
    resolution, batch_size = FIDELITIES["bands" if built_in else "images"]
    recipe = Recipe(num_epochs=arguments.epochs, batch_size=batch_size)
    settings = {
        "name": arguments.name
        if arguments.name is not None
        else default_name(space.name, arguments.budget, source),
        "space": read_space_data(arguments.space),
        "budget": arguments.budget,
        "objectives": tuple(arguments.objectives.split(",")),
        "data": source,
        "resolution": arguments.resolution or resolution,
        "recipe": recipe,
        "seed": arguments.seed,
        "sampler": arguments.sampler,
        "trials": arguments.trials,
        **_effort(arguments),
    }
    experiment = make_experiment(settings)
    return _search(experiment, RunFolder(arguments.runs_dir / experiment.name))


def default_name(space: str, budget: int, source: str) -> str:
    """The name of a run that was given none: the same line finds its run again."""
    return re.sub(r"[^A-Za-z0-9_.-]+", "-", f"{space}-{format_size(budget)}-{Path(source).stem}")


def _resume(arguments: argparse.Namespace) -> int:
    folder = RunFolder(arguments.folder)
    if not folder.experiment_file.exists():
        raise SettingsError(
            f"{folder.path} is not a run, it has no experiment.yaml; give a folder like runs/NAME"
        )
    settings = dict(read_experiment(folder.experiment_file))
    for name in EFFORT:  # said anew in each session, but for the number of trials
        if name != "trials":
            del settings[name]
    settings |= {"data_digest": None, **_effort(arguments)}
    if arguments.trials:
        settings["trials"] = arguments.trials
    return _search(make_experiment(settings), folder)


def _effort(arguments: argparse.Namespace) -> dict[str, object]:
    given = {
        "workers": arguments.workers,
        "gpus_per_trial": arguments.gpus_per_trial,
        "address": arguments.address,
        "max_hours": arguments.max_hours,
    }
    return {name: value for name, value in given.items() if value is not None}


def _search(experiment: Experiment, folder: RunFolder) -> int:
    from gmsearch.search import Ending, run_search  # brings Optuna, which no other verb needs

    return STOPPED if run_search(experiment, folder) is Ending.STOPPED else 0


def _space(arguments: argparse.Namespace) -> int:
    from gmsearch.survey import survey, to_dict, to_text

    space = read_space(arguments.file)
    if arguments.budget is not None:
        space.check_budget(arguments.budget)
    result = survey(space, arguments.budget)
    print(json.dumps(to_dict(result), indent=2) if arguments.json else to_text(result))
    return 0


def _size(text: str) -> int:
    try:
        return parse_size(text)
    except ValueError:
        raise argparse.ArgumentTypeError(
            f"{text!r} is not a size; write 300M, 1.2G or 300000000"
        ) from None


def _whole(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number of 1 or more")
    return int(text)
