"""What commands that search have in common."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

import click

from forcetune.cli.group import FAILED, INTERRUPTED, place

if TYPE_CHECKING:
    import pandas as pd

    from forcetune.results import Results
    from forcetune.spec import Priority, Study


def searched(
    study: Study, file: str, fresh: bool, again: str, priority: Priority = "normal", retry_failed: bool = False
) -> tuple[Results, str | None]:
    """The study once it has run, and why it ended early; an interrupt says how to go on."""
    from forcetune import results, search, show

    try:
        with place(file):
            ending = search.run(study, show.console(), fresh, priority, retry_failed)
    except KeyboardInterrupt:
        click.echo(f"\ninterrupted; {again} goes on where it was", err=True)
        sys.exit(INTERRUPTED)
    return results.read(study.study), ending


def end(study: Study, found: pd.DataFrame, ending: str | None) -> None:
    """Say what was spared, and what is less than was asked for; exit with 1 where every trial failed."""
    if "steps_reused" in found and (reused := found["steps_reused"]).any():
        trials = f"{(reused > 0).sum()} of {len(found)} trials"
        click.echo(f"pruning steps taken over from another density: {reused.sum():.0f}, in {trials}")
    if ending:
        click.echo(f"{ending} ({len(found)} of {study.trials} trials)")
    elif len(found) < study.trials:
        click.echo(_say_fewer(study, len(found)))
    if said := say_failed(found):
        click.echo(said)
    if (found["outcome"] == "failed").all():
        sys.exit(FAILED)


def _say_fewer(study: Study, count: int) -> str:
    """Why MLflow has fewer trials than were asked for, once the search has ended."""
    from forcetune import search

    if search.is_complete(study):
        return (
            f"{study.trials - count} of {study.trials} trials have no run in MLflow any more; `forcetune doctor "
            f"{study.study}` names them, and --repair writes them anew from the ledger"
        )
    return f"{study.trials} trials were asked for, and the study's space has no more than {count}"


def say_failed(table: pd.DataFrame) -> str | None:
    """How many trials failed, where the reason is and how they are run again; None where none failed."""
    failed = int((table["outcome"] == "failed").sum())
    if not failed:
        return None
    return (
        f"{failed} failed: the reason is in their runs, tag forcetune.reason and artifact error.json; after you have "
        "fixed it, `forcetune search FILE --retry-failed` runs them again"
    )


def outcomes(table: pd.DataFrame) -> str:
    """How many trials a study has, and what became of them."""
    if table.empty:
        return "no trials yet"
    counts = table["outcome"].fillna("running").value_counts()
    return f"{len(table)} trials: " + ", ".join(f"{count} {name}" for name, count in counts.items())
