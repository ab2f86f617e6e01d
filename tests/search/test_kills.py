"""A driver killed at every durable write in turn, before and after it: the same command again keeps the promise.

Driver, outbox and workers are one thread here, without Ray, so that the writes come in one order; each run of the
study is a child of a server that has imported everything once.
"""

import json
import multiprocessing
import os
import shutil
import signal
import threading
from concurrent.futures import ThreadPoolExecutor
from datetime import date
from multiprocessing.connection import wait
from pathlib import Path

import optuna
import pytest
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
ONE_AT_A_TIME = threading.Lock()  # start() reaps what others have started, and a join beside that reads a wrong code

EPOCHS, SLOTS = 2, 2
STUDY = {
    "study": "s",
    "trial": {
        "dataset": "synthetic",
        "model": "mlp",
        "width": 12,
        "epochs": EPOCHS,
        "method": ["snip", "broken:score", "random"],
        "density": {"low": 0.05, "high": 0.5, "log": True},
    },
    "search": {"trials": 3},
}
DENSE = 0.2  # above it a trial is stopped at its only rung, after the first epoch
MENDED = "def score(net):\n    return {name: weight.abs() for name, weight in net.weights.items()}\n"
BROKEN = "def score(net):\n    raise RuntimeError('mine')\n"
ARCHIVING = ("archive begun", "experiment archived", "archived")
FIRST_KILL = "checkpoint after 1"  # of those that kill a run that goes on: one trial is half trained then


def drive(folder, fault, fresh, retry_failed):
    """One run of the study, as the command does it, that may end in the middle; what it reached is in writes.json."""
    from forcetune.execution.worker import execute
    from forcetune.ledger import checkpoints
    from forcetune.ledger.driver_lock import driver_lock
    from forcetune.ledger.ledger import refuse_changes, request_retry
    from forcetune.ledger.outbox import Outbox
    from forcetune.search import stopping
    from forcetune.search.archive import archive
    from forcetune.search.driver import open_driver
    from forcetune.stores import optuna_uri
    from forcetune.study import Study
    from forcetune.tracking import schema
    from forcetune.training import loop

    os.chdir(folder)
    os.environ["FORCETUNE_FAULT"] = fault
    schema._migrate = lambda path, artifacts: shutil.copy("template.db", path)
    checkpoints.CHECKPOINT_TIME_SHARE = float("inf")  # one after every epoch
    Outbox._start, Outbox.drain = lambda self: None, deliver_all  # in a thread, two runs would not write alike
    stopping.RULES["pareto"] = lambda losses: "it is dense" if losses[-1][1] > DENSE else None
    one_pass = loop.Training._pass

    def counted(training):
        with open("passes", "a") as file:
            file.write(f"{training.epoch + 1}\n")
        return one_pass(training)

    loop.Training._pass = counted
    study = Study.from_dict(STUDY)
    with driver_lock(study.study, optuna_uri()) as held:
        archive("s", held.check, Console(quiet=True), fresh)
        refuse_changes(study, optuna_uri())
        if retry_failed:
            request_retry("s", optuna_uri())
        driver = open_driver(study, held.check, Console(quiet=True))
        working = []
        while not driver.is_finished:
            while len(working) < SLOTS and (assignment := driver.issue()):
                working.append((assignment, execute(assignment)))
            for assignment, reports in list(working):
                report = next(reports)
                tell = driver.end if report.outcome else driver.report
                stopped = tell(assignment.number, assignment.attempt, report)
                deliver_all(driver._outbox)
                if report.outcome or stopped:
                    working.remove((assignment, reports))
        driver.close()
    Path("writes.json").write_text(json.dumps(fail_points._passed))


def deliver_all(outbox, seconds=None):
    while outbox.waiting:
        outbox._deliver_next()
    return 0


def run(folder, fault="", fresh=False, retry_failed=False):
    child = FORK.Process(target=drive, args=(folder, fault, fresh, retry_failed))
    with ONE_AT_A_TIME:
        child.start()
    assert wait([child.sentinel], 120), "it does not end"
    with ONE_AT_A_TIME:
        child.join()
    return child.exitcode


