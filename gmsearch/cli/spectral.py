"""The verbs of the frequency view that look beyond accuracy: spectra, reproduce. What they need of
torch is imported when they run.
"""

import argparse
import json
import sys
from contextlib import redirect_stdout
from pathlib import Path

from gmsearch.cli.flags import (
    Parser,
    add_effort,
    add_training,
    check_data,
    check_out,
    size,
    training,
    whole,
)
from gmsearch.cli.searching import STOPPED
from gmsearch.experiment import Comparison, make_settings
from gmsearch.run import RunFolder

BUDGET = 300_000_000
WHAT = "a run folder, RUN:ID, or any network as profile takes it, which is then fresh"


def add_verbs(verbs: "argparse._SubParsersAction[Parser]") -> None:
    _add_spectra(verbs)
    _add_reproduce(verbs)


def _add_spectra(verbs: "argparse._SubParsersAction[Parser]") -> None:
    parser = verbs.add_parser(
        "spectra",
        help="the spectra of a network's features, stage by stage",
        description="Measures which frequencies the features of a network have before each gate, "
        "after its activation and after its product, on real images, and draws them beside what "
        f"calculus says of products and activations. WHAT is {WHAT}.",
        epilog="example: gmsearch spectra runs/NAME:ID --data packs/in100 --out spectra",
    )
    parser.add_argument("what", metavar="WHAT", help="the network, see above")
    parser.add_argument("--data", required=True, metavar="SRC", help="images, as run takes them")
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="for the figures")
    parser.add_argument(
        "--images", type=whole, default=64, metavar="N", help="to measure on (default: 64)"
    )
    parser.add_argument(
        "--resolution",
        type=whole,
        metavar="PX",
        help="(default: a pack's own, else that of the run's trainings, else 224)",
    )
    parser.add_argument("--json", action="store_true", help="plain numbers, for a program to read")
    parser.set_defaults(run=_spectra)


def _spectra(arguments: argparse.Namespace) -> int:
    from gmsearch.inside import look_inside

    check_out(arguments.out)
    found = look_inside(
        arguments.what,
        source=check_data(arguments.data),
        out=arguments.out,
        num_images=arguments.images,
        resolution=arguments.resolution,
        quiet=arguments.json,
    )
    if arguments.json:
        print(json.dumps(found.to_dict(), indent=2))
    return 0


def _add_reproduce(verbs: "argparse._SubParsersAction[Parser]") -> None:
    parser = verbs.add_parser(
        "reproduce",
        help="test what the GmNet paper claims of frequencies",
        description="Trains the networks that the claims are about, all alike and with several "
        "seeds, and says of each published ordering whether it holds, does not hold, or is not "
        "resolved at this size. The same line again goes on where it stopped.",
        epilog="example: gmsearch reproduce frequency --data ~/imagenet-subset --resolution 64 "
        "--epochs 30 --seeds 5",
    )
    parser.add_argument("which", metavar="NAME", help="of the claims: frequency")
    parser.add_argument(
        "--budget",
        type=size,
        default=BUDGET,
        metavar="MACS",
        help="most MACs of GmNet at 224 px; its forms with layers of their own have more "
        "(default: 300M)",
    )
    parser.add_argument(
        "--seeds", type=whole, default=3, metavar="N", help="trainings of each (default: 3)"
    )
    add_training(parser)
    add_effort(parser)
    parser.add_argument(
        "--json", action="store_true", help="the claims, for a program to read, when all is trained"
    )
    parser.set_defaults(run=_reproduce)


def _reproduce(arguments: argparse.Namespace) -> int:
    from gmsearch.claims import read_reproduction
    from gmsearch.reproduce import networks_of, run_reproduction
    from gmsearch.session import Ending

    reproduction = read_reproduction(arguments.which)
    networks = networks_of(reproduction, arguments.budget)
    settings = make_settings(
        Comparison,
        {
            **training(arguments, "reproduce", arguments.which),
            "networks": {name: network.to_dict() for name, network in networks.items()},
            "seeds": arguments.seeds,
            "frequency": reproduction.radii,
        },
    )
    folder = RunFolder(arguments.runs_dir / settings.name)
    # A program reads the answer alone; what a person reads goes beside it.
    with redirect_stdout(sys.stderr if arguments.json else sys.stdout):
        outcome = run_reproduction(reproduction, settings, folder)
    if arguments.json and outcome.document is not None:
        print(json.dumps(outcome.document, indent=2))
    return STOPPED if outcome.ending is Ending.STOPPED else 0
