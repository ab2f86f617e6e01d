"""Estimates of a front's points from fresh seeds: means, their intervals, and the probability to stand on the front."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from forcetune.analysis.fronts import LOGARITHMIC_OBJECTIVES, non_dominated, scale_objectives
from forcetune.analysis.paired import student_half_width

NOISE_BANDWIDTH_DECADES = 0.25  # of density, within which points share most of their noise
MIN_NOISE_WEIGHT = 1e-3  # of distant points, so that the noise is known everywhere once it is known anywhere
FRONT_DRAWS = 1000  # of all means, from which the probability to stand on the front is estimated
MAX_STANDARD_ERRORS = 4.0  # a mean is not expected farther away


@dataclass(frozen=True)
class SeedEstimates:
    """The estimates of n points in m objectives from fresh seeds.

    Intervals and probabilities are NaN while no point has two fresh seeds.

    Attributes:
        seeds: The number of fresh seeds of each point, of shape (n,).
        mean: The mean over the fresh seeds, of shape (n, m); the value of the search where a point has none.
        low: The lower end of Student's 95 % interval of the mean, of shape (n, m).
        high: The upper end of that interval, of shape (n, m).
        probability: The probability to stand on the front, of shape (n,).
    """

    seeds: np.ndarray
    mean: np.ndarray
    low: np.ndarray
    high: np.ndarray
    probability: np.ndarray


def estimate_from_seeds(
    values: np.ndarray, densities: np.ndarray, fresh: Sequence[np.ndarray], directions: Mapping[str, str]
) -> SeedEstimates:
    """Return the estimates of points from their fresh seeds.

    The value for which the search chose a point is left out where the point has fresh seeds. The noise of a seed is
    pooled over points of near log10 density, since five seeds of one point say little about it. Objectives that count
    by their logarithm are averaged on that scale.

    Args:
        values: The values of the search, of shape (n, m).
        densities: Of shape (n,).
        fresh: For each point the values of its fresh seeds, of shape (seeds, m); seeds may be 0.
        directions: Objective to `max` or `min`, in the order of the columns.
    """
    logarithmic = [name in LOGARITHMIC_OBJECTIVES for name in directions]
    runs = [scale_objectives(np.reshape(sample, (-1, len(directions))), directions) for sample in fresh]
    seeds = np.array([len(sample) for sample in runs])
    searched = scale_objectives(values, directions)
    mean = np.array([sample.mean(0) if len(sample) else value for sample, value in zip(runs, searched, strict=True)])
    mean = mean.round(12)  # the mean of equal densities is that density, and ties with it stay ties
    deviation, freedom = _estimate_noise(np.log10(densities), runs)
    error = deviation / np.sqrt(np.maximum(seeds, 1))[:, None]
    half = student_half_width(error, freedom[:, None])
    low, high = (_unscale(mean + sign * half, logarithmic) for sign in (-1, 1))
    senses = list(directions.values())
    return SeedEstimates(
        seeds, _unscale(mean, logarithmic), low, high, _front_probability(mean, error, freedom, senses)
    )


def add_seed_estimates(table: pd.DataFrame, reruns: pd.DataFrame | None, directions: Mapping[str, str]) -> pd.DataFrame:
    """Return the table of a study with the estimates from its re-runs.

    Args:
        table: The trials of the study, as `TrialTable.trials` has them.
        reruns: The re-runs, as `tracking.load_reruns` gives them; `of` is the key of the trial that is run again.
        directions: Objective to `max` or `min`.

    Returns:
        The table with the further columns seeds, front_probability, and _mean, _low and _high of each objective; the
        table as it is where nothing was run again.
    """
    if reruns is None or reruns.empty or not set(directions) <= {*table.columns} & {*reruns.columns}:
        return table
    ended = reruns.dropna(subset=list(directions))
    groups = {key: group[list(directions)].to_numpy(float) for key, group in ended.groupby("of")}
    rows = table[table["outcome"] == "trained"].dropna(subset=list(directions))
    none = np.empty((0, len(directions)))
    estimates = estimate_from_seeds(
        rows[list(directions)].to_numpy(float),
        rows["density"].to_numpy(float),
        [groups.get(key, none) for key in rows["trial"]],
        directions,
    )
    columns = pd.DataFrame({"seeds": estimates.seeds, "front_probability": estimates.probability}, index=rows.index)
    for index, name in enumerate(directions):
        for statistic in ("mean", "low", "high"):
            columns[f"{name}_{statistic}"] = getattr(estimates, statistic)[:, index]
    return table.join(columns).astype({"seeds": "Int64"})


def _unscale(values: np.ndarray, logarithmic: Sequence[bool]) -> np.ndarray:
    unscaled = values.copy()
    unscaled[:, logarithmic] = 10 ** unscaled[:, logarithmic]
    return unscaled


def _estimate_noise(log_density: np.ndarray, runs: Sequence[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """Return the standard deviation of one seed at each density, (n, m), and its degrees of freedom, (n,)."""
    repeated = [i for i, sample in enumerate(runs) if len(sample) > 1]
    if not repeated:
        return np.full((len(runs), runs[0].shape[1]), np.nan), np.full(len(runs), np.nan)
    squares = np.array([((runs[i] - runs[i].mean(0)) ** 2).sum(0) for i in repeated])
    freedom = np.array([len(runs[i]) - 1 for i in repeated])
    weights = MIN_NOISE_WEIGHT + np.exp(
        -0.5 * ((log_density[:, None] - log_density[repeated]) / NOISE_BANDWIDTH_DECADES) ** 2
    )
    deviation = np.sqrt(weights @ squares / (weights @ freedom)[:, None])
    return deviation, (weights @ freedom) ** 2 / (weights**2 @ freedom)  # Satterthwaite's


def _front_probability(mean: np.ndarray, error: np.ndarray, freedom: np.ndarray, senses: list[str]) -> np.ndarray:
    """Return how often each point is non-dominated where all means are drawn from their estimated distributions."""
    if np.isnan(error).any():
        return np.full(len(mean), np.nan)
    signs = np.where(np.array(senses) == "max", -1.0, 1.0)
    losses, reach = mean * signs, MAX_STANDARD_ERRORS * error
    worst = losses + reach
    safe = worst[non_dominated(worst, ["min"] * len(senses))]
    beaten = ((safe[None] < (losses - reach)[:, None]).all(2)).any(1)
    drawn = np.flatnonzero(~beaten)
    generator = np.random.default_rng(0)
    counts = np.zeros(len(mean))
    for _ in range(FRONT_DRAWS):
        noise = generator.standard_t(freedom[drawn, None], size=(len(drawn), len(senses)))
        counts[drawn] += non_dominated(losses[drawn] + error[drawn] * noise, ["min"] * len(senses))
    return counts / FRONT_DRAWS
