"""The command line: one function a command; heavy imports inside the functions."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import click

from forcetune import __version__
from forcetune.errors import InputError

if TYPE_CHECKING:
    import pandas as pd
    from rich.console import Console

    from forcetune.spec import Study

FAILED, REFUSED, INTERRUPTED = 1, 2, 130


class _Commands(click.Group):
    """Refused input becomes one paragraph on standard error and exit code 2, an interrupt 130."""

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except InputError as error:
            click.echo(f"forcetune: {error}", err=True)
            sys.exit(REFUSED)


@click.group(cls=_Commands, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__)
def main() -> None:
    """Search the sparsest network that still learns, before it is trained."""


@main.command()
@click.argument("file")
def check(file: str) -> None:
    """Validate the study in FILE and say what it would run; starts and writes nothing."""
    from forcetune import search, spec

    study = spec.load(file)
    with _place(file):
        facts = search.check(study)
    _show_study(study, facts)


@main.command("search")
@click.argument("file")
def search_command(file: str) -> None:
    """Run the study in FILE here, or go on where it was, and print its front."""
    from forcetune import search, spec, tracking

    study = spec.load(file)
    try:
        with _place(file):
            search.run(study, _console())
    except KeyboardInterrupt:
        click.echo(f"\ninterrupted; `forcetune search {file}` goes on where it was", err=True)
        sys.exit(INTERRUPTED)
    found = tracking.table(study.study)
    _print_front(found, _best(found))
    if len(found) < study.trials:
        click.echo(f"{study.trials} trials were asked for, and the study's space has no more than {len(found)}")
    failed = int((found["outcome"] == "failed").sum())
    if failed:
        click.echo(f"{failed} failed: the reason is in their runs, tag forcetune.reason and artifact error.json")
    if failed == len(found):
        sys.exit(FAILED)


@main.command()
@click.argument("study")
@click.option("--min-sparsity", type=click.FloatRange(0, 1), help="fraction of weights removed, at least")
@click.option("--min-accuracy", type=click.FloatRange(0, 1), help="validation accuracy, at least")
@click.option("--method", help="trials of this method alone")
@click.option("--json", "as_json", is_flag=True, help="one array of objects, sorted by sparsity")
def best(study: str, min_sparsity: float | None, min_accuracy: float | None, method: str | None, as_json: bool) -> None:
    """Print the front of STUDY, from MLflow alone."""
    from forcetune import tracking

    found = tracking.table(study)
    front = _best(found, min_sparsity=min_sparsity, min_accuracy=min_accuracy, method=method)
    if as_json:
        click.echo(json.dumps([_present(row) for row in front.to_dict("records")], indent=1))
    else:
        _print_front(found, front)


@contextmanager
def _place(file: str) -> Iterator[None]:
    """Name the study file in what is refused."""
    try:
        yield
    except InputError as error:
        raise InputError(f"{file}: {error}") from None


def _show_study(study: Study, facts: list[dict[str, object]]) -> None:
    from rich.table import Table

    from forcetune.stores import mlflow_uri, optuna_uri, shown

    table = Table(box=None, show_header=False, padding=(0, 2, 0, 0))
    resources = study.resources
    at_once = f"{resources.concurrent} at once" if resources.concurrent else "as many at once as fit"
    table.add_row("study", f"{study.study}: " + ", ".join(f"{name} {way}" for name, way in study.objectives.items()))
    table.add_row("trials", f"{study.trials}, proposed by {study.search.sampler}, seed {study.search.seed}")
    table.add_row("resources", f"{resources.cpus:g} cpus and {resources.gpus:g} gpus a trial, {at_once}")
    for fact in facts:
        shape = "x".join(map(str, fact["input_shape"]))  # type: ignore[call-overload]
        table.add_row("data", "{dataset}: {training} training and {validation} validation images".format(**fact))
        table.add_row("", f"of {shape} in {fact['classes']} classes")
        table.add_row("model", "{model}: {prunable} prunable weights".format(**fact))
    for name, domain in study.space.items():
        if name not in ("dataset", "model", "width"):
            table.add_row(name, str(domain))
    table.add_row("MLflow", shown(mlflow_uri()))
    table.add_row("Optuna", shown(optuna_uri()))
    _console().print(table)


def _best(table: pd.DataFrame, **conditions: Any) -> pd.DataFrame:
    from forcetune import analysis

    return analysis.best(table, **conditions)


def _present(row: dict[Any, Any]) -> dict[str, Any]:
    """The row without what it does not have: a one-shot method's iterations, a trained trial's reason."""
    import pandas as pd

    return {name: value for name, value in row.items() if not pd.isna(value)}


def _print_front(table: pd.DataFrame, front: pd.DataFrame) -> None:
    from rich.table import Table

    if front.empty:
        click.echo(f"no trained trial meets this; {_outcomes(table)}")
        return
    shown = Table(box=None, padding=(0, 2, 0, 0))
    columns = ["sparsity", "accuracy", "method", "iterations", "schedule"]
    others = [name for name in table.attrs["objectives"] if name not in ("val_accuracy", "density", "sparsity")]
    for column in [*columns, *others]:
        shown.add_column(column, justify="left" if column in ("method", "schedule") else "right", no_wrap=True)
    shown.add_column("run id", no_wrap=True)
    for row in map(_present, front.to_dict("records")):
        steps = [str(row["iterations"]) if "iterations" in row else "-", row.get("schedule", "-")]
        cells = [f"{row['sparsity']:.2%}", f"{row['val_accuracy']:.2%}", row["method"], *steps]
        shown.add_row(*cells, *(f"{row[name]:.4g}" for name in others), row["run_id"])
    _console().print(shown)
    click.echo(f"front of {_outcomes(table)}")


def _outcomes(table: pd.DataFrame) -> str:
    if table.empty:
        return "no trials yet"
    counts = table["outcome"].fillna("running").value_counts()
    return f"{len(table)} trials: " + ", ".join(f"{count} {name}" for name, count in counts.items())


def _console() -> Console:
    """Standard output as it is, but never so narrow that a table loses a run id where there is no terminal."""
    from rich.console import Console

    console = Console()
    return console if console.is_terminal else Console(width=160)
