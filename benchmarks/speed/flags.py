"""What several benches take on the command line, checked before anything is measured."""

import argparse
import json
import os
import sys
from collections.abc import Callable, Iterable, Sequence
from itertools import product
from pathlib import Path
from tempfile import TemporaryFile

from variants import NUM_CLASSES

from gmsearch.cli.flags import whole
from gmsearch.errors import SettingsError, UserError
from gmsearch.files import write_atomically
from gmsearch.speedups import VARIABLE
from gmsearch.what import resolve
from gmsearch.zoo import check_network


def add_common(
    parser: argparse.ArgumentParser,
    networks: Sequence[str] = ("gmnet_s1", "gmnet@300M"),
    rounds: int = 7,
) -> None:
    """With these defaults."""
    parser.add_argument(
        "--networks",
        nargs="+",
        default=networks,
        metavar="WHAT",
        help=f"default: {' '.join(networks)}",
    )
    parser.add_argument(
        "--rounds",
        type=whole,
        default=rounds,
        metavar="N",
        help=f"turns of each (default: {rounds})",
    )
    parser.add_argument("--json", type=writable, metavar="FILE", help="write what is found here")


def existing_folder(text: str) -> Path:
    if not Path(text).is_dir():
        raise argparse.ArgumentTypeError(f"{text} is no folder")
    return Path(text)


def writable(text: str) -> Path:
    """A file that may be made, or replaced. Nothing is made yet; a link is followed."""
    file = Path(text).resolve()
    if file.exists() and not file.is_file():
        raise argparse.ArgumentTypeError(f"{text} is there, and no plain file")
    try:
        with TemporaryFile(dir=file.parent):
            return file
    except OSError as error:
        raise argparse.ArgumentTypeError(f"{text}: {error.strerror}") from None


def write_json(file: Path | None, found: object) -> None:
    """All that is found so far, where there is a file for it."""
    if file is not None:
        write_atomically(file, json.dumps(found, indent=2) + "\n")


def check(networks: Iterable[str], resolutions: Iterable[int], batch_size: int) -> None:
    """Raises UserError for networks that cannot be trained so, or with speed-ups switched off from
    outside, which not all that is compared would obey.
    """
    if os.environ.get(VARIABLE):
        raise SettingsError(f"{VARIABLE} is set; unset it: what is off is chosen by the bench")
    for what, px in product(networks, resolutions):
        check_network(resolve(what), NUM_CLASSES, px, batch_size)


def run(main: Callable[[], None]) -> None:
    """A mistake of the user is one line, and exit code 2; Ctrl-C is 130."""
    try:
        main()
    except (UserError, OSError) as error:
        print(f"{Path(sys.argv[0]).name}: {error}", file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:
        print("stopped", file=sys.stderr)
        sys.exit(130)
