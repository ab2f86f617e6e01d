"""The place where companions run: this process, or a job on the cluster at an address."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from rich.console import Console

from forcetune import jobs, run
from forcetune.errors import StoppedError
from forcetune.names import COMPANION
from forcetune.search.printing import print_line
from forcetune.stores import is_http, ray_address
from forcetune.study import CompanionRuns, Priority

Sender = Callable[[CompanionRuns], str | None]  # returns the reason where the runs end early, else None


def make_sender(console: Console, priority: Priority, address: str | None = None) -> Sender:
    """Return a function that runs companions to their end.

    It submits a job where `address`, or else RAY_ADDRESS, is the address of a dashboard; else it runs them in this
    process.

    Args:
        console: Prints the progress.
        priority: The priority of the runs on a cluster.
        address: The address of the cluster's dashboard; None takes RAY_ADDRESS.
    """
    job_address = address or ray_address()
    if is_http(job_address):
        return lambda companion_runs: _run_as_job(companion_runs, job_address, priority, console)
    return lambda companion_runs: run.run_companions(companion_runs, console, priority)


def _run_as_job(companion_runs: CompanionRuns, address: str, priority: Priority, console: Console) -> str | None:
    """Submit a job, once no other job runs the study's companions, and wait for its end.

    The log of the job says why, where the runs end early.
    """
    say = partial(print_line, console)
    if other := jobs.find_running(companion_runs.study.study + COMPANION, address):
        say(f"{other.id} of {other.owner} runs companions of {companion_runs.study.study}; waiting for it to end")
        jobs.wait(other.id, address)
    job = jobs.submit_companions(companion_runs, address, priority, say=say)
    say(f"{job.id}: {len(companion_runs.companions)} runs; `forcetune logs {job.id} --follow` shows its log")
    ended = jobs.wait(job.id, address)
    if ended.state != "succeeded":
        raise StoppedError(
            f"the job {job.id} {ended.state}: {ended.reason or 'unknown reason'}. Its finished runs are kept; run the "
            "same command again to continue"
        )
    return None
