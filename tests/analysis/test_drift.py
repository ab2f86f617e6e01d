"""The drift of runs that should not change: tonight, in the last weeks, since when and by how much."""

import numpy as np
import pytest
from scipy import stats

from forcetune.analysis import detect_drift
from forcetune.analysis.drift import LOOKS_PER_YEAR, WINDOWS_NIGHTS

TESTS = len(WINDOWS_NIGHTS) * LOOKS_PER_YEAR


def draw_noise(generator, nights, runs=4, deviation=1.0):
    return np.arange(runs) * 10 + deviation * generator.standard_normal((nights, runs))


def append(history, tonight):
    return np.concatenate([history, np.asarray(tonight, float)[None]])


def find_alarm(values, first=2):
    """Return the first night with an alarm and its drift; infinity and None where there is none."""
    drifts = ((night, detect_drift(values[: night + 1])) for night in range(first, len(values)))
    return next(((night, drift) for night, drift in drifts if drift.alarm), (np.inf, None))


def test_drift_by_hand():
    """Detect the drift of one run that was 1, 3 and 5, and is 500 tonight.

    Its noise is 2, and the standard error of the shift is 2 * sqrt(4 / 3).
    """
    drift = detect_drift(np.array([[1.0], [3.0], [5.0], [500.0]]))
    assert (drift.nights, drift.runs, drift.changed, drift.window) == (3, 1, 1, 1)
    assert drift.shift == 497
    assert drift.p == pytest.approx(min(1, 2 * stats.t.sf(497 / (2 * np.sqrt(4 / 3)), 2) * TESTS))


def test_a_window_by_hand():
    """Compare the mean of the last three nights, 8, with those of four nights before them, 1, 3, 1 and 3."""
    values = np.array([1.0, 3.0, 1.0, 3.0, 8.0, 7.5, 8.5])[:, None]
    drift = detect_drift(values, alpha=1)
    error = np.sqrt(4 / 3 * (1 / 3 + 1 / 4))
    assert drift.window == 3
    assert drift.p == pytest.approx(min(1, 2 * stats.t.sf(6 / error, 3) * TESTS), abs=1e-12)
    assert (drift.start, drift.shift) == (4, pytest.approx(6))


def test_any_change_of_what_never_varied_is_drift():
    history = np.tile([0.9, 0.3 - 0.1], (20, 1))
    equal_drift = detect_drift(append(history, [0.9, 0.2]))  # equal but for the last bit
    assert (equal_drift.changed, equal_drift.p, equal_drift.alarm) == (0, 1, False)
    changed_drift = detect_drift(append(history, [0.9, 0.2001]))
    assert (changed_drift.changed, changed_drift.p, changed_drift.alarm, changed_drift.start) == (1, 0, True, 20)
    assert changed_drift.shift == pytest.approx(0.00005)
    next_drift = detect_drift(append(append(history, [0.9, 0.2001]), [0.9, 0.2]))
    assert not next_drift.alarm, "an odd night is reported once"


def test_a_single_night_gives_no_p_value():
    for history in (np.empty((0, 2)), np.ones((1, 2)), np.array([[1.0, np.nan], [np.nan, 1.0]])):
        drift = detect_drift(append(history, [5.0, 5.0]))
        assert np.isnan(drift.p)
        assert not drift.alarm
        assert drift.nights == len(history)
    assert detect_drift(append(np.ones((1, 2)), [5.0, 5.0])).changed == 2
    assert detect_drift(append(np.empty((0, 2)), [5.0, 5.0])).runs == 0


def test_missing_runs_are_left_out():
    history = np.array([[1.0, 5.0, np.nan, 7.0], [1.0, np.nan, np.nan, 7.0], [np.nan, 5.0, np.nan, 7.0]])
    drift = detect_drift(append(history, [1.0, 5.5, 3.0, np.nan]))
    assert (drift.nights, drift.runs, drift.changed, drift.alarm) == (3, 2, 1, True)
    assert drift.shift == pytest.approx(0.25)
    missing_drift = detect_drift(append(history, np.full(4, np.nan)))
    assert (missing_drift.runs, missing_drift.changed, missing_drift.alarm) == (0, 0, False)
    assert np.isnan([missing_drift.shift, missing_drift.p]).all()


def test_a_failed_night_hides_no_later_shift():
    values = draw_noise(np.random.default_rng(5), 60, 2)
    values[40:] += 4
    values[30] = np.nan
    values[45, 0] = np.nan
    night, drift = find_alarm(values, first=30)
    assert 40 <= night <= 44
    assert 38 <= drift.start <= night


@pytest.mark.parametrize("deviations", [[1.0], [1.0] * 4, [0.2, 0.2, 0.2, 2.0]])
def test_noise_is_no_drift(deviations):
    """Look at each of thirty nights; the last case has a noisy sparse run among dense ones."""
    generator, runs = np.random.default_rng(0), 60
    alarms = [
        np.isfinite(find_alarm(draw_noise(generator, 30, len(deviations), np.array(deviations)))[0])
        for _ in range(runs)
    ]
    assert np.mean(alarms) <= stats.binom.ppf(0.99, runs, 0.05) / runs


def test_a_lasting_shift_is_seen_within_a_week_and_dated():
    generator, runs, change = np.random.default_rng(1), 60, 60
    nights, starts, shifts = [], [], []
    for _ in range(runs):
        values = draw_noise(generator, change + 14, 2)
        values[change:] -= 2
        night, drift = find_alarm(values, first=change)
        nights.append(night)
        if drift:
            starts.append(drift.start)
            shifts.append(drift.shift)
    assert np.mean(np.array(nights) < change + 7) >= 0.87
    assert np.mean(np.abs(np.array(starts) - change) <= 1) >= 0.8
    assert np.mean(shifts) == pytest.approx(-2, abs=0.5)


def test_one_broken_run_among_many_is_seen():
    generator = np.random.default_rng(2)
    for broken in (-25, 25):
        tonight = draw_noise(generator, 1, 8)[0]
        tonight[3] += broken
        assert detect_drift(append(draw_noise(generator, 20, 8), tonight)).alarm


def test_runs_that_break_in_opposite_ways_are_seen():
    generator = np.random.default_rng(3)
    tonight = draw_noise(generator, 1)[0] + np.array([25, -25, 0, 0])
    assert detect_drift(append(draw_noise(generator, 20), tonight)).alarm


def test_a_stricter_level_gives_fewer_alarms():
    generator = np.random.default_rng(4)
    values = append(draw_noise(generator, 30), draw_noise(generator, 1)[0] - 5)
    p = detect_drift(values).p
    assert detect_drift(values, alpha=p).alarm
    assert not detect_drift(values, alpha=p / 2).alarm
