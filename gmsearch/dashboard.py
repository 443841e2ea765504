"""The Optuna dashboard over a run: `gmsearch dashboard`.

It only reads, since the study is written by its search alone. Notes and figures are laid over what
the dashboard answers, and stored nowhere: so they are as new as the trials, runs from before notes
have them too, and a search spends nothing on them. (Stored notes would cost more the more there
are: optuna-dashboard reads all of them to write one.)
"""

import errno
import json
import logging
import os
import threading
import time
from collections.abc import Callable
from pathlib import Path
from socketserver import ThreadingMixIn
from typing import Any
from wsgiref import simple_server

import optuna_dashboard
from bottle import Bottle, HTTPResponse

from gmsearch.errors import SettingsError
from gmsearch.history import History, HistoryReader
from gmsearch.notes import FOREIGN, run_note, trial_note
from gmsearch.plots import front_figure, hypervolume_figure
from gmsearch.record import TrialRecord
from gmsearch.study import READ_ERRORS, first_line, open_storage

HOST = "127.0.0.1"  # a dashboard has no login
DETAIL = "/api/studies/<study_id:int>"  # the route of optuna-dashboard that tells of a study
IN_NOTES = {"architecture", "curve"}  # attributes too long for a line, which the notes tell better
FRESH = 2.0  # seconds for which a history is told again without a look

Detail = dict[str, Any]


def open_dashboard(folder: Path | None, storage: str | None, port: int | None) -> "Server":
    """A server for the study of a run, or for all studies of a storage where there is no run; it
    listens and does not serve yet. Without `port` at a free one.

    Raises SettingsError for what is no run, has no study yet, or cannot be read, and for a port
    that is in use.
    """
    if folder is None and storage is None:
        raise SettingsError("give a run folder, such as runs/NAME, or --storage URL")
    reader = None if folder is None else HistoryReader(folder, storage)
    if reader is not None:
        reader.read()  # what is wrong is told at once
        place = f"/dashboard/studies/{reader.study.study_id}"
        store = reader.study.storage
    else:
        assert storage is not None
        store, place = _checked(storage), "/dashboard"
    app = optuna_dashboard.wsgi(store)
    assert isinstance(app, Bottle)
    app.install(Overlay(reader))
    _quieten()
    try:
        return Server(app, port or 0, place)
    except OSError as error:
        reason = "in use" if error.errno == errno.EADDRINUSE else os.strerror(error.errno or 0)
        raise SettingsError(
            f"--port {port}: {reason}; give another, or none for a free one"
        ) from None


def _checked(storage: str) -> Any:
    """A storage that has a study."""
    store = open_storage(storage)
    try:
        studies = store.get_all_studies()
    except READ_ERRORS as error:
        raise SettingsError(f"--storage: cannot be read: {first_line(error)}") from None
    if not studies:
        raise SettingsError(f"--storage {storage}: no study in it; give another")
    return store


