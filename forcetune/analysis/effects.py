"""Effects: what a method, a schedule or a number of iterations changes in the accuracy at equal density."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import combinations

import numpy as np
import pandas as pd

from forcetune.analysis.fronts import COUNTED_OUTCOMES
from forcetune.analysis.holm import adjust_by_holm
from forcetune.analysis.paired import CONFIDENCE, summarize_pairs
from forcetune.analysis.questions import NETWORK_COLUMNS
from forcetune.errors import InputError
from forcetune.names import suggestion

ACCURACY_POINTS = 100.0  # in an accuracy of 1
BAND_DECADES = 0.25  # of density, within which trials are compared once the trend is subtracted
MAX_LEVELS = 6  # the most numbers of a field that are compared one by one
LEVEL_GROUPS = 3  # into which more numbers are divided
MIN_PAIRS = 6  # with fewer, pairing costs more power than it gains
MIN_TREND_TRIALS = 10  # with fewer, a trend cannot be estimated
TREND_ROUNDS = 4  # after which the trend and the means hardly change
TREND_NEIGHBOURS = 15  # trials through which a trend is drawn at each density, or a fifth of all where that is more
RANK_BAND_TRIALS = 20  # trials of like density among which a trial is ranked
ALIKE, LIKE_DENSITY, UNPAIRED = "all else equal", "like density", "not"
EFFECT_COLUMNS = ["field", "better", "worse", "difference", "low", "high", "p", "pairs", "trials", "paired"]


def accuracy_at_equal_density(table: pd.DataFrame) -> pd.Series:
    """Return each trial's validation accuracy minus the trend of its network's trained trials at its density.

    The trend is the mean where densities repeat (as in a grid), else a curve over log10 density by local regression
    (Cleveland's lowess).

    Args:
        table: Trials, as `Results.trials` has them.

    Returns:
        The differences, in points (hundredths of accuracy); NaN where a network has fewer than 10 trained trials, and
        for trials without an accuracy.
    """
    return _subtract_trend(table, [name for name in NETWORK_COLUMNS if name in table])


def _subtract_trend(table: pd.DataFrame, network: Sequence[str], gains: pd.Series | None = None) -> pd.Series:
    """Return each trial's validation accuracy minus the trend of its network, in points.

    Args:
        table: Trials.
        network: The fields that tell networks apart.
        gains: Points of each trial that are subtracted before the trend is estimated, and not from the result.
    """
    residuals = pd.Series(np.nan, index=table.index, dtype=float)
    if not len(table) or not {"val_accuracy", "density"} <= set(table):
        return residuals
    accuracy = table["val_accuracy"].astype(float) * ACCURACY_POINTS
    without_gains = accuracy if gains is None else accuracy - gains
    log_density = table["density"].astype(float).map(np.log10)
    for _, trials in table.groupby(list(network), dropna=False) if network else [(None, table)]:
        trained = without_gains[trials.index[trials["outcome"] == "trained"]].dropna().index
        if len(trained) >= MIN_TREND_TRIALS:
            trend = _fit_trend(log_density[trained].to_numpy(), without_gains[trained].to_numpy())
            residuals[trials.index] = accuracy[trials.index] - np.interp(log_density[trials.index].to_numpy(), *trend)
    return residuals


def _subtract_trend_by_level(trials: pd.DataFrame, network: Sequence[str], levels: pd.Series) -> pd.Series:
    """Return the same as `_subtract_trend` where the values of a field may have been tried at different densities.

    The trend over density and the mean of each value are estimated in turn, each with the other one subtracted. A
    single trend through good values where it is dense, and bad values where it is sparse, would hide a part of their
    difference.
    """
    residuals = _subtract_trend(trials, network)
    for _ in range(TREND_ROUNDS):
        gains = residuals.groupby(levels).transform("mean").reindex(trials.index).fillna(0.0)
        residuals = _subtract_trend(trials, network, gains)
    return residuals


def effects(table: pd.DataFrame, field: str, fields: Sequence[str]) -> pd.DataFrame:
    """Return how much the values of a field differ in validation accuracy at equal density.

    A numeric field with more than six values is divided into thirds. Early-stopped trials have no comparable accuracy
    and are left out, which flatters values that are often stopped.

    Args:
        table: Trials, as `Results.trials` has them.
        field: The name of the field.
        fields: The names of all fields of the trials.

    Returns:
        A row for each two values, with the columns field, better, worse, difference (the mean of better minus worse, in
        points, hundredths of accuracy), low and high (its 95 % interval), p (adjusted by Holm over the rows), pairs,
        trials (of both values) and paired. The last says what is compared. `all else equal`: trials that share all
        other fields that both values have, the seed too, which a grid study gives. `like density`: means of trials of
        one network and method within a quarter of a decade of density, minus their trend over density, so that other
        fields (lr) vary by chance. `not`, where each of these has fewer than six pairs: trials minus that trend and the
        mean of their network and method. p is exact by sign flips for pairs, else Welch's.

    Raises:
        InputError: The field does not vary among trials that ended, or no trial has an accuracy.
    """
    trials = table[table["outcome"].isin(COUNTED_OUTCOMES)] if len(table) else table
    if "val_accuracy" not in trials or not trials["val_accuracy"].notna().any():
        raise InputError("effects are differences of val_accuracy, and no trial that ended has one")
    trials = trials.dropna(subset=["val_accuracy"])
    fields = [name for name in (*fields, "study") if name in trials]
    varied = [name for name in fields if trials[name].nunique() > 1 and name not in ("density", "seed")]
    if field not in varied:
        names = ", ".join(varied) or "none"
        raise InputError(
            f"effects of {field!r} cannot be compared{suggestion(field, varied)}; allowed are fields with several "
            f"values, except density and seed: {names}"
        )
    levels = _make_levels(trials[field] if field != "method" else _name_methods(trials))
    network = [name for name in NETWORK_COLUMNS if name in trials and name != field]
    trials = trials.assign(_level=levels, _left=_subtract_trend_by_level(trials, network, levels))
    other_fields = [name for name in fields if name != field]
    level_pairs = combinations(trials["_level"].dropna().unique(), 2)
    rows = [row for first, second in level_pairs if (row := _compare(trials, other_fields, field, first, second))]
    comparisons = pd.DataFrame(rows, columns=EFFECT_COLUMNS)
    comparisons["p"] = adjust_by_holm(comparisons["p"].to_numpy(float))
    return comparisons.sort_values("difference", ascending=False, kind="stable", ignore_index=True)


def _name_methods(trials: pd.DataFrame) -> pd.Series:
    """Return the method of each trial; a small dense network has none, whatever mask its width was taken from."""
    if "small_dense" not in trials:
        return trials["method"]
    return trials["method"].where(trials["small_dense"].isna(), "small_dense")


def _compare(
    trials: pd.DataFrame, other_fields: Sequence[str], field: str, first: str, second: str
) -> dict[str, float | str] | None:
    """Return the row of two values of a field, the better one first; None where nothing can be compared."""
    groups = [trials[trials["_level"] == level] for level in (first, second)]
    shared = [name for name in other_fields if not any(group[name].isna().all() for group in groups)]
    same = [name for name in (*NETWORK_COLUMNS, "method") if name in shared and name != field]
    how, pairs, (mean, low, high, p) = _measure_difference(groups, shared, same)
    if np.isnan(mean):
        return None
    if mean < 0:
        first, second, mean, low, high = second, first, -mean, -high, -low
    numbers = {"difference": mean, "low": low, "high": high, "p": p, "pairs": pairs, "trials": sum(map(len, groups))}
    return {"field": field, "better": first, "worse": second, **numbers, "paired": how}


def _measure_difference(
    groups: Sequence[pd.DataFrame], shared: Sequence[str], same: Sequence[str]
) -> tuple[str, int, tuple[float, float, float, float]]:
    """Return how two groups of trials differ, by the first of three comparisons that has enough pairs.

    Args:
        groups: The trials of two values of a field.
        shared: The other fields that both groups have.
        same: The fields that trials of like density share.

    Returns:
        The name of the comparison, the number of pairs, and in points what `summarize_pairs` or `_welch_test` returns.
    """
    alike = _match_means(groups, shared, "val_accuracy") * ACCURACY_POINTS
    if len(alike) >= MIN_PAIRS:
        return ALIKE, len(alike), summarize_pairs(alike)
    banded = [group.assign(_band=np.floor(np.log10(group["density"].astype(float)) / BAND_DECADES)) for group in groups]
    near = _match_means(banded, [*same, "_band"], "_left")
    if len(near) >= MIN_PAIRS:
        return LIKE_DENSITY, len(near), summarize_pairs(near)
    residuals = pd.concat([group.assign(_side=index) for index, group in enumerate(groups)]).dropna(subset=["_left"])
    if same and len(residuals):
        residuals["_left"] -= residuals.groupby(list(same), dropna=False)["_left"].transform("mean")
    first, second = (residuals.loc[residuals["_side"] == index, "_left"].to_numpy(float) for index in (0, 1))
    return UNPAIRED, 0, _welch_test(first, second) if len(first) and len(second) else (np.nan,) * 4


def _welch_test(first: np.ndarray, second: np.ndarray) -> tuple[float, float, float, float]:
    """Return the difference of the means of two samples, its 95 % interval and its p, by Welch's test.

    Args:
        first: Of shape (n,).
        second: Of shape (m,); no pairs join the two samples.
    """
    from scipy import stats

    mean = float(first.mean() - second.mean())
    if min(len(first), len(second)) < 2:
        return mean, np.nan, np.nan, np.nan
    test = stats.ttest_ind(first, second, equal_var=False)
    low, high = test.confidence_interval(CONFIDENCE)
    return mean, float(low), float(high), float(test.pvalue)


def _match_means(groups: Sequence[pd.DataFrame], keys: Sequence[str], value: str) -> np.ndarray:
    """Return the differences of the means of `value` for every combination of `keys` that both groups have."""
    means = [group.groupby(list(keys), dropna=False, observed=True)[value].mean() for group in groups]
    matched = pd.concat(means, axis=1, join="inner", keys=["one", "two"]).dropna()
    return np.asarray(matched["one"] - matched["two"], float)


def _make_levels(column: pd.Series) -> pd.Series:
    """Return the values as words, in their order; many numbers in groups that hold equally many trials."""
    values = column.dropna()
    is_number = pd.api.types.is_numeric_dtype(values) and not pd.api.types.is_bool_dtype(values)
    if is_number and values.nunique() > MAX_LEVELS:
        groups = pd.qcut(values.astype(float), LEVEL_GROUPS, labels=False, duplicates="drop")
        ends = values.astype(float).groupby(groups).agg(["min", "max"])
        names = {group: f"{low:.3g} to {high:.3g}" for group, low, high in ends.itertuples()}
        return groups.map(names).reindex(column.index)
    ordered = values.sort_values(kind="stable", key=None if is_number else lambda keys: keys.astype(str))
    return ordered.map(_format_value)


def _format_value(value: object) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)


def _fit_trend(log_density: np.ndarray, values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the trend of values over log10 density: densities in rising order, and the value at each.

    Args:
        log_density: Of shape (n,).
        values: Of shape (n,).
    """
    distinct, inverse, counts = np.unique(log_density.round(9), return_inverse=True, return_counts=True)
    if len(distinct) <= len(log_density) / 3:  # a grid: its densities repeat
        return distinct, np.bincount(inverse, values) / counts
    from statsmodels.nonparametric.smoothers_lowess import lowess

    share = max(0.2, min(1.0, TREND_NEIGHBOURS / len(log_density)))
    smooth = lowess(values, log_density, frac=share, delta=0.01 * np.ptp(log_density))
    valid = smooth[~np.isnan(smooth[:, 1])]
    return valid[:, 0], valid[:, 1]


def objective_losses(table: pd.DataFrame, objectives: Mapping[str, str]) -> pd.DataFrame:
    """Return each trial's objectives as losses (small is good), and its rank in accuracy among trials of like density.

    The rank, in the column `accuracy at equal density`, goes from 0 (best) to 1. The difference itself would not do:
    differences are widest where accuracy falls, so that density would seem to explain them.

    Args:
        table: Trials, as `Results.trials` has them.
        objectives: Objective to `max` or `min`.

    Returns:
        A row for each trial, without the columns that have no values.
    """
    signs = {name: -1.0 if direction == "max" else 1.0 for name, direction in objectives.items()}
    losses = {name: sign * table[name].astype(float) for name, sign in signs.items() if name in table}
    residuals = accuracy_at_equal_density(table).dropna()
    bands = pd.qcut(
        table.loc[residuals.index, "density"].rank(method="first"),
        max(1, len(residuals) // RANK_BAND_TRIALS),
        labels=False,
    )
    ranks = residuals.groupby(bands).rank(pct=True, ascending=False)
    return pd.DataFrame({**losses, "accuracy at equal density": ranks.reindex(table.index)}).dropna(axis=1, how="all")
