"""The trials whose trained weights are kept: those on the front, and those that fresh seeds may bring onto it."""

from collections.abc import Mapping

import numpy as np
import pandas as pd

from forcetune.analysis.fronts import collapses_mostly, dominates, non_dominated, objective_column, pareto_ranks
from forcetune.analysis.questions import choose_quality

UNJUDGED_RANKS = 3  # that are kept until fresh seeds say how far a value may be from its mean


def select_objectives(objectives: Mapping[str, str], keep: str) -> dict[str, str]:
    """Return the objectives whose front is kept: all of them, or the quality alone where only the best is kept.

    Args:
        objectives: Objective to `max` or `min`.
        keep: The field `search.keep`.
    """
    quality, direction = choose_quality(objectives)
    return {quality: direction} if keep == "best" and quality in objectives else dict(objectives)


def select_kept(table: pd.DataFrame, objectives: Mapping[str, str], keep: str, has_seeds: bool) -> pd.DataFrame:
    """Return the trials of a study whose weights are kept.

    With `front` they are the trials on the front, and those whose 95 % intervals of their means reach it: the best ends
    of all intervals together are not dominated by a mean on the front. Until a study with `search.seeds` has such
    intervals, the trials of the first UNJUDGED_RANKS ranks are kept. `best` is the same for the quality alone. A trial
    of which more than half of the fresh seeds collapsed is kept by `all` alone.

    Args:
        table: Trials, as `Results.trials` has them.
        objectives: Objective to `max` or `min`.
        keep: The field `search.keep`.
        has_seeds: Whether the study has `search.seeds`.
    """
    judged = select_objectives(objectives, keep)
    columns = [objective_column(table, name) for name in judged]
    if keep == "none" or not len(table) or not set(columns) <= set(table.columns):
        return table.iloc[:0]
    trained = table[table["outcome"] == "trained"].dropna(subset=columns)
    if keep != "all":
        trained = trained[~collapses_mostly(trained)]
    if keep == "all" or not len(trained):
        return trained
    losses = compute_losses(trained[columns].to_numpy(float), judged)
    ends = [f"{name}_{'high' if direction == 'max' else 'low'}" for name, direction in judged.items()]
    has_intervals = set(ends) <= set(trained.columns) and not trained[ends].isna().to_numpy().any()
    if not has_intervals:
        return trained[select_ranks(losses, UNJUDGED_RANKS if has_seeds else 1)]
    return trained[_reach_front(losses, compute_losses(trained[ends].to_numpy(float), judged))]


def compute_losses(values: np.ndarray, directions: Mapping[str, str]) -> np.ndarray:
    """Return values of shape (n, objectives) with those that are maximised negated, so that less is better."""
    return values * np.where(np.array(list(directions.values())) == "max", -1.0, 1.0)


def select_ranks(losses: np.ndarray, ranks: int) -> np.ndarray:
    """Return which rows are in the first ranks of non-dominated sorting; equal rows have the same rank.

    Args:
        losses: Of shape (n, objectives), all minimised.
        ranks: The number of ranks.

    Returns:
        A bool array of shape (n,).
    """
    return np.asarray(pareto_ranks(losses) < ranks)


def _reach_front(losses: np.ndarray, best_losses: np.ndarray) -> np.ndarray:
    """Return which rows are non-dominated, or would be if each of their values were as good as its interval allows."""
    on_front = non_dominated(losses, ["min"] * losses.shape[1])
    is_beaten = np.array([dominates(losses[on_front], row).any() for row in best_losses])
    return np.asarray(on_front | ~is_beaten)