class Overlay:
    """A plugin of bottle: refuses what would write, and lays notes and figures over a study."""

    name, api = "gmsearch", 2

    def __init__(self, reader: HistoryReader | None) -> None:
        self._reader = reader
        self._lock = threading.Lock()
        self._history: History | None = None
        self._read_at = 0.0
        self._notes: dict[int, str] = {}  # of trials that have ended
        self._figures: tuple[Any, list[dict[str, str]]] = (None, [])

    def apply(self, callback: Callable[..., Any], route: Any) -> Callable[..., Any]:
        """What answers a route of the dashboard instead of `callback`."""
        if route.method not in ("GET", "HEAD"):
            return _refuse
        if self._reader is None or route.rule != DETAIL:
            return callback
        wanted = self._reader.study.study_id

        def answer(study_id: int) -> Any:
            detail = callback(study_id=study_id)
            if study_id == wanted and isinstance(detail, dict) and "trials" in detail:
                with self._lock:
                    self._lay_over(detail)
            return detail

        return answer

    def _lay_over(self, detail: Detail) -> None:
        try:
            history = self._current()
        except SettingsError as error:  # such as a run that was moved away meanwhile
            detail["note"] = _note(str(error))
            return
        records = {record.number: record for record in history.records}
        for trial in (*detail["trials"], *detail["best_trials"]):
            record = records.get(trial["number"])
            if record is not None:
                trial["note"] = _note(self._note_of(record, history))
                within = [record.macs / history.experiment.budget - 1]
                trial["constraints"] = trial["constraints"] or within
            elif not trial["note"]["body"]:
                trial["note"] = _note(FOREIGN)
            trial["user_attrs"] = _short(trial["user_attrs"])
        detail["union_user_attrs"] = _short(detail["union_user_attrs"])
        detail["best_trials"] = [
            trial for trial in detail["best_trials"] if all(c <= 0 for c in trial["constraints"])
        ]
        detail["note"] = _note(run_note(history.experiment, history.records, history.num_foreign))
        detail["plotly_graph_objects"] += self._drawn(history)

    def _current(self) -> History:
        assert self._reader is not None
        now = time.monotonic()
        if self._history is None or now - self._read_at > FRESH:
            self._history, self._read_at = self._reader.read(), now
        return self._history

    def _note_of(self, record: TrialRecord, history: History) -> str:
        if record.number in self._notes:
            return self._notes[record.number]
        folder, experiment = history.folder.path, history.experiment
        text = trial_note(record, folder, experiment, history.num_minival)
        if record.state != "running":
            self._notes[record.number] = text
        return text

    def _drawn(self, history: History) -> list[dict[str, str]]:
        """The figures, drawn again only where a trial went on."""
        stage = [(record.state, record.epochs) for record in history.records]
        if self._figures[0] != stage:
            figures = {"front": front_figure(history), "hypervolume": hypervolume_figure(history)}
            drawn = [{"id": id_, "graph_object": f.to_json()} for id_, f in figures.items()]
            self._figures = (stage, drawn)
        return self._figures[1]


def _short(attributes: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [each for each in attributes if each["key"] not in IN_NOTES]


def _note(body: str) -> dict[str, Any]:
    return {"version": 1, "body": body}


def _refuse(**_: Any) -> HTTPResponse:
    reason = "gmsearch dashboard only reads: the study is written by its search alone"
    return HTTPResponse(
        json.dumps({"reason": reason}), 403, headers={"Content-Type": "application/json"}
    )


class _QuietHandler(simple_server.WSGIRequestHandler):
    def log_message(self, format: str, *args: Any) -> None:
        """Nothing: no line for each request."""

    def get_stderr(self) -> Any:
        return _Nowhere()


class _Nowhere:
    """A stream for tracebacks of requests; the page says that its answer failed."""

    def write(self, text: str) -> int:
        return len(text)

    def flush(self) -> None:
        pass


class Server(ThreadingMixIn, simple_server.WSGIServer):
    """Answers on the loopback address only. `serve` returns after Ctrl-C."""

    daemon_threads = True  # a slow answer does not hold up the end
    multithread = True

    def __init__(self, app: Bottle, port: int, place: str) -> None:
        super().__init__((HOST, port), _QuietHandler)
        self.set_app(app)
        self.address = f"http://{HOST}:{self.server_port}{place}"

    def serve(self) -> None:
        try:
            self.serve_forever()
        except KeyboardInterrupt:
            pass

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Nothing: a browser that went away."""


class _OneLine(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        return f"gmsearch: the dashboard: {record.getMessage().splitlines()[0]}"


def _quieten() -> None:
    """What the dashboard stumbles over is one line."""
    logger = logging.getLogger("optuna_dashboard")
    if not logger.handlers:
        handler = logging.StreamHandler()
        handler.setFormatter(_OneLine())
        handler.setLevel(logging.ERROR)
        logger.addHandler(handler)
        logger.propagate = False
