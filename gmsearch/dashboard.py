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
import sys
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
from gmsearch.experiment import without_password
from gmsearch.history import History, HistoryReader
from gmsearch.notes import BEGINNING, FOREIGN, run_note, taken_up_note, trial_note
from gmsearch.plots import front_figure, hypervolume_figure
from gmsearch.record import TrialRecord
from gmsearch.storage import READ_ERRORS, first_line, open_storage, with_cache

HOST = "127.0.0.1"  # a dashboard has no login
NAMES = (HOST, "localhost", "[::1]")  # that a browser on this machine has for it
HTTP_PORT = 80
DETAIL = "/api/studies/<study_id:int>"  # the route of optuna-dashboard that tells of a study
IN_NOTES = {"architecture", "curve"}  # attributes too long for a line, which the notes tell better
# What the overlay needs of that route's answer, and of each trial in it.
IN_ANSWER = ("trials", "best_trials", "union_user_attrs", "plotly_graph_objects", "note")
IN_TRIAL = ("number", "state", "note", "constraints", "user_attrs")
UNDER_WAY = ("Running", "Waiting")  # the dashboard's states of trials that have not ended
FRESH = 2.0  # seconds for which a history is told again without a look, where no trial moved

TESTED = "optuna-dashboard 0.21"
WITHOUT = "it is shown without notes and figures"

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
    app = optuna_dashboard.wsgi(with_cache(store))
    if not isinstance(app, Bottle):  # it could not be kept from writing
        raise SettingsError(f"{_version()} is built in another way; install {TESTED}")
    if reader is not None and not any(
        route.rule == DETAIL and route.method == "GET" for route in app.routes
    ):
        _tell(f"{_version()} has no {DETAIL}; {WITHOUT}")
    app.install(Overlay(reader))
    _quieten()
    try:
        return Server(app, port or 0, place)
    except OSError as error:
        reason = "in use" if error.errno == errno.EADDRINUSE else os.strerror(error.errno or 0)
        raise SettingsError(
            f"--port {port}: {reason}; give another, or none for a free one"
        ) from None


def _version() -> str:
    return f"optuna-dashboard {optuna_dashboard.__version__}"


def _tell(words: str) -> None:
    """A line for who started the dashboard."""
    print(f"gmsearch: the dashboard: {words}", file=sys.stderr, flush=True)


def _checked(storage: str) -> Any:
    """A storage that has a study."""
    store = open_storage(storage)
    try:
        studies = store.get_all_studies()
    except READ_ERRORS as error:
        raise SettingsError(f"--storage: cannot be read: {first_line(error)}") from None
    if not studies:
        said = without_password(storage)
        raise SettingsError(f"--storage {said}: no study in it; give another")
    return store


class Overlay:
    """A plugin of bottle: refuses what would write, and lays notes and figures over a study. Where
    that fails, the page is as Optuna has it, and a line on standard error says why.
    """

    name, api = "gmsearch", 2

    def __init__(self, reader: HistoryReader | None) -> None:
        self._reader = reader
        self._lock = threading.Lock()
        self._history: History | None = None
        self._read_at = 0.0
        self._states: dict[int, str] = {}  # of the trials, as the dashboard told them at that
        self._told: set[str] = set()
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
            if study_id != wanted or not isinstance(detail, dict) or "reason" in detail:
                return detail
            try:
                _check(detail)
                with self._lock:
                    self._lay_over(detail)
            except Exception as error:  # a page without what is ours is better than none
                self._tell_once(error)
                return callback(study_id=study_id)  # `detail` may be half laid over
            return detail

        return answer

    def _tell_once(self, error: Exception) -> None:
        words = str(error) if isinstance(error, _Unfit) else f"{type(error).__name__}: {error}"
        line = " ".join(words.split()) + f"; {WITHOUT}"
        if line not in self._told:  # the page asks again every few seconds
            self._told.add(line)
            _tell(line)

    def _lay_over(self, detail: Detail) -> None:
        try:
            history = self._current(detail["trials"])
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
            elif (again := history.taken_up_as(trial["number"])) is not None:
                trial["note"] = _note(taken_up_note(*again))
            elif not trial["note"]["body"]:
                trial["note"] = _note(BEGINNING if trial["state"] in UNDER_WAY else FOREIGN)
            trial["user_attrs"] = _short(trial["user_attrs"])
        detail["union_user_attrs"] = _short(detail["union_user_attrs"])
        detail["best_trials"] = [
            trial for trial in detail["best_trials"] if all(c <= 0 for c in trial["constraints"])
        ]
        detail["note"] = _note(run_note(history.experiment, history.records, history.num_foreign))
        detail["plotly_graph_objects"] += self._drawn(history)

    def _current(self, trials: list[dict[str, Any]]) -> History:
        """The history, which knows at least as much as the dashboard of its trials."""
        assert self._reader is not None
        now, states = time.monotonic(), {trial["number"]: trial["state"] for trial in trials}
        moved = not states.items() <= self._states.items()
        if self._history is None or moved or now - self._read_at > FRESH:
            self._history, self._read_at = self._reader.read(), now
            self._states |= states
        return self._history

    def _note_of(self, record: TrialRecord, history: History) -> str:
        if record.number in self._notes:
            return self._notes[record.number]
        folder, experiment = history.folder.path, history.experiment
        text = trial_note(record, folder, experiment, history.data)
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


class _Unfit(Exception):
    """The dashboard answers otherwise than the overlay knows."""


def _check(detail: Detail) -> None:
    """Raises _Unfit where something is missing that the overlay needs."""
    missing = [name for name in IN_ANSWER if name not in detail]
    for trial in detail.get("trials", ())[:1]:
        missing += [f"trials.{name}" for name in IN_TRIAL if name not in trial]
    if missing:
        raise _Unfit(f"{_version()} tells nothing of {', '.join(missing)}; {TESTED} does")


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
        self._dashboard = app
        self._hosts = {f"{name}:{self.server_port}" for name in NAMES}
        if self.server_port == HTTP_PORT:  # which browsers leave away
            self._hosts |= set(NAMES)
        self.set_app(self._answer)
        self.address = f"http://{HOST}:{self.server_port}{place}"

    def _answer(self, environ: dict[str, Any], start_response: Callable[..., Any]) -> Any:
        """Answers what is addressed to this machine. A page from elsewhere can have its own name
        point here (DNS rebinding), and would read the study under that name.
        """
        if environ.get("HTTP_HOST", "").lower() not in self._hosts:
            start_response("403 Forbidden", [("Content-Type", "text/plain")])
            return [f"gmsearch dashboard: open {self.address}\n".encode()]
        return self._dashboard(environ, start_response)

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
