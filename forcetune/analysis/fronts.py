"""Fronts: the trials that no other trial dominates, the ranks behind them, and the hypervolume that they cover."""

from collections.abc import Iterable, Mapping

import moocore
import numpy as np
import pandas as pd

# On a linear axis all densities above 99 % sparsity would have half a percent of the weight.
LOGARITHMIC_OBJECTIVES = ("density", "effective_density")
COUNTED_OUTCOMES = ("trained", "collapsed")  # outcomes of trials with an accuracy: a collapsed network guesses
MIN_LOGARITHMIC_VALUE = 1e-12  # a collapsed network has an effective density of 0


def front(table: pd.DataFrame, objectives: Mapping[str, str]) -> pd.DataFrame:
    """Return the rows of trained trials that no other such row dominates.

    A row dominates another one if it is at least as good in all objectives and better in one. An objective counts by
    its mean over fresh seeds where `add_seed_estimates` has added one to the table. A trial of which more than half of
    the fresh seeds collapsed is on no front.

    Args:
        table: Trials, as `Results.trials` has them, or those of them that `where` selects.
        objectives: Objective to `max` or `min`.

    Returns:
        The rows, sorted by sparsity.
    """
    if not len(table) or not set(objectives) <= set(table.columns):
        return table.iloc[:0]
    columns = [objective_column(table, name) for name in objectives]
    trained = table[(table["outcome"] == "trained") & ~collapses_mostly(table)].dropna(subset=columns)
    chosen = trained[non_dominated(trained[columns].to_numpy(float), list(objectives.values()))]
    return chosen.sort_values("sparsity", kind="stable") if "sparsity" in chosen else chosen


def collapses_mostly(table: pd.DataFrame) -> np.ndarray:
    """Return of which trials more than half of the fresh seeds collapsed, so that they are on no front.

    Args:
        table: Trials, as `Results.trials` has them.

    Returns:
        A bool array of shape (n,).
    """
    if "collapsed_seeds" not in table:
        return np.zeros(len(table), bool)
    collapsed, seeds = (table[name].fillna(0).to_numpy(float) for name in ("collapsed_seeds", "seeds"))
    return np.asarray(2 * collapsed > seeds)


def objective_column(table: pd.DataFrame, objective: str) -> str:
    """Return the column by which an objective counts: its mean over fresh seeds where the table has one."""
    mean = f"{objective}_mean"
    return mean if mean in table.columns else objective


def non_dominated(values: np.ndarray, directions: list[str]) -> np.ndarray:
    """Return which rows no other row dominates; equal rows do not dominate each other.

    Args:
        values: Of shape (n, objectives).
        directions: `max` or `min` for each objective.

    Returns:
        A bool array of shape (n,).
    """
    is_non_dominated: np.ndarray = moocore.is_nondominated(
        values, maximise=[direction == "max" for direction in directions], keep_weakly=True
    )
    return is_non_dominated


def pareto_ranks(losses: np.ndarray) -> np.ndarray:
    """Return the rank of each row by non-dominated sorting; the front has rank 0.

    Args:
        losses: Of shape (n, objectives), all minimised.

    Returns:
        An int array of shape (n,).
    """
    ranks: np.ndarray = moocore.pareto_rank(losses)
    return ranks


def dominates(losses: np.ndarray, candidate: np.ndarray) -> np.ndarray:
    """Return which rows dominate a candidate: they are at least as low in all objectives and lower in one.

    Args:
        losses: Of shape (n, objectives), all minimised.
        candidate: Of shape (objectives,).

    Returns:
        A bool array of shape (n,).
    """
    return np.asarray((losses <= candidate).all(1) & (losses < candidate).any(1))


def hypervolume(values: np.ndarray, directions: Mapping[str, str], references: Mapping[str, float]) -> float:
    """Return the hypervolume that rows dominate, measured from the references; densities count by their log10.

    Args:
        values: Of shape (n, objectives).
        directions: Objective to `max` or `min`, in the order of the columns.
        references: The worst value of each objective that counts.
    """
    if not len(values):
        return 0.0
    points = scale_objectives(values, directions)
    origin = scale_objectives(np.array([[references[name] for name in directions]]), directions)[0]
    return float(
        moocore.hypervolume(points, ref=origin, maximise=[direction == "max" for direction in directions.values()])
    )


def scale_objectives(values: np.ndarray, objectives: Iterable[str]) -> np.ndarray:
    """Return values on the scales on which they are averaged and measured: densities as their log10, others unchanged.

    Args:
        values: Of shape (n, objectives).
        objectives: The names of the objectives, in the order of the columns.
    """
    scaled = values.astype(float)
    for column, name in enumerate(objectives):
        if name in LOGARITHMIC_OBJECTIVES:
            scaled[:, column] = np.log10(np.maximum(scaled[:, column], MIN_LOGARITHMIC_VALUE))
    return scaled
