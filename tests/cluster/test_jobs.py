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
from processes import list_descendants, wait_until
from servers import MLflowServer, write_secret

pytestmark = pytest.mark.long

SETTLING_S = 20.0  # after which two studies have their fair shares
WATCHING_S = 12.0  # in which their training steps are counted


@pytest.fixture(scope="module")
def mlflow_server(environment, postgresql, tmp_path_factory):
    """Start an MLflow server on PostgreSQL."""
    store = postgresql.make_address("jobs_mlflow")
    server = MLflowServer(tmp_path_factory.mktemp("mlflow"), environment, store)
    yield server
    server.stop()


@pytest.fixture
def make_job_study(search, cluster, mlflow_server, postgresql):
    """Return a function that makes a study to submit to the cluster; all these studies share their stores."""
    studies = []

    def make(**changes):
        stores = {
            "RAY_ADDRESS": cluster.dashboard,
            "MLFLOW_TRACKING_URI": mlflow_server.address,
            "FORCETUNE_STORAGE": postgresql.make_address("jobs_optuna"),
        }
        studies.append(search(stores, **changes))
        return studies[-1]

    yield make
    for job in json.loads(run_command(studies[0], "jobs", "--json")):
        if job["state"] == "running":
            run_command(studies[0], "stop", job["id"])


def run_command(study, *command, code=0):
    """Run a command, assert its exit code, and return its output."""
    process = study.start(*command)
    assert process.wait() == code, process.output
    return process.output


def list_jobs(study):
    """Return the jobs of the study from `jobs --json`, the latest first."""
    return [job for job in json.loads(run_command(study, "jobs", "--json")) if job["study"] == study.name]


def wait_for_job(study, job):
    """Follow the log of a job to its end, and return the job."""
    run_command(study, "logs", job, "--follow")
    return next(listed for listed in list_jobs(study) if listed["id"] == job)


def check_completed(study, job):
    """Wait for a job of the study, assert that all trials were trained, and return the table of the study."""
    ended = wait_for_job(study, job)
    assert (ended["state"], ended["exit_code"]) == ("succeeded", 0), run_command(study, "logs", job)
    rows = study.check_promise()
    assert set(rows["outcome"]) == {"trained"}
    return rows


def test_submit_follow_stop_and_resume(make_job_study, cluster, mlflow_server, postgresql, environment):
    study = make_job_study(study="one", pause=0.05, trial={"epochs": 80}, search={"trials": 4})
    (study.folder / ".git").mkdir()
    (study.folder / ".git" / "config").write_text("mine")
    output = run_command(study, "submit", "study.yaml")
    assert "one: 2 files" in output
    assert output.splitlines()[-1] == "one-1"
    study.wait_for_training()
    refusal = run_command(study, "submit", "study.yaml", code=4)
    assert "as the job one-1 of" in refusal
    assert [(listed["id"], listed["state"], listed["trials"]) for listed in list_jobs(study)] == [
        ("one-1", "running", 4)
    ]
    assert run_command(study, "stop", "one-1").strip() == "one-1 stopped"
    assert "2 running trials handed back" in run_command(study, "logs", "one-1")
    assert run_command(study, "resume", "one-1").strip() == "one-2"
    study.hurry()
    gauges = {"ray_forcetune_outbox_backlog", "ray_forcetune_hypervolume"}
    # Ray drops them 20 s after the job's end
    wait_until(lambda: gauges <= read_counters(cluster).keys(), "the gauges", interval=0.5)
    check_completed(study, "one-2")
    assert len(study.find_attempts()) > 1, "the trials continued from their checkpoints"
    jobs = list_jobs(study)
    assert [(listed["id"], listed["done"], listed["front"] > 0, listed["hypervolume"] > 0) for listed in jobs] == [
        ("one-2", 4, True, True),
        ("one-1", 4, True, True),
    ]
    table = run_command(study, "jobs")
    assert {"one-2", "succeeded", "4"} <= set(table.splitlines()[1].split())
    assert [row["outcome"] for row in json.loads(run_command(study, "best", "one", "--json"))]
    check_counters(cluster)
    secrets = {Path(environment["RAY_AUTH_TOKEN_PATH"]).read_text(), postgresql.password}
    check_no_secret(secrets, cluster, mlflow_server, environment)
    check_night(study)


