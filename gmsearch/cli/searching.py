"""The verbs of a search: run, resume, space."""

import argparse
import json
from pathlib import Path

from gmsearch.cli.flags import (
    Parser,
    add_effort,
    add_storage,
    add_training,
    add_watching,
    check_file_place,
    effort,
    objectives,
    size,
    training,
    whole,
)
from gmsearch.errors import SettingsError
from gmsearch.experiment import (
    EFFORT,
    SAMPLERS,
    Comparison,
    Experiment,
    Tabulation,
    make_settings,
    read_settings,
)
from gmsearch.run import RunFolder
from gmsearch.space import format_size
from gmsearch.space_file import read_space, read_space_data

# Of the effort, what a resumed run keeps: how much there is, and where.
KEPT = (
    "trials",
    "seeds",
    "networks_wanted",
    "repeated",
    "cache",
    "storage",
    "narrowed",
    "checkpoints",
)
STOPPED = 130  # the exit code after Ctrl-C, as shells have it


def add_verbs(verbs: "argparse._SubParsersAction[Parser]") -> None:
    _add_run(verbs)
    _add_resume(verbs)
    _add_replay(verbs)
    _add_space(verbs)


def _add_run(verbs: "argparse._SubParsersAction[Parser]") -> None:
    parser = verbs.add_parser(
        "run",
        help="search a space for the best networks within a budget",
        description="Trains networks of a space and shows the front of accuracy against MACs. "
        "The same line again goes on where it stopped.",
        epilog="example: gmsearch run --space search_spaces/gated.yaml --budget 300M",
    )
    add_search(parser)
    parser.set_defaults(run=_run)


def add_search(parser: argparse.ArgumentParser) -> None:
    """What is searched, how, and how much at once."""
    parser.add_argument(
        "--space", type=Path, required=True, metavar="FILE", help="YAML of the space"
    )
    parser.add_argument(
        "--budget",
        type=size,
        required=True,
        metavar="MACS",
        help="most MACs, such as 300M or 1.2G",
    )
    add_training(parser)
    parser.add_argument(
        "--trials",
        type=whole,
        default=20,
        metavar="N",
        help="what to spend, in whole trainings; with early stops it tries more networks than that "
        "(default: 20)",
    )
    parser.add_argument(
        "--sampler",
        default="gated",
        metavar="NAME",
        help=f"{', '.join(SAMPLERS)} (default: gated, which knows costs beforehand; the others "
        "learn from complete trainings alone)",
    )
    parser.add_argument(
        "--early-stop",
        default="gated",
        metavar="NAME",
        help="gated: trainings go on where that pays more for each epoch than anything else; asha: "
        "the best third at each rung; off (default: gated)",
    )
    parser.add_argument(
        "--objectives",
        type=objectives,
        default="top1,macs",
        metavar="LIST",
        help="top1, then a cost of macs, params, activations, then more of these and bands in any "
        "order, such as high12, the accuracy beyond radius 12 of the spectrum at 224 px (default: "
        "top1,macs)",
    )
    add_watching(parser, aims=True)
    add_storage(parser)
    add_effort(parser)


def _add_resume(verbs: "argparse._SubParsersAction[Parser]") -> None:
    parser = verbs.add_parser(
        "resume",
        help="go on with a run after a stop, a crash or a kill",
        description="Goes on with a run: unfinished trainings from their last epoch, then new "
        "ones.",
        epilog="example: gmsearch resume runs/gated-300M-bands --trials 32",
    )
    parser.add_argument(
        "folder", type=Path, metavar="RUN", help="the run folder, such as runs/NAME"
    )
    parser.add_argument(
        "--trials",
        type=whole,
        metavar="N",
        help="whole trainings to spend in all (default: as before)",
    )
    parser.add_argument(
        "--seeds", type=whole, metavar="N", help="of a comparison, in all (default: as before)"
    )
    parser.add_argument(
        "--space",
        type=Path,
        metavar="FILE",
        help="a narrower space than the run's: some choices have fewer options from now on",
    )
    add_storage(parser)
    add_effort(parser)
    parser.set_defaults(run=_resume)


def _add_replay(verbs: "argparse._SubParsersAction[Parser]") -> None:
    parser = verbs.add_parser(
        "replay",
        help="repeat a run's decisions from its log, and compare",
        description="Repeats every decision of a search from RUN/decisions.jsonl and the recorded "
        "results. It ends with code 1 where anything comes out otherwise. Nothing is trained, and "
        "nothing is written.",
        epilog="example: gmsearch replay runs/gated-300M-bands",
    )
    parser.add_argument("folder", type=Path, metavar="RUN", help="the run folder")
    parser.set_defaults(run=_replay)


