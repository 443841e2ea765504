"""The verbs of the frequency view that look beyond accuracy: spectra, reproduce. What they need of
torch is imported when they run.
"""

import argparse
import json
from pathlib import Path

from gmsearch.cli.flags import Parser, check_data, whole

WHAT = "a run folder, RUN:ID, or any network as profile takes it, which is then fresh"


def add_verbs(verbs: "argparse._SubParsersAction[Parser]") -> None:
    _add_spectra(verbs)


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
