"""Flags that several verbs share, and what their words mean."""

import argparse
import os
import re
import tempfile
from dataclasses import fields
from pathlib import Path
from typing import Any, NoReturn

from gmsearch.data import BUILT_IN, is_named, packed_resolution
from gmsearch.errors import DataError, SettingsError
from gmsearch.experiment import JOURNAL, TRACKERS
from gmsearch.radii import PUBLISHED, check_radii, is_band
from gmsearch.recipe import PRECISIONS, Recipe
from gmsearch.space import parse_size

# What a run trains at unless told otherwise: (pixels, images in a batch).
FIDELITIES = {"bands": (32, 32), "images": (128, 128)}
LONGEST_NAME = 80  # of a run that was given none

Verbs = "argparse._SubParsersAction[Parser]"


class Parser(argparse.ArgumentParser):
    """Raises SettingsError where argparse would print its usage and leave."""

    def __init__(self, **settings: Any) -> None:
        super().__init__(allow_abbrev=False, **settings)

    def error(self, message: str) -> NoReturn:
        raise SettingsError(f"{message}; see {self.prog} --help")


def add_training(parser: argparse.ArgumentParser) -> None:
    """What networks are trained on, and how long."""
    parser.add_argument(
        "--data",
        default=BUILT_IN,
        metavar="SRC",
        help="a pack, images in ImageNet layout as a folder, zip or tar, or a name that timm "
        "knows, such as torch/cifar10 (default: bands, made in memory)",
    )
    parser.add_argument("--name", help="of the run folder (default: from what is trained)")
    parser.add_argument(
        "--epochs", type=whole, default=6, metavar="E", help="of each training (default: 6)"
    )
    parser.add_argument(
        "--resolution",
        type=whole,
        metavar="PX",
        help="of the training images (default: 32 for bands, a pack's own, else 128)",
    )
    parser.add_argument(
        "--stream",
        action="store_true",
        help="decode the original images anew in every epoch, with timm's loader, instead of "
        "packing them: for sets that are trained on once",
    )
    parser.add_argument(
        "--seed", type=int, default=0, metavar="S", help="of everything random (default: 0)"
    )
    parser.add_argument(
        "--runs-dir", type=Path, default=Path("runs"), metavar="DIR", help="default: runs"
    )
    add_recipe(parser)


def add_recipe(parser: argparse.ArgumentParser) -> None:
    """A flag for each field of a recipe, but for the epochs, which have theirs above."""
    group = parser.add_argument_group("recipe", "how networks are trained, bands and images alike")
    for setting in fields(Recipe):
        name, told, default = setting.name, setting.metadata, setting.default
        flag = "--" + name.replace("_", "-")
        if isinstance(default, int) and told and name != "num_epochs":
            words = "images in a batch (default: 32 for bands, else 128)"
            words = words if name == "batch_size" else f"{told['help']} (default: {default})"
            group.add_argument(flag, type=natural, metavar="N", help=words)
        elif told and name != "num_epochs":
            group.add_argument(
                flag, type=float, metavar="X", help=f"{told['help']} (default: {default:g})"
            )
    group.add_argument(
        "--no-flip",
        dest="flip",
        action="store_const",
        const=False,
        help="no mirror images, where left and right mean something",
    )
    group.add_argument("--precision", choices=PRECISIONS, help=f"default: {Recipe().precision}")


def check_out(folder: Path) -> None:
    """Raises SettingsError where a folder cannot be made or written to. Nothing is left there."""
    try:
        there = next(place for place in (folder, *folder.absolute().parents) if place.exists())
        if not there.is_dir():
            raise SettingsError(f"--out {folder}: {there} is not a folder; give a new one")
        os.rmdir(tempfile.mkdtemp(prefix=".", dir=there))  # root may write, but not in /proc
    except OSError as error:
        raise SettingsError(
            f"--out {folder}: cannot be written to: {error.strerror}; give another place"
        ) from None


