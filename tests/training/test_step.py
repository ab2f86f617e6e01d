"""Training steps: in bfloat16, compiled, and with a last batch of any size."""

import copy
import logging

import pytest
import torch
from synthetic_data import SYNTHETIC, TRAINING, VALIDATION
from torch import nn
from torch.nn import functional

from forcetune.data import Batches
from forcetune.pruning import find_masks, prunable
from forcetune.training import Training


def make():
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Flatten(), nn.Linear(64, 20), nn.BatchNorm1d(20), nn.ReLU(), nn.Linear(20, SYNTHETIC.classes)
    )


def train(model, masks, **options):
    batches = Batches(SYNTHETIC, TRAINING, 64, 0), Batches(SYNTHETIC, VALIDATION, 100)
    return list(Training(model, masks, *batches, **{"epochs": 2, "lr": 0.1, **options}))


@pytest.fixture
def pruned():
    model = make()
    return model, find_masks(model, [], "random", 0.3)


def test_a_bf16_training_keeps_weights_in_float32(pruned):
    model, masks = pruned
    exact = copy.deepcopy(model)
    output_types = set()
    model[1].register_forward_hook(lambda module, inputs, output: output_types.add(output.dtype))
    coarse = train(model, masks, precision="bf16")[-1]
    fine = train(exact, masks)[-1]
    assert output_types == {torch.bfloat16}
    assert {weight.dtype for weight in model.parameters()} == {torch.float32}
    assert coarse["train_loss"] != fine["train_loss"]
    assert coarse["train_loss"] == pytest.approx(fine["train_loss"], rel=0.05)
    assert all((weight[~masks[name]] == 0).all() for name, weight in prunable(model).items())


def test_a_metric_gets_numbers_that_numpy_supports(pruned):
    def width(logits, targets):
        return {"given": logits.numpy().itemsize, "made": (logits.T @ logits).numpy().itemsize}

    metrics = train(*pruned, precision="bf16", metrics={"width": width})[-1]
    assert (metrics["val_given"], metrics["val_made"]) == (4, 4)


@pytest.mark.long
def test_compiled_trains_the_same(pruned):
    model, masks = pruned
    plain = copy.deepcopy(model)
    compiled, eager = train(model, masks, compiled=True), train(plain, masks)
    assert compiled[0].pop("compile_seconds") > 0
    assert "compile_seconds" not in compiled[1]
    for compiled_metrics, eager_metrics in zip(compiled, eager, strict=True):
        assert compiled_metrics == pytest.approx(eager_metrics, rel=1e-3)


def test_a_network_that_cannot_be_compiled_is_trained_as_it_is(pruned, monkeypatch, caplog):
    model, masks = pruned
    plain = copy.deepcopy(model)

    def refuse(network, **options):
        def call(inputs):
            network(inputs)  # batch norm counts this pass
            raise RuntimeError("no compiler\nat all")

        return call

    monkeypatch.setattr(torch, "compile", refuse)
    with caplog.at_level(logging.WARNING):
        history = train(model, masks, compiled=True)
    assert history[0].pop("compile_seconds") > 0
    assert history == train(plain, masks)
    (message,) = caplog.messages
    assert message.endswith("not compiled: no compiler")


def test_one_sample_is_left_over(pruned):
    # batch norm cannot train on a batch of one
    model, masks = pruned
    images = TRAINING.take(torch.arange(65))
    batches = Batches(SYNTHETIC, images, 64, 0), Batches(SYNTHETIC, VALIDATION.take(torch.arange(1)), 100)
    (metrics,) = Training(model, masks, *batches, epochs=1, lr=0.1)
    assert metrics["val_accuracy"] in (0, 1)


def test_a_batch_larger_than_the_data_is_all_of_it(pruned):
    model, masks = pruned
    full_batch_model = copy.deepcopy(model)
    for network, size in ((model, 10_000), (full_batch_model, len(TRAINING))):
        list(
            Training(
                network,
                masks,
                Batches(SYNTHETIC, TRAINING, size, 0),
                Batches(SYNTHETIC, VALIDATION, 9),
                epochs=2,
                lr=0.1,
            )
        )
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), full_batch_model.parameters(), strict=True))


class Steered(nn.Module):
    """A network that takes another path now and then, from the fourth batch on."""

    def __init__(self):
        super().__init__()
        self.first = nn.Linear(64, 10)
        self.left, self.right = nn.Linear(10, SYNTHETIC.classes), nn.Linear(10, SYNTHETIC.classes)

    def forward(self, x):
        last = self.left if x.mean() > -0.075 else self.right
        return last(functional.relu(self.first(x.flatten(1))))


class Scaled(nn.Module):
    """A network that can take a second input."""

    def __init__(self):
        super().__init__()
        self.conv, self.last = nn.Conv2d(1, 6, 3), nn.Linear(6 * 36, SYNTHETIC.classes)

    def forward(self, x, scale=None):
        x = functional.relu(self.conv(x)).flatten(1)
        return self.last(x if scale is None else x * scale)


@pytest.mark.parametrize("kind", [Steered, Scaled])
def test_other_networks_train_as_the_plain_masked_network_does(kind):
    torch.manual_seed(0)
    model = kind().double()
    masks = {name: torch.rand(weight.shape) > 0.5 for name, weight in prunable(model).items()}
    for mask in masks.values():
        mask[:2] = False
    plain = copy.deepcopy(model)

    class Doubles(Batches):
        def __iter__(self):
            return ((inputs.double(), targets) for inputs, targets in super().__iter__())

    batches = Doubles(SYNTHETIC, TRAINING, 64, 0), Doubles(SYNTHETIC, VALIDATION, 100)
    list(Training(model, masks, *batches, epochs=2, lr=0.1, lr_schedule="constant", input_shape=SYNTHETIC.input_shape))
    optimizer = torch.optim.SGD(plain.parameters(), 0.1, momentum=0.9, weight_decay=5e-4)
    weights = prunable(plain)
    plain_batches = Doubles(SYNTHETIC, TRAINING, 64, 0)
    for name, mask in masks.items():
        weights[name].data.mul_(mask)
    for inputs, targets in [batch for _ in range(2) for batch in plain_batches]:
        optimizer.zero_grad()
        functional.cross_entropy(plain(inputs), targets).backward()
        for name, mask in masks.items():
            if weights[name].grad is not None:
                weights[name].grad.mul_(mask)
        optimizer.step()
        for name, mask in masks.items():
            weights[name].data.mul_(mask)
    for (name, parameter), plain_parameter in zip(model.named_parameters(), plain.parameters(), strict=True):
        assert torch.allclose(parameter, plain_parameter, rtol=1e-9, atol=1e-12), name
