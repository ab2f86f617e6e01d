"""The inspection of a network: its prunable layers and the obstacles to pruning it."""

import pytest
import torch
from small_networks import TiedEmbedding
from torch import nn

from forcetune.errors import InputError
from forcetune.models import build
from forcetune.pruning import inspect


def test_layers_with_weights_and_multiply_adds():
    model = nn.Sequential(nn.Conv2d(2, 3, 3, padding=1), nn.BatchNorm2d(3), nn.ReLU(), nn.Flatten(), nn.Linear(48, 5))
    inspection = inspect(model, (2, 4, 4), 5)
    assert inspection.layers == [("0.weight", (3, 2, 3, 3), 54, 54 * 16), ("4.weight", (5, 48), 240, 240)]
    assert (inspection.weights, inspection.macs) == (294, 54 * 16 + 240)
    assert inspection.unprunable == {"biases": 3 + 3 + 5, "weight of BatchNorm2d": 3}
    assert inspection.obstacles == []


@pytest.mark.parametrize("name", ["resnet8", "lenet5", "vgg_small", "torchvision:mobilenet_v2"])
def test_networks_of_forcetune_have_no_obstacles(name):
    assert inspect(build(name, (3, 64, 64), 10), (3, 64, 64), 10).obstacles == []


class Strange(nn.Module):
    """A network with a large layer that is never pruned, a weight that is used twice and a layer that is not used."""

    def __init__(self):
        super().__init__()
        self.wide = nn.Conv1d(1, 400, 3, padding=1)
        self.first, self.second, self.out = nn.Linear(8, 8), nn.Linear(8, 8), nn.Linear(8, 2)
        self.second.weight = self.first.weight
        self.spare = nn.Linear(4, 4)

    def forward(self, x):
        x = self.wide(x[:, None]).mean(1)
        return self.out(self.second(torch.relu(self.first(x))))


def test_obstacles():
    inspection = inspect(Strange(), (8,), 2)
    assert inspection.unprunable["weight of Conv1d"] == 1200
    obstacles = "\n".join(inspection.obstacles)
    assert "1622 of 1718 parameters belong to no Conv2d or Linear" in obstacles
    assert "weights are shared (1 further uses in other modules)" in obstacles
    assert "the layers of spare.weight: " in obstacles
    assert "no path from input to output for 16.67% of the weights" in obstacles  # 16 of 96
    assert len(inspection.obstacles) == 4


def test_a_weight_that_is_tied_to_an_embedding_is_one_prunable_weight():
    inspection = inspect(TiedEmbedding(), (1, 4, 4), 3)
    assert [name for name, *_ in inspection.layers] == ["body.weight", "embedding.weight"]
    assert inspection.unprunable == {"biases": 8}
    assert "weights are shared (1 further uses in other modules)" in inspection.obstacles[0]


class Detached(nn.Module):
    def __init__(self):
        super().__init__()
        self.out = nn.Linear(8, 2)

    def forward(self, x):
        return self.out(x).detach()


def test_a_network_that_methods_cannot_score_has_obstacles():
    obstacles = "\n".join(inspect(Detached(), (8,), 2).obstacles)
    for method in ("snip", "grasp", "synflow"):
        assert (
            f"{method} cannot score this network: RuntimeError: element 0 of tensors does not require grad" in obstacles
        )
    assert "no path from input to output for 100.00% of the weights" in obstacles


def test_a_network_without_prunable_layers_is_refused():
    with pytest.raises(InputError, match="has no prunable layer"):
        inspect(nn.Sequential(nn.Flatten(), nn.ReLU()), (1, 4, 4), 16)
