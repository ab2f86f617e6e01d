"""Tables as columns of JSON, from which page.js draws figures and fills tables, so that each number is written once."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd

SHARE_METRICS = {
    "density",
    "sparsity",
    "effective_density",
    "requested_density",
    "macs_fraction",
    "trained_macs_fraction",
    "front_probability",
    "collapse_low",
    "collapse_high",
}
NUMBER_DIGITS = 6  # significant ones
LEVELS_BELOW_SHARE = 0.5  # the share of distinct values below which each word is written once, with a code a row


def encode_columns(frame: pd.DataFrame, labels: Mapping[str, str], kinds: Mapping[str, str]) -> list[dict[str, Any]]:
    """Encode a table as columns for JSON.

    Args:
        frame: The table.
        labels: The headings of columns whose heading does not follow from the name.
        kinds: The kinds of columns whose kind does not follow from the name and the type.

    Returns:
        For each column: name, label, kind (share, chance, whole, number, points, words or flag) and its values, which
        are `constant`, or `levels` with a `codes` a row, or `values`.
    """
    return [
        {
            "name": str(name),
            "label": labels.get(str(name), format_heading(str(name))),
            "kind": kinds.get(str(name)) or choose_kind(str(name), frame[name]),
            **_encode_values(frame[name]),
        }
        for name in frame
    ]


def format_heading(name: str) -> str:
    """Return the name of a column as words."""
    words = name.replace("_", " ")
    return f"validation {words[4:]}" if words.startswith("val ") else words


def choose_kind(name: str, column: pd.Series) -> str:
    """Choose the kind of a column, by which page.js formats its values."""
    if pd.api.types.is_bool_dtype(column):
        return "flag"
    if not pd.api.types.is_numeric_dtype(column):
        return "words"
    if is_share(name):
        return "share"
    values = column.dropna()
    return "whole" if (values == values.round()).all() else "number"


def is_share(name: str) -> bool:
    """Return whether a metric lies between 0 and 1, and is shown in percent."""
    return name in SHARE_METRICS or "accuracy" in name


def _encode_values(column: pd.Series) -> dict[str, Any]:
    values = [encode_value(value) for value in column.tolist()]
    levels = list(dict.fromkeys(values))
    if len(levels) == 1:
        return {"constant": values[0]}
    if any(isinstance(value, str) for value in levels) and len(levels) < LEVELS_BELOW_SHARE * len(values):
        codes = {level: code for code, level in enumerate(levels)}
        return {"levels": levels, "codes": [codes[value] for value in values]}
    return {"values": values}


def decode_values(column: Mapping[str, Any], count: int) -> list[Any]:
    """Return the values of a column that `encode_columns` encoded.

    Args:
        column: The column.
        count: The number of rows.
    """
    if "constant" in column:
        return [column["constant"]] * count
    if "levels" in column:
        return [column["levels"][code] for code in column["codes"]]
    return list(column["values"])


def encode_value(value: Any) -> Any:
    """Encode a value for JSON, a number with six significant digits; None where it is missing or not finite."""
    if isinstance(value, bool | np.bool_):
        return bool(value)
    if isinstance(value, str):
        return value
    if isinstance(value, list | dict | tuple):
        return str(value)
    if pd.isna(value) or not np.isfinite(value):
        return None
    if float(value).is_integer():
        return int(value)
    return float(f"{value:.{NUMBER_DIGITS}g}")
