"""The dashboard as a browser and its user meet it."""

import argparse
import contextlib
import json
import shlex
import shutil
import signal
import socket
import sqlite3
import subprocess
import sys
import threading
import urllib.error
import urllib.request
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import optuna
import optuna_dashboard
import pytest
from made_runs import BUDGET, curve, make_run, read_only

from gmsearch.cli import main
from gmsearch.cli.finals import add_verbs
from gmsearch.cli.flags import recipe_said
from gmsearch.dashboard import open_dashboard
from gmsearch.history import read_history
from gmsearch.notes import LONGEST_CURVE, lines_to_type, sparkline, trial_note
from gmsearch.recipe import Recipe
from gmsearch.recipe_file import read_recipe
from gmsearch.run import RunData

pytestmark = pytest.mark.filterwarnings("ignore::optuna.exceptions.ExperimentalWarning")
CHROMIUM = Path("/usr/bin/chromium")
CHROMIUM_FLAGS = (
    "--no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking "
    "--disable-component-update --disable-sync"
).split()
PATIENCE = 60  # seconds


@pytest.fixture
def run(tmp_path):
    """A folder with four trials that are complete, one that failed and one that runs."""
    folder, study = make_run(tmp_path / "r", [60.0, 50.0, 40.0, 45.0])
    failed, running = study.ask().number, study.ask().number
    study.report(failed, curve(3.0))
    study.tell_failed(failed, "the loss is `nan`")
    study.report(running, curve(5.0))
    return folder, study


@contextmanager
def served(folder, storage=None, port=None):
    with open_dashboard(folder, storage, port) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield server
        finally:
            server.shutdown()
            thread.join()


def get(
    server, path: str, method: str = "GET", body: bytes | None = None, **headers: str
) -> tuple[int, str]:
    url = f"http://127.0.0.1:{server.server_port}{path}"
    headers = {"Accept-Encoding": "", **headers}
    request = urllib.request.Request(url, body, headers, method=method)
    try:
        with urllib.request.urlopen(request, timeout=PATIENCE) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.read().decode()


def detail(server, study: int = 1) -> dict:
    status, text = get(server, f"/api/studies/{study}")
    assert status == 200, text
    return json.loads(text)


def contents(folder: Path) -> dict[str, list]:
    """All that the study's file holds."""
    with sqlite3.connect(folder / "study.db") as opened:
        names = opened.execute("SELECT name FROM sqlite_master WHERE type = 'table'").fetchall()
        tables = {name: opened.execute(f"SELECT * FROM {name}").fetchall() for (name,) in names}
    opened.close()
    return tables


def test_the_page_and_every_trial_with_its_note_and_constraint(run):
    folder, study = run
    trained, *_ = study.records.values()
    weights = folder.trial_folder(trained.id) / "checkpoint.pt"
    weights.parent.mkdir(parents=True)
    weights.touch()
    with served(folder.path) as server:
        status, page = get(server, "/dashboard/studies/1")
        told = detail(server)
    assert status == 200 and "Optuna Dashboard" in page
    assert server.address.endswith("/dashboard/studies/1")
    assert told["objective_names"] == ["top1", "macs"]
    assert [trial["state"] for trial in told["trials"]] == ["Complete"] * 4 + ["Fail", "Running"]
    for trial, record in zip(told["trials"], study.records.values(), strict=True):
        note = trial["note"]["body"]
        assert f"gmsearch retrain {folder.path} --id {record.id} --recipe quick\n" in note
        exported = f"gmsearch export {folder.path} --id {record.id}\n" in note
        assert exported == (record == trained)  # the others have no weights
        for stage in record.network.stages:
            assert stage.gate_in_words() in note
        assert trial["constraints"] == [record.macs / BUDGET - 1]
    assert "It failed because: `the loss is 'nan'`" in told["trials"][4]["note"]["body"]
    assert "**60.0 %** (55.6 to 64.2) on minival after 2 of 6" in told["trials"][0]["note"]["body"]
    assert "5 trials have ended, and 30 of 594 epochs, as many as 99 " in told["note"]["body"]
    assert {each["id"] for each in told["plotly_graph_objects"]} == {"front", "hypervolume"}


def test_the_constraint_is_in_the_study_itself_and_optuna_reads_it(run):
    folder, study = run
    stored = optuna.load_study(storage=f"sqlite:///{folder.study_file}", study_name="r")
    for trial in stored.trials:
        assert trial.constraints == {"0": study.records[trial.number].macs / BUDGET - 1}


