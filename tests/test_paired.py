"""Verdicts on paired differences between a champion and its twins."""

import subprocess
import sys
from math import inf

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats
from shared_constants import MARGIN_POINTS

from forcetune.analysis import Pairs, flips, live, paired, pool_by_seed
from forcetune.analysis.pairs import find_leaning

RUNS = 2000


def judge(samples, margin, **options):
    """Judge differences of pairs in which both runs live."""
    pairs = [Pairs(np.asarray(sample, float), *np.zeros((2, len(sample)), bool)) for sample in samples]
    return paired.judge(pairs, margin, **options)


def get_limit(share, runs):
    """Return the share of the runs in error that chance exceeds in one of a hundred such tests."""
    return stats.binom.ppf(0.99, runs, share) / runs


@pytest.fixture
def judged_alone(monkeypatch):
    """Judge each of many comparisons as if it were the only one."""
    monkeypatch.setattr(live, "adjust_by_holm", lambda p: np.minimum(p, 1))
    monkeypatch.setattr(paired, "_find_needed_pairs", lambda *_: None)


def get_share(verdicts, *kinds):
    return np.mean([verdict.verdict in kinds for verdict in verdicts])


def get_coverage(verdicts, mean):
    return np.mean([verdict.low <= mean <= verdict.high for verdict in verdicts])


def draw_normal(mean, deviation, pairs, runs=RUNS):
    generator = np.random.default_rng(pairs)
    return list(mean + deviation * generator.standard_normal((runs, pairs)))


def test_three_pairs_by_hand():
    """Compare with the sums of all flips of 1, 2, 3, which are 6, 4, 2, 0, 0, -2, -4, -6."""
    (verdict,) = judge([np.array([1.0, 2.0, 3.0])], margin=4.0)
    assert verdict.p_difference == pytest.approx(2 / 8)
    assert verdict.p_equivalence == pytest.approx(1 / 8), (
        "the flips of -3, -2, -1 and of 5, 6, 7 around the margins are the most extreme"
    )
    assert (verdict.pairs, verdict.mean, verdict.least_p, verdict.verdict) == (3, 2, 2 / 8, "undecided")
    (mixed,) = judge([np.array([3.0, -1.0, 2.0])], margin=1.0)
    assert mixed.p_difference == pytest.approx(2 * 2 / 8), "two of eight flips reach its sum, 4"
    assert mixed.p_equivalence == pytest.approx(6 / 8), (
        "of the flips of 2, -2, 1 around the upper margin all but -3 and -5 count"
    )


def test_five_pairs_of_one_sign_are_enough_to_tie_but_not_to_beat():
    small, large = judge([np.full(5, 0.1)], 1.0), judge([np.full(5, 2.0)], 1.0)
    assert (small[0].verdict, small[0].p_equivalence) == ("ties", 1 / 32)
    assert (large[0].verdict, large[0].p_difference) == ("undecided", 2 / 32)
    assert judge([np.full(6, 2.0)], 1.0)[0].verdict == "beats"
    assert judge([np.full(6, -2.0)], 1.0)[0].verdict == "loses"


def test_a_difference_well_within_the_margin_ties():
    (verdict,) = judge([0.2 + 0.01 * np.arange(12)], 0.5)
    assert verdict.p_difference <= 0.05
    assert verdict.verdict == "ties"
    assert verdict.low > 0, "the interval excludes 0"


def test_too_few_pairs_are_undecided():
    no_pairs, one_pair, two_pairs = judge([np.empty(0), np.array([3.0]), np.array([3.0, 4.0])], MARGIN_POINTS)
    assert np.isnan([no_pairs.mean, no_pairs.low, no_pairs.high, no_pairs.p_difference, no_pairs.p_equivalence]).all()
    assert (no_pairs.pairs, no_pairs.least_p, no_pairs.verdict, no_pairs.needed) == (0, 1, "undecided", None)
    assert (one_pair.mean, one_pair.p_difference, one_pair.p_equivalence, one_pair.verdict) == (3, 1, 1, "undecided")
    assert np.isnan([one_pair.low, one_pair.high]).all()
    assert one_pair.needed is None
    assert (two_pairs.least_p, two_pairs.p_difference) == (0.5, 1.0), (
        "Holm's method counts the two comparisons that have pairs"
    )
    assert judge([], MARGIN_POINTS) == []


