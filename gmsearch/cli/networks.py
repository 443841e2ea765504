"""The verbs of single networks: train, compare, profile. What they need of torch is imported when
they run.
"""

import argparse
import json
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gmsearch.cli.flags import (
    Parser,
    absolute,
    add_effort,
    add_training,
    add_watching,
    size,
    training,
    whole,
)
from gmsearch.cli.searching import start_run
from gmsearch.errors import SettingsError, WeightsError
from gmsearch.experiment import Comparison, make_settings
from gmsearch.files import file_digest
from gmsearch.gmnet import ABLATIONS, gmnet_within, least_macs, with_changes
from gmsearch.run import RunFolder
from gmsearch.space import format_size, format_size_up

if TYPE_CHECKING:
    from gmsearch.network import Network

WHAT = (
    "gmnet_s1 … gmnet_s4, gmnet@300M (scaled to a budget), either with changes such as "
    "gmnet@300M+activation=gelu, a classifier of timm, an architecture's JSON file, or RUN:ID"
)
PRESETS = ("ablation",)
ABLATION_BUDGET = 150_000_000


def add_verbs(verbs: "argparse._SubParsersAction[Parser]") -> None:
    _add_train(verbs)
    _add_compare(verbs)
    _add_profile(verbs)


def _add_train(verbs: "argparse._SubParsersAction[Parser]") -> None:
    parser = verbs.add_parser(
        "train",
        help="train one network, ours or of timm, as a search trains its candidates",
        description="Trains one network with the loop, recipe, data and seed of a search's "
        f"candidate. WHAT is {WHAT}.",
        epilog="example: gmsearch train mobilenetv3_large_100 --data ~/imagenet-subset",
    )
    parser.add_argument("what", metavar="WHAT", help="the network, see above")
    add_training(parser)
    parser.add_argument(
        "--weights", metavar="FILE", help="to start from: .safetensors or a torch checkpoint"
    )
    add_watching(parser)
    add_effort(parser)
    parser.set_defaults(run=_train)


def _add_compare(verbs: "argparse._SubParsersAction[Parser]") -> None:
    parser = verbs.add_parser(
        "compare",
        help="train several networks alike and print one table",
        description="Trains networks with the same loop, recipe, data and seeds, and prints top1, "
        f"costs, latency and speed of training side by side. WHAT is {WHAT}.",
        epilog="example: gmsearch compare gmnet@300M gmnet@300M+placement=none "
        "mobilenetv3_large_100 --seeds 3",
    )
    parser.add_argument(
        "what", nargs="*", metavar="WHAT", help="networks, see above; all before the flags"
    )
    parser.add_argument(
        "--preset",
        choices=PRESETS,
        help="ablation: the eight of the GmNet paper, beside the published top1",
    )
    parser.add_argument(
        "--budget",
        type=size,
        metavar="MACS",
        help="most MACs of GmNet-S3 scaled down for the preset, at 224 px; its forms with "
        "layers of their own have more (default: 150M)",
    )
    add_training(parser)
    parser.add_argument(
        "--seeds", type=whole, default=1, metavar="N", help="trainings of each (default: 1)"
    )
    add_watching(parser)
    add_effort(parser)
    parser.set_defaults(run=_compare)


def _add_profile(verbs: "argparse._SubParsersAction[Parser]") -> None:
    parser = verbs.add_parser(
        "profile",
        help="what a network costs, layer by layer, and how fast it is here",
        description="MACs, params and memory of every layer, fvcore's and published figures "
        f"beside the totals, and latency on this machine. WHAT is {WHAT}.",
        epilog="example: gmsearch profile gmnet_s3",
    )
    parser.add_argument("what", metavar="WHAT", help="the network, see above")
    parser.add_argument(
        "--resolution", type=whole, default=224, metavar="PX", help="of the images (default: 224)"
    )
    parser.add_argument(
        "--classes", type=whole, default=1000, metavar="N", help="of the head (default: 1000)"
    )
    parser.add_argument(
        "--batch-size",
        type=whole,
        default=8,
        metavar="N",
        help="timed beside single images (default: 8)",
    )
    parser.add_argument(
        "--threads", type=whole, metavar="N", help="of the CPU, when timed (default: 1)", default=1
    )
    parser.add_argument("--json", action="store_true", help="plain numbers, for a program to read")
    parser.set_defaults(run=_profile)


def _train(arguments: argparse.Namespace) -> int:
    networks = _resolved([arguments.what])
    weights: dict[str, Any] = {}
    if arguments.weights is not None:
        path = absolute(arguments.weights)
        if not os.path.isfile(path):
            raise WeightsError(f"{arguments.weights}: no such file of weights, or not a file")
        weights = {"weights": path, "weights_digest": file_digest(Path(path))}
    return _start(arguments, networks, "train", **weights)


def _compare(arguments: argparse.Namespace) -> int:
    networks: dict[str, Network] = {}
    published = {}
    if arguments.preset == "ablation":
        budget = arguments.budget or ABLATION_BUDGET
        base = gmnet_within(budget, variant="gmnet_s3")
        if base is None:
            raise SettingsError(
                f"--budget {format_size(budget)}: too small for GmNet-S3; give "
                f"{format_size_up(least_macs('gmnet_s3'))} or more"
            )
        networks = {each.name: with_changes(base, **each.changes) for each in ABLATIONS}
        published = {each.name: each.top1 for each in ABLATIONS}
    elif arguments.budget:
        raise SettingsError("--budget is that of --preset; write gmnet@300M for a budget of one")
    elif not arguments.what:
        raise SettingsError("nothing to compare; name networks, or give --preset ablation")
    networks |= _resolved(arguments.what)
    word = arguments.preset or "compare"
    return _start(arguments, networks, word, seeds=arguments.seeds, published=published)


def _resolved(names: list[str]) -> dict[str, "Network"]:
    from gmsearch.what import resolve

    return {name: resolve(name) for name in names}


def _start(
    arguments: argparse.Namespace, networks: dict[str, "Network"], word: str, **settings: Any
) -> int:
    what = arguments.what if isinstance(arguments.what, list) else [arguments.what]
    names = [Path(name).name for name in what]
    comparison = make_settings(
        Comparison,
        {
            **training(arguments, word, *names),
            "networks": {name: network.to_dict() for name, network in networks.items()},
            **settings,
        },
    )
    return start_run(comparison, RunFolder(arguments.runs_dir / comparison.name))


def _profile(arguments: argparse.Namespace) -> int:
    from gmsearch.console import make_console
    from gmsearch.profile import profile, to_dict, to_tables
    from gmsearch.what import resolve

    cores = len(os.sched_getaffinity(0))
    if arguments.threads > cores:
        raise SettingsError(f"--threads {arguments.threads}: this machine has {cores} cores")
    result = profile(
        resolve(arguments.what),
        name=arguments.what,
        resolution=arguments.resolution,
        num_classes=arguments.classes,
        batch_size=arguments.batch_size,
        threads=arguments.threads,
    )
    if arguments.json:
        print(json.dumps(to_dict(result), indent=2))
    else:
        make_console().print(to_tables(result), soft_wrap=True)
    return 0
