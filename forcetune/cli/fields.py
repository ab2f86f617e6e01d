"""Options for the fields of a trial, and what is written in options."""

from __future__ import annotations

from typing import Any, Literal, get_args, get_origin

import click

from forcetune.errors import InputError


class WithFields(click.Command):
    """A command with an option for every field of a trial but those in `without` and those that it has itself."""

    without: tuple[str, ...] = ()

    def get_params(self, ctx: click.Context) -> list[click.Parameter]:
        from forcetune.spec import Trial  # only when such a command runs: the others are quicker without pydantic

        own = super().get_params(ctx)
        known = {parameter.name for parameter in own} | {*self.without}
        fields = {name: info for name, info in Trial.model_fields.items() if name not in known}
        options = [_option(name, info.annotation, info.description or "") for name, info in fields.items()]
        return [*own, *options]


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
    """What is no number is left to the study, which says what is allowed."""
    try:
        return float(text)
    except ValueError:
        return text


def demand(fields: dict[str, Any], *names: str) -> None:
    """Raise InputError where one of these was not given."""
    missing = [f"--{name}" for name in names if name not in fields]
    if missing:
        raise InputError(f"{missing[0]} is missing; needed: {', '.join(f'--{name}' for name in names)}")


def only_given(options: dict[str, Any]) -> dict[str, Any]:
    """The options that were given."""
    return {name: value for name, value in options.items() if value is not None}


def words(text: str) -> list[str]:
    """What stands between commas."""
    return [word.strip() for word in text.split(",") if word.strip()]


def numbers(option: str, text: str) -> list[float]:
    """The same as numbers. Raises InputError where one is none."""
    try:
        return [float(word) for word in words(text)]
    except ValueError:
        raise InputError(f"{option} {text}: allowed: numbers with commas between, as 0.1,0.05") from None