def test_it_is_live(run, monkeypatch):
    monkeypatch.setattr("gmsearch.dashboard.FRESH", 0.0)
    monkeypatch.setattr("optuna_dashboard._storage.timedelta", lambda seconds: _no_time())
    folder, study = run
    with served(folder.path) as server:
        before = detail(server)
        study.report(5, curve(5.0, 66.6))
        study.tell(5)
        after = detail(server)
    assert before["trials"][5]["state"] == "Running" and after["trials"][5]["state"] == "Complete"
    assert "66.6" in after["trials"][5]["note"]["body"]
    drawn = [each["graph_object"] for each in after["plotly_graph_objects"]]
    assert all(study.records[5].id in text for text in drawn)


def _no_time():
    from datetime import timedelta

    return timedelta(0)


def test_nothing_is_written(run):
    folder, _ = run
    before = contents(folder.path)
    body = json.dumps({"version": 1, "body": "x", "study_name": "x", "directions": ["minimize"]})
    with served(folder.path) as server:
        detail(server)
        for method, path in (
            ("PUT", "/api/studies/1/note"),
            ("PUT", "/api/studies/1/1/note"),
            ("POST", "/api/trials/6/tell"),
            ("POST", "/api/studies"),
            ("POST", "/api/studies/1/rename"),
            ("DELETE", "/api/studies/1"),
        ):
            status, answer = get(server, path, method, body.encode())
            assert status == 403 and "only reads" in answer, path
    assert contents(folder.path) == before


def test_trials_over_the_budget_are_told_apart_and_not_the_best(run):
    folder, study = run
    other = optuna.load_study(storage=f"sqlite:///{folder.study_file}", study_name="r")
    over = {"system_attrs": {"constraints": [0.5]}}
    other.add_trial(optuna.create_trial(values=[99.0, 45_000_000.0], **over))
    with served(folder.path) as server:
        told = detail(server)
    assert told["trials"][6]["constraints"] == [0.5]
    assert "Another program wrote" in told["trials"][6]["note"]["body"]
    best = {trial["number"] for trial in told["best_trials"]}
    front = {record.number for record in read_history(folder.path).front}
    assert best == front and 6 not in best


@pytest.mark.parametrize("missing", ["macs", "architecture", "curve", "baseline"])
def test_a_trial_that_lacks_an_attribute_does_not_stop_the_others(run, missing):
    folder, _ = run
    with sqlite3.connect(folder.study_file) as opened:
        opened.execute(
            "DELETE FROM trial_user_attributes WHERE trial_id = 1 AND key = ?", (missing,)
        )
    opened.close()
    with served(folder.path) as server:
        told = detail(server)
    assert "Another program wrote" in told["trials"][0]["note"]["body"]
    assert "retrain" in told["trials"][1]["note"]["body"]


def test_a_stopped_trial_says_why_and_as_which_it_was_taken_up_again(run):
    folder, study = run

    def stop(number):
        study.report(number, curve(7.0, 8.0))
        study.records[number] = replace(study.records[number], reason="0.1 here, 0.2 elsewhere")
        return study.tell_stopped(number)

    job = study.ask()
    numbers = [job.number]
    for _ in range(2):
        numbers.append(study._take_up(stop(numbers[-1])).number)
    with served(folder.path) as server:
        notes = [detail(server)["trials"][number]["note"]["body"] for number in numbers]
    for note, later in zip(notes, numbers[1:], strict=False):
        assert f"{job.network.id}: stopped\n" in note
        assert f"Stopped here, and taken up again as trial {later}: " in note
        assert f"the note of trial {numbers[-1]} tells" in note
    assert f"{job.network.id}: running, or cut off\n" in notes[-1] and "because" not in notes[-1]
    stop(numbers[-1])
    with served(folder.path) as server:
        last = detail(server)["trials"][numbers[-1]]["note"]["body"]
    assert "It was stopped because: `0.1 here, 0.2 elsewhere`" in last and "failed" not in last


@pytest.mark.parametrize("num_images", [2, 100, 127, 128, 1_500, 2_047, 2_048, 10**6])
def test_the_line_to_retrain_has_a_batch_that_fits_the_images(num_images):
    data = RunData(num_images - 1, 1, ("a", "b"))
    (line,) = lines_to_type(Path("my runs/r"), "x", data)
    parser = argparse.ArgumentParser()
    add_verbs(parser.add_subparsers())
    said = parser.parse_args(shlex.split(line)[1:])
    recipe = Recipe(**{**read_recipe(said.recipe), **recipe_said(said)})
    assert recipe.batch_size <= num_images  # or `retrain` refuses it
    assert (said.recipe == "paper") == (num_images >= 2_048)
    assert said.folder == Path("my runs/r") and said.ids == ["x"]