def _add_space(verbs: "argparse._SubParsersAction[Parser]") -> None:
    parser = verbs.add_parser(
        "space",
        help="what a space holds, and what a budget leaves of it",
        description="Counts a space: its networks, and what a budget leaves of it and rules out.",
        epilog="example: gmsearch space search_spaces/gated.yaml --budget 300M",
    )
    parser.add_argument("file", type=Path, metavar="FILE", help="YAML of the space")
    parser.add_argument(
        "--budget", type=size, metavar="MACS", help="most MACs, such as 300M or 1.2G"
    )
    parser.add_argument(
        "--plot",
        type=Path,
        metavar="OUT.png",
        help="also draw a picture to this file: MACs of drawn settings, and the share that fits "
        "each budget",
    )
    parser.add_argument("--json", action="store_true", help="plain numbers, for a program to read")
    parser.set_defaults(run=_space)


def experiment_said(arguments: argparse.Namespace, *words: str) -> Experiment:
    """What the flags of a search say; `words` come first in the name of one that has none."""
    space = read_space(arguments.space)
    settings = {
        **training(arguments, *words, space.name, format_size(arguments.budget)),
        "space": read_space_data(arguments.space),
        "budget": arguments.budget,
    }
    if "trials" in arguments:  # not of a proxy, which searches nothing
        settings |= {
            "objectives": arguments.objectives,
            "sampler": arguments.sampler,
            "early_stop": arguments.early_stop,
            "trials": arguments.trials,
            "storage": arguments.storage,
        }
    experiment = make_settings(Experiment, settings)
    experiment.search_space(arguments.space).check_budget(experiment.budget)
    return experiment


def _run(arguments: argparse.Namespace) -> int:
    experiment = experiment_said(arguments)
    return start_run(experiment, RunFolder(arguments.runs_dir / experiment.name))


def _resume(arguments: argparse.Namespace) -> int:
    folder = RunFolder(arguments.folder)
    if not folder.experiment_file.exists():
        raise SettingsError(
            f"{folder.path} is not a run, it has no experiment.yaml; give a folder like runs/NAME"
        )
    before = read_settings(folder.experiment_file)
    settings = dict(before)
    for name in EFFORT:  # said anew in each session, but for how much there is, and where
        if name not in KEPT:
            settings.pop(name, None)
    settings |= {"data_digest": None, **effort(arguments)}
    for name in ("storage", "space"):
        if getattr(arguments, name) is not None and not isinstance(before, Experiment):
            raise SettingsError(f"--{name}: {folder.path} is no search, and has none")
    if arguments.storage is not None:
        settings["storage"] = arguments.storage
    if arguments.space is not None:
        read_space(arguments.space)  # what is wrong with it is of this file
        settings |= {"space": read_space_data(arguments.space), "narrowed": None}
    right, wrong = ("trials", "seeds") if isinstance(before, Experiment) else ("seeds", "trials")
    if getattr(arguments, wrong):
        raise SettingsError(f"--{wrong}: {folder.path} has --{right}")
    if getattr(arguments, right):
        settings[right] = getattr(arguments, right)
    return start_run(make_settings(type(before), settings), folder)


def start_run(settings: Experiment | Comparison | Tabulation, folder: RunFolder) -> int:
    """Runs a search or a comparison, or builds a table; returns the exit code."""
    from gmsearch.session import Ending

    if isinstance(settings, Tabulation):
        from gmsearch.table import build_table

        ending = build_table(settings, folder)
    elif isinstance(settings, Experiment):
        from gmsearch.search import run_search  # brings Optuna, which no other verb needs

        ending = run_search(settings, folder)
    else:
        from gmsearch.compare import run_comparison  # brings torch, as the networks do

        ending = run_comparison(settings, folder)
    return STOPPED if ending is Ending.STOPPED else 0


def _replay(arguments: argparse.Namespace) -> int:
    from gmsearch.replay import replay

    found = replay(arguments.folder)
    for difference in found.differences:
        print(difference)
    same = "all as before" if not found.differences else f"{len(found.differences)} differ"
    print(f"{found.num_decisions:,} decisions repeated, {same}")
    return 1 if found.differences else 0


def _space(arguments: argparse.Namespace) -> int:
    from gmsearch.survey import survey, to_dict, to_text

    space = read_space(arguments.file)
    if arguments.budget is not None:
        space.check_budget(arguments.budget)
    if arguments.plot is not None:
        check_file_place("--plot", arguments.plot)
    result = survey(space, arguments.budget)
    if arguments.plot is not None:
        from gmsearch.picture import draw_space

        draw_space(arguments.plot, result)
    if arguments.json:
        print(json.dumps(to_dict(result), indent=2))
    else:
        print(to_text(result) + (f"\n\nwrote {arguments.plot}" if arguments.plot else ""))
    return 0
