"""Captured steps, with the same calls in place of the graph of a GPU: all but the graph itself is tested."""

import copy
import logging

import pytest
import torch
from synthetic_data import SYNTHETIC, TRAINING, VALIDATION
from torch import nn

from forcetune.data import Batches
from forcetune.pruning import find_masks
from forcetune.training import Training, captured


def make(seed=0):
    torch.manual_seed(seed)
    return nn.Sequential(
        nn.Flatten(), nn.Linear(64, 20), nn.BatchNorm1d(20), nn.ReLU(), nn.Linear(20, SYNTHETIC.classes)
    )


def make_training(seed=0, **options):
    model = make(seed)
    batches = Batches(SYNTHETIC, TRAINING, 64, seed), Batches(SYNTHETIC, VALIDATION, 100)
    masks = find_masks(model, [], "random", 0.3, seed=seed)
    return model, Training(model, masks, *batches, **{"epochs": 2, "lr": 0.1, **options})


def train_uncaptured(seed=0, **options):
    """Return the metrics of a training without any capture, and its network."""
    model, training = make_training(seed, **options)
    return list(training), model


@pytest.fixture
def captures(monkeypatch):
    """Put calls in place of graphs, and return a list that gets the shape of each captured loss."""
    shapes = []

    def capture(run):
        for _ in range(captured.WARM_UP_STEPS):
            run()
        loss = run()
        shapes.append(loss.shape)
        return loss, lambda: loss.copy_(run())

    monkeypatch.setattr(captured, "capture", capture)
    monkeypatch.setattr(captured, "CAPTURE_DEVICE", "cpu")
    monkeypatch.setattr(captured, "_steps", type(captured._steps)())
    return shapes


def same(first, second):
    return all(
        torch.equal(a, b) for a, b in zip(first.state_dict().values(), second.state_dict().values(), strict=True)
    )


@pytest.mark.parametrize("options", [{}, {"optimizer": "adamw", "lr": 0.01}, {"clip_norm": 0.1, "momentum": 0.0}])
def test_trainings_of_one_architecture_share_a_step(options, request):
    uncaptured = [train_uncaptured(seed, **options) for seed in (0, 1)]
    captures = request.getfixturevalue("captures")
    for seed, (metrics, model) in enumerate(uncaptured):
        captured_model, training = make_training(seed, architecture="mlp", **options)
        captured_metrics = list(training)
        for actual, expected in zip(captured_metrics, metrics, strict=True):
            assert actual == pytest.approx(expected, rel=1e-5)
        for actual, expected in zip(captured_model.parameters(), model.parameters(), strict=True):
            assert torch.allclose(actual, expected, rtol=1e-4, atol=1e-6)
    assert len(captures) == 1, "the second training did not capture it anew"


def test_the_network_of_an_earlier_training_keeps_its_weights(captures):
    first, training = make_training(0, architecture="mlp")
    list(training)
    before = copy.deepcopy(first)
    list(make_training(1, architecture="mlp")[1])
    assert same(first, before)


def test_each_architecture_has_its_step_and_few_steps_are_kept(captures):
    for name in ("one", "two", "three", "three", "one"):
        list(make_training(0, architecture=name, epochs=1)[1])
    assert len(captures) == 4, "the step of 'one' was dropped for that of 'three'"
    assert len(captured._steps) == captured.KEPT_GRAPHS


def test_other_settings_need_another_graph(captures):
    for options in ({}, {"momentum": 0.8}, {}):
        list(make_training(0, architecture="mlp", epochs=1, **options)[1])
    assert len(captures) == 2


def test_an_unknown_architecture_is_captured_for_its_training_alone(captures):
    for _ in range(2):
        list(make_training(0, epochs=1)[1])
    assert len(captures) == 2


def test_a_training_that_goes_on_keeps_its_momentum(captures):
    model, training = make_training(0, architecture="mlp")
    epochs = iter(training)
    next(epochs)
    state = copy.deepcopy(training.state_dict())
    last = next(epochs)
    list(make_training(1, architecture="mlp")[1])  # another training has used the step meanwhile
    resumed_model, resumed = make_training(0, architecture="mlp")
    resumed.load_state_dict(state)
    assert next(iter(resumed)) == last
    assert same(model, resumed_model)
    captured._steps.clear()  # in another process
    restarted_model, resumed = make_training(0, architecture="mlp")
    resumed.load_state_dict(state)
    assert next(iter(resumed)) == last
    assert same(model, restarted_model)


def test_a_step_that_cannot_be_captured_runs_as_it_is_with_one_warning(captures, monkeypatch, caplog):
    monkeypatch.setattr(captured, "CAPTURE_DEVICE", "cuda")
    uncaptured, _ = train_uncaptured()
    monkeypatch.setattr(captured, "CAPTURE_DEVICE", "cpu")

    def fail(run):
        run()
        raise RuntimeError("operation not permitted when stream is capturing\nand more")

    monkeypatch.setattr(captured, "capture", fail)
    with caplog.at_level(logging.WARNING):
        for _ in range(2):
            history = list(make_training(0, architecture="mlp")[1])
            for actual, expected in zip(history, uncaptured, strict=True):
                assert actual == pytest.approx(expected, rel=1e-5)
    assert len(caplog.messages) == 1
    assert "operation not permitted when stream is capturing" in caplog.messages[0]
    assert "and more" not in caplog.messages[0]


def test_the_warning_names_what_went_wrong_first(captures, monkeypatch, caplog):
    def fail(run):
        try:
            raise RuntimeError("the loss asks for a value")
        finally:
            raise RuntimeError("operation failed due to a previous error during capture")

    monkeypatch.setattr(captured, "capture", fail)
    list(make_training(0, architecture="mlp")[1])
    assert caplog.messages == ["steps are not captured as a CUDA graph: the loss asks for a value"]
