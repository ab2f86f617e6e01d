"""What the page says of a study in numbers: tables in, tables out."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import pandas as pd

from forcetune import analysis
from forcetune.spec import method_label

ENDED = ("trained", "stopped", "collapsed", "infeasible", "failed")  # in the order in which they are told
TWINS = ("random_uniform", "random_erk", "tuned_random")  # arms of comparisons
SPARSE = ("density", "sparsity")
RUNNING = "running"
CURVES = 200
EPOCHS = 100  # values of a curve
COLUMNS = 40  # front points in the heat map


def trials(table: pd.DataFrame) -> pd.DataFrame:
    """The table of a study, a row a trial, with what the page calls things by: the front first, by rising sparsity.

    Columns besides: label (the method and its controls), reached (what counts of `.attrs["quality"]`: the mean over
    fresh seeds where there are any), low, high (its 95 % interval, NaN without), on_front, and of points on the front
    beaten_by and beaten_at, as `analysis.beaten` says. density and sparsity are
    there and positive or NaN; outcome is `running` where a trial has not ended. `.attrs` besides: quality and way.
    """
    attrs = dict(table.attrs)
    quality, way = analysis.quality(table)
    found = table.reset_index(drop=True)
    found["label"] = [
        _label({name: value for name, value in row.items() if not pd.isna(value)}) for row in found.to_dict("records")
    ]
    found["outcome"] = found["outcome"].astype(object).where(found["outcome"].notna(), RUNNING)
    density = _numbers(found, "density")
    found["density"] = density.where(density > 0)
    found["sparsity"] = (1 - found["density"]).round(12)
    found["reached"] = _numbers(found, f"{quality}_mean").fillna(_numbers(found, quality))
    for side in ("low", "high"):
        found[side] = _numbers(found, f"{quality}_{side}")
    found.attrs = attrs
    front = analysis.front(found, attrs["objectives"])
    found["on_front"] = found.index.isin(front.index)
    found = found.join(analysis.beaten(front, found))
    found = found.sort_values(["on_front", "sparsity"], ascending=[False, True], kind="stable", ignore_index=True)
    found.attrs = {**attrs, "quality": quality, "way": way}
    return found


def _label(row: Mapping[Any, Any]) -> str:
    known = {name: value for name, value in row.items() if not pd.isna(value)}
    return method_label(known) if "method" in known else "unknown"


def _numbers(table: pd.DataFrame, name: str) -> pd.Series:
    """A column as floats, NaN where there is none."""
    if name not in table:
        return pd.Series(np.nan, index=table.index, dtype=float)
    column = pd.to_numeric(table[name], errors="coerce").astype(float)
    return column.where(np.isfinite(column))


def counts(trials: pd.DataFrame) -> dict[str, int]:
    """How many trials ended how, those that run last."""
    found = trials["outcome"].value_counts()
    order = [*ENDED, *(str(name) for name in found.index if name not in (*ENDED, RUNNING)), RUNNING]
    return {name: int(found[name]) for name in order if name in found}


def on_main_axes(trials: pd.DataFrame) -> bool:
    """Whether the front is one of sparsity against what is reached, so that it is a line in the main figure."""
    others = {*trials.attrs["objectives"]} - {*SPARSE, trials.attrs["quality"]}
    return not others


def plotted(trials: pd.DataFrame, x: str = "density", y: str = "reached") -> pd.DataFrame:
    """The trials that have a place in a figure."""
    return trials.dropna(subset=[x, y])


def control_front(trials: pd.DataFrame) -> pd.DataFrame:
    """The trained controls that no other one is at least as sparse and as good as, by density."""
    return best_by_density(trials[analysis.is_control(trials)], trials.attrs["way"])


def twins(companions: pd.DataFrame, quality: str) -> pd.DataFrame:
    """What random pruning reaches as a champion's twin, a row an arm and density: mean, low, high over seeds, seeds.

    companions: the table of a study's companions, perhaps empty, of which those count that `baseline` compared.
    """
    columns = ["arm", "density", "mean", "low", "high", "seeds"]
    if not {"arm", quality} <= set(companions):
        return pd.DataFrame(columns=columns)
    own = companions["outcome"].isin(analysis.COUNTED) & companions["arm"].isin(TWINS)
    groups = companions[own].dropna(subset=[quality]).groupby(["arm", "density"])[quality]
    rows = [(*key, *analysis.interval(sample.to_numpy(float)), len(sample)) for key, sample in groups]
    return pd.DataFrame(rows, columns=columns)


def is_random_label(label: str) -> bool:
    """Whether that is random pruning; a method whose mask was shuffled is not."""
    return label.startswith("random") and "+" not in label and ":" not in label


def best_by_density(trials: pd.DataFrame, way: str) -> pd.DataFrame:
    """The front of density against what is reached among trained trials, by falling density."""
    trained = plotted(trials[trials["outcome"] == "trained"])
    if not len(trained):
        return trained
    kept = analysis.non_dominated(trained[["density", "reached"]].to_numpy(float), ["min", way])
    return trained[kept].sort_values("density", ascending=False, kind="stable")


def references(trials: pd.DataFrame) -> tuple[dict[str, float], list[str]]:
    """The worst value of each objective that counts, and those of which only the worst value found is known."""
    known = {name: float(value) for name, value in trials.attrs.get("references", {}).items() if value is not None}
    found: dict[str, float] = {}
    for name, way in trials.attrs["objectives"].items():
        values = _numbers(trials, name)
        found[name] = known.get(name, float(values.min() if way == "max" else values.max()))
    return found, [name for name in found if name not in known]


def growth(trials: pd.DataFrame) -> pd.DataFrame:
    """The hypervolume wherever it grew, in the order in which trials ended, and at the end.

    Columns: trials (ended so far), device_hours (spent on them, in sum), hypervolume, name (of the trial). Values count
    as the search saw them, each from one seed.
    """
    columns = ["trials", "device_hours", "hypervolume", "name"]
    objectives = trials.attrs["objectives"]
    ended = trials[trials["outcome"] != RUNNING]
    if not set(objectives) <= set(trials):
        return pd.DataFrame(columns=columns)
    ended = ended.sort_values("ended", kind="stable") if "ended" in ended else ended
    hours = _numbers(ended, "device_seconds").fillna(0).cumsum().to_numpy() / 3600
    values = np.column_stack([_numbers(ended, name) for name in objectives]) if len(ended) else np.empty((0, 0))
    counts = (ended["outcome"] == "trained").to_numpy() & ~np.isnan(values).any(axis=1)
    names = ended["name"].to_numpy() if "name" in ended else np.full(len(ended), "")
    rows = [
        (place + 1, hours[place], volume, names[place])
        for place, volume in _volumes(values, counts, objectives, references(trials)[0])
    ]
    if rows and rows[-1][0] < len(ended):
        rows.append((len(ended), hours[-1], rows[-1][2], ""))
    return pd.DataFrame(rows, columns=columns)


def _volumes(
    values: np.ndarray, counts: np.ndarray, objectives: Mapping[str, str], origin: Mapping[str, float]
) -> Iterable[tuple[int, float]]:
    """The places at which the hypervolume grew, and to what."""
    front, volume = np.empty((0, len(objectives))), 0.0
    for place in np.flatnonzero(counts):
        tried = np.vstack([front, values[place]])
        kept = analysis.non_dominated(tried, list(objectives.values()))
        front = tried[kept]
        if kept[-1] and (grown := analysis.hypervolume(front, objectives, origin)) > volume:
            volume = grown
            yield int(place), volume


def spread(front: pd.DataFrame, most: int = COLUMNS) -> pd.DataFrame:
    """At most so many points of a front, from end to end, sorted by sparsity."""
    ordered = front.sort_values("density", ascending=False, kind="stable")
    return ordered.iloc[_evenly(len(ordered), most)]


def _evenly(count: int, most: int) -> np.ndarray:
    """At most so many of `count` places, from the first to the last."""
    return np.unique(np.linspace(0, count - 1, max(0, min(most, count))).round().astype(int))


def drawn(trials: pd.DataFrame, most: int = CURVES) -> pd.DataFrame:
    """The trials whose learning curves are drawn: the front's first, the others evenly over sparsity."""
    known = trials[~trials["outcome"].isin(["collapsed", "infeasible"])]
    front = spread(known[known["on_front"]], most)
    others = known[~known["on_front"]]
    return pd.concat([others.iloc[_evenly(len(others), most - len(front))], front])


def thinned(curves: pd.DataFrame, most: int = EPOCHS) -> pd.DataFrame:
    """Curves of at most about so many values each; the first and the last stay."""
    longest = int(curves.groupby("run_id").size().max())
    every = -(-longest // most)
    place = curves.groupby("run_id").cumcount()
    last = curves.groupby("run_id").cumcount(ascending=False) == 0
    return curves[(place % every == 0) | last]
