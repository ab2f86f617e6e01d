"""Weights that `search.keep` keeps: written once, deleted when their trial has left the front, whatever is killed."""

import errno
import json
import multiprocessing
import os
import shutil
import signal
from pathlib import Path

import pytest
from mlflow import MlflowClient
from rich.console import Console
from test_kills import FORK, check_all, deliver_all, draw_kill_points

from forcetune import analysis, tracking
from forcetune.ledger import fail_points, outbox
from forcetune.ledger.messages import Proposal, Report, TrialStarted
from forcetune.ledger.outbox import Outbox
from forcetune.ledger.trials import load_trials
from forcetune.run import examine_study
from forcetune.search.archive import archive
from forcetune.search.companions import rerun
from forcetune.search.driver import open_driver
from forcetune.search.keeping import KeptWeights
from forcetune.search.proposals import FixedProposals
from forcetune.stores import mlflow_uri, optuna_uri
from forcetune.study import Study, Trial
from forcetune.tracking import KEPT_BY_USER, Epoch, Tracker

assert multiprocessing  # the tests with it are heavy

NETWORK_FILE = "network.safetensors"
DENSITIES = (0.4, 0.3, 0.2, 0.1, 0.05)
ACCURACIES = (0.7, 0.8, 0.75, 0.6, 0.8)  # of the trials in their order: the last one dominates all others
TRIAL_FIELDS = {"dataset": "synthetic", "model": "mlp", "width": 12, "epochs": 1, "method": "random"}


def make_study(keep="front", **search):
    search = {"trials": len(DENSITIES), "keep": keep, **search}
    return Study.from_dict({"study": "s", "trial": {**TRIAL_FIELDS, "density": [*DENSITIES]}, "search": search})


def make_driver(study, densities=DENSITIES):
    proposals = [Proposal(Trial(**TRIAL_FIELDS, density=density)) for density in densities]

    def propose(history):
        started = {trial.user_attrs["key"] for trial in history}
        return FixedProposals([proposal for proposal in proposals if proposal.key not in started])

    return open_driver(study, lambda: None, Console(quiet=True), propose=propose)


def get_accuracy(assignment):
    return ACCURACIES[DENSITIES.index(assignment.trial.density)]


def start(driver, assignment):
    report = Report(
        trial_started=TrialStarted({"density": assignment.trial.density}, "cpu", []), files={"masks.npz": b"masks"}
    )
    driver.report(assignment.number, assignment.attempt, report)


def end(driver, assignment, accuracy=None, outcome="trained"):
    accuracy = get_accuracy(assignment) if accuracy is None else accuracy
    metrics = {"val_accuracy": accuracy, "density": assignment.trial.density, "sparsity": 1 - assignment.trial.density}
    files = {NETWORK_FILE: f"weights at {assignment.trial.density}".encode()} if assignment.sends_weights else {}
    report = Report(metrics, Epoch(1, 1000, metrics), outcome=outcome, files=files)
    driver.end(assignment.number, assignment.attempt, report)


def run_all(driver):
    while assignment := driver.issue():
        start(driver, assignment)
        end(driver, assignment)
    driver.close()


def read_weights(name="s", uri=None):
    """Return the weights that MLflow has, by density, and assert that the tags name exactly these runs."""
    table = tracking.load_table(name, uri)
    weights = {}
    for row in table.trials.to_dict("records"):
        content = tracking.read_file(row["run_id"], NETWORK_FILE, uri)
        assert (content is not None) == (table.weights.get(row["run_id"], "dropped") != "dropped"), row["name"]
        if content is not None:
            assert content.decode() == f"weights at {row['density']}"
            weights[row["density"]] = content
    return sorted(weights, reverse=True)


def count_logged(monkeypatch):
    """Return a list that grows by the density in each file of weights that is written to MLflow."""
    logged = []
    log_file = Tracker.log_file

    def log(self, run, path):
        if path.name == NETWORK_FILE:
            logged.append(path.read_bytes().decode())
        log_file(self, run, path)

    monkeypatch.setattr(Tracker, "log_file", log)
    return logged


