"""One attempt at a trial: its reports, its files on disk, and its errors, which do not end the worker."""

import itertools
import json
import sys
from dataclasses import replace

import pytest
import torch

from forcetune import models, pruning, training, trial
from forcetune.execution.worker import execute
from forcetune.ledger.checkpoints import Checkpoints, SupersededError
from forcetune.ledger.messages import Assignment, LostError
from forcetune.pruning import load_masks
from forcetune.study import COST_METRICS, Task, Trial

SNIP_TRIAL_FIELDS = {"dataset": "synthetic", "model": "mlp", "width": 12, "method": "snip", "density": 0.1, "epochs": 3}


@pytest.fixture
def make_assignment(tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.chdir(tmp_path)
    (tmp_path / "s").mkdir()

    def make(attempt=1, number=0, task=Task(), sends_weights=False, **changed):  # noqa: B008 - it is frozen
        return Assignment(
            number=number,
            trial=Trial(**{**SNIP_TRIAL_FIELDS, **changed}),
            task=task,
            attempt=attempt,
            mlflow_uri="sqlite:///none.db",
            folder=str(tmp_path),
            checkpoints=str(tmp_path / "s" / f"{number:04d}"),
            threads=1,
            sends_weights=sends_weights,
        )

    return make


def collect_curve(reports):
    """Return the metrics of all reported epochs in their order, without times."""
    epochs = []
    for report in reports:
        epochs += [
            *(report.trial_started.curve if report.trial_started else []),
            *([report.epoch] if report.epoch else []),
        ]
    return [
        (epoch.step, {name: value for name, value in epoch.metrics.items() if name != "train_seconds"})
        for epoch in epochs
    ]


def test_a_trained_trial_reports_its_start_and_its_epochs(make_assignment, tmp_path):
    start_report, *epochs = execute(make_assignment())
    assert [report.epoch.step for report in epochs] == [1, 2, 3]
    assert [report.outcome for report in epochs] == [None, None, "trained"]
    metric_names = {"train_loss", "val_loss", "val_accuracy"}
    assert set(epochs[0].epoch.metrics) == {*metric_names, "ema_val_loss", "ema_val_accuracy"}, (
        "a rung has averaged weights too"
    )
    assert set(epochs[-1].epoch.metrics) == {*metric_names, *COST_METRICS}
    static_metrics = start_report.trial_started.static_metrics
    assert {"density", "sparsity", "effective_density", "macs", "saliency_samples", "prune_seconds"} <= set(
        static_metrics
    )
    assert start_report.trial_started.device == "cpu"
    (tmp_path / "masks.npz").write_bytes(start_report.files["masks.npz"])
    masks = load_masks(tmp_path / "masks.npz")
    total = sum(mask.numel() for mask in masks.values())
    assert sum(int(mask.sum()) for mask in masks.values()) == int(total * 0.1)


@pytest.mark.parametrize("report_count", [1, 2, 3, 4, 5])
def test_a_trial_whose_masks_change_ends_with_its_last_masks(make_assignment, monkeypatch, tmp_path, report_count):
    """The attempt is killed after one of its reports, the last one included."""
    monkeypatch.setattr(Checkpoints, "is_due", lambda self: True)
    fields = {"method": "gradual_magnitude", "iterations": 4, "density": 0.1}
    attempt = execute(make_assignment(**fields))
    reports = list(itertools.islice(attempt, report_count))
    attempt.close()
    assert set(reports[0].trial_started.static_metrics) >= {"density", "sparsity"}
    assert "macs" not in reports[0].trial_started.static_metrics, "it is known at the end"
    assert "masks.npz" not in reports[0].files, "they are not those of the trial's density yet"
    has_files = [bool(report.files) for report in reports[1:]]
    assert has_files == [report.metrics["settled"] == 1 for report in reports[1:]]
    *_, last = execute(make_assignment(2, **fields))
    assert last.outcome == "trained"
    assert last.metrics["density"] == pytest.approx(0.1, abs=1e-3)
    assert {"macs", "effective_density", "settled", "training_flops"} <= last.metrics.keys()
    (tmp_path / "masks.npz").write_bytes(last.files["masks.npz"])
    masks = load_masks(tmp_path / "masks.npz")
    total = sum(mask.numel() for mask in masks.values())
    assert sum(int(mask.sum()) for mask in masks.values()) == int(total * 0.1)
    assert len(json.loads(last.files["trail.json"])) == 4


def test_a_trial_leaves_a_node_with_notice_after_an_epoch_with_a_checkpoint(make_assignment, monkeypatch):
    monkeypatch.setattr(Checkpoints, "is_due", lambda self: False)
    attempt = execute(make_assignment(), lambda: True)
    first = list(itertools.islice(attempt, 2))
    with pytest.raises(LostError) as leaving:
        next(attempt)
    assert leaving.value.cause == "leaving"
    second = list(execute(make_assignment(2)))
    assert [report.epoch.step for report in [*first, *second] if report.epoch] == [1, 2, 3], "no epoch is trained twice"
    assert second[-1].outcome == "trained"


def test_a_trial_without_a_shared_folder_stays_on_a_node_with_notice(make_assignment, tmp_path):
    (tmp_path / "s").rmdir()
    assert list(execute(make_assignment(), lambda: True))[-1].outcome == "trained"


@pytest.mark.parametrize("report_count", [1, 2, 3, 4])
def test_the_next_attempt_goes_on_from_the_last_checkpoint(make_assignment, monkeypatch, report_count):
    monkeypatch.setattr(Checkpoints, "is_due", lambda self: True)
    attempt = execute(make_assignment())
    for _ in range(report_count):  # the start, then epochs, before the attempt is killed
        next(attempt)
    attempt.close()
    prepared = []
    prepare = trial.prepare
    monkeypatch.setattr(trial, "prepare", lambda *args: prepared.append(args) or prepare(*args))
    reports = list(execute(make_assignment(2)))
    assert len(prepared) == (1 if report_count == 1 else 0), "no mask is found twice"
    assert len([report for report in reports if report.epoch]) == 4 - report_count, "no epoch is trained twice"
    assert reports[-1].outcome == "trained"
    assert reports[-1].metrics["val_accuracy"] == collect_curve(reports)[-1][1]["val_accuracy"]
    assert collect_curve(reports) == collect_curve(execute(make_assignment(number=1))), (
        "bit for bit what an unbroken attempt measures"
    )


OWN_TRAINING_CODE = """
import torch
from forcetune import training

def train(model, masks, batches, validation, trial):
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    training.hold(optimizer, model, masks)
    for epoch in range(trial["epochs"]):
        model.train()
        for inputs, targets in batches:
            loss = torch.nn.functional.cross_entropy(model(inputs), targets)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        yield training.evaluate(model, validation)

def build(input_shape, classes):
    return torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, 20), torch.nn.BatchNorm1d(20), torch.nn.ReLU(),
                               torch.nn.Linear(20, classes))
"""
DIGITS = {"dataset": "digits", "epochs": 2}
TRAININGS = {
    "compacted": {**DIGITS, "density": 0.01},  # channels are cut out, and the weights grown back
    "convolutions": {**DIGITS, "model": "convnet", "width": 4},
    "dense weights underneath": {**DIGITS, "method": "dpf", "density": 0.2, "update_interval": 4},
    "weights that return": {**DIGITS, "method": "rigl", "density": 0.2, "update_interval": 4},
    "masks that shrink": {**DIGITS, "method": "gradual_magnitude", "iterations": 4},
    "several levels": {**DIGITS, "method": "lottery", "iterations": 2, "density": 0.2},
    "whole channels": {**DIGITS, "model": "convnet", "width": 4, "density": 0.5, "granularity": "channel"},
    "channels that go in training": {
        "iterations": 4,
        **DIGITS,
        "model": "convnet",
        "width": 4,
        "method": "skeletonization",
        "density": 0.5,
    },
    "a small dense network": {**DIGITS, "small_dense": "parameters", "width": 24},
    "new weights": {**DIGITS, "reinit": True},
    "a network and a loop of the user's own": {**DIGITS, "model": "own_training:build", "width": None, "task": "own"},
}


@pytest.mark.parametrize("changed", TRAININGS.values(), ids=TRAININGS.keys())
@pytest.mark.parametrize("resumed", [False, True])
def test_the_weights_are_those_that_the_accuracy_was_measured_on(make_assignment, tmp_path, changed, resumed):
    """A resumed attempt finds the checkpoint of the last epoch, since the driver did not receive the last report."""
    (tmp_path / "own_training.py").write_text(OWN_TRAINING_CODE)
    task = Task(train="own_training:train") if changed.get("task") else Task()
    fields = {"sends_weights": True, **changed, "task": task}
    *_, last = execute(make_assignment(**fields))
    if resumed:
        *_, last = execute(make_assignment(2, **fields))
    assert last.outcome == "trained", last.reason
    content = last.files["network.safetensors"]
    architecture = pruning.read_architecture(content)
    network = models.build(architecture.model, architecture.input_shape, architecture.classes, architecture.width)
    masks = pruning.unpack_network(content, network)
    context = trial.preparation.TrialContext(make_assignment(**fields).trial)
    measured = training.evaluate(network, context.dataset.batches(context.validation, 1024))
    assert measured["val_accuracy"] == last.metrics["val_accuracy"]
    assert measured["val_loss"] == pytest.approx(last.metrics["val_loss"], rel=1e-5)
    assert pruning.diagnose(network, masks, architecture.input_shape)["effective_density"] <= 1
    if "small_dense" not in changed:
        (tmp_path / "masks.npz").write_bytes(last.files.get("masks.npz") or pruning.pack_masks(masks))
        total = sum(mask.numel() for mask in masks.values())
        kept, allowed = sum(int(mask.sum()) for mask in masks.values()), int(total * changed.get("density", 0.1))
        assert 0 < kept <= allowed
        assert kept == allowed or changed["density"] == 0.5, "whole channels are at most so many weights"
        assert all(torch.equal(mask, masks[name]) for name, mask in load_masks(tmp_path / "masks.npz").items())


def test_weights_are_sent_only_where_they_are_asked_for_and_the_trial_was_trained(make_assignment):
    *_, last = execute(make_assignment())
    assert "network.safetensors" not in last.files
    *_, collapsed = execute(make_assignment(number=1, sends_weights=True, density=0.0013))
    assert collapsed.outcome == "collapsed", collapsed.reason
    assert "network.safetensors" not in collapsed.files


def test_a_checkpoint_of_another_trial_is_passed_over(make_assignment):
    list(execute(make_assignment()))
    unbroken = collect_curve(execute(make_assignment(number=1, seed=1)))
    assert collect_curve(execute(make_assignment(2, seed=1))) == unbroken


def test_a_later_attempt_ends_an_earlier_one(make_assignment):
    first = execute(make_assignment())
    next(first)
    second = execute(make_assignment(2))
    next(second)
    with pytest.raises(SupersededError):
        list(first)
    assert [report.outcome for report in second][-1] == "trained"
    with pytest.raises(SupersededError):
        next(execute(make_assignment()))


def test_a_damaged_checkpoint_is_passed_over(make_assignment, tmp_path):
    list(execute(make_assignment()))
    (tmp_path / "s/0000/1/checkpoint.pt").write_bytes(b"half a file")
    assert [step for step, _ in collect_curve(execute(make_assignment(2)))] == [1, 2, 3]


def test_a_trial_runs_without_a_folder_that_it_can_reach(make_assignment, tmp_path):
    (tmp_path / "s").rmdir()
    assert [report.outcome for report in execute(make_assignment())][-1] == "trained"
    assert not (tmp_path / "s").exists()


def test_a_full_disk_costs_only_the_checkpoint(make_assignment, monkeypatch):
    def save(*args):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(torch, "save", save)
    assert [report.outcome for report in execute(make_assignment())][-1] == "trained"


USER_LOOP_CODE = """
def train(model, masks, training, validation, fields):
    kept = sum(int(mask.sum()) for mask in masks.values())
    for accuracy, share in ((0.4, 1.0), (0.5, 0.5), (0.6, 1.0)):
        yield {"val_accuracy": accuracy, "density": kept * share / sum(mask.numel() for mask in masks.values())}
"""


def test_an_epoch_has_all_that_a_training_loop_of_the_user_yields(make_assignment, tmp_path):
    (tmp_path / "my_loop.py").write_text(USER_LOOP_CODE)
    start, *epochs = execute(replace(make_assignment(), task=Task(train="my_loop:train")))
    density = start.trial_started.static_metrics["density"]
    assert [report.epoch.metrics["density"] for report in epochs] == [density, density / 2, density], (
        "also where the value is that of the static metric"
    )
    assert [report.metrics["density"] for report in epochs] == [density, density / 2, density]
    assert {"macs", "val_accuracy", "train_seconds"} <= epochs[-1].metrics.keys()


def test_a_collapsed_trial_is_not_trained(make_assignment):
    _, report = execute(make_assignment(density=0.003))
    assert (report.outcome, report.metrics["val_accuracy"], report.epoch.step) == ("collapsed", 0.25, 0)
    assert "no path" in report.reason


def test_a_diverging_trial_fails_with_its_reason(make_assignment):
    report = list(execute(make_assignment(lr=1e30)))[-1]
    assert report.outcome == "failed"
    assert "training loss became" in report.reason


def test_the_error_of_a_user_function_is_kept(make_assignment, tmp_path):
    (tmp_path / "bad_scores.py").write_text("def score(net):\n    raise KeyError('mine')\n")
    (report,) = execute(make_assignment(method="bad_scores:score"))
    assert (report.outcome, report.reason) == ("failed", "KeyError: 'mine'")
    assert any("bad_scores.py" in line for line in report.trace)


def test_too_little_memory_is_not_the_trials_fault(make_assignment, tmp_path):
    (tmp_path / "big_scores.py").write_text("def score(net):\n    raise MemoryError('2 GiB')\n")
    with pytest.raises(LostError) as lost:
        next(execute(make_assignment(method="big_scores:score")))
    assert (lost.value.cause, lost.value.reason) == ("memory", "MemoryError: 2 GiB")


def test_an_error_that_leaves_the_gpu_unusable_is_not_the_trials_fault(make_assignment, tmp_path, monkeypatch):
    """After a wrong address a library may raise another error, and every later trial of the process would fail."""
    (tmp_path / "wrong_address.py").write_text("def score(net):\n    raise RuntimeError('cuBLAS failed')\n")
    (failed,) = execute(make_assignment(method="wrong_address:score"))
    assert (failed.outcome, failed.reason) == ("failed", "RuntimeError: cuBLAS failed")

    def fail():
        raise RuntimeError("an illegal memory access was encountered")

    monkeypatch.setattr(torch.cuda, "is_initialized", lambda: True)
    monkeypatch.setattr(torch.cuda, "synchronize", lambda: None)
    (failed,) = execute(make_assignment(2, number=1, method="wrong_address:score"))
    assert failed.outcome == "failed"
    monkeypatch.setattr(torch.cuda, "synchronize", fail)
    with pytest.raises(LostError) as lost:
        next(execute(make_assignment(3, number=2, method="wrong_address:score")))
    assert (lost.value.cause, lost.value.reason) == ("lost", "RuntimeError: cuBLAS failed")
