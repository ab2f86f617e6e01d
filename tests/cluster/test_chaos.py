"""Drivers, workers and nodes killed at random while a search goes on, which must lose nothing.

`make chaos ROUNDS=200 SEED=1` runs as many rounds as one likes; a round is one kill.
"""

import os
import random
import signal
import time
from contextlib import suppress

import pytest

pytestmark = pytest.mark.long

ROUNDS = int(os.environ.get("ROUNDS", "10"))
SEED = int(os.environ.get("SEED", "0"))
ROUNDS_A_STUDY = 10
WAIT = 6.0  # seconds between two kills, at most


@pytest.mark.parametrize("first", range(0, ROUNDS, ROUNDS_A_STUDY))
def test_random_kills(first, search, cluster):
    draw = random.Random(f"{SEED} {first}")
    study = search(
        {"RAY_ADDRESS": cluster.address},
        pause=0.05,
        trial={"epochs": 12, "batch_size": draw.choice([32, 64])},
        search={"trials": 16},
        resources={"retries": 1000},
    )
    driver = study.start()
    for number in range(first, min(first + ROUNDS_A_STUDY, ROUNDS)):
        time.sleep(draw.uniform(0, WAIT))
        if driver.process.poll() is not None:
            assert driver.process.returncode == 0, driver.said
            print(f"round {number}: the study was complete before its last kill")
            break
        kill = draw.choice([kill_driver, kill_worker, kill_node])
        print(f"round {number}: {kill.__name__}")
        driver = kill(study, driver, cluster)
    assert driver.wait(300) == 0, driver.said
    assert set(study.check_promise()["outcome"]) == {"trained"}


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


def kill_node(study, driver, cluster):
    cluster.lose()
    cluster.add()
    return driver
