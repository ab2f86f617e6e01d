"""The dashboards of a machine and the page of links to them; one test starts them all."""

import json
import os
import re
import shutil
import signal
import socket
import sqlite3
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
import webbrowser
from contextlib import closing, contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import SimpleNamespace

import psutil
import pytest
import yaml
from click.testing import CliRunner

from forcetune.cli import main
from forcetune.errors import InputError, StoppedError
from forcetune.local import children, dashboards, service, start, studies, ui
from forcetune.local.dashboards import MLFLOW, OPTUNA, RAY, Dashboard
from forcetune.local.page import Page

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


def store(folder, *experiments, viewed=()):
    """The tables of MLflow that list experiments, as far as they are read."""
    with closing(sqlite3.connect(folder / "mlflow.db")) as made, made:
        made.execute("create table experiments (experiment_id integer, name, lifecycle_stage, creation_time)")
        made.execute("create table experiment_tags (experiment_id integer, key, value)")
        for number, name in enumerate(["Default", *experiments]):
            stage = "deleted" if name == "deleted" else "active"
            made.execute("insert into experiments values (?, ?, ?, ?)", (number, name, stage, number))
            if name in viewed:
                tag = (number, "mlflow.sharedViewState.forcetune", "")
                made.execute("insert into experiment_tags values (?, ?, ?)", tag)


