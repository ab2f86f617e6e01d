"""The average of the weights, and the rungs at which a trial is judged by it."""

import pytest
import torch
from synthetic_data import SYNTHETIC, VALIDATION
from test_training import batches, flat, make, sparse

from forcetune.data import Batches
from forcetune.training import Average, Training, find_rungs


def train(model, masks, **options):
    validation = Batches(SYNTHETIC, VALIDATION, 100)
    return Training(model, masks, batches(), validation, **{"epochs": 8, "lr": 0.1, **options})


@pytest.mark.parametrize(
    ("epochs", "schedule", "rungs"),
    [
        (16, "cosine", {2: "1/8", 4: "1/4", 8: "1/2"}),
        (15, "constant", {2: "1/8", 4: "1/4", 8: "1/2"}),
        (16, "step", {2: "1/8", 4: "1/4", 9: "1/2"}),  # the rate drops after 8
        (15, "step", {2: "1/8", 4: "1/4", 9: "1/2"}),  # in the middle of epoch 8
        (4, "cosine", {1: "1/4", 2: "1/2"}),
        (2, "cosine", {1: "1/2"}),
        (1, "cosine", {}),
        (2, "step", {1: "1/4"}),
    ],
)
def test_rungs(epochs, schedule, rungs):
    assert find_rungs(epochs, schedule) == rungs


def test_the_average_of_a_few_steps():
    model = torch.nn.Linear(1, 1, bias=False)
    torch.nn.init.ones_(model.weight)
    average = Average(model, window=2)
    expected = 1.0
    for step in range(1, 6):
        torch.nn.init.constant_(model.weight, float(step + 1))
        average.update()
        decay = min(1 - 1 / 2, (1 + step) / (10 + step))
        expected = decay * expected + (1 - decay) * (step + 1)
    with average.swap_in():
        assert model.weight.item() == pytest.approx(expected)
    assert model.weight.item() == 6.0


def test_pruned_weights_are_zero_in_the_average_too():
    model = make()
    masks = sparse(model)
    training = train(model, masks)
    next(iter(training))
    with training._average.swap_in():
        weights = dict(model.named_parameters())
        assert all((weights[name][~mask] == 0).all() for name, mask in masks.items())
        averaged = flat(model)
    assert not torch.equal(averaged, flat(model))


def test_training_is_bit_for_bit_the_same_without_an_average(monkeypatch):
    results = []
    for has_average in (True, False):
        model = make()
        training = train(model, sparse(model), epochs=4)
        if not has_average:
            training._rungs, training._average = {}, None
        metrics = [{n: v for n, v in epoch_metrics.items() if not n.startswith("ema_")} for epoch_metrics in training]
        results.append((metrics, flat(model), [b.clone() for b in model.buffers()]))
    assert results[0][0] == results[1][0]
    assert torch.equal(results[0][1], results[1][1])
    assert all(torch.equal(a, b) for a, b in zip(results[0][2], results[1][2], strict=True))


def test_the_average_is_measured_at_the_rungs_alone_and_then_dropped():
    model = make()
    training = train(model, sparse(model))
    history = list(training)
    assert [m["epoch"] for m in history if "ema_val_accuracy" in m] == [1, 2, 4]
    assert training._average is None


@pytest.mark.parametrize("stop", [1, 3, 5])
def test_a_training_that_goes_on_has_the_same_average(stop):
    history = list(train(make(), sparse(make())))
    first = train(make(), sparse(make()))
    epochs = iter(first)
    for _ in range(stop):
        next(epochs)
    state = first.state_dict()
    resumed = train(make(seed=9), sparse(make()))
    resumed.load_state_dict(state)
    assert list(resumed) == history[stop:]
