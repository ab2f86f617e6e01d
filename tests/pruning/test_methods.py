"""The masks of the methods: exact counts at every step, and what distinguishes one method from another."""

import itertools

import pytest
import torch
from small_networks import INITIAL_METHODS, add_method, batch, convnet, count_kept, count_weights, equal, make, mlp
from torch import nn
from torch.nn import functional

from forcetune.errors import InputError
from forcetune.pruning import METHODS, Network, diagnose, find_masks, mask_steps, prunable
from forcetune.pruning.saliency import synaptic_flow

ITERATIVE_METHODS = [name for name in INITIAL_METHODS if METHODS[name].iterative]


@pytest.mark.parametrize("method", [name for name, row in METHODS.items() if row.starts_dense])
def test_a_method_that_prunes_in_training_has_no_masks_before_it(method):
    with pytest.raises(InputError, match=f"{method}.*while the network trains.*allowed: "):
        find_masks(make(mlp), [], method, 0.1)


@pytest.mark.parametrize("network", [mlp, convnet])
@pytest.mark.parametrize("method", INITIAL_METHODS)
def test_exact_counts(method, network):
    for density in (0.005, 0.01, 0.1, 0.29, 0.7, 1.0):  # int(100 * 0.29) is 28: the product of doubles counts
        masks = find_masks(make(network), [batch()], method, density, iterations=5)
        assert count_kept(masks) == int(count_weights(masks) * density)


def test_masks_are_bool_tensors_in_module_order():
    model = make(convnet)
    masks = find_masks(model, [batch()], "force", 0.1)
    assert [*masks] == ["0.weight", "4.weight", "7.weight"]
    assert all(masks[n].dtype == torch.bool and masks[n].shape == w.shape for n, w in prunable(model).items())


@pytest.mark.parametrize("schedule", ["exponential", "linear"])
@pytest.mark.parametrize("method", ITERATIVE_METHODS)
def test_counts_follow_the_schedule(method, schedule):
    model, density, iterations = make(mlp), 0.1, 5
    n = count_weights(prunable(model))
    share = {"exponential": lambda t: density ** (t / 5), "linear": lambda t: 1 - 0.9 * t / 5}[schedule]
    steps = [
        count_kept(masks)
        for masks in mask_steps(model, [batch()], method, density, iterations=iterations, schedule=schedule)
    ]
    assert steps == [int(n * share(t)) for t in range(1, 5)] + [int(n * density)]


@pytest.mark.parametrize("network", [mlp, convnet])
def test_force_and_iterative_snip_of_one_step_are_snip(network):
    def one_step(method, density):
        torch.manual_seed(1)  # dropout draws from it
        return find_masks(make(network), [batch()], method, density, iterations=1)

    for density in (0.02, 0.3):
        snip = one_step("snip", density)
        assert equal(one_step("iter_snip", density), snip)
        assert equal(one_step("force", density), snip)


def count_returning(method):
    """Return the number of weights that return, summed over the steps."""
    steps = list(mask_steps(make(mlp), [batch()], method, 0.05, iterations=10))
    return sum(int((now[n] & ~before[n]).sum()) for before, now in itertools.pairwise(steps) for n in now)


def test_force_lets_weights_return():
    assert count_returning("force") > 0


@pytest.mark.parametrize("method", [name for name in ITERATIVE_METHODS if not METHODS[name].resurrect])
def test_other_iterative_methods_let_no_weight_return(method):
    assert count_returning(method) == 0


def test_one_shot_methods_ignore_iterations_and_schedule():
    once = find_masks(make(mlp), [batch()], "snip", 0.1)
    assert equal(once, find_masks(make(mlp), [batch()], "snip", 0.1, iterations=7, schedule="linear"))


