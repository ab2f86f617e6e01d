"""Training loops, losses, optimizers and metrics that users write themselves."""

import pytest
import torch
from synthetic_data import SYNTHETIC, VALIDATION
from test_training import batches, dense, make, sparse
from torch import nn
from torch.nn import functional

from forcetune.data import Batches
from forcetune.errors import InputError
from forcetune.training import Training, UserTrainingLoop, evaluate, hold


def make_validation():
    return Batches(SYNTHETIC, VALIDATION, 100)


def loop(model, masks, epochs, holds_masks=True, clip=None):
    optimizer = torch.optim.Adam(model.parameters(), 0.01, weight_decay=0.1)
    masked = hold(optimizer, model, masks) if holds_masks else None
    for _ in range(epochs):
        for inputs, targets in batches():
            optimizer.zero_grad()
            functional.cross_entropy(model(inputs), targets).backward()
            if clip:
                masked.gradients()
                torch.nn.utils.clip_grad_norm_(model.parameters(), clip)
            optimizer.step()
        yield {"val_accuracy": evaluate(model, make_validation())["val_accuracy"]}


TAKEN_METRIC_NAMES = {
    "its own loss": ({"loss": lambda logits, targets: 0.1}, "forcetune itself measures val_loss"),
    "an accuracy": ({"mine": lambda logits, targets: {"accuracy": 0.1}}, "forcetune itself measures val_accuracy"),
    "a name twice": (
        {"f1": lambda logits, targets: 0.1, "mine": lambda logits, targets: {"f1": 0.2}},
        "another function returns too",
    ),
}


@pytest.mark.parametrize(("metrics", "message"), TAKEN_METRIC_NAMES.values(), ids=TAKEN_METRIC_NAMES)
def test_a_metric_takes_no_name_that_is_taken(metrics, message):
    with pytest.raises(InputError, match=message):
        evaluate(nn.Linear(3, 2), [(torch.zeros(4, 3), torch.zeros(4, dtype=torch.long))], metrics=metrics)


def test_a_loop_that_holds_its_masks():
    model = make()
    masks = sparse(model)
    history = list(UserTrainingLoop(loop(model, masks, 3), model, masks, 3))
    assert [metrics["epoch"] for metrics in history] == [1, 2, 3]
    weights = dict(model.named_parameters())
    assert all((weights[name][~mask] == 0).all() for name, mask in masks.items())
    assert history[-1]["val_accuracy"] > 0.5


def test_gradients_of_pruned_weights_do_not_count_in_the_norm():
    model = make()
    masks = sparse(model)
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    masked = hold(optimizer, model, masks)
    inputs, targets = next(iter(batches()))
    functional.cross_entropy(model(inputs), targets).backward()
    masked.gradients()
    weights = dict(model.named_parameters())
    assert all((weights[name].grad[~mask] == 0).all() for name, mask in masks.items())


def test_a_loop_that_forgets_its_masks_is_refused():
    model = make()
    masks = sparse(model)
    hold(torch.optim.SGD(model.parameters(), 0.1), model, masks)  # pruned weights are 0 from the start
    with pytest.raises(ValueError, match=r"changed \d+ pruned weights of 1.weight from 0; .*forcetune.training.hold"):
        list(UserTrainingLoop(loop(model, masks, 2, holds_masks=False), model, masks, 2))


def test_a_loop_that_ends_too_early():
    model = make()
    with pytest.raises(ValueError, match="ended after 2 of 3 epochs"):
        list(UserTrainingLoop(iter([{"a": 1}, {"a": 2}]), model, dense(model), 3))


def test_no_more_epochs_are_run_than_are_set():
    model = make()
    epochs = iter([{"a": 1}, {"a": 2}, {"a": 3}])
    assert len(list(UserTrainingLoop(epochs, model, dense(model), 2))) == 2
    assert next(epochs) == {"a": 3}


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
    epochs = iter(first)
    next(epochs), next(epochs)
    resumed = UserTrainingLoop(Resumable(), model, dense(model), 5)
    resumed.load_state_dict(first.state_dict())
    assert [(m["epoch"], m["val_accuracy"]) for m in resumed] == [(3, 0.3), (4, 0.4), (5, 0.5)]
    assert first.is_resumable
    assert not UserTrainingLoop(iter([]), model, dense(model), 5).is_resumable


def test_adamw_leaves_pruned_weights_at_zero_and_learns():
    model = make()
    masks = sparse(model)
    history = list(
        Training(model, masks, batches(), make_validation(), epochs=3, lr=0.01, optimizer="adamw", weight_decay=0.1)
    )
    weights = dict(model.named_parameters())
    assert all((weights[name][~mask] == 0).all() for name, mask in masks.items())
    assert history[-1]["val_accuracy"] > 0.5


def smoothed(logits, targets):
    return functional.cross_entropy(logits, targets, label_smoothing=0.5)


def test_a_users_loss_is_trained_by_and_reported():
    models = [make(), make()]
    plain_history, smoothed_history = (
        list(Training(model, dense(model), batches(), make_validation(), epochs=2, lr=0.1, **options))
        for model, options in zip(models, ({}, {"loss": smoothed}), strict=True)
    )
    assert smoothed_history[0]["train_loss"] > plain_history[0]["train_loss"]
    assert evaluate(models[1], make_validation(), smoothed)["val_loss"] == smoothed_history[-1]["val_loss"]


def test_users_metrics_see_the_whole_validation_split():
    shapes = []

    def recall(logits, targets):
        shapes.append((logits.shape, targets.shape))
        predictions = logits.argmax(1)
        return {f"recall_{c}": float((predictions[targets == c] == c).float().mean()) for c in range(2)}

    model = make()
    metrics = evaluate(
        model, Batches(SYNTHETIC, VALIDATION, 10), metrics={"recall": recall, "zero": lambda logits, targets: 0}
    )
    assert shapes == [((32, 4), (32,))]
    assert {"val_recall_0", "val_recall_1", "val_zero"} <= metrics.keys()
    assert "val_recall" not in metrics
