"""Controls: networks whose weights are not chosen by a score, and the points of a front that a control beats."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pandas as pd

from forcetune.analysis.fronts import collapses_mostly, front, objective_column
from forcetune.analysis.questions import NETWORK_COLUMNS, choose_quality, have_same_values

# rows of METHODS that choose weights at random
RANDOM_METHODS = ("random", "random_uniform", "random_erk", "random_uniform_plus", "random_balanced", "random_smart")
COST_NAMES = {"density": "weights", "macs": "multiply-adds"}  # the columns at which a control is compared, in words
_DATA_FIELDS = ("dataset", "train_samples")  # accuracies of trials that differ in these cannot be compared
_NETWORK_FIELDS = tuple(name for name in NETWORK_COLUMNS if name != "study")  # they include those of the data
_COST_TOLERANCE = 1e-9  # relative: equal densities may differ in their last digit


def is_control(table: pd.DataFrame) -> pd.Series:
    """Return which trials are controls: random pruning, a mask shuffled in its layers, a small dense network.

    Args:
        table: Trials, as `Results.trials` has them.

    Returns:
        A bool for each row.
    """
    control = pd.Series(False, index=table.index)
    if "method" in table:
        control |= table["method"].isin(RANDOM_METHODS)
    if "shuffle" in table:
        control |= table["shuffle"].eq(True)
    if "small_dense" in table:
        control |= table["small_dense"].notna()
    return control


def best_controls(table: pd.DataFrame, objectives: Mapping[str, str]) -> pd.DataFrame:
    """Return the front of the controls alone, sorted by sparsity, as `front` does for all trials.

    Args:
        table: Trials, as `Results.trials` has them.
        objectives: Objective to `max` or `min`.
    """
    return front(table[is_control(table)], objectives)


def find_beating_controls(points: pd.DataFrame, table: pd.DataFrame, objectives: Mapping[str, str]) -> pd.DataFrame:
    """Return the controls that beat points of a front: they are at least as good at no higher cost.

    At equal density, a control beats a point if it is of the same network, keeps no more weights and is as accurate. At
    equal multiply-adds, it beats a point if it needs no more of them and is as accurate; it may be of another network.
    It must also be better in the accuracy or in the cost. Only trials of one data set are compared.

    A control without fresh seeds is compared with the one value for which the search chose the point, since a control
    with a lucky seed would beat any mean.

    Args:
        points: Rows of `table`.
        table: All trials, as `Results.trials` has them.
        objectives: Objective to `max` or `min`.

    Returns:
        A row for each point: beaten_by (the name of the most accurate control that beats it) and beaten_at (`density`
        or `macs`; density where both hold). Both are None where no control beats the point, and where the point is a
        control itself.
    """
    name, direction = choose_quality(objectives)
    column = objective_column(table, name)
    sign = 1.0 if direction == "max" else -1.0
    beating = pd.DataFrame({"beaten_by": None, "beaten_at": None}, index=points.index, dtype=object)
    if column not in table:
        return beating
    is_sound = (table["outcome"] == "trained") & ~collapses_mostly(table)
    controls = table[is_control(table) & is_sound].dropna(subset=[column])
    if not len(controls):
        return beating
    qualities = sign * controls[column].to_numpy(float)
    has_fresh_seeds = (
        controls["seeds"].fillna(0).to_numpy(int) > 0 if "seeds" in controls else np.full(len(controls), True)
    )
    point_is_control = is_control(points)
    for index, point in points[~point_is_control].iterrows():
        quality = sign * np.where(has_fresh_seeds, float(point[column]), float(point[name]))  # for each control
        for cost in COST_NAMES:
            if cost not in controls or pd.isna(point.get(cost)):
                continue
            same = have_same_values(controls, point, _NETWORK_FIELDS if cost == "density" else _DATA_FIELDS)
            costs, budget = controls[cost].to_numpy(float), float(point[cost])
            as_cheap = costs <= budget * (1 + _COST_TOLERANCE)
            better = (qualities > quality) | (costs < budget * (1 - _COST_TOLERANCE))
            if (beats := same & as_cheap & (qualities >= quality) & better).any():
                strongest = np.where(beats, qualities, -np.inf).argmax()
                beating.loc[index] = [controls["name"].iloc[strongest], cost]
                break
    return beating
