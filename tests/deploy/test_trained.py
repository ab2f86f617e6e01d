"""Trained networks of a search: loaded, compacted, trained again, and refused where there is none."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner
from rich.console import Console

import forcetune
from forcetune import data, pruning, tracking, training
from forcetune.cli import main
from forcetune.deploy import load_trained_network
from forcetune.errors import InputError, StoppedError
from forcetune.execution import retraining
from forcetune.execution.worker import execute
from forcetune.ledger.messages import Report
from forcetune.names import NETWORK_FILE
from forcetune.run import examine_study
from forcetune.search.companions import rerun, run_listed_companions
from forcetune.search.driver import open_driver
from forcetune.stores import mlflow_uri
from forcetune.study import Companion, CompanionRuns, Study, Trial
from forcetune.tracking import KEPT_BY_USER, RETRAINED_TAG, Epoch, Tracker
from forcetune.trial import derive_seed

STUDY = {
    "study": "small",
    "trial": {
        "dataset": "digits",
        "model": "mlp",
        "width": 24,
        "method": "snip",
        "density": [0.3, 0.05, 0.0006],  # the last one collapses
        "epochs": 2,
    },
    "search": {"sampler": "grid", "keep": "best"},
}


@pytest.fixture(scope="module")
def searched(module_folder):
    """Search a study of three trials, whose most accurate one keeps its weights."""
    drive(open_driver(Study.from_dict(STUDY), lambda: None, Console(quiet=True)))
    return module_folder


def drive(driver):
    driver.describe()
    while assignment := driver.issue():
        for report in execute(assignment):
            (driver.end if report.outcome else driver.report)(assignment.number, assignment.attempt, report)
    driver.close()


@pytest.fixture
def rows(searched):
    return tracking.load_table("small").trials.set_index("name")


def find_run(rows, outcome="trained", kept=True):
    weights = tracking.load_table("small").weights
    ids = [run for run, row_outcome in zip(rows["run_id"], rows["outcome"], strict=True) if row_outcome == outcome]
    return next(run for run in ids if (weights.get(run, "dropped") != "dropped") == kept)


def measure(network, trial):
    dataset = data.load(trial.dataset)
    _, validation = dataset.split(derive_seed(trial, "split"))
    return training.evaluate(network, dataset.batches(validation, 1024))


def test_the_network_gives_the_accuracy_of_its_run(rows):
    trained = load_trained_network(find_run(rows))
    assert trained.trial.density == 0.3
    assert not trained.network.training
    assert measure(trained.network, trained.trial)["val_accuracy"] == trained.metrics["val_accuracy"]
    for name, mask in trained.masks.items():
        assert not trained.network.get_parameter(name)[~mask].any()
    assert tuple(trained.architecture.input_shape) == (1, 8, 8)
    assert not any(examine_study("small")[1])


def test_the_public_functions_take_a_run_by_its_id_and_by_its_name(rows):
    run = find_run(rows)
    name = f"small/{rows.index[rows['run_id'] == run][0]}"
    network, named = forcetune.load_network(run), forcetune.load_network(name)
    assert all(torch.equal(named.state_dict()[key], tensor) for key, tensor in network.state_dict().items())
    masks = forcetune.load_masks(name)
    assert all(torch.equal(mask, load_trained_network(run).masks[key]) for key, mask in masks.items())
    pruning.save_masks("copied.npz", masks)
    assert [*forcetune.load_masks("copied.npz")] == [*masks]


def test_the_compacted_network_computes_the_same(rows, searched):
    run = find_run(rows)
    network, compacted = forcetune.load_network(run), forcetune.load_network(run, compact=True)
    example = torch.rand(5, 1, 8, 8)
    assert torch.allclose(network(example), compacted(example), atol=1e-5)
    assert sum(p.numel() for p in compacted.parameters()) <= sum(p.numel() for p in network.parameters())


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("a" * 32, "there is no run"),
        ("small/trial-9999", "has no run 'trial-9999'"),
        ("none/trial-0000", "no study 'none'"),
    ],
)
def test_a_run_that_is_not_there_is_refused(searched, source, message):
    for load in (forcetune.load_network, forcetune.load_masks):
        with pytest.raises(InputError, match=message):
            load(source)


def test_a_run_without_weights_names_the_way_to_get_them(rows):
    run = find_run(rows, kept=False)
    with pytest.raises(InputError, match=f"the run {run} keeps no weights: .*`forcetune train {run}` trains"):
        forcetune.load_network(run)


def damage(run, change):
    """Replace the weights of a run, and return a function that restores them."""
    content = tracking.read_file(run, NETWORK_FILE)
    tracker = Tracker("small", mlflow_uri())

    def write(bytes_):
        Path(NETWORK_FILE).write_bytes(bytes_)
        tracker.log_file(run, Path(NETWORK_FILE))

    write(change(content))
    return lambda: write(content)


def test_damaged_weights_are_refused(rows):
    run = find_run(rows)
    restore = damage(run, lambda content: content[:-10])
    try:
        with pytest.raises(
            InputError, match=rf"the weights of the run {run} cannot be loaded: {NETWORK_FILE} is damaged"
        ):
            forcetune.load_network(run)
    finally:
        restore()
    forcetune.load_network(run)


def invoke(*arguments):
    return CliRunner().invoke(main, arguments, catch_exceptions=False)


def test_training_again_keeps_weights_that_no_search_deletes(rows):
    """The run is off the kept front, and gets the numbers of its run to the last digit."""
    run = find_run(rows, kept=False)
    name = f"small/{rows.index[rows['run_id'] == run][0]}"
    accuracy = rows.loc[rows["run_id"] == run, "val_accuracy"].item()
    result = invoke("train", name)
    assert result.exit_code == 0, result.output
    assert "epoch 2: train_loss" in result.output
    assert f"{name} keeps its weights" in result.output
    assert "this training gave the numbers of the run to the last digit" in result.output
    trained = load_trained_network(name)
    assert measure(trained.network, trained.trial)["val_accuracy"] == accuracy == trained.metrics["val_accuracy"]
    assert tracking.load_table("small").weights[run] == KEPT_BY_USER
    assert not list(Path(".forcetune").glob("train-*"))
    driver = open_driver(Study.from_dict(STUDY), lambda: None, Console(quiet=True))
    driver.close()
    load_trained_network(run)
    assert not any(examine_study("small")[1])
    assert "has its weights already, so nothing was trained" in invoke("train", run).output


def test_a_training_that_gives_other_numbers_says_so(rows, monkeypatch):
    run = tracking.find_run("small/" + rows.index[rows["outcome"] == "trained"][-1])
    tracker = Tracker("small", mlflow_uri())
    tracker.remove_file(run, NETWORK_FILE)
    before = tracking.load_run_metrics(run)["val_accuracy"]
    original = retraining.load_run_metrics
    monkeypatch.setattr(retraining, "load_run_metrics", lambda run: {**original(run), "val_accuracy": 0.123})
    result = invoke("train", run)
    assert result.exit_code == 0, result.output
    assert f"this training is not the run's: val_accuracy {before:.9g}, where the run has 0.123" in result.output
    assert json.loads(tracking.load_run_tags(run)[RETRAINED_TAG]) == {"val_accuracy": before}
    tracker.client.set_tag(run, RETRAINED_TAG, json.dumps({"val_accuracy": 0.5}))
    assert load_trained_network(run).metrics["val_accuracy"] == 0.5, "that of the weights"
    monkeypatch.undo()
    tracker.remove_file(run, NETWORK_FILE)
    assert "to the last digit" in invoke("train", run).output
    assert load_trained_network(run).metrics["val_accuracy"] == before


def test_weights_that_mlflow_does_not_take_are_not_trained_again(rows, monkeypatch):
    run = find_run(rows)
    tracker = Tracker("small", mlflow_uri())
    tracker.remove_file(run, NETWORK_FILE)
    log_file, failures = Tracker.log_file, [OSError(28, "No space left on device")]

    def fail_once(self, run, path):
        if failures:
            raise failures.pop()
        log_file(self, run, path)

    monkeypatch.setattr(Tracker, "log_file", fail_once)
    result = invoke("train", run)
    assert result.exit_code == 1
    assert "a disk is full" in result.stderr
    second = invoke("train", run)
    assert second.exit_code == 0, second.output
    assert "epoch" not in second.output.partition("keeps its weights")[0], "the checkpoint has the trained weights"
    assert "to the last digit" in second.output
    load_trained_network(run)


def test_a_training_that_is_interrupted_goes_on(rows, monkeypatch):
    run = find_run(rows)
    Tracker("small", mlflow_uri()).remove_file(run, NETWORK_FILE)

    def interrupt(epoch):
        raise KeyboardInterrupt

    monkeypatch.setattr("forcetune.cli.terminal.show_epoch", interrupt)
    result = invoke("train", run)
    assert result.exit_code == 130
    assert f"interrupted; run `forcetune train {run}` again to continue" in result.stderr
    monkeypatch.undo()
    second = invoke("train", run)
    assert "epoch 1" not in second.output
    assert "epoch 2" in second.output
    assert "to the last digit" in second.output


def test_a_companion_is_trained_again_with_its_test_accuracy(rows):
    study = Study.from_dict(STUDY)
    trial = load_trained_network(find_run(rows)).trial
    twin = Companion(Trial(**{**trial.fields(), "method": "random", "seed": 7}), trial.key, {"arm": "random"})
    run_listed_companions(CompanionRuns(study, [twin]), lambda: None, Console(quiet=True), drive)
    run = "small.companion/trial-0000"
    with pytest.raises(InputError, match="keeps no weights"):
        forcetune.load_network(run)
    result = invoke("train", run)
    assert "this training gave the numbers of the run to the last digit" in result.output, result.output
    assert 0 < load_trained_network(run).metrics["test_accuracy"] < 1
    assert retraining._load_task("small.companion").tested
    assert not retraining._load_task("small").tested


def test_a_trial_that_was_not_trained_is_refused(rows):
    run = rows.loc[rows["outcome"] == "collapsed", "run_id"].iloc[0]
    result = invoke("train", run)
    assert result.exit_code == 2
    assert f"{run} collapsed, and was not trained; allowed: a trial that was trained to its end" in result.stderr
    assert invoke("train", "what is this").exit_code == 2
    assert "there is no run" in invoke("train", "f" * 32).stderr


def test_a_training_that_fails_this_time_leaves_the_run_as_it_is(rows, monkeypatch):
    run = find_run(rows)
    Tracker("small", mlflow_uri()).remove_file(run, NETWORK_FILE)
    monkeypatch.setattr(training.Training, "_train_epoch", lambda self: float("nan"))
    with pytest.raises(StoppedError, match="ended otherwise than in the search: failed, Diverged"):
        retraining.train_again(run)
    assert tracking.read_file(run, NETWORK_FILE) is None


LATE_STUDY = {
    "study": "late",
    "trial": {**STUDY["trial"], "dataset": "synthetic", "density": [0.05, 0.1, 0.2, 0.3], "epochs": 1},
    "search": {"sampler": "grid", "seeds": {"front": 3}},
}
SEARCHED_ACCURACIES = {0.05: 0.84, 0.1: 0.83, 0.2: 0.82, 0.3: 0.81}  # each trial dominates those after it


def search_with_made_up_accuracies(driver):
    driver.describe()
    while assignment := driver.issue():
        accuracy = {"val_accuracy": SEARCHED_ACCURACIES[assignment.trial.density]}
        for report in execute(assignment):
            epoch = report.epoch and replace(report.epoch, metrics={**report.epoch.metrics, **accuracy})
            made_up = replace(report, epoch=epoch, metrics={**report.metrics, **accuracy} if report.metrics else {})
            (driver.end if report.outcome else driver.report)(assignment.number, assignment.attempt, made_up)
    driver.close()


def rerun_with_made_up_accuracies(driver):
    """End each re-run at 0.81 where its density is 0.3, and far below that where it is not."""
    while assignment := driver.issue():
        density = assignment.trial.density
        accuracy = (0.81 if density == 0.3 else 0.5) + 0.001 * (assignment.trial.seed % 2)
        metrics = {"val_accuracy": accuracy, "density": density, "sparsity": 1 - density}
        report = Report(metrics, Epoch(1, 1000, metrics), outcome="trained")
        driver.end(assignment.number, assignment.attempt, report)
    driver.close()


def test_a_trial_of_the_fourth_rank_that_fresh_seeds_bring_onto_the_front_is_exported_after_training(folder):
    study, quiet = Study.from_dict(LATE_STUDY), Console(quiet=True)
    search_with_made_up_accuracies(open_driver(study, lambda: None, quiet))
    assert rerun(study, lambda: None, quiet, rerun_with_made_up_accuracies) is None
    table = tracking.load_table("late")
    run, name = table.trials.set_index("density").loc[0.3, ["run_id", "name"]]
    assert run in table.marked["forcetune.front"]
    assert run not in table.weights
    arguments = ("export", "late", "--top", "1", "--format", "safetensors", "--out", "device")
    refused = invoke(*arguments)
    assert refused.exit_code == 2
    assert f"the run {run} keeps no weights: its trial is on the front now, but" in refused.stderr
    assert f"`forcetune train {run}` trains the configuration again" in refused.stderr
    assert invoke("train", f"late/{name}").exit_code == 0
    exported = invoke(*arguments)
    assert exported.exit_code == 0, exported.output
