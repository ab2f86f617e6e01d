"""The three figures of the FORCE paper in numbers: iterations and schedules, methods over sparsity, layers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from forcetune import analysis
from forcetune.report.numbers import best_by_density, plotted

FEW = 6  # densities that are shown beside one another
REPEATS = 3  # trials a density, beyond which densities count as repeated
BINS = 6
DIGITS = 3  # of densities that count as the same: asked for they are, and rounded to whole weights


def rounded(density: pd.Series) -> pd.Series:
    """Densities to so many digits, by which equal ones are found."""
    return density.map(lambda value: float(f"{value:.{DIGITS}g}"))


def of_iterations(trials: pd.DataFrame) -> pd.DataFrame:
    """Trials that have iterations and counted, where at least two numbers of iterations were tried; else none."""
    if "iterations" not in trials:
        return trials.iloc[:0]
    told = plotted(trials[trials["outcome"].isin(analysis.COUNTED)]).dropna(subset=["iterations"])
    schedule = told["schedule"] if "schedule" in told else pd.Series("", index=told.index)
    told = told.assign(iterations=told["iterations"].astype(int), schedule=schedule.fillna("").astype(str))
    told.attrs = trials.attrs
    return told if told["iterations"].nunique() > 1 else told.iloc[:0]


def repeats(trials: pd.DataFrame, most: int = FEW) -> bool:
    """Whether few densities were tried, each several times, as in a grid."""
    known = rounded(trials["density"].dropna()).nunique()
    return 0 < known <= most and known * REPEATS <= len(trials)


def by_iterations(trials: pd.DataFrame) -> pd.DataFrame:
    """What is reached by sparsity, density, label, schedule and iterations: mean, low, high and trials of each."""
    told = trials.assign(density=rounded(trials["density"]))
    found = _means(told, ["density", "label", "schedule", "iterations"], "reached")
    found.insert(0, "sparsity", (1 - found["density"]).round(12))
    return found.sort_values(["sparsity", "label", "schedule", "iterations"], kind="stable", ignore_index=True)


def relative_to_density(trials: pd.DataFrame, table: pd.DataFrame) -> pd.DataFrame:
    """name, label, schedule, iterations and points: accuracy less what trials of like density reach, in points."""
    points = analysis.at_equal_density(table).reindex(trials.index)
    told = trials.assign(points=points).dropna(subset=["points"])
    told = told.sort_values(["schedule", "iterations"], kind="stable", ignore_index=True)
    return told[["name", "label", "schedule", "iterations", "sparsity", "points"]]


def in_bins(relative: pd.DataFrame) -> pd.DataFrame:
    """Means by schedule over bins of iterations that hold equally many trials: points, low, high, trials, iterations.

    iterations: the median of a bin's.
    """
    found = []
    for schedule, rows in relative.groupby("schedule"):
        count = min(BINS, max(1, len(rows) // 4), rows["iterations"].nunique())
        part = pd.qcut(rows["iterations"], count, labels=False, duplicates="drop")
        means = _means(rows.assign(part=part), ["part"], "points")
        means["iterations"] = rows.groupby(part)["iterations"].median().to_numpy()
        found.append(means.assign(schedule=schedule).drop(columns="part"))
    return pd.concat(found, ignore_index=True).rename(columns={"mean": "points"})


def side_by_side(trials: pd.DataFrame) -> tuple[pd.DataFrame, bool]:
    """Methods over sparsity: label, density, sparsity, mean, low, high, trials; and whether densities repeat.

    Where they do: the mean over the trials of a label and density, collapsed ones counted as they are logged. Else
    each label's own front, a trial a row.
    """
    told = plotted(trials[trials["outcome"].isin(analysis.COUNTED)])
    if repeats(told, most=20):
        found = _means(told.assign(density=rounded(told["density"])), ["label", "density"], "reached")
        return _over_sparsity(found), True
    fronts = [best_by_density(rows, trials.attrs["way"]) for _, rows in told.groupby("label")]
    found = pd.concat([rows for rows in fronts if len(rows)] or [told.iloc[:0]])
    found = found[["label", "density", "reached", "low", "high", "name"]].rename(columns={"reached": "mean"})
    return _over_sparsity(found.assign(trials=1)), False


def _over_sparsity(found: pd.DataFrame) -> pd.DataFrame:
    told = found.sort_values(["label", "density"], ascending=[True, False], kind="stable", ignore_index=True)
    told.insert(1, "sparsity", (1 - told["density"]).round(12))
    return told


def _means(rows: pd.DataFrame, by: Sequence[str], value: str) -> pd.DataFrame:
    """A row a group: its keys, mean, low, high (Student's 95 % interval, NaN for one) and trials."""
    told = [
        (*key, *analysis.interval(group.to_numpy(float)), len(group)) for key, group in rows.groupby(list(by))[value]
    ]
    return pd.DataFrame(told, columns=[*by, "mean", "low", "high", "trials"])


def networks(front: pd.DataFrame, layers: Mapping[str, list[dict[str, Any]]]) -> list[tuple[str, pd.DataFrame]]:
    """For each network on the front its name and a row a point and layer: name, label, sparsity, layer, kept, weights.

    Points by rising sparsity, layers in the network's order. Runs whose layers have the same names and shapes have the
    same network.
    """
    groups: dict[str, list[pd.DataFrame]] = {}
    named: dict[str, str] = {}
    for row in front.sort_values("density", ascending=False, kind="stable").to_dict("records"):
        if rows := layers.get(row["run_id"]):
            key = str([(layer["layer"], layer["shape"]) for layer in rows])
            named.setdefault(key, str(row.get("model", "the network")))
            groups.setdefault(key, []).append(_layer_rows(row, rows))
    return [(named[key], pd.concat(found, ignore_index=True)) for key, found in groups.items()]


def _layer_rows(row: Mapping[Any, Any], layers: Sequence[Mapping[str, Any]]) -> pd.DataFrame:
    found = pd.DataFrame(layers)[["layer", "kept", "weights"]]
    found["layer"] = [layer_label(layer) for layer in layers]
    told = {"name": row["name"], "label": row["label"], "sparsity": row["sparsity"]}
    density = found["kept"].to_numpy() / np.maximum(found["weights"].to_numpy(), 1)
    return found.assign(**told, density=density)[["name", "label", "sparsity", "layer", "kept", "weights", "density"]]


def layer_label(layer: Mapping[str, Any]) -> str:
    """A layer's name; of one that its network only counts, as nn.Sequential does, also its kind and shape."""
    name = str(layer["layer"]).removesuffix(".weight")
    if not all(part.isdigit() for part in name.split(".")):
        return name
    outputs, inputs, *kernel = layer["shape"]
    kind = f"convolution {'x'.join(map(str, kernel))}" if kernel else "linear"
    return f"{name}: {kind}, {inputs} to {outputs}"


def emptied(network: pd.DataFrame) -> dict[str, list[str]]:
    """The layers without a weight, and the trials in which they have none."""
    rows = network[network["kept"] == 0]
    return {str(layer): found["name"].tolist() for layer, found in rows.groupby("layer", sort=False)}
