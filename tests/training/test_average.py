"""The average of the weights by which a trial is judged, and where it is judged."""

import pytest
import torch
from test_training import VALIDATION, batches, flat, make, sparse

from forcetune.data import Batches
from forcetune.data.readers import synthetic
from forcetune.training import Average, Training, find_rungs

DATA = synthetic(None)


def train(model, masks, **how):
    validation = Batches(DATA, VALIDATION, 100)
    return Training(model, masks, batches(), validation, **{"epochs": 8, "lr": 0.1, **how})


@pytest.mark.parametrize(
    ("epochs", "schedule", "found"),
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
def test_rungs(epochs, schedule, found):
    assert find_rungs(epochs, schedule) == found


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


def test_training_is_bit_for_bit_the_same_with_and_without(monkeypatch):
    found = []
    for there in (True, False):
        model = make()
        training = train(model, sparse(model), epochs=4)
        if not there:
            training._rungs, training._average = {}, None
        metrics = [{n: v for n, v in told.items() if not n.startswith("ema_")} for told in training]
        found.append((metrics, flat(model), [b.clone() for b in model.buffers()]))
    assert found[0][0] == found[1][0]
    assert torch.equal(found[0][1], found[1][1])
    assert all(torch.equal(a, b) for a, b in zip(found[0][2], found[1][2], strict=True))


def test_it_is_measured_at_the_rungs_alone_and_then_forgotten():
    model = make()
    training = train(model, sparse(model))
    told = list(training)
    assert [m["epoch"] for m in told if "ema_val_accuracy" in m] == [1, 2, 4]
    assert training._average is None
    assert all(0 <= m["ema_val_accuracy"] <= 1 for m in told[:2])


@pytest.mark.parametrize("stop", [1, 3, 5])
def test_a_training_that_goes_on_has_the_same_average(stop):
    whole = list(train(make(), sparse(make())))
    first = train(make(), sparse(make()))
    told = iter(first)
    for _ in range(stop):
        next(told)
    state = first.state_dict()
    again = train(make(seed=9), sparse(make()))
    again.load_state_dict(state)
    assert list(again) == whole[stop:]