@pytest.mark.parametrize("pairs", [2, 5, 12, 40])
def test_constant_differences_of_zero_tie(pairs):
    (verdict,) = judge([np.zeros(pairs)], MARGIN_POINTS)
    assert (verdict.mean, verdict.low, verdict.high, verdict.p_difference) == (0, 0, 0, 1)
    assert verdict.verdict == ("ties" if pairs >= 5 else "undecided")
    assert verdict.needed == (None if pairs >= 5 else 5)
    assert judge([np.zeros(pairs)], 0.0)[0].verdict == "undecided", "no difference lies within a margin of 0"
    assert judge([np.full(pairs, MARGIN_POINTS)], MARGIN_POINTS)[0].verdict != "ties", (
        "a difference of the margin is no tie"
    )


def test_infinite_differences_and_senseless_margins_are_refused():
    with pytest.raises(ValueError, match="finite"):
        judge([np.array([1.0, np.nan])], MARGIN_POINTS)
    with pytest.raises(ValueError, match="-1"):
        judge([np.ones(3)], -1)
    with pytest.raises(ValueError, match="finite"):
        judge([np.array([inf, 1.0])], MARGIN_POINTS)
    for margin in (np.nan, inf):
        with pytest.raises(ValueError, match=f"not {margin}"):
            judge([np.ones(3)], margin)


def test_p_values_agree_with_scipy():
    sample = np.random.default_rng(3).standard_normal(11) + 0.4

    def mean(values, axis):
        return values.mean(axis)

    def compute_exact_p(values, alternative):
        return stats.permutation_test(
            (values,), mean, permutation_type="samples", n_resamples=inf, alternative=alternative
        ).pvalue

    (verdict,) = judge([sample], MARGIN_POINTS)
    assert verdict.p_difference == pytest.approx(compute_exact_p(sample, "two-sided"))
    equivalence_ps = compute_exact_p(sample + MARGIN_POINTS, "greater"), compute_exact_p(sample - MARGIN_POINTS, "less")
    assert verdict.p_equivalence == pytest.approx(max(equivalence_ps))


def test_the_interval_is_students_t():
    sample = np.random.default_rng(3).standard_normal(9)
    (verdict,) = judge([sample], MARGIN_POINTS)
    interval = stats.ttest_1samp(sample, 0).confidence_interval(0.95)
    assert (verdict.low, verdict.high) == pytest.approx((interval.low, interval.high))


@pytest.mark.parametrize("digits", [1, 9], ids=["of few values", "of many"])
def test_counted_flips_agree_with_enumerated_flips(monkeypatch, digits):
    samples = [sample.round(digits) for sample in draw_normal(0.8, 1.5, 12, 20)]
    enumerated_verdicts = judge(samples, MARGIN_POINTS)
    monkeypatch.setattr(flips, "EXHAUSTIVE_PAIRS", 4)
    for enumerated_verdict, counted_verdict in zip(enumerated_verdicts, judge(samples, MARGIN_POINTS), strict=True):
        for p, counted_p in (
            (enumerated_verdict.p_difference, counted_verdict.p_difference),
            (enumerated_verdict.p_equivalence, counted_verdict.p_equivalence),
        ):
            assert p - 1e-9 <= counted_p <= 1.04 * p + 1e-3, "the counted p is never too small"


