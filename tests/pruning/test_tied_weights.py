"""Weights that a layer shares with an embedding, or with a parameter of the network itself."""

import pytest
import torch
from small_networks import INITIAL_METHODS, TiedEmbedding, batch, count_kept, count_weights, make
from torch import nn
from torch.nn import functional

from forcetune.errors import InputError
from forcetune.pruning import Network, diagnose, find_masks, prunable
from forcetune.pruning.diagnosis import dense_macs


class TiedParameter(nn.Module):
    """A network whose last layer has a parameter of the network itself as its weight."""

    def __init__(self):
        super().__init__()
        self.codes = nn.Parameter(torch.randn(3, 8))
        self.body, self.head = nn.Linear(16, 8), nn.Linear(8, 3, bias=False)
        self.head.weight = self.codes

    def forward(self, x):
        return self.head((self.body(x.flatten(1)) + self.codes.mean(0)).relu())


@pytest.mark.parametrize("method", [name for name in INITIAL_METHODS if name != "phew"])  # phew refuses both
@pytest.mark.parametrize(("network", "name"), [(TiedEmbedding, "embedding.weight"), (TiedParameter, "codes")])
def test_a_tied_weight_has_the_name_of_its_parameter(network, name, method):
    model = make(network)
    masks = find_masks(model, [batch()], method, 0.5, iterations=3)
    assert [*masks] == ["body.weight", name]
    assert count_kept(masks) == count_weights(masks) // 2
    weights = prunable(model)
    assert all(dict(model.named_parameters())[name] is weight for name, weight in weights.items())
    assert diagnose(model, masks, (1, 4, 4))["density"] == 0.5


@pytest.mark.parametrize("network", [TiedEmbedding, TiedParameter])
def test_phew_refuses_a_tied_weight(network):
    with pytest.raises(InputError, match="method 'phew' (does not support embedding|cannot follow .* codes)"):
        find_masks(make(network), [batch()], "phew", 0.5)


def test_the_gate_of_a_tied_weight_has_the_bias_of_its_layer():
    model = make(TiedEmbedding)
    model.head = nn.Linear(8, 16)
    model.head.weight = model.embedding.weight
    assert Network(model, functional.cross_entropy, seed=0).find_biases() == {
        "body.weight": "body.bias",
        "embedding.weight": "head.bias",
    }


def test_a_tied_embedding_multiplies_nothing():
    model = make(TiedEmbedding)
    assert dense_macs(model, (1, 4, 4)) == {"body.weight": 64, "embedding.weight": 128}