@pytest.mark.parametrize(
    ("keep", "written", "kept"),
    [
        ("front", [0.4, 0.3, 0.2, 0.1, 0.05], [0.05]),
        ("best", [0.4, 0.3, 0.05], [0.3, 0.05]),
        ("all", [0.4, 0.3, 0.2, 0.1, 0.05], [0.4, 0.3, 0.2, 0.1, 0.05]),
        ("none", [], []),
    ],
)
def test_weights_are_written_once_and_deleted_when_their_trial_has_left_the_front(
    folder, monkeypatch, keep, written, kept
):
    logged = count_logged(monkeypatch)
    run_all(make_driver(make_study(keep)))
    assert logged == [f"weights at {density}" for density in written]
    assert read_weights() == kept
    assert examine_study("s")[1] == []
    assert not (folder / ".forcetune").exists()


def test_a_trial_that_is_dominated_when_it_ends_writes_nothing(folder, monkeypatch):
    logged = count_logged(monkeypatch)
    run_all(make_driver(make_study(), densities=DENSITIES[::-1]))
    assert logged == ["weights at 0.05"]
    assert read_weights() == [0.05]


def test_what_is_kept_may_change_between_two_runs_of_the_search(folder):
    driver = make_driver(make_study("all", trials=2))
    run_all(driver)
    assert read_weights() == [0.4, 0.3]
    run_all(make_driver(make_study("front", trials=4)))
    assert read_weights() == [0.3, 0.2, 0.1], "0.4 is dominated by 0.3"
    run_all(make_driver(make_study("none")))
    assert read_weights() == []
    run_all(make_driver(make_study("front")))
    assert read_weights() == [], "what was deleted does not come back"
    assert {len(trials) for trials in [load_trials("s", optuna_uri())]} == {5}, "no trial has another key"


def test_weights_that_the_user_keeps_are_not_deleted(folder):
    run_all(make_driver(make_study(trials=2)))
    run = tracking.load_table("s").trials.set_index("density").loc[0.4, "run_id"]
    tracker = Tracker("s", mlflow_uri())
    tracker.tag_weights(run, KEPT_BY_USER)
    Path(NETWORK_FILE).write_bytes(b"weights at 0.4")
    tracker.log_file(run, Path(NETWORK_FILE))
    run_all(make_driver(make_study()))
    assert read_weights() == [0.4, 0.05]


def test_a_study_of_an_earlier_version_has_no_rule_and_loses_nothing(folder):
    run_all(make_driver(make_study("all", trials=2)))
    table = tracking.load_table("s")
    MlflowClient(mlflow_uri()).delete_tag(table.parent, "forcetune.keep")
    from forcetune.search.marking import mark_front

    mark_front(Tracker("s", mlflow_uri()))
    assert read_weights() == [0.4, 0.3]


def test_companions_keep_no_weights_and_fresh_seeds_decide_what_the_study_keeps(folder):
    study = make_study(seeds={"front": 2})
    run_all(make_driver(study))
    assert read_weights() == [0.4, 0.3, 0.2, 0.1, 0.05], "the first three ranks, until fresh seeds have judged"
    requested = []

    def drive(driver):
        while assignment := driver.issue():
            requested.append(assignment.sends_weights)
            end(driver, assignment, get_accuracy(assignment) + 0.001 * (assignment.trial.seed % 2))
        driver.close()

    assert rerun(study, lambda: None, Console(quiet=True), drive) is None
    assert requested
    assert not any(requested)
    assert read_weights("s.companion") == []
    assert read_weights() == [0.3, 0.05], "of the others, only the interval of 0.3 reaches the accuracy of the front"


def test_the_driver_writes_what_the_table_would_keep():
    study = make_study()
    assert KeptWeights(study).keep == "front"
    assert KeptWeights(study.model_copy(update={"study": "s.companion"})).keep == "none"


def test_an_interrupted_trial_leaves_no_weights_to_an_attempt_that_ends_otherwise(folder):
    """The driver was killed after it wrote the weights, and before it recorded the outcome."""
    driver = make_driver(make_study(trials=1))
    assignment = driver.issue()
    start(driver, assignment)
    path = Path(assignment.checkpoints) / NETWORK_FILE
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"weights at 0.4")
    driver.close(5.0)
    driver = make_driver(make_study(trials=1))
    end(driver, driver.issue(), outcome="failed")
    driver.close()
    assert read_weights() == []


