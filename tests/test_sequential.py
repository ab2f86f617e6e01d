"""Evidence that grows night by night, and runs that should not change."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from forcetune.analysis import detect_drift, follow, judge, look_cost, paired

MARGIN = 0.5
NIGHTS = [f"2026-01-{day:02d}" for day in range(1, 31)]


def limit(share, runs):
    """The most of so many runs that chance would err in once in a hundred such tests."""
    return stats.binom.ppf(0.99, runs, share) / runs


@pytest.fixture
def quick(monkeypatch):
    """Nothing of what is needed: the same rules, for hundreds of runs."""
    monkeypatch.setattr(paired, "_find_needed_pairs", lambda *_: None)


def evidence(*nights):
    """Of one comparison: the differences of each night."""
    return {"one": [(night, value) for night, values in zip(NIGHTS, nights, strict=False) for value in values]}


def grown(generator, means, deviation, pairs=2):
    return evidence(*(mean + deviation * generator.standard_normal(pairs) for mean in means))


def test_all_looks_together_cost_what_one_does():
    levels = [0.05 / look_cost(k) for k in range(1, 100_000)]
    assert sum(levels) == pytest.approx(0.05, rel=1e-4)
    assert sum(levels) < 0.05
    with pytest.raises(ValueError, match="at least 1"):
        look_cost(0)


def test_a_window_by_hand():
    """Four pairs show nothing whatever they are, so that was no look; the second look costs four times the first."""
    nights = [[2.0, 2.1, 2.2, 2.3], [2.0, -2.1, 2.2, -2.3], [2.0] * 8]
    found = follow(evidence(*nights), MARGIN)["one"]
    assert [(one.night, one.verdict.pairs, one.holds, one.since) for one in found] == [
        (NIGHTS[0], 4, "undecided", None),
        (NIGHTS[1], 8, "undecided", None),
        (NIGHTS[2], 16, "beats", NIGHTS[2]),
    ]
    assert found[0].verdict.p_difference == pytest.approx(2 / 2**4 * np.pi**2 / 6)
    (alone,) = judge([np.concatenate(nights)], MARGIN)
    assert found[2].verdict.p_difference == pytest.approx(alone.p_difference * np.pi**2 * 4 / 6)


def test_windows_start_anew_after_each_decision():
    nights = [[2.0] * 9, [2.0] * 9, [2.0] * 3, [-2.0] * 12, [0.0] * 2, [0.0] * 12]
    found = follow(evidence(*nights), MARGIN)["one"]
    assert [one.verdict.verdict for one in found] == [
        "beats",
        "beats",
        "undecided",
        "undecided",
        "undecided",
        "undecided",
    ]
    assert [one.verdict.pairs for one in found] == [9, 9, 3, 15, 17, 29], "a decision ends the window"
    assert {one.holds for one in found} == {"beats"}
    assert {one.since for one in found} == {NIGHTS[0]}, "confirmed, it stands since it was reached"
    assert not any(one.flipped for one in found)


def test_it_flips_when_what_came_after_the_decision_says_otherwise():
    nights = [[2.0] * 9, [-2.0] * 9, [0.0] * 9, [0.0] * 9]
    found = follow(evidence(*nights), MARGIN)["one"]
    assert [one.holds for one in found] == ["beats", "loses", "ties", "ties"]
    assert [one.flipped for one in found] == [False, True, True, False]
    assert [one.since for one in found] == [NIGHTS[0], NIGHTS[1], NIGHTS[2], NIGHTS[2]]


def test_comparisons_are_judged_with_those_of_their_night():
    early, late = [("", 2.0)] * 9, [(NIGHTS[0], 2.0)] * 8
    found = follow({"a": early, "b": late, "c": late, "none": []}, MARGIN)
    assert {name: [one.night for one in looks] for name, looks in found.items()} == {
        "a": [""],
        "b": [NIGHTS[0]],
        "c": [NIGHTS[0]],
        "none": [],
    }
    assert found["a"][0].verdict.p_difference == pytest.approx(2 / 2**9 * look_cost(1)), "alone"
    assert found["b"][0].verdict.p_difference == pytest.approx(2 * 2 / 2**8 * look_cost(1)), "the two of that night"
    assert (found["a"][0].since, found["a"][0].flipped) == ("", False)


@given(
    st.lists(st.tuples(st.sampled_from(NIGHTS[:4]), st.integers(-8, 8).map(lambda x: x / 4)), max_size=9), st.randoms()
)
def test_the_order_of_evidence_does_not_matter(pairs, random):
    mixed = random.sample(pairs, len(pairs))
    there, back = follow({"one": pairs}, MARGIN)["one"], follow({"one": mixed}, MARGIN)["one"]
    assert [(one.night, one.holds, one.since, one.flipped) for one in there] == [
        (one.night, one.holds, one.since, one.flipped) for one in back
    ]


# Many nights


@pytest.mark.usefixtures("quick")
def test_nothing_is_found_in_nothing():
    """Thirty nights of two pairs, where every night is looked at."""
    generator, runs = np.random.default_rng(0), 120
    found = [follow(grown(generator, [0] * 30, 1.5), MARGIN)["one"] for _ in range(runs)]
    assert np.mean([any(one.holds in ("beats", "loses") for one in looks) for looks in found]) <= limit(0.05, runs)


@pytest.mark.usefixtures("quick")
def test_the_margin_is_not_taken_for_a_tie():
    generator, runs = np.random.default_rng(1), 100
    found = [follow(grown(generator, [MARGIN] * 30, 0.8), MARGIN)["one"] for _ in range(runs)]
    assert np.mean([any(one.holds == "ties" for one in looks) for looks in found]) <= limit(0.05, runs)


@pytest.mark.usefixtures("quick")
def test_what_stays_is_decided_and_never_flips():
    generator, runs = np.random.default_rng(2), 60
    found = [follow(grown(generator, [2.0] * 30, 1.5), MARGIN)["one"] for _ in range(runs)]
    assert all(looks[-1].holds == "beats" for looks in found)
    assert np.mean([any(one.flipped for one in looks) for looks in found]) <= limit(0.05, runs)


@pytest.mark.usefixtures("quick")
def test_what_reverses_flips():
    """Measured in 200 runs: 199 flip, in the median by the fourth night after the turn, 95 of 100 by the tenth."""
    generator, runs, turn = np.random.default_rng(3), 40, 12
    found = [follow(grown(generator, [3.0] * turn + [-3.0] * 18, 1.5), MARGIN)["one"] for _ in range(runs)]
    assert {looks[turn - 1].holds for looks in found} == {"beats"}
    assert np.mean([looks[-1].holds == "loses" for looks in found]) >= 0.95
    flips = [[look for look, one in enumerate(looks) if one.flipped] for looks in found]
    assert np.mean([len(nights) == 1 for nights in flips]) >= 0.95
    assert np.median([nights[0] for nights in flips if nights]) <= turn + 5


# Sentinels


def noise(generator, nights, runs=4, deviation=1.0):
    return np.arange(runs) * 10 + deviation * generator.standard_normal((nights, runs))


def alarmed(values, first=2):
    return any(detect_drift(values[:night], values[night], night - 1).alarm for night in range(first, len(values)))


def test_drift_by_hand():
    """One run: 1, 3, 5, and tonight 3 + x; its noise is 2, the shift's standard error 2 * sqrt(4 / 3)."""
    found = detect_drift(np.array([[1.0], [3.0], [5.0]]), np.array([9.0]), 2)
    assert (found.nights, found.runs, found.changed, found.shift) == (3, 1, 1, 6)
    assert found.p == pytest.approx(2 * stats.t.sf(6 / (2 * np.sqrt(4 / 3)), 2) * look_cost(2))
    assert not found.alarm


