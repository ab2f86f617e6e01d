"""Masks that share a trail are those that each would have been alone, and cost fewer passes."""

import pytest
import torch
from torch import nn

from forcetune.pruning import METHODS, PruningCache, find_masks

BATCHES = [
    (torch.randn(16, 1, 6, 6, generator=torch.Generator().manual_seed(i)), torch.arange(16) % 4) for i in range(3)
]
ASKED = [(0.1, 2), (0.01, 4), (0.3, 1), (0.01, 4), (0.2, 3), (0.1, 2)]  # the first two keep the same numbers at first


class Counting(nn.Sequential):
    """Counts its forward passes; has dropout, whose draws a spared step must not move, and a buffer that each moves."""

    def __init__(self):
        torch.manual_seed(0)
        super().__init__(
            nn.Conv2d(1, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Dropout(0.3), nn.Flatten(), nn.Linear(128, 4)
        )
        self.passes = 0

    def forward(self, x):
        self.passes += 1
        return super().forward(x)


def masks_of(model, method, asked, trail):
    density, iterations = asked
    torch.manual_seed(7)
    return find_masks(model, BATCHES, method, density, iterations, trail=trail)


def equal(one, other):
    return one.keys() == other.keys() and all(torch.equal(mask, other[name]) for name, mask in one.items())


@pytest.mark.parametrize("method", [name for name, row in METHODS.items() if row.data or row.iterative])
def test_every_method_finds_the_same_masks(method):
    model, trail = Counting(), PruningCache()
    for asked in ASKED:
        if METHODS[method].pooled:
            asked = asked[0], 2  # how many batches it takes is another setting
        alone = masks_of(model, method, asked, None)
        assert equal(masks_of(model, method, asked, trail), alone), asked
    assert trail.reused_steps >= len(ASKED) - 1
    assert trail.saved_seconds > 0
    assert trail.size > 0


@pytest.mark.parametrize(
    ("method", "passes"),
    [
        ("snip", [1, 0, 0, 0, 0, 0]),
        # of force: 0.1 in two steps; 0.01 in four begins with the same two; 0.3 in one is the first step's scores; and
        # again; 0.2 in three shares the first step alone; and the first again
        ("force", [2, 2, 0, 0, 2, 0]),
    ],
)
def test_steps_that_were_taken_are_not_taken_again(method, passes):
    model, trail, taken = Counting(), PruningCache(), []
    for asked in ASKED:
        before = model.passes
        masks_of(model, method, asked, trail)
        taken.append(model.passes - before)
    assert taken == passes


def test_a_linear_schedule_shares_what_it_has_in_common():
    model, trail = Counting(), PruningCache()
    for schedule in ("exponential", "linear", "linear"):
        find_masks(model, BATCHES, "force", 0.1, 3, schedule, trail=trail)
    assert trail.reused_steps == 0 + 1 + 3
