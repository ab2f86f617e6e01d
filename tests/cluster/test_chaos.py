"""Random faults during a search, which must lose nothing and do nothing twice.

`make chaos ROUNDS=200 SEED=1 SHARE=0.2` runs any number of rounds; each round kills a process or a node. Three variants
take turns: "network" has a proxy before the MLflow server that loses, delays, repeats and reorders a share of the
requests; "empty folder" starts without stores and is killed in its first seconds; "files" has its stores in files. Each
study has re-runs with fresh seeds. At the end the number of each fault is printed, and written to the file that
CHAOS_JSON names.
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
from proxy import CLIENT_TIMEOUT_S, Proxy

pytestmark = pytest.mark.long

ROUNDS = int(os.environ.get("ROUNDS", "10"))
SEED = int(os.environ.get("SEED", "0"))
ROUNDS_PER_STUDY = 10
MAX_WAIT_S = 6.0  # between two kills
MAX_EARLY_WAIT_S = 5.0  # in which a driver in an empty folder makes its stores
EARLY_KILLS = 4
FAULT_SHARE = float(os.environ.get("SHARE", "0.08"))  # of the requests to MLflow
VARIANTS = ("network", "empty folder", "files")


@pytest.fixture(scope="module")
def faults():
    """Count the faults and the trials, and print the counts at the end."""
    counts: Counter[str] = Counter()
    yield counts
    print("\n" + "\n".join(f"{count:6} {name}" for name, count in sorted(counts.items())))
    if path := os.environ.get("CHAOS_JSON"):
        Path(path).write_text(json.dumps(counts, indent=1, sort_keys=True))


@pytest.mark.parametrize("first", range(0, ROUNDS, ROUNDS_PER_STUDY))
def test_random_faults(first, search, cluster, request, faults):
    generator = random.Random(f"{SEED} {first}")
    variant = VARIANTS[first // ROUNDS_PER_STUDY % len(VARIANTS)]
    variables, proxy, mlflow = {"RAY_ADDRESS": cluster.address}, None, None
    if variant == "network":
        mlflow = request.getfixturevalue("mlflow_server").address
        proxy = Proxy(mlflow, FAULT_SHARE, f"{SEED} {first}")
        request.addfinalizer(proxy.close)
        limits = {"MLFLOW_HTTP_REQUEST_TIMEOUT": f"{CLIENT_TIMEOUT_S:g}"}
        variables |= {"MLFLOW_TRACKING_URI": proxy.address, **limits}
    study = search(
        variables,
        pause=0.05,
        trial={"epochs": 12, "batch_size": generator.choice([32, 64])},
        search={"trials": 16, "seeds": {"front": 2}},
        resources={"retries": 1000},
    )
    if variant == "empty folder":
        (study.folder / "mlflow.db").unlink()
    driver = study.start()
    for number in range(first, min(first + ROUNDS_PER_STUDY, ROUNDS)):
        is_early = variant == "empty folder" and number < first + EARLY_KILLS
        time.sleep(generator.uniform(0, MAX_EARLY_WAIT_S if is_early else MAX_WAIT_S))
        if driver.process.poll() is not None:
            assert driver.process.returncode == 0, driver.output
            print(f"round {number}: the study was complete before its last kill")
            break
        kill = kill_driver if is_early else generator.choice([kill_driver, kill_worker, preempt_node])
        print(f"round {number}: {kill.__name__}")
        faults[f"{kill.__name__}, {variant}" if is_early else kill.__name__] += 1
        driver = kill(study, driver, cluster)
    assert driver.wait(300) == 0, driver.output
    if proxy:
        check_late_requests(study, proxy)
        faults.update(proxy.counts)
        study = study.with_variables(MLFLOW_TRACKING_URI=mlflow)
    assert set(study.check_promise()["outcome"]) == {"trained"}
    faults["trials"] += 16 + check_companions(study)
    for name in ("s", "s.companion"):
        doctor = study.start("doctor", name)
        assert doctor.wait() == 0, doctor.output


def check_late_requests(study, proxy):
    """Let late requests arrive after the end of the search, and assert that the same command corrects their effect."""
    proxy.settle()
    proxy.share = 0.0
    next_driver = study.start()
    assert next_driver.wait() == 0, next_driver.output


def check_companions(study):
    """Assert that each re-run with a fresh seed ended once, trained or collapsed, and return their number."""
    mlflow = study.environment.get("MLFLOW_TRACKING_URI", f"sqlite:///{study.folder}/mlflow.db")
    trials = optuna.load_study(study_name="s.companion", storage=study.ledger).trials
    count = sum(trial.state.name != "PRUNED" for trial in trials)
    assert set(check_promise("s.companion", count, study.ledger, mlflow)["outcome"]) <= {"trained", "collapsed"}
    return count


def kill_driver(study, driver, cluster):
    """Kill the driver, and start the next one while the workers of the first still run."""
    driver.kill()
    return study.start()


def kill_worker(study, driver, cluster):
    for (process,) in reversed(study.read_notes("steps")[-10:]):
        with suppress(ProcessLookupError):
            os.kill(int(process), signal.SIGKILL)
            break
    return driver


def preempt_node(study, driver, cluster):
    """Replace the second node with a new one."""
    cluster.kill_second_node()
    cluster.start_second_node()
    return driver