def test_any_change_of_what_never_varied_is_drift():
    history = np.tile([0.9, 0.3 - 0.1], (2, 1))
    same = detect_drift(history, np.array([0.9, 0.2]), 1)  # but for the last bit
    assert (same.changed, same.p, same.alarm) == (0, 1, False)
    other = detect_drift(history, np.array([0.9, 0.2001]), 50)
    assert (other.changed, other.p, other.alarm) == (1, 0, True)
    assert other.shift == pytest.approx(0.00005)


def test_nothing_is_told_of_a_single_night():
    for history in (np.empty((0, 2)), np.ones((1, 2)), np.array([[1.0, np.nan], [np.nan, 1.0]])):
        found = detect_drift(history, np.array([5.0, 5.0]), 1)
        assert np.isnan(found.p)
        assert not found.alarm
        assert found.nights == len(history)
    assert detect_drift(np.ones((1, 2)), np.array([5.0, 5.0]), 1).changed == 2
    assert detect_drift(np.empty((0, 2)), np.array([5.0, 5.0]), 1).runs == 0


def test_runs_that_are_missing():
    history = np.array([[1.0, 5.0, np.nan, 7.0], [1.0, np.nan, np.nan, 7.0], [np.nan, 5.0, np.nan, 7.0]])
    found = detect_drift(history, np.array([1.0, 5.5, 3.0, np.nan]), 1)
    assert (found.nights, found.runs, found.changed, found.alarm) == (3, 2, 1, True)
    assert found.shift == pytest.approx(0.25)
    none = detect_drift(history, np.full(4, np.nan), 1)
    assert (none.runs, none.changed, none.alarm) == (0, 0, False)
    assert np.isnan([none.shift, none.p]).all()


@pytest.mark.parametrize("deviations", [[1.0], [1.0] * 4, [0.2, 0.2, 0.2, 2.0]])
def test_noise_is_no_drift(deviations):
    """Each of thirty nights is looked at; the last runs are a sparse one's among dense ones'."""
    generator, runs = np.random.default_rng(0), 200
    alarms = [alarmed(noise(generator, 30, len(deviations), np.array(deviations))) for _ in range(runs)]
    assert np.mean(alarms) <= limit(0.05, runs)


def test_a_shift_of_all_runs_is_seen():
    generator = np.random.default_rng(1)
    found = [detect_drift(noise(generator, 10, 8), noise(generator, 1, 8)[0] - 3, 9) for _ in range(100)]
    assert np.mean([one.alarm for one in found]) >= 0.95
    assert np.mean([one.shift for one in found]) == pytest.approx(-3, abs=0.2)


def test_one_broken_run_among_many_is_seen():
    generator = np.random.default_rng(2)
    for broken in (-25, 25):
        tonight = noise(generator, 1, 8)[0]
        tonight[3] += broken
        assert detect_drift(noise(generator, 10, 8), tonight, 9).alarm


def test_runs_that_break_in_opposite_ways_are_seen():
    generator = np.random.default_rng(3)
    tonight = noise(generator, 1)[0] + np.array([25, -25, 0, 0])
    assert detect_drift(noise(generator, 10), tonight, 9).alarm


def test_later_looks_need_more():
    generator = np.random.default_rng(4)
    history, tonight = noise(generator, 10), noise(generator, 1)[0] - 3
    costs = [detect_drift(history, tonight, look).p for look in (1, 2, 9)]
    assert costs == sorted(costs)
    assert costs[1] == pytest.approx(4 * costs[0])
    assert detect_drift(history, tonight, 1, alpha=costs[0] / 2).alarm is False
