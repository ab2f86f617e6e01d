"""Networks that users bring: attention, frozen layers, parametrized weights, three dimensions, embeddings."""

import pytest
import torch
from torch import nn
from torch.nn.utils import prune
from torchvision.models import VisionTransformer

from forcetune.errors import InputError
from forcetune.models import build, check_training
from forcetune.pruning import find_masks, inspect, prunable
from forcetune.training import Training

IMAGE_BATCHES = [(torch.randn(8, 3, 16, 16, generator=torch.Generator().manual_seed(0)), torch.arange(8) % 3)]


@pytest.mark.parametrize("method", ["grasp", "prospr", "hutchinson", "snip"])
def test_attention_has_second_derivatives(method):
    sizes = {"image_size": 16, "patch_size": 4, "num_layers": 2, "num_heads": 2, "hidden_dim": 8, "mlp_dim": 12}
    model = VisionTransformer(**sizes, num_classes=3)
    nn.init.normal_(model.heads.head.weight)  # torchvision sets it to zero
    batches = [(images, targets) for images, targets in IMAGE_BATCHES * 4]
    masks = find_masks(model, batches, method, 0.3)
    total = sum(mask.numel() for mask in masks.values())
    assert sum(int(mask.sum()) for mask in masks.values()) == int(0.3 * total)


def test_frozen_layers_stay_dense():
    model = nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 3))
    model[0].weight.requires_grad_(False)
    assert list(find_masks(model, [], "random", 0.5)) == ["2.weight"]
    assert "frozen layers (requires_grad is False) stay dense: 0" in inspect(model, (4,), 3).obstacles
    model.requires_grad_(False)
    with pytest.raises(InputError, match="no prunable layer; all its 2 .* are frozen"):
        prunable(model)


@pytest.mark.parametrize(
    "reparametrize",
    [
        nn.utils.parametrizations.weight_norm,
        nn.utils.parametrizations.spectral_norm,
        lambda layer: prune.random_unstructured(layer, "weight", 0.5),
    ],
)
def test_a_weight_that_is_computed_is_refused_by_name(reparametrize):
    model = nn.Sequential(nn.Linear(4, 6), nn.Sequential(reparametrize(nn.Linear(6, 3))))
    with pytest.raises(InputError, match=r"the layer 1\.0 computes its weight from other parameters"):
        find_masks(model, [], "random", 0.5)


class EmbeddingNetwork(nn.Module):
    """A network that looks whole numbers up in an embedding."""

    def __init__(self):
        super().__init__()
        self.table, self.layer = nn.Embedding(10, 4), nn.Linear(4, 3)

    def forward(self, x):
        return self.layer(self.table(x.long()).mean(1))


def test_phew_says_what_it_cannot_walk_through():
    batches = [(torch.zeros(2, 5), torch.zeros(2, dtype=torch.long))]
    with pytest.raises(InputError, match="method 'phew' cannot follow the operations between"):
        find_masks(EmbeddingNetwork(), batches, "phew", 0.5)


class Volume(nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.layer = nn.Conv3d(1, 4, 3, padding=1), nn.Linear(4, 3)

    def forward(self, x):
        return self.layer(torch.relu(self.first(x)).mean((2, 3, 4)))


class Batches(list):
    def state(self):
        return None

    def restore(self, state):
        pass


def test_three_dimensions_are_trained():
    model = Volume()
    batches = Batches([(torch.randn(4, 1, 3, 3, 3), torch.arange(4) % 3)])
    masks = find_masks(model, [], "random", 0.5)
    *_, last = Training(model, masks, batches, batches, epochs=2, lr=0.1, input_shape=(1, 3, 3, 3))
    assert last["epoch"] == 2


STRANGER_NETS_SOURCE = """
from torch import nn

class Net(nn.Module):
    def __init__(self, answer):
        super().__init__()
        self.layer, self.answer = nn.Linear(4, 3), answer

    def forward(self, x):
        return self.answer(self, self.layer(x))

def auxiliary(input_shape, classes):
    return Net(lambda self, y: (y, y) if self.training else y)

def named(input_shape, classes):
    return Net(lambda self, y: {"logits": y})
"""


@pytest.mark.parametrize(
    ("name", "message"),
    [("auxiliary", "in train mode it returns a tuple"), ("named", "in eval mode it returns a dict")],
)
def test_a_network_that_returns_more_than_logits_is_refused(tmp_path, monkeypatch, name, message):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "stranger_nets.py").write_text(STRANGER_NETS_SOURCE)
    with pytest.raises(InputError, match=f"{message}; allowed: only the logits"):
        check_training(build(f"stranger_nets:{name}", (4,), 3), (4,), 3)


def test_a_check_of_the_training_leaves_no_trace():
    model = build("resnet8", (1, 8, 8), 10, 8)
    tensors = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    random_state = torch.get_rng_state()
    check_training(model.eval(), (1, 8, 8), 10)
    assert not model.training
    assert all(torch.equal(tensor, tensors[name]) for name, tensor in model.state_dict().items())
    assert torch.equal(torch.get_rng_state(), random_state)
