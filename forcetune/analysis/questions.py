"""Which configuration: what meets conditions, the most accurate, the knee, the sparsest that is as good as dense."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence

import numpy as np
import pandas as pd

from forcetune.analysis.fronts import believed, best, on_axes
from forcetune.analysis.paired import interval
from forcetune.errors import InputError
from forcetune.names import suggestion

CONDITION = re.compile(r"\s*([A-Za-z_]\w*)\s*(<=|>=|!=|==|=|<|>)\s*([^<>=!\s].*?)\s*")
UNITS = {"k": 1e3, "K": 1e3, "M": 1e6, "G": 1e9, "%": 1e-2}
ROUNDING = 1e-12  # 1 - density is not exact in floating point: a density of 0.05 is a sparsity of at least 0.95
NETWORK = ("study", "dataset", "train_samples", "model", "width")  # trials that share these prune the same network
_COMPARED: dict[str, Callable[[pd.Series, float], pd.Series]] = {
    "<": lambda column, bound: column < bound - ROUNDING,
    "<=": lambda column, bound: column <= bound + ROUNDING,
    ">": lambda column, bound: column > bound + ROUNDING,
    ">=": lambda column, bound: column >= bound - ROUNDING,
    "=": lambda column, bound: (column - bound).abs() <= ROUNDING,
    "!=": lambda column, bound: (column - bound).abs() > ROUNDING,
}


def where(table: pd.DataFrame, conditions: Sequence[str]) -> pd.DataFrame:
    """The rows that meet all conditions, each a column, one of < <= > >= = != and a number or a word.

    `macs<10M`, `effective_density<=0.5%`, `method=force`; words may be several, with commas: `model=mlp,lenet5`.
    An objective counts by its mean over fresh seeds where there are any. A row without the column meets nothing.
    Raises InputError for what is no condition, and for a column that the table does not have.
    """
    found = table
    for condition in conditions:
        found = _meeting(found, condition, table)
    return found


def top(table: pd.DataFrame, count: int) -> pd.DataFrame:
    """The `count` best trials of those trained to their end, by accuracy, or else by `quality`."""
    name, way = quality(table)
    column = believed(table, name)
    if column not in table:
        return table.iloc[:0]
    trained = table[table["outcome"] == "trained"].dropna(subset=[column])
    return trained.sort_values([column, "sparsity"], ascending=[way == "min", False], kind="stable").head(count)


def quality(table: pd.DataFrame) -> tuple[str, str]:
    """The objective by which a network counts as good, and `max` or `min`: accuracy, or else the first one maximised,
    or the first, how sparse it is aside.
    """
    objectives: Mapping[str, str] = table.attrs["objectives"]
    known = {name: way for name, way in objectives.items() if name not in ("density", "sparsity")}
    if "val_accuracy" in known or not known:
        return "val_accuracy", known.get("val_accuracy", "max")
    return next(((name, way) for name, way in known.items() if way == "max"), next(iter(known.items())))


def each(table: pd.DataFrame, field: str, ask: Callable[[pd.DataFrame], pd.DataFrame] = best) -> pd.DataFrame:
    """What `ask` finds for each value of a field by itself: the front of each method, of each model, of each study.

    Raises InputError where the table has no such column.
    """
    column = _column(table, field)
    groups = [_with_attrs(group, table) for _, group in table.groupby(column, sort=True)]
    return _with_attrs(pd.concat([ask(group) for group in groups]) if groups else table.iloc[:0], table)


def knee(front: pd.DataFrame) -> pd.DataFrame:
    """The point of a front beyond which more of one objective costs most of the others; no row below three points.

    Objectives scaled to 0 (best on the front) and 1 (worst), densities by their logarithm: the point farthest below the
    plane through the points that are best in one objective each, which is the one of the smallest sum.
    Das, On characterizing the "knee" of the Pareto curve based on normal-boundary intersection, 1999.
    """
    objectives: Mapping[str, str] = front.attrs["objectives"]
    if len(front) < 3:
        return front.iloc[:0]
    signs = np.array([-1 if way == "max" else 1 for way in objectives.values()])
    values = front[[believed(front, name) for name in objectives]].to_numpy(float)
    losses = on_axes(values, objectives) * signs
    span = np.ptp(losses, axis=0)
    scaled = (losses - losses.min(0)) / np.where(span > 0, span, 1)
    place = int(scaled.sum(1).argmin())
    return front.iloc[place : place + 1]


def near_dense(table: pd.DataFrame, dense: pd.DataFrame, points: float = 1.0) -> pd.DataFrame:
    """Of each network the sparsest trained trial whose validation accuracy is within `points` of the dense network's.

    dense: dense runs, as `results.dense` gives them. Columns besides: dense_accuracy, dense_low, dense_high,
    dense_seeds (what `unpruned` says), and below (how many points it lies below). Networks without dense runs are left
    out. Raises InputError where there are no dense runs at all.
    """
    accuracy = believed(table, "val_accuracy")
    known = unpruned(dense, "val_accuracy")
    if not len(known):
        raise InputError(
            "no dense runs tell their val_accuracy, so that nothing can be said to be near them; `forcetune best STUDY "
            "--dense 3` runs the networks of a study with nothing pruned"
        )
    if accuracy not in table:
        return table.iloc[:0]
    network = [name for name in NETWORK if name in table and name in known]
    found = []
    for told in known.to_dict("records"):
        same = (table[network].apply(_filled) == _filled(pd.Series(told)[network])).all(axis=1)
        trained = table[same & (table["outcome"] == "trained")]
        below = 100 * (told["mean"] - trained[accuracy])
        reached = {f"dense_{name}": told[name] for name in ("low", "high", "seeds")}
        near = trained.assign(dense_accuracy=told["mean"], **reached, below=below)[below <= points + 100 * ROUNDING]
        found.append(near.sort_values(["sparsity", accuracy], kind="stable").tail(1))
    return _with_attrs(pd.concat(found), table)


def unpruned(dense: pd.DataFrame, metric: str) -> pd.DataFrame:
    """What networks reach with nothing pruned, a row each: what tells them apart (`NETWORK`), mean, low, high, seeds.

    dense: as `results.dense` gives them; low, high: Student's 95 % interval of the mean, NaN for one run. Where a
    network has runs with several settings, those that reach most count.
    """
    network = [name for name in NETWORK if name in dense]
    columns = [*network, "mean", "low", "high", "seeds"]
    if not len(dense) or metric not in dense:
        return pd.DataFrame(columns=columns)
    rows = []
    for key, runs in dense.dropna(subset=[metric]).groupby(network, dropna=False):
        samples = [sample.to_numpy(float) for _, sample in runs.groupby("of")[metric]]
        best = max(samples, key=lambda sample: float(sample.mean()))
        rows.append((*key, *interval(best), len(best)))
    return pd.DataFrame(rows, columns=columns)


def _filled(column: pd.Series) -> pd.Series:
    """What is absent is alike."""
    return column.astype(object).where(column.notna(), "")


def _meeting(found: pd.DataFrame, condition: str, table: pd.DataFrame) -> pd.DataFrame:
    """Those of the rows found so far that meet a condition; table: all, by which it makes sense."""
    written = CONDITION.fullmatch(condition)
    if not written:
        raise InputError(
            f"{condition!r} is no condition; allowed: NAME<NUMBER, also <= > >= = !=, or NAME=WORD, as macs<10M, "
            "effective_density<=0.5%, method=force,snip"
        )
    name, sign, text = written.groups()
    column = found[believed(table, _column(table, name))]
    number = _number(text)
    sign = "=" if sign == "==" else sign
    if number is not None and pd.api.types.is_numeric_dtype(column) and not pd.api.types.is_bool_dtype(column):
        return found[_COMPARED[sign](column, number).fillna(False).astype(bool)]
    if sign not in ("=", "!="):
        raise InputError(
            f"{condition!r}: {name} is told in words, or {text!r} is no number; allowed: {name}=, {name}!="
        )
    wanted = [word.strip() for word in text.split(",")]
    known = sorted(set(table[name].dropna().map(_word)))
    if unknown := [word for word in wanted if word not in known]:
        near = suggestion(unknown[0], known)
        raise InputError(f"no trial has the {name} {unknown[0]!r}{near}; there are: {', '.join(known)}")
    same = column.map(_word).isin(wanted)
    return found[(same if sign == "=" else ~same) & column.notna()]


def _column(table: pd.DataFrame, name: str) -> str:
    if name not in table:
        known = sorted(column for column in map(str, table) if not column.endswith(("_mean", "_low", "_high")))
        raise InputError(
            f"no trial has {name!r}{suggestion(name, known)}; there are: {', '.join(known) or 'no trials'}"
        )
    return name


def _word(value: object) -> str:
    return str(value).lower() if isinstance(value, bool | np.bool_) else str(value)


def _number(text: str) -> float | None:
    unit = UNITS.get(text[-1])
    try:
        return float(text[:-1]) * unit if unit else float(text)
    except ValueError:
        return None


def _with_attrs(found: pd.DataFrame, table: pd.DataFrame) -> pd.DataFrame:
    found.attrs = dict(table.attrs)
    return found
