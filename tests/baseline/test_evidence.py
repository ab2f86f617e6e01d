"""The evidence of comparisons: differences without rounding, and runs that collapsed in one arm or in both."""

import numpy as np
import pytest

from forcetune import analysis
from forcetune.baseline.evidence import Arm, Pair, _pool_pairs, collect_pairs

COLLAPSED = Arm(np.nan, has_collapsed=True)


def make_pair(champion, twin, seed=0):
    """Return a pair from two accuracies, or from arms."""
    arms = [arm if isinstance(arm, Arm) else Arm(arm) for arm in (champion, twin)]
    return Pair(seed, "", *arms)


@pytest.mark.parametrize("images", [200, 360, 1000, 10_000])
def test_differences_of_counted_images_have_no_rounding(images):
    """Compare all accuracies that differ by the same number of images: their differences are equal."""
    step = images // 40
    differences = {make_pair((right + step) / images, right / images).difference for right in range(images - step)}
    assert differences == {2.5}


def test_a_difference_of_the_margin_is_no_tie():
    pairs = [make_pair((right + 1) / 200, right / 200) for right in range(20, 140)]
    (verdict,) = analysis.judge([collect_pairs(pairs)], 0.5)
    assert verdict.p_equivalence == 1
    assert verdict.verdict == "beats"


def test_runs_that_all_collapse_say_nothing_of_the_arms():
    pairs = collect_pairs([make_pair(COLLAPSED, COLLAPSED)] * 40)
    (verdict,) = analysis.judge([pairs], 0.5)
    assert (verdict.pairs, verdict.live_pairs, verdict.statement) == (40, 0, "undecided")
    assert (verdict.collapses.champion, verdict.collapses.twin, verdict.collapses.verdict) == (40, 40, "ties")
    assert verdict.needed is None
    assert np.isnan([verdict.mean, verdict.low, verdict.high, verdict.p_difference]).all()


def test_champions_are_pooled_over_those_that_live():
    """Pool two champions over three seeds: one pair collapses at the second seed, both at the third."""
    group = [
        [make_pair(0.6, 0.5, 1), make_pair(0.7, 0.5, 2), make_pair(0.6, COLLAPSED, 3)],
        [make_pair(0.8, 0.5, 1), make_pair(COLLAPSED, 0.5, 2), make_pair(COLLAPSED, COLLAPSED, 3)],
    ]
    pooled = _pool_pairs(group, [1, 2, 3, 4])
    assert pooled.differences.tolist() == [20, 20]
    assert pooled.champion_collapses.tolist() == [False, True, True]
    assert pooled.twin_collapses.tolist() == [False, False, True]
