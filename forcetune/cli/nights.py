"""The commands that compare a front with random pruning or dense networks: once, every night, and at a set time."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import date, datetime
from pathlib import Path
from typing import TYPE_CHECKING

import click

from forcetune.cli.group import ALARM, INTERRUPTED, address_option, json_option, main, priority_option
from forcetune.cli.options import FiniteRange, parse_numbers, print_json, require_at_most_one
from forcetune.errors import InputError
from forcetune.formats import format_hours

if TYPE_CHECKING:
    from forcetune.study import Priority
    from forcetune.timers import Night


@main.command()
@click.argument("study")
@click.option("--top", type=click.IntRange(1), help="number of champions in each sparsity band (default: the front)")
@click.option("--bands", help="rising edges of the sparsity bands, separated by commas, such as 0.9,0.98,1")
@click.option(
    "--seeds", type=click.IntRange(1), help="pairs per comparison (default: 12, or more where a verdict needs more)"
)
@click.option(
    "--margin",
    type=FiniteRange(0, min_open=True),
    help="points of test accuracy within which two networks count as equally good (default: 0.5)",
)
@click.option(
    "--collapse-margin",
    type=FiniteRange(0, 1, min_open=True, max_open=True),
    help="difference of two rates of collapses, from 0 to 1, within which they count as equal (default: 0.1)",
)
@click.option("--pool", is_flag=True, help="also judge the champions of one method and band together")
@click.option(
    "--dense",
    type=click.IntRange(1),
    metavar="SEEDS",
    help="instead of comparing, train each network of STUDY without pruning, with this many fresh seeds",
)
@click.option("--dry-run", is_flag=True, help="only print what would run, and its cost")
@address_option
@priority_option
@json_option
def baseline(
    study: str,
    top: int | None,
    bands: str | None,
    seeds: int | None,
    margin: float | None,
    collapse_margin: float | None,
    pool: bool,
    dense: int | None,
    dry_run: bool,
    address: str | None,
    priority: Priority,
    as_json: bool,
) -> None:
    """Compare the best trials of STUDY with their random twins, with fresh seeds and on the test images.

    The command starts the runs that are missing, on this machine or, if the address of a cluster's dashboard is set, as
    a job. For each comparison it prints a verdict: the champion beats its twin, ties with it, loses to it, or the
    result is undecided.

    Without --top, --bands and --seeds it compares as many champions, in as many pairs, as one hour on a device allows.

    With --dense the command starts no comparison: it trains the networks of STUDY without pruning, with the settings of
    their most accurate trials, and prints their validation accuracy. `forcetune best STUDY --within` compares trials
    with these runs.
    """
    from forcetune import baseline as baseline_package
    from forcetune.cli import terminal
    from forcetune.report.tables import drop_missing

    if dense:
        comparison_options = {
            "--top": top,
            "--bands": bands,
            "--seeds": seeds,
            "--margin": margin,
            "--collapse-margin": collapse_margin,
            "--pool": pool,
        }
        for option, value in comparison_options.items():
            require_at_most_one({"--dense": dense, option: value})
        _run_dense(study, dense, dry_run, address, priority, as_json)
        return
    margin = margin or baseline_package.DEFAULT_MARGIN_POINTS
    collapse_margin = collapse_margin or baseline_package.DEFAULT_COLLAPSE_MARGIN
    champion_study, seeds = baseline_package.check(study, top, parse_numbers("--bands", bands), seeds)
    plan = baseline_package.plan(champion_study, seeds, collapse_margin)
    print_line = click.echo if not as_json else lambda line: click.echo(line, err=True)
    if dry_run and as_json:
        print_json(plan.plain())
        return
    lines = terminal.describe_plan(plan, champion_study.left_out_count, baseline_package.RIVALS)
    for line in lines if plan.runs or dry_run else plan.exclusion_reasons:
        print_line(line)
    if dry_run:
        return
    with _explaining_interrupt():
        console = terminal.console(error=as_json)
        end_reason = (
            baseline_package.run(champion_study, baseline_package.make_sender(console, priority, address), seeds)
            if plan.missing
            else None
        )
    verdicts = baseline_package.conclude(champion_study, seeds, margin, pool, collapse_margin)
    if as_json:
        print_json([drop_missing(row) for row in verdicts.to_dict("records")])
    else:
        terminal.verdicts(verdicts, margin, collapse_margin)
    if end_reason:
        print_line(end_reason)


def _run_dense(study: str, seeds: int, dry_run: bool, address: str | None, priority: Priority, as_json: bool) -> None:
    """Run the dense runs that a study lacks, and print the accuracy of its dense networks."""
    from forcetune import analysis, baseline
    from forcetune.cli import terminal
    from forcetune.report import results
    from forcetune.report.tables import drop_missing

    companion_runs, hours = baseline.plan_dense_runs(study, seeds)
    count = len(companion_runs.companions)
    if dry_run and as_json:
        print_json({"runs": count, "device_hours": hours})
        return
    runs = f"{count} dense run{'s' if count > 1 else ''} of {study}"
    cost = f"{runs}, about {format_hours(hours)} device hours" if count else "all runs are finished"
    click.echo(cost, err=as_json)
    if dry_run:
        return
    with _explaining_interrupt():
        sender = baseline.make_sender(terminal.console(error=as_json), priority, address)
        end_reason = sender(companion_runs) if count else None
    accuracies = analysis.summarize_dense(results.load(study).dense, "val_accuracy")
    if as_json:
        print_json([drop_missing(row) for row in accuracies.to_dict("records")])
    else:
        click.echo(
            terminal.dense(accuracies) if len(accuracies) else f"no dense run of {study} has a validation accuracy"
        )
    if end_reason:
        click.echo(end_reason, err=as_json)


@main.command()
@click.argument("file", type=click.Path(path_type=Path))
@click.option("--date", "night", help="name of the night, such as 2026-11-26 (default: today)")
@click.option("--dry-run", is_flag=True, help="only print what would run, and its cost")
@address_option
@json_option
def nightly(file: Path, night: str | None, dry_run: bool, address: str | None, as_json: bool) -> None:
    """Compare the champions of the studies in FILE with random pruning.

    The command starts the runs that tonight, or an earlier night that died, still needs. On a cluster its trials yield
    to those of other users. It writes a page into the current folder, and a run into the experiment forcetune-nightly.
    Exit code 3 is an alarm: a verdict changed to or from `loses`, a sentinel run failed, or no longer gives the results
    of earlier nights, or a registered network no longer has the accuracy of its run.
    """
    from forcetune import baseline
    from forcetune.cli import terminal

    name = _parse_night(night)
    nights = baseline.Nights(file, console := terminal.console(error=as_json))
    if dry_run:
        shares = nights.plan(name)
        print_json([share.plain() for share in shares]) if as_json else terminal.shares(shares)
        return
    with _explaining_interrupt():
        night_findings = nights.run(name, baseline.make_sender(console, "low", address))
    if as_json:
        print_json([findings.plain() for findings in night_findings])
    for findings in night_findings if not as_json else ():
        terminal.night(findings, nights.settings.margin)
    for path in nights.pages:
        click.echo(f"page: {path}", err=as_json)
    if any(findings.alarms for findings in night_findings):
        sys.exit(ALARM)


@contextmanager
def _explaining_interrupt() -> Iterator[None]:
    """Print after Ctrl-C how the command continues, and exit with the code of an interrupt."""
    try:
        yield
    except KeyboardInterrupt:
        click.echo("\ninterrupted; run the same command again to continue", err=True)
        sys.exit(INTERRUPTED)


def _parse_night(text: str | None) -> str:
    try:
        return date.fromisoformat(text).isoformat() if text else date.today().isoformat()
    except ValueError:
        raise InputError(f"--date {text}: allowed: a date such as 2026-11-26") from None


_file_argument = click.argument("file", type=click.Path(path_type=Path), default="nightly.yaml")
_at_option = click.option(
    "--at", default="02:00", show_default=True, metavar="HH:MM", help="start of a night, by the machine's clock"
)
_log_option = click.option(
    "--log", type=click.Path(path_type=Path), help="file for the output (default: FILE's name with .log)"
)


@main.group()
def schedule() -> None:
    """Start `forcetune nightly` every night: by cron, by systemd, or on Kubernetes."""


@schedule.command()
@_file_argument
@_at_option
@_log_option
@click.option("--install", is_flag=True, help="put the line into the crontab, in place of an earlier line for FILE")
@click.option("--remove", is_flag=True, help="remove the line for FILE from the crontab")
def cron(file: Path, at: str, log: Path | None, install: bool, remove: bool) -> None:
    """Print the crontab line that starts a night of FILE, or install it."""
    from forcetune import timers

    require_at_most_one({"--install": install, "--remove": remove})
    if remove:
        was_removed = timers.uninstall(file)
        click.echo(f"{'removed from the crontab:' if was_removed else 'the crontab has no line for'} {file}")
        return
    night = _plan_night(file, at, log)
    if not install:
        click.echo(timers.cron(night))
        return
    replaced_line = timers.install(night)
    click.echo(f"installed{f', in place of: {replaced_line.strip()}' if replaced_line else ''}")
    click.echo(f"next night: {timers.next_night(at, datetime.now()):%Y-%m-%d %H:%M}, log: {night.log}")


@schedule.command()
@_file_argument
@_at_option
@_log_option
@click.option(
    "--out", type=click.Path(file_okay=False, path_type=Path), help="folder for the files (default: print them)"
)
def systemd(file: Path, at: str, log: Path | None, out: Path | None) -> None:
    """Write the service and the timer that start a night of FILE."""
    from forcetune import timers

    units = timers.systemd(_plan_night(file, at, log))
    for name, text in units.items():
        if out:
            try:
                out.mkdir(parents=True, exist_ok=True)
                (out / name).write_text(text, "utf-8")
            except OSError as error:
                raise InputError(f"--out: {out / name} cannot be written: {error.strerror}") from error
            click.echo(out / name)
        else:
            click.echo(f"# {name}\n{text}")
    if out:
        timer = next(name for name in units if name.endswith(".timer"))
        click.echo(
            f"copy the files from {out} to ~/.config/systemd/user, and run: systemctl --user enable --now {timer}"
        )


@schedule.command()
@_file_argument
@_at_option
@click.option("--image", required=True, help="image that contains forcetune, such as the one of cluster/Dockerfile")
def kubernetes(file: Path, at: str, image: str) -> None:
    """Print the CronJob that starts a night of FILE, for `kubectl apply -f -`."""
    from forcetune import timers

    click.echo(timers.kubernetes(_plan_night(file, at), image), nl=False)


@schedule.command()
@json_option
def status(as_json: bool) -> None:
    """Show which nights the crontab starts, the last night of each file, and the current verdicts."""
    from forcetune import baseline, timers
    from forcetune.cli import terminal

    last_nights = baseline.load_last_nights()
    try:
        next_nights = {str(file): _next_start(at) for file, at in timers.installed()}
    except InputError as error:
        next_nights = {}
        click.echo(str(error), err=True)
    if as_json:
        print_json({"next": next_nights, "last": last_nights})
    else:
        terminal.schedule(next_nights, last_nights)


def _plan_night(file: Path, at: str, log: Path | None = None) -> Night:
    """Plan a night of a file. Raises InputError where the file cannot be used."""
    from forcetune import timers
    from forcetune.study import load_nightly

    load_nightly(file)
    return timers.plan(file, at, log=log)


def _next_start(at: str) -> str:
    """Return when the next night starts, or the five fields of a crontab line that somebody has changed."""
    from forcetune import timers

    return f"{timers.next_night(at, datetime.now()):%Y-%m-%d %H:%M}" if at[2:3] == ":" else at
