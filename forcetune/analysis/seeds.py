"""Estimates of a front's points from fresh seeds: means, intervals, collapses, and the probability to be on it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from forcetune.analysis.fronts import LOGARITHMIC_OBJECTIVES, scale_objectives
from forcetune.analysis.membership import SeenPoints, estimate_membership
from forcetune.analysis.outcomes import find_least_accuracy, has_collapsed
from forcetune.analysis.paired import CONFIDENCE
from forcetune.analysis.rates import clopper_pearson
from forcetune.analysis.seed_noise import estimate_noise


@dataclass(frozen=True)
class SeedEstimates:
    """The estimates of n points in m objectives from fresh seeds.

    Intervals and probabilities are NaN while no point has two fresh seeds that live.

    Attributes:
        seeds: The number of fresh seeds of each point, of shape (n,), those that collapsed among them.
        collapsed: The number of fresh seeds that collapsed or diverged, of shape (n,).
        collapse_low: The lower end of the 95 % interval of the share of collapses, of shape (n,) (Clopper and Pearson);
            NaN without a fresh seed.
        collapse_high: The upper end of that interval.
        mean: The mean over the fresh seeds that live, of shape (n, m). Where none lives, the mean over the values with
            which they count; the value of the search where there is no such value.
        low: The lower end of the 95 % interval of the mean, of shape (n, m).
        high: The upper end of that interval, of shape (n, m).
        probability: The probability that the point belongs to the front, of shape (n,).
    """

    seeds: np.ndarray
    collapsed: np.ndarray
    collapse_low: np.ndarray
    collapse_high: np.ndarray
    mean: np.ndarray
    low: np.ndarray
    high: np.ndarray
    probability: np.ndarray


def estimate_from_seeds(
    values: np.ndarray,
    densities: np.ndarray,
    fresh: Sequence[np.ndarray],
    directions: Mapping[str, str],
    lives: Sequence[np.ndarray] | None = None,
) -> SeedEstimates:
    """Return the estimates of points from their fresh seeds.

    The mean leaves out the value for which the search chose a point, where the point has fresh seeds. Objectives that
    count by their logarithm are averaged on that scale. Seeds that collapse are counted apart.

    Args:
        values: The values of the search, of shape (n, m).
        densities: Of shape (n,).
        fresh: For each point the values of its fresh seeds, of shape (seeds, m); seeds may be 0. A run that diverged
            may have NaN.
        directions: Objective to `max` or `min`, in the order of the columns.
        lives: For each point whether its fresh seeds live, of shape (seeds,); by default all do.
    """
    is_logarithmic = np.array([name in LOGARITHMIC_OBJECTIVES for name in directions])
    runs = [scale_objectives(np.reshape(sample, (-1, len(directions))), directions) for sample in fresh]
    lives = lives or [np.ones(len(sample), bool) for sample in runs]
    samples = [sample[np.asarray(alive, bool)] for sample, alive in zip(runs, lives, strict=True)]
    living = np.array([len(sample) for sample in samples])
    collapsed = np.array([len(sample) for sample in runs]) - living
    searched = scale_objectives(values, directions)
    mean = np.array([_find_mean(*point) for point in zip(samples, runs, searched, strict=True)])
    mean = mean.round(12)  # the mean of equal densities is that density, and ties with it stay ties
    noise = estimate_noise(np.log10(densities), samples, is_logarithmic)
    if noise is None:
        half, probability = np.full(mean.shape, np.nan), np.full(len(mean), np.nan)
    else:
        half = noise.half_widths(np.maximum(living, 1), CONFIDENCE)
        signs = np.where(np.array(list(directions.values())) == "max", -1.0, 1.0)
        points = SeenPoints(np.log10(densities), searched * signs, mean * signs, living, collapsed)
        probability = estimate_membership(points, noise)
    low, high = (_unscale(mean + sign * half, is_logarithmic) for sign in (-1, 1))
    return SeedEstimates(
        living + collapsed,
        collapsed,
        *clopper_pearson(collapsed, living + collapsed),
        _unscale(mean, is_logarithmic),
        low,
        high,
        probability,
    )


def add_seed_estimates(
    table: pd.DataFrame,
    reruns: pd.DataFrame | None,
    directions: Mapping[str, str],
    references: Mapping[str, float] | None = None,
) -> pd.DataFrame:
    """Return the table of a study with the estimates from its re-runs.

    Args:
        table: The trials of the study, as `TrialTable.trials` has them.
        reruns: The re-runs, as `tracking.load_reruns` gives them; `of` is the key of the trial that is run again.
        directions: Objective to `max` or `min`.
        references: The worst value of each objective that counts, as `TrialTable.references` has them. A seed that is
            not better in the accuracy counts as collapsed.

    Returns:
        The table with the further columns seeds, collapsed_seeds, collapse_low, collapse_high, front_probability, and
        _mean, _low and _high of each objective; the table as it is where nothing was run again.
    """
    if reruns is None or reruns.empty or not set(directions) <= {*table.columns} & {*reruns.columns}:
        return table
    names = list(directions)
    ended = _mark_collapses(reruns, names, find_least_accuracy(references or {}))
    groups = {key: (group[names].to_numpy(float), group["lives"].to_numpy(bool)) for key, group in ended.groupby("of")}
    rows = table[table["outcome"] == "trained"].dropna(subset=names)
    none = np.empty((0, len(directions))), np.empty(0, bool)
    fresh = [groups.get(key, none) for key in rows["trial"]]
    estimates = estimate_from_seeds(
        rows[names].to_numpy(float),
        rows["density"].to_numpy(float),
        [sample for sample, _ in fresh],
        directions,
        [lives for _, lives in fresh],
    )
    columns = pd.DataFrame(
        {
            "seeds": estimates.seeds,
            "collapsed_seeds": estimates.collapsed,
            "collapse_low": estimates.collapse_low,
            "collapse_high": estimates.collapse_high,
            "front_probability": estimates.probability,
        },
        index=rows.index,
    )
    for index, name in enumerate(directions):
        for statistic in ("mean", "low", "high"):
            columns[f"{name}_{statistic}"] = getattr(estimates, statistic)[:, index]
    return table.join(columns).astype({"seeds": "Int64", "collapsed_seeds": "Int64"})


def _mark_collapses(reruns: pd.DataFrame, objectives: Sequence[str], least_accuracy: float) -> pd.DataFrame:
    """Return the re-runs that say something of their point, with the further column lives.

    A run that diverged has no value: it may have logged some before.
    """
    reasons = reruns["reason"] if "reason" in reruns else pd.Series(None, index=reruns.index, dtype=object)
    outcomes = reruns["outcome"] if "outcome" in reruns else pd.Series("trained", index=reruns.index)
    collapsed = np.array([has_collapsed(*run) for run in zip(outcomes, reasons, strict=True)], bool)
    is_trained, is_failed = (outcomes.eq(name).fillna(False).to_numpy(bool) for name in ("trained", "failed"))
    is_trained = is_trained & reruns[list(objectives)].notna().all(axis=1).to_numpy()
    accuracy = reruns["val_accuracy"].to_numpy(float) if "val_accuracy" in objectives else np.full(len(reruns), np.inf)
    lives = is_trained & ~(accuracy < least_accuracy)
    marked = reruns.assign(lives=lives)
    marked.loc[collapsed & is_failed, list(objectives)] = np.nan
    judged: pd.DataFrame = marked[is_trained | collapsed]
    return judged


def _find_mean(living: np.ndarray, runs: np.ndarray, searched: np.ndarray) -> np.ndarray:
    """Return the mean over the seeds that live, else over all that have values, else the value of the search."""
    valued = living if len(living) else runs[~np.isnan(runs).any(1)]
    return np.asarray(valued.mean(0)) if len(valued) else searched


def _unscale(values: np.ndarray, is_logarithmic: np.ndarray) -> np.ndarray:
    unscaled = values.copy()
    unscaled[:, is_logarithmic] = 10 ** unscaled[:, is_logarithmic]
    return unscaled