def check_file_place(flag: str, file: Path) -> None:
    """Raises SettingsError where a file to write is to lie in a folder that is not there: more
    likely a slip than a wish for a new one.
    """
    if not file.absolute().parent.is_dir():
        raise SettingsError(
            f"{flag} {file}: there is no folder {file.parent}; make it, or give another place"
        )


def add_watching(
    parser: argparse.ArgumentParser, split: str = "minival", *, aims: bool = False
) -> None:
    """Whether bands are looked at after every epoch; `aims` where they may be objectives."""
    whole = "; all of them, whatever it costs, where a band is an objective" if aims else ""
    parser.add_argument(
        "--frequency",
        nargs="?",
        const=PUBLISHED,
        type=watched_radii,
        metavar="RADII",
        help="after every epoch, also the accuracy on the low and the high frequencies of some "
        f"{split} images, cut at these radii at 224 px (default without a value: 12,24,36)",
    )
    parser.add_argument(
        "--frequency-share",
        type=float,
        metavar="X",
        help=f"of the {split} images of each class, the same in every epoch and for every network "
        f"(default: as many as cost less than a tenth of an epoch{whole})",
    )


def radii(text: str) -> tuple[float, ...]:
    try:
        return check_radii(map(float, text.split(",")))
    except ValueError:
        raise argparse.ArgumentTypeError(
            f"{text!r} is no list of radii; write some at 224 px, such as 12,24,36"
        ) from None


def watched_radii(text: str) -> tuple[float, ...]:
    """The value of a flag that needs none, and may have taken the word that follows."""
    try:
        return radii(text)
    except argparse.ArgumentTypeError as error:
        raise argparse.ArgumentTypeError(
            f"{error}, or leave it out and put --frequency last"
        ) from None


def objectives(text: str) -> tuple[str, ...]:
    return tuple(name.strip() for name in text.split(","))


def watching(arguments: argparse.Namespace) -> dict[str, Any]:
    """What was said of the flags of `add_watching`. Raises SettingsError for a share of nothing."""
    names = ("frequency", "frequency_share")
    said = {name: getattr(arguments, name, None) for name in names}
    aims = getattr(arguments, "objectives", ())
    if said["frequency"] is None and not any(map(is_band, aims)):
        if said["frequency_share"] is not None:
            raise SettingsError("--frequency-share is that of --frequency; give both")
    return said


def add_effort(parser: argparse.ArgumentParser) -> None:
    """Flags that say how a run is carried out, not what it trains; they may change when it goes
    on.
    """
    parser.add_argument(
        "--workers",
        type=whole,
        metavar="N",
        help="trainings at once (default: as cores or GPUs allow)",
    )
    parser.add_argument(
        "--gpus-per-trial",
        type=float,
        metavar="F",
        help="such as 0.5 for two trainings on a GPU (default: 1)",
    )
    parser.add_argument(
        "--address", metavar="ADDR", help="of a Ray cluster (default: this machine)"
    )
    parser.add_argument(
        "--checkpoints",
        metavar="DIR",
        help="a place that all nodes see, a path or a URI such as s3://BUCKET/DIR, for what "
        "unfinished trainings go on from (default: the run folder, which other nodes reach "
        "through this one)",
    )
    parser.add_argument(
        "--patience",
        type=float,
        metavar="MINUTES",
        help="a worker that is silent for longer, and for ten times the longest epoch so far, is "
        "taken for hung and replaced (default: 10)",
    )
    parser.add_argument(
        "--max-hours", type=float, metavar="H", help="stop after H hours; resume goes on"
    )
    parser.add_argument(
        "--device-hours",
        type=float,
        metavar="H",
        help="stop when all trainings of all sessions together took H GPU-hours, or hours of "
        "workers where there is no GPU",
    )
    parser.add_argument(
        "--cache",
        metavar="DIR",
        help="where original images are packed to on first use (default: the user's cache folder)",
    )
    parser.add_argument(
        "--tensorboard",
        action="store_const",
        const=True,
        help="also write curves and hyperparameters to RUN/tensorboard",
    )
    parser.add_argument(
        "--wandb", metavar="PROJECT", help="also log to Weights & Biases; needs the package wandb"
    )
    parser.add_argument(
        "--mlflow",
        metavar="URI",
        help="also log to MLflow, at a server or a file: URI; needs the package mlflow",
    )


