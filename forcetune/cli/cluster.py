"""The commands that run a study as a job on a Ray cluster, and that start a small cluster on this machine."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from functools import partial
from typing import TYPE_CHECKING, Any

import click

from forcetune.cli.group import (
    FAILED,
    INTERRUPTED,
    address_option,
    explaining_interrupt,
    fresh_option,
    json_option,
    main,
    priority_option,
    retry_option,
    start_limit_option,
)
from forcetune.cli.options import print_json
from forcetune.errors import InputError

if TYPE_CHECKING:
    from forcetune.jobs import Job
    from forcetune.jobs.package import Package
    from forcetune.study import Priority

_say = partial(click.echo, err=True)  # what a command does meanwhile, beside its result


@main.command()
@click.option(
    "--database",
    metavar="URL",
    help="address of a PostgreSQL database for both stores (default: SQLite files in the current folder)",
)
@click.option("--cpus", type=click.FloatRange(0), help="cores for trials (default: all of the machine)")
@click.option("--gpus", type=click.FloatRange(0), help="GPUs for trials (default: all of the machine)")
@start_limit_option(120)
@json_option
def up(database: str | None, cpus: float | None, gpus: float | None, start_limit: float, as_json: bool) -> None:
    """Start a Ray head and an MLflow server on this machine, for `submit`.

    A service that already runs in the current folder is not changed.
    """
    from forcetune.cli import terminal
    from forcetune.local import service

    local_service, is_new = service.up(database, cpus, gpus, start_limit_s=start_limit)
    if as_json:
        print_json({**local_service.variables, "storage": local_service.storage, "metrics": local_service.metrics})
    else:
        terminal.service(local_service, is_new)


@main.command()
@json_option
def down(as_json: bool) -> None:
    """End the service that `up` started in the current folder.

    Running jobs continue after the next `up`.
    """
    from forcetune.local import service

    ended = service.down()
    message = (
        f"ended: {', '.join(ended)}; the stores are not changed"
        if ended
        else "no service of `forcetune up` runs in this folder"
    )
    click.echo(json.dumps(ended) if as_json else message)


@main.command()
@click.argument("file")
@address_option
@priority_option
@click.option(
    "--restarts",
    type=click.IntRange(0),
    default=3,
    show_default=True,
    help="how often a driver that died is started again",
)
@fresh_option
@retry_option
@click.option("--wait", is_flag=True, help="follow the job's log, and exit with the job's exit code")
@click.option(
    "--dry-run", is_flag=True, help="list the files that would be sent, and those that would not; send nothing"
)
@json_option
def submit(
    file: str,
    address: str | None,
    priority: Priority,
    restarts: int,
    fresh: bool,
    retry_failed: bool,
    wait: bool,
    dry_run: bool,
    as_json: bool,
) -> None:
    """Run the study in FILE as a job on a Ray cluster, or continue it where it stopped, and print the job's id."""
    from forcetune import jobs

    if dry_run:
        _print_package(jobs.preview(file), as_json)
        return
    job = jobs.submit(file, address, priority, restarts, fresh, retry_failed, say=_say)
    _print_job(job, as_json)
    if wait:
        _follow(job.id, address)


@main.command("jobs")
@address_option
@json_option
def jobs_command(address: str | None, as_json: bool) -> None:
    """List the studies that run, or ran, as jobs on a Ray cluster."""
    from forcetune import jobs
    from forcetune.cli import terminal

    cluster_jobs = jobs.jobs(address, say=_say)
    if as_json:
        print_json([_job_record(job) for job in cluster_jobs])
    else:
        terminal.jobs(cluster_jobs)


@main.command()
@click.argument("job")
@address_option
@click.option("--follow", is_flag=True, help="follow the log until the job ends")
@json_option
def logs(job: str, address: str | None, follow: bool, as_json: bool) -> None:
    """Print the log of JOB."""
    for piece in _stream_log(job, follow, address):
        click.echo(json.dumps({"job": job, "log": piece}) if as_json else piece, nl=as_json)


