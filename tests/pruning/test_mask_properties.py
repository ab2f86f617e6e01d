"""Properties of masks that hold for all networks of up to three layers of any width."""

import itertools

import torch
from hypothesis import assume, event, given, settings
from hypothesis import strategies as some
from small_networks import INITIAL_METHODS, batch, count_kept, count_weights, equal
from torch import nn

from forcetune.pruning import METHODS, SCHEDULES, find_masks, mask_steps
from forcetune.pruning.schedules import exponential


def network(widths):
    torch.manual_seed(sum(widths))
    layers = [
        layer for inputs, outputs in itertools.pairwise(widths) for layer in (nn.Linear(inputs, outputs), nn.ReLU())
    ]
    return nn.Sequential(nn.Flatten(), *layers[:-1])


widths = some.lists(some.integers(1, 12), min_size=1, max_size=2).map(lambda hidden: [16, *hidden, 3])
densities = some.floats(0.06, 1)  # the smallest network has 19 weights
steps = some.integers(1, 7)


@settings(max_examples=60, deadline=None)
@given(widths, densities, steps, some.sampled_from(INITIAL_METHODS), some.sampled_from([*SCHEDULES]), some.booleans())
def test_any_density_network_and_schedule_keeps_the_exact_count(widths, density, iterations, method, schedule, invert):
    model = network(widths)
    step_masks = list(
        mask_steps(model, [batch()], method, density, iterations=iterations, schedule=schedule, invert=invert)
    )
    n = count_weights(step_masks[-1])
    assert count_kept(step_masks[-1]) == int(n * density)
    if METHODS[method].iterative:
        shares = [SCHEDULES[schedule](density, t, iterations) for t in range(1, iterations)]
        assert [count_kept(masks) for masks in step_masks[:-1]] == [int(n * share) for share in shares]
    if not METHODS[method].resurrect:
        assert all((now[name] <= before[name]).all() for before, now in itertools.pairwise(step_masks) for name in now)


@settings(max_examples=30, deadline=None)
@given(widths, densities, some.integers(0, 5))
def test_one_step_is_snip(widths, density, seed):
    model, batches = network(widths), [batch(seed)]
    snip = find_masks(model, batches, "snip", density)
    for method in ("force", "iter_snip"):
        assert equal(snip, find_masks(model, batches, method, density, iterations=1))


@settings(max_examples=30, deadline=None)
@given(widths, densities, densities)
def test_masks_of_snip_are_nested(widths, first_density, second_density):
    model = network(widths)
    sparse, dense = (
        find_masks(model, [batch()], "snip", density) for density in sorted([first_density, second_density])
    )
    assert all((sparse[name] <= dense[name]).all() for name in sparse)


@settings(max_examples=60, deadline=None)
@given(widths, some.floats(0.06, 0.9), some.data(), some.sampled_from(["force", "iter_snip", "grasp_it", "synflow"]))
def test_an_exponential_run_holds_the_shorter_ones(widths, density, data, method):
    # Step t of the run (T, d) equals the run (t, d^(t/T)) wherever the counts agree at every step
    iterations = data.draw(some.integers(2, 6))
    t = data.draw(some.integers(1, iterations - 1))
    model, batches = network(widths).double(), [(x.double(), y) for x, y in map(batch, range(3))]
    long = list(mask_steps(model, batches, method, density, iterations=iterations))[:t]
    assume(int(count_weights(long[0]) * exponential(density, t, iterations)) > 0)
    short = list(mask_steps(model, batches, method, exponential(density, t, iterations), iterations=t))
    if [count_kept(masks) for masks in long] == [count_kept(masks) for masks in short]:
        assert all(equal(long_masks, short_masks) for long_masks, short_masks in zip(long, short, strict=True))
    else:
        event("the counts differ")


@settings(max_examples=30, deadline=None)
@given(widths, densities, some.sampled_from(INITIAL_METHODS), some.sampled_from(["train", "eval"]))
def test_any_method_leaves_the_model_untouched(widths, density, method, mode):
    model = network(widths).train(mode == "train")
    before = {name: value.clone() for name, value in model.state_dict().items()}
    find_masks(model, [batch()], method, density, iterations=2)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert all(parameter.grad is None for parameter in model.parameters())
    assert all(module.training == (mode == "train") for module in model.modules())