def test_many_pairs_are_counted_finely_enough_for_strict_levels():
    sample = np.full(40, 2.0) + 0.1 * np.arange(40)
    for level in (0.05, 0.05 / 100, 0.05 / 3000):
        (verdict,) = judge([sample], MARGIN_POINTS, alpha=level)
        assert verdict.verdict == "beats"
        assert verdict.least_p < level


def test_one_comparison_among_many_needs_more_evidence():
    sample = np.array([1.0, 2.0, 1.5, 2.5, 1.2, 1.8])
    other_samples = [np.array([1.0, -1.0, 1.0, -1.0])] * 3
    assert judge([sample], MARGIN_POINTS)[0].p_difference == pytest.approx(2 / 64)
    assert judge([sample, *other_samples], MARGIN_POINTS)[0].p_difference == pytest.approx(4 * 2 / 64), (
        "Holm's strictest level"
    )
    assert judge([sample, np.empty(0)], MARGIN_POINTS)[0].p_difference == pytest.approx(2 / 64), (
        "a comparison without pairs does not count"
    )


def test_differences_are_pooled_by_seed():
    pooled = pool_by_seed([np.array([1.0, np.nan, np.nan, 0.0]), np.array([3.0, 4.0, np.nan, np.nan])])
    assert list(pooled) == [2, 4, 0]
    assert not len(pool_by_seed([]))
    assert not len(pool_by_seed([np.array([np.nan])]))
    with pytest.raises(ValueError, match="same shape"):
        pool_by_seed([np.ones(2), np.ones(3)])


def test_copies_of_a_champion_add_no_evidence():
    sample = np.random.default_rng(0).standard_normal(6) + 1
    assert judge([pool_by_seed([sample] * 5)], MARGIN_POINTS) == judge([sample], MARGIN_POINTS)


# Planted effects


@pytest.mark.parametrize("pairs", [8, 12])
@pytest.mark.parametrize("deviation", [1.0, 2.0])
@pytest.mark.usefixtures("judged_alone")
def test_planted_effects(pairs, deviation):
    no_effect = judge(draw_normal(0, deviation, pairs), MARGIN_POINTS)
    assert get_share(no_effect, "beats") <= get_limit(0.025, RUNS)
    assert get_share(no_effect, "beats", "loses") <= get_limit(0.05, RUNS)
    for mean in (MARGIN_POINTS, -MARGIN_POINTS):
        at_the_margin = judge(draw_normal(mean, deviation, pairs), MARGIN_POINTS)
        assert get_share(at_the_margin, "ties") <= get_limit(0.05, RUNS)
    large_effect = judge(draw_normal(2 * deviation, deviation, pairs), MARGIN_POINTS)
    assert get_share(large_effect, "beats") >= 0.96, "some of 8 pairs are visibly skewed"
    assert get_share(large_effect, "loses", "ties") == 0


@pytest.mark.usefixtures("judged_alone")
def test_planted_effects_of_many_pairs():
    """Judge 200 runs: a share of 0.05, or of 0.95, has a standard error of 0.015."""
    runs, pairs = 200, 24
    assert get_share(judge(draw_normal(0, 1.0, pairs, runs), MARGIN_POINTS), "beats", "loses") <= get_limit(0.05, runs)
    assert get_share(judge(draw_normal(MARGIN_POINTS, 1.0, pairs, runs), MARGIN_POINTS), "ties") <= get_limit(
        0.05, runs
    )
    assert get_share(judge(draw_normal(1.0, 1.0, pairs, runs), MARGIN_POINTS), "beats") >= 0.95
    assert get_share(judge(draw_normal(0.0, 0.6, pairs, runs), MARGIN_POINTS), "ties") >= 0.95


