"""The dashboards of a machine and the links to them and to reports; one test starts them all."""

import json
import os
import shutil
import signal
import socket
import sqlite3
import subprocess
import sys
import threading
import time
import urllib.request
import webbrowser
from contextlib import closing, contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import SimpleNamespace

import psutil
import pytest
from click.testing import CliRunner
from commands import run_command, write_study

from forcetune.cli import main
from forcetune.errors import InputError, StoppedError
from forcetune.local import children, dashboards, links, service, ui
from forcetune.local.dashboards import MLFLOW, OPTUNA, RAY, Link

FORCETUNE = [sys.executable, "-c", "from forcetune.cli import main; main()"]
ROOT = Path(__file__).parents[1]
SLEEP = [sys.executable, "-c", "import time; time.sleep(600)"]
SERVICE = SimpleNamespace(
    ray="http://127.0.0.1:8265",
    mlflow="http://127.0.0.1:5000",
    backend="postgresql://me@host/db",
    storage="sqlite:////of/the/service.db",
    token="/of/the/token",
)


@pytest.fixture
def empty(tmp_path, monkeypatch):
    """An empty folder to be in, with a home of its own, nothing in the environment and no service."""
    for name in [name for name in os.environ if name.startswith(("MLFLOW_", "RAY_", "FORCETUNE_"))]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(service, "find", lambda: None)
    return tmp_path


def make_store(folder, *experiments, viewed=(), reported=()):
    """Make the tables of MLflow that list experiments and reports, as far as they are read."""
    with closing(sqlite3.connect(folder / "mlflow.db")) as connection, connection:
        connection.execute("create table experiments (experiment_id integer, name, lifecycle_stage, creation_time)")
        connection.execute("create table experiment_tags (experiment_id integer, key, value)")
        connection.execute("create table runs (run_uuid, experiment_id integer, lifecycle_stage)")
        connection.execute("create table tags (run_uuid, key, value)")
        for number, name in enumerate(["Default", *experiments]):
            stage = "deleted" if name == "deleted" else "active"
            connection.execute("insert into experiments values (?, ?, ?, ?)", (number, name, stage, number))
            connection.execute("insert into runs values (?, ?, 'active')", (f"run-{name}", number))
            if name in viewed:
                tag = (number, "mlflow.sharedViewState.forcetune", "")
                connection.execute("insert into experiment_tags values (?, ?, ?)", tag)
            if name in reported:
                connection.execute("insert into tags values (?, 'forcetune.report', 'report.html')", (f"run-{name}",))