def training(arguments: argparse.Namespace, *words: str) -> dict[str, Any]:
    """The settings that `add_training` and `add_effort` ask for; `words` name a run that has no
    name.
    """
    source = check_data(arguments.data)
    resolution, batch_size = FIDELITIES["bands" if source == BUILT_IN else "images"]
    recipe = {"batch_size": batch_size, **recipe_said(arguments), "num_epochs": arguments.epochs}
    name = arguments.name
    return {
        "name": run_name(*words, Path(source).stem) if name is None else name,
        "data": source,
        "resolution": arguments.resolution or packed_resolution(source) or resolution,
        "recipe": Recipe(**recipe),
        "seed": arguments.seed,
        "stream": arguments.stream,
        **watching(arguments),
        **effort(arguments),
    }


def check_data(source: str) -> str:
    """What `--data` says, as settings have it. Raises DataError for a path that is not there."""
    if source == BUILT_IN or is_named(source):
        return source
    if not os.path.exists(os.path.expanduser(source)):
        raise DataError(f"--data {source}: no such data")
    return absolute(source)


def recipe_said(arguments: argparse.Namespace) -> dict[str, Any]:
    """What was said of the flags of `add_recipe`."""
    said = {setting.name: getattr(arguments, setting.name, None) for setting in fields(Recipe)}
    return {name: value for name, value in said.items() if value is not None}


def effort(arguments: argparse.Namespace) -> dict[str, Any]:
    """What was said of the flags of `add_effort`."""
    how = ("workers", "gpus_per_trial", "address", "checkpoints", "patience")
    names = (*how, "max_hours", "device_hours", "cache", *TRACKERS)
    given = {name: getattr(arguments, name) for name in names}
    for name in ("cache", "checkpoints"):
        if given[name] is not None and "://" not in given[name]:
            given[name] = absolute(given[name])
    return {name: value for name, value in given.items() if value is not None}


def add_storage(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--storage",
        type=storage,
        metavar="URL",
        help="where the study is kept: postgresql://USER@HOST/DB, or another database that Optuna "
        "knows, or the path of a journal file (default: SQLite in the run folder)",
    )


def storage(text: str) -> str:
    """A URL of a study; that of a file has its whole path."""
    if not text:
        raise argparse.ArgumentTypeError("nothing given; write a URL or the path of a journal file")
    kind, found, path = text.partition("://")
    if not found:
        return JOURNAL + absolute(text)
    if kind + found == JOURNAL:
        if not path.startswith("/"):
            raise argparse.ArgumentTypeError(f"{text!r} has no whole path; write journal:///PATH")
        return text
    # With a driver or without: sqlite+pysqlite.
    return f"{kind}:///{absolute(path[1:])}" if kind.split("+")[0] == "sqlite" else text


def run_name(*words: str) -> str:
    """The name of a run that was given none: the same line finds its run again."""
    text = re.sub(r"[^A-Za-z0-9_.-]+", "-", "-".join(words)).lstrip("-_.")
    return text[:LONGEST_NAME]


def absolute(path: str) -> str:
    return os.path.abspath(os.path.expanduser(path))


def size(text: str) -> int:
    try:
        return parse_size(text)
    except ValueError:
        raise argparse.ArgumentTypeError(
            f"{text!r} is not a size; write 300M, 1.2G or 300000000"
        ) from None


def natural(text: str) -> int:
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number of 0 or more")
    return int(text)


def whole(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number of 1 or more")
    return int(text)
