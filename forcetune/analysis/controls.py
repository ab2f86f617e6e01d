"""Controls: networks whose weights nobody chose, and the points of a front that one of them is as good as."""

from __future__ import annotations

import numpy as np
import pandas as pd

from forcetune.analysis.fronts import believed, best
from forcetune.analysis.questions import NETWORK, quality

# rows of METHODS that choose weights at random
RANDOM_METHODS = ("random", "random_uniform", "random_erk", "random_uniform_plus", "random_balanced", "random_smart")
COSTS = {"density": "weights", "macs": "multiply-adds"}  # at which a control is compared, and in words
_DATA = ("dataset", "train_samples")  # trials that differ in these have accuracies that do not compare
_ROUNDING = 1e-9  # relative: equal densities may differ in their last digit


def is_control(table: pd.DataFrame) -> pd.Series:
    """Return which trials are controls: random pruning, a mask shuffled in its layers, a small dense network."""
    control = pd.Series(False, index=table.index)
    if "method" in table:
        control |= table["method"].isin(RANDOM_METHODS)
    if "shuffle" in table:
        control |= table["shuffle"].eq(True)
    if "small_dense" in table:
        control |= table["small_dense"].notna()
    return control


def best_controls(table: pd.DataFrame) -> pd.DataFrame:
    """Return the front of the controls alone, sorted by sparsity, as `best` does for all trials."""
    controls = table[is_control(table)]
    controls.attrs = table.attrs
    return best(controls)


def beaten(points: pd.DataFrame, table: pd.DataFrame) -> pd.DataFrame:
    """Return the controls that are at least as good as points of a front at no higher cost.

    A control beats a point at equal density where it has no more of the same network's weights and is as accurate, and
    at equal multiply-adds where it needs no more of those, whatever its network; in one of the two it is better. Only
    trials of one data set are compared. A control without fresh seeds is compared with the one value that chose the
    point, since a lucky seed would beat any mean.

    Args:
        points: Rows of `table`.
        table: All trials, as `results.load` gives them.

    Returns:
        A row for each point: beaten_by (name of the most accurate control that beats it) and beaten_at (`density` or
        `macs`; density where both hold), None where none does, and where the point is a control itself.
    """
    name, way = quality(table)
    column = believed(table, name)
    sign = 1.0 if way == "max" else -1.0
    found = pd.DataFrame({"beaten_by": None, "beaten_at": None}, index=points.index, dtype=object)
    if column not in table:
        return found
    controls = table[is_control(table) & (table["outcome"] == "trained")].dropna(subset=[column])
    if not len(controls):
        return found
    good = sign * controls[column].to_numpy(float)
    again = controls["seeds"].fillna(0).to_numpy(int) > 0 if "seeds" in controls else np.full(len(controls), True)
    own = is_control(points)
    for index, point in points[~own].iterrows():
        reached = sign * np.where(again, float(point[column]), float(point[name]))
        for cost in COSTS:
            if cost not in controls or pd.isna(point.get(cost)):
                continue
            same = _agree(controls, point, [*_DATA, *(NETWORK if cost == "density" else ())])
            spent, budget = controls[cost].to_numpy(float), float(point[cost])
            as_cheap = spent <= budget * (1 + _ROUNDING)
            better = (good > reached) | (spent < budget * (1 - _ROUNDING))
            if (beats := same & as_cheap & (good >= reached) & better).any():
                strongest = np.where(beats, good, -np.inf).argmax()
                found.loc[index] = [controls["name"].iloc[strongest], cost]
                break
    return found


def _agree(controls: pd.DataFrame, point: pd.Series, fields: list[str]) -> np.ndarray:
    """Which controls have the same values as the point in these fields, absent ones alike; the study may be another."""
    same = np.ones(len(controls), bool)
    for name in fields:
        if name in controls and name != "study":
            column, value = controls[name], point.get(name)
            same &= (column.isna() if pd.isna(value) else column == value).fillna(False).to_numpy(bool)
    return same
