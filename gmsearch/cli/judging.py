"""The verbs that tell what a search is worth before it is paid for: plan and proxy."""

import argparse
import json
from pathlib import Path

from gmsearch.cli.flags import Parser, add_effort, add_training, effort, size, whole
from gmsearch.cli.searching import STOPPED, add_search, experiment_said
from gmsearch.errors import SettingsError
from gmsearch.experiment import Experiment


def add_verbs(verbs: "argparse._SubParsersAction[Parser]") -> None:
    _add_plan(verbs)
    _add_proxy(verbs)


def _add_plan(verbs: "argparse._SubParsersAction[Parser]") -> None:
    parser = verbs.add_parser(
        "plan",
        help="how long a run would take, measured in a minute",
        description="Trains the smallest, the median and the largest candidate for up to a minute "
        "in all, as the workers of the run would, and predicts its wall time and device-hours. "
        "Takes the flags of `run`; writes no run.",
        epilog="example: gmsearch plan --space search_spaces/gated.yaml --budget 300M --trials 200",
    )
    add_search(parser)
    parser.add_argument("--json", action="store_true", help="plain numbers, for a program to read")
    parser.set_defaults(run=_plan)


def _add_proxy(verbs: "argparse._SubParsersAction[Parser]") -> None:
    parser = verbs.add_parser(
        "proxy",
        help="whether short trainings rank networks as longer ones do",
        description="Trains some networks as the search does, for longer, and in other ways that "
        "cost as much as the search's: on half the images, at a lower resolution. Tells how far "
        "each ranks networks as the longer training does. The same line again goes on where it "
        "stopped.",
        epilog="example: gmsearch proxy runs/gated-300M-bands --architectures 20",
    )
    parser.add_argument(
        "folder",
        type=Path,
        nargs="?",
        metavar="RUN",
        help="a run, whose data and recipe are taken; or give --space and --budget",
    )
    parser.add_argument("--space", type=Path, metavar="FILE", help="YAML of the space")
    parser.add_argument("--budget", type=size, metavar="MACS", help="most MACs, such as 300M")
    parser.add_argument(
        "--architectures", type=whole, default=16, metavar="K", help="to train (default: 16)"
    )
    add_training(parser)
    parser.set_defaults(**dict.fromkeys(_training_defaults()))  # None for what is not said
    parser.add_argument(
        "--fuller-epochs",
        type=whole,
        metavar="F",
        help="of the training to compare with (default: 4 times the search's)",
    )
    add_effort(parser)
    parser.set_defaults(run=_proxy)


def _plan(arguments: argparse.Namespace) -> int:
    from gmsearch.console import make_console
    from gmsearch.plan import plan_run, plan_table

    console = make_console()
    console.stderr = arguments.json  # a program reads the answer alone
    result = plan_run(experiment_said(arguments), console)
    if arguments.json:
        print(json.dumps(result.to_dict(), indent=2))
    else:
        console.print(plan_table(result))
        console.print(result.in_words(), soft_wrap=True)
    return 0


def _proxy(arguments: argparse.Namespace) -> int:
    if arguments.architectures < 4:
        raise SettingsError(f"--architectures {arguments.architectures}: give 4 or more")
    if arguments.device_hours is not None:
        raise SettingsError("--device-hours: each part of a proxy counts alone; give --max-hours")
    if (arguments.folder is None) == (arguments.space is None):
        raise SettingsError("give either a run, such as runs/NAME, or --space FILE and --budget")
    defaults = _training_defaults()
    if arguments.folder is not None:
        said = [name for name in (*defaults, "budget") if vars(arguments)[name] is not None]
        if said:
            flag = said[0].replace("_", "-")
            raise SettingsError(f"--{flag}: {arguments.folder} has its own; leave it away")
    elif arguments.budget is None:
        raise SettingsError("--space needs --budget, such as --budget 300M")
    unsaid = {name: value for name, value in defaults.items() if vars(arguments)[name] is None}
    vars(arguments).update(unsaid)

    from gmsearch.console import make_console
    from gmsearch.proxy import of_run, of_space, run_proxy
    from gmsearch.session import Ending

    if arguments.folder is not None:
        subject = of_run(arguments.folder, arguments.architectures)
    else:
        experiment: Experiment = experiment_said(arguments, "proxy")
        folder = arguments.runs_dir / experiment.name
        subject = of_space(experiment, folder, arguments.architectures)
    epochs = arguments.fuller_epochs or 4 * subject.settings.recipe.num_epochs
    ending = run_proxy(subject, epochs, make_console(), effort(arguments))
    return STOPPED if ending is Ending.STOPPED else 0


def _training_defaults() -> dict[str, object]:
    """What the flags of a training are where nothing is said."""
    parser = Parser()
    add_training(parser)
    return vars(parser.parse_args([]))
