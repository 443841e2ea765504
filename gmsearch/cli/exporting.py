"""The verbs of what comes after: export, predict. What they need of torch is imported when they
run.
"""

import argparse
import json
from pathlib import Path
from typing import TYPE_CHECKING

from gmsearch.cli.flags import Parser, absolute, whole
from gmsearch.errors import SettingsError
from gmsearch.exporting import FORMATS, printable

if TYPE_CHECKING:
    from gmsearch.exporting.subject import Subject


def add_verbs(verbs: "argparse._SubParsersAction[Parser]") -> None:
    _add_export(verbs)
    _add_predict(verbs)


def _add_export(verbs: "argparse._SubParsersAction[Parser]") -> None:
    parser = verbs.add_parser(
        "export",
        help="a network as a folder that timm, ONNX Runtime and torch load",
        description="Writes a network with its weights for timm, ONNX Runtime and torch.export, "
        "and as code that needs torch alone, each checked against the network, with a model card. "
        "WHAT is a run, whose weights are exported, or any network as profile takes it.",
        epilog="example: gmsearch export runs/NAME --id ID --to timm,onnx",
    )
    parser.add_argument("what", metavar="WHAT", help="a run folder, or a network, see above")
    parser.add_argument(
        "--id", metavar="ID", help="of the run's networks (default: the best of its front)"
    )
    parser.add_argument(
        "--to", metavar="LIST", help=f"of {', '.join(FORMATS)} (default: all that there can be)"
    )
    parser.add_argument(
        "--out", type=Path, metavar="DIR", help="a new folder (default: RUN/exported/ID)"
    )
    parser.add_argument(
        "--weights",
        metavar="FILE",
        help=".safetensors or a torch checkpoint (default: the run's, else random ones)",
    )
    parser.add_argument(
        "--resolution",
        type=whole,
        metavar="PX",
        help="of the images (default: that of the run's trainings, else 224)",
    )
    parser.add_argument(
        "--classes",
        metavar="N|FILE",
        help="how many, or their names, one on a line (default: as in the run or the weights, "
        "else 1000)",
    )
    parser.add_argument(
        "--int8", action="store_true", help="an ONNX file with 8 bits too, by static quantisation"
    )
    parser.add_argument(
        "--data",
        metavar="PACK",
        help="whose training images calibrate --int8, and whose held-out ones tell its top1 "
        "(default: that of the run)",
    )
    parser.add_argument("--json", action="store_true", help="check.json, for a program to read")
    parser.set_defaults(run=_export)


def _add_predict(verbs: "argparse._SubParsersAction[Parser]") -> None:
    parser = verbs.add_parser(
        "predict",
        help="the five likeliest classes of images, by an export",
        description="Prints the five likeliest classes of each image with their probabilities, "
        "by the model.onnx of an export, or by timm where there is none.",
        epilog="example: gmsearch predict runs/NAME/exported/ID photo.jpg",
    )
    parser.add_argument("folder", type=Path, metavar="EXPORT_DIR", help="as export wrote it")
    parser.add_argument("images", nargs="+", type=Path, metavar="IMAGE", help="image files")
    parser.add_argument("--json", action="store_true", help="for a program to read")
    parser.set_defaults(run=_predict)


def _export(arguments: argparse.Namespace) -> int:
    formats = _formats(arguments.to)
    if arguments.data is not None and not arguments.int8:
        raise SettingsError("--data is that of --int8; give both, or neither")

    from gmsearch.data import is_named
    from gmsearch.exporting.folder import export, refuse_used
    from gmsearch.exporting.int8 import data_for
    from gmsearch.exporting.subject import find_subject

    if arguments.out is not None:
        refuse_used(arguments.out)
    subject = find_subject(
        arguments.what,
        network_id=arguments.id,
        weights=None if arguments.weights is None else Path(absolute(arguments.weights)),
        resolution=arguments.resolution,
        classes=arguments.classes,
    )
    folder = arguments.out or _place(subject)
    refuse_used(folder)
    source = arguments.data
    if source is not None and source != "bands" and not is_named(source):
        source = absolute(source)
    chosen = subject.formats(formats)
    int8_data = data_for(subject, source) if arguments.int8 else None

    def say(line: str) -> None:
        if not arguments.json:
            print(printable(line), flush=True)

    say(f"{subject.name}: {subject.network.in_words()}; {subject.resolution} px")
    say(subject.weights)
    if subject.labels is None:
        say("The classes have numbers only; --classes FILE names them.")
    report = export(subject, folder, chosen, int8_data=int8_data, say=say)
    say(f"all of it is in {folder}")
    if arguments.json:
        print(json.dumps({"folder": str(folder), **report}, indent=2))
    return 0


def _formats(text: str | None) -> tuple[str, ...] | None:
    """The formats of a list such as `timm,onnx`; None where none is given."""
    if text is None:
        return None
    names = tuple(dict.fromkeys(text.split(",")))
    for name in names:
        if name not in FORMATS:
            raise SettingsError(f"--to {text}: no format {name!r}; allowed: {', '.join(FORMATS)}")
    return names


def _place(subject: "Subject") -> Path:
    """The place that a run has for its networks. Raises SettingsError for one of no run."""
    if subject.run is None:
        raise SettingsError("give --out DIR, the folder to write; only a run has a place for it")
    return subject.run.exported_folder(subject.network.id)


def _predict(arguments: argparse.Namespace) -> int:
    from gmsearch.predict import Predictor

    predictor = Predictor(arguments.folder)
    if arguments.json:
        found = {
            str(image): [guess._asdict() for guess in predictor.guesses(image)]
            for image in arguments.images
        }
        print(json.dumps(found, indent=2))
        return 0
    for image in arguments.images:
        guesses = predictor.guesses(image)
        print(printable(f"{image}:"))
        for guess in guesses:
            print(f"  {100 * guess.probability:5.1f} %  {printable(guess.label)}")
    return 0