@contextmanager
def server(contents):
    """Answer every path of `contents` with its status and its content as JSON, other paths with 404."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            status, body = contents.get(self.path, (404, {}))
            self.send_response(status)
            self.end_headers()
            self.wfile.write(json.dumps(body).encode())

        def log_message(self, *_):
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as serving:
        thread = threading.Thread(target=serving.serve_forever, args=(0.01,))
        thread.start()
        yield f"http://127.0.0.1:{serving.server_port}"
        serving.shutdown()
        thread.join()


def free_port():
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


def get(url):
    with urllib.request.urlopen(url, timeout=20) as response:
        return response.read().decode(errors="replace")


def list_descendants():
    """Return the ids of all processes below this one; earlier tests may have left some."""
    return {process.pid for process in psutil.Process().children(recursive=True)}


def have_ended(process_ids, within_s=10):
    """Return True once none of these processes runs."""
    process_ids = list(process_ids)
    deadline = time.monotonic() + within_s
    while alive := [number for number in process_ids if is_running(number)]:
        if time.monotonic() > deadline:
            raise AssertionError(f"still running: {alive}")
        time.sleep(0.05)
    return True


def is_running(process_id):
    try:
        return psutil.Process(process_id).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def test_nothing_to_show_is_one_sentence_and_nothing_is_made(empty):
    with pytest.raises(
        InputError, match=r"nothing to show in \S+\. MLflow: .*mlflow.db`; run a search here.*optuna.db"
    ):
        ui.run(None, threading.Event(), pytest.fail, 60)
    assert list(empty.iterdir()) == []


def test_the_stores_of_this_folder(empty):
    make_store(empty)
    (empty / "optuna.db").touch()
    mlflow, optuna, ray = dashboards.find()
    assert (mlflow.name, mlflow.address, mlflow.store) == (MLFLOW, "", f"sqlite:///{empty}/mlflow.db")
    assert (optuna.name, optuna.address, optuna.store) == (OPTUNA, "", f"sqlite:///{empty}/optuna.db")
    note = "no cluster: `forcetune up` starts one; `RAY_ADDRESS=http://HOST:8265` names the dashboard of one"
    assert ray == Link(RAY, note=note)


def test_a_server_of_mlflow_is_linked_to(empty, monkeypatch):
    with server({"/health": (200, "OK")}) as address:
        monkeypatch.setenv("MLFLOW_TRACKING_URI", f"{address}/")
        mlflow, optuna, _ = dashboards.find()
    assert (mlflow.address, optuna.address, optuna.store) == (address, "", "")
    with pytest.raises(InputError, match=address):
        dashboards.find()


def test_what_up_started_is_linked_to_and_its_ledger_shown(empty, monkeypatch):
    monkeypatch.setattr(service, "find", lambda: SERVICE)
    Path(empty / "service.db").touch()
    monkeypatch.setattr(SERVICE, "storage", f"sqlite:///{empty}/service.db")
    mlflow, optuna, ray = dashboards.find()
    assert (mlflow.address, ray.address) == (SERVICE.mlflow, SERVICE.ray)
    assert optuna.store == SERVICE.storage
    assert "/of/the/token" in ray.note


def test_a_store_that_the_environment_names_is_shown_instead_of_the_service_s(empty, monkeypatch):
    monkeypatch.setattr(service, "find", lambda: SERVICE)
    make_store(empty)
    (empty / "mlflow.db").rename(empty / "other.db")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "sqlite:///other.db")
    mlflow, optuna, _ = dashboards.find()
    assert (mlflow.address, mlflow.store) == ("", f"sqlite:///{empty}/other.db")
    assert "there is no `/of/the/service.db`" in optuna.note


@pytest.mark.parametrize(
    ("address", "token", "link", "note"),
    [
        ("http://head:8265", "/my/token", "http://head:8265", "asks for a token: the one in /my/token"),
        ("https://me:secret@head/ray/", "", "https://head/ray", "may ask for a token"),
        ("head:6379", "", "", "`forcetune up` starts one"),
    ],
)
def test_ray_s_dashboard(empty, monkeypatch, address, token, link, note):
    make_store(empty)
    monkeypatch.setenv("RAY_ADDRESS", address)
    monkeypatch.setenv("RAY_AUTH_TOKEN_PATH", token)
    _, _, ray = dashboards.find()
    assert ray.address == link
    assert note in ray.note


def test_without_optuna_dashboard_the_others_are_shown(empty, monkeypatch):
    monkeypatch.setattr(dashboards, "find_spec", lambda name: None)
    (empty / "optuna.db").touch()
    with pytest.raises(InputError, match=r"nothing to show .*: it is not installed: `pip install 'forcetune\[ui\]'`"):
        dashboards.find()
    make_store(empty)
    mlflow, optuna, _ = dashboards.find()
    assert (bool(mlflow.store), optuna.store) == (True, "")
    assert "pip install 'forcetune[ui]'" in optuna.note


@pytest.mark.parametrize("variable", ["MLFLOW_TRACKING_URI", "FORCETUNE_STORAGE"])
def test_a_database_that_does_not_answer_is_refused(empty, monkeypatch, variable):
    monkeypatch.setenv(variable, f"postgresql+psycopg://me:secret@127.0.0.1:{free_port()}/db")
    with pytest.raises(InputError, match=rf"the database of {variable}, \S+me:\*\*\*@\S+, does not answer") as error:
        dashboards.find()
    assert "secret" not in str(error.value)


def make_dashboards(folder, mlflow="", optuna=""):
    """Return the dashboards of a folder, with the addresses of those that run."""
    return [
        Link(MLFLOW, mlflow, f"sqlite:///{folder}/mlflow.db"),
        Link(OPTUNA, optuna, "postgresql://me:secret@host/db?password=secret"),
        Link(RAY, note="no cluster: `forcetune up` starts one"),
    ]


def ledger(*studies):
    """Return the answer of Optuna Dashboard that lists these studies."""
    summaries = [{"study_id": 7 + number, "study_name": name} for number, name in enumerate(studies)]
    return {"/api/studies": (200, {"study_summaries": summaries})}


def test_the_links_to_a_study_lead_to_its_pages_and_its_report(empty):
    make_store(empty, "digits", "deleted", "fashion", viewed=["fashion"], reported=["digits", "deleted"])
    with server(ledger("digits", "fashion")) as address:
        dashboard_links = make_dashboards(empty, "http://mlflow", address)
        digits, fashion = (links.find_links(study, dashboard_links) for study in ("digits", "fashion"))
    assert [link.name for link in digits] == [MLFLOW, OPTUNA, RAY, "report of digits"]
    trials = "http://mlflow/#/experiments/1/runs?workflowType=machine_learning&searchFilter=tags."
    assert digits[0].address.startswith(trials)
    assert digits[1:] == [
        Link(OPTUNA, f"{address}/dashboard/studies/7", dashboard_links[1].store),
        dashboard_links[2],
        Link("report of digits", "http://mlflow/#/experiments/1/runs/run-digits/artifacts"),
    ]
    view = "http://mlflow/#/experiments/3/runs?workflowType=machine_learning&viewStateShareKey=forcetune"
    assert fashion[0].address == view
    assert fashion[3] == Link("report of fashion", note="not written yet: `forcetune report fashion` writes it")


def test_without_a_study_the_links_lead_to_the_dashboards_and_to_all_reports(empty):
    make_store(empty, "digits", "fashion", "plain", reported=["digits", "fashion"])
    dashboard_links = make_dashboards(empty, "http://mlflow", "http://optuna")
    *first, digits, fashion = links.find_links(None, dashboard_links)
    assert first == dashboard_links
    assert digits == Link("report of digits", "http://mlflow/#/experiments/1/runs/run-digits/artifacts")
    assert fashion == Link("report of fashion", "http://mlflow/#/experiments/2/runs/run-fashion/artifacts")


def test_a_study_that_the_ledger_lacks_is_noted_without_a_password(empty):
    make_store(empty, "digits")
    with server(ledger("fashion")) as address:
        study_links = links.find_links("digits", make_dashboards(empty, "http://mlflow", address))
    assert study_links[1].address == address
    note = "postgresql://me:***@host/db?password=*** has no study 'digits'; `FORCETUNE_STORAGE` can name another ledger"
    assert study_links[1].note == note
    assert "secret" not in repr(study_links)


def test_without_mlflow_the_ledger_lists_the_studies():
    with server(ledger("digits")) as address:
        dashboard_links = [Link(MLFLOW), Link(OPTUNA, address, "postgresql://host/db"), Link(RAY)]
        study_links = links.find_links("digits", dashboard_links)
        assert [link.address for link in study_links] == ["", f"{address}/dashboard/studies/7", ""]
        with pytest.raises(InputError, match=r"no study 'digit' .*did you mean 'digits'"):
            links.find_links("digit", dashboard_links)
    with pytest.raises(InputError, match="Optuna Dashboard does not answer"):
        links.find_links("digits", dashboard_links)


def test_a_study_of_databases_is_checked_once_their_servers_run():
    not_started = [Link(MLFLOW, store="postgresql://host/db"), Link(OPTUNA, store="postgresql://host/db"), Link(RAY)]
    assert links.find_links("digits", not_started) == not_started
    with pytest.raises(InputError, match="no study 'digits' in these stores; their studies: none yet"):
        links.find_links("digits", [Link(MLFLOW), Link(OPTUNA), Link(RAY, "http://head:8265")])


def test_an_unknown_study_is_refused_before_anything_is_started(empty, monkeypatch):
    make_store(empty, "digits", "fashion")
    monkeypatch.setattr(ui, "Children", pytest.fail)
    with pytest.raises(InputError, match=r"no study 'digit' .*did you mean 'digits'.*: digits, fashion"):
        ui.run("digit", threading.Event(), pytest.fail, 60)


@pytest.fixture
def starts(monkeypatch):
    """The starts that `ui.run` makes, in place of processes: name, command, environment and url of each."""
    recorded_starts = []

    class RecordingChildren(children.Children):
        def start(self, *arguments):
            recorded_starts.append(arguments)

    monkeypatch.setattr(ui, "Children", RecordingChildren)
    return recorded_starts


def test_only_what_is_missing_is_started_at_its_port_or_a_free_one(empty, monkeypatch, starts):
    make_store(empty, "digits", reported=["digits"])
    (empty / "optuna.db").touch()
    monkeypatch.setenv("RAY_ADDRESS", "http://head:8265")
    monkeypatch.setattr(ui, "free_port", {5000: 5000, 8080: 49152}.get)
    stop, shown_links = threading.Event(), []
    ui.run(None, stop, lambda opened: (shown_links.extend(opened), stop.set()), 60)
    mlflow, optuna = "http://127.0.0.1:5000", "http://127.0.0.1:49152"
    report = f"{mlflow}/#/experiments/1/runs/run-digits/artifacts"
    assert [link.address for link in shown_links] == [mlflow, optuna, "http://head:8265", report]
    assert [(start[0], start[3]) for start in starts] == [
        (MLFLOW, f"{mlflow}/health"),
        (OPTUNA, f"{optuna}/api/studies"),
    ]
    for _, command, _, _ in starts:
        assert command[command.index("--host") + 1] == "127.0.0.1"


def test_nothing_is_shown_after_the_end_was_asked_for(empty, starts):
    make_store(empty)
    stop = threading.Event()
    stop.set()
    ui.run(None, stop, pytest.fail, 60)
    assert len(starts) == 1


def test_no_address_of_a_store_stands_in_a_command(monkeypatch, starts):
    monkeypatch.setenv("MLFLOW_STATIC_PREFIX", "/elsewhere")
    monkeypatch.setenv("MLFLOW_S3_ENDPOINT_URL", "http://minio")
    address = "postgresql://me:secret@host/db"
    with ui.Children() as recorder:
        for name in (MLFLOW, OPTUNA):
            assert "secret" not in repr(ui._start(Link(name, store=address), recorder))
    assert len(starts) == 2
    for name, command, environment, url in starts:
        assert "secret" not in " ".join([name, *command, url])
        assert address in environment.values()
        assert "MLFLOW_STATIC_PREFIX" not in environment
        assert environment["MLFLOW_S3_ENDPOINT_URL"] == "http://minio"
        assert environment["PYTHONSAFEPATH"] == "1"


def test_one_line_is_printed_for_each_link(monkeypatch):
    shown_links = [
        Link(MLFLOW, "http://127.0.0.1:5000"),
        Link(OPTUNA, note="it is not installed"),
        Link(RAY, "http://127.0.0.1:8265", note="asks for a token"),
        Link("report of digits", "http://127.0.0.1:5000/#/report"),
    ]
    monkeypatch.setattr(signal, "signal", lambda *_: None)
    monkeypatch.setattr(ui, "run", lambda study, stop, on_open, start_limit_s: on_open(shown_links))
    assert CliRunner().invoke(main, ["ui", "--no-browser"]).output.splitlines() == [
        "MLflow            http://127.0.0.1:5000",
        "Optuna Dashboard  it is not installed",
        "Ray Dashboard     http://127.0.0.1:8265  (asks for a token)",
        "report of digits  http://127.0.0.1:5000/#/report",
        "Ctrl-C ends the dashboards that this command started",
    ]


@pytest.mark.parametrize(
    ("screen", "options", "opened"), [("DISPLAY", [], True), ("DISPLAY", ["--no-browser"], False), ("NONE", [], False)]
)
def test_a_browser_opens_where_there_is_a_screen(monkeypatch, screen, options, opened):
    for name in ("DISPLAY", "WAYLAND_DISPLAY", "BROWSER"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv(screen, ":0")
    monkeypatch.setattr(sys, "platform", "linux")
    monkeypatch.setattr(signal, "signal", lambda *_: None)
    shown_links = [Link(MLFLOW, "http://127.0.0.1:5000/#/study"), Link(OPTUNA, "http://127.0.0.1:8080")]
    monkeypatch.setattr(ui, "run", lambda study, stop, on_open, start_limit_s: on_open(shown_links))
    urls = []
    monkeypatch.setattr(webbrowser, "open", urls.append)
    CliRunner().invoke(main, ["ui", *options], catch_exceptions=False)
    assert urls == (["http://127.0.0.1:5000/#/study"] if opened else [])


def closed_url():
    """Return an address at which nothing answers."""
    return f"http://127.0.0.1:{free_port()}/"


def test_what_has_ended_while_it_started_is_named_with_its_log():
    code = "print('at postgresql://me:secret@host/db'); raise SystemExit('no such table')"
    with children.Children() as started:
        started.start("MLflow", [sys.executable, "-c", code], os.environ, closed_url())
        with pytest.raises(StoppedError, match=r"(?s)MLflow has ended; .*log:.*me:\*\*\*@host.*no such table") as error:
            started.wait(threading.Event(), 60)
    assert "secret" not in str(error.value)


def test_what_does_not_answer_is_given_up_and_ended():
    before = list_descendants()
    with children.Children() as started:
        started.start("MLflow", SLEEP, os.environ, closed_url())
        new_processes = list_descendants() - before
        assert len(new_processes) == 2
        with pytest.raises(StoppedError, match="does not answer within 0.1 s .--start-limit."):
            started.wait(threading.Event(), 0.1)
    assert have_ended(new_processes)


def test_a_server_error_is_no_start():
    with server({"/api/studies": (500, {})}) as address, children.Children() as started:
        started.start("Optuna", SLEEP, os.environ, f"{address}/api/studies")
        with pytest.raises(StoppedError, match="answers with status 500"):
            started.wait(threading.Event(), 60)


def test_whoever_wants_the_end_need_not_wait_for_the_start():
    stop = threading.Event()
    stop.set()
    with children.Children() as started:
        started.start("MLflow", SLEEP, os.environ, closed_url())
        started.wait(stop, 60)


NESTED = "import subprocess, sys; process = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(600)'])"


def test_children_end_with_all_below_them_and_nothing_else():
    with subprocess.Popen(SLEEP) as other:
        before = list_descendants()
        with children.Children() as started:
            started.start("nested", [sys.executable, "-c", f"{NESTED}; process.wait()"], os.environ, closed_url())
            deadline = time.monotonic() + 10
            while len(new_processes := list_descendants() - before) < 3 and time.monotonic() < deadline:
                time.sleep(0.02)
            assert len(new_processes) == 3  # the watcher, the child and what it started
        assert have_ended(new_processes)
        assert other.poll() is None
        other.kill()


def test_what_a_child_leaves_behind_ends_too():
    """A child that has ended leaves no process of its group, so that the port is free again."""
    with children.Children() as started:
        code = f"{NESTED}; print(process.pid)"
        started.start("nested", [sys.executable, "-c", code], os.environ, closed_url())
        with pytest.raises(StoppedError, match="nested has ended") as error:
            started.wait(threading.Event(), 60)
        orphan = int(str(error.value).split()[-1])
        assert is_running(orphan)
    assert have_ended([orphan])


def test_children_that_ignore_the_request_are_killed(monkeypatch):
    monkeypatch.setattr(children, "DASHBOARD_END_LIMIT_S", 0.2)
    code = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('ready'); time.sleep(600)"
    before = list_descendants()
    with children.Children() as started:
        started.start("stubborn", [sys.executable, "-uc", code], os.environ, closed_url())
        deadline = time.monotonic() + 10
        while "ready" not in started._children[0].read_tail() and time.monotonic() < deadline:
            time.sleep(0.02)
        new_processes = list_descendants() - before
    assert have_ended(new_processes)


def test_children_end_where_this_process_is_killed(tmp_path):
    code = f"""
