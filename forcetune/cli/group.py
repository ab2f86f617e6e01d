"""The group of all commands: how it reports an error, and the options that several commands share."""

from __future__ import annotations

import errno
import sys
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, TypeVar

import click

from forcetune import __version__
from forcetune.errors import HeldError, InputError, StoppedError, escape_unprintable
from forcetune.stores import innermost_message

F = TypeVar("F", bound=Callable[..., Any])

FAILED, REFUSED, ALARM, HELD, INTERRUPTED = 1, 2, 3, 4, 130
EXIT_CODES: dict[type[Exception], int] = {InputError: REFUSED, HeldError: HELD, StoppedError: FAILED}


class _Commands(click.Group):
    """A click group that prints an error as one paragraph on standard error and exits with the error's exit code."""

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except tuple(EXIT_CODES) as error:
            _print_error(str(error))
            sys.exit(next(code for kind, code in EXIT_CODES.items() if isinstance(error, kind)))
        except OSError as error:
            if error.errno not in (errno.ENOSPC, errno.EDQUOT):
                raise
            with suppress(OSError):  # standard error may lie on that disk
                _print_error(f"a disk is full ({error}); free some space and run the same command again")
            sys.exit(FAILED)
        except Exception as error:
            if _is_mlflow_error(error):
                store, reason = "MLflow", str(error)
            elif _is_database_error(error):
                store, reason = "the database", innermost_message(error)
            else:
                raise
            _print_error(
                f"{store} did not answer, or refused a request: {reason}. Once {store} answers, run the same command "
                "again"
            )
            sys.exit(FAILED)


def _print_error(message: str) -> None:
    click.echo("forcetune: " + escape_unprintable(message, kept="\n\t"), err=True)


def _is_mlflow_error(error: Exception) -> bool:
    """Return whether the error is a MlflowException, without importing MLflow."""
    return any(kind.__name__ == "MlflowException" for kind in type(error).__mro__)


def _is_database_error(error: Exception) -> bool:
    """Return whether a store's database is away or refuses a request, without importing SQLAlchemy or Optuna."""
    names = {"OperationalError", "InterfaceError", "StorageInternalError"}
    return any(kind.__name__ in names for kind in type(error).__mro__)


@click.group(cls=_Commands, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__)
def main() -> None:
    """Search for the sparsest network that still learns, before it is trained."""


priority_option = click.option(
    "--priority",
    type=click.Choice(["normal", "low"]),
    default="normal",
    show_default=True,
    help="priority among the studies of a cluster; low uses only what the others leave free",
)


retry_option = click.option(
    "--retry-failed", is_flag=True, help="run failed trials again, after you have fixed the cause"
)


fresh_option = click.option(
    "--fresh", is_flag=True, help="archive the existing study under a dated name, and start a new one"
)


out_folder_option = click.option(
    "--out", type=click.Path(path_type=Path), default=".", help="folder of the files (default: the current one)"
)


address_option = click.option(
    "--address", metavar="URL", help="address of the cluster's dashboard, http://HOST:8265 (default: RAY_ADDRESS)"
)


def start_limit_option(seconds: float) -> Callable[[F], F]:
    """Return the option of a command that starts processes and waits until they answer."""
    return click.option(
        "--start-limit",
        type=click.FloatRange(0, min_open=True),
        metavar="SECONDS",
        default=seconds,
        show_default=True,
        help="seconds that each started process may take to answer; a busy machine needs more",
    )


json_option = click.option("--json", "as_json", is_flag=True, help="print JSON")


def option_arguments(context: click.Context, leave_out: Collection[str]) -> list[str]:
    """Return the options that a command was called with, as arguments; options without a value are left out."""
    options = [option for option in context.command.params if option.name not in leave_out]
    values = [(option.opts[0], context.params[str(option.name)]) for option in options]
    return [text for name, value in values if value is not None for text in (name, str(value))]


@contextmanager
def explaining_interrupt(advice: str) -> Iterator[None]:
    """Print after Ctrl-C what it has ended and how to go on, and exit with the code of an interrupt."""
    try:
        yield
    except KeyboardInterrupt:
        click.echo(f"\n{advice}", err=True)
        sys.exit(INTERRUPTED)
