"""Small networks and their batches, the methods that prune before training, and the comparison of masks."""

import torch
from torch import nn

from forcetune.pruning import METHODS, Method

# of weights: the others prune in training, or whole channels (test_channels.py)
INITIAL_METHODS = [name for name, row in METHODS.items() if not row.starts_dense and not row.scores_gates]


def mlp():
    return nn.Sequential(nn.Flatten(), nn.Linear(16, 12), nn.ReLU(), nn.Linear(12, 6), nn.ReLU(), nn.Linear(6, 3))


def convnet():
    """Return a network with batch norm and dropout, which a forward pass writes to and draws from."""
    return nn.Sequential(
        nn.Conv2d(1, 4, 3, padding=1, bias=False),
        nn.BatchNorm2d(4),
        nn.ReLU(),
        nn.Dropout(0.3),
        nn.Conv2d(4, 5, 3),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(20, 3),
    )


class TiedEmbedding(nn.Module):
    """A network of grey levels whose last layer has the weight of its embedding."""

    def __init__(self):
        super().__init__()
        self.embedding, self.body, self.head = nn.Embedding(16, 8), nn.Linear(8, 8), nn.Linear(8, 16, bias=False)
        self.head.weight = self.embedding.weight

    def forward(self, x):
        levels = (x.flatten(1).clamp(0, 1) * 15).long()
        return self.head(self.body(self.embedding(levels).mean(1)).relu())


def make(network):
    torch.manual_seed(0)
    return network()


def batch(seed=0, size=12):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(size, 1, 4, 4, generator=generator), torch.randint(3, (size,), generator=generator)


def count_kept(masks):
    return sum(int(mask.sum()) for mask in masks.values())


def count_weights(masks):
    return sum(mask.numel() for mask in masks.values())


def equal(masks, other_masks):
    return masks.keys() == other_masks.keys() and all(torch.equal(masks[name], other_masks[name]) for name in masks)


def add_method(monkeypatch, score, **rule):
    """Add a row `mine` to METHODS."""
    monkeypatch.setitem(METHODS, "mine", Method(score, **rule))
