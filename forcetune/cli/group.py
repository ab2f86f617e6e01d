"""The commands' group: what ends one is told in a paragraph and an exit code; options that several have."""

from __future__ import annotations

import errno
import sys
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager, suppress
from typing import Any, TypeVar

import click

from forcetune import __version__
from forcetune.errors import HeldError, InputError, StoppedError

F = TypeVar("F", bound=Callable[..., Any])

FAILED, REFUSED, ALARM, HELD, INTERRUPTED = 1, 2, 3, 4, 130


EXIT_CODES: dict[type[Exception], int] = {InputError: REFUSED, HeldError: HELD, StoppedError: FAILED}


class _Commands(click.Group):
    """What ends a command becomes one paragraph on standard error and its exit code."""

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except tuple(EXIT_CODES) as error:
            click.echo(f"forcetune: {_printable(str(error))}", err=True)
            sys.exit(next(code for kind, code in EXIT_CODES.items() if isinstance(error, kind)))
        except OSError as error:
            if error.errno not in (errno.ENOSPC, errno.EDQUOT):
                raise
            with suppress(OSError):  # standard error may lie on that disk
                click.echo(f"forcetune: a disk is full ({error}); with room on it the same command goes on", err=True)
            sys.exit(FAILED)
        except Exception as error:
            if not _is_of_mlflow(error):
                raise
            text = (
                f"MLflow did not answer, or refused a request: {error}. Once MLflow answers, run the same command again"
            )
            click.echo(f"forcetune: {_printable(text)}", err=True)
            sys.exit(FAILED)


def _is_of_mlflow(error: Exception) -> bool:
    """Return whether it is a MlflowException, without importing MLflow."""
    return any(kind.__name__ == "MlflowException" for kind in type(error).__mro__)


def _printable(message: str) -> str:
    """Return a message without what a terminal obeys or cannot write: names of files may have it."""
    return "".join(sign if sign.isprintable() or sign in "\n\t" else repr(sign)[1:-1] for sign in message)


@click.group(cls=_Commands, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__)
def main() -> None:
    """Search the sparsest network that still learns, before it is trained."""


priority_option = click.option(
    "--priority",
    type=click.Choice(["normal", "low"]),
    default="normal",
    show_default=True,
    help="among the studies of a cluster; low: what the others leave",
)


retry_option = click.option(
    "--retry-failed", is_flag=True, help="run failed trials again, after you have fixed the cause"
)


address_option = click.option(
    "--address", metavar="URL", help="of the cluster's dashboard, http://HOST:8265 (RAY_ADDRESS)"
)


def start_limit_option(seconds: float) -> Callable[[F], F]:
    """Return the option of a command that starts processes and waits until they answer."""
    return click.option(
        "--start-limit",
        type=click.FloatRange(0, min_open=True),
        metavar="SECONDS",
        default=seconds,
        show_default=True,
        help="that each process it starts may take to answer; a loaded machine needs more",
    )


json_option = click.option("--json", "as_json", is_flag=True, help="as JSON")


def options_of(context: click.Context, leave_out: Collection[str]) -> list[str]:
    """Return the options that a command was called with, as they are written; those without a value are left out."""
    options = [option for option in context.command.params if option.name not in leave_out]
    written = [(option.opts[0], context.params[str(option.name)]) for option in options]
    return [text for name, value in written if value is not None for text in (name, str(value))]


@contextmanager
def place(file: str) -> Iterator[None]:
    """Name the study file in what is refused."""
    try:
        yield
    except InputError as error:
        raise InputError(f"{file}: {error}") from None


def until_interrupted(pieces: Iterator[str], job: str) -> Iterator[str]:
    try:
        yield from pieces
    except KeyboardInterrupt:
        told = f"the job goes on; `forcetune logs {job} --follow` shows it, `forcetune stop {job}` stops it"
        click.echo(f"\n{told}", err=True)
        sys.exit(INTERRUPTED)
