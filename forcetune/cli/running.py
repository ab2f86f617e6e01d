"""The steps that commands which search have in common."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

import click

from forcetune.cli.group import FAILED, explaining_interrupt
from forcetune.errors import locating

if TYPE_CHECKING:
    import pandas as pd

    from forcetune.report.results import Results
    from forcetune.study import Priority, Study


def run_search(
    study: Study, file: str, fresh: bool, rerun_command: str, priority: Priority = "normal", retry_failed: bool = False
) -> tuple[Results, str | None]:
    """Run a study; after an interrupt, print how to go on.

    Args:
        study: The study.
        file: Its file, which an error names.
        fresh: Whether to archive what exists of the study, and start anew.
        rerun_command: The command that goes on after an interrupt, as it is printed.
        priority: The priority among the studies of a cluster.
        retry_failed: Whether to run failed trials again.

    Returns:
        The results, and why the search ended early, None where it did not.
    """
    from forcetune import run
    from forcetune.cli import terminal
    from forcetune.report import results

    with explaining_interrupt(f"interrupted; run {rerun_command} again to continue"), locating(file):
        end_reason = run.search_study(study, terminal.console(), fresh, priority, retry_failed)
    return results.load(study.study), end_reason


def report_end(study: Study, table: pd.DataFrame, end_reason: str | None) -> None:
    """Print what was reused, missing and failed; exit with 1 where every trial failed."""
    if "steps_reused" in table and (reused := table["steps_reused"]).any():
        trial_share = f"{(reused > 0).sum()} of {len(table)} trials"
        click.echo(f"pruning steps reused from another density: {reused.sum():.0f}, in {trial_share}")
    if end_reason:
        click.echo(f"{end_reason} ({len(table)} of {study.trials} trials)")
    elif len(table) < study.trials:
        click.echo(_explain_missing(study, len(table)))
    if notice := describe_failures(table):
        click.echo(notice)
    if len(table) and (table["outcome"] == "failed").all():
        sys.exit(FAILED)


def _explain_missing(study: Study, count: int) -> str:
    """Return why MLflow has fewer trials than the study asks for, once the search has ended."""
    from forcetune import run

    if run.is_complete(study):
        return (
            f"{study.trials - count} of {study.trials} trials no longer have a run in MLflow; `forcetune doctor "
            f"{study.study}` lists them, and its option --repair writes them again from the ledger"
        )
    return f"the study asks for {study.trials} trials, and its search space has only {count}"


def describe_failures(table: pd.DataFrame) -> str | None:
    """Return how many trials failed, where their reasons are and how to run them again; None where none failed."""
    failed = int((table["outcome"] == "failed").sum())
    if not failed:
        return None
    return (
        f"{failed} failed: the reason is in the tag forcetune.reason and the artifact error.json of each run; after "
        "you have fixed the cause, `forcetune search FILE --retry-failed` runs them again"
    )


def describe_outcomes(table: pd.DataFrame) -> str:
    """Return how many trials a study has, and how many of them have each outcome."""
    if table.empty:
        return "no trials yet"
    counts = table["outcome"].fillna("running").value_counts()
    return f"{len(table)} trials: " + ", ".join(f"{count} {name}" for name, count in counts.items())
