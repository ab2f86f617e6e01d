"""What of a network can be pruned, and what is said to stand in the way."""

import pytest
import torch
from torch import nn

from forcetune.errors import InputError
from forcetune.models import build
from forcetune.pruning import inspect


def test_layers_with_weights_and_multiply_adds():
    model = nn.Sequential(nn.Conv2d(2, 3, 3, padding=1), nn.BatchNorm2d(3), nn.ReLU(), nn.Flatten(), nn.Linear(48, 5))
    found = inspect(model, (2, 4, 4), 5)
    assert found.layers == [("0.weight", (3, 2, 3, 3), 54, 54 * 16), ("4.weight", (5, 48), 240, 240)]
    assert (found.weights, found.macs) == (294, 54 * 16 + 240)
    assert found.unprunable == {"biases": 3 + 3 + 5, "weight of BatchNorm2d": 3}
    assert found.obstacles == []


@pytest.mark.parametrize("name", ["resnet8", "lenet5", "vgg_small", "torchvision:mobilenet_v2"])
def test_nothing_stands_in_the_way_of_ours(name):
    assert inspect(build(name, (3, 64, 64), 10), (3, 64, 64), 10).obstacles == []


class Strange(nn.Module):
    """A large layer of a kind that is not pruned, a weight used twice, and one that no layer uses."""

    def __init__(self):
        super().__init__()
        self.wide = nn.Conv1d(1, 400, 3, padding=1)
        self.one, self.same, self.out = nn.Linear(8, 8), nn.Linear(8, 8), nn.Linear(8, 2)
        self.same.weight = self.one.weight
        self.spare = nn.Linear(4, 4)

    def forward(self, x):
        x = self.wide(x[:, None]).mean(1)
        return self.out(self.same(torch.relu(self.one(x))))


def test_obstacles():
    found = inspect(Strange(), (8,), 2)
    assert found.unprunable["weight of Conv1d"] == 1200
    said = "\n".join(found.obstacles)
    assert "1622 of 1718 parameters belong to no Conv2d or Linear" in said
    assert "1 layers share their weight" in said
    assert "the layers of spare.weight: " in said
    assert "no path from input to output for 16.67% of the weights" in said  # 16 of 96
    assert len(found.obstacles) == 4


class Detached(nn.Module):
    def __init__(self):
        super().__init__()
        self.out = nn.Linear(8, 2)

    def forward(self, x):
        return self.out(x).detach()


def test_what_a_method_of_each_kind_says():
    said = "\n".join(inspect(Detached(), (8,), 2).obstacles)
    for method in ("snip", "grasp", "synflow"):
        assert f"{method} cannot score this network: RuntimeError: element 0 of tensors does not require grad" in said
    assert "no path from input to output for 100.00% of the weights" in said


def test_nothing_to_prune():
    with pytest.raises(InputError, match="has no prunable layer"):
        inspect(nn.Sequential(nn.Flatten(), nn.ReLU()), (1, 4, 4), 16)
