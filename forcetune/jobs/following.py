"""The life of a job after its submission: its log, the wait for its end, and its stop."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import suppress

from forcetune.jobs.client import connect_client
from forcetune.jobs.listing import LIVE_STATES, Job, find_job, get
from forcetune.jobs.submission import ACCEPT_PATIENCE_S, JOB_STOP_GRACE_S

JOB_POLL_S = 2.0  # between two looks at a job while `wait` waits for its end


def logs(job: str, follow: bool = False, address: str | None = None) -> Iterator[str]:
    """Yield what a job has printed.

    Args:
        job: The job's name.
        follow: Whether to go on until the job ends.
        address: The address of the cluster's dashboard, as in `submit`.

    Yields:
        The pieces of the log, in order.

    Raises:
        InputError: The cluster has no such job.
    """
    with connect_client(address) as client:
        find_job(client, job)
        if not follow:
            yield client.get_job_logs(job)
            return
        yield from _follow(client.tail_job_logs(job))


def wait(job: str, address: str | None = None) -> Job:
    """Wait until a job has ended, and return it.

    Args:
        job: The job's name.
        address: The address of the cluster's dashboard, as in `submit`.

    Raises:
        InputError: The cluster has no such job, or does not answer any more.
    """
    while (current := get(job, address)).state in LIVE_STATES:
        time.sleep(JOB_POLL_S)
    return current


def stop(job: str, address: str | None = None) -> Job:
    """Stop a job and wait until it has ended; its running trials are handed back.

    A job that has ended already stays as it is.

    Args:
        job: The job's name.
        address: The address of the cluster's dashboard, as in `submit`.

    Returns:
        The job in its last state.

    Raises:
        InputError: The cluster has no such job.
    """
    with connect_client(address) as client:
        current = find_job(client, job)
        if current.state in LIVE_STATES:
            client.stop_job(job)
        deadline = time.monotonic() + JOB_STOP_GRACE_S + ACCEPT_PATIENCE_S
        while current.state in LIVE_STATES and time.monotonic() < deadline:
            time.sleep(0.3)
            current = find_job(client, job)
        return current


def _follow(pieces: AsyncIterator[str]) -> Iterator[str]:
    async def get_next() -> str:
        return await anext(pieces)

    loop = asyncio.new_event_loop()
    task: asyncio.Task[str] | None = None
    try:
        while True:
            task = loop.create_task(get_next())
            try:
                yield loop.run_until_complete(task)
            except StopAsyncIteration:
                return
    finally:
        if task and not task.done():  # an interrupt leaves it waiting
            task.cancel()
            with suppress(asyncio.CancelledError, Exception):  # the interrupt matters more
                loop.run_until_complete(task)
        loop.run_until_complete(pieces.aclose())  # type: ignore[attr-defined]
        loop.close()
