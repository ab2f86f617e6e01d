"""The fields that a study varies, and how much of the quality depends on each."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd

from forcetune.analysis.questions import choose_quality

# fields that a trial's label and its sparsity show
LABEL_FIELDS = ("method", "density", "granularity", "invert", "shuffle", "reinit", "small_dense")
VALUE_GROUPS = 4  # into which the values of a range are put


def find_varied_fields(table: pd.DataFrame, fields: Sequence[str]) -> list[str]:
    """Return the fields that differ between trials, without those that a trial's label and sparsity show.

    Args:
        table: Trials, as `Results.trials` has them.
        fields: The names of the fields.
    """
    candidates = [name for name in fields if name in table and name not in LABEL_FIELDS]
    return [name for name in candidates if table[name].dropna().astype(str).nunique() > 1]


def rank_varied_fields(table: pd.DataFrame, fields: Sequence[str], objectives: Mapping[str, str]) -> list[str]:
    """Return the varied fields in the order of how far the means of the quality of their values lie apart.

    The measure is the share of the variance that lies between groups of trials. A group has one value, or a quarter of
    a range. Density is not held fixed, since this is an order of columns and no finding (`effects` and `importance`
    are).

    Args:
        table: Trials, as `Results.trials` has them.
        fields: The names of the fields.
        objectives: Objective to `max` or `min`.
    """
    column, _ = choose_quality(objectives)
    names = find_varied_fields(table, fields)
    if column not in table:
        return names
    trials = table[table[column].notna()]
    return sorted(names, key=lambda name: -_share_between(pd.Series(trials[name]), trials[column].astype(float)))


def _share_between(field: pd.Series, values: pd.Series) -> float:
    """Return the share of the variance of the values that lies between groups of the field, from 0 to 1."""
    if pd.api.types.is_numeric_dtype(field) and field.nunique() > 2 * VALUE_GROUPS:
        groups = field.astype(float).rank(pct=True).mul(VALUE_GROUPS).apply(np.ceil).astype(str)
    else:
        groups = field.astype(str)
    total = float(((values - values.mean()) ** 2).sum())
    means = values.groupby(groups).transform("mean")
    return float(((means - values.mean()) ** 2).sum()) / total if total else 0.0