@pytest.mark.usefixtures("judged_alone")
def test_arms_that_collapse_equally_often():
    """Judge exchangeable differences that are far from normal: each arm collapses by 20 points in one run of ten."""
    generator = np.random.default_rng(0)
    collapsed = generator.random((2, RUNS, 12)) < 0.1
    differences = generator.standard_normal((RUNS, 12)) + 20.0 * collapsed[0] - 20.0 * collapsed[1]
    assert get_share(judge(list(differences), MARGIN_POINTS), "beats", "loses") <= get_limit(0.05, RUNS)
    assert get_share(judge(list(MARGIN_POINTS + differences), MARGIN_POINTS), "ties") <= get_limit(0.05, RUNS)
    assert get_coverage(judge(list(differences), MARGIN_POINTS), 0) >= 0.95


@pytest.mark.parametrize("pairs", [4, 12])
def test_intervals_hold_the_mean_as_often_as_they_say(pairs):
    samples = draw_normal(0.3, 1.5, pairs)
    coverage = np.mean([low <= 0.3 <= high for _, low, high in map(paired.student_interval, samples)])
    low, high = stats.binom.ppf([0.005, 0.995], RUNS, 0.95) / RUNS
    assert low <= coverage <= high


def test_families_of_comparisons_err_no_more_often(monkeypatch):
    """Judge 200 families: the share in error has a standard error of 0.015 where it is 0.05, and the limit is 0.09."""
    monkeypatch.setattr(paired, "_find_needed_pairs", lambda *_: None)
    families, members, pairs = 200, 10, 10
    generator = np.random.default_rng(1)
    wrong_families = 0
    for _ in range(families):
        shared_noise = generator.standard_normal(pairs)  # the noise of the split and of the initial weights
        verdicts = judge(list(shared_noise + generator.standard_normal((members, pairs))), MARGIN_POINTS)
        wrong_families += get_share(verdicts, "beats", "loses") > 0
    assert wrong_families / families <= get_limit(0.05, families)


# Collapses


def make_pairs(differences, champion_alone=0, twin_alone=0, both=0):
    """Return live pairs and pairs with collapses."""
    live = np.zeros(len(differences), bool)
    champion = [True] * champion_alone + [False] * twin_alone + [True] * both
    twin = [False] * champion_alone + [True] * twin_alone + [True] * both
    return Pairs(np.array(differences, float), np.append(live, champion) > 0, np.append(live, twin) > 0)


def judge_alone(pairs):
    (verdict,) = paired.judge([pairs], MARGIN_POINTS)
    return verdict


BETTER, WORSE, ALIKE = np.linspace(1.9, 2.1, 12), np.linspace(-2.1, -1.9, 12), np.linspace(-0.1, 0.1, 12)


@pytest.mark.parametrize(
    ("pairs", "verdict", "statement"),
    [
        (make_pairs(ALIKE), "ties", "ties where both live; collapses: at most 22 %"),
        (make_pairs(BETTER), "beats", "beats where both live; collapses: at most 22 %"),
        (make_pairs(ALIKE, 1), "ties", "ties where both live; collapses: at most 32 %"),
        (make_pairs(ALIKE, 0, 3), "undecided", "undecided: ties where both live; collapses: at most 44 %"),
        (make_pairs(np.tile(ALIKE, 3)), "ties", "ties"),
        (make_pairs(np.tile(WORSE, 3)), "loses", "loses"),
        (make_pairs(ALIKE, 0, 12), "beats", "beats: ties where both live; beats by collapses"),
        (make_pairs([], 0, 12), "beats", "beats: undecided where both live; beats by collapses"),
        (make_pairs(BETTER, 12), "undecided", "undecided: beats where both live; loses by collapses"),
        (make_pairs(BETTER, 3), "undecided", "undecided: beats where both live; collapses: at most 44 %"),
        (make_pairs(BETTER, 2), "beats", "beats where both live; collapses: at most 39 %"),
        (make_pairs(WORSE, 12), "loses", "loses"),
        (make_pairs([-1] * 4, 0, 12), "undecided", "undecided: leans to loses where both live; beats by collapses"),
        (
            make_pairs(np.tile(BETTER, 17), 8, 1),
            "undecided",
            "undecided: beats where both live; the champion collapses more often, by less than the margin",
        ),
        (make_pairs([]), "undecided", "undecided"),
        (make_pairs([], 0, 0, 5), "undecided", "undecided"),
    ],
)
def test_two_parts_make_a_verdict(pairs, verdict, statement):
    judged = judge_alone(pairs)
    assert (judged.verdict, judged.statement) == (verdict, statement)


