"""Questions for one configuration: what meets conditions, is most accurate, is at the knee, or is as good as dense."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from forcetune.analysis.fronts import collapses_mostly, objective_column, scale_objectives
from forcetune.analysis.paired import student_interval
from forcetune.errors import InputError
from forcetune.names import suggestion

CONDITION_PATTERN = re.compile(r"\s*([A-Za-z_]\w*)\s*(<=|>=|!=|==|=|<|>)\s*([^<>=!\s].*?)\s*")
NUMBER_SUFFIXES = {"k": 1e3, "K": 1e3, "M": 1e6, "G": 1e9, "%": 1e-2}
# 1 - density is not exact in floating point: a density of 0.05 is a sparsity of at least 0.95.
BOUND_TOLERANCE = 1e-12
NETWORK_COLUMNS = ("study", "dataset", "train_samples", "model", "width")  # trials that share these prune one network
_COMPARISONS: dict[str, Callable[[pd.Series, float], pd.Series]] = {
    "<": lambda column, bound: column < bound - BOUND_TOLERANCE,
    "<=": lambda column, bound: column <= bound + BOUND_TOLERANCE,
    ">": lambda column, bound: column > bound + BOUND_TOLERANCE,
    ">=": lambda column, bound: column >= bound - BOUND_TOLERANCE,
    "=": lambda column, bound: (column - bound).abs() <= BOUND_TOLERANCE,
    "!=": lambda column, bound: (column - bound).abs() > BOUND_TOLERANCE,
}


def where(table: pd.DataFrame, conditions: Sequence[str]) -> pd.DataFrame:
    """Return the rows that meet all conditions.

    A condition is the name of a column, one of < <= > >= = !=, and a number or a word: `macs<10M`,
    `effective_density<=0.5%`, `method=force`. Several words are separated by commas: `model=mlp,lenet5`. An objective
    counts by its mean over fresh seeds where the trial has one. A row without a value in the column meets no condition.

    Args:
        table: Trials, as `Results.trials` has them.
        conditions: The conditions.

    Raises:
        InputError: A condition cannot be read, or names a column or a word that the table does not have.
    """
    rows = table
    for condition in conditions:
        rows = _filter_rows(rows, condition, table)
    return rows


def top(table: pd.DataFrame, objectives: Mapping[str, str], count: int) -> pd.DataFrame:
    """Return the best trained trials, by accuracy, or else by the objective that `choose_quality` returns.

    A trial of which more than half of the fresh seeds collapsed is left out, as from a front.

    Args:
        table: Trials, as `Results.trials` has them.
        objectives: Objective to `max` or `min`.
        count: The number of trials.
    """
    name, direction = choose_quality(objectives)
    column = objective_column(table, name)
    if column not in table:
        return table.iloc[:0]
    trained = table[(table["outcome"] == "trained") & ~collapses_mostly(table)].dropna(subset=[column])
    return trained.sort_values([column, "sparsity"], ascending=[direction == "min", False], kind="stable").head(count)


def choose_quality(objectives: Mapping[str, str]) -> tuple[str, str]:
    """Return the objective by which a network counts as good, and `max` or `min`.

    It is the validation accuracy, or else the first objective that is maximised, or else the first one; density and
    sparsity are left out.

    Args:
        objectives: Objective to `max` or `min`.
    """
    candidates = {name: direction for name, direction in objectives.items() if name not in ("density", "sparsity")}
    if "val_accuracy" in candidates or not candidates:
        return "val_accuracy", candidates.get("val_accuracy", "max")
    return next(
        ((name, direction) for name, direction in candidates.items() if direction == "max"),
        next(iter(candidates.items())),
    )


def ask_by_value(table: pd.DataFrame, field: str, ask: Callable[[pd.DataFrame], pd.DataFrame]) -> pd.DataFrame:
    """Return the answer to a question for each value of a field: the front of each method, model or study.

    Args:
        table: Trials, as `Results.trials` has them.
        field: The column whose values divide the trials.
        ask: The question: takes trials and returns some of their rows.

    Raises:
        InputError: The table has no such column.
    """
    selections = [ask(group) for _, group in table.groupby(_check_column(table, field), sort=True)]
    return pd.concat(selections) if selections else table.iloc[:0]


def knee(front: pd.DataFrame, objectives: Mapping[str, str]) -> pd.DataFrame:
    """Return the knee of a front: the point beyond which more of one objective costs most of the others.

    Each objective is scaled to 0 (the best on the front) and 1 (the worst), densities by their logarithm. The knee is
    the point farthest below the plane through the points that are best in one objective each, which is the point with
    the smallest sum. Das, On characterizing the "knee" of the Pareto curve based on normal-boundary intersection, 1999.

    Args:
        front: A front, as `front` gives it.
        objectives: Objective to `max` or `min`.

    Returns:
        One row; none where the front has fewer than three points.
    """
    if len(front) < 3:
        return front.iloc[:0]
    signs = np.array([-1 if direction == "max" else 1 for direction in objectives.values()])
    values = front[[objective_column(front, name) for name in objectives]].to_numpy(float)
    losses = scale_objectives(values, objectives) * signs
    span = np.ptp(losses, axis=0)
    scaled = (losses - losses.min(0)) / np.where(span > 0, span, 1)
    position = int(scaled.sum(1).argmin())
    return front.iloc[position : position + 1]


def find_landmarks(front: pd.DataFrame, objectives: Mapping[str, str]) -> dict[str, str]:
    """Return the landmarks of a front: its knee, its sparsest network and its most accurate one.

    Args:
        front: A front, as `front` gives it.
        objectives: Objective to `max` or `min`; the most accurate network is the best by `choose_quality`.

    Returns:
        The ids of the runs by `knee`, `sparsest` and `most-accurate`; without `knee` where the front has none, and
        nothing where the front is empty.
    """
    rows = {
        "knee": knee(front, objectives),
        "sparsest": front.sort_values("sparsity", kind="stable").tail(1) if "sparsity" in front else front.iloc[:0],
        "most-accurate": top(front, objectives, 1) if len(front) else front,
    }
    return {landmark: str(row["run_id"].iloc[0]) for landmark, row in rows.items() if len(row)}


def near_dense(table: pd.DataFrame, dense: pd.DataFrame, points: float = 1.0) -> pd.DataFrame:
    """Return for each network the sparsest trained trial whose validation accuracy is near the dense network's.

    Args:
        table: Trials, as `Results.trials` has them.
        dense: Dense runs, as `Results.dense` has them.
        points: How far below the dense network's accuracy a trial may lie, in points (hundredths of accuracy).

    Returns:
        A row for each network that has dense runs, with the further columns dense_accuracy, dense_low, dense_high,
        dense_seeds (as `summarize_dense` gives them), and below (by how many points the trial lies below).

    Raises:
        InputError: There are no dense runs at all.
    """
    accuracy = objective_column(table, "val_accuracy")
    summary = summarize_dense(dense, "val_accuracy")
    if not len(summary):
        raise InputError(
            "no dense run has a val_accuracy to compare with; `forcetune baseline STUDY --dense 3` trains the networks "
            "of a study without pruning"
        )
    if accuracy not in table:
        return table.iloc[:0]
    network = [name for name in NETWORK_COLUMNS if name in table and name in summary]
    sparsest: list[pd.DataFrame] = []
    for row in summary.to_dict("records"):
        same = have_same_values(table, row, network)
        trained = table[same & (table["outcome"] == "trained") & ~collapses_mostly(table)]
        below = 100 * (row["mean"] - trained[accuracy])
        columns = {f"dense_{name}": row[name] for name in ("low", "high", "seeds")}
        near = trained.assign(dense_accuracy=row["mean"], **columns, below=below)[
            below <= points + 100 * BOUND_TOLERANCE
        ]
        sparsest.append(near.sort_values(["sparsity", accuracy], kind="stable").tail(1))
    return pd.concat(sparsest)


def summarize_dense(dense: pd.DataFrame, metric: str) -> pd.DataFrame:
    """Return the mean of a metric over the dense runs of each network.

    Where a network has runs with several settings, the setting with the highest mean counts.

    Args:
        dense: Dense runs, as `Results.dense` has them.
        metric: The name of the metric.

    Returns:
        A row for each network: the columns that tell networks apart (NETWORK_COLUMNS), mean, low and high (Student's
        95 % interval of the mean, NaN for one run), and seeds.
    """
    network = [name for name in NETWORK_COLUMNS if name in dense]
    columns = [*network, "mean", "low", "high", "seeds"]
    if not len(dense) or metric not in dense:
        return pd.DataFrame(columns=columns)
    rows = []
    for key, runs in dense.dropna(subset=[metric]).groupby(network, dropna=False):
        samples = [sample.to_numpy(float) for _, sample in runs.groupby("of")[metric]]
        highest = max(samples, key=lambda sample: float(sample.mean()))
        rows.append((*key, *student_interval(highest), len(highest)))
    return pd.DataFrame(rows, columns=columns)


def have_same_values(table: pd.DataFrame, row: Mapping[Any, Any] | pd.Series, names: Sequence[str]) -> np.ndarray:
    """Return which rows of a table have the same values as another row; two absent values are the same.

    Args:
        table: The table.
        row: The other row.
        names: The columns to compare; columns that the table lacks are left out.

    Returns:
        A bool array of shape (n,).
    """
    same = np.ones(len(table), bool)
    for name in names:
        if name in table:
            column, value = table[name], row.get(name)
            same &= (column.isna() if pd.isna(value) else column == value).fillna(False).to_numpy(bool)
    return same


def _filter_rows(rows: pd.DataFrame, condition: str, table: pd.DataFrame) -> pd.DataFrame:
    """Return the rows that meet a condition.

    Args:
        rows: Rows of the table that meet the conditions before.
        condition: The condition.
        table: All trials, whose columns and words a condition may name.
    """
    match = CONDITION_PATTERN.fullmatch(condition)
    if not match:
        raise InputError(
            f"{condition!r} is not a condition; allowed: NAME<NUMBER (also <= > >= = !=) or NAME=WORD, such as "
            "macs<10M, effective_density<=0.5%, method=force,snip"
        )
    name, sign, text = match.groups()
    column = rows[_check_column(table, name)]
    if (mean := objective_column(table, name)) != name:
        column = rows[mean].fillna(column)  # a trial that was not trained to its end has no mean
    number = _parse_number(text)
    sign = "=" if sign == "==" else sign
    if number is not None and pd.api.types.is_numeric_dtype(column) and not pd.api.types.is_bool_dtype(column):
        return rows[_COMPARISONS[sign](column, number).fillna(False).astype(bool)]
    if sign not in ("=", "!="):
        raise InputError(
            f"{condition!r}: {name} has words as values, or {text!r} is not a number; allowed: {name}=, {name}!="
        )
    wanted = [word.strip() for word in text.split(",")]
    words = sorted(set(table[name].dropna().map(_to_word)))
    if unknown := [word for word in wanted if word not in words]:
        near = suggestion(unknown[0], words)
        raise InputError(f"no trial has {name}={unknown[0]}{near}; values: {', '.join(words)}")
    same = column.map(_to_word).isin(wanted)
    return rows[(same if sign == "=" else ~same) & column.notna()]


def _check_column(table: pd.DataFrame, name: str) -> str:
    """Return the name of a column; refuse a name that the table does not have."""
    if name not in table:
        columns = sorted(column for column in map(str, table) if not column.endswith(("_mean", "_low", "_high")))
        raise InputError(
            f"the table has no column {name!r}{suggestion(name, columns)}; columns: "
            f"{', '.join(columns) or 'none, because there are no trials'}"
        )
    return name


def _to_word(value: object) -> str:
    return str(value).lower() if isinstance(value, bool | np.bool_) else str(value)


def _parse_number(text: str) -> float | None:
    factor = NUMBER_SUFFIXES.get(text[-1])
    try:
        return float(text[:-1]) * factor if factor else float(text)
    except ValueError:
        return None
