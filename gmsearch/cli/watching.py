"""The verb that shows a run in a browser: dashboard."""

import argparse
from pathlib import Path

from gmsearch.cli.flags import Parser

HIGHEST_PORT = 65535


def add_verbs(verbs: "argparse._SubParsersAction[Parser]") -> None:
    parser = verbs.add_parser(
        "dashboard",
        help="a run in the browser, also while it goes on",
        description="Serves the Optuna dashboard for a run on this machine only, with a note for "
        "each trial, the front beside published networks, and the hypervolume. It only reads, and "
        "runs until Ctrl-C.",
        epilog="example: gmsearch dashboard runs/gated-300M-bands",
    )
    parser.add_argument(
        "folder", type=Path, nargs="?", metavar="RUN", help="the run folder, such as runs/NAME"
    )
    parser.add_argument(
        "--storage",
        metavar="URL",
        help="where the study is, if not in RUN; without RUN, all studies in it, as Optuna shows "
        "them",
    )
    parser.add_argument("--port", type=_port, metavar="N", help="(default: a free one)")
    parser.set_defaults(run=_dashboard)


def _port(text: str) -> int:
    if not text.isdecimal() or not 1 <= int(text) <= HIGHEST_PORT:
        raise argparse.ArgumentTypeError(
            f"{text!r} is not a port from 1 to {HIGHEST_PORT}; leave it away for a free one"
        )
    return int(text)


def _dashboard(arguments: argparse.Namespace) -> int:
    from gmsearch.dashboard import open_dashboard  # brings Optuna and plotly

    with open_dashboard(arguments.folder, arguments.storage, arguments.port) as server:
        print(f"{server.address} (Ctrl-C ends it)", flush=True)
        server.serve()
    return 0