def test_synflow_scores_in_eval_mode():
    # In train mode batch norm would set the flow of one input to zero, and dropout would remove a part of it
    model = make(convnet)
    flat = torch.cat([m.flatten() for m in find_masks(model, [batch()], "synflow", 0.3, iterations=1).values()])
    net = Network(model.eval(), functional.cross_entropy, seed=0)
    net.input_shape = (1, 4, 4)
    scores = torch.cat([score.flatten() for score in synaptic_flow(net).values()])
    assert scores[flat].min() > scores[~flat].max()


def test_ties_go_to_the_lower_index(monkeypatch):
    add_method(monkeypatch, lambda net: {n: torch.ones_like(w) for n, w in net.weights.items()})
    flat = torch.cat([mask.flatten() for mask in find_masks(make(mlp), [batch()], "mine", 0.8).values()])
    count = int(len(flat) * 0.8)  # more than the first layer has
    assert count > 16 * 12
    assert flat[:count].all()
    assert not flat[count:].any()


@pytest.mark.parametrize("method", ["snip", "force", "iter_snip", "grasp_it", "px"])
def test_a_dead_network_keeps_exactly_what_was_asked(method):
    # Negative weights on positive inputs: no ReLU opens, every score is 0, and no threshold tells weights apart
    model = make(mlp)[1:]
    model[0].weight.data.abs_().neg_()
    model[0].bias.data.zero_()
    data = torch.rand(5, 16), torch.zeros(5, dtype=torch.long)
    masks = find_masks(model, [data], method, 0.5, iterations=4)
    assert count_kept(masks) == count_weights(masks) // 2
    assert diagnose(model, masks, (16,))["collapsed"] == 1


class SharedWeight(nn.Module):
    def __init__(self):
        super().__init__()
        self.one, self.other, self.out = nn.Linear(16, 16), nn.Linear(16, 16), nn.Linear(16, 3)
        self.other.weight = self.one.weight

    def forward(self, x):
        return self.out(self.other(self.one(x.flatten(1)).relu()).relu())


@pytest.mark.parametrize("method", [name for name in INITIAL_METHODS if name != "phew"])  # phew refuses it
def test_a_shared_weight_is_pruned_once(method):
    masks = find_masks(make(SharedWeight), [batch()], method, 0.25, iterations=3)
    assert [*masks] == ["one.weight", "out.weight"]
    assert count_kept(masks) == (16 * 16 + 16 * 3) // 4


def test_the_gradient_of_a_shared_weight_is_of_both_its_uses():
    model = make(SharedWeight)
    inputs, targets = batch()
    functional.cross_entropy(model(inputs), targets).backward()
    scores = torch.cat([(p * p.grad).abs().flatten() for p in (model.one.weight, model.out.weight)])
    flat = torch.cat([m.flatten() for m in find_masks(model, [(inputs, targets)], "snip", 0.25).values()])
    assert scores[flat].min() > scores[~flat].max()


DRAWING_METHODS = {name for name in INITIAL_METHODS if name.startswith("random")} | {
    "hutchinson",
    "ntk_sap",
    "phew",
    "rigl",
    "set",
}


@pytest.mark.parametrize("method", INITIAL_METHODS)
def test_the_seed_changes_the_masks_of_methods_that_draw(method):
    first, repeated, reseeded = (find_masks(make(mlp), [batch()], method, 0.1, seed=seed) for seed in (3, 3, 4))
    assert equal(first, repeated)
    assert equal(first, reseeded) == (method not in DRAWING_METHODS)


def test_random_is_spread_over_all_layers():
    model = nn.Sequential(nn.Linear(40, 40), nn.Linear(40, 40))
    masks = find_masks(model, [], "random", 0.5)
    assert all(0.45 < mask.float().mean() < 0.55 for mask in masks.values())  # 4 standard deviations


def test_temperature_changes_grasp():
    default, explicit, lower = (
        find_masks(make(mlp), [batch()], "grasp", 0.3, options=options)
        for options in (None, {"temperature": 200}, {"temperature": 0.1})
    )
    assert equal(default, explicit)
    assert not equal(default, lower)
