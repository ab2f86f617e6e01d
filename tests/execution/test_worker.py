"""One attempt at a trial: what it tells, what it keeps on disk, and that nothing it raises ends the worker."""

import sys

import pytest
import torch

from forcetune import trial
from forcetune.execution.worker import execute
from forcetune.ledger.checkpoints import Checkpoints, SupersededError
from forcetune.ledger.messages import Assignment, LostError
from forcetune.pruning import load_masks
from forcetune.study import Task, Trial

FIELDS = {"dataset": "synthetic", "model": "mlp", "width": 12, "method": "snip", "density": 0.1, "epochs": 3}


@pytest.fixture
def assign(tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.chdir(tmp_path)
    (tmp_path / "s").mkdir()

    def make(attempt=1, number=0, **changed):
        fields = Trial(**{**FIELDS, **changed}).fields()
        place = str(tmp_path / "s" / f"{number:04d}")
        return Assignment(number, fields, Task(), attempt, "sqlite:///none.db", str(tmp_path), place, 1)

    return make


def curve(reports):
    """Every epoch that was told, in the order in which it was told, without times."""
    told = []
    for report in reports:
        told += [
            *(report.trial_started.curve if report.trial_started else []),
            *([report.epoch] if report.epoch else []),
        ]
    return [(e.step, {n: v for n, v in e.metrics.items() if n != "train_seconds"}) for e in told]


def test_a_trained_trial(assign, tmp_path):
    opening, *epochs = execute(assign())
    assert [report.epoch.step for report in epochs] == [1, 2, 3]
    assert [report.outcome for report in epochs] == [None, None, "trained"]
    told = {"train_loss", "val_loss", "val_accuracy"}
    assert set(epochs[0].epoch.metrics) == {*told, "ema_val_loss", "ema_val_accuracy"}, "a rung"
    assert set(epochs[-1].epoch.metrics) == {*told, "train_seconds"}
    facts = opening.trial_started.static_metrics
    assert {"density", "sparsity", "effective_density", "macs", "saliency_samples", "prune_seconds"} <= set(facts)
    assert opening.trial_started.device == "cpu"
    (tmp_path / "masks.npz").write_bytes(opening.trial_started.masks)
    masks = load_masks(tmp_path / "masks.npz")
    total = sum(mask.numel() for mask in masks.values())
    assert sum(int(mask.sum()) for mask in masks.values()) == int(total * 0.1)


@pytest.mark.parametrize("told", [1, 2, 3, 4])
def test_the_next_attempt_goes_on_from_the_last_checkpoint(assign, monkeypatch, told):
    monkeypatch.setattr(Checkpoints, "is_due", lambda self: True)
    attempt = execute(assign())
    for _ in range(told):  # the opening, then epochs; then it is killed
        next(attempt)
    attempt.close()
    prepared = []
    prepare = trial.prepare
    monkeypatch.setattr(trial, "prepare", lambda *args: prepared.append(args) or prepare(*args))
    again = list(execute(assign(2)))
    assert len(prepared) == (1 if told == 1 else 0), "no mask is found twice"
    assert len([report for report in again if report.epoch]) == 4 - told, "no epoch is trained twice"
    assert again[-1].outcome == "trained"
    assert again[-1].metrics["val_accuracy"] == curve(again)[-1][1]["val_accuracy"]
    assert curve(again) == curve(execute(assign(number=1))), "bit for bit what an unbroken attempt measures"


def test_a_checkpoint_of_another_trial_is_passed_over(assign):
    list(execute(assign()))
    assert len(curve(execute(assign(2, seed=1)))) == 3


def test_a_later_attempt_ends_an_earlier_one(assign):
    first = execute(assign())
    next(first)
    second = execute(assign(2))
    next(second)
    with pytest.raises(SupersededError):
        list(first)
    assert [report.outcome for report in second][-1] == "trained"
    with pytest.raises(SupersededError):
        next(execute(assign()))


def test_a_damaged_checkpoint_is_passed_over(assign, tmp_path):
    list(execute(assign()))
    (tmp_path / "s/0000/1/checkpoint.pt").write_bytes(b"half a file")
    assert [step for step, _ in curve(execute(assign(2)))] == [1, 2, 3]


def test_without_a_folder_that_it_can_reach_a_trial_runs_all_the_same(assign, tmp_path):
    (tmp_path / "s").rmdir()
    assert [report.outcome for report in execute(assign())][-1] == "trained"
    assert not (tmp_path / "s").exists()


def test_a_full_disk_costs_only_the_checkpoint(assign, monkeypatch):
    def save(*args):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(torch, "save", save)
    assert [report.outcome for report in execute(assign())][-1] == "trained"


def test_a_collapsed_trial_is_not_trained(assign):
    _, only = execute(assign(density=0.003))
    assert (only.outcome, only.metrics["val_accuracy"], only.epoch.step) == ("collapsed", 0.25, 0)
    assert "no path" in only.reason


def test_a_diverging_trial_fails_with_its_reason(assign):
    last = list(execute(assign(lr=1e30)))[-1]
    assert last.outcome == "failed"
    assert "training loss became" in last.reason


def test_the_users_own_error_is_kept(assign, tmp_path):
    (tmp_path / "bad_scores.py").write_text("def score(net):\n    raise KeyError('mine')\n")
    (only,) = execute(assign(method="bad_scores:score"))
    assert (only.outcome, only.reason) == ("failed", "KeyError: 'mine'")
    assert any("bad_scores.py" in line for line in only.trace)


def test_too_little_memory_is_not_the_trials_fault(assign, tmp_path):
    (tmp_path / "big_scores.py").write_text("def score(net):\n    raise MemoryError('2 GiB')\n")
    with pytest.raises(LostError) as lost:
        next(execute(assign(method="big_scores:score")))
    assert (lost.value.cause, lost.value.reason) == ("memory", "MemoryError: 2 GiB")


def test_an_error_that_leaves_the_gpu_unusable_is_not_the_trials_fault(assign, tmp_path, monkeypatch):
    """A library may raise an error of its own after a wrong address; every later trial of the process would fail."""
    (tmp_path / "wrong_address.py").write_text("def score(net):\n    raise RuntimeError('cuBLAS failed')\n")
    (failed,) = execute(assign(method="wrong_address:score"))
    assert (failed.outcome, failed.reason) == ("failed", "RuntimeError: cuBLAS failed")

    def fail():
        raise RuntimeError("an illegal memory access was encountered")

    monkeypatch.setattr(torch.cuda, "is_initialized", lambda: True)
    monkeypatch.setattr(torch.cuda, "synchronize", lambda: None)
    (failed,) = execute(assign(2, number=1, method="wrong_address:score"))
    assert failed.outcome == "failed"
    monkeypatch.setattr(torch.cuda, "synchronize", fail)
    with pytest.raises(LostError) as lost:
        next(execute(assign(3, number=2, method="wrong_address:score")))
    assert (lost.value.cause, lost.value.reason) == ("lost", "RuntimeError: cuBLAS failed")
