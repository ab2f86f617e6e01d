"""An exported network: its files, its comparison with the trained network, and its cost."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from forcetune.cli.terminal.layout import console
from forcetune.report.tables import Table

if TYPE_CHECKING:
    from forcetune.deploy import Export


def export(exported: Export) -> None:
    """Print an export: first what the small dense network says about it, at the end its files."""
    from forcetune.deploy.card import tabulate_costs, tabulate_verification  # imports torch

    if exported.rival_verdict:
        click.echo(exported.rival_verdict)
    header, rows, text_columns = tabulate_verification(exported)
    console().print(Table(header, rows, text_columns).to_terminal())
    if exported.costs:
        header, rows, text_columns = tabulate_costs(exported.costs, exported.accuracies)
        console().print(Table(header, rows, text_columns).to_terminal())
        click.echo(f"{exported.runtime}, one thread of {exported.machine}; medians, the networks in turn")
    for note in exported.notes:
        click.echo(note)
    click.echo("written: " + ", ".join(str(path) for path in exported.paths))
    if exported.registration:
        click.echo(exported.registration.describe())
