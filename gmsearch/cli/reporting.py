"""The verb of looking back: report."""

import argparse
from pathlib import Path

from gmsearch.cli.flags import Parser, check_file_place
from gmsearch.errors import SettingsError


def add_verbs(verbs: "argparse._SubParsersAction[Parser]") -> None:
    parser = verbs.add_parser(
        "report",
        help="what a run found, as a page with pictures and tables",
        description="Writes report.html, which needs no network, with its pictures (PNG) and "
        "tables (CSV) in a folder beside it. The run may go on meanwhile.",
        epilog="example: gmsearch report runs/gated-300M-bands",
    )
    parser.add_argument("folder", type=Path, metavar="RUN", help="the run folder")
    parser.add_argument(
        "--versus",
        type=Path,
        action="append",
        default=[],
        metavar="RUN",
        help="another run to lay its hypervolume beside, such as one with --sampler random",
    )
    parser.add_argument(
        "--out", type=Path, metavar="FILE", help="of the page (default: RUN/report.html)"
    )
    parser.add_argument(
        "--text", action="store_true", help="print the essentials, and write nothing"
    )
    parser.set_defaults(run=_report)


def _report(arguments: argparse.Namespace) -> int:
    from gmsearch.console import make_console
    from gmsearch.history import read_history, read_others

    if arguments.text and (arguments.versus or arguments.out):
        raise SettingsError("--text prints one run alone; leave --versus and --out away")
    history = read_history(arguments.folder)
    others = read_others(history, arguments.versus)
    console = make_console()
    if arguments.text:
        from gmsearch.report.text import print_essentials

        print_essentials(console, history)
        return 0

    from gmsearch.report.writing import write_report

    out = arguments.out or history.folder.path / "report.html"
    check_file_place("--out", out)
    files = write_report(history, others, out=out)
    size = out.stat().st_size / 1e6
    console.print(
        f"{out}: {size:.1f} MB; {len(files) - 1} pictures and tables in {out.with_suffix('')}",
        soft_wrap=True,
    )
    return 0