def test_the_parts_stand_beside_each_other():
    judged = judge_alone(make_pairs(ALIKE, 1, 2, 3))
    assert (judged.pairs, judged.live_pairs) == (18, 12)
    columns = judged.columns()
    assert (columns["champion_collapses"], columns["twin_collapses"]) == (4, 5)
    assert columns["champion_collapses_low"] < 4 / 18 < columns["champion_collapses_high"]
    assert (columns["live_verdict"], columns["collapse_verdict"]) == ("ties", "undecided")
    assert columns["collapse_p"] == 1, "one and two of three"
    assert "collapses" not in columns


def test_skewed_differences_need_a_second_test():
    """Judge eight differences of which one lies far on the other side: the flips alone decide, the second test not."""
    skewed = make_pairs([-1, -1.1, -0.9, -1, -1.05, -0.95, -1, 0.9])
    judged = judge_alone(skewed)
    assert judged.p_difference <= 0.045
    assert judged.verdict == "undecided"


# Needed pairs


def make_differences(mean, deviation, pairs=6):
    """Return differences of exactly this mean and deviation."""
    raw = np.arange(pairs) - (pairs - 1) / 2
    return mean + deviation * raw / raw.std(ddof=1)


def find_needed_pairs(mean, deviation=2.0, margin=MARGIN_POINTS, **options):
    return judge([make_differences(mean, deviation)], margin, **options)[0].needed


def test_larger_effects_and_less_noise_need_fewer_pairs():
    assert find_needed_pairs(0.6) > find_needed_pairs(0.9) > find_needed_pairs(1.4)
    assert find_needed_pairs(0.9, 1.5) < find_needed_pairs(0.9, 2.0) < find_needed_pairs(0.9, 3.0)
    assert find_needed_pairs(0.0, margin=0.9) < find_needed_pairs(0.0, margin=0.7) < find_needed_pairs(0.0)
    assert find_needed_pairs(0.1) > find_needed_pairs(0.0), "an effect nearer to the margin needs more"
    assert find_needed_pairs(0.9, alpha=0.05 / 4) > find_needed_pairs(0.9)
    assert find_needed_pairs(-0.9) == find_needed_pairs(0.9)


def test_needed_pairs_agree_with_the_t_test():
    from statsmodels.stats.power import TTestPower

    assert find_needed_pairs(0.9) == np.ceil(TTestPower().solve_power(0.9 / 2.0, None, 0.045, 0.8))
    assert find_needed_pairs(0.0, margin=0.9) == np.ceil(
        TTestPower().solve_power(0.9 / 2.0, None, 0.045, 0.9, "larger")
    )


def test_pairs_that_would_not_decide_are_not_promised():
    assert find_needed_pairs(0.05, 20.0) is None, "more than a thousand pairs"
    assert find_needed_pairs(0.5, 2.0, alpha=0.05 / 1e30) is None, "no number of pairs is so certain"
    assert judge([np.full(8, 2.0)], MARGIN_POINTS)[0].needed is None, "the comparison is decided"


def test_the_needed_pairs_are_enough(monkeypatch):
    """Judge runs with the needed number of pairs: the rule decides at least about four of five."""
    pairs, runs = find_needed_pairs(2.0), 400
    monkeypatch.setattr(paired, "_find_needed_pairs", lambda *_: None)  # because it is slow
    decided = [judge([sample], MARGIN_POINTS)[0].verdict == "beats" for sample in draw_normal(2.0, 2.0, pairs, runs)]
    assert np.mean(decided) >= stats.binom.ppf(0.01, runs, 0.8) / runs


