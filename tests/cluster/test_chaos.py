"""Processes killed and requests lost at random while a search goes on, which must lose nothing and do nothing twice.

`make chaos ROUNDS=200 SEED=1 SHARE=0.2` runs as many rounds as one likes; a round is one kill. Studies take turns: the
first has MLflow's server behind a network that loses, delays, repeats and reorders a share of the requests, the second
begins in an empty folder and is killed in its first seconds, the third has its stores in files. Each has re-runs with
fresh seeds. At the end the faults are told, and written to the file that CHAOS_JSON names.
"""

import json
import os
import random
import signal
import time
from collections import Counter
from contextlib import suppress
from pathlib import Path

import optuna
import pytest
from promise import check_promise
from proxy import TIME_LIMIT_S, Proxy

pytestmark = pytest.mark.long

ROUNDS = int(os.environ.get("ROUNDS", "10"))
SEED = int(os.environ.get("SEED", "0"))
ROUNDS_A_STUDY = 10
LONGEST_WAIT_S = 6.0  # between two kills
FIRST_SECONDS = 5.0  # of a driver in an empty folder: its stores are made then
EARLY_KILLS = 4
SHARE = float(os.environ.get("SHARE", "0.08"))  # of the requests to MLflow, to which something happens
VARIANTS = ("network", "empty folder", "files")


@pytest.fixture(scope="module")
def faults():
    """How often each fault was made, and how many trials came out of it."""
    counts: Counter[str] = Counter()
    yield counts
    print("\n" + "\n".join(f"{count:6} {name}" for name, count in sorted(counts.items())))
    if path := os.environ.get("CHAOS_JSON"):
        Path(path).write_text(json.dumps(counts, indent=1, sort_keys=True))


@pytest.mark.parametrize("first", range(0, ROUNDS, ROUNDS_A_STUDY))
def test_random_faults(first, search, cluster, request, faults):
    draw = random.Random(f"{SEED} {first}")
    variant = VARIANTS[first // ROUNDS_A_STUDY % len(VARIANTS)]
    variables, proxy, mlflow = {"RAY_ADDRESS": cluster.address}, None, None
    if variant == "network":
        mlflow = request.getfixturevalue("mlflow_server").address
        proxy = Proxy(mlflow, SHARE, f"{SEED} {first}")
        request.addfinalizer(proxy.close)
        limits = {"MLFLOW_HTTP_REQUEST_TIMEOUT": f"{TIME_LIMIT_S:g}"}
        variables |= {"MLFLOW_TRACKING_URI": proxy.address, **limits}
    study = search(
        variables,
        pause=0.05,
        trial={"epochs": 12, "batch_size": draw.choice([32, 64])},
        search={"trials": 16, "seeds": {"front": 2}},
        resources={"retries": 1000},
    )
    if variant == "empty folder":
        (study.folder / "mlflow.db").unlink()
    driver = study.start()
    for number in range(first, min(first + ROUNDS_A_STUDY, ROUNDS)):
        early = variant == "empty folder" and number < first + EARLY_KILLS
        time.sleep(draw.uniform(0, FIRST_SECONDS if early else LONGEST_WAIT_S))
        if driver.process.poll() is not None:
            assert driver.process.returncode == 0, driver.said
            print(f"round {number}: the study was complete before its last kill")
            break
        kill = kill_driver if early else draw.choice([kill_driver, kill_worker, preempt_node])
        print(f"round {number}: {kill.__name__}")
        faults[f"{kill.__name__}, {variant}" if early else kill.__name__] += 1
        driver = kill(study, driver, cluster)
    assert driver.wait(300) == 0, driver.said
    if proxy:
        check_late(study, proxy)
        faults.update(proxy.done)
        study = study.with_variables(MLFLOW_TRACKING_URI=mlflow)
    assert set(study.check_promise()["outcome"]) == {"trained"}
    faults["trials"] += 16 + check_companions(study)
    for name in ("s", "s.companion"):
        doctor = study.start("doctor", name)
        assert doctor.wait() == 0, doctor.said


def check_late(study, proxy):
    """What arrives once the search has ended is put right by the same command."""
    proxy.settle()
    proxy.share = 0.0
    again = study.start()
    assert again.wait() == 0, again.said


def check_companions(study):
    """The re-runs with fresh seeds have one end each, which with other weights may be a collapse; how many they are."""
    mlflow = study.environment.get("MLFLOW_TRACKING_URI", f"sqlite:///{study.folder}/mlflow.db")
    trials = optuna.load_study(study_name="s.companion", storage=study.ledger).trials
    count = sum(trial.state.name != "PRUNED" for trial in trials)
    assert set(check_promise("s.companion", count, study.ledger, mlflow)["outcome"]) <= {"trained", "collapsed"}
    return count


def kill_driver(study, driver, cluster):
    """Its workers outlive it for a moment, and the next one starts beside them."""
    driver.kill()
    return study.start()


def kill_worker(study, driver, cluster):
    for (process,) in reversed(study.noted("steps")[-10:]):
        with suppress(ProcessLookupError):
            os.kill(int(process), signal.SIGKILL)
            break
    return driver


def preempt_node(study, driver, cluster):
    """The node is gone with all that runs there, and another one comes."""
    cluster.lose()
    cluster.add()
    return driver
