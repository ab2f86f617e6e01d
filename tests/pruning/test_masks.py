"""Masks: the prunable weights, the largest scores, and masks on disk."""

import json

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as some
from safetensors.torch import save_file
from torch import nn

from forcetune.errors import InputError
from forcetune.pruning import layer_densities, layer_table, load_masks, prunable, save_masks, shuffled
from forcetune.pruning.masks import density, emptied_channels, keep_largest

MASKS = {  # 9 and 4 bits, which fill no whole number of bytes
    "out.weight": torch.tensor([[True, False, True], [False, False, True], [True, True, False]]),
    "0.weight": torch.tensor([True, True, False, True]).view(2, 2, 1, 1),
}


def find_kept(scores, count):
    return keep_largest(torch.tensor(scores), count).nonzero().flatten().tolist()


def test_keep_largest():
    assert find_kept([3.0, -1.0, 2.0, 5.0, 0.0], 2) == [0, 3]
    assert find_kept([3.0, -1.0, 2.0, 5.0, 0.0], 4) == [0, 2, 3, 4]


def test_ties_go_to_the_lower_index():
    assert find_kept([1.0, 2.0, 1.0, 2.0, 1.0], 1) == [1]
    assert find_kept([1.0, 2.0, 1.0, 2.0, 1.0], 4) == [0, 1, 2, 3]
    assert find_kept([0.0] * 6, 3) == [0, 1, 2]


def test_keep_all():
    assert find_kept([1.0, 1.0, -torch.inf], 3) == [0, 1, 2]


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
    weights = prunable(model)
    assert [*weights] == ["0.weight", "2.0.weight"]
    assert weights["0.weight"] is model[0].weight


def test_prunable_of_a_single_layer():
    assert [*prunable(nn.Linear(2, 2))] == ["weight"]


def test_nothing_prunable():
    with pytest.raises(InputError, match="the model Embedding has no prunable layer"):
        prunable(nn.Embedding(3, 3))


def test_density_counts_weights_not_layers():
    assert density(MASKS) == 8 / 13


def test_layer_table():
    assert layer_table(MASKS) == [
        {
            "layer": "out.weight",
            "shape": [3, 3],
            "weights": 9,
            "kept": 5,
            "density": 5 / 9,
            "channels": 3,
            "channels_emptied": 0,
        },
        {
            "layer": "0.weight",
            "shape": [2, 2, 1, 1],
            "weights": 4,
            "kept": 3,
            "density": 0.75,
            "channels": 2,
            "channels_emptied": 0,
        },
    ]
    assert json.loads(json.dumps(layer_table(MASKS))) == layer_table(MASKS)


def test_loaded_masks_are_those_that_were_saved(tmp_path):
    save_masks(tmp_path / "masks.npz", MASKS)
    loaded = load_masks(tmp_path / "masks.npz")
    assert [*loaded] == [*MASKS], "in the same order"
    assert all(loaded[n].dtype == torch.bool and torch.equal(loaded[n], mask) for n, mask in MASKS.items())


def test_masks_as_safetensors(tmp_path):
    path = tmp_path / "masks.safetensors"
    save_masks(path, MASKS)
    loaded = load_masks(path)
    assert [*loaded] == [*MASKS], "in the same order"
    assert all(loaded[n].dtype == torch.bool and torch.equal(loaded[n], mask) for n, mask in MASKS.items())
    save_file(dict(MASKS), path)  # as another program would write it
    assert {n: mask.tolist() for n, mask in load_masks(path).items()} == {n: m.tolist() for n, m in MASKS.items()}
    save_file({"a.weight": torch.ones(2, 2)}, path)
    with pytest.raises(InputError, match=r"a\.weight is torch\.float32; .*bool"):
        load_masks(path)
    path.write_bytes(b"no such file")
    with pytest.raises(InputError, match="is not a readable mask file"):
        load_masks(path)


def test_the_file_holds_packed_bits_and_no_pickle(tmp_path):
    save_masks(tmp_path / "masks.npz", MASKS)
    with np.load(tmp_path / "masks.npz", allow_pickle=False) as stored:
        assert json.loads(str(stored["shapes"])) == {"out.weight": [3, 3], "0.weight": [2, 2, 1, 1]}
        assert stored["out.weight"].tolist() == [0b10100111, 0b00000000]
        assert stored["0.weight"].tolist() == [0b11010000]


@pytest.mark.parametrize("content", [b"", b"not an archive", b"PK\x03\x04 cut short"])
def test_an_unreadable_file_is_refused(content, tmp_path):
    (tmp_path / "masks.npz").write_bytes(content)
    with pytest.raises(InputError, match="masks.npz is not a readable mask file"):
        load_masks(tmp_path / "masks.npz")


def test_an_archive_without_masks_is_refused(tmp_path):
    np.savez(tmp_path / "weights.npz", weight=np.zeros(3))
    np.save(tmp_path / "array.npy", np.zeros(3))
    for name in ("weights.npz", "array.npy", "missing.npz"):
        with pytest.raises(InputError, match=f"{name} is not a readable mask file"):
            load_masks(tmp_path / name)


def test_emptied_channels():
    # Rows are output channels: of a linear layer, then of a convolution with two inputs and a kernel of two weights
    assert emptied_channels(torch.tensor([[True, False], [False, False], [False, False]])) == 2
    assert emptied_channels(torch.tensor([[[[False, False]], [[False, True]]], [[[False, False]]] * 2])) == 1


@given(some.integers(0, 2**32), some.lists(some.integers(1, 40), min_size=1, max_size=4))
def test_the_shuffle_keeps_layer_counts(seed, sizes):
    generator = torch.Generator().manual_seed(seed)
    masks = {str(i): torch.rand(2, size, generator=generator) < 0.3 for i, size in enumerate(sizes)}
    shuffled_masks = shuffled(masks, seed)
    assert [*shuffled_masks] == [*masks]
    assert all(shuffled_masks[n].shape == m.shape and shuffled_masks[n].sum() == m.sum() for n, m in masks.items())
    assert all(torch.equal(mask, shuffled(masks, seed)[name]) for name, mask in shuffled_masks.items())


def test_the_shuffle_moves_bits_to_every_position():
    mask = {"a": torch.arange(8) == 0}
    positions = [int(shuffled(mask, seed)["a"].nonzero()) for seed in range(400)]
    assert min(positions.count(position) for position in range(8)) > 25, "each about 50 times"


def test_layer_densities():
    weights = {name: torch.zeros(mask.shape) for name, mask in MASKS.items()}
    assert layer_densities(MASKS, weights) == [5 / 9, 3 / 4]
    with pytest.raises(InputError, match=r"0.weight has shape \(2, 2\) .*\(2, 2, 1, 1\)"):
        layer_densities(MASKS, {"0.weight": torch.zeros(2, 2)})
    with pytest.raises(InputError, match="1.weight .* is missing"):
        layer_densities(MASKS, {"1.weight": torch.zeros(2, 2)})