def test_a_half_written_file_is_not_delivered(folder):
    driver = make_driver(make_study(trials=1))
    assignment = driver.issue()
    start(driver, assignment)
    folder_of_trial = Path(assignment.checkpoints)
    (folder_of_trial / f"{NETWORK_FILE}~").write_bytes(b"wei")
    driver.close(5.0)
    run_all(make_driver(make_study(trials=1)))
    run = tracking.load_table("s").trials.loc[0, "run_id"]
    assert Tracker("s", mlflow_uri()).list_files(run) == {"masks.npz", NETWORK_FILE}


def test_a_full_disk_loses_neither_the_trial_nor_its_weights(folder, monkeypatch):
    write_whole = outbox.write_whole

    def write_half(path, content):
        if path.name == NETWORK_FILE:
            Path(f"{path}~").write_bytes(content[: len(content) // 2])
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        write_whole(path, content)

    driver = make_driver(make_study(trials=1))
    assignment = driver.issue()
    start(driver, assignment)
    monkeypatch.setattr(outbox, "write_whole", write_half)
    with pytest.raises(OSError, match="No space left"):  # the command line says what to do
        end(driver, assignment)
    driver.hand_back()
    driver.close(2.0)
    monkeypatch.undo()
    monkeypatch.chdir(folder)
    run_all(make_driver(make_study(trials=1)))
    assert read_weights() == [0.4]
    assert examine_study("s")[1] == []


def test_an_artifact_store_that_is_full_gets_the_weights_later(folder, monkeypatch):
    log_file, failures = Tracker.log_file, [OSError(errno.ENOSPC, "full")] * 2

    def log(self, run, path):
        if path.name == NETWORK_FILE and failures:
            raise failures.pop()
        log_file(self, run, path)

    monkeypatch.setattr(Tracker, "log_file", log)
    monkeypatch.setattr("forcetune.ledger.outbox.DELIVERY_RETRY_PAUSE_S", 0.01)
    run_all(make_driver(make_study(trials=1)))
    assert failures == []
    assert read_weights() == [0.4]


def test_a_deletion_that_fails_is_named_and_the_doctor_completes_it(folder, monkeypatch):
    remove_file = Tracker.remove_file

    def fail(self, run, name):
        remove_file(self, run, name)
        raise ConnectionError("the answer is lost")

    monkeypatch.setattr(Tracker, "remove_file", fail)
    driver = make_driver(make_study())
    warnings = []
    driver.progress.warn = warnings.append
    run_all(driver)
    assert any("could not be deleted: the answer is lost" in warning for warning in warnings)
    monkeypatch.undo()
    monkeypatch.chdir(folder)
    findings = examine_study("s")[1]
    assert "has trained weights that `search.keep` does not keep" in {finding.what for finding in findings}
    assert examine_study("s", mend=True)[1] == []
    assert read_weights() == [0.05]


@pytest.mark.parametrize("is_delivered", [False, True])
def test_the_doctor_keeps_to_the_rule_of_the_last_search(folder, monkeypatch, is_delivered):
    """The ledger's record of a study does not say whose weights are kept; nor does a run whose outcome is late."""
    driver = make_driver(make_study("all"))
    for _ in range(len(DENSITIES) - 1):
        assignment = driver.issue()
        start(driver, assignment)
        end(driver, assignment)
    driver.close(10.0)
    driver = make_driver(make_study("all"))
    monkeypatch.setattr(driver._outbox, "end", lambda number, outcome: None)
    if not is_delivered:
        monkeypatch.setattr(driver._outbox, "_start", lambda: None)
    assignment = driver.issue()
    start(driver, assignment)
    end(driver, assignment)
    if is_delivered:  # all but the outcome
        assert driver._outbox.drain(20.0) == 0
    driver._outbox.close()
    if is_delivered:
        driver._outbox._thread.join()
    mended, left, _ = examine_study("s", mend=True)
    assert "has ended, but its result is not in both stores" in {finding.what for finding in mended}
    assert left == []
    assert read_weights() == [*DENSITIES]


def test_an_archived_study_keeps_its_weights(folder):
    run_all(make_driver(make_study("all", trials=2)))
    name = archive("s", lambda: None, Console(quiet=True), fresh=True)
    assert read_weights(name) == [0.4, 0.3]


def test_weights_that_a_late_request_wrote_again_are_deleted_again(folder):
    run_all(make_driver(make_study()))
    run = tracking.load_table("s").trials.set_index("density").loc[0.4, "run_id"]
    write_late(run)
    assert [finding.what for finding in examine_study("s")[1]] == [
        f"has a run with {NETWORK_FILE}, which was deleted before"
    ]
    assert examine_study("s", mend=True)[1] == []
    assert read_weights() == [0.05]
    write_late(run)
    run_all(make_driver(make_study()))
    assert read_weights() == [0.05]


def write_late(run):
    Path(NETWORK_FILE).write_bytes(b"weights at 0.4")
    Tracker("s", mlflow_uri()).log_file(run, Path(NETWORK_FILE))


def test_a_run_that_lost_its_weights_is_found_by_the_doctor(folder):
    run_all(make_driver(make_study()))
    run = tracking.load_table("s").trials.set_index("density").loc[0.05, "run_id"]
    Tracker("s", mlflow_uri()).remove_file(run, NETWORK_FILE)
    assert [finding.what for finding in examine_study("s")[1]] == [
        f"has a run that is tagged as if it had {NETWORK_FILE}"
    ]
    assert examine_study("s", mend=True)[1] == []
    assert read_weights() == []


def drive(folder, fault):
    """Run the study with made-up reports in one thread, unless `fault` kills it."""
    os.chdir(folder)
    os.environ["FORCETUNE_FAULT"] = fault
    Outbox._start, Outbox.drain = lambda self: None, deliver_all
    driver = make_driver(make_study())
    while assignment := driver.issue():
        start(driver, assignment)
        end(driver, assignment)
        deliver_all(driver._outbox)
    driver.close()
    Path("writes.json").write_text(json.dumps(fail_points._passed))


def run_child(folder, fault=""):
    child = FORK.Process(target=drive, args=(folder, fault))
    child.start()
    child.join(120)
    return child.exitcode


KILLED_WRITES = ("files", "artifact", "log", "decide", "end", "tell", "clean", "drop", "close")


@pytest.mark.long  # two processes for each of twenty points
def test_a_kill_at_every_write_loses_no_weights_and_leaves_none_behind(tmp_path_factory, empty_mlflow):
    def make_folder():
        folder = tmp_path_factory.mktemp("kept")
        shutil.copy(empty_mlflow, folder / "mlflow.db")
        return folder

    reference = make_folder()
    assert run_child(reference) == 0
    assert json.loads((reference / "writes.json").read_text())["drop before"] == 4
    points = [point for point in draw_kill_points(reference) if point.rsplit(" ", 2)[0] in KILLED_WRITES]

    def check_point(point):
        folder = make_folder()
        assert run_child(folder, point) == -signal.SIGKILL, point
        assert run_child(folder) == 0, point
        uri = f"sqlite:///{folder}/mlflow.db"
        assert read_weights("s", uri) == [0.05], point
        assert len(tracking.load_table("s", uri).trials) == len(DENSITIES), point
        assert not (folder / ".forcetune").exists(), point

    check_all(check_point, points)


@pytest.mark.parametrize(
    "point", ["files after 2", "artifact before 2", "artifact after 2", "drop before 1", "drop after 1"]
)
def test_a_kill_around_the_weights(tmp_path, empty_mlflow, point):
    shutil.copy(empty_mlflow, tmp_path / "mlflow.db")
    assert run_child(tmp_path, point) == -signal.SIGKILL
    assert run_child(tmp_path) == 0
    assert read_weights("s", f"sqlite:///{tmp_path}/mlflow.db") == [0.05]


def test_the_table_agrees_with_what_is_kept(folder):
    run_all(make_driver(make_study()))
    table = tracking.load_table("s")
    kept = analysis.select_kept(table.trials, table.objectives, **table.keep_rule)
    assert list(kept["density"]) == read_weights()