@pytest.fixture(scope="module")
def places(tmp_path_factory, empty_mlflow):
    """A new folder without stores at each call; the template spares MLflow's migrations, which take seconds."""

    def make():
        folder = tmp_path_factory.mktemp("study")
        shutil.copy(empty_mlflow, folder / "template.db")
        (folder / "broken.py").write_text(BROKEN)
        return folder

    return make


def reached(folder):
    passed = json.loads((folder / "writes.json").read_text())
    return [f"{point} {hit + 1}" for point, hits in passed.items() for hit in range(hits)]


def check(folder, kills):
    rows = check_promise("s", 3, *stores(folder))
    passes = (folder / "passes").read_text().split()
    trained = sum({"trained": EPOCHS, "stopped": 1, "failed": 0}[outcome] for outcome in rows["outcome"])
    assert trained <= len(passes) <= trained + kills * SLOTS, "a kill costs at most the epoch that each trial is in"
    assert not (folder / ".forcetune").exists(), "nothing is left on disk"
    return rows


def stores(folder):
    return f"sqlite:///{folder}/optuna.db", f"sqlite:///{folder}/mlflow.db"


def all_of(case, points):
    with ThreadPoolExecutor(2) as pool:
        list(pool.map(case, points))


@pytest.mark.long
def test_a_kill_at_every_write(places):
    whole = places()
    assert run(whole) == 0
    assert set(check(whole, kills=0)["outcome"]) == {"trained", "stopped", "failed"}
    points = reached(whole)
    assert {point.rsplit(" ", 2)[0] for point in points} == {*fail_points.WRITES} - {"issue", "retry", *ARCHIVING}

    def case(point):
        folder = places()
        assert run(folder, point) == -signal.SIGKILL, point
        assert run(folder) == 0, point
        check(folder, kills=1)

    all_of(case, points)


@pytest.mark.long
def test_a_kill_at_every_write_of_a_run_that_goes_on(places):
    whole = places()
    assert run(whole, FIRST_KILL) == -signal.SIGKILL
    assert run(whole) == 0
    points = reached(whole)
    assert any(point.startswith("issue") for point in points)

    def case(point):
        folder = places()
        assert run(folder, FIRST_KILL) == -signal.SIGKILL
        assert run(folder, point) == -signal.SIGKILL, point
        assert run(folder) == 0, point
        check(folder, kills=2)

    all_of(case, points)


@pytest.mark.long
def test_a_kill_at_every_write_of_a_run_that_retries(places):
    def mended():
        folder = places()
        assert run(folder) == 0
        (folder / "broken.py").write_text(MENDED)
        return folder

    whole = mended()
    assert run(whole, retry_failed=True) == 0
    assert set(check_promise("s", 3, *stores(whole))["outcome"]) == {"trained", "stopped"}
    points = reached(whole)
    assert {"retry before 1", "retry after 1"} <= {*points}

    def case(point):
        folder = mended()
        assert run(folder, point, retry_failed=True) == -signal.SIGKILL, point
        assert run(folder) == 0, f"{point}: what was asked for needs no option again"
        check_promise("s", 3, *stores(folder))
        trials = optuna.load_study(study_name="s", storage=stores(folder)[0]).trials
        assert sum("supersedes" in trial.user_attrs for trial in trials) == 1, f"{point}: it is run again once"

    all_of(case, points)


def test_a_kill_while_a_study_is_archived(places):
    writes = [f"{write} {side} 1" for write in ("decide", "tell", *ARCHIVING) for side in ("before", "after")]
    for point in ["", *writes]:
        folder = places()
        assert run(folder, FIRST_KILL) == -signal.SIGKILL
        assert run(folder, point, fresh=True) == (-signal.SIGKILL if point else 0), point
        assert run(folder, fresh=point == "archive begun before 1") == 0, f"{point}: what was begun needs no option"
        names = {study.study_name for study in optuna.storages.RDBStorage(stores(folder)[0]).get_all_studies()}
        assert names == {"s", f"s.{date.today()}"}, point
        check_promise("s", 3, *stores(folder))
        kept = check_promise(f"s.{date.today()}", 2, *stores(folder))
        assert ARCHIVED_REASON in set(kept["reason"])
