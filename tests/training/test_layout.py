"""Weights lie channels last in memory where the network can run so, and nothing that is computed knows."""

import copy

import pytest
import torch
from torch import nn

from forcetune.data import Batches
from forcetune.data.readers import synthetic
from forcetune.models import build
from forcetune.pruning import find_masks, prunable
from forcetune.training import Training

DATA = synthetic(None)
TRAINING, VALIDATION = DATA.split(seed=0)
SHAPE = DATA.input_shape


class Viewed(nn.Module):
    """What many write, and what fails on outputs that are channels last."""

    def __init__(self):
        super().__init__()
        self.conv, self.last = nn.Conv2d(1, 4, 3), nn.Linear(4 * 36, DATA.classes)

    def forward(self, x):
        return self.last(self.conv(x).view(len(x), -1))


class ViewedInTraining(Viewed):
    def forward(self, x):
        x = self.conv(x)
        return self.last(x.view(len(x), -1) if self.training else x.flatten(1))


def train(model, masks, input_shape, **how):
    """The epochs' metrics, in float64."""

    class Doubles(Batches):
        def __iter__(self):
            return ((inputs.double(), targets) for inputs, targets in super().__iter__())

    batches = Doubles(DATA, TRAINING, 64, 0), Doubles(DATA, VALIDATION, 100)
    settings = {"epochs": 2, "lr": 0.05, "input_shape": input_shape, **how}
    return Training(model.double(), masks, *batches, **settings)


def is_channels_last(weight):
    return weight.is_contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
def test_channels_last_trains_the_same(optimizer):
    model = build("convnet", SHAPE, DATA.classes, 8)
    plain, masks = copy.deepcopy(model), find_masks(model, [], "random", 0.5)
    ours = list(train(model, masks, SHAPE, optimizer=optimizer, lr=0.01))
    theirs = list(train(plain, masks, None, optimizer=optimizer, lr=0.01))
    second = list(prunable(model).values())[1]
    assert is_channels_last(second)
    assert not second.is_contiguous()
    assert [sorted(one) for one in ours] == [sorted(one) for one in theirs]
    for one, other in zip(ours, theirs, strict=True):
        assert one == pytest.approx(other, rel=1e-9)


@pytest.mark.parametrize("kind", [Viewed, ViewedInTraining])
def test_a_network_that_cannot_run_so_stays_as_it_was(kind):
    torch.manual_seed(0)
    model = kind()
    masks = find_masks(model, [], "random", 0.9)
    assert next(iter(train(model, masks, SHAPE)))["epoch"] == 1
    assert model.conv.weight.is_contiguous()


@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
def test_what_an_optimizer_remembers_comes_back_in_its_weights_order(optimizer):
    # the fused kernels go through memory and look at no stride
    model = build("convnet", SHAPE, DATA.classes, 8).double()
    masks = find_masks(model, [], "random", 0.5)
    again = copy.deepcopy(model)
    whole = train(model, masks, SHAPE, optimizer=optimizer, lr=0.01)
    epochs = iter(whole)
    next(epochs)
    state = copy.deepcopy(whole.state_dict())
    for remembered in state["optimizer"]["state"].values():
        for name, value in remembered.items():
            remembered[name] = value.contiguous()  # as another machine may have left it
    last = next(epochs)
    resumed = train(again, masks, SHAPE, optimizer=optimizer, lr=0.01)
    resumed.load_state_dict(state)
    assert next(iter(resumed)) == last
    assert all(torch.equal(one, other) for one, other in zip(model.parameters(), again.parameters(), strict=True))
