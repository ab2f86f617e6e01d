"""The metrics of a trial: those of each epoch, those of an untrained network, and those of the test images."""

import math

import pytest
from small_trials import RULE_METRICS, drop_run_dependent, make_trial, run_trial

from forcetune import trial
from forcetune.pruning import prunable
from forcetune.study import METRICS, Task


def test_each_epoch_has_all_metrics():
    epochs = run_trial()
    assert [metrics["epoch"] for metrics in epochs] == [1, 2]
    averaged = {"ema_val_loss", "ema_val_accuracy"}
    assert {*epochs[0]} == {*METRICS, "epoch", *averaged} - RULE_METRICS, "two epochs have one rung"
    assert {*epochs[1]} == {*METRICS, "epoch"} - RULE_METRICS
    assert all(math.isfinite(value) for metrics in epochs for value in metrics.values())
    assert 0 < epochs[0]["train_seconds"] < epochs[1]["train_seconds"], "seconds count from the start"
    static_metrics = {
        name: epochs[0][name] for name in ("density", "sparsity", "macs", "collapsed", "saliency_samples")
    }
    # The network has 832 weights: 64 x 12, 12 x 4 and 4 x 4.
    assert static_metrics["density"] == int(832 * 0.2) / 832
    assert static_metrics.items() <= epochs[1].items()


@pytest.mark.parametrize("density", [0.2, 0.002])
def test_static_metrics_stay_apart_from_those_of_an_epoch(density):
    trial_run = trial.TrialRun(trial.prepare(make_trial(density=density, epochs=2)))
    epochs = list(trial_run)
    assert not {name for metrics in epochs for name in metrics} & trial_run.prepared.metrics.keys()
    for metrics, epoch in zip(trial.run(make_trial(density=density, epochs=2)), epochs, strict=True):
        assert metrics.keys() == {*trial_run.prepared.metrics, *epoch}, "a call of `run` has both"


ONE_WEIGHT_FIELDS = {"density": 1 / 832}


def test_a_collapsed_network_is_not_trained():
    (metrics,) = run_trial(**ONE_WEIGHT_FIELDS)
    assert {*metrics} == {*METRICS, "epoch"} - RULE_METRICS
    chance = {"epoch": 0, "val_accuracy": 1 / 4, "train_loss": math.log(4), "val_loss": math.log(4), "train_seconds": 0}
    assert chance.items() <= metrics.items()
    assert (metrics["collapsed"], metrics["density"], metrics["layers_emptied"]) == (1, 1 / 832, 2)


def test_test_images_are_measured_at_the_end_where_requested():
    first, last = trial.run(make_trial(epochs=2), Task(tested=True))
    assert "test_accuracy" not in first
    assert last["test_accuracy"] > 0.3, "better than chance, which is a quarter"
    assert last["test_accuracy"] != last["val_accuracy"], "test images are not validation images"
    (collapsed,) = trial.run(make_trial(method="random", density=0.002), Task(tested=True))
    assert collapsed["test_accuracy"] == collapsed["val_accuracy"] == 0.25
    assert "test_accuracy" not in list(trial.run(make_trial(epochs=1)))[-1]


def test_a_collapsed_network_is_trained_without_screening():
    epochs = run_trial(screen=False, **ONE_WEIGHT_FIELDS)
    assert [metrics["epoch"] for metrics in epochs] == [1, 2]
    assert epochs[-1]["collapsed"] == 1
    assert epochs[-1]["train_seconds"] > 0


def test_screening_does_not_affect_a_network_that_is_connected():
    assert drop_run_dependent(run_trial(screen=True)) == drop_run_dependent(run_trial(screen=False))


@pytest.mark.parametrize("field", ["lr", "momentum", "weight_decay", "clip_norm", "batch_size", "lr_schedule"])
def test_every_field_of_training_is_used(field):
    value = {"lr_schedule": "constant", "clip_norm": 0.1, "batch_size": 32}.get(field, 0.01)
    assert drop_run_dependent(run_trial(**{field: value})) != drop_run_dependent(run_trial())


def test_pruned_weights_are_zero_after_training():
    prepared = trial.prepare(make_trial(epochs=1))
    list(trial.TrialRun(prepared))
    weights = prunable(prepared.model)
    assert all((weights[name][~mask] == 0).all() for name, mask in prepared.masks.items())


def test_a_pruned_network_learns():
    assert list(trial.run(make_trial(method="force", width=60, epochs=15)))[-1]["val_accuracy"] > 0.9
