"""Stores that fail and return: PostgreSQL as both stores, and a full disk."""

import signal
import subprocess
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
from processes import check_one_driver

pytestmark = pytest.mark.long

POSTGRESQL_OUTAGE_S = 5.0


@pytest.fixture
def postgresql_stores(postgresql, request):
    """Return variables that put both stores into empty databases of PostgreSQL."""
    name = request.node.name
    return {
        "FORCETUNE_STORAGE": postgresql.make_address(f"{name}_optuna"),
        "MLFLOW_TRACKING_URI": postgresql.make_address(f"{name}_mlflow"),
    }


def test_postgresql_holds_both_stores_and_crashes(search, postgresql_stores, postgresql):
    study = search(postgresql_stores, pause=0.1, trial={"epochs": 80}, search={"trials": 3})
    first = study.start()
    study.wait_for_training()
    postgresql.stop()
    time.sleep(POSTGRESQL_OUTAGE_S)
    postgresql.start()
    study.wait_for_training()
    doctor = study.start("doctor", "s")
    assert doctor.wait() == 0, doctor.output
    check_one_driver(study, first)


def test_a_driver_that_slept_through_a_crash_writes_nothing_more(search, postgresql_stores, postgresql):
    study = search(postgresql_stores, trial={"epochs": 20}, search={"trials": 3})
    sleeper = study.start()
    study.wait_for_training()
    sleeper.process.send_signal(signal.SIGSTOP)
    postgresql.stop()
    postgresql.start()
    second = study.start()
    assert second.wait() == 0, second.output
    sleeper.process.send_signal(signal.SIGCONT)
    assert sleeper.wait() == 4
    assert "another driver took over the study" in sleeper.output
    study.check_promise()


def test_two_studies_make_their_schemas_at_once(search, postgresql_stores, tmp_path):
    studies = [search(postgresql_stores, tmp_path / name, study=name) for name in ("one", "other")]
    drivers = [study.start() for study in studies]
    with ThreadPoolExecutor() as pool:
        codes = list(pool.map(lambda driver: driver.wait(), drivers))
    assert codes == [0, 0], [driver.output for driver in drivers]
    for study in studies:
        study.check_promise()


@pytest.fixture
def small_disk(tmp_path):
    """Mount a file system of 64 MiB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64m", "tmpfs", folder], check=True)
    yield folder
    subprocess.run(["umount", "--lazy", folder], check=True)


def test_a_full_disk(search, small_disk):
    study = search(folder=small_disk, trial={"epochs": 40}, search={"trials": 2})
    driver = study.start()
    study.wait_for_training()
    fill_disk(small_disk / "filling")
    assert driver.wait() == 1, driver.output
    assert "full" in driver.output
    (small_disk / "filling").unlink()
    second_driver = study.start()
    assert second_driver.wait() == 0, second_driver.output
    study.check_promise()


def fill_disk(path):
    with open(path, "wb", buffering=0) as file:
        for size in (1 << 20, 1):
            while True:
                try:
                    file.write(bytes(size))
                except OSError:
                    break
