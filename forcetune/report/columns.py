"""Tables as columns of JSON: what a figure draws and its table shows is written once."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd

SHARES = {"density", "sparsity", "effective_density", "macs_fraction", "trained_macs_fraction", "front_probability"}
DIGITS = 6
REPEATED = 0.5  # share of values that are different, below which words are written once each


def encoded(frame: pd.DataFrame, labels: Mapping[str, str], kinds: Mapping[str, str]) -> list[dict[str, Any]]:
    """Each column: name, label, kind (share, chance, whole, number, points, words, flag) and its values.

    These are `constant`, or `levels` with a `codes` a row, or `values`. labels: headings, where they are not the names;
    kinds: where they do not follow from name and type.
    """
    return [
        {
            "name": str(name),
            "label": labels.get(str(name), heading(str(name))),
            "kind": kinds.get(str(name)) or kind(str(name), frame[name]),
            **_values(frame[name]),
        }
        for name in frame
    ]


def heading(name: str) -> str:
    """A column's name in words."""
    words = name.replace("_", " ")
    return f"validation {words[4:]}" if words.startswith("val ") else words


def kind(name: str, column: pd.Series) -> str:
    """How the values of a column are told."""
    if pd.api.types.is_bool_dtype(column):
        return "flag"
    if not pd.api.types.is_numeric_dtype(column):
        return "words"
    if is_share(name):
        return "share"
    known = column.dropna()
    return "whole" if (known == known.round()).all() else "number"


def is_share(name: str) -> bool:
    """Whether a metric lies between 0 and 1 and is told in percent."""
    return name in SHARES or "accuracy" in name


def _values(column: pd.Series) -> dict[str, Any]:
    values = [value_of(value) for value in column.tolist()]
    levels = list(dict.fromkeys(values))
    if len(levels) == 1:
        return {"constant": values[0]}
    if any(isinstance(value, str) for value in levels) and len(levels) < REPEATED * len(values):
        places = {level: place for place, level in enumerate(levels)}
        return {"levels": levels, "codes": [places[value] for value in values]}
    return {"values": values}


def value_of(value: Any) -> Any:
    """A value as JSON knows it, numbers to so many digits; None where there is none."""
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
    return float(f"{value:.{DIGITS}g}")
