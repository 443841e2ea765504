"""Where the study of a run lies: SQLite in the run folder, another database by its URL, or a
journal file of Optuna's.

Passwords come with the URL or from where the database's own programs look for them, PGPASSWORD and
~/.pgpass of PostgreSQL; none is written down or printed.
"""

import json
import os
from collections import defaultdict
from collections.abc import Container
from pathlib import Path
from typing import Any, NamedTuple

from optuna.exceptions import OptunaError
from optuna.storages import BaseStorage, JournalStorage, RDBStorage, get_storage
from optuna.storages.journal import JournalFileBackend, JournalFileSymlinkLock
from optuna.trial import FrozenTrial, TrialState
from sqlalchemy import URL, column, event, make_url, select, table
from sqlalchemy.exc import ArgumentError, SQLAlchemyError

from gmsearch.errors import SettingsError
from gmsearch.experiment import JOURNAL, without_password
from gmsearch.run import RunFolder

STORAGE_ERRORS = (OptunaError, SQLAlchemyError)  # what a broken or locked study ends in
# Of another version, of a database without a driver, or no storage at all.
READ_ERRORS = (*STORAGE_ERRORS, RuntimeError, ImportError, ValueError, OSError)
PATIENCE = 10  # seconds for a database to answer
# Where Optuna keeps trials in a database, of its versions 3 to 5.
_TRIALS = table("trials", *map(column, ("trial_id", "study_id", "number", "state")))
_VALUES = table("trial_values", *map(column, ("trial_id", "objective", "value")))
_NOTES = table("trial_user_attributes", *map(column, ("trial_id", "key", "value_json")))


class ReadTrial(NamedTuple):
    """A trial without its parameters, which take most of the time to read a study, and which only
    its writer needs.
    """

    number: int
    state: TrialState
    user_attrs: dict[str, Any]
    params: dict[str, Any]  # none
    values: list[float] | None  # of one that ended


def read_trials(
    storage: BaseStorage, study_id: int, known: Container[int]
) -> list[ReadTrial] | list[FrozenTrial]:
    """The trials of a study, without those whose numbers are `known`, by number. Raises one of
    READ_ERRORS.
    """
    if not isinstance(storage, RDBStorage):
        trials = storage.get_all_trials(study_id, deepcopy=False)
        return [trial for trial in trials if trial.number not in known]
    of_study = _TRIALS.c.study_id == study_id
    with storage.engine.connect() as connection:
        every = connection.execute(
            select(_TRIALS.c.trial_id, _TRIALS.c.number, _TRIALS.c.state).where(of_study)
        )
        new = sorted((row for row in every if row.number not in known), key=lambda row: row.number)
        if not new:
            return []
        found = connection.execute(  # after the states: a trial that ended has all its attributes
            select(_NOTES)
            .join(_TRIALS, _TRIALS.c.trial_id == _NOTES.c.trial_id)
            .where(of_study, _NOTES.c.trial_id >= min(row.trial_id for row in new))
        )
        told = connection.execute(
            select(_VALUES)
            .join(_TRIALS, _TRIALS.c.trial_id == _VALUES.c.trial_id)
            .where(of_study, _VALUES.c.trial_id >= min(row.trial_id for row in new))
            .order_by(_VALUES.c.trial_id, _VALUES.c.objective)
        )
        values: dict[int, list[float]] = defaultdict(list)
        for trial_id, _, value in told:
            values[trial_id].append(value)
        texts: dict[int, dict[str, str]] = defaultdict(dict)
        for trial_id, key, text in found:
            texts[trial_id][key] = text
    return [
        ReadTrial(
            row.number,
            TrialState[row.state],
            {key: json.loads(text) for key, text in texts[row.trial_id].items()},
            {},
            # One may have ended between the two readings.
            values.get(row.trial_id) if TrialState[row.state].is_finished() else None,
        )
        for row in new
    ]


def with_cache(storage: BaseStorage) -> BaseStorage:
    """The same, which reads trials that have ended once."""
    return get_storage(storage)


def place_of(folder: RunFolder, storage: str | None) -> str:
    """Where a study lies, in words."""
    return str(folder.study_file) if storage is None else f"--storage {without_password(storage)}"


def open_to_write(folder: RunFolder, storage: str | None) -> BaseStorage:
    """The storage of a run, made where there is none. Raises SettingsError where it refuses."""
    try:
        if storage is None:
            return _own_file(folder)
        if storage.startswith(JOURNAL):
            file = Path(storage.removeprefix(JOURNAL))
            if file.exists() and file.stat().st_size:
                _check_journal(file)
                _mend(file)
            return JournalStorage(JournalFileBackend(str(file)))
        return RDBStorage(storage, engine_kwargs=_engine(storage))
    except (ArgumentError, ImportError, ValueError) as error:  # not what can be a storage
        said = f"{place_of(folder, storage)}: cannot be used: {first_line(error)}"
        raise SettingsError(f"{said}; give another --storage") from None
    except READ_ERRORS as error:
        raise unusable(place_of(folder, storage), error) from None