@contextmanager
def server(answers):
    """Answers each path with a status and what is sent as JSON."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            status, body = answers.get(self.path, (404, {}))
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
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return one.getsockname()[1]


def get(url, **headers):
    with urllib.request.urlopen(urllib.request.Request(url, headers=headers), timeout=20) as answer:
        return answer.read().decode(errors="replace")


def below():
    """The ids of all processes below this one; earlier tests may have left some."""
    return {each.pid for each in psutil.Process().children(recursive=True)}


def gone(numbers, within=10):
    """Whether none of these processes runs any more."""
    numbers = list(numbers)
    deadline = time.monotonic() + within
    while alive := [number for number in numbers if runs(number)]:
        if time.monotonic() > deadline:
            raise AssertionError(f"still there: {alive}")
        time.sleep(0.05)
    return True


def runs(number):
    try:
        return psutil.Process(number).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def test_nothing_to_show_is_one_sentence_and_nothing_is_made(empty):
    with pytest.raises(InputError, match=r"nothing to show: \S+ has no mlflow.db and no optuna.db, .* run a search"):
        ui.run(None, threading.Event(), pytest.fail)
    assert list(empty.iterdir()) == []


def test_the_stores_of_this_folder(empty):
    store(empty)
    (empty / "optuna.db").touch()
    mlflow, optuna, ray = dashboards.find()
    assert (mlflow.name, mlflow.address, mlflow.store) == (MLFLOW, "", f"sqlite:///{empty}/mlflow.db")
    assert (optuna.name, optuna.address, optuna.store) == (OPTUNA, "", f"sqlite:///{empty}/optuna.db")
    assert (ray.is_available, ray.note) == (
        False,
        "none: `forcetune up` starts one; `RAY_ADDRESS=http://HOST:8265` names that of a cluster",
    )


def test_a_server_of_mlflow_is_linked_to(empty, monkeypatch):
    with server({"/health": (200, "OK")}) as address:
        monkeypatch.setenv("MLFLOW_TRACKING_URI", f"{address}/")
        mlflow, optuna, _ = dashboards.find()
    assert (mlflow.address, optuna.is_available) == (address, False)
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
    store(empty)
    (empty / "mlflow.db").rename(empty / "other.db")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "sqlite:///other.db")
    mlflow, optuna, _ = dashboards.find()
    assert (mlflow.address, mlflow.store) == ("", f"sqlite:///{empty}/other.db")
    assert "there is no `/of/the/service.db`" in optuna.note


@pytest.mark.parametrize(
    ("address", "token", "linked", "told"),
    [
        ("http://head:8265", "/my/token", "http://head:8265", "asks for a token: the one in /my/token"),
        ("https://me:secret@head/ray/", "", "https://head/ray", "may ask for a token"),
        ("head:6379", "", "", "`forcetune up` starts one"),
    ],
)
def test_ray_s_dashboard(empty, monkeypatch, address, token, linked, told):
    store(empty)
    monkeypatch.setenv("RAY_ADDRESS", address)
    monkeypatch.setenv("RAY_AUTH_TOKEN_PATH", token)
    _, _, ray = dashboards.find()
    assert ray.address == linked
    assert told in ray.note


def test_without_optuna_dashboard_the_others_are_shown(empty, monkeypatch):
    monkeypatch.setattr(dashboards, "find_spec", lambda name: None)
    (empty / "optuna.db").touch()
    with pytest.raises(InputError, match=r"only an Optuna ledger here, .* `pip install 'forcetune\[ui\]'`"):
        dashboards.find()
    store(empty)
    mlflow, optuna, _ = dashboards.find()
    assert (mlflow.is_available, optuna.is_available) == (True, False)
    assert "pip install 'forcetune[ui]'" in optuna.note


@pytest.mark.parametrize("variable", ["MLFLOW_TRACKING_URI", "FORCETUNE_STORAGE"])
def test_a_database_that_does_not_answer_is_refused(empty, monkeypatch, variable):
    monkeypatch.setenv(variable, f"postgresql+psycopg://me:secret@127.0.0.1:{free_port()}/db")
    with pytest.raises(InputError, match=rf"the database of {variable}, \S+me:\*\*\*@\S+, does not answer") as refused:
        dashboards.find()
    assert "secret" not in str(refused.value)


def test_each_experiment_has_a_page_of_its_trials(empty):
    store(empty, "digits", "deleted", "fashion", viewed=["fashion"])
    found = studies.experiment_pages(f"sqlite:///{empty}/mlflow.db")
    assert list(found) == ["digits", "fashion"]
    assert found["digits"].startswith("/#/experiments/1/runs?workflowType=machine_learning&searchFilter=tags.")
    assert found["fashion"] == "/#/experiments/3/runs?workflowType=machine_learning&viewStateShareKey=forcetune"


def test_each_ledger_has_a_page():
    listed = {"study_summaries": [{"study_id": 7, "study_name": "digits", "user_attrs": []}]}
    with server({"/api/studies": (200, listed)}) as address:
        assert studies.ledger_pages(address) == {"digits": "/dashboard/studies/7"}
    with pytest.raises(InputError, match="Optuna Dashboard does not answer"):
        studies.ledger_pages(address)


def test_an_unknown_study_is_refused_before_anything_is_started(empty, monkeypatch):
    store(empty, "digits", "fashion")
    monkeypatch.setattr(ui, "Children", pytest.fail)
    with pytest.raises(InputError, match=r"no study 'digit' .*did you mean 'digits'.*: digits, fashion"):
        ui.run("digit", threading.Event(), pytest.fail)


def test_no_address_of_a_store_stands_in_a_command(monkeypatch):
    monkeypatch.setenv("MLFLOW_STATIC_PREFIX", "/elsewhere")
    monkeypatch.setenv("MLFLOW_S3_ENDPOINT_URL", "http://minio")
    address = "postgresql://me:secret@host/db"
    for command, environment in (start.mlflow_server(address, 1), start.optuna_dashboard(address, 1)):
        assert "secret" not in " ".join(command)
        assert address in environment.values()
        assert "MLFLOW_STATIC_PREFIX" not in environment
        assert environment["MLFLOW_S3_ENDPOINT_URL"] == "http://minio"


@pytest.mark.parametrize(
    ("screen", "options", "opened"), [("DISPLAY", [], True), ("DISPLAY", ["--no-browser"], False), ("NONE", [], False)]
)
def test_a_browser_opens_where_there_is_a_screen(monkeypatch, screen, options, opened):
    for name in ("DISPLAY", "WAYLAND_DISPLAY", "BROWSER"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv(screen, ":0")
    monkeypatch.setattr(sys, "platform", "linux")
    monkeypatch.setattr(signal, "signal", lambda *_: None)
    made = SimpleNamespace(address="http://127.0.0.1:8000/", link_texts=lambda: {MLFLOW: "http://127.0.0.1:5000"})
    monkeypatch.setattr(ui, "run", lambda study, stop, show, start_limit: show(made))
    urls = []
    monkeypatch.setattr(webbrowser, "open", urls.append)
    printed = CliRunner().invoke(main, ["ui", *options]).output
    assert urls == ([made.address] if opened else [])
    assert made.address in printed
    assert "MLflow            http://127.0.0.1:5000" in printed


@pytest.fixture
def page(empty):
    """A page on three dashboards: one that answers, one that does not, and none; and what has ended."""
    store(empty, "digits", "<b>bold</b>")
    ended = set()
    with server({"/health": (200, "OK")}) as address:
        shown = [
            Dashboard(MLFLOW, address, f"sqlite:///{empty}/mlflow.db"),
            Dashboard(OPTUNA, f"http://127.0.0.1:{free_port()}", "postgresql://me:secret@host/db?password=secret"),
            Dashboard(RAY, note="none: `forcetune up` starts one"),
        ]
        with closing(Page(shown, "digits", ended.__contains__, 0)) as made:
            yield SimpleNamespace(page=made, mlflow=address, ended=ended, shown=shown)


def test_the_page_says_what_there_is(page):
    html = get(page.page.address)
    assert f'href="{page.mlflow}/#/experiments/1/runs?' in html
    assert "Optuna Dashboard does not answer at" in html
    assert "<code>forcetune up</code>" in html
    assert "postgresql://me:***@host/db" in html
    assert "secret" not in html + repr(page.shown) + str(page.page.link_texts())
    assert "&lt;b&gt;bold&lt;/b&gt;" in html
    assert "<b>" not in html
    assert set(re.findall(r"https?://([\w.:]+\w)", html)) <= {each.address[7:] for each in page.shown} | {"HOST:8265"}


def test_the_states_are_those_of_now(page):
    expected = {MLFLOW: "answers", OPTUNA: "does not answer", RAY: "none"}
    assert json.loads(get(f"{page.page.address}states")) == expected
    page.ended.add(MLFLOW)
    assert json.loads(get(f"{page.page.address}states")) == {
        **expected,
        MLFLOW: "has ended: start forcetune ui again",
    }


@pytest.mark.parametrize(("path", "host", "status"), [("", "evil.example", 403), ("other", None, 404)])
def test_the_page_is_for_this_machine_alone(page, path, host, status):
    with pytest.raises(urllib.error.HTTPError) as refused:
        get(page.page.address + path, **({"Host": host} if host else {}))
    refused.value.close()
    assert refused.value.code == status


def test_what_has_ended_while_it_started_is_told_with_its_log():
    with children.Children(threading.Event()) as started:
        code = "print('at postgresql://me:secret@host/db'); raise SystemExit('no such table')"
        started.start("MLflow", [sys.executable, "-c", code], os.environ)
        with pytest.raises(StoppedError, match=r"(?s)MLflow has ended; .*log:.*me:\*\*\*@host.*no such table") as why:
            started.wait("MLflow", f"http://127.0.0.1:{free_port()}/")
    assert "secret" not in str(why.value)


def test_what_does_not_answer_is_given_up_and_ended():
    before = below()
    with children.Children(threading.Event(), start_limit_s=0.1) as started:
        started.start("MLflow", SLEEP, os.environ)
        own = below() - before
        assert len(own) == 2
        with pytest.raises(StoppedError, match="does not answer within 0.1 s .--start-limit."):
            started.wait("MLflow", f"http://127.0.0.1:{free_port()}/")
    assert gone(own)


def test_an_error_of_its_own_is_no_start():
    with server({"/api/studies": (500, {})}) as address, children.Children(threading.Event()) as started:
        started.start("Optuna", SLEEP, os.environ)
        with pytest.raises(StoppedError, match="answers with status 500"):
            started.wait("Optuna", f"{address}/api/studies")


def test_whoever_wants_the_end_need_not_wait_for_the_start():
    stop = threading.Event()
    stop.set()
    with children.Children(stop) as started:
        started.start("MLflow", SLEEP, os.environ)
        started.wait("MLflow", f"http://127.0.0.1:{free_port()}/")


def test_children_end_with_all_below_them_and_nothing_else():
    nested = "import subprocess, sys; subprocess.run([sys.executable, '-c', 'import time; time.sleep(600)'])"
    with subprocess.Popen(SLEEP) as other:
        before = below()
        with children.Children(threading.Event()) as started:
            started.start("one", [sys.executable, "-c", nested], os.environ)
            deadline = time.monotonic() + 10
            while len(own := below() - before) < 3 and time.monotonic() < deadline:
                time.sleep(0.02)
            assert len(own) == 3  # the watcher, the child and what it started
        assert gone(own)
        assert other.poll() is None
        other.kill()


def test_children_end_where_this_process_is_killed(tmp_path):
    code = f"""
