"""The verb of full training: retrain."""

import argparse
import os
from pathlib import Path

from gmsearch.cli.flags import (
    Parser,
    absolute,
    add_recipe,
    add_watching,
    check_data,
    packed_resolution,
    recipe_said,
    watching,
    whole,
)
from gmsearch.errors import SettingsError
from gmsearch.experiment import FullTraining, make_settings, read_settings
from gmsearch.recipe import Recipe
from gmsearch.recipe_file import SHIPPED, read_recipe
from gmsearch.run import RunFolder


def add_verbs(verbs: "argparse._SubParsersAction[Parser]") -> None:
    parser = verbs.add_parser(
        "retrain",
        help="train the best networks of a run in full",
        description="Trains networks of a run with a full recipe on all official training images, "
        "and evaluates them on val. The same line again goes on where it stopped.",
        epilog="example: gmsearch retrain runs/gated-300M-bands --top 2 --with-baselines "
        "--recipe quick",
    )
    parser.add_argument("folder", type=Path, metavar="RUN", help="the run folder")
    parser.add_argument("--top", type=whole, metavar="K", help="the best K of its front")
    parser.add_argument(
        "--id", action="append", default=[], dest="ids", metavar="ID", help="a network of it"
    )
    parser.add_argument(
        "--with-baselines", action="store_true", help="GmNet and no gates at the same budget too"
    )
    parser.add_argument(
        "--data", metavar="SRC", help="images with the official splits (default: the run's)"
    )
    parser.add_argument(
        "--other-classes",
        action="store_true",
        help="the data need not have the classes that the search told apart",
    )
    parser.add_argument("--cache", metavar="DIR", help="where original images are packed to")
    parser.add_argument(
        "--resolution", type=whole, metavar="PX", help="(default: a pack's own, or the run's)"
    )
    parser.add_argument(
        "--recipe",
        default="paper",
        metavar="NAME|FILE",
        help=f"{', '.join(SHIPPED)}, or a YAML file; flags below change it (default: paper)",
    )
    parser.add_argument("--epochs", type=whole, metavar="E", help="(default: the recipe's)")
    parser.add_argument("--seed", type=int, default=0, metavar="S", help="(default: 0)")
    parser.add_argument(
        "--workers", type=whole, default=1, metavar="N", help="that share a batch (default: 1)"
    )
    parser.add_argument(
        "--accumulate",
        type=whole,
        default=1,
        metavar="N",
        help="parts of a batch that each worker takes in turn, to save memory (default: 1)",
    )
    parser.add_argument(
        "--sync-norms", action="store_true", help="norms see the whole batch (GPUs only)"
    )
    parser.add_argument(
        "--stream", action="store_true", help="decode the original images anew in every epoch"
    )
    parser.add_argument(
        "--teacher",
        metavar="WHAT",
        help="a classifier of timm with its published weights, or a folder RUN/retrained/ID, to "
        "learn from too (see --distillation)",
    )
    parser.add_argument("--compile", action="store_true", help="with torch.compile")
    parser.add_argument("--address", metavar="ADDR", help="of a Ray cluster")
    add_watching(parser, "val")
    add_recipe(parser)
    parser.set_defaults(run=_retrain)


def _retrain(arguments: argparse.Namespace) -> int:
    from gmsearch import finalists, full_training
    from gmsearch.console import make_console
    from gmsearch.session import load_official
    from gmsearch.teacher import load_teacher

    run = RunFolder(arguments.folder)
    if not run.experiment_file.exists():
        raise SettingsError(
            f"{run.path} is not a run, it has no experiment.yaml; give a folder like runs/NAME"
        )
    before = read_settings(run.experiment_file)
    source = before.data if arguments.data is None else check_data(arguments.data)
    recipe = {**read_recipe(arguments.recipe), **recipe_said(arguments)}
    if arguments.epochs:
        recipe["num_epochs"] = arguments.epochs
    settings = make_settings(
        FullTraining,
        {
            "data": source,
            "resolution": arguments.resolution or packed_resolution(source) or before.resolution,
            "recipe": Recipe(**recipe),
            "seed": arguments.seed,
            "workers": arguments.workers,
            "accumulate": arguments.accumulate,
            "synchronised": arguments.sync_norms,
            "compiled": arguments.compile,
            "stream": arguments.stream,
            "teacher": _teacher(arguments.teacher),
            **watching(arguments),
            "cache": before.cache if arguments.cache is None else absolute(arguments.cache),
        },
    )
    top = arguments.top or (None if arguments.ids else 1)
    chosen = finalists.choose(
        run, top=top, ids=arguments.ids, with_baselines=arguments.with_baselines
    )
    console = make_console()
    dataset = load_official(settings, console)
    settings = settings.model_copy(update={"data_digest": dataset.digest})
    if not arguments.other_classes:
        differ = full_training.compare_classes(run, dataset, source)
        if differ is not None:
            console.print(differ, soft_wrap=True)
    if settings.teacher is not None:
        load_teacher(settings.teacher, dataset.classes, settings.resolution)
    full_training.check(chosen, settings, dataset)
    with run.locked():
        full_training.retrain_finalists(chosen, settings, dataset, console, arguments.address)
    return 0


def _teacher(said: str | None) -> str | None:
    return absolute(said) if said is not None and os.path.exists(said) else said
