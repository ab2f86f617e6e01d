"""The space that the trials of a study show, with the seed as a field: from rows of a table to rows of numbers."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from forcetune.analysis.belief import Field, Space
from forcetune.analysis.gaussian_process import Array

LEFT_OUT_FIELDS = ("density", "seed", "data_root", "layers_from")
MAX_CHOICES = 4  # values of a number, up to which it is a choice
LOGARITHMIC_RATIO = 4.0  # of the highest to the lowest value, from which a range is scaled by its logarithm
SIGNIFICANT_DIGITS = 3  # of a number between those of the trials
UNSEEN_SEEDS = ("an unseen seed", "another unseen seed")


class TrialSpace:
    """The space that trials show: choices have the values of the trials, ranges extend from the lowest to the highest.

    A field that some trials lack applies where the values of a choice say so. The seed is a choice whose last two
    values stand for seeds that no trial has.

    Args:
        trials: The trials; `density` is the first field.
        fields: The names of the fields of trials; those that vary count.
        seeds: The seeds of all runs, as `read_seeds` returns them.
        seed_weight: The prior median of 1 / (length scale)^2 of the seed.

    Attributes:
        space: The fields: density, the fields that vary, and the seed.
    """

    def __init__(self, trials: pd.DataFrame, fields: Sequence[str], seeds: Sequence[str], seed_weight: float) -> None:
        names = [name for name in fields if name not in LEFT_OUT_FIELDS and name in trials]
        self._values = {name: _list_values(trials[name]) for name in names}
        self._values = {name: values for name, values in self._values.items() if len(values) > 1}
        self._is_whole = {name: all(_is_whole(value) for value in self._values[name].values()) for name in self._values}
        density = trials["density"].astype(float)
        is_absent = {name: trials[name].map(is_absent_value).to_numpy(bool) for name in self._values}
        self._ranges = {name for name, values in self._values.items() if _is_range(values.values())}
        # Choices that always apply come first, the method before the others: conditions name them
        always = sorted((name for name in self._values if not is_absent[name].any()), key=lambda name: name != "method")
        parents = {name: np.array([*map(_to_text, trials[name])]) for name in always if name not in self._ranges}
        ordered = [*always, *(name for name in self._values if name not in always)]
        conditions = {name: _find_condition(is_absent[name], parents) for name in ordered}
        self.space = Space(
            [
                Field("density", low=float(density.min()), high=float(density.max()), log=True),
                *(self._make_field(name, conditions[name]) for name in ordered),
                Field("seed", choices=(*dict.fromkeys(seeds), *UNSEEN_SEEDS), prior_weight=seed_weight),
            ]
        )

    def encode(self, trials: pd.DataFrame) -> Array:
        """Return trials as rows of numbers, NaN where a field does not apply, (trials, fields)."""
        rows = []
        for row, seed in zip(trials.to_dict("records"), read_seeds(trials), strict=True):
            values = {name: row[name] for name in self._values if name in row and not is_absent_value(row[name])}
            texts = {name: value if name in self._ranges else _to_text(value) for name, value in values.items()}
            rows.append(self.space.scale({**texts, "density": row["density"], "seed": seed}))
        return np.array(rows, dtype=float).reshape(-1, len(self.space.fields))

    def decode(self, row: Array) -> dict[str, Any]:
        """Return the values of the fields that vary, without density and seed, as people write them."""
        return {
            name: self._tidy(name, value)
            for name, value in self.space.unscale(row).items()
            if name not in ("density", "seed")
        }

    def set_seed(self, rows: Array, seed: str) -> Array:
        """Return configurations with this seed."""
        changed = rows.copy()
        changed[:, -1] = self.space.fields[-1].scale(seed)
        return changed

    def select_like(self, candidates: Array, examples: Array) -> Array:
        """Return the candidates that keep to the choices and the ranges of examples."""
        is_like = np.ones(len(candidates), bool)
        for i, field in list(enumerate(self.space.fields))[1:-1]:
            values, numbers = examples[:, i][~np.isnan(examples[:, i])], candidates[:, i]
            if field.choices:
                is_like &= np.isnan(numbers) | np.isin(numbers, values)
            elif len(values):
                is_like &= np.isnan(numbers) | ((numbers >= values.min()) & (numbers <= values.max()))
            else:
                is_like &= np.isnan(numbers)
        return candidates[is_like]

    def _make_field(self, name: str, conditions: Mapping[str, Sequence[str]] | None) -> Field:
        if name not in self._ranges:
            return Field(name, choices=tuple(self._values[name]), conditions=conditions)
        numbers = [float(value) for value in self._values[name].values()]
        low, high = min(numbers), max(numbers)
        is_logarithmic = low > 0 and high / low > LOGARITHMIC_RATIO
        return Field(name, low=low, high=high, log=is_logarithmic, conditions=conditions)

    def _tidy(self, name: str, value: Any) -> Any:
        if name not in self._ranges:
            return self._values[name][value]
        return round(value) if self._is_whole[name] else float(f"{value:.{SIGNIFICANT_DIGITS}g}")


def read_seeds(trials: pd.DataFrame) -> list[str]:
    """Return the seed of each trial as text; that of a trial without one is 0."""
    if "seed" not in trials:
        return ["0"] * len(trials)
    return ["0" if is_absent_value(seed) else str(int(seed)) for seed in trials["seed"]]


def is_absent_value(value: Any) -> bool:
    """Return whether a trial lacks a field, of which the table has this value."""
    return value is None or value is pd.NA or (isinstance(value, float) and math.isnan(value))


def _list_values(column: pd.Series) -> dict[str, Any]:
    """Return the different values of a column by their text, in the order of the texts."""
    plain = (value.item() if isinstance(value, np.generic) else value for value in column)
    values = {_to_text(value): value for value in plain if not is_absent_value(value)}
    return {text: values[text] for text in sorted(values)}


def _to_text(value: Any) -> str:
    """Return a value as text, the same for 1 and 1.0: a table of other trials may have the other type."""
    is_number = isinstance(value, int | float | np.number) and not isinstance(value, bool | np.bool_)
    return f"{float(value):.12g}" if is_number else str(value)


def _is_range(values: Collection[Any]) -> bool:
    return len(values) > MAX_CHOICES and all(isinstance(v, int | float) and not isinstance(v, bool) for v in values)


def _is_whole(value: Any) -> bool:
    return isinstance(value, int) or (isinstance(value, float) and value.is_integer())


def _find_condition(is_absent: np.ndarray, parents: Mapping[str, np.ndarray]) -> dict[str, list[str]] | None:
    """Return the choice that decides whether a field applies, with its values where the field does; None without one.

    Args:
        is_absent: Whether each trial lacks the field.
        parents: The texts of the choices that all trials have.
    """
    if not is_absent.any():
        return None
    for parent, texts in parents.items():
        with_field = {*texts[~is_absent].tolist()}
        if not with_field & {*texts[is_absent].tolist()}:
            return {parent: sorted(with_field)}
    return None