import os, time
from forcetune.local.children import Children
with Children() as started:
    started.start("sleep", {SLEEP!r}, os.environ, "http://127.0.0.1:1/")
    print("started", flush=True)
    time.sleep(600)
"""
    environment = {**os.environ, "HOME": str(tmp_path), "PYTHONPATH": str(ROOT)}
    with subprocess.Popen([sys.executable, "-c", code], env=environment, stdout=subprocess.PIPE, text=True) as killed:
        assert killed.stdout.readline() == "started\n"
        descendants = [process.pid for process in psutil.Process(killed.pid).children(recursive=True)]
        assert len(descendants) == 2
        killed.kill()
    assert have_ended(descendants)


@pytest.mark.long
def test_the_dashboards_and_the_report_of_a_study(empty, empty_mlflow):
    browser = shutil.which("chromium") or shutil.which("google-chrome") or pytest.skip("needs Chromium")
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    trial = {"dataset": "synthetic", "model": "mlp", "width": 12, "method": ["random", "snip"], "epochs": 1}
    study = {"study": "small", "trial": {**trial, "density": {"low": 0.1, "high": 0.5}}, "search": {"trials": 2}}
    shutil.copy(empty_mlflow, empty / "mlflow.db")
    for arguments in (["search", write_study(empty, study)], ["report", "small"]):
        result = run_command(empty, *arguments)
        assert result.exit_code == 0, result.output
    (empty / "uvicorn.py").write_text("raise SystemExit('a module of the user')")
    command = [*FORCETUNE, "ui", "small", "--no-browser"]
    with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True) as running:
        lines = list(_read_links(running))
        descendants = [process.pid for process in psutil.Process(running.pid).children(recursive=True)]
        assert len(descendants) >= 4  # the watcher, Optuna Dashboard, MLflow and its server
        assert [line.partition("  ")[0].strip() for line in lines] == [MLFLOW, OPTUNA, RAY, "report of small"]
        mlflow, optuna, report = (lines[number].split()[-1] for number in (0, 1, 3))
        assert all(get(address) for address in (mlflow, optuna, report))
        for name, run in _list_artifacts(empty):
            assert get(f"{mlflow.partition('/#')[0]}/get-artifact?path={name}&run_uuid={run}")
        _check_in_browser(browser, {mlflow: "trial-0001", optuna: "val_accuracy", report: "report.html"})
        running.send_signal(signal.SIGTERM)
        assert running.wait(timeout=20) == 0
    assert have_ended(descendants)


def _read_links(running):
    """Return what the command prints before it waits."""
    for line in running.stdout:
        if line.startswith("Ctrl-C"):
            return
        yield line


def _list_artifacts(folder):
    """Return artifacts of the study's run and of a trial's run: name and run of each."""
    with closing(sqlite3.connect(folder / "mlflow.db")) as connection:
        runs = dict(connection.execute("select name, run_uuid from runs order by name"))
    return [("study.yaml", runs["small"]), ("report.html", runs["small"]), ("masks.npz", runs["trial-0000"])]


def _check_in_browser(browser, texts):
    """Check that Chromium shows a text at every address."""
    from playwright.sync_api import sync_playwright

    arguments = ["--no-sandbox", "--disable-gpu", "--disable-background-networking"]
    with sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=browser, args=arguments)
        page = chromium.new_page()
        for address, text in texts.items():
            page.goto("about:blank")  # two addresses of MLflow differ after the # alone
            page.goto(address)
            page.wait_for_selector(f"text={text}")
        chromium.close()
