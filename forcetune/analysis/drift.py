"""The drift of runs that are repeated every night and should give the same values.

Student's t tests of means, pooled over runs with the degrees of freedom of Satterthwaite (1946), corrected by
Bonferroni's method; the start of a drift is the change point of least squares [Hinkley 1970].
"""

from dataclasses import dataclass

import numpy as np

SAME_VALUE_TOLERANCE = 1e-9  # floating point may change the values of a run that is the same
WINDOWS_NIGHTS = (1, 3, 7, 14)  # whose means are compared with the nights before
LOOKS_PER_YEAR = 365  # which together err with the probability of the level
START_NIGHTS = 28  # the last nights among which the start of a drift is looked for


@dataclass(frozen=True)
class Drift:
    """A comparison of the last nights' sentinels with their values of the nights before.

    Attributes:
        nights: The number of nights before tonight.
        runs: The number of sentinels that have a history and a value tonight.
        changed: The number of those that differ from their own last value.
        window: The number of last nights whose means differ most clearly from the nights before; 0 without a p.
        start: The index of the night since which the values differ, the most probable one; None without an alarm.
        shift: The mean change of the values, in their unit: since `start`, or without an alarm that of tonight; NaN
            without runs.
        p: The p of the hypothesis that the change is noise, multiplied by the number of windows and by the looks of a
            year; NaN where it cannot be computed.
        alarm: Whether p is at most the level of the test.
    """

    nights: int
    runs: int
    changed: int
    window: int
    start: int | None
    shift: float
    p: float
    alarm: bool


def detect_drift(values: np.ndarray, alpha: float = 0.05) -> Drift:
    """Compare sentinels, which run the same configuration and seed every night, with their values of earlier nights.

    Where no value ever varied, any change is drift: of code, driver, library or data. So values should be fine-grained:
    an accuracy on few samples stays the same by chance, a loss does not. Where values vary, the means of the last 1, 3,
    7 and 14 nights are compared with those of the nights before them: a longer window shows a smaller shift that lasts.
    In each window the mean shift and each run's own shift are tested against the noise from night to night by t tests,
    with Bonferroni's correction over these tests, so that one broken run is detected among many. p is NaN until two
    nights have given the same run.

    Args:
        values: The values of all nights, tonight last, of shape (nights, runs); NaN where a run is missing or failed.
        alpha: The probability of a false alarm in a year.
    """
    values = np.asarray(values, float)
    is_measured = ~np.isnan(values)
    nights = int(is_measured[:-1].any(1).sum())
    values = values[:, is_measured[:-1].any(0) & is_measured[-1]]
    runs = values.shape[1]
    if not runs:
        return Drift(nights, 0, 0, 0, None, np.nan, np.nan, alarm=False)
    last = np.array([run[~np.isnan(run)][-1] for run in values[:-1].T])
    changed = int((np.abs(values[-1] - last) > SAME_VALUE_TOLERANCE).sum())
    p_by_window = {
        window: p for window in WINDOWS_NIGHTS if not np.isnan(p := _compare_window(values, len(values) - window))
    }
    if not p_by_window:
        return Drift(nights, runs, changed, 0, None, _mean_shift(values, len(values) - 1), np.nan, alarm=False)
    window = min(p_by_window, key=lambda nights: p_by_window[nights])
    p = min(1.0, p_by_window[window] * len(WINDOWS_NIGHTS) * LOOKS_PER_YEAR)
    start = _find_start(values) if p <= alpha else None
    shift = _mean_shift(values, len(values) - 1 if start is None else start)
    return Drift(nights, runs, changed, window, start, shift, p, alarm=p <= alpha)


def _compare_window(values: np.ndarray, split: int) -> float:
    """Return the p of no change at a split, corrected for the runs; NaN where it cannot be computed.

    Where no value before the split varied, only a window of tonight has a p: there a change is certain on its first
    night, and a single odd night is not reported for two weeks.
    """
    if split < 2:
        return np.nan
    before, after = values[:split], values[split:]
    counts, later_counts = (~np.isnan(before)).sum(0), (~np.isnan(after)).sum(0)
    if not (counts > 1).any():
        return np.nan
    has_history = counts > 0
    before, after = before[:, has_history], after[:, has_history]
    counts, later_counts = counts[has_history], later_counts[has_history]
    means = np.nanmean(before, axis=0)
    squares = np.nansum((before - means) ** 2, axis=0)
    if squares.max() <= SAME_VALUE_TOLERANCE**2 and len(after) > 1:
        return np.nan
    return _noise_p(np.nanmean(after, axis=0) - means, squares, counts, later_counts)


def _mean_shift(values: np.ndarray, split: int) -> float:
    """Return the change of the runs at a split, averaged over the runs that have values on both sides."""
    sums, counts = _sum_segments(values, split)
    has_both = (counts > 0).all(0)
    if not has_both.any():
        return np.nan
    before, after = sums[:, has_both] / counts[:, has_both]
    return float((after - before).mean())


def _find_start(values: np.ndarray) -> int:
    """Return the index of the first night of the last segment, by least squares with two means for each run."""
    centred = values - np.nanmean(values, axis=0)
    splits = range(max(1, len(values) - START_NIGHTS), len(values))
    return max(splits, key=lambda split: _explained_squares(centred, split))


def _explained_squares(values: np.ndarray, split: int) -> float:
    sums, counts = _sum_segments(values, split)
    return float((sums**2 / np.maximum(counts, 1)).sum())


def _sum_segments(values: np.ndarray, split: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the sums and the numbers of the values before a split and from it on, both of shape (2, runs)."""
    segments = values[:split], values[split:]
    sums = np.stack([np.nansum(segment, axis=0) for segment in segments])
    return sums, np.stack([(~np.isnan(segment)).sum(0) for segment in segments])


def _noise_p(shifts: np.ndarray, squares: np.ndarray, counts: np.ndarray, later_counts: np.ndarray) -> float:
    """Return the p of the hypothesis that shifts are noise.

    Noise is pooled over runs, but sparse networks vary more than dense ones. So the noise of a single run is never
    taken as less than its own, and it has only its own degrees of freedom. Those of the pooled noise are
    Satterthwaite's.

    Args:
        shifts: Of shape (runs,).
        squares: For each run the sum of the squares of its values before the window about their mean, of shape (runs,).
        counts: The number of those values, of shape (runs,).
        later_counts: The number of the values in the window, of shape (runs,).
    """
    from scipy.special import stdtr  # quicker than the distribution of scipy.stats, and a year has many looks

    if squares.max() <= SAME_VALUE_TOLERANCE**2:
        return 0.0 if (np.abs(shifts) > SAME_VALUE_TOLERANCE).any() else 1.0
    repeated = counts > 1
    freedom, scales = counts - 1, 1 / later_counts + 1 / counts
    pooled = squares.sum() / freedom.sum()
    variances = np.maximum(pooled, squares[repeated] / freedom[repeated]) * scales[repeated]
    p = 2 * stdtr(freedom[repeated], -np.abs(shifts[repeated]) / np.sqrt(variances))
    if len(shifts) > 1:
        effective = squares.sum() ** 2 / (squares[repeated] ** 2 / freedom[repeated]).sum()
        mean = 2 * stdtr(effective, -np.abs(shifts.sum()) / np.sqrt(pooled * scales.sum()))
        p = np.append(p, mean)
    return float(p.min() * len(p))
