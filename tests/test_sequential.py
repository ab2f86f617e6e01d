"""Verdicts on evidence that grows night by night, and the drift of runs that should not change."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats
from shared_constants import MARGIN_POINTS

from forcetune.analysis import detect_drift, flips, follow, judge, look_cost, paired

NIGHT_DATES = [f"2026-01-{day:02d}" for day in range(1, 31)]


def get_limit(share, runs):
    """Return the share of the runs in error that chance exceeds in one of a hundred such tests."""
    return stats.binom.ppf(0.99, runs, share) / runs


@pytest.fixture
def quick_verdicts(monkeypatch):
    """Make verdicts quick, so that hundreds of runs take seconds.

    The needed pairs are left out, since no verdict depends on them. The flips of more than eight pairs are counted, and
    on a coarser grid: the p of thirty nights is then up to 1.14 times as large where it is below 0.2, and 79 of 80 runs
    have the same verdicts each night. tests/test_paired.py tests the exact flips and the grid.
    """
    monkeypatch.setattr(paired, "_find_needed_pairs", lambda *_: None)
    monkeypatch.setattr(flips, "EXHAUSTIVE_PAIRS", 8)
    monkeypatch.setattr(flips, "GRID_STEPS", 2**13)


def make_evidence(*nights):
    """Return the evidence of one comparison from the differences of each night."""
    return {"one": [(night, value) for night, values in zip(NIGHT_DATES, nights, strict=False) for value in values]}


def draw_evidence(generator, means, deviation, pairs=2):
    return make_evidence(*(mean + deviation * generator.standard_normal(pairs) for mean in means))


def test_all_looks_together_cost_as_much_as_one():
    levels = [0.05 / look_cost(k) for k in range(1, 100_000)]
    assert sum(levels) == pytest.approx(0.05, rel=1e-4)
    assert sum(levels) < 0.05
    with pytest.raises(ValueError, match="at least 1"):
        look_cost(0)


def test_a_window_by_hand():
    """Follow three nights.

    Four pairs can decide nothing, so the first night is no look. The second look costs four times as much as the first.
    """
    nights = [[2.0, 2.1, 2.2, 2.3], [2.0, -2.1, 2.2, -2.3], [2.0] * 8]
    standings = follow(make_evidence(*nights), MARGIN_POINTS)["one"]
    assert [(standing.night, standing.verdict.pairs, standing.holds, standing.since) for standing in standings] == [
        (NIGHT_DATES[0], 4, "undecided", None),
        (NIGHT_DATES[1], 8, "undecided", None),
        (NIGHT_DATES[2], 16, "beats", NIGHT_DATES[2]),
    ]
    assert standings[0].verdict.p_difference == pytest.approx(2 / 2**4 * np.pi**2 / 6)
    (alone,) = judge([np.concatenate(nights)], MARGIN_POINTS)
    assert standings[2].verdict.p_difference == pytest.approx(alone.p_difference * np.pi**2 * 4 / 6)


def test_windows_start_anew_after_each_decision():
    nights = [[2.0] * 9, [2.0] * 9, [2.0] * 3, [-2.0] * 12, [0.0] * 2, [0.0] * 12]
    standings = follow(make_evidence(*nights), MARGIN_POINTS)["one"]
    assert [standing.verdict.verdict for standing in standings] == [
        "beats",
        "beats",
        "undecided",
        "undecided",
        "undecided",
        "undecided",
    ]
    assert [standing.verdict.pairs for standing in standings] == [9, 9, 3, 15, 17, 29], "a decision ends the window"
    assert {standing.holds for standing in standings} == {"beats"}
    assert {standing.since for standing in standings} == {NIGHT_DATES[0]}, "a confirmed verdict keeps its first night"
    assert not any(standing.flipped for standing in standings)


def test_a_verdict_flips_when_later_evidence_contradicts_it():
    nights = [[2.0] * 9, [-2.0] * 9, [0.0] * 9, [0.0] * 9]
    standings = follow(make_evidence(*nights), MARGIN_POINTS)["one"]
    assert [standing.holds for standing in standings] == ["beats", "loses", "ties", "ties"]
    assert [standing.flipped for standing in standings] == [False, True, True, False]
    assert [standing.since for standing in standings] == [
        NIGHT_DATES[0],
        NIGHT_DATES[1],
        NIGHT_DATES[2],
        NIGHT_DATES[2],
    ]


def test_comparisons_are_judged_with_the_others_of_their_night():
    early_pairs, late_pairs = [("", 2.0)] * 9, [(NIGHT_DATES[0], 2.0)] * 8
    standings = follow({"a": early_pairs, "b": late_pairs, "c": late_pairs, "none": []}, MARGIN_POINTS)
    assert {name: [standing.night for standing in history] for name, history in standings.items()} == {
        "a": [""],
        "b": [NIGHT_DATES[0]],
        "c": [NIGHT_DATES[0]],
        "none": [],
    }
    assert standings["a"][0].verdict.p_difference == pytest.approx(2 / 2**9 * look_cost(1)), "judged alone"
    assert standings["b"][0].verdict.p_difference == pytest.approx(2 * 2 / 2**8 * look_cost(1)), (
        "judged with the other comparison of that night"
    )
    assert (standings["a"][0].since, standings["a"][0].flipped) == ("", False)


@given(
    st.lists(st.tuples(st.sampled_from(NIGHT_DATES[:4]), st.integers(-8, 8).map(lambda x: x / 4)), max_size=9),
    st.randoms(),
)
def test_the_order_of_evidence_does_not_matter(pairs, random):
    mixed = random.sample(pairs, len(pairs))
    standings, mixed_standings = (
        follow({"one": pairs}, MARGIN_POINTS)["one"],
        follow({"one": mixed}, MARGIN_POINTS)["one"],
    )
    assert [(standing.night, standing.holds, standing.since, standing.flipped) for standing in standings] == [
        (standing.night, standing.holds, standing.since, standing.flipped) for standing in mixed_standings
    ]


# Many nights


@pytest.mark.usefixtures("quick_verdicts")
def test_pure_noise_rarely_decides():
    """Follow thirty nights of two pairs, each of which is a look.

    The limit of 60 runs is 0.12. Measured in 120 runs: 0.03 decide, and 0.38 do where looks cost nothing; the standard
    error of 60 runs is 0.02 and 0.06.
    """
    generator, runs = np.random.default_rng(0), 60
    histories = [follow(draw_evidence(generator, [0] * 30, 1.5), MARGIN_POINTS)["one"] for _ in range(runs)]
    assert np.mean(
        [any(standing.holds in ("beats", "loses") for standing in history) for history in histories]
    ) <= get_limit(0.05, runs)


@pytest.mark.usefixtures("quick_verdicts")
def test_the_margin_is_not_taken_for_a_tie():
    """Follow a mean at the margin.

    Measured in 120 runs: 0.03 tie, and 0.48 do where looks cost nothing, with the standard errors above.
    """
    generator, runs = np.random.default_rng(1), 60
    histories = [follow(draw_evidence(generator, [MARGIN_POINTS] * 30, 0.8), MARGIN_POINTS)["one"] for _ in range(runs)]
    assert np.mean([any(standing.holds == "ties" for standing in history) for history in histories]) <= get_limit(
        0.05, runs
    )


@pytest.mark.usefixtures("quick_verdicts")
def test_a_constant_effect_is_decided_and_rarely_flips():
    generator, runs = np.random.default_rng(2), 40
    histories = [follow(draw_evidence(generator, [2.0] * 30, 1.5), MARGIN_POINTS)["one"] for _ in range(runs)]
    assert all(history[-1].holds == "beats" for history in histories)
    assert np.mean([any(standing.flipped for standing in history) for history in histories]) <= get_limit(0.05, runs)


@pytest.mark.usefixtures("quick_verdicts")
def test_an_effect_that_reverses_flips_the_verdict():
    """Follow an effect that reverses.

    Measured in 200 runs: 199 flip; the median flips by the fourth night after the turn, and 95 of 100 by the tenth.
    """
    generator, runs, turn = np.random.default_rng(3), 40, 12
    histories = [
        follow(draw_evidence(generator, [3.0] * turn + [-3.0] * 18, 1.5), MARGIN_POINTS)["one"] for _ in range(runs)
    ]
    assert {history[turn - 1].holds for history in histories} == {"beats"}
    assert np.mean([history[-1].holds == "loses" for history in histories]) >= 0.95
    flip_nights = [[night for night, standing in enumerate(history) if standing.flipped] for history in histories]
    assert np.mean([len(nights) == 1 for nights in flip_nights]) >= 0.95
    assert np.median([nights[0] for nights in flip_nights if nights]) <= turn + 5


# Sentinels


def draw_noise(generator, nights, runs=4, deviation=1.0):
    return np.arange(runs) * 10 + deviation * generator.standard_normal((nights, runs))


def has_alarm(values, first=2):
    return any(detect_drift(values[:night], values[night], night - 1).alarm for night in range(first, len(values)))


def test_drift_by_hand():
    """Detect the drift of one run that was 1, 3 and 5, and is 9 tonight.

    Its noise is 2, and the standard error of the shift is 2 * sqrt(4 / 3).
    """
    drift = detect_drift(np.array([[1.0], [3.0], [5.0]]), np.array([9.0]), 2)
    assert (drift.nights, drift.runs, drift.changed, drift.shift) == (3, 1, 1, 6)
    assert drift.p == pytest.approx(2 * stats.t.sf(6 / (2 * np.sqrt(4 / 3)), 2) * look_cost(2))
    assert not drift.alarm


def test_any_change_of_what_never_varied_is_drift():
    history = np.tile([0.9, 0.3 - 0.1], (2, 1))
    equal_drift = detect_drift(history, np.array([0.9, 0.2]), 1)  # equal but for the last bit
    assert (equal_drift.changed, equal_drift.p, equal_drift.alarm) == (0, 1, False)
    changed_drift = detect_drift(history, np.array([0.9, 0.2001]), 50)
    assert (changed_drift.changed, changed_drift.p, changed_drift.alarm) == (1, 0, True)
    assert changed_drift.shift == pytest.approx(0.00005)


def test_a_single_night_gives_no_p_value():
    for history in (np.empty((0, 2)), np.ones((1, 2)), np.array([[1.0, np.nan], [np.nan, 1.0]])):
        drift = detect_drift(history, np.array([5.0, 5.0]), 1)
        assert np.isnan(drift.p)
        assert not drift.alarm
        assert drift.nights == len(history)
    assert detect_drift(np.ones((1, 2)), np.array([5.0, 5.0]), 1).changed == 2
    assert detect_drift(np.empty((0, 2)), np.array([5.0, 5.0]), 1).runs == 0


def test_missing_runs_are_left_out():
    history = np.array([[1.0, 5.0, np.nan, 7.0], [1.0, np.nan, np.nan, 7.0], [np.nan, 5.0, np.nan, 7.0]])
    drift = detect_drift(history, np.array([1.0, 5.5, 3.0, np.nan]), 1)
    assert (drift.nights, drift.runs, drift.changed, drift.alarm) == (3, 2, 1, True)
    assert drift.shift == pytest.approx(0.25)
    missing_drift = detect_drift(history, np.full(4, np.nan), 1)
    assert (missing_drift.runs, missing_drift.changed, missing_drift.alarm) == (0, 0, False)
    assert np.isnan([missing_drift.shift, missing_drift.p]).all()


@pytest.mark.parametrize("deviations", [[1.0], [1.0] * 4, [0.2, 0.2, 0.2, 2.0]])
def test_noise_is_no_drift(deviations):
    """Look at each of thirty nights; the last case has a noisy sparse run among dense ones."""
    generator, runs = np.random.default_rng(0), 200
    alarms = [has_alarm(draw_noise(generator, 30, len(deviations), np.array(deviations))) for _ in range(runs)]
    assert np.mean(alarms) <= get_limit(0.05, runs)


def test_a_shift_of_all_runs_is_seen():
    generator = np.random.default_rng(1)
    drifts = [detect_drift(draw_noise(generator, 10, 8), draw_noise(generator, 1, 8)[0] - 3, 9) for _ in range(100)]
    assert np.mean([drift.alarm for drift in drifts]) >= 0.95
    assert np.mean([drift.shift for drift in drifts]) == pytest.approx(-3, abs=0.2)


def test_one_broken_run_among_many_is_seen():
    generator = np.random.default_rng(2)
    for broken in (-25, 25):
        tonight = draw_noise(generator, 1, 8)[0]
        tonight[3] += broken
        assert detect_drift(draw_noise(generator, 10, 8), tonight, 9).alarm


def test_runs_that_break_in_opposite_ways_are_seen():
    generator = np.random.default_rng(3)
    tonight = draw_noise(generator, 1)[0] + np.array([25, -25, 0, 0])
    assert detect_drift(draw_noise(generator, 10), tonight, 9).alarm


def test_later_looks_need_more_evidence():
    generator = np.random.default_rng(4)
    history, tonight = draw_noise(generator, 10), draw_noise(generator, 1)[0] - 3
    costs = [detect_drift(history, tonight, look).p for look in (1, 2, 9)]
    assert costs == sorted(costs)
    assert costs[1] == pytest.approx(4 * costs[0])
    assert detect_drift(history, tonight, 1, alpha=costs[0] / 2).alarm is False