def test_a_run_from_before_notes_has_them_too(run):
    folder, _ = run
    with sqlite3.connect(folder.study_file) as opened:
        opened.execute("DELETE FROM trial_system_attributes WHERE key = 'constraints'")
    opened.close()
    folder.data_file.unlink()
    with served(folder.path) as server:
        told = detail(server)
    assert all(trial["constraints"][0] <= 0 for trial in told["trials"])
    assert "**60.0 %** on minival" in told["trials"][0]["note"]["body"]


def test_a_run_on_a_disk_that_is_read_only_is_shown(run):
    folder, study = run
    with served(folder.path) as server:
        wanted = detail(server)
    with read_only(folder) as copy, served(copy) as server:
        told = detail(server)
    assert [trial["state"] for trial in told["trials"]] == [t["state"] for t in wanted["trials"]]
    assert "retrain" in told["trials"][0]["note"]["body"]


def test_an_empty_study_is_a_page(tmp_path):
    folder, _ = make_run(tmp_path / "r", [])
    with served(folder.path) as server:
        told = detail(server)
    assert told["trials"] == [] and "0 trials have ended, and 0 of 594 " in told["note"]["body"]


def test_a_study_elsewhere_and_all_studies_of_a_storage(run, tmp_path):
    folder, _ = run
    there = tmp_path / "elsewhere.db"
    with sqlite3.connect(folder.study_file) as one, sqlite3.connect(there) as two:
        one.backup(two)
    one.close(), two.close()
    url = f"sqlite:///{there}"
    optuna.create_study(storage=url, study_name="other").add_trial(optuna.create_trial(value=1.0))
    folder.study_file.unlink()
    with served(folder.path, url) as server:
        assert "retrain" in detail(server)["trials"][0]["note"]["body"]
        assert len(detail(server, 2)["trials"]) == 1
    for storage in (url, str(there)):
        with served(None, storage) as server:
            assert server.address.endswith("/dashboard")
            names = json.loads(get(server, "/api/studies")[1])["study_summaries"]
            assert [each["study_name"] for each in names] == ["r", "other"]
            assert detail(server)["trials"][0]["note"]["body"] == ""


def test_a_run_that_is_moved_away_meanwhile_is_told_in_the_page(run, monkeypatch):
    monkeypatch.setattr("gmsearch.dashboard.FRESH", 0.0)
    folder, _ = run
    with served(folder.path) as server:
        detail(server)
        folder.data_file.write_text("nonsense")
        told = detail(server)
    assert "not what a run wrote" in told["note"]["body"] and len(told["trials"]) == 6


def test_an_overlay_that_fails_leaves_the_page_and_one_line(run, monkeypatch, capfd):
    folder, _ = run
    with served(folder.path) as server:
        monkeypatch.setattr("gmsearch.dashboard.front_figure", lambda history: {}["a\nfigure"])
        told = detail(server)
        assert detail(server) == told
    assert len(told["trials"]) == 6 and told["plotly_graph_objects"] == []
    assert {trial["note"]["body"] for trial in told["trials"]} == {""}
    out, err = capfd.readouterr()
    assert (out, err.count("\n")) == ("", 1)
    assert "KeyError: 'a\\nfigure'; it is shown without notes and figures" in err


@pytest.mark.parametrize("key", ["best_trials", "plotly_graph_objects", "trials.constraints"])
def test_a_dashboard_of_a_version_that_tells_less_is_shown_as_it_is(run, key, monkeypatch, capfd):
    folder, _ = run
    outer, _, inner = key.partition(".")

    def of_another_version(*told):
        answer = serialize(*told)
        for trial in answer["trials"]:
            trial.pop(inner, None)
        return answer if inner else {name: answer[name] for name in answer if name != outer}

    serialize = optuna_dashboard._app.serialize_study_detail
    monkeypatch.setattr("optuna_dashboard._app.serialize_study_detail", of_another_version)
    with served(folder.path) as server:
        assert len(detail(server)["trials"]) == len(detail(server)["trials"]) == 6
    assert capfd.readouterr().err == (
        f"gmsearch: the dashboard: optuna-dashboard {optuna_dashboard.__version__} tells nothing "
        f"of {key}; optuna-dashboard 0.21 does; it is shown without notes and figures\n"
    )


