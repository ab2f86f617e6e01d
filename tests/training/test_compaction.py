"""A pruned network cut down to what is left of it computes the same."""

import logging

import pytest
import torch
from torch import nn
from torch.nn import functional

from forcetune.models import MODELS, build
from forcetune.pruning import find_masks, prunable
from forcetune.training import Masked, compact

SIZES = dict.fromkeys(("lenet5", "vgg16_bn", "vgg19_bn"), 16)  # one pixel is left of it at the end
VISION = ["resnet18", "mobilenet_v3_small", "shufflenet_v2_x0_5", "densenet121"]


def outputs(model, masks, shape):
    """Of the masked network and of the compacted one, on the same samples, in float64."""
    samples = torch.randn((3, *shape), generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    model = model.double()
    small = compact(model, masks, shape)
    Masked(model, masks)
    with torch.no_grad():
        return model.eval()(samples), small(samples), small


def size(model):
    return sum(parameter.numel() for parameter in model.parameters())


def without_channels(model, share=0.5):
    """Masks that empty a share of the rows of each layer but the last, as synflow's do."""
    masks = {name: torch.ones_like(weight, dtype=torch.bool) for name, weight in prunable(model).items()}
    for mask in list(masks.values())[:-1]:
        mask[: int(len(mask) * share)] = False
    return masks


@pytest.mark.parametrize("name", [*MODELS, *(f"torchvision:{name}" for name in VISION)])
def test_every_network_computes_the_same_with_fewer_weights(name):
    shape = (3, 64, 64) if ":" in name else (1, SIZES.get(name, 8), SIZES.get(name, 8))
    model = build(name, shape, 10, None if ":" in name or name == "lenet5" else 8)
    whole = size(model)
    sample = torch.zeros(1, *shape), torch.zeros(1, dtype=torch.long)
    masks = find_masks(model, [sample], "synflow", 0.1 if name == "mlp" else 0.02, 10)
    dense, compacted, small = outputs(model, masks, shape)
    assert torch.allclose(dense, compacted, rtol=1e-9, atol=1e-12)
    assert dense.abs().sum() > 0
    assert size(small) < 0.8 * whole


def test_channels_without_a_reader_or_a_writer_go():
    model = nn.Sequential(
        nn.Conv2d(1, 4, 3, bias=False), nn.BatchNorm2d(4), nn.ReLU(), nn.Conv2d(4, 6, 3, bias=False), nn.ReLU(),
        nn.Flatten(), nn.Linear(6 * 16, 2),
    )  # fmt: skip
    masks = {name: torch.ones_like(weight, dtype=torch.bool) for name, weight in prunable(model).items()}
    masks["0.weight"][0] = False  # nothing comes in
    masks["3.weight"][:, 1] = False  # nothing goes out
    masks["6.weight"][:, 16:32] = False  # nobody reads the sixteen positions of channel 1
    dense, compacted, small = outputs(model, masks, (1, 8, 8))
    assert torch.allclose(dense, compacted, rtol=1e-9)
    assert small[0].weight.shape == (2, 1, 3, 3)
    assert small[1].num_features == 2
    assert small[3].weight.shape == (5, 2, 3, 3)
    assert small[6].weight.shape == (2, 5 * 16)


def test_a_channel_that_a_shift_makes_count_stays():
    model = nn.Sequential(nn.Conv2d(1, 4, 3, bias=False), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(144, 2))
    nn.init.constant_(model[1].bias, 0.5)
    masks = {name: torch.ones_like(weight, dtype=torch.bool) for name, weight in prunable(model).items()}
    masks["0.weight"][0] = False
    dense, compacted, small = outputs(model, masks, (1, 8, 8))
    assert torch.allclose(dense, compacted, rtol=1e-9)
    assert small[0].out_channels == 4, "its beta is not 0: the channel says 0.5 everywhere"


def test_the_network_it_is_given_stays_as_it_is():
    model = build("resnet8", (1, 8, 8), 10, 8)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    small = compact(model, without_channels(model), (1, 8, 8))
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    assert model.training
    assert not small.training


class Untraceable(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(64, 4)

    def forward(self, x):
        x = x.flatten(1)
        return self.layer(x) if x.sum() > 0 else self.layer(-x)


def test_what_cannot_be_traced_is_only_masked(caplog):
    model = Untraceable()
    with caplog.at_level(logging.WARNING):
        dense, compacted, small = outputs(model, find_masks(model, [], "random", 0.1), (1, 8, 8))
    assert torch.equal(dense, compacted)
    assert size(small) == size(model)
    assert "not compacted: Untraceable cannot be traced" in caplog.text


class Shifted(nn.Module):
    """A layer whose channels are moved about by the user's own arithmetic."""

    def __init__(self):
        super().__init__()
        self.one, self.two = nn.Linear(64, 8), nn.Linear(8, 4)

    def forward(self, x):
        return self.two(functional.relu(self.one(x.flatten(1))).roll(1, 1))


def test_what_is_not_understood_is_left_whole():
    model = Shifted()
    masks = find_masks(model, [], "random", 0.5)
    masks["two.weight"][:, 3] = False
    dense, compacted, small = outputs(model, masks, (1, 8, 8))
    assert torch.allclose(dense, compacted, rtol=1e-9)
    assert small.one.out_features == 8
