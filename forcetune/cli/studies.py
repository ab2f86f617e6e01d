"""A study here: checked, searched, examined."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

from forcetune.cli.asking import print_front
from forcetune.cli.group import FAILED, main, options_of, place, priority_option, retry_option
from forcetune.cli.running import end, searched
from forcetune.containment import contained
from forcetune.errors import InputError

if TYPE_CHECKING:
    from forcetune.spec import Priority


@main.command()
@click.argument("what", metavar="FILE|MODEL")
@click.option("--dataset", help="whose samples MODEL takes")
@click.option("--data-root", help="folder of the data set's files, where it needs one")
@click.option("--input", "input_shape", help="shape of MODEL's samples without a data set (3x32x32)")
@click.option("--classes", type=click.IntRange(1), help="its classes without a data set (10)")
@click.option("--width", type=click.IntRange(1), help="channels of MODEL's first stage (its own)")
@click.option(
    "--timeout",
    "timeout_s",
    type=click.IntRange(1, 10**6),
    default=600,
    show_default=True,
    help="seconds within which the check must end, code of your own included",
)
@click.option("--result-fd", type=int, hidden=True)
@click.pass_context
def check(
    context: click.Context,
    what: str,
    dataset: str | None,
    data_root: str | None,
    input_shape: str | None,
    classes: int | None,
    width: int | None,
    timeout_s: int,
    result_fd: int | None,
) -> None:
    """Validate the study in FILE and say what it would run and cost, or say what of MODEL can be pruned.

    Writes nothing but the predicted cost, which the search then holds against what it took.

    MODEL is a row of MODELS, torchvision:name, or package.module:function of your own.

    Code of your own runs in a process of its own: a function that ends the process, or does not end, is reported.
    """
    from forcetune.cli import isolation

    if result_fd is None:
        asked = [*options_of(context, leave_out={"what", "timeout_s", "result_fd"}), "--", what]
        with place(what):
            sys.exit(isolation.run_isolated(["check", *asked], timeout_s))
    with isolation.reporting(result_fd), contained():
        _check(what, dataset, data_root, input_shape, classes, width)


def _check(
    what: str,
    dataset: str | None,
    data_root: str | None,
    input_shape: str | None,
    classes: int | None,
    width: int | None,
) -> None:
    from forcetune import models

    if what in models.MODELS or (":" in what and not Path(what).exists()):
        _check_model(what, _samples(dataset, data_root, input_shape, classes), width)
    elif given := [name for name, value in (("--dataset", dataset), ("--input", input_shape)) if value]:
        raise InputError(
            f"{given[0]} is for a model, and {what!r} is none; allowed: {', '.join(models.MODELS)}, "
            "torchvision:name, package.module:function"
        )
    else:
        from forcetune import search, show, spec

        study = spec.load(what)
        with place(what):
            facts = search.check(study)
            show.study(study, facts)
            show.cost(search.predict(study))


@main.command("search")
@click.argument("file")
@click.option("--fresh", is_flag=True, help="archive what is there of the study under a dated name, and start anew")
@retry_option
@priority_option
def search_command(file: str, fresh: bool, retry_failed: bool, priority: Priority) -> None:
    """Run the study in FILE here, or go on where it was, and print its front."""
    from forcetune import spec

    study = spec.load(file)
    again = f"`forcetune search {file}`"
    found, ending = searched(study, file, fresh, again, priority, retry_failed)
    print_front(found)
    end(study, found.trials, ending)


@main.command()
@click.argument("study")
@click.option("--repair", is_flag=True, help="mend what disagrees, the ledger taken at its word")
def doctor(study: str, repair: bool) -> None:
    """Compare what Optuna, MLflow and the checkpoints say of STUDY; exit code 1 where they disagree."""
    from forcetune import search, show

    mended, left, holder = search.examine(study, repair)
    if holder:
        click.echo(f"{holder}; trials that run are left out")
    show.findings(mended, left)
    if left:
        sys.exit(FAILED)


@main.command()
@click.argument("study")
@click.option("--yes", is_flag=True, help="do not ask")
def delete(study: str, yes: bool) -> None:
    """Delete STUDY with its companions from both stores; MLflow keeps its runs in the trash until `mlflow gc`."""
    from forcetune import search

    found = search.find_contents(study)
    what = f"{found.trials} trials of {study}, {found.companions} companions and {found.runs} runs in MLflow"
    if not yes:
        if not sys.stdin.isatty():
            raise InputError(f"{what} would be deleted; give --yes where nobody can be asked")
        click.confirm(f"Delete {what}?", abort=True)
    search.delete(study)
    click.echo(f"deleted: {what}; `mlflow gc` removes the runs for good")


@main.command()
@click.argument("study")
@click.option("--to", "ledger", metavar="STORAGE", help="the Optuna storage that shall have its trials")
@click.option("--mlflow", "runs", metavar="URI", help="the MLflow server or store that shall have its runs")
@click.option("--yes", is_flag=True, help="do not ask")
def move(study: str, ledger: str | None, runs: str | None, yes: bool) -> None:
    """Move STUDY with its companions to other stores: trials, runs with their curves, and artifacts, as they are.

    After a kill the same command begins the part anew that was not whole. Here they are deleted once all of it is
    there, MLflow's runs until `mlflow gc` in its trash; runs get new ids, and are found by their old ones too.
    """
    from forcetune import search
    from forcetune.stores import shown

    search.check_targets(ledger, runs)
    found = search.find_contents(study)
    trials = f"{found.trials} trials of {study} and {found.companions} companions"
    what = " and ".join([*([trials] if ledger else []), *([f"{found.runs} runs in MLflow"] if runs else [])])
    if not yes:
        if not sys.stdin.isatty():
            raise InputError(f"{what} would be moved; give --yes where nobody can be asked")
        click.confirm(f"Move {what}?", abort=True)
    search.move(study, ledger, runs, click.echo)
    click.echo(f"moved: {what}")
    for variable, uri in (("FORCETUNE_STORAGE", ledger), ("MLFLOW_TRACKING_URI", runs)):
        if uri:
            click.echo(f"from now on: {variable}={shown(uri)}")


def _check_model(name: str, samples: tuple[tuple[int, ...], int], width: int | None) -> None:
    from forcetune import models, pruning, show

    show.network(name, *samples, pruning.inspect(models.build(name, *samples, width), *samples))


def _samples(
    dataset: str | None, data_root: str | None, input_shape: str | None, classes: int | None
) -> tuple[tuple[int, ...], int]:
    """The shape of a sample and the number of classes, from a data set or as they were given."""
    if dataset:
        from forcetune import data

        found = data.load(dataset, data_root)
        return found.input_shape, found.classes
    sizes = (input_shape or "3x32x32").split("x")
    if not all(size.isdigit() and int(size) > 0 for size in sizes):
        raise InputError(f"--input {input_shape}: allowed: sizes with an x between, as 3x32x32")
    return tuple(map(int, sizes)), classes or 10