import os, sys, threading, time
from forcetune.local.children import Children
with Children(threading.Event()) as started:
    started.start("one", {SLEEP!r}, os.environ)
    print("started", flush=True)
    time.sleep(600)
"""
    environment = {**os.environ, "HOME": str(tmp_path), "PYTHONPATH": str(ROOT)}
    with subprocess.Popen([sys.executable, "-c", code], env=environment, stdout=subprocess.PIPE, text=True) as killed:
        assert killed.stdout.readline() == "started\n"
        below = [each.pid for each in psutil.Process(killed.pid).children(recursive=True)]
        assert len(below) == 2
        killed.kill()
    assert gone(below)


@pytest.mark.long
def test_all_of_it(empty):
    browser = shutil.which("chromium") or shutil.which("google-chrome") or pytest.skip("needs Chromium")
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    trial = {"dataset": "synthetic", "model": "mlp", "width": 12, "method": ["random", "snip"], "epochs": 1}
    study = {"study": "small", "trial": {**trial, "density": {"low": 0.1, "high": 0.5}}, "search": {"trials": 2}}
    (empty / "small.yaml").write_text(yaml.safe_dump(study))
    subprocess.run([*FORCETUNE, "search", "small.yaml"], env=environment, check=True, capture_output=True, timeout=120)
    (empty / "uvicorn.py").write_text("raise SystemExit('a module of the user')")
    command = [*FORCETUNE, "ui", "small", "--no-browser"]
    with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True) as running:
        told = dict(line.strip().split(maxsplit=1) for line in _until_told(running))
        below = [each.pid for each in psutil.Process(running.pid).children(recursive=True)]
        assert len(below) >= 4  # the watcher, Optuna Dashboard, MLflow and its server
        links = [line for line in re.findall(r"http\S+", " ".join(told.values())) if "HOST" not in line]
        page, mlflow, optuna = links
        assert all(get(link) for link in links)
        for name, run in _artifacts(empty):
            assert get(f"{mlflow.partition('/#')[0]}/get-artifact?path={name}&run_uuid={run}")
        _look(browser, page, mlflow, optuna, server_of_mlflow=below)
        running.send_signal(signal.SIGTERM)
        assert running.wait(timeout=20) == 0
    assert gone(below)


def _until_told(running):
    """What the command prints until all answer."""
    for line in running.stdout:
        if line.startswith("Ctrl-C"):
            return
        yield line.replace("all dashboards", "all").replace(" Dashboard", "")


def _artifacts(folder):
    """The study's file and a trial's masks: their names and runs."""
    with closing(sqlite3.connect(folder / "mlflow.db")) as connection:
        runs = dict(connection.execute("select name, run_uuid from runs order by name"))
    return [("study.yaml", runs["small"]), ("masks.npz", runs["trial-0000"])]


def _look(browser, page, mlflow, optuna, server_of_mlflow):
    """All three as Chromium shows them, and the page once more when MLflow is gone."""
    from playwright.sync_api import sync_playwright

    arguments = ["--no-sandbox", "--disable-gpu", "--disable-background-networking"]
    with sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=browser, args=arguments)
        seen = chromium.new_page()
        troubles = []
        seen.on("console", lambda message: troubles.append(message.text) if message.type == "error" else None)
        seen.on("pageerror", lambda error: troubles.append(str(error)))
        seen.goto(page)
        seen.wait_for_selector('.state[data-is="answers"] >> nth=1')
        assert seen.locator(".state").all_text_contents() == ["answers", "answers", "none"]
        assert seen.locator("tr[aria-current] a").count() == 2
        other = chromium.new_page()
        other.goto(mlflow)
        other.wait_for_selector("text=trial-0001")
        other.goto(optuna)
        other.wait_for_selector("text=val_accuracy")
        for number in server_of_mlflow:
            if runs(number) and "mlflow" in psutil.Process(number).cmdline():
                psutil.Process(number).terminate()
        seen.wait_for_selector("text=has ended")
        assert troubles == []
        chromium.close()
