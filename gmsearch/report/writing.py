"""A report on disk.

RUN/report.html   the page
RUN/report/       the same in parts: a CSV file for each table, a PNG file for each picture
"""

import re
from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path

from gmsearch.errors import SettingsError
from gmsearch.files import write_atomically
from gmsearch.finalists import trained_in_full
from gmsearch.history import History
from gmsearch.report.page import page_of
from gmsearch.report.pictures import draw_all, figures_of
from gmsearch.report.tables import Tables, tables_of

TABLES = tuple(each.name for each in fields(Tables))
PICTURES = ("front", "objectives", "curves", "hypervolume", "effects", "bands", "band_effects")


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
        parts.mkdir(parents=True, exist_ok=True)
        for name, table in tables.named().items():
            files.append(parts / f"{name}.csv")
            write_atomically(files[-1], table.to_csv(index=False))
        files += draw_all(history, tables, figures, parts)
        write_atomically(out, page)
        for former in set(parts.iterdir()) - set(files):  # last: a full disk leaves a whole report
            former.unlink()
    except OSError as error:  # such as a run on a disk that is read-only
        raise SettingsError(
            f"--out {out}: cannot be written: {error.strerror}; give another place"
        ) from None
    return files


def _free(out: Path) -> Path:
    """The folder for the parts of a page. Raises SettingsError where it has anything that no report
    wrote.
    """
    parts = out.with_suffix("")
    if out.suffix != ".html" or out.is_dir():
        raise SettingsError(f"--out {out}: give a file such as report.html")
    if parts.exists() and not (parts.is_dir() and all(map(_is_part, parts.iterdir()))):
        raise SettingsError(
            f"--out {out}: its pictures and tables go to {parts}, which has something else; "
            "give another name"
        )
    return parts


def _is_part(file: Path) -> bool:
    """Whether a report may have written a file, by its name; one that was cut off has a dot before
    it.
    """
    name, _, ending = file.name.removeprefix(".").partition(".")
    kind, _, cut_off = ending.partition(".")
    known = TABLES if kind == "csv" else PICTURES if kind == "png" else ()
    is_drawing = kind == "png" and re.fullmatch("[0-9a-f]{10}", name)
    whole = not cut_off and not file.name.startswith(".")
    unfinished = file.name.startswith(".") and re.fullmatch("[0-9a-f]{8}", cut_off)
    return file.is_file() and bool((name in known or is_drawing) and (whole or unfinished))
