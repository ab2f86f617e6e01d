"""Workers, nodes and drivers that die without a message, or return after they were given up."""

import os
import signal
import time
from pathlib import Path

import optuna
import psutil
import pytest
from processes import check_one_driver, list_descendants, wait_until

pytestmark = pytest.mark.long

MLFLOW_OUTAGE_S = 60.0


def test_a_killed_worker_is_retried_from_its_last_epoch(search):
    study = search()
    driver = study.start()
    os.kill(study.wait_for_training(), signal.SIGKILL)
    assert driver.wait() == 0, driver.output
    rows = study.check_promise()
    assert set(rows["outcome"]) == {"trained"}
    assert study.find_attempts() == {"1", "2"}


def test_the_head_of_a_private_ray_is_killed(search):
    """The driver must end by itself, because Ray would end it a minute later with a message of Ray's."""
    study = search()
    driver = study.start()
    study.wait_for_training()
    processes = (psutil.Process(pid) for pid in list_descendants(driver.process.pid))
    os.kill(next(process.pid for process in processes if process.name() == "gcs_server"), signal.SIGKILL)
    assert driver.wait(seconds=40) == 1
    assert "forcetune: Ray's head at 127.0.0.1:" in driver.output
    assert "the same command continues the search" in driver.output
    assert study.start().wait() == 0
    assert set(study.check_promise()["outcome"]) == {"trained"}


def test_one_node_of_two_is_killed(search, cluster):
    study = search({"RAY_ADDRESS": cluster.address})
    driver = study.start()
    study.wait_for_training()
    cluster.kill_second_node()
    assert driver.wait() == 0, driver.output
    assert set(study.check_promise()["outcome"]) == {"trained"}
    assert "2" in study.find_attempts()
    cluster.replace_second_node()


def test_a_lost_node_costs_no_retry(search, cluster):
    study = search(
        {"RAY_ADDRESS": cluster.address},
        pause=0.3,
        trial={"epochs": 12},
        search={"trials": 2},
        resources={"retries": 0},
    )
    driver = study.start()
    study.wait_for_training()
    study.wait_for_worker(list_descendants(cluster.second.pid))
    cluster.kill_second_node()
    study.hurry()
    assert driver.wait() == 0, driver.output
    rows = study.check_promise()
    assert set(rows["outcome"]) == {"trained"}, list(rows["reason"])
    assert "2" in study.find_attempts()
    assert study.count_attempts("lost_nodes") == 1
    cluster.replace_second_node()


def test_a_worker_that_dies_alone_costs_a_retry(search):
    study = search(pause=0.1, trial={"epochs": 30}, search={"trials": 2}, resources={"retries": 0})
    driver = study.start()
    os.kill(study.wait_for_training(), signal.SIGKILL)
    study.hurry()
    assert driver.wait() == 0, driver.output
    reasons = study.check_promise().set_index("outcome")["reason"]
    assert sorted(reasons.index) == ["failed", "trained"]
    assert reasons["failed"].startswith("its worker ended without an error message")


def test_a_second_driver_is_refused_until_the_first_dies(search):
    study = search(pause=0.1, trial={"epochs": 40}, search={"trials": 2})
    first = study.start()
    study.wait_for_training()
    check_one_driver(study, first)


def test_a_minute_without_mlflow_and_a_node_that_was_given_up_and_wakes(search, cluster, mlflow_server):
    study = search(
        {"RAY_ADDRESS": cluster.address, "MLFLOW_TRACKING_URI": mlflow_server.address},
        pause=0.1,
        trial={"epochs": 130},
        search={"trials": 2},
    )
    driver = study.start()
    study.wait_for_training()
    node_processes = list_descendants(cluster.second.pid)
    worker = study.wait_for_worker(node_processes)
    for process in node_processes:
        os.kill(process, signal.SIGSTOP)
    mlflow_server.stop()
    outage_start = time.monotonic()
    wait_until(lambda: "2" in study.find_attempts(), "a second attempt", seconds=90)
    time.sleep(max(0.0, outage_start + MLFLOW_OUTAGE_S - time.monotonic()))
    assert driver.process.poll() is None, "the trial goes on elsewhere"
    os.kill(worker, signal.SIGCONT)
    wait_until(lambda: study.read_notes("refused"), "the checkpoint of the old worker to be refused")
    cluster.kill_second_node()
    mlflow_server.start()
    assert driver.wait() == 0, driver.output
    assert set(study.check_promise()["outcome"]) == {"trained"}
    cluster.replace_second_node()


