"""Which fields a study varied, and how much hangs on each."""

from __future__ import annotations

import numpy as np
import pandas as pd

from forcetune.analysis.questions import quality

ON_AXES = ("method", "density", "invert", "shuffle", "reinit", "small_dense")  # told by the label and the sparsity
GROUPS = 4  # into which the values of a range are put


def varied(table: pd.DataFrame) -> list[str]:
    """The fields that differ between those trials that have them, but for what the label and the sparsity tell."""
    fields = [name for name in table.attrs.get("fields", []) if name in table]
    return [name for name in fields if name not in ON_AXES and table[name].dropna().astype(str).nunique() > 1]


def by_spread(table: pd.DataFrame) -> list[str]:
    """The same fields, those first whose values have means of the quality that lie farthest apart.

    The measure is the share of the variance that lies between groups of trials, each with one value, or with a quarter
    of a range; density is not held fixed, as this is an order of columns and no finding (`effects` and `importance`
    are).
    """
    column, _ = quality(table)
    names = varied(table)
    if column not in table:
        return names
    known = table[table[column].notna()]
    return sorted(names, key=lambda name: -_share_between(pd.Series(known[name]), known[column].astype(float)))


def _share_between(field: pd.Series, values: pd.Series) -> float:
    if pd.api.types.is_numeric_dtype(field) and field.nunique() > 2 * GROUPS:
        groups = field.astype(float).rank(pct=True).mul(GROUPS).apply(np.ceil).astype(str)
    else:
        groups = field.astype(str)
    total = float(((values - values.mean()) ** 2).sum())
    means = values.groupby(groups).transform("mean")
    return float(((means - values.mean()) ** 2).sum()) / total if total else 0.0
