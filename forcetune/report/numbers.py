"""The numbers of the page: functions from tables to tables."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd

from forcetune import analysis
from forcetune.analysis.dial import Dial
from forcetune.errors import InputError
from forcetune.report.results import Results
from forcetune.report.tables import drop_missing
from forcetune.study import method_label

ENDED_OUTCOMES = ("trained", "stopped", "collapsed", "infeasible", "failed")  # in the order of the page
TWIN_ARMS = ("random_uniform", "random_erk", "tuned_random")  # of comparisons with champions
SPARSITY_OBJECTIVES = ("density", "sparsity")
RUNNING_OUTCOME = "running"
DENSITY_DIGITS = 3  # trials of one requested density differ beyond these, because whole weights are kept
MAX_CURVES = 200
MAX_CURVE_VALUES = 100
MAX_HEAT_MAP_POINTS = 40  # points of the front


def prepare_trials(results: Results) -> Results:
    """Prepare the trials of a study for the page.

    Args:
        results: The results, as `results.load` returns them.

    Returns:
        The results with a row for each trial, the front first and by rising sparsity. Further columns are label (the
        method and its controls), reached (the value of the quality: the mean over fresh seeds where there are any), low
        and high (its 95 % interval, else NaN), on_front, and, for points of the front, beaten_by and beaten_at of
        `analysis.find_beating_controls`. The columns density and sparsity always exist, and are positive or NaN;
        outcome is `running` where a trial has not ended.
    """
    quality = results.quality
    trials = results.trials.reset_index(drop=True)
    records = map(drop_missing, trials.to_dict("records"))
    trials["label"] = [method_label(row) if "method" in row else "unknown" for row in records]
    trials["outcome"] = trials["outcome"].astype(object).where(trials["outcome"].notna(), RUNNING_OUTCOME)
    density = _to_floats(trials, "density")
    trials["density"] = density.where(density > 0)
    trials["sparsity"] = (1 - trials["density"]).round(12)
    trials["reached"] = _to_floats(trials, f"{quality}_mean").fillna(_to_floats(trials, quality))
    for bound in ("low", "high"):
        trials[bound] = _to_floats(trials, f"{quality}_{bound}")
    front = analysis.front(trials, results.objectives)
    trials["on_front"] = trials.index.isin(front.index)
    trials = trials.join(analysis.find_beating_controls(front, trials, results.objectives))
    trials = trials.sort_values(["on_front", "sparsity"], ascending=[False, True], kind="stable", ignore_index=True)
    return replace(results, trials=trials)


def read_objective(row: Mapping[Any, Any], name: str) -> Any:
    """Return a value of a trial: the mean over fresh seeds where there is one, by which an objective counts.

    Args:
        row: A row of `Results.trials`.
        name: A column.
    """
    mean = row.get(f"{name}_mean")
    return row[name] if mean is None or pd.isna(mean) else mean


def fill_mean(trials: pd.DataFrame, name: str) -> pd.Series:
    """Return `read_objective` of each trial, as a column."""
    return trials[f"{name}_mean"].fillna(trials[name]) if f"{name}_mean" in trials else trials[name]


def _to_floats(table: pd.DataFrame, name: str) -> pd.Series:
    """Return a column as floats, NaN where a value is missing or not finite."""
    if name not in table:
        return pd.Series(np.nan, index=table.index, dtype=float)
    column = pd.to_numeric(table[name], errors="coerce").astype(float)
    return column.where(np.isfinite(column))


def count_outcomes(trials: pd.DataFrame) -> dict[str, int]:
    """Count the trials by outcome; those that are running come last."""
    counts = trials["outcome"].value_counts()
    order = [
        *ENDED_OUTCOMES,
        *(str(name) for name in counts.index if name not in (*ENDED_OUTCOMES, RUNNING_OUTCOME)),
        RUNNING_OUTCOME,
    ]
    return {name: int(counts[name]) for name in order if name in counts}


def is_front_on_main_axes(results: Results) -> bool:
    """Return whether the main figure shows all objectives, so that the front is a line in it."""
    return {*results.objectives} <= {*SPARSITY_OBJECTIVES, results.quality}


def select_plottable(trials: pd.DataFrame, x: str = "density", y: str = "reached") -> pd.DataFrame:
    """Select the trials that have values for both axes of a figure."""
    return trials.dropna(subset=[x, y])


def select_control_front(results: Results) -> pd.DataFrame:
    """Select the front of the trained controls in density and quality, by falling density."""
    return select_front_by_density(results.trials[analysis.is_control(results.trials)], results.way)


def predict_band(results: Results) -> pd.DataFrame:
    """Predict the best accuracy at each density, as `best --at` does.

    Args:
        results: The results, as `results.load` returns them.

    Returns:
        A row for each density: density, accuracy, low and high; no row where the study has nothing to predict it from.
    """
    try:
        return Dial(results.trials, results.reruns, results.fields, results.objectives).predict_band()
    except InputError:
        return pd.DataFrame(columns=["density", "accuracy", "low", "high"])


def summarize_twins(companions: pd.DataFrame, quality: str) -> pd.DataFrame:
    """Summarize what random pruning reaches as the twin of a champion.

    Args:
        companions: The companions of a study, perhaps none; only those in comparisons with champions count, and no
            sentinel, which repeats its seed every night.
        quality: The metric.

    Returns:
        A row for each arm and requested density: arm, density (the mean that was reached), mean, low and high
        (Student's 95 % interval of the mean over seeds) and seeds (their number).
    """
    columns = ["arm", "density", "mean", "low", "high", "seeds"]
    if not {"arm", quality} <= set(companions):
        return pd.DataFrame(columns=columns)
    is_random_twin = companions["outcome"].isin(analysis.COUNTED_OUTCOMES) & companions["arm"].isin(TWIN_ARMS)
    if "again" in companions:
        is_random_twin &= companions["again"].isna()
    twins = companions[is_random_twin].dropna(subset=[quality])
    groups = twins.groupby([twins["arm"], choose_requested_densities(twins)])
    rows = []
    for (arm, _), group in groups:
        means = group.groupby("seed")[quality].mean().to_numpy(float)  # champions of one density share their seeds
        rows.append((arm, group["density"].mean(), *analysis.student_interval(means), len(means)))
    return pd.DataFrame(rows, columns=columns)


def choose_requested_densities(trials: pd.DataFrame) -> pd.Series:
    """Return the density that each trial was asked for, rounded, so that trials of one request have equal ones.

    Each seed of a method that prunes whole channels reaches a density of its own.

    Args:
        trials: Trials, as `Results.trials` has them.
    """
    reached = trials["density"]
    requested = trials["requested_density"].fillna(reached) if "requested_density" in trials else reached
    return requested.map(lambda density: float(f"{density:.{DENSITY_DIGITS}g}"), na_action="ignore").rename("density")


def is_random_label(label: str) -> bool:
    """Return whether a label is that of random pruning; a method with a shuffled mask is not."""
    return label.startswith("random") and "+" not in label and ":" not in label


def select_front_by_density(trials: pd.DataFrame, way: str) -> pd.DataFrame:
    """Select the trained trials on the front of density against quality, by falling density."""
    trained = select_plottable(trials[(trials["outcome"] == "trained") & ~analysis.collapses_mostly(trials)])
    if not len(trained):
        return trained
    is_on_front = analysis.non_dominated(trained[["density", "reached"]].to_numpy(float), ["min", way])
    return trained[is_on_front].sort_values("density", ascending=False, kind="stable")


def find_references(results: Results) -> tuple[dict[str, float], list[str]]:
    """Return the reference value of each objective, from which the hypervolume is measured.

    Args:
        results: The results, as `prepare_trials` returns them.

    Returns:
        The references, and the objectives without a stored reference, whose reference is the worst value of the trials.
    """
    references: dict[str, float] = {}
    for name, way in results.objectives.items():
        values = _to_floats(results.trials, name)
        references[name] = results.references.get(name, float(values.min() if way == "max" else values.max()))
    return references, [name for name in references if name not in results.references]


def trace_hypervolume(results: Results) -> pd.DataFrame:
    """Trace the hypervolume in the order in which trials ended.

    Args:
        results: The results, as `prepare_trials` returns them.

    Returns:
        A row wherever the hypervolume grew, and one at the end: trials (the number that had ended), device_hours (their
        sum), hypervolume and name (of the trial). The values are those that the search saw, each from one seed.
    """
    columns = ["trials", "device_hours", "hypervolume", "name"]
    trials, objectives = results.trials, results.objectives
    ended = trials[trials["outcome"] != RUNNING_OUTCOME]
    if not set(objectives) <= set(trials):
        return pd.DataFrame(columns=columns)
    ended = ended.sort_values("ended", kind="stable") if "ended" in ended else ended
    hours = _to_floats(ended, "device_seconds").fillna(0).cumsum().to_numpy() / 3600
    values = np.column_stack([_to_floats(ended, name) for name in objectives]) if len(ended) else np.empty((0, 0))
    is_counted = (ended["outcome"] == "trained").to_numpy() & ~np.isnan(values).any(axis=1)
    names = ended["name"].to_numpy() if "name" in ended else np.full(len(ended), "")
    rows = [
        (index + 1, hours[index], volume, names[index])
        for index, volume in _grow_hypervolume(values, is_counted, objectives, find_references(results)[0])
    ]
    if rows and rows[-1][0] < len(ended):
        rows.append((len(ended), hours[-1], rows[-1][2], ""))
    return pd.DataFrame(rows, columns=columns)


def _grow_hypervolume(
    values: np.ndarray, is_counted: np.ndarray, objectives: Mapping[str, str], origin: Mapping[str, float]
) -> Iterable[tuple[int, float]]:
    """Yield the positions at which the hypervolume grew, and its new value."""
    front, volume = np.empty((0, len(objectives))), 0.0
    for index in np.flatnonzero(is_counted):
        candidates = np.vstack([front, values[index]])
        is_on_front = analysis.non_dominated(candidates, list(objectives.values()))
        front = candidates[is_on_front]
        if is_on_front[-1] and (grown := analysis.hypervolume(front, objectives, origin)) > volume:
            volume = grown
            yield int(index), volume


def select_evenly(front: pd.DataFrame, limit: int = MAX_HEAT_MAP_POINTS) -> pd.DataFrame:
    """Select at most `limit` points of a front, evenly from end to end, by rising sparsity."""
    ordered = front.sort_values("density", ascending=False, kind="stable")
    return ordered.iloc[_space_evenly(len(ordered), limit)]


def _space_evenly(count: int, limit: int) -> np.ndarray:
    """Return at most `limit` of `count` positions, evenly from the first to the last."""
    return np.unique(np.linspace(0, count - 1, max(0, min(limit, count))).round().astype(int))


def select_curves(trials: pd.DataFrame, limit: int = MAX_CURVES) -> pd.DataFrame:
    """Select the trials whose learning curves are drawn: the front first, the others evenly over sparsity."""
    candidates = trials[~trials["outcome"].isin(["collapsed", "infeasible"])]
    front = select_evenly(candidates[candidates["on_front"]], limit)
    off_front = candidates[~candidates["on_front"]]
    return pd.concat([off_front.iloc[_space_evenly(len(off_front), limit - len(front))], front])


def thin_curves(curves: pd.DataFrame, limit: int = MAX_CURVE_VALUES) -> pd.DataFrame:
    """Thin curves to about `limit` values each; the first and the last value stay."""
    longest = int(curves.groupby("run_id").size().max())
    stride = -(-longest // limit)
    position = curves.groupby("run_id").cumcount()
    is_last = curves.groupby("run_id").cumcount(ascending=False) == 0
    return curves[(position % stride == 0) | is_last]