def test_no_pairs_are_needed_where_the_live_pairs_are_settled():
    """Judge a tie where both live, beside three collapses of the twin alone: more live pairs would not settle it."""
    judged = judge_alone(make_pairs(ALIKE, 0, 3))
    assert (judged.verdict, judged.live_verdict, judged.needed) == ("undecided", "ties", None)


def test_few_pairs_need_as_many_as_make_the_p_small():
    (verdict,) = judge([np.full(3, 9.0) + 0.001 * np.arange(3)], MARGIN_POINTS)
    assert verdict.needed == 6, "2 / 2**5 is above 0.045"
    assert judge([np.zeros(3)], MARGIN_POINTS)[0].needed == 5, "1 / 2**5 is below"


# Properties that hold for all differences

DIFFERENCE_LISTS = st.lists(st.integers(-40, 40).map(lambda x: x / 8), min_size=2, max_size=7)
MIRRORED_VERDICTS = {"beats": "loses", "loses": "beats"}


@given(st.lists(DIFFERENCE_LISTS, min_size=1, max_size=3))
def test_swapped_arms_mirror_the_verdict(samples):
    verdicts = judge([np.array(sample) for sample in samples], MARGIN_POINTS)
    mirrored_verdicts = judge([-np.array(sample) for sample in samples], MARGIN_POINTS)
    for verdict, mirrored in zip(verdicts, mirrored_verdicts, strict=True):
        assert mirrored.verdict == MIRRORED_VERDICTS.get(verdict.verdict, verdict.verdict)
        assert (mirrored.p_difference, mirrored.p_equivalence) == (verdict.p_difference, verdict.p_equivalence)
        assert (mirrored.mean, mirrored.low, mirrored.high) == pytest.approx(
            (-verdict.mean, -verdict.high, -verdict.low)
        )
        assert mirrored.needed == verdict.needed


@given(DIFFERENCE_LISTS, st.sampled_from([0.25, 2.0, 64.0]))
def test_the_unit_does_not_matter(sample, factor):
    (verdict,) = judge([np.array(sample)], MARGIN_POINTS)
    (scaled,) = judge([factor * np.array(sample)], factor * MARGIN_POINTS)
    assert scaled.verdict == verdict.verdict
    assert (scaled.p_difference, scaled.p_equivalence, scaled.needed) == (
        verdict.p_difference,
        verdict.p_equivalence,
        verdict.needed,
    )
    assert (scaled.mean, scaled.low, scaled.high) == pytest.approx(
        (factor * verdict.mean, factor * verdict.low, factor * verdict.high)
    )


@given(DIFFERENCE_LISTS, st.randoms())
def test_the_order_of_pairs_does_not_matter(sample, random):
    mixed = random.sample(sample, len(sample))
    (verdict,), (mixed_verdict,) = judge([np.array(sample)], MARGIN_POINTS), judge([np.array(mixed)], MARGIN_POINTS)
    assert (mixed_verdict.p_difference, mixed_verdict.p_equivalence) == (verdict.p_difference, verdict.p_equivalence)


@given(DIFFERENCE_LISTS, st.floats(0.1, 5), st.floats(0.1, 5))
def test_a_wider_margin_ties_more(sample, first_margin, second_margin):
    narrow, wide = (judge([np.array(sample)], margin)[0] for margin in sorted((first_margin, second_margin)))
    assert wide.p_equivalence <= narrow.p_equivalence or narrow.p_equivalence > 0.5


def test_a_query_starts_without_slow_imports():
    code = "import sys, forcetune.analysis; print(sorted({'scipy.stats', 'statsmodels'} & set(sys.modules)))"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "[]"


def test_evidence_leans_where_its_p_is_small():
    p, is_better = np.array([0.25, 0.26, np.nan, 0.1]), np.array([True, True, True, False])
    assert find_leaning(p, is_better).tolist() == ["beats", "undecided", "undecided", "loses"]
