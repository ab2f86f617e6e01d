"""A driver that is killed before and after each durable write; the same command then keeps the promise.

Driver, outbox and workers are one thread here, without Ray, so that the writes come in one order. Each run of the
study is a child of a server that has imported everything once.

The points before and after each kind of write are tried once, at a hit that a seed draws; `make chaos` tries all hits.
"""

import json
import multiprocessing
import os
import random
import shutil
import signal
import threading
from concurrent.futures import ThreadPoolExecutor
from datetime import date
from itertools import count
from multiprocessing.connection import wait
from pathlib import Path

import optuna
import pytest
from copied_stores import copy_stores
from promise import check_promise
from rich.console import Console

from forcetune.ledger import fail_points
from forcetune.search.archive import ARCHIVED_REASON

FORK = multiprocessing.get_context("forkserver")
FORK.set_forkserver_preload(
    [
        "forcetune.search.archive",
        "forcetune.execution.worker",
        "torch._dynamo",
        "mlflow.store.tracking.sqlalchemy_store",
    ]
)
KILLS_ALL = os.environ.get("KILLS") == "all"
POINT_SEED = 24
CHILD_LOCK = threading.Lock()  # start() reaps other children, and a join at that moment reads a wrong code

EPOCHS_PER_TRIAL, TRIAL_SLOTS = 2, 2
KILLED_STUDY = {
    "study": "s",
    "on_end": ["sh", "-c", "cat >> ends"],
    "trial": {
        "dataset": "synthetic",
        "model": "mlp",
        "width": 12,
        "epochs": EPOCHS_PER_TRIAL,
        "method": ["snip", "broken:score", "random"],
        "density": {"low": 0.05, "high": 0.5, "log": True},
    },
    "search": {"trials": 3},
}
STOPPED_ABOVE_DENSITY = 0.2  # a denser trial is stopped at its only rung, after epoch 1
WORKING_SCORE_CODE = "def score(net):\n    return {name: weight.abs() for name, weight in net.weights.items()}\n"
FAILING_SCORE_CODE = "def score(net):\n    raise RuntimeError('mine')\n"
ARCHIVE_WRITES = ("archive begun", "experiment archived", "archived")
FIRST_KILL_POINT = "checkpoint after 1"  # it leaves one trial half trained


def drive(folder, fault, fresh, retry_failed):
    """Run the study once, as the command does, unless `fault` kills it, and write all points passed to writes.json."""
    from forcetune.execution.worker import execute
    from forcetune.ledger import checkpoints
    from forcetune.ledger.driver_lock import driver_lock
    from forcetune.ledger.outbox import Outbox
    from forcetune.ledger.recorded_study import refuse_changes
    from forcetune.ledger.study_attributes import request_retry
    from forcetune.search import stopping
    from forcetune.search.announcing import announce_end
    from forcetune.search.archive import archive
    from forcetune.search.driver import open_driver
    from forcetune.stores import optuna_uri
    from forcetune.study import Study
    from forcetune.tracking import schema
    from forcetune.training import loop

    os.chdir(folder)
    os.environ["FORCETUNE_FAULT"] = fault
    schema._migrate = lambda path, artifacts: shutil.copy("template.db", path)
    checkpoints.CHECKPOINT_TIME_SHARE = float("inf")  # a checkpoint is written after every epoch
    Outbox._start, Outbox.drain = lambda self: None, deliver_all  # a thread would change the order of writes
    stopping.RULES["pareto"] = lambda losses: "it is dense" if losses[-1][1] > STOPPED_ABOVE_DENSITY else None
    original_pass = loop.Training._train_epoch

    def count_pass(training):
        with open("passes", "a") as file:
            file.write(f"{training.epoch + 1}\n")
        return original_pass(training)

    loop.Training._train_epoch = count_pass
    study = Study.from_dict(KILLED_STUDY)
    with driver_lock(study.study, optuna_uri()) as lock:
        archive("s", lock.check, Console(quiet=True), fresh)
        refuse_changes(study, optuna_uri())
        if retry_failed:
            request_retry("s", optuna_uri())
        driver = open_driver(study, lock.check, Console(quiet=True))
        running = []
        while not driver.is_finished:
            while len(running) < TRIAL_SLOTS and (assignment := driver.issue()):
                running.append((assignment, execute(assignment)))
            for assignment, reports in list(running):
                report = next(reports)
                deliver_report = driver.end if report.outcome else driver.report
                stopped = deliver_report(assignment.number, assignment.attempt, report)
                deliver_all(driver._outbox)
                if report.outcome or stopped:
                    running.remove((assignment, reports))
        driver.close()
        announce_end(study, "completed", None, Console(quiet=True))
    Path("writes.json").write_text(json.dumps(fail_points._passed))


def deliver_all(outbox, seconds=None):
    while outbox.waiting:
        outbox._deliver_next()
    return 0


def run_child(folder, fault="", fresh=False, retry_failed=False):
    child = FORK.Process(target=drive, args=(folder, fault, fresh, retry_failed))
    with CHILD_LOCK:
        child.start()
    assert wait([child.sentinel], 120), "the run does not end"
    with CHILD_LOCK:
        child.join()
    return child.exitcode


@pytest.fixture(scope="module")
def make_folder(tmp_path_factory, empty_mlflow):
    """Return a function that makes a folder without stores.

    The template in it spares MLflow's migrations, which take seconds.
    """

    def make():
        folder = tmp_path_factory.mktemp("study")
        shutil.copy(empty_mlflow, folder / "template.db")
        (folder / "broken.py").write_text(FAILING_SCORE_CODE)
        return folder

    return make


