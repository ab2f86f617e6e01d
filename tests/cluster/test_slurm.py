"""`cluster/slurm/study.sbatch` with a real Slurm on loopback: a job that runs out of time goes on in the next."""

import shutil
import tempfile
from pathlib import Path

import pytest
from processes import wait_until
from slurm import Slurm, find_missing_slurm

pytestmark = pytest.mark.long  # Slurm looks at the times of jobs once a minute


@pytest.fixture
def slurm(environment, network):
    if reason := find_missing_slurm():
        pytest.skip(reason)
    folder = Path(tempfile.mkdtemp(prefix="slurm", dir="/tmp"))  # the path of a socket is short
    folder.chmod(0o755)
    cluster = Slurm(folder, environment)
    yield cluster
    cluster.close()
    shutil.rmtree(folder)


def read_log(study, job):
    return (study.folder / f"forcetune-{job}.log").read_text()


def test_a_job_whose_time_is_up_queues_itself_again_and_goes_on(search, slurm):
    study = search(pause=0.1, trial={"epochs": 600}, search={"trials": 3})
    job = slurm.submit(study, "--nodes=2", "--cpus-per-task=1", "--time=3", "--signal=B:USR1@60")
    study.wait_for_training()
    wait_until(lambda: slurm.read_job(job)["Restarts"] == "1", "the job to queue itself", 200)
    assert "running trials handed back" in read_log(study, job)
    study.hurry()
    wait_until(lambda: slurm.read_job(job)["JobState"] == "COMPLETED", "the job to end", 200)
    assert set(study.check_promise()["outcome"]) == {"trained"}
    assert "2" in study.find_attempts(), "trials went on from their checkpoints"
    assert not list(study.folder.glob(".forcetune*")), "the token is gone"
    first_node, second_node = (study.folder / f"forcetune-{job}-node{node}.log" for node in (0, 1))
    assert "Ray runtime started" in first_node.read_text()
    assert "Ray runtime started" in second_node.read_text()


def test_a_job_that_is_cancelled_hands_its_trials_back_and_stays_cancelled(search, slurm):
    study = search(pause=0.1, trial={"epochs": 100}, search={"trials": 3})
    job = slurm.submit(study, "--cpus-per-task=1")
    study.wait_for_training()
    slurm.cancel(job)
    wait_until(lambda: slurm.read_job(job)["JobState"] == "CANCELLED", "the job to end", 60)
    wait_until(study.is_free, "the lock to be released with its driver", 60)
    wait_until(lambda: "running trials handed back" in read_log(study, job), "the search to end", 30)
    assert slurm.read_job(job)["Restarts"] == "0"
