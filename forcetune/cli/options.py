"""The values of options, which are read and checked, and the output of the option --json."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import click

from forcetune.errors import InputError

if TYPE_CHECKING:
    import pandas as pd


class FiniteRange(click.FloatRange):
    """A range of numbers without nan and infinity: click takes nan for a member of every range."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Return the number. Fails as `click.FloatRange` does, also where it is not finite."""
        number = super().convert(value, param, ctx)
        if not math.isfinite(number):
            self.fail(f"{value} is not a finite number.", param, ctx)
        return number


def drop_unset(options: Mapping[str, Any]) -> dict[str, Any]:
    """Return the options that have a value."""
    return {name: value for name, value in options.items() if value is not None}


def require_all(options: Mapping[str, object], alternative: str) -> None:
    """Raise InputError where an option has no value.

    Args:
        options: The values of the options, by option.
        alternative: The argument that may replace the options, as the message names it.
    """
    missing = [name for name, value in options.items() if value is None]
    if missing:
        raise InputError(f"{missing[0]} is missing; required without {alternative}: {', '.join(options)}")


def require_at_most_one(options: Mapping[str, object]) -> None:
    """Raise InputError where more than one of these options has a value."""
    # 0 is a value, though Python counts it as false
    set_options = [name for name, value in options.items() if value not in (None, ()) and value is not False]
    if len(set_options) > 1:
        raise InputError(f"{' and '.join(set_options)} exclude each other; allowed: one of {', '.join(options)}")


def parse_words(option: str, text: str | None) -> list[str] | None:
    """Return the words of a text with commas between them, each once; None for an option without a value.

    Raises:
        InputError: The text has no word.
    """
    if text is None:
        return None
    words = [word.strip() for word in text.split(",") if word.strip()]
    if not words:
        raise InputError(f"{option} {text}: allowed: names separated by commas, such as snip,force")
    return list(dict.fromkeys(words))


def parse_numbers(option: str, text: str | None) -> list[float] | None:
    """Return the numbers of a text with commas between them; None for an option without a value.

    Raises:
        InputError: A word of the text is no number.
    """
    if text is None:
        return None
    try:
        return [float(word) for word in text.split(",") if word.strip()]
    except ValueError:
        raise InputError(f"{option} {text}: allowed: numbers separated by commas, such as 0.1,0.05") from None


def parse_sparsity(option: str, text: str | None) -> float | None:
    """Return a sparsity that is written as a fraction or in percent; None for an option without a value.

    Raises:
        InputError: The text is no number from 0 up to 1, or from 0% up to 100%.
    """
    if text is None:
        return None
    try:
        sparsity = float(text.strip().removesuffix("%")) / (100 if text.strip().endswith("%") else 1)
    except ValueError:
        sparsity = math.nan
    if not 0 <= sparsity < 1:
        raise InputError(f"{option} {text}: is no sparsity; allowed: a fraction below 1 such as 0.975, or 97.5%")
    return sparsity


def print_json(data: Any) -> None:
    """Print data as JSON that every parser reads: a number that is not finite, which JSON does not have, is null."""
    click.echo(json.dumps(_replace_infinite(data), indent=1, allow_nan=False))


def print_rows(table: pd.DataFrame, as_csv: bool = False) -> None:
    """Print the rows of a table as JSON, or as CSV, with times in ISO 8601 and without values that are missing."""
    from forcetune.formats import iso
    from forcetune.report.tables import drop_missing

    table = table.copy()
    for name in table.columns.intersection(["started", "ended"]):
        table[name] = [None if ms is None or ms != ms else iso(ms / 1000) for ms in table[name]]
    if as_csv:
        click.echo(table.to_csv(index=False), nl=False)
    else:
        print_json([drop_missing(row) for row in table.to_dict("records")])


def _replace_infinite(data: Any) -> Any:
    if isinstance(data, Mapping):
        return {name: _replace_infinite(value) for name, value in data.items()}
    if isinstance(data, list | tuple):
        return [_replace_infinite(value) for value in data]
    return None if isinstance(data, float) and not math.isfinite(data) else data
