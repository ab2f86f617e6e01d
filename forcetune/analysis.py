"""Questions to a study's table."""

from collections.abc import Mapping

import numpy as np
import pandas as pd


def best(
    table: pd.DataFrame,
    min_sparsity: float | None = None,
    min_accuracy: float | None = None,
    method: str | None = None,
) -> pd.DataFrame:
    """The front of the trials that meet these conditions, sorted by sparsity."""
    chosen = table
    if len(chosen) and min_sparsity is not None:
        # 1 - density is not exact in floating point: a trial of density 0.05 has a sparsity of at least 0.95
        chosen = chosen[chosen["sparsity"] >= min_sparsity - 1e-12]
    if len(chosen) and min_accuracy is not None:
        chosen = chosen[chosen["val_accuracy"] >= min_accuracy]
    if len(chosen) and method is not None:
        chosen = chosen[chosen["method"] == method]
    return front(chosen, table.attrs["objectives"])


def front(table: pd.DataFrame, objectives: Mapping[str, str]) -> pd.DataFrame:
    """The rows trained to their end that no other such row is at least as good as in all and better in one objective.

    objectives: metric to `max` or `min`. Sorted by sparsity; the table's `.attrs` are kept.
    """
    if not len(table) or not set(objectives) <= set(table.columns):
        return table.iloc[:0]
    trained = table[table["outcome"] == "trained"].dropna(subset=list(objectives))
    chosen = trained[non_dominated(trained[list(objectives)].to_numpy(float), list(objectives.values()))]
    return chosen.sort_values("sparsity", kind="stable")


def non_dominated(values: np.ndarray, directions: list[str]) -> np.ndarray:
    """Which rows of (n, objectives) no other row dominates; bool (n,). Equal rows stay together."""
    losses = values * np.where(np.array(directions) == "max", -1.0, 1.0)
    keep = np.ones(len(losses), dtype=bool)
    for i, loss in enumerate(losses):
        if keep[i]:
            dominated = (losses >= loss).all(1) & (losses > loss).any(1)
            keep &= ~dominated
    return keep
