"""Stores that go away and come back: PostgreSQL for both, and a disk that is full."""

import signal
import subprocess
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
from processes import check_one_driver

pytestmark = pytest.mark.long

AWAY = 5.0  # seconds


@pytest.fixture
def stores(postgresql, request):
    """Both stores on PostgreSQL, in databases that are empty."""
    name = request.node.name
    return {
        "FORCETUNE_STORAGE": postgresql.address(f"{name}_optuna"),
        "MLFLOW_TRACKING_URI": postgresql.address(f"{name}_mlflow"),
    }


def test_postgresql_holds_both_stores_and_crashes(search, stores, postgresql):
    study = search(stores, pause=0.1, trial={"epochs": 80}, search={"trials": 3})
    first = study.start()
    study.at_work()
    postgresql.stop()
    time.sleep(AWAY)
    postgresql.start()
    study.at_work()
    doctor = study.start("doctor", "s")
    assert doctor.wait() == 0, doctor.said
    check_one_driver(study, first)


def test_a_driver_that_slept_through_a_crash_writes_nothing_more(search, stores, postgresql):
    study = search(stores, trial={"epochs": 20}, search={"trials": 3})
    sleeper = study.start()
    study.at_work()
    sleeper.process.send_signal(signal.SIGSTOP)
    postgresql.stop()
    postgresql.start()
    second = study.start()
    assert second.wait() == 0, second.said
    sleeper.process.send_signal(signal.SIGCONT)
    assert sleeper.wait() == 4
    assert "another driver took over the study" in sleeper.said
    study.check_promise()


def test_two_studies_make_their_schemas_at_once(search, stores, tmp_path):
    studies = [search(stores, tmp_path / name, study=name) for name in ("one", "other")]
    drivers = [study.start() for study in studies]
    with ThreadPoolExecutor() as pool:
        codes = list(pool.map(lambda driver: driver.wait(), drivers))
    assert codes == [0, 0], [driver.said for driver in drivers]
    for study in studies:
        study.check_promise()


@pytest.fixture
def small_disk(tmp_path):
    """A disk of 64 MB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64m", "tmpfs", folder], check=True)
    yield folder
    subprocess.run(["umount", "--lazy", folder], check=True)


def test_a_full_disk(search, small_disk):
    study = search(folder=small_disk, trial={"epochs": 40}, search={"trials": 2})
    driver = study.start()
    study.at_work()
    fill(small_disk / "filling")
    assert driver.wait() == 1, driver.said
    assert "full" in driver.said
    (small_disk / "filling").unlink()
    again = study.start()
    assert again.wait() == 0, again.said
    study.check_promise()


def fill(path):
    with open(path, "wb", buffering=0) as file:
        for size in (1 << 20, 1):
            while True:
                try:
                    file.write(bytes(size))
                except OSError:
                    break
