"""The commands for a study on this machine: check, search, examine, delete and move it."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

from forcetune.cli.asking import print_front
from forcetune.cli.group import FAILED, fresh_option, main, option_arguments, priority_option, retry_option
from forcetune.cli.options import drop_unset, require_at_most_one
from forcetune.cli.running import report_end, run_search
from forcetune.containment import contained
from forcetune.errors import InputError, locating

if TYPE_CHECKING:
    from forcetune.study import Priority

_yes_option = click.option("--yes", is_flag=True, help="do not ask for confirmation")


@main.command()
@click.argument("what", metavar="FILE|MODEL")
@click.option("--dataset", help="data set whose samples are the input of MODEL")
@click.option("--data-root", help="folder of the data set's files, if it needs one")
@click.option("--input", "input_shape", help="sample shape of MODEL, without --dataset (default: 3x32x32)")
@click.option("--classes", type=click.IntRange(1), help="classes of MODEL, without --dataset (default: 10)")
@click.option("--width", type=click.IntRange(1), help="channels of MODEL's first stage (default: its own)")
@click.option(
    "--timeout",
    "timeout_s",
    type=click.IntRange(1, 10**6),
    default=600,
    show_default=True,
    help="seconds within which the check must end, including your own code",
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
    """Validate the study in FILE and print what it would run and cost, or print which weights of MODEL can be pruned.

    It stores only the predicted cost, which the search later compares with its actual cost.

    MODEL is a row of MODELS, torchvision:name, or package.module:function of your own.

    Code of your own runs in a separate process: a function that ends the process, or does not end, is reported.
    """
    from forcetune.cli import isolation

    if result_fd is None:
        arguments = [*option_arguments(context, leave_out={"what", "timeout_s", "result_fd"}), "--", what]
        with locating(what):
            sys.exit(isolation.run_isolated(["check", *arguments], timeout_s))
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

    data_options = {"--dataset": dataset, "--data-root": data_root, "--input": input_shape, "--classes": classes}
    model_options = drop_unset({**data_options, "--width": width})
    if what in models.MODELS or (":" in what and not Path(what).exists()):
        for option in ("--input", "--classes"):
            require_at_most_one({"--dataset": dataset, option: data_options[option]})
        if data_root is not None and dataset is None:
            raise InputError(f"--data-root {data_root}: is the folder of a data set; allowed: with --dataset")
        _check_model(what, _sample_sizes(dataset, data_root, input_shape, classes), width)
    elif model_options:
        raise InputError(
            f"{next(iter(model_options))} applies to a model, and {what!r} is not a model; allowed: "
            f"{', '.join(models.MODELS)}, torchvision:name, package.module:function"
        )
    else:
        from forcetune import run
        from forcetune.cli import terminal
        from forcetune.execution.checking import check_study
        from forcetune.study import load_study

        study = load_study(what)
        with locating(what):
            descriptions = check_study(study)
            terminal.study(study, descriptions)
            terminal.cost(run.predict_cost(study))


@main.command("search")
@click.argument("file")
@fresh_option
@retry_option
@priority_option
def search_command(file: str, fresh: bool, retry_failed: bool, priority: Priority) -> None:
    """Run the study in FILE here, or continue it where it stopped, and print its front."""
    from forcetune.study import load_study

    study = load_study(file)
    rerun_command = f"`forcetune search {file}`"
    study_results, end_reason = run_search(study, file, fresh, rerun_command, priority, retry_failed)
    print_front(study_results)
    report_end(study, study_results.trials, end_reason)


@main.command()
@click.argument("study")
@click.option("--repair", is_flag=True, help="repair what disagrees; where data differ, the ledger counts as right")
def doctor(study: str, repair: bool) -> None:
    """Compare the data of STUDY in Optuna, MLflow and the checkpoints; exit with 1 if they disagree."""
    from forcetune import run
    from forcetune.cli import terminal

    repaired, remaining, holder = run.examine_study(study, repair)
    if holder:
        click.echo(f"{holder}; running trials are not examined")
    terminal.findings(repaired, remaining)
    if remaining:
        sys.exit(FAILED)


@main.command()
@click.argument("study")
@_yes_option
def delete(study: str, yes: bool) -> None:
    """Delete STUDY with its companions from both stores; MLflow keeps its runs in the trash until `mlflow gc`."""
    from forcetune.search import deletion

    contents = deletion.find_contents(study)
    description = (
        f"{contents.trials} trials of {study}, {contents.companions} companions and {contents.runs} runs in MLflow"
    )
    _confirm(f"Delete {description}?", f"{description} would be deleted", yes)
    deletion.delete(study)
    click.echo(f"deleted: {description}; `mlflow gc` removes the runs for good")


@main.command()
@click.argument("study")
@click.option("--to", "ledger", metavar="STORAGE", help="Optuna storage that receives the trials")
@click.option("--mlflow", "runs", metavar="URI", help="MLflow server or store that receives the runs")
@_yes_option
def move(study: str, ledger: str | None, runs: str | None, yes: bool) -> None:
    """Move STUDY with its companions to other stores: trials, runs with their curves, and artifacts, unchanged.

    If the command is killed, run it again: it copies the incomplete part anew. The study is deleted from the old stores
    once the new ones have all of it; MLflow keeps its runs in the trash until `mlflow gc`. The moved runs have new ids,
    and can also be found by their old ids. Registered networks move with their runs.
    """
    from forcetune import run
    from forcetune.search import deletion, moving
    from forcetune.stores import hide_password

    moving.check_targets(ledger, runs)
    contents = deletion.find_contents(study)
    trials = f"{contents.trials} trials of {study} and {contents.companions} companions"
    description = " and ".join([*([trials] if ledger else []), *([f"{contents.runs} runs in MLflow"] if runs else [])])
    _confirm(f"Move {description}?", f"{description} would be moved", yes)
    run.move_study(study, ledger, runs, click.echo)
    click.echo(f"moved: {description}")
    for variable, uri in (("FORCETUNE_STORAGE", ledger), ("MLFLOW_TRACKING_URI", runs)):
        if uri:
            click.echo(f"from now on, set {variable}={hide_password(uri)}")


def _confirm(question: str, consequence: str, yes: bool) -> None:
    """Ask the user, and end the command unless the answer is yes. Raises InputError where there is no terminal."""
    if yes:
        return
    if not sys.stdin.isatty():
        raise InputError(f"{consequence}; without a terminal, confirm with --yes")
    click.confirm(question, abort=True)


def _check_model(name: str, sample_sizes: tuple[tuple[int, ...], int], width: int | None) -> None:
    from forcetune import models, pruning
    from forcetune.cli import terminal

    terminal.network(name, *sample_sizes, pruning.inspect(models.build(name, *sample_sizes, width), *sample_sizes))


def _sample_sizes(
    dataset: str | None, data_root: str | None, input_shape: str | None, classes: int | None
) -> tuple[tuple[int, ...], int]:
    """Return the shape of a sample and the number of classes, of a data set or as the options give them."""
    if dataset:
        from forcetune import data

        loaded_dataset = data.load(dataset, data_root)
        return loaded_dataset.input_shape, loaded_dataset.classes
    sizes = (input_shape or "3x32x32").split("x")
    if not all(size.isdigit() and int(size) > 0 for size in sizes):
        raise InputError(f"--input {input_shape}: allowed: sizes separated by x, such as 3x32x32")
    return tuple(map(int, sizes)), classes or 10
