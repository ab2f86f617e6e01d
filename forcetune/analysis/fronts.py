"""Fronts: what no other trial dominates, in ranks behind it, and how much it covers."""

from collections.abc import Iterable, Mapping

import moocore
import numpy as np
import pandas as pd

LOGARITHMIC = ("density", "effective_density")  # on a linear axis all above 99 % sparsity would weigh half a percent
COUNTED = ("trained", "collapsed")  # outcomes that tell what a trial reaches: a collapsed network guesses
LEAST = 1e-12  # of those: a collapsed network has an effective density of 0


def best(table: pd.DataFrame) -> pd.DataFrame:
    """The front of a study's table, or of those of its trials that `where` leaves, sorted by sparsity.

    An objective counts by its mean over fresh seeds where `with_seeds` has given the table one.
    """
    return front(table, table.attrs["objectives"])


def front(table: pd.DataFrame, objectives: Mapping[str, str]) -> pd.DataFrame:
    """The rows trained to their end that no other such row is at least as good as in all and better in one objective.

    objectives: metric to `max` or `min`. Sorted by sparsity; the table's `.attrs` are kept.
    """
    if not len(table) or not set(objectives) <= set(table.columns):
        return table.iloc[:0]
    columns = [believed(table, name) for name in objectives]
    trained = table[table["outcome"] == "trained"].dropna(subset=columns)
    chosen = trained[non_dominated(trained[columns].to_numpy(float), list(objectives.values()))]
    return chosen.sort_values("sparsity", kind="stable") if "sparsity" in chosen else chosen


def believed(table: pd.DataFrame, objective: str) -> str:
    """The column by which an objective counts."""
    mean = f"{objective}_mean"
    return mean if mean in table.columns else objective


def non_dominated(values: np.ndarray, directions: list[str]) -> np.ndarray:
    """Which rows of (n, objectives) no other row dominates; bool (n,). Equal rows stay together."""
    found: np.ndarray = moocore.is_nondominated(values, maximise=[way == "max" for way in directions], keep_weakly=True)
    return found


def pareto_ranks(losses: np.ndarray) -> np.ndarray:
    """The rank of each row of (n, objectives), all minimised, by non-dominated sorting; int (n,), the front has 0."""
    found: np.ndarray = moocore.pareto_rank(losses)
    return found


def dominates(losses: np.ndarray, one: np.ndarray) -> np.ndarray:
    """Which rows of (n, objectives) are at least as low as `one` in all objectives and lower in one; bool (n,)."""
    return np.asarray((losses <= one).all(1) & (losses < one).any(1))


def hypervolume(values: np.ndarray, directions: Mapping[str, str], references: Mapping[str, float]) -> float:
    """What the rows of (n, objectives) dominate, measured from the references; densities by their log10.

    directions: objective to `max` or `min`; references: the worst value of each that counts.
    """
    if not len(values):
        return 0.0
    points = on_axes(values, directions)
    origin = on_axes(np.array([[references[name] for name in directions]]), directions)[0]
    return float(moocore.hypervolume(points, ref=origin, maximise=[way == "max" for way in directions.values()]))


def on_axes(values: np.ndarray, objectives: Iterable[str]) -> np.ndarray:
    """Rows of (n, objectives) as they are averaged and measured: densities by their log10, others as they are."""
    found = values.astype(float)
    for column, name in enumerate(objectives):
        if name in LOGARITHMIC:
            found[:, column] = np.log10(np.maximum(found[:, column], LEAST))
    return found
