"""The numbers of three figures of the FORCE paper: iterations and schedules, methods over sparsity, layers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from forcetune import analysis
from forcetune.report.numbers import choose_requested_densities, select_front_by_density, select_plottable
from forcetune.report.results import Results

MAX_SIDE_BY_SIDE_DENSITIES = 6  # densities that fit beside one another
MIN_TRIALS_PER_DENSITY = 3  # from which on densities count as repeated
MAX_BINS = 6


def select_iterations(trials: pd.DataFrame) -> pd.DataFrame:
    """Select the counted trials that have iterations; none where fewer than two numbers of iterations were tried."""
    if "iterations" not in trials:
        return trials.iloc[:0]
    counted = select_plottable(trials[trials["outcome"].isin(analysis.COUNTED_OUTCOMES)]).dropna(subset=["iterations"])
    schedule = counted["schedule"] if "schedule" in counted else pd.Series("", index=counted.index)
    counted = counted.assign(iterations=counted["iterations"].astype(int), schedule=schedule.fillna("").astype(str))
    return counted if counted["iterations"].nunique() > 1 else counted.iloc[:0]


def has_repeated_densities(trials: pd.DataFrame, limit: int = MAX_SIDE_BY_SIDE_DENSITIES) -> bool:
    """Return whether few densities were tried, each several times, as in a grid."""
    density_count = choose_requested_densities(trials).nunique()
    return 0 < density_count <= limit and density_count * MIN_TRIALS_PER_DENSITY <= len(trials)


def average_by_iterations(trials: pd.DataFrame) -> pd.DataFrame:
    """Average the quality of trials with equal iterations.

    Args:
        trials: The trials, as `select_iterations` returns them.

    Returns:
        A row for each sparsity, density (as requested), label, schedule and number of iterations: mean, low, high and
        trials.
    """
    rounded_trials = trials.assign(density=choose_requested_densities(trials))
    means = _summarize_groups(rounded_trials, ["density", "label", "schedule", "iterations"], "reached")
    means.insert(0, "sparsity", (1 - means["density"]).round(12))
    return means.sort_values(["sparsity", "label", "schedule", "iterations"], kind="stable", ignore_index=True)


def compare_at_equal_density(trials: pd.DataFrame, table: pd.DataFrame) -> pd.DataFrame:
    """Compare the accuracy of trials with what is usual at their density.

    Args:
        trials: The trials to compare.
        table: All trials of the study, which show what is usual.

    Returns:
        A row for each trial: name, label, schedule, iterations, sparsity and points (its accuracy minus what trials of
        equal density reach, in points).
    """
    points = analysis.accuracy_at_equal_density(table).reindex(trials.index)
    relative = trials.assign(points=points).dropna(subset=["points"])
    relative = relative.sort_values(["schedule", "iterations"], kind="stable", ignore_index=True)
    return relative[["name", "label", "schedule", "iterations", "sparsity", "points"]]


def average_in_bins(relative: pd.DataFrame) -> pd.DataFrame:
    """Average the points of each schedule over bins of iterations that hold equally many trials.

    Args:
        relative: The trials, as `compare_at_equal_density` returns them.

    Returns:
        A row for each bin: points (the mean), low, high, trials, iterations (the median in the bin) and schedule.
    """
    schedule_means = []
    for schedule, rows in relative.groupby("schedule"):
        count = min(MAX_BINS, max(1, len(rows) // 4), rows["iterations"].nunique())
        bins = pd.qcut(rows["iterations"], count, labels=False, duplicates="drop")
        means = _summarize_groups(rows.assign(part=bins), ["part"], "points")
        means["iterations"] = rows.groupby(bins)["iterations"].median().to_numpy()
        schedule_means.append(means.assign(schedule=schedule).drop(columns="part"))
    return pd.concat(schedule_means, ignore_index=True).rename(columns={"mean": "points"})


def compare_methods(results: Results) -> tuple[pd.DataFrame, bool]:
    """Compare methods over sparsity.

    Args:
        results: The results, as `numbers.prepare_trials` returns them.

    Returns:
        The table with label, density, sparsity, mean, low and high; and whether densities are repeated. Where they are,
        a row is the mean over the trials of a label and requested density, with their number in trials, and collapsed
        trials count with their logged value. Else a row is a trial of the label's own front, with its name, and trials
        is 1.
    """
    counted = select_plottable(results.trials[results.trials["outcome"].isin(analysis.COUNTED_OUTCOMES)])
    if has_repeated_densities(counted, limit=20):
        means = _summarize_groups(
            counted.assign(density=choose_requested_densities(counted)), ["label", "density"], "reached"
        )
        return _order_by_sparsity(means), True
    fronts = [select_front_by_density(rows, results.way) for _, rows in counted.groupby("label")]
    means = pd.concat([rows for rows in fronts if len(rows)] or [counted.iloc[:0]])
    means = means[["label", "density", "reached", "low", "high", "name"]].rename(columns={"reached": "mean"})
    return _order_by_sparsity(means.assign(trials=1)), False


def _order_by_sparsity(means: pd.DataFrame) -> pd.DataFrame:
    ordered = means.sort_values(["label", "density"], ascending=[True, False], kind="stable", ignore_index=True)
    ordered.insert(1, "sparsity", (1 - ordered["density"]).round(12))
    return ordered


def _summarize_groups(rows: pd.DataFrame, by: Sequence[str], value: str) -> pd.DataFrame:
    """Return a row for each group: its keys, mean, low and high (Student's 95 % interval) and trials (their number)."""
    summaries = [
        (*key, *analysis.student_interval(group.to_numpy(float)), len(group))
        for key, group in rows.groupby(list(by))[value]
    ]
    return pd.DataFrame(summaries, columns=[*by, "mean", "low", "high", "trials"])


def split_by_network(front: pd.DataFrame, layers: Mapping[str, list[dict[str, Any]]]) -> list[tuple[str, pd.DataFrame]]:
    """Split the layers of the front by network.

    Runs whose layers have the same names and shapes have the same network.

    Args:
        front: The trials of the front.
        layers: The rows of layers.json by run id.

    Returns:
        The name of each network, and a row for each point and layer: name, label, sparsity, layer, kept, weights and
        density. Points are sorted by rising sparsity, layers are in the order of the network.
    """
    groups: dict[str, list[pd.DataFrame]] = {}
    names: dict[str, str] = {}
    for row in front.sort_values("density", ascending=False, kind="stable").to_dict("records"):
        if rows := layers.get(row["run_id"]):
            key = str([(layer["layer"], layer["shape"]) for layer in rows])
            names.setdefault(key, str(row.get("model", "the network")))
            groups.setdefault(key, []).append(_tabulate_layers(row, rows))
    return [(names[key], pd.concat(tables, ignore_index=True)) for key, tables in groups.items()]


def _tabulate_layers(row: Mapping[Any, Any], layers: Sequence[Mapping[str, Any]]) -> pd.DataFrame:
    table = pd.DataFrame(layers)[["layer", "kept", "weights"]]
    table["layer"] = [format_layer_label(layer) for layer in layers]
    trial_columns = {"name": row["name"], "label": row["label"], "sparsity": row["sparsity"]}
    density = table["kept"].to_numpy() / np.maximum(table["weights"].to_numpy(), 1)
    return table.assign(**trial_columns, density=density)[
        ["name", "label", "sparsity", "layer", "kept", "weights", "density"]
    ]


def format_layer_label(layer: Mapping[str, Any]) -> str:
    """Return a layer's name; a layer without a name of its own, as in nn.Sequential, also gets its kind and shape."""
    name = str(layer["layer"]).removesuffix(".weight")
    if not all(component.isdigit() for component in name.split(".")):
        return name
    outputs, inputs, *kernel = layer["shape"]
    kind = f"convolution {'x'.join(map(str, kernel))}" if kernel else "linear"
    return f"{name}: {kind}, {inputs} to {outputs}"


def find_empty_layers(network: pd.DataFrame) -> dict[str, list[str]]:
    """Return the layers that have no weight, with the names of the trials in which they have none."""
    rows = network[network["kept"] == 0]
    return {str(layer): layer_rows["name"].tolist() for layer, layer_rows in rows.groupby("layer", sort=False)}
