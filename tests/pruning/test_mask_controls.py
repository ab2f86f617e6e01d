"""The controls of a mask: the lowest scores in place of the highest, and the layer densities of another mask."""

import itertools

import pytest
import torch
from small_networks import batch, convnet, count_kept, count_weights, equal, make, mlp

from forcetune.errors import InputError
from forcetune.pruning import find_masks, mask_steps, prunable


def test_invert_keeps_the_lowest():
    model = make(mlp)
    weights = torch.cat([weight.detach().flatten().abs() for weight in prunable(model).values()])
    keep = torch.cat([mask.flatten() for mask in find_masks(model, [], "magnitude", 0.2, invert=True).values()])
    assert weights[keep].max() < weights[~keep].min()


def test_invert_of_an_iterative_method_never_lets_a_weight_return():
    steps = list(mask_steps(make(mlp), [batch()], "iter_snip", 0.1, iterations=5, invert=True))
    assert all((now[n] <= before[n]).all() for before, now in itertools.pairwise(steps) for n in now)
    assert count_kept(steps[-1]) == int(count_weights(steps[-1]) * 0.1)


@pytest.mark.parametrize("method", ["random", "snip", "iter_snip", "force"])
def test_layer_densities_of_another_mask(method):
    model = make(mlp)
    other = find_masks(model, [], "random_erk", 0.2, seed=9)
    masks = find_masks(model, [batch()], method, 0.2, iterations=4, layer_masks=other)
    assert {n: int(m.sum()) for n, m in masks.items()} == {n: int(m.sum()) for n, m in other.items()}
    assert not equal(masks, other)
    half = find_masks(model, [batch()], method, 0.1, iterations=4, layer_masks=other)
    assert all(abs(int(m.sum()) - int(other[n].sum()) / 2) <= 1 for n, m in half.items())


def test_layer_densities_of_another_network_are_refused():
    other = find_masks(make(convnet), [], "random", 0.2)
    with pytest.raises(InputError, match="another network: 1.weight has shape"):
        find_masks(make(mlp), [], "random", 0.2, layer_masks=other)


def test_within_layers_the_largest_scores_stay():
    model = make(mlp)
    other = find_masks(model, [], "random_balanced", 0.1)
    masks = find_masks(model, [], "magnitude", 0.1, layer_masks=other)
    for name, weight in prunable(model).items():
        assert weight[masks[name]].abs().min() > weight[~masks[name]].abs().max()