def test_a_dashboard_without_our_route_is_said_once_and_shown(run, monkeypatch, capfd):
    folder, _ = run
    monkeypatch.setattr("gmsearch.dashboard.DETAIL", "/api/v2/studies/<study_id:int>")
    with served(folder.path) as server:
        assert detail(server)["trials"][0]["note"]["body"] == ""
        assert get(server, "/api/studies/1", "DELETE")[0] == 403
    err = capfd.readouterr().err
    assert err.count("\n") == 1 and "has no /api/v2/studies/<study_id:int>; it is shown" in err


def test_only_names_of_this_machine_are_answered(run):
    """A page elsewhere whose name points to this machine sends that name."""
    folder, _ = run
    with served(folder.path) as server:
        port = server.server_port
        for host in (
            f"127.0.0.1:{port}",
            f"localhost:{port}",
            f"LOCALHOST:{port}",
            f"[::1]:{port}",
        ):
            assert get(server, "/api/studies/1", Host=host)[0] == 200
        for host in ("", "127.0.0.1", f"evil.example:{port}", f"127.0.0.1.evil.example:{port}"):
            for path in ("/api/studies/1", "/dashboard"):
                status, text = get(server, path, Host=host)
                assert (status, text) == (403, f"gmsearch dashboard: open {server.address}\n")


def test_a_trial_that_came_and_went_within_a_moment_is_known(run, monkeypatch):
    """Whatever was read a moment ago is not told of a trial that is newer."""
    monkeypatch.setattr("gmsearch.dashboard.FRESH", 3600.0)
    monkeypatch.setattr("optuna_dashboard._storage.timedelta", lambda seconds: _no_time())
    folder, study = run
    with served(folder.path) as server:
        detail(server)
        number = study.ask().number
        study.report(number, curve(7.0))
        study.tell(number)
        note = detail(server)["trials"][number]["note"]["body"]
        assert study.records[number].id in note and "complete" in note
        study._study.ask()  # not described yet
        assert "about to begin" in detail(server)["trials"][number + 1]["note"]["body"]


@pytest.fixture(scope="module")
def wrong(tmp_path_factory) -> Path:
    """A run, what looks like one, and files that are no storage."""
    place = tmp_path_factory.mktemp("wrong")
    folder, _ = make_run(place / "r", [60.0])
    for name in ("begun", "broken", "named"):
        shutil.copytree(folder.path, place / name)
    (place / "begun" / "study.db").unlink()
    (place / "broken" / "study.db").write_text("not a database, but long enough to be read")
    settings = place / "named" / "experiment.yaml"
    settings.write_text(settings.read_text().replace("name: r\n", "name: named\n", 1))
    (place / "text").write_text("hello\n")
    sqlite3.connect(place / "empty.db").execute("CREATE TABLE x (y)").connection.close()
    optuna.storages.RDBStorage(f"sqlite:///{place}/hollow.db").engine.dispose()
    return place


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "give a run folder, such as runs/NAME, or --storage URL"),
        (["{tmp}"], "is not a run, it has no experiment.yaml"),
        (["{tmp}/begun"], "has no study.db yet; let it start its first trial"),
        (["{tmp}/broken"], "study.db: cannot be read: "),
        (["{tmp}/named"], "no study 'named' in it; it is another run's"),
        (["{run}", "--port", "70000"], "'70000' is not a port from 1 to 65535"),
        (["{run}", "--port", "x"], "'x' is not a port from 1 to 65535"),
        (["{run}", "--port", "0"], "'0' is not a port from 1 to 65535; leave it away for a free"),
        (["--storage", "sqlite:///{tmp}/no.db"], "no such file"),
        (["--storage", "nonsense"], "--storage nonsense: cannot be read: "),
        (["--storage", "{tmp}/text"], "no study in it"),
        (["--storage", "sqlite:///{tmp}/empty.db"], "no such table"),
        (["--storage", "sqlite:///{tmp}/hollow.db"], "no study in it"),
        (["{run}", "--storage", "sqlite:///{tmp}/hollow.db"], "no study 'r' in it"),
        (["--storage", "postgresql+pg8000://u:secret@127.0.0.1:1/x"], "cannot be read: "),
    ],
)
def test_a_mistake_is_one_line(wrong, capsys, words, message):
    filled = [word.format(tmp=wrong, run=wrong / "r") for word in words]
    assert main(["dashboard", *filled]) == 2
    out, err = capsys.readouterr()
    assert out == "" and err.count("\n") == 1 and message in err
    assert "secret" not in err and not (wrong / "no.db").exists()


