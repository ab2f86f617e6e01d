"""A front against random pruning: once, every night, and at a set time."""

from __future__ import annotations

import json
import sys
from datetime import date, datetime
from pathlib import Path
from typing import TYPE_CHECKING

import click

from forcetune.cli.fields import numbers
from forcetune.cli.group import ALARM, INTERRUPTED, address_option, json_option, main, priority_option
from forcetune.errors import InputError

if TYPE_CHECKING:
    from forcetune.schedule import Night
    from forcetune.spec import Priority


@main.command()
@click.argument("study")
@click.option("--top", type=click.IntRange(1), help="champions of each band of sparsity (the front)")
@click.option("--bands", help="edges of the bands, rising, with commas between, as 0.9,0.98,1")
@click.option("--seeds", type=click.IntRange(1), help="pairs of a comparison (12)")
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
    seeds: int | None,
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

    Without --top, --bands and --seeds it compares as many champions, in as many pairs, as an hour on a device has room
    for.
    """
    from forcetune import baseline as room
    from forcetune import show

    bench, seeds = room.check(study, top, numbers("--bands", bands) if bands else None, seeds)
    planned = room.plan(bench, seeds)
    out = click.echo if not as_json else lambda line: click.echo(line, err=True)
    if dry_run and as_json:
        click.echo(json.dumps(planned.plain(), indent=1))
        return
    lines = show.plan_of_comparisons(planned, bench.left_out, room.RIVALS)
    for line in lines if planned.runs or dry_run else planned.by_chance:
        out(line)
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


@main.command()
@click.argument("file", type=click.Path(path_type=Path))
@click.option("--date", "night", help="the night's name, as 2026-11-26 (today)")
@click.option("--dry-run", is_flag=True, help="say what would be run, and what it would cost")
@address_option
@json_option
def nightly(file: Path, night: str | None, dry_run: bool, address: str | None, as_json: bool) -> None:
    """Hold the champions of the studies in FILE against random pruning: what is missing of tonight, and of a night that
    died.

    Trials yield to those of people on a cluster. Leaves a page in the current folder, and a run of the experiment
    forcetune-nightly. Exit code 3 is an alarm: a verdict flipped, or runs that were the same no longer are.
    """
    from forcetune import baseline, show

    name = _night(night)
    nights = baseline.Nights(file, console := show.console(error=as_json))
    if dry_run:
        shares = nights.plan(name)
        click.echo(json.dumps([share.plain() for share in shares], indent=1)) if as_json else show.shares(shares)
        return
    try:
        found = nights.run(name, baseline.sender(console, "low", address))
    except KeyboardInterrupt:
        click.echo("\ninterrupted; the same command goes on where it was", err=True)
        sys.exit(INTERRUPTED)
    if as_json:
        click.echo(json.dumps([findings.plain() for findings in found], indent=1))
    for findings in found if not as_json else ():
        show.night(findings, nights.asked.margin)
    for path in nights.pages:
        click.echo(f"page: {path}", err=as_json)
    if any(findings.alarms for findings in found):
        sys.exit(ALARM)


def _night(written: str | None) -> str:
    try:
        return date.fromisoformat(written).isoformat() if written else date.today().isoformat()
    except ValueError:
        raise InputError(f"--date {written}: allowed: a date as 2026-11-26") from None


_file = click.argument("file", type=click.Path(path_type=Path), default="nightly.yaml")
_at = click.option("--at", default="02:00", show_default=True, metavar="HH:MM", help="by the machine's clock")
_log = click.option("--log", type=click.Path(path_type=Path), help="file for what it prints (FILE's name, .log)")


@main.group()
def schedule() -> None:
    """Let `forcetune nightly` start by itself: by cron, by systemd, or on Kubernetes."""


@schedule.command()
@_file
@_at
@_log
@click.option("--install", is_flag=True, help="into the crontab, in place of an earlier line for FILE")
@click.option("--remove", is_flag=True, help="the line for FILE from the crontab")
def cron(file: Path, at: str, log: Path | None, install: bool, remove: bool) -> None:
    """Print the crontab line that starts a night of FILE, or install it."""
    from forcetune import schedule as room

    if remove:
        gone = room.uninstall(file)
        click.echo(f"{'removed' if gone else 'the crontab has no line for'} {file}")
        return
    night = _planned(file, at, log)
    if not install:
        click.echo(room.cron(night))
        return
    before = room.install(night)
    click.echo(f"installed{f', in place of: {before.strip()}' if before else ''}")
    click.echo(f"next night: {room.next_night(at, datetime.now()):%Y-%m-%d %H:%M}, log: {night.log}")


@schedule.command()
@_file
@_at
@_log
@click.option("--out", type=click.Path(file_okay=False, path_type=Path), help="folder for the files (printed)")
def systemd(file: Path, at: str, log: Path | None, out: Path | None) -> None:
    """Write the service and the timer that start a night of FILE."""
    from forcetune import schedule as room

    units = room.systemd(_planned(file, at, log))
    for name, text in units.items():
        if out:
            out.mkdir(parents=True, exist_ok=True)
            (out / name).write_text(text)
            click.echo(out / name)
        else:
            click.echo(f"# {name}\n{text}")
    if out:
        timer = next(name for name in units if name.endswith(".timer"))
        click.echo(f"with {out} as ~/.config/systemd/user: systemctl --user enable --now {timer}")


@schedule.command()
@_file
@_at
@click.option("--image", required=True, help="with forcetune in it, as cluster/Dockerfile makes one")
def kubernetes(file: Path, at: str, image: str) -> None:
    """Print the CronJob that starts a night of FILE, for `kubectl apply -f -`."""
    from forcetune import schedule as room

    click.echo(room.kubernetes(_planned(file, at), image), nl=False)


@schedule.command()
@json_option
def status(as_json: bool) -> None:
    """Show which nights the crontab starts, the last one of each file, and the verdicts that stand."""
    from forcetune import baseline, show
    from forcetune import schedule as room

    last = baseline.last_nights()
    try:
        planned = {str(file): _next(at) for file, at in room.installed()}
    except InputError as error:
        planned = {}
        click.echo(str(error), err=True)
    if as_json:
        click.echo(json.dumps({"next": planned, "last": last}, indent=1))
    else:
        show.schedule(planned, last)


def _planned(file: Path, at: str, log: Path | None = None) -> Night:
    """The night of a file that can be used."""
    from forcetune import schedule as room
    from forcetune.spec import load_nightly

    load_nightly(file)
    return room.plan(file, at, log=log)


def _next(at: str) -> str:
    """The next night's moment, or the five fields of a line that somebody has changed."""
    from forcetune import schedule as room

    return f"{room.next_night(at, datetime.now()):%Y-%m-%d %H:%M}" if at[2:3] == ":" else at
