"""Masks: what is prunable, the largest scores, and masks on disk."""

import json

import numpy as np
import pytest
import torch
from torch import nn

from forcetune.errors import InputError
from forcetune.pruning import layer_table, load_masks, prunable, save_masks
from forcetune.pruning.masks import density, keep_largest

MASKS = {  # 9 and 4 bits: neither a whole number of bytes
    "out.weight": torch.tensor([[True, False, True], [False, False, True], [True, True, False]]),
    "0.weight": torch.tensor([True, True, False, True]).view(2, 2, 1, 1),
}


def kept(scores, count):
    return keep_largest(torch.tensor(scores), count).nonzero().flatten().tolist()


def test_keep_largest():
    assert kept([3.0, -1.0, 2.0, 5.0, 0.0], 2) == [0, 3]
    assert kept([3.0, -1.0, 2.0, 5.0, 0.0], 4) == [0, 2, 3, 4]


def test_ties_go_to_the_lower_index():
    assert kept([1.0, 2.0, 1.0, 2.0, 1.0], 1) == [1]
    assert kept([1.0, 2.0, 1.0, 2.0, 1.0], 4) == [0, 1, 2, 3]
    assert kept([0.0] * 6, 3) == [0, 1, 2]


def test_keep_all():
    assert kept([1.0, 1.0, -torch.inf], 3) == [0, 1, 2]


def test_exactly_count_of_many_ties():
    scores = torch.randint(4, (1000,), generator=torch.Generator().manual_seed(0)).float()
    for count in (1, 333, 999):
        keep = keep_largest(scores, count)
        assert int(keep.sum()) == count
        assert scores[keep].min() >= scores[~keep].max()


def test_prunable_are_the_weights_of_convolutions_and_linear_layers():
    model = nn.Sequential(
        nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2), nn.Sequential(nn.Linear(2, 2)), nn.PReLU(), nn.Embedding(3, 3)
    )
    found = prunable(model)
    assert [*found] == ["0.weight", "2.0.weight"]
    assert found["0.weight"] is model[0].weight


def test_prunable_of_a_single_layer():
    assert [*prunable(nn.Linear(2, 2))] == ["weight"]


def test_nothing_prunable():
    with pytest.raises(InputError, match="the model Embedding has no prunable layer"):
        prunable(nn.Embedding(3, 3))


def test_density_counts_weights_not_layers():
    assert density(MASKS) == 8 / 13


def test_layer_table():
    assert layer_table(MASKS) == [
        {"layer": "out.weight", "shape": [3, 3], "weights": 9, "kept": 5, "density": 5 / 9},
        {"layer": "0.weight", "shape": [2, 2, 1, 1], "weights": 4, "kept": 3, "density": 0.75},
    ]
    assert json.loads(json.dumps(layer_table(MASKS))) == layer_table(MASKS)


def test_load_gives_what_was_saved(tmp_path):
    save_masks(tmp_path / "masks.npz", MASKS)
    loaded = load_masks(tmp_path / "masks.npz")
    assert [*loaded] == [*MASKS], "in the same order"
    assert all(loaded[n].dtype == torch.bool and torch.equal(loaded[n], mask) for n, mask in MASKS.items())


def test_the_file_holds_packed_bits_and_no_pickle(tmp_path):
    save_masks(tmp_path / "masks.npz", MASKS)
    with np.load(tmp_path / "masks.npz", allow_pickle=False) as stored:
        assert json.loads(str(stored["shapes"])) == {"out.weight": [3, 3], "0.weight": [2, 2, 1, 1]}
        assert stored["out.weight"].tolist() == [0b10100111, 0b00000000]
        assert stored["0.weight"].tolist() == [0b11010000]