def check_night(study):
    """Assert that a night runs its companions as a job of low priority, with the user's code."""
    text = "studies: [one]\ntop: 4\nbands: [0, 1]\nseeds: 1\nsentinels: 0\n"
    (study.folder / "nightly.yaml").write_text(text)
    night = run_command(study, "nightly", "nightly.yaml")
    assert "one.companion-1: " in night
    assert "random_erk" in night
    (companions,) = [job for job in json.loads(run_command(study, "jobs", "--json")) if job["study"] == "one.companion"]
    assert (companions["state"], companions["priority"]) == ("succeeded", "low")
    assert companions["done"] == companions["trials"], "all planned companions have run"


def check_counters(cluster):
    """Assert that Prometheus can read the metrics of the study `one`, whose first job ended none of its trials."""
    wait_until(lambda: read_counters(cluster).get("ray_forcetune_trials_total") == 4, "the counters")
    counters = read_counters(cluster)
    assert counters["ray_forcetune_ask_seconds_count"] == 4
    assert counters["ray_forcetune_log_seconds_count"] >= 4


def read_counters(cluster):
    """Return the sum of each metric of the study `one`."""
    sums = {}
    for line in urllib.request.urlopen(cluster.metrics, timeout=10).read().decode().splitlines():
        if line.startswith("ray_forcetune") and 'study="one"' in line:
            name, value = line.partition("{")[0], float(line.rpartition(" ")[2])
            sums[name] = sums.get(name, 0) + value
    return sums


def check_no_secret(secrets, cluster, mlflow_server, environment):
    """Assert that the Jobs API, the dashboard, MLflow and all logs contain no secret."""
    token = Path(environment["RAY_AUTH_TOKEN_PATH"]).read_text()
    texts = {}
    for path in ("api/jobs/", "nodes?view=summary", "logical/actors", "api/cluster_status"):
        query = urllib.request.Request(f"{cluster.dashboard}/{path}", headers={"Authorization": f"Bearer {token}"})
        texts[path] = urllib.request.urlopen(query, timeout=30).read().decode()
    assert "one-1" in texts["api/jobs/"]
    assert "Worker" in texts["logical/actors"]
    code = "import json; from mlflow import MlflowClient; client = MlflowClient(); "
    code += "found = [e.experiment_id for e in client.search_experiments()]; "
    code += "print(json.dumps([run.to_dictionary() for run in client.search_runs(found)]))"
    variables = {**environment, "MLFLOW_TRACKING_URI": mlflow_server.address}
    query = subprocess.run([sys.executable, "-c", code], env=variables, capture_output=True, text=True, check=True)
    assert "forcetune.version" in query.stdout
    texts["MLflow"] = query.stdout
    logs = [path for path in Path(environment["HOME"]).rglob("*") if path.is_file() and path.suffix != ".sock"]
    logs = [path for path in logs if path != Path(environment["RAY_AUTH_TOKEN_PATH"])]
    assert any(path.name.startswith("job-driver-one-1") for path in logs)
    texts |= {str(path): path.read_text(errors="replace") for path in logs}
    assert [source for source, text in texts.items() if any(secret in text for secret in secrets)] == []


