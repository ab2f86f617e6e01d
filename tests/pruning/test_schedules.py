"""The numbers of weights that are kept after each pruning step."""

import math

import pytest

from forcetune.pruning import SCHEDULES
from forcetune.pruning.schedules import cubic, exponential, halving, linear, weight_counts


def test_exponential_removes_the_same_share():
    assert [exponential(1 / 16, t, 4) for t in range(1, 5)] == pytest.approx([1 / 2, 1 / 4, 1 / 8, 1 / 16])


def test_linear_removes_the_same_number():
    assert [linear(0.2, t, 4) for t in range(1, 5)] == pytest.approx([0.8, 0.6, 0.4, 0.2])


def test_cubic_is_fast_at_first():
    # 1 - 0.8 (1 - (1 - t/4)^3): 37/64, 56/64, 63/64 and all of the 0.8 are gone
    shares = [1 - 0.8 * gone / 64 for gone in (37, 56, 63, 64)]
    assert [cubic(0.2, t, 4) for t in range(1, 5)] == pytest.approx(shares)


def test_halving_goes_half_of_the_way():
    # The sparsity is s - (s - 0.5) 0.5^i for s = 0.9: 0.5, 0.7, 0.8, 0.85, then s
    assert [halving(0.1, t, 5) for t in range(1, 6)] == pytest.approx([0.5, 0.3, 0.2, 0.15, 0.1])
    assert [halving(0.6, t, 3) for t in range(1, 4)] == [0.6, 0.6, 0.6], "never below the requested density"


def test_counts():
    assert weight_counts(100, 0.5, 4, linear) == [87, 75, 62, 50]
    assert weight_counts(1001, 0.01, 2, exponential) == [100, 10]


def test_the_order_of_operations():
    # 1 - 19 * 0.9 / 20 is slightly less than 0.145, and 1 - 19 / 20 * 0.9 is not
    assert weight_counts(1000, 0.1, 20, linear)[18] == 144
    assert int(1000 * (1 - 19 / 20 * (1 - 0.1))) == 145
    # exp(log(d) * t / T) behaves alike for a density of 1/6 ** 3: as written it gives 599.99..., as a power 600
    as_written = 3600 * math.exp(math.log(1 / 216) * 1 / 3)
    assert weight_counts(3600, 1 / 216, 3, exponential)[0] == int(as_written)
    assert int(as_written) < int(3600 * (1 / 216) ** (1 / 3))


@pytest.mark.parametrize("schedule", SCHEDULES.values())
def test_the_last_count_is_the_density_asked_for(schedule):
    for density in (0.29, 0.1, 0.07, 0.001, 1.0):
        assert weight_counts(11800, density, 7, schedule)[-1] == int(11800 * density)


@pytest.mark.parametrize("schedule", SCHEDULES.values())
@pytest.mark.parametrize("density", [1e-4, 0.1, 0.999999, 1.0])
def test_counts_never_rise(schedule, density):
    counts = weight_counts(11800, density, 50, schedule)
    assert len(counts) == 50
    assert counts == sorted(counts, reverse=True)


def test_one_step():
    assert weight_counts(10, 0.5, 1, exponential) == weight_counts(10, 0.5, 1, linear) == [5]