# The faults strike in training only, because `forcetune search` builds each model before it starts.
FAULTY_PY = """
import os
import time
from pathlib import Path

import torch
from torch import nn


class Fault(nn.Module):
    def __init__(self, strike):
        super().__init__()
        self.strike = strike

    def forward(self, x):
        return self.strike(x) if self.training and torch.is_grad_enabled() else x


def build(strike):
    def network(shape, classes):
        size = shape[0] * shape[1] * shape[2]
        return nn.Sequential(nn.Flatten(), nn.Linear(size, 12), nn.ReLU(), Fault(strike), nn.Linear(12, classes))

    return network


def devour(x):
    if not os.path.exists("sated"):
        open("sated", "w").close()
        held = [bytearray(os.urandom(1) * (1 << 28)) for _ in range(32)]
    return x


def hang(x):
    time.sleep(3600)


def fail(x):
    raise RuntimeError("mine")


good = build(lambda x: x)
hungry = build(devour)
hanging = build(hang)
diverging = build(lambda x: x * float("nan"))
broken = build(fail)
"""


@pytest.fixture
def run_faulty(search):
    """A function that searches the networks of faulty.py by a grid: the study and its rows by the network's name."""

    def run(models, environment=None):
        study = search(
            environment,
            trial={"model": [f"faulty:{model}" for model in models], "method": "random", "density": 0.5, "lr": 0.1},
            search={"sampler": "grid", "trials": len(models)},
            resources={"concurrent": 2, "max_seconds": 30},
        )
        (study.folder / "faulty.py").write_text(FAULTY_PY)
        driver = study.start()
        assert driver.wait() == 0, driver.output
        return study, study.check_promise().set_index("model")

    return run


def read_issued_attempts(study):
    """The counts of each trial's attempts in the ledger, by the network's name."""
    trials = optuna.load_study(study_name="s", storage=study.ledger).trials
    return {trial.params["model"]: trial.user_attrs.get("issued", {"lost": 0}) for trial in trials}


def test_each_fault_has_its_outcome(run_faulty):
    study, rows = run_faulty(["good", "hanging", "diverging", "broken"])
    assert rows["outcome"].to_dict() == {
        "faulty:good": "trained",
        "faulty:hanging": "failed",
        "faulty:diverging": "failed",
        "faulty:broken": "failed",
    }
    reasons = rows["reason"]
    assert reasons["faulty:hanging"] == "it took longer than max_seconds 30"
    assert reasons["faulty:broken"] == "RuntimeError: mine"
    assert "nan" in reasons["faulty:diverging"]
    issued = read_issued_attempts(study)
    assert (issued["faulty:diverging"]["lost"], issued["faulty:broken"]["lost"]) == (0, 0), "no fault is retried"


# It runs alone: where memory is short, Ray ends the worker that started last, whichever trial takes the memory.
def test_a_trial_that_takes_all_memory_runs_again_with_more_room(run_faulty):
    threshold = min(0.9, measure_used_memory() + 0.2)
    memory_monitor = {"RAY_memory_usage_threshold": f"{threshold:.3f}", "RAY_memory_monitor_refresh_ms": "100"}
    study, rows = run_faulty(["hungry"], memory_monitor)
    assert rows.loc["faulty:hungry", "outcome"] == "trained"
    issued = read_issued_attempts(study)["faulty:hungry"]
    assert (issued["lost"], issued["room"]) == (1, 2)


def measure_used_memory():
    """Return the share of the machine's memory that is in use, between 0 and 1."""
    lines = dict(line.split(":") for line in Path("/proc/meminfo").read_text().splitlines())
    total, available = (int(lines[name].split()[0]) for name in ("MemTotal", "MemAvailable"))
    return 1 - available / total
