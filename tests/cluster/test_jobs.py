"""Studies as jobs on two Ray nodes with token authentication, PostgreSQL with a password and a server of MLflow."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import pytest
from processes import descendants, until
from servers import MLflowServer, secret

pytestmark = pytest.mark.long

SETTLED = 20.0  # seconds after which two studies have their shares, of the minute that they get
WATCHED = 12.0  # and for how long they are watched then


@pytest.fixture(scope="module")
def mlflow_server(environment, postgresql, tmp_path_factory):
    """MLflow's own server on PostgreSQL."""
    store = postgresql.address("jobs_mlflow")
    server = MLflowServer(tmp_path_factory.mktemp("mlflow"), environment, store)
    yield server
    server.stop()


@pytest.fixture
def job(search, cluster, mlflow_server, postgresql):
    """Make a study that is submitted to the cluster, in stores that all share."""

    made = []

    def make(**changed):
        stores = {
            "RAY_ADDRESS": cluster.dashboard,
            "MLFLOW_TRACKING_URI": mlflow_server.address,
            "FORCETUNE_STORAGE": postgresql.address("jobs_optuna"),
        }
        made.append(search(stores, **changed))
        return made[-1]

    yield make
    for one in json.loads(said(made[0], "jobs", "--json")):
        if one["state"] == "running":
            said(made[0], "stop", one["id"])


def said(study, *command, code=0):
    """What a command says that ends with this code."""
    started = study.start(*command)
    assert started.wait() == code, started.said
    return started.said


def listed(study):
    """The jobs of the study, as `jobs --json` tells them, the latest first."""
    return [job for job in json.loads(said(study, "jobs", "--json")) if job["study"] == study.name]


def ended(study, job):
    """The job once it has ended, its log followed to the end."""
    said(study, "logs", job, "--follow")
    return next(one for one in listed(study) if one["id"] == job)


def complete(study, job):
    """The table of the study, whose job has come to its end."""
    found = ended(study, job)
    assert (found["state"], found["exit_code"]) == ("succeeded", 0), said(study, "logs", job)
    rows = study.check_promise()
    assert set(rows["outcome"]) == {"trained"}
    return rows


def test_submit_follow_stop_and_resume(job, cluster, mlflow_server, postgresql, environment):
    study = job(study="one", pause=0.05, trial={"epochs": 80}, search={"trials": 4})
    (study.folder / ".git").mkdir()
    (study.folder / ".git" / "config").write_text("mine")
    told = said(study, "submit", "study.yaml")
    assert "one: 2 files" in told
    assert told.splitlines()[-1] == "one-1"
    study.at_work()
    again = said(study, "submit", "study.yaml", code=4)
    assert "as the job one-1 of" in again
    assert [(one["id"], one["state"], one["trials"]) for one in listed(study)] == [("one-1", "running", 4)]
    assert said(study, "stop", "one-1").strip() == "one-1 stopped"
    assert "2 running trials handed back" in said(study, "logs", "one-1")
    assert said(study, "resume", "one-1").strip() == "one-2"
    study.hurry()
    complete(study, "one-2")
    assert len(study.attempts()) > 1, "the trials went on from where they were"
    found = listed(study)
    assert [(one["id"], one["done"], one["front"] > 0, one["hypervolume"] > 0) for one in found] == [
        ("one-2", 4, True, True),
        ("one-1", 4, True, True),
    ]
    table = said(study, "jobs")
    assert {"one-2", "succeeded", "4"} <= set(table.splitlines()[1].split())
    assert [row["outcome"] for row in json.loads(said(study, "best", "one", "--json"))]
    check_counters(cluster)
    secrets = {Path(environment["RAY_AUTH_TOKEN_PATH"]).read_text(), postgresql.password}
    check_no_secret(secrets, cluster, mlflow_server, environment)
    check_night(study)


def check_night(study):
    """Its companions run as a job that yields to people's, with the user's own code."""
    text = "studies: [one]\ntop: 4\nbands: [0, 1]\nseeds: 1\nsentinels: 0\n"
    (study.folder / "nightly.yaml").write_text(text)
    night = said(study, "nightly", "nightly.yaml")
    assert "one.companion-1: " in night
    assert "random_erk" in night
    (found,) = [one for one in json.loads(said(study, "jobs", "--json")) if one["study"] == "one.companion"]
    assert (found["state"], found["priority"]) == ("succeeded", "low")
    assert found["done"] == found["trials"], "all that was planned"


def check_counters(cluster):
    """What Prometheus reads of the study `one`, whose first job ended none of its trials."""
    until(lambda: counters(cluster).get("ray_forcetune_trials_total") == 4, "the counters")
    found = counters(cluster)
    assert found["ray_forcetune_ask_seconds_count"] == 4
    assert found["ray_forcetune_log_seconds_count"] >= 4
    assert {"ray_forcetune_outbox_backlog", "ray_forcetune_hypervolume"} <= found.keys()