@main.command()
@click.argument("job")
@address_option
@json_option
def stop(job: str, address: str | None, as_json: bool) -> None:
    """Stop JOB and its running trials; `resume` continues them."""
    from forcetune import jobs

    _print_job(jobs.stop(job, address), as_json)


@main.command()
@click.argument("job")
@address_option
@json_option
def resume(job: str, address: str | None, as_json: bool) -> None:
    """Continue the study of JOB, which has ended, in a new job with the same code, and print the new job's id."""
    from forcetune import jobs

    _print_job(jobs.resume(job, address), as_json)


@main.command(hidden=True)
@click.argument("file")
@click.option("--client", required=True)
@click.option("--restarts", type=click.IntRange(0), required=True)
@priority_option
@click.option("--fresh", is_flag=True)
@click.option("--retry-failed", is_flag=True)
@click.option("--companions", is_flag=True)
def supervise(
    file: str, client: str, restarts: int, priority: Priority, fresh: bool, retry_failed: bool, companions: bool
) -> None:
    """Run the command of a job, `search` or `run-companions`, and start it again when it dies."""
    from forcetune.jobs import supervisor

    def is_complete() -> bool:
        from forcetune import run  # imports torch, which only a driver needs
        from forcetune.study import load_companion_runs, load_study

        try:
            return run.has_run(load_companion_runs(file)) if companions else run.is_over(load_study(file))
        except InputError:  # the ledger is away, as it may have been for the driver
            return False

    command = ["run-companions" if companions else "search", file, "--priority", priority]
    first_run_options = [option for option, is_set in (("--fresh", fresh), ("--retry-failed", retry_failed)) if is_set]
    code = supervisor.supervise(command, client, restarts, is_complete, first_run_options)
    if not companions and code not in supervisor.ANNOUNCED_EXIT_CODES:
        from forcetune import run
        from forcetune.cli import terminal
        from forcetune.study import load_study

        reason = f"the driver of its job died {restarts + 1} times, the last time with exit code {code}"
        run.announce_failure(load_study(file), reason, terminal.console())
    sys.exit(code)


@main.command(hidden=True)
@click.argument("file")
@priority_option
def run_companions(file: str, priority: Priority) -> None:
    """Run the companions that FILE lists."""
    from forcetune import run
    from forcetune.cli import terminal
    from forcetune.study import load_companion_runs

    if end_reason := run.run_companions(load_companion_runs(file), terminal.console(), priority):
        click.echo(end_reason)


def _print_package(package: Package, as_json: bool) -> None:
    left_out = {str(path): secret for path, secret in package.left_out.items()}
    if as_json:
        files = [str(path) for path in package.files]
        print_json({"files": files, "left_out": left_out, "bytes": package.size})
        return
    for path in package.files:
        click.echo(path)
    for name, secret in left_out.items():
        click.echo(f"not sent: {name} (it {secret})")


def _print_job(job: Job, as_json: bool) -> None:
    if as_json:
        print_json(_job_record(job))
    else:
        click.echo(job.id if job.state in ("pending", "running") else f"{job.id} {job.state}")


def _job_record(job: Job) -> dict[str, Any]:
    """Return a job as JSON has it, with times in ISO 8601."""
    from forcetune.formats import iso

    moments = {name: getattr(job, name) for name in ("started", "ended")}
    return {**vars(job), **{name: None if moment is None else iso(moment) for name, moment in moments.items()}}


def _stream_log(job: str, follow: bool, address: str | None) -> Iterator[str]:
    """Yield the pieces of a job's log until Ctrl-C, which ends this command and not the job."""
    from forcetune import jobs

    advice = f"the job continues; `forcetune logs {job} --follow` shows its log, `forcetune stop {job}` stops it"
    with explaining_interrupt(advice):
        yield from jobs.logs(job, follow, address)


def _follow(job: str, address: str | None) -> None:
    """Print a job's log until the job ends, and exit with the job's exit code."""
    from forcetune import jobs

    for piece in _stream_log(job, True, address):
        click.echo(piece, nl=False, err=True)
    ended_job = jobs.get(job, address)
    sys.exit({"succeeded": 0, "stopped": INTERRUPTED}.get(ended_job.state, ended_job.exit_code or FAILED))
