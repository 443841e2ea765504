"""What several benches take on the command line, checked before anything is measured."""

import argparse
import os
import sys
from collections.abc import Callable, Iterable
from itertools import product
from pathlib import Path

from variants import NUM_CLASSES

from gmsearch.cli.flags import whole
from gmsearch.errors import SettingsError, UserError
from gmsearch.speedups import VARIABLE
from gmsearch.what import resolve
from gmsearch.zoo import check_network


def add_common(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--networks",
        nargs="+",
        default=["gmnet_s1", "gmnet@300M"],
        metavar="WHAT",
        help="default: gmnet_s1 gmnet@300M",
    )
    parser.add_argument(
        "--rounds", type=whole, default=7, metavar="N", help="turns of each (default: 7)"
    )
    parser.add_argument("--json", type=writable, metavar="FILE", help="write what is found here")


def existing_folder(text: str) -> Path:
    if not Path(text).is_dir():
        raise argparse.ArgumentTypeError(f"{text} is no folder")
    return Path(text)


def writable(text: str) -> Path:
    """A file that may be made, or written over."""
    path = Path(text)
    if path.is_dir() or not path.parent.is_dir():
        raise argparse.ArgumentTypeError(f"{text} is no file in a folder that is there")
    return path


def check(networks: Iterable[str], resolutions: Iterable[int], batch_size: int) -> None:
    """Raises UserError for networks that cannot be trained so, or with speed-ups switched off from
    outside, which not all that is compared would obey.
    """
    if os.environ.get(VARIABLE):
        raise SettingsError(f"{VARIABLE} is set; unset it: what is off is chosen by the bench")
    for what, px in product(networks, resolutions):
        check_network(resolve(what), NUM_CLASSES, px, batch_size)


def run(main: Callable[[], None]) -> None:
    """A mistake of the user is one line, and exit code 2."""
    try:
        main()
    except UserError as error:
        print(f"{Path(sys.argv[0]).name}: {error}", file=sys.stderr)
        sys.exit(2)
