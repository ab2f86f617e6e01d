"""PHEW: the paths of its walks, how often they take a weight, and networks that they cannot follow."""

from collections import Counter

import pytest
import torch
from torch import nn

from forcetune.errors import InputError
from forcetune.models import build
from forcetune.pruning import Network, diagnose, find_masks, prunable
from forcetune.pruning.walks import _find_readers


def wrap(model, input_shape):
    net = Network(model, nn.functional.cross_entropy, seed=0)
    net.input_shape = input_shape
    return net


class Residual(nn.Module):
    """A stem, a depthwise layer beside an identity, a concatenation of both, and a linear layer on 2x2 positions."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(1, 2, 1)
        self.norm = nn.BatchNorm2d(2)
        self.depthwise = nn.Conv2d(2, 2, 3, padding=1, groups=2)
        self.out = nn.Linear(4 * 2 * 2, 3)

    def forward(self, x):
        x = nn.functional.relu(self.norm(self.stem(x)))
        x = torch.cat([x, x + self.depthwise(x)], 1)
        return self.out(nn.functional.max_pool2d(x, 2).flatten(1))


def test_which_channels_read_which():
    net = wrap(Residual(), (1, 4, 4))
    assert _find_readers(net, "") == {"stem.weight": [15], "depthwise.weight": [-1, -1], "out.weight": [-1] * 16}
    # The linear layer reads four positions of each channel: first of the stem's two channels, then of the sum's
    positions = [0] * 4 + [1] * 4
    assert _find_readers(net, "stem.weight")["depthwise.weight"] == [0, 1]
    assert _find_readers(net, "stem.weight")["out.weight"] == positions * 2
    assert _find_readers(net, "depthwise.weight")["out.weight"] == [-1] * 8 + positions


def test_a_walk_takes_weights_in_proportion_to_their_size():
    model = nn.Linear(1, 3)
    model.weight.data = torch.tensor([[1.0], [-2.0], [5.0]])
    taken = Counter(int(find_masks(model, [], "phew", 0.34, seed=s)["weight"].nonzero()[0, 0]) for s in range(800))
    assert [taken[row] / 800 for row in range(3)] == pytest.approx([1 / 8, 2 / 8, 5 / 8], abs=0.06)


def test_walks_go_forwards_and_backwards_in_turn():
    # The first walk starts at the first input, the second at the first output; both take the weights that are not 0
    model = nn.Sequential(nn.Linear(2, 2, bias=False), nn.ReLU(), nn.Linear(2, 2, bias=False))
    model[0].weight.data = torch.tensor([[1.0, 0.0], [0.0, 1.0]])
    model[2].weight.data = torch.tensor([[0.0, 1.0], [1.0, 0.0]])
    masks = find_masks(model, [], "phew", 0.5)  # input 0 -> unit 0 -> output 1, then output 0 -> unit 1 -> input 1
    assert masks["0.weight"].tolist() == [[True, False], [False, True]]
    assert masks["2.weight"].tolist() == [[False, True], [True, False]]


@pytest.mark.parametrize("name", ["resnet8", "vgg_small", "torchvision:mobilenet_v2"])
def test_what_is_kept_lies_on_paths(name):
    model = build(name, (1, 96, 96), 10)
    masks = find_masks(model, [(torch.zeros(1, 1, 96, 96), None)], "phew", 0.01)
    metrics = diagnose(model, masks, (1, 96, 96))
    count = sum(weight.numel() for weight in prunable(model).values())
    # The count cuts the last walk short, so a few weights may lie on no path
    assert metrics["effective_density"] * count > metrics["density"] * count - 2 * len(masks)


def test_every_weight_can_be_kept():
    # No walk passes a unit without weights; its weights are taken only where the count needs them at the end
    model = nn.Sequential(nn.Linear(3, 3), nn.ReLU(), nn.Linear(3, 2))
    model[0].weight.data[0] = 0
    model[2].weight.data[:, 0] = 0
    assert all(mask.all() for mask in find_masks(model, [], "phew", 1.0).values())
    masks = find_masks(model, [], "phew", 10 / 15)
    assert not masks["0.weight"][0].any()
    assert not masks["2.weight"][:, 0].any()


class Gate(nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.second, self.out = nn.Linear(4, 4), nn.Linear(4, 4), nn.Linear(4, 2)

    def forward(self, x):
        return self.out(self.first(x) * torch.sigmoid(self.second(x)) + 0.3)


class Twice(nn.Module):
    def __init__(self):
        super().__init__()
        self.one, self.out = nn.Linear(4, 4), nn.Linear(4, 2)

    def forward(self, x):
        return self.out(self.one(self.one(x)))


@pytest.mark.parametrize(
    ("kind", "message"),
    [(Gate, "between the input and out.weight: .*gate"), (Twice, "does not support one.weight")],
)
def test_networks_that_walks_cannot_follow_are_refused(kind, message):
    with pytest.raises(InputError, match=message):
        find_masks(kind(), [], "phew", 0.5)
