"""The tests of accuracy where both runs live: skewness, and the second test that has to agree."""

import numpy as np
import pytest
from scipy import stats

from forcetune.analysis.live import run_live_tests
from forcetune.analysis.skewness import hall_p, measure_skewness

GENERATOR_SEED = 5


def test_halls_transformation_by_hand():
    """Test 1, 2 and 6: their mean is 3, their variance 14 / 3, and their third moment 6."""
    effect, skewness = 3 / np.sqrt(14 / 3), 6 / (14 / 3) ** 1.5
    statistic = effect + skewness * effect**2 / 3 + skewness**2 * effect**3 / 27 + skewness / 18
    assert hall_p(np.array([[1.0], [2.0], [6.0]])) == pytest.approx(stats.t.sf(np.sqrt(3) * statistic, 2))


def test_a_long_tail_on_the_other_side_weakens_the_evidence():
    right, left = np.array([[1.0], [1.1], [1.2], [3.0]]), np.array([[2.1], [2.0], [1.9], [0.1]])
    assert right.mean() == pytest.approx(1.575)
    left = left - left.mean() + right.mean()
    assert hall_p(right) < hall_p(left)


@pytest.mark.parametrize(("value", "p"), [(2.0, 0), (0.0, 1), (-2.0, 1)])
def test_equal_differences_are_certain(value, p):
    assert list(hall_p(np.full((5, 1), value))) == [p]
    assert list(measure_skewness(np.full((5, 1), value))) == [0]


def test_one_pair_says_nothing():
    assert list(hall_p(np.array([[3.0]]))) == [1]
    assert list(measure_skewness(np.array([[3.0], [4.0]]))) == [0]


def test_skewness_is_measured_in_deviations_of_normal_samples():
    sample = np.random.default_rng(GENERATOR_SEED).exponential(1, (12, 3))
    deviation = np.sqrt(6 * 10 / (13 * 15))
    assert measure_skewness(sample) == pytest.approx(stats.skew(sample) / deviation)
    normal = np.random.default_rng(GENERATOR_SEED).standard_normal((12, 20_000))
    assert measure_skewness(normal).std() == pytest.approx(1, abs=0.02)


def test_a_comparison_without_a_difference_has_no_test():
    tests = run_live_tests([np.empty(0), np.ones(6)], 0.5)
    assert np.isnan(tests.p_difference[0])
    assert tests.decide(0, 0.045) == ("undecided", False)
    assert tests.decide(1, 0.045) == ("beats", False)


def decide(sample):
    return run_live_tests([np.array(sample, float)], 0.1).decide(0, 0.045)


def test_a_decision_assumes_symmetry_where_the_second_test_is_less_sure():
    assert decide([1.0, 1.1, 0.9, 1.2, 0.8, 1.0, 1.1, 0.9]) == ("beats", False)
    assert decide([1.0, 0.4, 1.6, -0.2, 0.8, 1.3, 0.3, 0.9]) == ("beats", True)
    assert decide([1, 1.1, 0.9, 1, 1.05, 0.95, 1, -0.9]) == ("undecided", False), "visibly skewed"
    assert decide([1, 1.1, 0.9, 1, 1.05, 0.95, 1, 2.9]) == ("beats", False), "skewed to the harmless side"