@pytest.fixture
def copy_folder(tmp_path):
    """Return a function that copies a folder after a run in it, which spares each point the same run."""
    numbers = count()
    return lambda folder: copy_stores(folder, tmp_path / str(next(numbers)))


def draw_kill_points(folder):
    """Return a kill point before and one after each kind of write that a run has passed, or all points."""
    passed = json.loads((folder / "writes.json").read_text())
    if KILLS_ALL:
        return [f"{point} {hit + 1}" for point, hits in passed.items() for hit in range(hits)]
    draw = random.Random(POINT_SEED)
    return [f"{point} {draw.randint(1, hits)}" for point, hits in passed.items()]


def check_stores(folder, kills):
    rows = check_promise("s", 3, *list_stores(folder))
    passes = (folder / "passes").read_text().split()
    trained = sum({"trained": EPOCHS_PER_TRIAL, "stopped": 1, "failed": 0}[outcome] for outcome in rows["outcome"])
    assert trained <= len(passes) <= trained + kills * TRIAL_SLOTS, (
        "a kill costs at most one epoch of each running trial"
    )
    assert not (folder / ".forcetune").exists(), "nothing is left on disk"
    ends = [json.loads(line) for line in (folder / "ends").read_text().splitlines()]
    assert {(end["study"], end["state"], sum(end["outcomes"].values())) for end in ends} == {("s", "completed", 3)}
    assert 1 <= len(ends) <= 1 + kills, "the program of `on_end` starts once, unless a kill comes before its record"
    return rows


def list_stores(folder):
    return f"sqlite:///{folder}/optuna.db", f"sqlite:///{folder}/mlflow.db"


def check_all(check_point, points):
    with ThreadPoolExecutor(2) as pool:
        list(pool.map(check_point, points))


@pytest.mark.long
def test_a_kill_at_every_write(make_folder):
    reference = make_folder()
    assert run_child(reference) == 0
    assert set(check_stores(reference, kills=0)["outcome"]) == {"trained", "stopped", "failed"}
    points = draw_kill_points(reference)
    assert {point.rsplit(" ", 2)[0] for point in points} == {*fail_points.WRITES} - {
        *("issue", "retry", "drop"),  # of other tests here, and of test_kept_weights.py
        *ARCHIVE_WRITES,
    }

    def check_point(point):
        folder = make_folder()
        assert run_child(folder, point) == -signal.SIGKILL, point
        assert run_child(folder) == 0, point
        check_stores(folder, kills=1)

    check_all(check_point, points)


@pytest.mark.long
def test_a_kill_at_every_write_of_a_run_that_goes_on(make_folder, copy_folder):
    killed_folder = make_folder()
    assert run_child(killed_folder, FIRST_KILL_POINT) == -signal.SIGKILL
    reference = copy_folder(killed_folder)
    assert run_child(reference) == 0
    points = draw_kill_points(reference)
    assert any(point.startswith("issue") for point in points)

    def check_point(point):
        folder = copy_folder(killed_folder)
        assert run_child(folder, point) == -signal.SIGKILL, point
        assert run_child(folder) == 0, point
        check_stores(folder, kills=2)

    check_all(check_point, points)


@pytest.mark.long
def test_a_kill_at_every_write_of_a_run_that_retries(make_folder, copy_folder):
    mended_folder = make_folder()
    assert run_child(mended_folder) == 0
    (mended_folder / "broken.py").write_text(WORKING_SCORE_CODE)
    reference = copy_folder(mended_folder)
    assert run_child(reference, retry_failed=True) == 0
    assert set(check_promise("s", 3, *list_stores(reference))["outcome"]) == {"trained", "stopped"}
    points = draw_kill_points(reference)
    assert {"retry before 1", "retry after 1"} <= {*points}, "it is written once"

    def check_point(point):
        folder = copy_folder(mended_folder)
        assert run_child(folder, point, retry_failed=True) == -signal.SIGKILL, point
        assert run_child(folder) == 0, f"{point}: the request for a retry needs no second option"
        check_promise("s", 3, *list_stores(folder))
        trials = optuna.load_study(study_name="s", storage=list_stores(folder)[0]).trials
        assert sum("supersedes" in trial.user_attrs for trial in trials) == 1, f"{point}: the trial is run again once"

    check_all(check_point, points)


def test_a_kill_while_a_study_is_archived(make_folder):
    writes = [f"{write} {moment} 1" for write in ("decide", "tell", *ARCHIVE_WRITES) for moment in ("before", "after")]
    killed_folder = make_folder()
    assert run_child(killed_folder, FIRST_KILL_POINT) == -signal.SIGKILL
    for number, point in enumerate(["", *writes]):
        folder = killed_folder.with_name(f"{killed_folder.name}-{number}")
        shutil.copytree(killed_folder, folder)  # no process has its stores open
        assert run_child(folder, point, fresh=True) == (-signal.SIGKILL if point else 0), point
        assert run_child(folder, fresh=point == "archive begun before 1") == 0, (
            f"{point}: an archive that was begun needs no option"
        )
        names = {study.study_name for study in optuna.storages.RDBStorage(list_stores(folder)[0]).get_all_studies()}
        assert names == {"s", f"s.{date.today()}"}, point
        check_promise("s", 3, *list_stores(folder))
        archived_rows = check_promise(f"s.{date.today()}", 2, *list_stores(folder))
        assert ARCHIVED_REASON in set(archived_rows["reason"])
