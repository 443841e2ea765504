"""The verb of the frequency view: frequency. What it needs of torch is imported when it runs."""

import argparse
import json
from pathlib import Path

from gmsearch.cli.flags import FIDELITIES, Parser, absolute, check_data, check_out, radii, whole
from gmsearch.data import BUILT_IN, packed_resolution
from gmsearch.errors import SettingsError
from gmsearch.radii import PUBLISHED, PUBLISHED_SIZE
from gmsearch.run import RunFolder


def add_verbs(verbs: "argparse._SubParsersAction[Parser]") -> None:
    parser = verbs.add_parser(
        "frequency",
        help="accuracy of trained networks on the low and the high frequencies of images",
        description="Evaluates trained networks on whole images and on their parts within and "
        "beyond some radii of the spectrum, as the GmNet paper does, and tells the low-frequency "
        "bias of each: how much more of its accuracy it keeps on the low parts. WHAT is a run (the "
        "front of a search and its baselines, or all networks of a comparison), RUN:ID, "
        "RUN/retrained, RUN/retrained/ID, the folder of an export, or any network with --weights. "
        "What a search or a comparison trained is judged on minival, all else on val.",
        epilog="example: gmsearch frequency runs/NAME runs/NAME/retrained --data packs/in100",
    )
    parser.add_argument("what", nargs="+", metavar="WHAT", help="trained networks, see above")
    parser.add_argument(
        "--data", metavar="SRC", help="images, as for run (default: those of each run)"
    )
    parser.add_argument(
        "--radii",
        type=radii,
        default=PUBLISHED,
        metavar="LIST",
        help="in bins of the spectrum at 224 px (default: 12,24,36)",
    )
    parser.add_argument("--weights", metavar="FILE", help="of the one network that WHAT names then")
    parser.add_argument(
        "--resolution",
        type=whole,
        metavar="PX",
        help="of the images for --weights (default: a pack's own, 32 for bands, else 224); others "
        "have that of their training",
    )
    parser.add_argument("--all", action="store_true", help="of a search, all that is trained")
    parser.add_argument(
        "--out",
        type=Path,
        metavar="DIR",
        help="for frequency.csv and frequency.png (default: RUN/frequency of the first run)",
    )
    parser.add_argument("--cache", metavar="DIR", help="where original images are packed to")
    parser.add_argument("--json", action="store_true", help="plain numbers, for a program to read")
    parser.set_defaults(run=_frequency)


def _frequency(arguments: argparse.Namespace) -> int:
    from gmsearch.band_accuracy import BandAccuracy, Looking, accuracy_table, write_files
    from gmsearch.console import make_console
    from gmsearch.trained import find_trained, tell_apart

    if arguments.weights is not None and len(arguments.what) > 1:
        raise SettingsError(
            f"--weights {arguments.weights}: of which of {len(arguments.what)} networks? give one"
        )
    if arguments.weights is None and arguments.resolution is not None:
        raise SettingsError(
            f"--resolution {arguments.resolution}: without --weights, networks have the size that "
            "they were trained at"
        )
    weights = None if arguments.weights is None else Path(absolute(arguments.weights))
    source = None if arguments.data is None else check_data(arguments.data)
    folder = arguments.out or _place(arguments.what)
    if folder is not None:
        check_out(folder)  # before hours of evaluation
    found = tell_apart(
        [
            trained
            for what in arguments.what
            for trained in find_trained(
                what,
                weights=weights,
                resolution=arguments.resolution or _resolution(source),
                everything=arguments.all,
            )
        ]
    )
    console = make_console()
    console.stderr = arguments.json  # a program reads the answer alone
    cache = None if arguments.cache is None else absolute(arguments.cache)
    looking = Looking(source, arguments.radii, console, cache)
    rows: list[BandAccuracy] = []
    for named in found:
        with console.status(f"{len(rows) + 1} of {len(found)}: {named.name} …"):
            rows.append(looking.at(named))
    files = [] if folder is None else write_files(rows, folder)
    if arguments.json:
        print(json.dumps([row.to_dict() for row in rows], indent=2))
        return 0
    console.print(accuracy_table(rows))
    for file in files:
        console.print(f"wrote {file}", soft_wrap=True)
    return 0


def _resolution(source: str | None) -> int:
    """Of images whose network does not say it."""
    if source == BUILT_IN:
        return FIDELITIES["bands"][0]
    return (source and packed_resolution(source)) or PUBLISHED_SIZE


def _place(whats: list[str]) -> Path | None:
    """The folder of the first run that is named, for what is found; None without any."""
    for what in whats:
        path = Path(what)
        of_run = Path(what.rpartition(":")[0]) if ":" in what else path
        for folder in (path, of_run, path.parent, path.parent.parent):
            if what and RunFolder(folder).experiment_file.exists():
                return folder / "frequency"
    return None
