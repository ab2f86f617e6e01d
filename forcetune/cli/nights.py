"""A front against random pruning: once, every night, and at a set time."""

from __future__ import annotations

import json
import sys
from typing import TYPE_CHECKING

import click

from forcetune.cli.fields import numbers
from forcetune.cli.group import INTERRUPTED, address_option, json_option, main, priority_option

if TYPE_CHECKING:
    from forcetune.spec import Priority


@main.command()
@click.argument("study")
@click.option("--top", type=click.IntRange(1), help="champions of each band of sparsity (the front)")
@click.option("--bands", help="edges of the bands, rising, with commas between, as 0.9,0.98,1")
@click.option("--seeds", type=click.IntRange(1), default=12, show_default=True, help="pairs of a comparison")
@click.option(
    "--margin",
    type=click.FloatRange(0, min_open=True),
    default=0.5,
    show_default=True,
    help="points of test accuracy within which two are as good as each other",
)
@click.option("--pool", is_flag=True, help="judge the champions of a method and band together, too")
@click.option("--dry-run", is_flag=True, help="say what would be run, and what it would cost")
@address_option
@priority_option
@json_option
def baseline(
    study: str,
    top: int | None,
    bands: str | None,
    seeds: int,
    margin: float,
    pool: bool,
    dry_run: bool,
    address: str | None,
    priority: Priority,
    as_json: bool,
) -> None:
    """Hold the best trials of STUDY against their random twins, with fresh seeds and on the test images.

    Runs what is missing, here or as a job where an address of a cluster's dashboard is given, and prints a verdict for
    each comparison: the champion beats its twin, ties with it, loses to it, or that is undecided.
    """
    from forcetune import baseline as room
    from forcetune import show
    from forcetune.spec import BANDS

    bench = room.check(study, top, numbers("--bands", bands) if bands else BANDS, seeds)
    planned = room.plan(bench, seeds)
    out = click.echo if not as_json else lambda line: click.echo(line, err=True)
    for why in planned.by_chance:
        out(why)
    if planned.missing or dry_run:
        out(show.cost_of_comparisons(len(planned.comparisons), len(planned.missing), planned.device_hours))
    if dry_run:
        return
    try:
        console = show.console(error=as_json)
        ending = room.run(bench, room.sender(console, priority, address), seeds) if planned.missing else None
    except KeyboardInterrupt:
        click.echo("\ninterrupted; the same command goes on where it was", err=True)
        sys.exit(INTERRUPTED)
    found = room.conclude(bench, seeds, margin, pool)
    if as_json:
        click.echo(json.dumps([show.present(row) for row in found.to_dict("records")], indent=1))
    else:
        show.verdicts(found, margin)
    if ending:
        out(ending)
