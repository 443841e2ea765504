"""The command line: each verb parses its words and calls one function.

A mistake of the user ends in one line on standard error and exit code 2.
"""

import sys
from collections.abc import Sequence

from gmsearch import speedups, wall_time
from gmsearch.cli import (
    exporting,
    finals,
    frequency,
    judging,
    networks,
    packing,
    reporting,
    searching,
    spectral,
    tables,
    watching,
)
from gmsearch.cli.flags import Parser
from gmsearch.cli.searching import STOPPED
from gmsearch.errors import ExportError, TrainingError, UserError


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one command. Returns 0, 1 where all trials or an export failed, 2 after a mistake, 130
    after Ctrl-C.
    """
    if argv is None:  # the line that this process was started with
        wall_time.command_begins()
    try:
        arguments = _parser().parse_args(argv)
        speedups.check()
        return arguments.run(arguments)
    except UserError as error:
        print(f"gmsearch: {' '.join(str(error).split())}", file=sys.stderr)
        return 2
    except (TrainingError, ExportError) as error:
        print(f"gmsearch: {' '.join(str(error).split())}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("gmsearch: stopped", file=sys.stderr)
        return STOPPED
    except BrokenPipeError:  # the reader of our output, such as `head`, has seen enough
        sys.stderr.close()
        return 0
    except OSError as error:  # a disk that is full, a folder that may not be written
        print(f"gmsearch: {error}", file=sys.stderr)
        return 2


def _parser() -> Parser:
    parser = Parser(
        prog="gmsearch",
        description="Searches over gating designs of lightweight image classifiers.",
        epilog="example: gmsearch run --space search_spaces/gated.yaml --budget 300M",
    )
    verbs = parser.add_subparsers(metavar="COMMAND", required=True, parser_class=Parser)
    searching.add_verbs(verbs)
    judging.add_verbs(verbs)
    watching.add_verbs(verbs)
    reporting.add_verbs(verbs)
    networks.add_verbs(verbs)
    packing.add_verbs(verbs)
    finals.add_verbs(verbs)
    spectral.add_verbs(verbs)
    tables.add_verbs(verbs)
    exporting.add_verbs(verbs)
    frequency.add_verbs(verbs)
    return parser
