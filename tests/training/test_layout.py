"""The layout of weights in memory: channels last where the network can run so, with the same results."""

import copy

import pytest
import torch
from synthetic_data import SYNTHETIC, TRAINING, VALIDATION
from torch import nn

from forcetune.data import Batches
from forcetune.models import build
from forcetune.pruning import find_masks, prunable
from forcetune.training import Training

SYNTHETIC_SHAPE = SYNTHETIC.input_shape


class Viewed(nn.Module):
    """A network with a view, which many users write and which fails on outputs that are channels last."""

    def __init__(self):
        super().__init__()
        self.conv, self.last = nn.Conv2d(1, 4, 3), nn.Linear(4 * 36, SYNTHETIC.classes)

    def forward(self, x):
        return self.last(self.conv(x).view(len(x), -1))


class ViewedInTraining(Viewed):
    def forward(self, x):
        x = self.conv(x)
        return self.last(x.view(len(x), -1) if self.training else x.flatten(1))


def make_training(model, masks, input_shape, **options):
    """Return the training of a network in float64."""

    class Doubles(Batches):
        def __iter__(self):
            return ((inputs.double(), targets) for inputs, targets in super().__iter__())

    batches = Doubles(SYNTHETIC, TRAINING, 64, 0), Doubles(SYNTHETIC, VALIDATION, 100)
    settings = {"epochs": 2, "lr": 0.05, "input_shape": input_shape, **options}
    return Training(model.double(), masks, *batches, **settings)


def is_channels_last(weight):
    return weight.is_contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
def test_channels_last_trains_the_same(optimizer):
    model = build("convnet", SYNTHETIC_SHAPE, SYNTHETIC.classes, 8)
    plain, masks = copy.deepcopy(model), find_masks(model, [], "random", 0.5)
    history = list(make_training(model, masks, SYNTHETIC_SHAPE, optimizer=optimizer, lr=0.01))
    plain_history = list(make_training(plain, masks, None, optimizer=optimizer, lr=0.01))
    second = list(prunable(model).values())[1]
    assert is_channels_last(second)
    assert not second.is_contiguous()
    for metrics in history:
        assert metrics.pop("training_flops") >= metrics.pop("training_flops_sparse") > 0
    assert [sorted(metrics) for metrics in history] == [sorted(metrics) for metrics in plain_history]
    for metrics, plain_metrics in zip(history, plain_history, strict=True):
        assert metrics == pytest.approx(plain_metrics, rel=1e-9)


@pytest.mark.parametrize("kind", [Viewed, ViewedInTraining])
def test_a_network_that_cannot_run_channels_last_stays_as_it_was(kind):
    torch.manual_seed(0)
    model = kind()
    masks = find_masks(model, [], "random", 0.9)
    assert next(iter(make_training(model, masks, SYNTHETIC_SHAPE)))["epoch"] == 1
    assert model.conv.weight.is_contiguous()


@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
def test_an_optimizers_state_comes_back_in_the_order_of_its_weights(optimizer):
    # The fused kernels go through memory in its order and ignore strides
    model = build("convnet", SYNTHETIC_SHAPE, SYNTHETIC.classes, 8).double()
    masks = find_masks(model, [], "random", 0.5)
    resumed_model = copy.deepcopy(model)
    training = make_training(model, masks, SYNTHETIC_SHAPE, optimizer=optimizer, lr=0.01)
    epochs = iter(training)
    next(epochs)
    state = copy.deepcopy(training.state_dict())
    for tensors in state["optimizer"]["state"].values():
        for name, value in tensors.items():
            tensors[name] = value.contiguous()  # as another machine may have left it
    last = next(epochs)
    resumed = make_training(resumed_model, masks, SYNTHETIC_SHAPE, optimizer=optimizer, lr=0.01)
    resumed.load_state_dict(state)
    assert next(iter(resumed)) == last
    assert all(
        torch.equal(weight, resumed_weight)
        for weight, resumed_weight in zip(model.parameters(), resumed_model.parameters(), strict=True)
    )
