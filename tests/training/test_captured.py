"""Captured steps: on a GPU a graph is replayed, here the same calls, so that all but the graph itself is tested."""

import copy
import logging

import pytest
import torch
from torch import nn

from forcetune.data import Batches
from forcetune.data.readers import synthetic
from forcetune.pruning import find_masks
from forcetune.training import Training, captured

DATA = synthetic(None)
TRAINING, VALIDATION = DATA.split(seed=0)  # 288 images: four batches of 64 and one of 32


def make(seed=0):
    torch.manual_seed(seed)
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 20), nn.BatchNorm1d(20), nn.ReLU(), nn.Linear(20, DATA.classes))


def prepared(seed=0, **how):
    model = make(seed)
    batches = Batches(DATA, TRAINING, 64, seed), Batches(DATA, VALIDATION, 100)
    masks = find_masks(model, [], "random", 0.3, seed=seed)
    return model, Training(model, masks, *batches, **{"epochs": 2, "lr": 0.1, **how})


def plainly(seed=0, **how):
    """What a training gives without any capture, and its network."""
    model, training = prepared(seed, **how)
    return list(training), model


@pytest.fixture
def captures(monkeypatch):
    """Of which shapes a step was captured; a replay runs what a graph would."""
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


def same(one, other):
    return all(torch.equal(a, b) for a, b in zip(one.state_dict().values(), other.state_dict().values(), strict=True))


@pytest.mark.parametrize("how", [{}, {"optimizer": "adamw", "lr": 0.01}, {"clip_norm": 0.1, "momentum": 0.0}])
def test_trainings_of_one_architecture_share_a_step(how, request):
    wanted = [plainly(seed, **how) for seed in (0, 1)]
    captures = request.getfixturevalue("captures")
    for seed, (metrics, model) in enumerate(wanted):
        ours, training = prepared(seed, architecture="mlp", **how)
        told = list(training)
        for one, other in zip(told, metrics, strict=True):
            assert one == pytest.approx(other, rel=1e-5)
        for one, other in zip(ours.parameters(), model.parameters(), strict=True):
            assert torch.allclose(one, other, rtol=1e-4, atol=1e-6)
    assert len(captures) == 1, "and the second training did not capture it anew"


def test_the_network_of_an_earlier_training_keeps_its_weights(captures):
    first, training = prepared(0, architecture="mlp")
    list(training)
    before = copy.deepcopy(first)
    list(prepared(1, architecture="mlp")[1])
    assert same(first, before)


def test_each_architecture_has_a_step_of_its_own_and_few_are_kept(captures):
    for name in ("one", "two", "three", "three", "one"):
        list(prepared(0, architecture=name, epochs=1)[1])
    assert len(captures) == 4, "that of one was given up for three"
    assert len(captured._steps) == captured.KEPT_GRAPHS


def test_settings_that_a_graph_holds_make_it_another(captures):
    for how in ({}, {"momentum": 0.8}, {}):
        list(prepared(0, architecture="mlp", epochs=1, **how)[1])
    assert len(captures) == 2


def test_an_unknown_architecture_is_captured_for_its_training_alone(captures):
    for _ in range(2):
        list(prepared(0, epochs=1)[1])
    assert len(captures) == 2


def test_a_training_that_goes_on_keeps_its_momentum(captures):
    model, training = prepared(0, architecture="mlp")
    epochs = iter(training)
    next(epochs)
    state = copy.deepcopy(training.state_dict())
    last = next(epochs)
    list(prepared(1, architecture="mlp")[1])  # another one has had the step meanwhile
    again, resumed = prepared(0, architecture="mlp")
    resumed.load_state_dict(state)
    assert next(iter(resumed)) == last
    assert same(model, again)
    captured._steps.clear()  # in another process
    anew, resumed = prepared(0, architecture="mlp")
    resumed.load_state_dict(state)
    assert next(iter(resumed)) == last
    assert same(model, anew)


def test_what_cannot_be_captured_is_trained_step_by_step_with_one_warning(captures, monkeypatch, caplog):
    monkeypatch.setattr(captured, "CAPTURE_DEVICE", "cuda")
    wanted, _ = plainly()
    monkeypatch.setattr(captured, "CAPTURE_DEVICE", "cpu")

    def fail(run):
        run()
        raise RuntimeError("operation not permitted when stream is capturing\nand more")

    monkeypatch.setattr(captured, "capture", fail)
    with caplog.at_level(logging.WARNING):
        for _ in range(2):
            told = list(prepared(0, architecture="mlp")[1])
            for one, other in zip(told, wanted, strict=True):
                assert one == pytest.approx(other, rel=1e-5)
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
    list(prepared(0, architecture="mlp")[1])
    assert caplog.messages == ["steps are not captured as a CUDA graph: the loss asks for a value"]
