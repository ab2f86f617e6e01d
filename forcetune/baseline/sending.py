"""Where companions run: in this process, or as a job on the cluster that is named."""

from __future__ import annotations

from collections.abc import Callable

from rich.console import Console

from forcetune import jobs, search
from forcetune.errors import StoppedError
from forcetune.names import COMPANION
from forcetune.spec import CompanionRuns, Priority
from forcetune.stores import ray_address

Send = Callable[[CompanionRuns], str | None]  # runs an errand to its end; why it ended before that


def sender(console: Console, priority: Priority, address: str | None = None) -> Send:
    """What runs errands: jobs at `address`, or at RAY_ADDRESS where it is a dashboard's; else this process does."""
    named = address or ray_address()
    if named.startswith(("http://", "https://")):
        return lambda companion_runs: _as_job(companion_runs, named, priority, console)
    return lambda companion_runs: search.run_companions(companion_runs, console, priority)


def _as_job(companion_runs: CompanionRuns, address: str, priority: Priority, console: Console) -> str | None:
    """Submit, once no other job runs the study's companions, and wait; why it ended early stands in the job's log."""

    def say(line: str) -> None:
        console.print(line, soft_wrap=True, highlight=False)

    if other := jobs.running(companion_runs.study.study + COMPANION, address):
        say(f"{other.id} of {other.owner} runs companions of {companion_runs.study.study}; waiting for it to end")
        jobs.wait(other.id, address)
    job = jobs.submit_companions(companion_runs, address, priority, say=say)
    say(f"{job.id}: {len(companion_runs.companions)} runs; `forcetune logs {job.id} --follow` shows it")
    ended = jobs.wait(job.id, address)
    if ended.state != "succeeded":
        raise StoppedError(
            f"the job {job.id} {ended.state}: {ended.reason or 'no reason is known'}. What it has run is kept, and the "
            "same command goes on"
        )
    return None
