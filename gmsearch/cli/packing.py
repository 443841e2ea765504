"""The verb of data: pack."""

import argparse
from pathlib import Path

from gmsearch.cli.flags import FIDELITIES, Parser, absolute, whole
from gmsearch.data.selection import CLASS_LISTS
from gmsearch.errors import SettingsError


def add_verbs(verbs: "argparse._SubParsersAction[Parser]") -> None:
    parser = verbs.add_parser(
        "pack",
        help="an image subset as arrays that trials map, decoded once",
        description="Packs a class-balanced subset of images: decoded once, resized, cut into "
        "train, minival and val, as arrays that every trial maps. The same seed takes the same "
        "images on any machine. The same line again goes on where it stopped.",
        epilog="example: gmsearch pack ~/imagenet packs/in100 --classes imagenet100 "
        "--per-class 300 --resolution 128",
    )
    parser.add_argument(
        "source",
        metavar="SRC",
        help="images in ImageNet layout, or with a folder for each class, as a folder, zip or "
        "tar; or a name that timm knows, such as torch/cifar10",
    )
    parser.add_argument("out", type=Path, metavar="OUT", help="the folder of the pack")
    parser.add_argument(
        "--classes",
        metavar="N|FILE",
        help="so many random classes, those of a file, one on a line, or of a well-known subset: "
        f"{', '.join(CLASS_LISTS)} (default: all)",
    )
    parser.add_argument(
        "--per-class",
        type=whole,
        metavar="N",
        help="images of each class, a tenth of them for minival (default: all)",
    )
    resolution = FIDELITIES["images"][0]
    parser.add_argument(
        "--resolution",
        type=whole,
        default=resolution,
        metavar="PX",
        help=f"that networks train on; a seventh is kept around it (default: {resolution})",
    )
    parser.add_argument(
        "--seed", type=int, default=0, metavar="S", help="of what is taken (default: 0)"
    )
    parser.add_argument(
        "--workers", type=whole, metavar="N", help="images decoded at once (default: all cores)"
    )
    parser.add_argument(
        "--skip-at-most",
        type=float,
        default=0.01,
        metavar="SHARE",
        help="of the images may be broken; they are listed in meta.json (default: 0.01)",
    )
    parser.add_argument(
        "--root",
        metavar="DIR",
        help="where timm finds, or puts, a data set that is named (default: the user's cache)",
    )
    parser.set_defaults(run=_pack)


def _pack(arguments: argparse.Namespace) -> int:
    from gmsearch.console import make_console
    from gmsearch.data.opening import is_named, open_source
    from gmsearch.data.packing import Order, make_pack
    from gmsearch.data.selection import Selection, choose, read_classes
    from gmsearch.progress import pack_in_words, reading

    if arguments.root is not None and not is_named(arguments.source):
        raise SettingsError(f"--root is for names that timm knows, not for {arguments.source}")
    console = make_console()
    classes = None if arguments.classes is None else read_classes(arguments.classes)
    selection = Selection(classes, arguments.per_class, arguments.seed)
    with reading(console, arguments.source) as progress:
        root = None if arguments.root is None else Path(absolute(arguments.root))
        source = open_source(arguments.source, root)
        order = Order(source, selection, choose(source, selection), arguments.resolution)
        packed = make_pack(
            order,
            arguments.out,
            workers=arguments.workers,
            most_skipped=arguments.skip_at_most,
            progress=progress,
        )
    console.print(pack_in_words(packed, progress.rate), soft_wrap=True)
    return 0