def counters(cluster):
    """The sums over all that is told of the study `one`."""
    found = {}
    for line in urllib.request.urlopen(cluster.metrics, timeout=10).read().decode().splitlines():
        if line.startswith("ray_forcetune") and 'study="one"' in line:
            name, value = line.partition("{")[0], float(line.rpartition(" ")[2])
            found[name] = found.get(name, 0) + value
    return found


def check_no_secret(secrets, cluster, mlflow_server, environment):
    """No secret in what the Jobs API, the dashboard and MLflow answer, nor in any log."""
    token = Path(environment["RAY_AUTH_TOKEN_PATH"]).read_text()
    read = {}
    for path in ("api/jobs/", "nodes?view=summary", "logical/actors", "api/cluster_status"):
        asked = urllib.request.Request(f"{cluster.dashboard}/{path}", headers={"Authorization": f"Bearer {token}"})
        read[path] = urllib.request.urlopen(asked, timeout=30).read().decode()
    assert "one-1" in read["api/jobs/"]
    assert "Worker" in read["logical/actors"]
    code = "import json; from mlflow import MlflowClient; client = MlflowClient(); "
    code += "found = [e.experiment_id for e in client.search_experiments()]; "
    code += "print(json.dumps([run.to_dictionary() for run in client.search_runs(found)]))"
    variables = {**environment, "MLFLOW_TRACKING_URI": mlflow_server.address}
    asked = subprocess.run([sys.executable, "-c", code], env=variables, capture_output=True, text=True, check=True)
    assert "forcetune.version" in asked.stdout
    read["MLflow"] = asked.stdout
    logs = [path for path in Path(environment["HOME"]).rglob("*") if path.is_file() and path.suffix != ".sock"]
    logs = [path for path in logs if path != Path(environment["RAY_AUTH_TOKEN_PATH"]) and path.stat().st_size < 2**26]
    assert any(path.name.startswith("job-driver-one-1") for path in logs)
    read |= {str(path): path.read_text(errors="replace") for path in logs}
    assert [place for place, text in read.items() if any(secret in text for secret in secrets)] == []


def test_two_studies_share_and_one_of_low_priority_yields(job):
    low = job(study="low", pause=0.05, trial={"epochs": 400}, search={"trials": 2})
    said(low, "submit", "study.yaml", "--priority", "low")
    low.at_work()
    both = [
        job(study=name, folder=low.folder.parent / name, pause=0.05, trial={"epochs": 400}, search={"trials": 4})
        for name in ("left", "right")
    ]
    for study in both:
        said(study, "submit", "study.yaml")
    until(lambda: all(study.noted("steps") for study in both), "both to train")
    time.sleep(SETTLED)
    before = [len(study.noted("steps")) for study in (*both, low)]
    time.sleep(WATCHED)
    left, right, third = (len(study.noted("steps")) - n for study, n in zip((*both, low), before, strict=True))
    assert third == 0, "low priority gets what the others leave, which is nothing"
    assert min(left, right) >= 0.4 * (left + right)
    assert "waiting: other studies" in said(low, "logs", "low-1")
    for study in both:
        assert said(study, "stop", f"{study.study['study']}-1").endswith("stopped\n")
    low.hurry()
    complete(low, "low-1")


def test_a_driver_and_a_node_that_die(job, cluster):
    study = job(study="dying", pause=0.05, trial={"epochs": 80}, search={"trials": 4})
    said(study, "submit", "study.yaml", "--restarts", "2")
    study.at_work()
    os.kill(driver_of(study), signal.SIGKILL)
    until(lambda: "starting it again" in said(study, "logs", "dying-1"), "the supervisor to notice")
    study.at_work()
    cluster.lose()
    study.hurry()
    complete(study, "dying-1")
    assert "the driver died (signal SIGKILL); " in said(study, "logs", "dying-1")
    cluster.add()
    until(lambda: cluster.nodes() == 2, "the second node")


def driver_of(study):
    """The id of the process that searches."""
    for folder in Path("/proc").iterdir():
        if folder.name.isdigit():
            try:
                words = (folder / "cmdline").read_text().split("\0")
                variables = (folder / "environ").read_text()
            except OSError:  # it has just ended
                continue
            if words[1:4] == ["-m", "forcetune", "search"] and f'"forcetune.study": "{study.name}"' in variables:
                return int(folder.name)
    raise AssertionError("no driver runs")


def test_the_head_dies_and_comes_back(job, cluster):
    study = job(study="beheaded", trial={"epochs": 400}, search={"trials": 3})
    said(study, "submit", "study.yaml")
    study.at_work()
    cluster.kill()
    told = said(study, "submit", "study.yaml", code=2)
    assert f"no Ray cluster answers at {cluster.dashboard}" in told
    cluster.begin()
    study.hurry()
    until(study.is_free, "the hold to die with its holder")
    assert said(study, "submit", "study.yaml").splitlines()[-1] == "beheaded-1"
    complete(study, "beheaded-1")