def test_two_studies_share_and_one_of_low_priority_yields(make_job_study):
    low = make_job_study(study="low", pause=0.05, trial={"epochs": 400}, search={"trials": 2})
    run_command(low, "submit", "study.yaml", "--priority", "low")
    low.wait_for_training()
    studies = [
        make_job_study(
            study=name, folder=low.folder.parent / name, pause=0.05, trial={"epochs": 400}, search={"trials": 4}
        )
        for name in ("left", "right")
    ]
    for study in studies:
        run_command(study, "submit", "study.yaml")
    wait_until(lambda: all(study.read_notes("steps") for study in studies), "both to train")
    time.sleep(SETTLING_S)
    counts_before = [len(study.read_notes("steps")) for study in (*studies, low)]
    time.sleep(WATCHING_S)
    left_steps, right_steps, low_steps = (
        len(study.read_notes("steps")) - count for study, count in zip((*studies, low), counts_before, strict=True)
    )
    assert low_steps == 0, "low priority gets nothing, because the others leave nothing"
    assert min(left_steps, right_steps) >= 0.4 * (left_steps + right_steps) > 0
    assert "waiting: other studies" in run_command(low, "logs", "low-1")
    for study in studies:
        assert run_command(study, "stop", f"{study.study['study']}-1").endswith("stopped\n")
    low.hurry()
    check_completed(low, "low-1")


def test_a_driver_and_a_node_that_die(make_job_study, cluster):
    study = make_job_study(study="dying", pause=0.05, trial={"epochs": 80}, search={"trials": 4})
    run_command(study, "submit", "study.yaml", "--restarts", "2")
    study.wait_for_training()
    os.kill(find_driver(study), signal.SIGKILL)
    wait_until(lambda: "starting it again" in run_command(study, "logs", "dying-1"), "the supervisor to notice")
    study.wait_for_training()
    cluster.kill_second_node()
    study.hurry()
    check_completed(study, "dying-1")
    assert "the driver died (signal SIGKILL); " in run_command(study, "logs", "dying-1")
    cluster.replace_second_node()


def find_driver(study):
    """Return the id of the process that searches the study."""
    for folder in Path("/proc").iterdir():
        if folder.name.isdigit():
            try:
                words = (folder / "cmdline").read_text().split("\0")
                variables = (folder / "environ").read_text()
            except OSError:  # the process has just ended
                continue
            if words[1:4] == ["-m", "forcetune", "search"] and f'"forcetune.study": "{study.name}"' in variables:
                return int(folder.name)
    raise AssertionError("no driver runs")


def test_the_head_dies_and_comes_back(make_job_study, cluster):
    study = make_job_study(study="beheaded", trial={"epochs": 400}, search={"trials": 3})
    run_command(study, "submit", "study.yaml")
    study.wait_for_training()
    cluster.kill()
    refusal = run_command(study, "submit", "study.yaml", code=2)
    assert f"no Ray cluster answers at {cluster.dashboard}" in refusal
    cluster.start_nodes()
    study.hurry()
    wait_until(study.is_free, "the lock to be released with its driver")
    assert run_command(study, "submit", "study.yaml").splitlines()[-1] == "beheaded-1"
    check_completed(study, "beheaded-1")


def test_trials_are_placed_by_fractions_of_gpus(make_job_study):
    study = make_job_study(
        study="fractions", trial={"epochs": 80}, resources={"gpus": 0.5, "cpus": 0.25}, search={"trials": 4}
    )
    paced = study.folder / "paced.py"
    paced.write_text(paced.read_text().replace("os.getpid())", 'os.getpid(), os.environ["CUDA_VISIBLE_DEVICES"])'))
    output = run_command(study, "submit", "study.yaml", "--wait")
    check_completed(study, "fractions-1")
    assert "3 running" in output, "four fit on two GPUs, so three are left when the first ends"
    steps = [tuple(line) for line in study.read_notes("steps")]
    assert {gpu for _, gpu in steps} == {"0", "1"}
    assert len({worker for worker, _ in steps}) >= 3, "two trials share one GPU"


