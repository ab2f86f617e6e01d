"""Training loops, losses, optimizers and metrics of the user's own."""

import pytest
import torch
from test_training import VALIDATION, batches, dense, make, sparse
from torch import nn
from torch.nn import functional

from forcetune.data import Batches
from forcetune.data.readers import synthetic
from forcetune.errors import InputError
from forcetune.training import Training, UserTrainingLoop, evaluate, hold

DATA = synthetic(None)


def validation():
    return Batches(DATA, VALIDATION, 100)


def loop(model, masks, epochs, held=True, clip=None):
    optimizer = torch.optim.Adam(model.parameters(), 0.01, weight_decay=0.1)
    holding = hold(optimizer, model, masks) if held else None
    for _ in range(epochs):
        for inputs, targets in batches():
            optimizer.zero_grad()
            functional.cross_entropy(model(inputs), targets).backward()
            if clip:
                holding.gradients()
                torch.nn.utils.clip_grad_norm_(model.parameters(), clip)
            optimizer.step()
        yield {"val_accuracy": evaluate(model, validation())["val_accuracy"]}


TAKEN = {
    "its own loss": ({"loss": lambda logits, targets: 0.1}, "forcetune itself measures val_loss"),
    "an accuracy": ({"mine": lambda logits, targets: {"accuracy": 0.1}}, "forcetune itself measures val_accuracy"),
    "a name twice": (
        {"f1": lambda logits, targets: 0.1, "mine": lambda logits, targets: {"f1": 0.2}},
        "another function returns too",
    ),
}


@pytest.mark.parametrize(("metrics", "said"), TAKEN.values(), ids=TAKEN)
def test_a_metric_takes_no_name_that_is_taken(metrics, said):
    with pytest.raises(InputError, match=said):
        evaluate(nn.Linear(3, 2), [(torch.zeros(4, 3), torch.zeros(4, dtype=torch.long))], metrics=metrics)


def test_a_loop_that_holds_its_masks():
    model = make()
    masks = sparse(model)
    found = list(UserTrainingLoop(loop(model, masks, 3), model, masks, 3))
    assert [metrics["epoch"] for metrics in found] == [1, 2, 3]
    weights = dict(model.named_parameters())
    assert all((weights[name][~mask] == 0).all() for name, mask in masks.items())
    assert found[-1]["val_accuracy"] > 0.5


def test_gradients_of_pruned_weights_do_not_count_in_the_norm():
    model = make()
    masks = sparse(model)
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    holding = hold(optimizer, model, masks)
    inputs, targets = next(iter(batches()))
    functional.cross_entropy(model(inputs), targets).backward()
    holding.gradients()
    weights = dict(model.named_parameters())
    assert all((weights[name].grad[~mask] == 0).all() for name, mask in masks.items())


def test_a_loop_that_forgets_its_masks_is_refused():
    model = make()
    masks = sparse(model)
    hold(torch.optim.SGD(model.parameters(), 0.1), model, masks)  # pruned weights are 0 from the start
    with pytest.raises(ValueError, match=r"changed \d+ pruned weights of 1.weight from 0; .*forcetune.training.hold"):
        list(UserTrainingLoop(loop(model, masks, 2, held=False), model, masks, 2))


def test_a_loop_that_ends_too_early():
    model = make()
    with pytest.raises(ValueError, match="ended after 2 of 3 epochs"):
        list(UserTrainingLoop(iter([{"a": 1}, {"a": 2}]), model, dense(model), 3))


def test_no_more_epochs_are_asked_for_than_there_are():
    model = make()
    told = iter([{"a": 1}, {"a": 2}, {"a": 3}])
    assert len(list(UserTrainingLoop(told, model, dense(model), 2))) == 2
    assert next(told) == {"a": 3}


class Resumable:
    def __init__(self, epoch=0):
        self.epoch = epoch

    def __iter__(self):
        while True:
            self.epoch += 1
            yield {"val_accuracy": self.epoch / 10}

    def state_dict(self):
        return {"epoch": self.epoch}

    def load_state_dict(self, state):
        self.epoch = state["epoch"]


def test_a_loop_with_a_state_goes_on():
    model = make()
    first = UserTrainingLoop(Resumable(), model, dense(model), 5)
    told = iter(first)
    next(told), next(told)
    again = UserTrainingLoop(Resumable(), model, dense(model), 5)
    again.load_state_dict(first.state_dict())
    assert [(m["epoch"], m["val_accuracy"]) for m in again] == [(3, 0.3), (4, 0.4), (5, 0.5)]
    assert first.is_resumable
    assert not UserTrainingLoop(iter([]), model, dense(model), 5).is_resumable


def test_adamw_leaves_pruned_weights_at_zero_and_learns():
    model = make()
    masks = sparse(model)
    found = list(
        Training(model, masks, batches(), validation(), epochs=3, lr=0.01, optimizer="adamw", weight_decay=0.1)
    )
    weights = dict(model.named_parameters())
    assert all((weights[name][~mask] == 0).all() for name, mask in masks.items())
    assert found[-1]["val_accuracy"] > 0.5


def smoothed(logits, targets):
    return functional.cross_entropy(logits, targets, label_smoothing=0.5)


def test_a_loss_of_ones_own_is_trained_by_and_told():
    models = [make(), make()]
    plain, own = (
        list(Training(model, dense(model), batches(), validation(), epochs=2, lr=0.1, **how))
        for model, how in zip(models, ({}, {"loss": smoothed}), strict=True)
    )
    assert own[0]["train_loss"] > plain[0]["train_loss"]
    assert evaluate(models[1], validation(), smoothed)["val_loss"] == own[-1]["val_loss"]


def test_metrics_of_ones_own_see_the_whole_validation_split():
    seen = []

    def recall(logits, targets):
        seen.append((logits.shape, targets.shape))
        found = logits.argmax(1)
        return {f"recall_{c}": float((found[targets == c] == c).float().mean()) for c in range(2)}

    model = make()
    found = evaluate(
        model, Batches(DATA, VALIDATION, 10), metrics={"recall": recall, "zero": lambda logits, targets: 0}
    )
    assert seen == [((32, 4), (32,))]
    assert {"val_recall_0", "val_recall_1", "val_zero"} <= found.keys()
    assert "val_recall" not in found