def open_to_read(folder: RunFolder, storage: str | None) -> BaseStorage:
    """The storage of a run, to read. Raises SettingsError."""
    if storage is not None:
        return open_storage(storage)
    if not folder.study_file.is_file():
        raise SettingsError(f"{folder.path} has no study.db yet; let it start its first trial")
    try:
        return RDBStorage(_url_to_read(folder), skip_table_creation=True)
    except READ_ERRORS as error:
        raise unreadable(str(folder.study_file), error) from None


def open_storage(storage: str) -> BaseStorage:
    """A storage to read, given by its URL or as a journal file of Optuna's. None is made.

    Raises SettingsError for what is none, or cannot be read.
    """
    said = f"--storage {without_password(storage)}"
    try:
        if storage.startswith(JOURNAL):
            storage = storage.removeprefix(JOURNAL)
            if not Path(storage).is_file():
                raise SettingsError(f"{said}: no such file; give one that a study was written to")
        if Path(storage).is_file():
            if not _is_sqlite(Path(storage)):
                return JournalStorage(JournalFileBackend(storage))
            storage = f"sqlite:///{storage}"
        url = make_url(storage)
        if url.get_backend_name() == "sqlite" and not Path(url.database or "").is_file():
            raise SettingsError(f"{said}: no such file; give one that a study was written to")
        return RDBStorage(storage, engine_kwargs=_engine(storage), skip_table_creation=True)
    except READ_ERRORS as error:
        raise SettingsError(
            f"{said}: cannot be read: {first_line(error)}; "
            "give a URL such as sqlite:///PATH/study.db, or a journal file"
        ) from None


def unusable(place: str, error: Exception) -> SettingsError:
    """A storage that is not there, that refuses, or that has what Optuna cannot read."""
    return SettingsError(
        f"{place}: cannot be used: {first_line(error)}; see that it is there and may be written, "
        "restore it from a copy, or give another --storage"
    )


def unreadable(place: str, error: Exception) -> SettingsError:
    """A storage that is to be read alone."""
    return SettingsError(f"{place}: cannot be read: {first_line(error)}; restore it from a copy")


def first_line(error: Exception) -> str:
    """What a storage stumbled over."""
    cause: BaseException = error
    while cause.__cause__ is not None:  # the libraries in between say less
        cause = cause.__cause__
    said = (str(cause).strip() or type(cause).__name__).splitlines()[0]
    return without_password(said)


def _engine(storage: str) -> dict[str, Any]:
    """A server may drop connections that are idle, and may not answer at all."""
    if make_url(storage).get_backend_name() == "postgresql":
        return {"pool_pre_ping": True, "connect_args": {"connect_timeout": PATIENCE}}
    return {"pool_pre_ping": True}


def _check_journal(file: Path) -> None:
    """Raises ValueError for a file that no journal of Optuna's is: its lines would be added to."""
    with file.open("rb") as opened:
        first = opened.readline()
    try:
        is_ours = "op_code" in json.loads(first)
    except (ValueError, TypeError):
        is_ours = not first.endswith(b"\n") and first.startswith(b'{"op_code"')  # cut off by a kill
    if not is_ours:
        raise ValueError("it is no journal of Optuna's")


def _mend(file: Path) -> None:
    """Cuts off the last line of a journal where a kill or a full disk left a part of it, to which
    Optuna would append the next.
    """
    others = JournalFileSymlinkLock(str(file))  # as Optuna locks it for every line
    others.acquire()
    try:
        with file.open("rb+") as opened:
            opened.truncate(opened.read().rfind(b"\n") + 1)
    finally:
        others.release()


def _is_sqlite(file: Path) -> bool:
    with file.open("rb") as opened:
        return opened.read(6) == b"SQLite"


def _url_of(folder: RunFolder) -> str:
    """Where the study of a run is; the path may hold a `?`."""
    return URL.create("sqlite", database=str(folder.study_file)).render_as_string()


def _url_to_read(folder: RunFolder) -> str:
    """The same for one who only reads. SQLite needs files beside a database with a write-ahead log,
    also to read it; where the folder takes none, such as on a disk that is read-only, it is told
    that nobody writes, unless a log is there already.
    """
    if os.access(folder.path, os.W_OK, effective_ids=True):
        return _url_of(folder)
    query = {"mode": "ro", "uri": "true"}
    log = folder.study_file.with_name(folder.study_file.name + "-wal")
    if not log.exists() or not log.stat().st_size:
        query["immutable"] = "1"
    database = folder.study_file.absolute().as_uri()
    return URL.create("sqlite", database=database, query=query).render_as_string()


def _own_file(folder: RunFolder) -> RDBStorage:
    """SQLite with a write-ahead log: a dashboard reads while the search writes, and a commit costs
    one sync less.

    What is committed survives a kill of the process; only a power cut may lose the last commits.
    """
    storage = RDBStorage(_url_of(folder))

    @event.listens_for(storage.engine, "connect")
    def set_pragmas(connection: Any, _record: Any) -> None:
        connection.execute("PRAGMA journal_mode=WAL")
        connection.execute("PRAGMA synchronous=NORMAL")

    storage.engine.dispose()  # connections from before the listener
    return storage