def test_what_a_cluster_refuses(make_job_study, cluster, environment, tmp_path):
    study = make_job_study(study="refused")
    wrong_token = study.with_variables(RAY_AUTH_TOKEN_PATH=str(write_secret(tmp_path / "token")))
    assert "refuses the token" in run_command(wrong_token, "submit", "study.yaml", code=2)
    missing_mlflow = study.with_variables(MLFLOW_TRACKING_URI="http://127.0.0.1:5999")
    assert "http://127.0.0.1:5999 does not answer" in run_command(missing_mlflow, "submit", "study.yaml", code=2)
    with socket.create_server(("127.0.0.1", 8299)):  # accepts connections and never responds
        silent_cluster = study.with_variables(RAY_ADDRESS="http://127.0.0.1:8299")
        assert "no Ray cluster answers at http://127.0.0.1:8299" in run_command(silent_cluster, "jobs", code=2)
    code = "import forcetune; forcetune.__version__ = '0.0.1'; from forcetune.cli import main; main()"
    old_client = subprocess.run(
        [sys.executable, "-c", code, "submit", "study.yaml"],
        cwd=study.folder,
        env=study.environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert old_client.returncode == 2
    assert "forcetune 0.0.1 on the client, " in old_client.stderr
    assert "Traceback" not in old_client.stderr
    assert not study.read_notes("steps")
    missing_data = make_job_study(
        study="lost", folder=study.folder.parent / "lost", trial={"dataset": "mnist", "data_root": "/nowhere"}
    )
    run_command(missing_data, "submit", "study.yaml")
    failed = wait_for_job(missing_data, "lost-1")
    assert (failed["state"], failed["exit_code"]) == ("failed", 2)
    assert "study.yaml: trial: data set 'mnist': no train-images-idx3-ubyte[.gz] in /nowhere" in failed["reason"]


@pytest.mark.parametrize("database", [None, "up"])
def test_up_and_down(search, postgresql, database):
    study = search({"RAY_AUTH_MODE": "", "RAY_AUTH_TOKEN_PATH": ""}, study="mine", trial={"epochs": 2})
    options = ["--database", postgresql.make_address_with_password(database)] if database else []
    assert run_command(study, "up", "--cpus", "2", *options).startswith("started")
    try:
        check_service(study, postgresql if database else None)
    finally:
        assert run_command(study, "down").startswith("ended: mlflow, ray")
    assert run_command(study, "down").startswith("no service of `forcetune up` runs")
    assert not [path for path in (study.folder / ".forcetune").rglob("*") if path.is_file()]


def check_service(study, postgresql):
    """Assert that a service listens on loopback alone, hides its secrets, runs a study, and is started only once."""
    output = run_command(study, "up")
    assert output.startswith("already running")
    assert "listens beyond loopback" not in output
    service = json.loads((study.folder / ".forcetune/service/service.json").read_text())
    started = [number for number, _ in service["processes"].values()]
    assert len(list_listeners(started)) >= 8
    assert {address for address, _ in list_listeners(started)} == {"127.0.0.1"}
    secrets = [study.folder / ".forcetune/service/token"]
    if postgresql:
        secrets.append(study.folder / ".forcetune/service/pgpass")
        public_text = json.dumps(service) + output + "".join(map(read_command_lines, started))
        assert postgresql.password in secrets[1].read_text()
        assert postgresql.password not in public_text
    assert {path.stat().st_mode & 0o777 for path in secrets} == {0o600}
    run_command(study, "submit", "study.yaml", "--wait")
    assert list_jobs(study)[0]["done"] == 4


def list_listeners(processes):
    """Return the address and port of each socket on which the processes, or any below them, listen."""
    import psutil

    listeners = set()
    for process in processes:
        for child in list_descendants(process):
            for connection in psutil.Process(child).net_connections(kind="inet"):
                if connection.status == psutil.CONN_LISTEN:
                    listeners.add((connection.laddr.ip.removeprefix("::ffff:"), connection.laddr.port))
    return listeners


def read_command_lines(process):
    return "".join(Path(f"/proc/{child}/cmdline").read_text() for child in list_descendants(process))
