"""The numbers of weights that layers keep: worked out by hand, and adding up to the count for any rule."""

from math import prod

import pytest
from hypothesis import given
from hypothesis import strategies as some

from forcetune.pruning.layers import (
    allocate,
    balanced,
    copied,
    erdos_renyi_kernel,
    smart_ratio,
    uniform,
    uniform_plus,
)

LINEAR_SHAPES = [(4, 3), (2, 4)]  # 12 and 8 weights
CONVOLUTION_SHAPES = [(2, 1, 3, 3), (4, 2, 3, 3), (2, 4)]  # 18, 72 and 8 weights, 98 in all


@pytest.mark.parametrize(
    ("rule", "shapes", "count", "counts"),
    [
        (uniform, LINEAR_SHAPES, 10, [6, 4]),
        # 5.4 and 3.6: the weight that is left after rounding down goes to the larger fraction
        (uniform, LINEAR_SHAPES, 9, [5, 4]),
        # 7.5 and 4.5 of 15 and 9: a tie goes to the earlier layer
        (uniform, [(5, 3), (3, 3)], 12, [8, 4]),
        # the densities are as 7/12 to 6/8, so the counts are as 7 to 6: 5.4 and 4.6
        (erdos_renyi_kernel, LINEAR_SHAPES, 10, [5, 5]),
        # 7 to 6 would give 10.8 and 9.2, but the second layer has 8: it is dense, and the first takes the others
        (erdos_renyi_kernel, LINEAR_SHAPES, 19, [11, 8]),
        # the counts are as in + out + height + width: 9, 12 and 6 of 27
        (erdos_renyi_kernel, CONVOLUTION_SHAPES, 27, [9, 12, 6]),
        (balanced, LINEAR_SHAPES, 10, [5, 5]),
        (balanced, LINEAR_SHAPES, 18, [10, 8]),
        (balanced, CONVOLUTION_SHAPES, 60, [18, 34, 8]),
        # the first convolution is dense, the other layers keep 22 of 80: 19.8 and 2.2
        (uniform_plus, CONVOLUTION_SHAPES, 40, [18, 20, 2]),
        # below a density of 0.2 the classifier keeps 0.2: 1.6; with 19 of 98 the two fixed layers would take 19.6
        (uniform_plus, [(1, 1, 3, 3), (9, 1, 3, 3), (2, 5)], 17, [9, 6, 2]),
        (uniform_plus, CONVOLUTION_SHAPES, 19, [17, 0, 2]),
        (uniform_plus, LINEAR_SHAPES, 10, [6, 4]),
        # the shares are 3^2 + 3 and 2^2 + 2 of the convolutions, and 0.3 of the linear layer: 5.9, 11.7 and 2.4
        (smart_ratio, CONVOLUTION_SHAPES, 20, [6, 12, 2]),
        # the convolutions are dense, the linear layer takes the other weights
        (smart_ratio, CONVOLUTION_SHAPES, 95, [18, 72, 5]),
        (copied([0.5, 0.25]), LINEAR_SHAPES, 8, [6, 2]),
        (copied([0.5, 0.25]), LINEAR_SHAPES, 4, [3, 1]),
        (copied([0.5, 0.25]), LINEAR_SHAPES, 17, [12, 5]),
        (copied([0.5, 0.0]), LINEAR_SHAPES, 6, [6, 0]),
        (copied([0.5, 0.0]), LINEAR_SHAPES, 15, [12, 3]),
    ],
)
def test_counts_worked_out_by_hand(rule, shapes, count, counts):
    assert allocate(rule, shapes, count) == counts


LAYER_RULES = [uniform, erdos_renyi_kernel, balanced, uniform_plus, smart_ratio]
layer_shapes = some.one_of(
    some.tuples(some.integers(1, 20), some.integers(1, 20)),
    some.tuples(some.integers(1, 8), some.integers(1, 8), some.sampled_from([1, 3]), some.sampled_from([1, 3])),
)


@given(some.data(), some.lists(layer_shapes, min_size=1, max_size=6), some.sampled_from(LAYER_RULES))
def test_counts_add_up_and_fit(data, shapes, rule):
    capacities = [data.draw(some.integers(0, prod(shape))) for shape in shapes]
    count = data.draw(some.integers(0, sum(capacities)))
    counts = allocate(rule, shapes, count, capacities)
    assert sum(counts) == count
    assert all(0 <= kept <= capacity for kept, capacity in zip(counts, capacities, strict=True))


@given(some.data(), some.lists(layer_shapes, min_size=1, max_size=6))
def test_copied_layer_counts_are_the_same_at_the_same_density(data, shapes):
    counts = [data.draw(some.integers(0, prod(shape))) for shape in shapes]
    densities = [count / prod(shape) for count, shape in zip(counts, shapes, strict=True)]
    assert allocate(copied(densities), shapes, sum(counts)) == counts
