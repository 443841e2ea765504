"""A report on disk.

RUN/report.html   the page
RUN/report/       the same in parts: a CSV file for each table, a PNG file for each picture
"""

import re
from collections.abc import Iterable, Sequence
from pathlib import Path

from gmsearch.errors import SettingsError
from gmsearch.files import write_atomically
from gmsearch.finalists import trained_in_full
from gmsearch.history import History
from gmsearch.report.page import page_of
from gmsearch.report.pictures import draw_all, figures_of
from gmsearch.report.tables import tables_of

PICTURES = ("front", "curves", "hypervolume", "effects")  # beside those that the page has as SVG
LIST = "files.txt"  # in the folder of the parts: what reports have written there
HEAD = "# written by gmsearch report"


def write_report(history: History, others: Sequence[History] = (), *, out: Path) -> list[Path]:
    """Writes the page to `out`, and tables and pictures beside it in the place of those of an
    earlier report; returns all files. Raises SettingsError where something else is in their place,
    and where they cannot be written.
    """
    parts = _free(out)
    finalists = trained_in_full(history.folder)
    tables = tables_of(history, finalists, others)
    figures = figures_of(history, tables)
    page = page_of(history, tables, finalists, others, figures)
    files = [out]
    try:
        parts.mkdir(exist_ok=True)
        former = _written(parts) - {parts / LIST}
        planned = {f"{name}.csv" for name in tables.named()}
        planned |= {f"{name}.png" for name in (*PICTURES, *figures)}
        _list(parts, planned | {file.name for file in former})
        for name, table in tables.named().items():
            files.append(parts / f"{name}.csv")
            write_atomically(files[-1], table.to_csv(index=False))
        files += draw_all(history, tables, figures, parts)
        write_atomically(out, page)
        for file in former - set(files):  # last: a full disk leaves a whole report
            file.unlink()
        _list(parts, {file.name for file in files[1:]})
    except OSError as error:  # such as a run on a disk that is read-only
        raise SettingsError(
            f"--out {out}: cannot be written: {error.strerror}; give another place"
        ) from None
    return files


def _free(out: Path) -> Path:
    """The folder for the parts of a page. Raises SettingsError where it has anything that no report
    wrote.
    """
    if out.suffix != ".html" or out.is_dir():
        raise SettingsError(f"--out {out}: give a file such as report.html")
    parts = out.with_suffix("")
    if parts.exists() and not (parts.is_dir() and set(parts.iterdir()) <= _written(parts)):
        raise SettingsError(
            f"--out {out}: its pictures and tables go to {parts}, which has something else; "
            "give another name"
        )
    return parts


def _list(parts: Path, names: Iterable[str]) -> None:
    write_atomically(parts / LIST, "\n".join([HEAD, *sorted(names), ""]))


def _written(parts: Path) -> set[Path]:
    """What a folder has of a report, by its list; also files that a kill cut off."""
    try:
        head, *names = (parts / LIST).read_text(encoding="utf-8").splitlines() or [""]
    except (OSError, UnicodeDecodeError):
        return set()
    if head != HEAD:
        return set()
    names.append(LIST)
    return {
        file
        for file in parts.iterdir()
        if file.is_file()
        and (file.name in names or re.sub(r"^\.(.+)\.[0-9a-f]{8}$", r"\1", file.name) in names)
    }
