"""Masks that are found with a shared cache: they equal those found without it, and cost fewer passes."""

import pytest
import torch
from torch import nn

from forcetune.pruning import METHODS, PruningCache, find_masks

BATCHES = [
    (torch.randn(16, 1, 6, 6, generator=torch.Generator().manual_seed(i)), torch.arange(16) % 4) for i in range(3)
]
# The first two keep the same numbers of weights at their first steps
DENSITIES_AND_ITERATIONS = [(0.1, 2), (0.01, 4), (0.3, 1), (0.01, 4), (0.2, 3), (0.1, 2)]


class Counting(nn.Sequential):
    """A network that counts its forward passes.

    A step that the cache spares must not change the draws of its dropout. Each pass changes the buffers of its norm.
    """

    def __init__(self):
        torch.manual_seed(0)
        super().__init__(
            nn.Conv2d(1, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Dropout(0.3), nn.Flatten(), nn.Linear(128, 4)
        )
        self.passes = 0

    def forward(self, x):
        self.passes += 1
        return super().forward(x)


def find_with_cache(model, method, setting, cache, **arguments):
    density, iterations = setting
    torch.manual_seed(7)
    return find_masks(model, BATCHES, method, density, iterations=iterations, cache=cache, **arguments)


def equal(masks, other_masks):
    return masks.keys() == other_masks.keys() and all(
        torch.equal(tensor, other_masks[name]) for name, tensor in masks.items()
    )


def test_scores_that_depend_on_the_number_of_weights_serve_that_number_alone():
    model, cache = Counting(), PruningCache()
    for setting in ((0.01, 1), (0.2, 1), (0.01, 1)):
        uncached = find_with_cache(model, "phew", setting, None)
        assert equal(find_with_cache(model, "phew", setting, cache), uncached)
    assert cache.reused_steps == 1


@pytest.mark.parametrize(
    "method",
    [name for name, row in METHODS.items() if row.has_granularity and (row.data or row.iterative)],
)
def test_every_method_finds_the_same_masks(method):
    model, cache = Counting(), PruningCache()
    for setting in DENSITIES_AND_ITERATIONS:
        if METHODS[method].pooled:
            # The number of batches follows from the iterations, and a cache holds for one number of batches
            setting = setting[0], 2
        uncached = find_with_cache(model, method, setting, None)
        assert equal(find_with_cache(model, method, setting, cache), uncached), setting
    assert cache.reused_steps >= len(DENSITIES_AND_ITERATIONS) - 1
    assert cache.saved_seconds > 0
    assert cache.size > 0


@pytest.mark.parametrize("method", ["snip", "force", "snap_it"])
def test_whole_channels_are_the_same(method):
    model, cache = Counting(), PruningCache()
    for setting in [(0.5, 2), (0.25, 4), (0.9, 1), (0.25, 4), (0.4, 3)]:
        uncached, cached = (
            find_with_cache(model, method, setting, used_cache, granularity="channel") for used_cache in (None, cache)
        )
        assert equal(cached, uncached), setting
    assert cache.reused_steps >= 4


@pytest.mark.parametrize(
    ("method", "passes"),
    [
        ("snip", [1, 0, 0, 0, 0, 0]),
        # 0.1 takes two steps; 0.01 in four begins with the same two; 0.3 in one step needs the first scores only;
        # 0.01 comes again; 0.2 in three steps shares the first step alone; 0.1 comes again
        ("force", [2, 2, 0, 0, 2, 0]),
    ],
)
def test_cached_steps_cost_no_passes(method, passes):
    model, cache, counts = Counting(), PruningCache(), []
    for setting in DENSITIES_AND_ITERATIONS:
        before = model.passes
        find_with_cache(model, method, setting, cache)
        counts.append(model.passes - before)
    assert counts == passes


def test_schedules_share_their_equal_steps():
    model, cache = Counting(), PruningCache()
    for schedule in ("exponential", "linear", "linear"):
        find_masks(model, BATCHES, "force", 0.1, iterations=3, schedule=schedule, cache=cache)
    assert cache.reused_steps == 0 + 1 + 3
