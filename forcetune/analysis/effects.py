"""What it took: what a method, a schedule, a number of iterations changes at equal density."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations

import numpy as np
import pandas as pd

from forcetune.analysis.fronts import COUNTED
from forcetune.analysis.paired import CONFIDENCE, holm, paired
from forcetune.analysis.questions import NETWORK
from forcetune.errors import InputError
from forcetune.names import suggestion

POINTS = 100.0  # of accuracy
BAND = 0.25  # decades of density within which trials are as dense as each other, once the trend is taken out
LEVELS = 6  # numbers beyond which a field is looked at in parts
PARTS = 3
LEAST = 6  # pairs, below which pairing says less than it costs
FEWEST = 10  # trials, below which nothing is known of a trend
ROUNDS = 4  # after which trend and means hardly move
NEIGHBOURS = 15  # trials that a trend is drawn through at each density, or a fifth of them
BESIDE = 20  # trials among which one is ranked
ALIKE, LIKE_DENSITY, UNPAIRED = "all else equal", "like density", "not"
COLUMNS = ["field", "better", "worse", "difference", "low", "high", "p", "pairs", "trials", "paired"]


def at_equal_density(table: pd.DataFrame) -> pd.Series:
    """Each trial's validation accuracy less what trained trials of its network and density reach, in points.

    What they reach is the mean where densities repeat (as in a grid), else a curve over log10 density by local
    regression (Cleveland's lowess). NaN where a network has fewer than 10 trained trials, and for trials that tell no
    accuracy.
    """
    return _left(table, [name for name in NETWORK if name in table])


def _left(table: pd.DataFrame, network: Sequence[str], gains: pd.Series | None = None) -> pd.Series:
    """The same; gains: of each trial, in points, that the trend shall know nothing of."""
    found = pd.Series(np.nan, index=table.index, dtype=float)
    if not len(table) or not {"val_accuracy", "density"} <= set(table):
        return found
    accuracy = table["val_accuracy"].astype(float) * POINTS
    usual = accuracy if gains is None else accuracy - gains
    places = table["density"].astype(float).map(np.log10)
    for _, trials in table.groupby(list(network), dropna=False) if network else [(None, table)]:
        known = usual[trials.index[trials["outcome"] == "trained"]].dropna().index
        if len(known) >= FEWEST:
            trend = _trend(places[known].to_numpy(), usual[known].to_numpy())
            found[trials.index] = accuracy[trials.index] - np.interp(places[trials.index].to_numpy(), *trend)
    return found


def _left_by_level(trials: pd.DataFrame, network: Sequence[str], levels: pd.Series) -> pd.Series:
    """The same where values of a field may have been tried at different densities.

    The trend over density and the mean of each value are estimated in turn, each with the other taken out: else a trend
    through good values where it is dense, and bad ones where it is sparse, would hide part of what they differ by.
    """
    left = _left(trials, network)
    for _ in range(ROUNDS):
        gains = left.groupby(levels).transform("mean").reindex(trials.index).fillna(0.0)
        left = _left(trials, network, gains)
    return left


def effects(table: pd.DataFrame, field: str) -> pd.DataFrame:
    """How much the values of a field differ in validation accuracy at equal density, one row for two values.

    Columns: field, better, worse, difference (points of accuracy, better minus worse), low, high (the 95 % interval of
    its mean), p (by Holm over the rows), pairs, trials (of both), paired. Numbers of many values are looked at in
    thirds.

    paired says by what: `all else equal`, trials that share every other field that both sides have, the seed too, which
    a grid study gives; `like density`, means of trials of one network and method within a quarter of a decade of
    density, their trend over density taken out, so that other fields (lr) vary by chance; `not` where either way has
    fewer than six pairs, trials less that trend and the mean of their network and method. p is exact by sign flips for
    pairs, Welch's else. Early-stopped trials tell no accuracy to compare and are left out, which flatters what is often
    stopped. `table`: as `results.load` gives it.
    Raises InputError where the field does not vary among trials that ended, or no trial tells an accuracy.
    """
    trials = table[table["outcome"].isin(COUNTED)] if len(table) else table
    if "val_accuracy" not in trials or not trials["val_accuracy"].notna().any():
        raise InputError("no trial that ended tells a val_accuracy, which effects are measured in")
    trials = trials.dropna(subset=["val_accuracy"])
    fields = [name for name in (*table.attrs["fields"], "study") if name in trials]
    varied = [name for name in fields if trials[name].nunique() > 1 and name not in ("density", "seed")]
    if field not in varied:
        known = ", ".join(varied) or "none"
        raise InputError(f"{field!r} does not vary among the trials{suggestion(field, varied)}; these do: {known}")
    levels = _levels(trials[field] if field != "method" else _methods(trials))
    network = [name for name in NETWORK if name in trials and name != field]
    trials = trials.assign(_level=levels, _left=_left_by_level(trials, network, levels))
    others = [name for name in fields if name != field]
    both = combinations(trials["_level"].dropna().unique(), 2)
    rows = [row for one, two in both if (row := _compare(trials, others, field, one, two))]
    found = pd.DataFrame(rows, columns=COLUMNS)
    found["p"] = holm(found["p"].to_numpy(float))
    return found.sort_values("difference", ascending=False, kind="stable", ignore_index=True)


def _methods(trials: pd.DataFrame) -> pd.Series:
    """Return the method of each trial; a small dense network has none, whatever mask its width was taken from."""
    if "small_dense" not in trials:
        return trials["method"]
    return trials["method"].where(trials["small_dense"].isna(), "small_dense")


def _compare(
    trials: pd.DataFrame, others: Sequence[str], field: str, one: str, two: str
) -> dict[str, float | str] | None:
    """Two values of a field, the better one first; None where nothing can be compared."""
    sides = [trials[trials["_level"] == level] for level in (one, two)]
    shared = [name for name in others if not any(side[name].isna().all() for side in sides)]
    same = [name for name in (*NETWORK, "method") if name in shared and name != field]
    how, pairs, (mean, low, high, p) = _difference(sides, shared, same)
    if np.isnan(mean):
        return None
    if mean < 0:
        one, two, mean, low, high = two, one, -mean, -high, -low
    told = {"difference": mean, "low": low, "high": high, "p": p, "pairs": pairs, "trials": sum(map(len, sides))}
    return {"field": field, "better": one, "worse": two, **told, "paired": how}


def _difference(
    sides: Sequence[pd.DataFrame], shared: Sequence[str], same: Sequence[str]
) -> tuple[str, int, tuple[float, float, float, float]]:
    """How two sides were compared, by how many pairs, and what `paired` or `_apart` say of them, in points."""
    alike = _matched(sides, shared, "val_accuracy") * POINTS
    if len(alike) >= LEAST:
        return ALIKE, len(alike), paired(alike)
    banded = [side.assign(_band=np.floor(np.log10(side["density"].astype(float)) / BAND)) for side in sides]
    near = _matched(banded, [*same, "_band"], "_left")
    if len(near) >= LEAST:
        return LIKE_DENSITY, len(near), paired(near)
    left = pd.concat([side.assign(_side=place) for place, side in enumerate(sides)]).dropna(subset=["_left"])
    if same and len(left):
        left["_left"] -= left.groupby(list(same), dropna=False)["_left"].transform("mean")
    one, two = (left.loc[left["_side"] == place, "_left"].to_numpy(float) for place in (0, 1))
    return UNPAIRED, 0, _apart(one, two) if len(one) and len(two) else (np.nan,) * 4


def _apart(one: np.ndarray, two: np.ndarray) -> tuple[float, float, float, float]:
    """What `paired` says, of the difference of the means of two samples, (n,) and (m,), that no pairs join: Welch's."""
    from scipy import stats

    mean = float(one.mean() - two.mean())
    if min(len(one), len(two)) < 2:
        return mean, np.nan, np.nan, np.nan
    test = stats.ttest_ind(one, two, equal_var=False)
    low, high = test.confidence_interval(CONFIDENCE)
    return mean, float(low), float(high), float(test.pvalue)


def _matched(sides: Sequence[pd.DataFrame], keys: Sequence[str], value: str) -> np.ndarray:
    """The differences of the means of `value` for every combination of `keys` that both sides have."""
    means = [side.groupby(list(keys), dropna=False, observed=True)[value].mean() for side in sides]
    both = pd.concat(means, axis=1, join="inner", keys=["one", "two"]).dropna()
    return np.asarray(both["one"] - both["two"], float)


def _levels(column: pd.Series) -> pd.Series:
    """The values as words, in their order; numbers of many values in parts that hold equally many trials."""
    known = column.dropna()
    if pd.api.types.is_numeric_dtype(known) and not pd.api.types.is_bool_dtype(known) and known.nunique() > LEVELS:
        parts = pd.qcut(known.astype(float), PARTS, labels=False, duplicates="drop")
        ends = known.astype(float).groupby(parts).agg(["min", "max"])
        names = {part: f"{low:.3g} to {high:.3g}" for part, low, high in ends.itertuples()}
        return parts.map(names).reindex(column.index)
    ordered = known.sort_values(kind="stable", key=lambda values: values if _is_number(values) else values.astype(str))
    return ordered.map(_text)


def _is_number(values: pd.Series) -> bool:
    return bool(pd.api.types.is_numeric_dtype(values))


def _text(value: object) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)


