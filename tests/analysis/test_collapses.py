"""Collapses of both arms: exact intervals, exact tests, and the pairs that settle them."""

import numpy as np
import pytest
from scipy import stats

from forcetune.analysis import Pairs, bound_without_collapse, compare_collapses, fewest_pairs_without_collapse


def make_pairs(pairs, champion_alone=0, twin_alone=0, both=0):
    champion, twin = np.zeros((2, pairs), bool)
    champion[: champion_alone + both] = True
    twin[champion_alone : champion_alone + both + twin_alone] = True
    return Pairs(np.zeros(pairs - champion_alone - twin_alone - both), champion, twin)


def compare(*arguments, **options):
    (collapses,) = compare_collapses([make_pairs(*arguments)], **options)
    return collapses


def test_pairs_count_which_arm_collapses_alone():
    pairs = make_pairs(10, 1, 2, 3)
    assert (len(pairs), pairs.champion_alone, pairs.twin_alone, len(pairs.differences)) == (10, 1, 2, 4)


def test_the_arms_are_compared_by_the_binomial_test_of_pairs_with_one_collapse():
    collapses = compare(20, 1, 8, 3)
    assert collapses.p == pytest.approx(stats.binomtest(1, 9).pvalue)
    assert (collapses.champion, collapses.twin, collapses.verdict) == (4, 11, "undecided")
    assert compare(20, 0, 9).verdict == "beats", "2 / 2**9 is below 0.005"
    assert compare(20, 9, 0).verdict == "loses"
    assert compare(20, 0, 8).verdict == "undecided", "2 / 2**8 is above 0.005"


def test_twenty_nine_pairs_without_a_collapse_settle_it():
    assert fewest_pairs_without_collapse() == 29
    assert (compare(28).verdict, compare(29).verdict) == ("undecided", "ties")
    assert fewest_pairs_without_collapse(15) == 55
    family = compare_collapses([make_pairs(54)] * 15)
    assert {collapses.verdict for collapses in family} == {"undecided"}
    assert {collapses.verdict for collapses in compare_collapses([make_pairs(55)] * 15)} == {"ties"}


def test_the_bound_holds_for_the_larger_arm():
    assert compare(12).bound == pytest.approx(bound_without_collapse(12)) == pytest.approx(0.22, abs=0.005)
    interval = stats.binomtest(3, 12, alternative="less").proportion_ci(0.95)
    assert compare(12, 1, 3).bound == pytest.approx(interval.high)
    assert compare(12, 12).bound == 1
    (bound, _) = (collapses.bound for collapses in compare_collapses([make_pairs(12), make_pairs(12, 1)]))
    assert bound == pytest.approx(bound_without_collapse(12, 2))


def test_a_comparison_without_a_pair_says_nothing():
    (empty, other) = compare_collapses([make_pairs(0), make_pairs(12)])
    assert np.isnan(empty.p)
    assert (empty.bound, empty.verdict, empty.champion_interval) == (1, "undecided", (0, 1))
    assert other.bound == pytest.approx(bound_without_collapse(12)), "it does not count in the family"
    assert compare_collapses([]) == []


def test_the_intervals_of_the_arms_are_exact():
    low, high = compare(20, 3).champion_interval
    assert stats.binom.sf(2, 20, low) == pytest.approx(0.025)
    assert stats.binom.cdf(3, 20, high) == pytest.approx(0.025)


def test_all_comparisons_are_corrected_together():
    decisive = make_pairs(20, 0, 9)
    assert compare_collapses([decisive, make_pairs(20)])[0].verdict == "undecided"
    assert compare_collapses([decisive, make_pairs(20)], is_family=False)[0].verdict == "beats"


@pytest.mark.parametrize(("rate", "pairs"), [(0.1, 20), (0.3, 40)])
def test_arms_that_collapse_equally_often_are_rarely_told_apart(rate, pairs):
    generator = np.random.default_rng(0)
    collapsed = generator.random((2, 2000, pairs)) < rate
    samples = [Pairs(np.empty(0), champion, twin) for champion, twin in zip(*collapsed, strict=True)]
    verdicts = [collapses.verdict for collapses in compare_collapses(samples, is_family=False)]
    assert np.mean([verdict in ("beats", "loses") for verdict in verdicts]) <= 0.005
