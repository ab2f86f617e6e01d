"""Options for the fields of a trial, and how the values of options are read."""

from __future__ import annotations

from typing import Any, Literal, get_args, get_origin

import click

from forcetune.errors import InputError


class WithFields(click.Command):
    """A click command with an option for each field of a trial.

    It has no options for the fields in `without`, and none for those that the command declares itself.
    """

    without: tuple[str, ...] = ()

    def get_params(self, ctx: click.Context) -> list[click.Parameter]:
        from forcetune.study import Trial

        declared = super().get_params(ctx)
        excluded = {parameter.name for parameter in declared} | {*self.without}
        fields = {name: info for name, info in Trial.model_fields.items() if name not in excluded}
        options = [_option(name, info.annotation, info.description or "") for name, info in fields.items()]
        return [*declared, *options]


class Prune(WithFields):
    without = (
        *("screen", "epochs", "batch_size", "lr", "lr_schedule"),
        *("optimizer", "momentum", "weight_decay", "clip_norm"),
    )


class Compare(WithFields):
    without = ("method", "density", "seed")


def _option(name: str, annotation: Any, description: str) -> click.Option:
    kinds = [kind for kind in get_args(annotation) if kind is not type(None)] or [annotation]
    if get_origin(annotation) is Literal:
        kinds = [annotation]
    kind = kinds[0]
    flag = f"--{name.replace('_', '-')}"
    if get_origin(kind) is Literal:
        return click.Option([flag], type=click.Choice(get_args(kind)), help=description)
    if kind is bool:
        return click.Option([flag], is_flag=True, default=None, help=description)
    return click.Option([flag], type=kind, help=description)


def number_or_word(text: str) -> float | str:
    """Return the text as a number, or unchanged where it is none: the study then says what is allowed."""
    try:
        return float(text)
    except ValueError:
        return text


def require_options(fields: dict[str, Any], *names: str) -> None:
    """Raise InputError where one of these options has no value."""
    missing = [f"--{name}" for name in names if name not in fields]
    if missing:
        raise InputError(f"{missing[0]} is missing; required: {', '.join(f'--{name}' for name in names)}")


def drop_unset(options: dict[str, Any]) -> dict[str, Any]:
    """Return the options that have a value."""
    return {name: value for name, value in options.items() if value is not None}


def split_words(text: str) -> list[str]:
    """Return the words of a text with commas between them."""
    return [word.strip() for word in text.split(",") if word.strip()]


def parse_numbers(option: str, text: str) -> list[float]:
    """Return the numbers of a text with commas between them. Raises InputError where a word is no number."""
    try:
        return [float(word) for word in split_words(text)]
    except ValueError:
        raise InputError(f"{option} {text}: allowed: numbers separated by commas, such as 0.1,0.05") from None