def _trend(places: np.ndarray, values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Places in rising order, and what is reached at each."""
    known, where, counts = np.unique(places.round(9), return_inverse=True, return_counts=True)
    if len(known) <= len(places) / 3:  # a grid: its densities repeat
        return known, np.bincount(where, values) / counts
    from statsmodels.nonparametric.smoothers_lowess import lowess

    share = max(0.2, min(1.0, NEIGHBOURS / len(places)))
    smooth = lowess(values, places, frac=share, delta=0.01 * np.ptp(places))
    kept = smooth[~np.isnan(smooth[:, 1])]
    return kept[:, 0], kept[:, 1]


def losses(table: pd.DataFrame) -> pd.DataFrame:
    """Each trial's objectives with small being good, and how it stands in accuracy among those of like density.

    The last, `accuracy at equal density`, is a rank from 0 (best) to 1: differences are widest where accuracy falls, so
    that density would seem to be what explains them.
    """
    signs = {name: -1.0 if way == "max" else 1.0 for name, way in table.attrs["objectives"].items()}
    told = {name: sign * table[name].astype(float) for name, sign in signs.items() if name in table}
    left = at_equal_density(table).dropna()
    bands = pd.qcut(table.loc[left.index, "density"].rank(method="first"), max(1, len(left) // BESIDE), labels=False)
    ranks = left.groupby(bands).rank(pct=True, ascending=False)
    return pd.DataFrame({**told, "accuracy at equal density": ranks.reindex(table.index)}).dropna(axis=1, how="all")