def test_trials_are_placed_by_fractions_of_gpus(job):
    study = job(study="fractions", trial={"epochs": 80}, resources={"gpus": 0.5, "cpus": 0.25}, search={"trials": 4})
    paced = study.folder / "paced.py"
    paced.write_text(paced.read_text().replace("os.getpid())", 'os.getpid(), os.environ["CUDA_VISIBLE_DEVICES"])'))
    told = said(study, "submit", "study.yaml", "--wait")
    complete(study, "fractions-1")
    assert "3 running" in told, "four fit on two GPUs, so three are left when the first ends"
    seen = [tuple(line) for line in study.noted("steps")]
    assert {gpu for _, gpu in seen} == {"0", "1"}
    assert len({worker for worker, _ in seen}) >= 3, "two share one"


def test_what_a_cluster_refuses(job, cluster, environment, tmp_path):
    study = job(study="refused")
    wrong = study.with_variables(RAY_AUTH_TOKEN_PATH=str(secret(tmp_path / "token")))
    assert "refuses the token" in said(wrong, "submit", "study.yaml", code=2)
    away = study.with_variables(MLFLOW_TRACKING_URI="http://127.0.0.1:5999")
    assert "http://127.0.0.1:5999 does not answer" in said(away, "submit", "study.yaml", code=2)
    with socket.create_server(("127.0.0.1", 8299)):  # takes connections, and never answers
        mute = study.with_variables(RAY_ADDRESS="http://127.0.0.1:8299")
        assert "no Ray cluster answers at http://127.0.0.1:8299" in said(mute, "jobs", code=2)
    other = "import forcetune; forcetune.__version__ = '0.0.1'; from forcetune.cli import main; main()"
    old = subprocess.run(
        [sys.executable, "-c", other, "submit", "study.yaml"],
        cwd=study.folder,
        env=study.environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert old.returncode == 2
    assert "forcetune 0.0.1 on the client, " in old.stderr
    assert "Traceback" not in old.stderr
    assert not study.noted("steps")
    lost = job(study="lost", folder=study.folder.parent / "lost", trial={"dataset": "mnist", "data_root": "/nowhere"})
    said(lost, "submit", "study.yaml")
    found = ended(lost, "lost-1")
    assert (found["state"], found["exit_code"]) == ("failed", 2)
    assert "study.yaml: trial: data set 'mnist': no train-images-idx3-ubyte[.gz] in /nowhere" in found["reason"]


@pytest.mark.parametrize("database", [None, "up"])
def test_up_and_down(search, postgresql, database):
    study = search({"RAY_AUTH_MODE": "", "RAY_AUTH_TOKEN_PATH": ""}, study="mine", trial={"epochs": 2})
    given = ["--database", postgresql.with_password(database)] if database else []
    assert said(study, "up", "--cpus", "2", *given).startswith("started")
    try:
        check_service(study, postgresql if database else None)
    finally:
        assert said(study, "down").startswith("ended: mlflow, ray")
    assert said(study, "down").startswith("no service of `forcetune up` runs")
    assert not [path for path in (study.folder / ".forcetune").rglob("*") if path.is_file()]


def check_service(study, postgresql):
    """It is confined, runs a study, keeps its secrets, and is there once."""
    told = said(study, "up")
    assert told.startswith("already running")
    assert "listens beyond loopback" not in told
    service = json.loads((study.folder / ".forcetune/service/service.json").read_text())
    started = [number for number, _ in service["processes"].values()]
    assert len(listeners(started)) >= 8
    assert {address for address, _ in listeners(started)} == {"127.0.0.1"}
    secrets = [study.folder / ".forcetune/service/token"]
    if postgresql:
        secrets.append(study.folder / ".forcetune/service/pgpass")
        everywhere = json.dumps(service) + told + "".join(map(command_line, started))
        assert postgresql.password in secrets[1].read_text()
        assert postgresql.password not in everywhere
    assert {path.stat().st_mode & 0o777 for path in secrets} == {0o600}
    said(study, "submit", "study.yaml", "--wait")
    assert listed(study)[0]["done"] == 4


def listeners(processes):
    """The address and port of each socket on which the processes, or any below them, listen."""
    import psutil

    found = set()
    for process in processes:
        for one in descendants(process):
            for each in psutil.Process(one).net_connections(kind="inet"):
                if each.status == psutil.CONN_LISTEN:
                    found.add((each.laddr.ip.removeprefix("::ffff:"), each.laddr.port))
    return found


def command_line(process):
    return "".join(Path(f"/proc/{one}/cmdline").read_text() for one in descendants(process))
