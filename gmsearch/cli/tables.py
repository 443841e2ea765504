"""The verbs of tables of trainings: table build."""

import argparse
from pathlib import Path

from gmsearch.cli.flags import Parser, add_effort, add_training, natural, size, training, whole
from gmsearch.cli.searching import start_run
from gmsearch.experiment import Tabulation, make_settings
from gmsearch.run import RunFolder
from gmsearch.space_file import read_space, read_space_data


def add_verbs(verbs: "argparse._SubParsersAction[Parser]") -> None:
    parser = verbs.add_parser(
        "table",
        help="train the networks of a space, to compare searches on",
        description="Tables of real trainings, on which searches are compared.",
    )
    _add_build(parser.add_subparsers(metavar="COMMAND", required=True, parser_class=Parser))


def _add_build(verbs: "argparse._SubParsersAction[Parser]") -> None:
    parser = verbs.add_parser(
        "build",
        help="train, and write RUN/table.parquet",
        description="Trains different networks of a space, and writes every epoch of them to "
        "RUN/table.parquet. The same line again goes on where it stopped.",
        epilog="example: gmsearch table build --space search_spaces/grid.yaml --data packs/in10 "
        "--networks 1000 --repeated 50 --seeds 3",
    )
    parser.add_argument(
        "--space", type=Path, required=True, metavar="FILE", help="YAML of the space"
    )
    parser.add_argument("--budget", type=size, metavar="MACS", help="most MACs (default: any)")
    parser.add_argument(
        "--networks",
        type=whole,
        default=1000,
        metavar="N",
        help="to train, or all where the space has fewer (default: 1000)",
    )
    parser.add_argument(
        "--repeated",
        type=natural,
        default=0,
        metavar="M",
        help="of these, so many are trained with more seeds (default: 0)",
    )
    parser.add_argument(
        "--seeds", type=whole, default=3, metavar="S", help="of each of those (default: 3)"
    )
    add_training(parser)
    add_effort(parser)
    parser.set_defaults(run=_build)


def _build(arguments: argparse.Namespace) -> int:
    space = read_space(arguments.space)
    settings = {
        **training(arguments, "table", space.name),
        "space": read_space_data(arguments.space),
        "budget": arguments.budget,
        "networks_wanted": arguments.networks,
        "repeated": arguments.repeated,
        "seeds": arguments.seeds,
    }
    tabulation = make_settings(Tabulation, settings)
    return start_run(tabulation, RunFolder(arguments.runs_dir / tabulation.name))
