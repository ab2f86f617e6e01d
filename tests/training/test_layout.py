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
from forcetune.training.layout import lay_out

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


@pytest.mark.parametrize("channels", [1, 7, 15])
def test_a_strided_convolution_of_few_channels_has_the_right_gradient(channels):
    """In float32, where oneDNN computes it: on a CPU with AVX2 it would write past its memory."""
    torch.manual_seed(0)
    first, strided = nn.Conv2d(3, channels, 3, padding=1), nn.Conv2d(channels, 11, 1, stride=2)
    network = nn.Sequential(first, strided, nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(11, 3))
    plain, images = copy.deepcopy(network).double(), torch.randn(32, 3, 28, 28)
    lay_out(network, (3, 28, 28))
    copied = copy.deepcopy(network)
    nn.init.zeros_(network[1].weight)
    for laid_out, samples in ((network, images), (copied, images), (plain, images.double())):
        laid_out(samples).square().sum().backward()
    assert is_channels_last(copied[0](images))
    for name, parameter in copied.named_parameters():
        expected = plain.get_parameter(name).grad
        torch.testing.assert_close(parameter.grad.double(), expected, rtol=1e-3, atol=1e-4 * expected.abs().max())
    assert not torch.equal(copied(images), network(images)), "a copy computes with its own weights"


class Doubled(nn.Conv2d):
    """A convolution of the user's own."""

    def _conv_forward(self, inputs, weight, bias):
        return super()._conv_forward(inputs, 2 * weight, bias)


def test_a_convolution_of_the_users_own_stays_as_it_is():
    torch.manual_seed(0)
    network = nn.Sequential(nn.Conv2d(3, 4, 3), Doubled(4, 5, 1, stride=2))
    images = torch.randn(2, 3, 9, 9)
    expected = network(images)
    lay_out(network, (3, 9, 9))
    torch.testing.assert_close(network(images), expected)


def test_a_trained_network_computes_as_its_classes_do():
    model = build("resnet8", SYNTHETIC_SHAPE, SYNTHETIC.classes, 4)
    masks = find_masks(model, [], "random", 0.9)
    batches = Batches(SYNTHETIC, TRAINING, 64, 0), Batches(SYNTHETIC, VALIDATION, 100)
    epochs = iter(Training(model, masks, *batches, epochs=2, lr=0.05, input_shape=SYNTHETIC_SHAPE))
    next(epochs)
    assert any("forward" in vars(module) for module in model.modules())
    next(epochs)
    assert not any("forward" in vars(module) for module in model.modules())


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