def test_a_port_in_use_is_one_line_and_a_free_one_is_the_default(run, capsys):
    folder, _ = run
    with open_dashboard(folder.path, None, None) as one:
        with open_dashboard(folder.path, None, None) as two:
            assert one.server_port != two.server_port
        assert main(["dashboard", str(folder.path), "--port", str(one.server_port)]) == 2
    assert capsys.readouterr().err == (
        f"gmsearch: --port {one.server_port}: in use; give another, or none for a free one\n"
    )


def test_as_a_user_starts_and_stops_it(run):
    """The address is printed, only the loopback address listens, and Ctrl-C is a good end."""
    folder, _ = run
    process = subprocess.Popen(
        [sys.executable, "-m", "gmsearch", "dashboard", str(folder.path)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        # A shell's background jobs ignore Ctrl-C, and so would what they start.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )
    with process, killed_at_the_end(process):
        address = process.stdout.readline().split()[0]
        assert address.startswith("http://127.0.0.1:")
        with urllib.request.urlopen(address, timeout=PATIENCE) as page:
            assert page.status == 200
        port = int(address.split(":")[2].partition("/")[0])
        assert listening(port) == {"0100007F"}
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=PATIENCE)
    assert (process.returncode, out, err) == (0, "", "")


@contextlib.contextmanager
def killed_at_the_end(process):
    try:
        yield
    finally:
        process.kill()


def listening(port: int) -> set[str]:
    """Addresses, in /proc's hexadecimal, at which somebody listens on a port."""
    rows = []
    for table in ("tcp", "tcp6"):
        rows += map(str.split, Path(f"/proc/net/{table}").read_text().splitlines()[1:])
    pairs = [row[1].split(":") for row in rows if row[3] == "0A"]
    return {address for address, number in pairs if int(number, 16) == port}


def test_a_browser_that_goes_away_leaves_no_word(run, capfd):
    folder, _ = run
    with served(folder.path) as server:
        for _ in range(3):
            with socket.create_connection(("127.0.0.1", server.server_port)) as rude:
                host = f"127.0.0.1:{server.server_port}".encode()
                rude.sendall(b"GET /api/studies/1 HTTP/1.1\r\nHost: " + host + b"\r\n\r\n")
        detail(server)
    assert capfd.readouterr() == ("", "")


def test_a_sparkline_goes_from_the_least_to_the_largest():
    assert sparkline([0.0, 3.5, 7.0]) == "▁▅█" and sparkline([5.0, 5.0]) == "▁▁"
    long = sparkline([float(i) for i in range(300)])
    assert len(long) == 40 and list(long) == sorted(long)


def test_the_note_of_a_long_training_has_some_of_its_epochs(run):
    folder, study = run
    history = read_history(folder.path)
    study.report(5, curve(*(i / 4 for i in range(300))))
    note = trial_note(study.records[5], folder.path, history.experiment, history.data)
    (heads,) = (line for line in note.splitlines() if line.startswith("| epoch"))
    epochs = [int(cell) for cell in heads.split("|")[2:-1]]
    assert len(epochs) == LONGEST_CURVE and (epochs[0], epochs[-1]) == (1, 300)
    assert "| 74.8 |" in note


@pytest.fixture
def page():
    if not CHROMIUM.exists():
        pytest.skip(f"no Chromium at {CHROMIUM}")
    playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    with playwright.sync_playwright() as engine:
        browser = engine.chromium.launch(executable_path=str(CHROMIUM), args=CHROMIUM_FLAGS)
        yield browser.new_page(viewport={"width": 1400, "height": 1000})
        browser.close()


@pytest.mark.browser
def test_a_browser_shows_the_front_our_figures_and_a_note(run, page):
    """Counts what is drawn, so it fails where a plot is an empty frame."""
    folder, study = run
    with served(folder.path) as server:
        page.goto(server.address)
        page.wait_for_selector("#graph-pareto-front path.point", timeout=1000 * PATIENCE)
        assert page.locator("#graph-pareto-front path.point").count() == 4
        ours = page.locator('[id="user-defined-plot:front"]')
        ours.locator("path.point").first.wait_for(timeout=1000 * PATIENCE)
        words = ours.inner_text()
        assert "budget 30M" in words and "top1 on minival, %" in words
        lines = page.locator('[id="user-defined-plot:hypervolume"] path.js-line')
        assert lines.count() == 1
        page.goto(server.address + "/trials?numbers=2")
        page.wait_for_selector("table >> text=down-sampler", timeout=1000 * PATIENCE)
        assert f"gmsearch retrain {folder.path} --id {study.records[2].id}" in page.inner_text(
            "body"
        )
