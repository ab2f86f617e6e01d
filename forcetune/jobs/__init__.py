"""Studies as jobs on a Ray cluster: submitted, listed, followed, stopped, resumed."""

from __future__ import annotations

import asyncio
import json
import os
import shlex
import socket
import time
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, get_args

from forcetune.errors import HeldError, InputError
from forcetune.jobs.client import connect_client
from forcetune.jobs.package import Package, format_size, locate_in_archive, pack
from forcetune.jobs.supervisor import ACCEPTED_LINE, collect_versions
from forcetune.local import service
from forcetune.names import COMPANION, suggestion
from forcetune.stores import STORE_VARIABLES, has_password, hide_password, sqlite_path
from forcetune.study import CompanionRuns, Priority, Study, load_study
from forcetune.temporary import make_folder

if TYPE_CHECKING:
    from ray.job_submission import JobDetails, JobSubmissionClient

State = Literal["pending", "running", "stopped", "failed", "succeeded"]

LIVE_STATES = ("pending", "running")
JOB_POLL_S = 2.0  # between two looks at a job while `wait` waits for its end
JOB_STOP_GRACE_S = 60  # for a stopped job to hand back its trials; Ray's default is 3 s
ACCEPT_PATIENCE_S = 20.0  # for a cluster to confirm the client's versions
ENTRYPOINT_PREFIX = "exec python -m forcetune "  # by which a job of forcetune is known
ONE_TIME_OPTIONS = ["--fresh", "--retry-failed"]  # of a job; the job that resumes it must not have them


@dataclass(frozen=True)
class Job:
    """A job of forcetune on a cluster.

    Attributes:
        id: The job's name on the cluster.
        study: The name of its study.
        state: Its state.
        owner: The user who submitted it, USER@HOST.
        priority: Its priority among the studies of the cluster.
        started: The time of its start, in seconds since 1970.
        ended: The time of its end, in seconds since 1970; None while it runs.
        exit_code: The exit code of its driver.
        reason: The last line of a failed job's message.
        trials: The number of trials that the study asks for.
        done: The number of trials that have ended, None where MLflow has no such number.
        front: The number of points on the front, None where MLflow has no such number.
        hypervolume: The hypervolume of the front, None where MLflow has none.
    """

    id: str
    study: str
    state: State
    owner: str
    priority: Priority
    started: float | None
    ended: float | None = None
    exit_code: int | None = None
    reason: str | None = None
    trials: int | None = None
    done: int | None = None
    front: int | None = None
    hypervolume: float | None = None


def submit(
    file: str | Path,
    address: str | None = None,
    priority: Priority = "normal",
    restarts: int = 3,
    fresh: bool = False,
    retry_failed: bool = False,
    say: Callable[[str], None] = lambda line: None,
) -> Job:
    """Send a study to a cluster, where the search goes on from the study's trials; wait until the job is accepted.

    Args:
        file: The study file.
        address: The address of the cluster's dashboard, http://HOST:8265; RAY_ADDRESS or the service of the current
            folder where it is None.
        priority: The priority among the studies of the cluster: those of low priority get what the others leave.
        restarts: How often a driver that dies is started again.
        fresh: Whether to archive first what the stores have under the study's name.
        retry_failed: Whether to run the failed trials again.
        say: Called with a line of text on what is sent.

    Returns:
        The job that the cluster has accepted.

    Raises:
        InputError: The file, the code that it ships or a store's address cannot be used; no cluster answers; or the
            cluster has other versions. Nothing has run then.
        HeldError: A job runs the study already.
    """
    if priority not in get_args(Priority):
        raise InputError(f"priority {priority!r}; allowed: {', '.join(get_args(Priority))}")
    study = load_study(file)
    options = [option for option, is_set in zip(ONE_TIME_OPTIONS, (fresh, retry_failed), strict=True) if is_set]
    return _send(str(file), Path(file), study, _metadata(study, priority), address, options, restarts, say)


def preview(file: str | Path) -> Package:
    """Return what `submit` would send of a study, without a cluster; the archive itself is deleted.

    Args:
        file: The study file.

    Raises:
        InputError: The file, or the code that it ships, cannot be used.
    """
    study = load_study(file)
    with make_folder("job") as folder:
        return _pack(str(file), Path(file), study, folder.path / "code.zip")


def submit_companions(
    companion_runs: CompanionRuns,
    address: str | None = None,
    priority: Priority = "normal",
    restarts: int = 3,
    say: Callable[[str], None] = lambda line: None,
) -> Job:
    """Send the listed companions of a study to a cluster, where `run.run_companions` runs them.

    Args:
        companion_runs: The study and its listed companions.
        address: The address of the cluster's dashboard, as in `submit`.
        priority: The priority among the studies of the cluster.
        restarts: How often a driver that dies is started again.
        say: Called with a line of text on what is sent.

    Returns:
        The job that the cluster has accepted; its study is the companion.

    Raises:
        InputError: As in `submit`.
        HeldError: A job runs the companion already.
    """
    metadata = _metadata(companion_runs.study, priority)
    metadata |= {
        "forcetune.study": companion_runs.study.study + COMPANION,
        "forcetune.trials": str(len(companion_runs.companions)),
    }
    with make_folder("companions") as folder:
        file = folder.path / "companions.json"
        file.write_text(json.dumps(companion_runs.plain()))
        return _send(
            companion_runs.study.study, file, companion_runs.study, metadata, address, ["--companions"], restarts, say
        )


def _send(
    name: str,
    file: Path,
    study: Study,
    metadata: dict[str, str],
    address: str | None,
    options: Sequence[str],
    restarts: int,
    say: Callable[[str], None],
) -> Job:
    stores = _collect_store_uris()
    with make_folder("job") as folder:
        package = _pack(name, file, study, folder.path / "code.zip")
        for path, secret in package.left_out.items():
            say(f"{metadata['forcetune.study']}: not sent: {path} (it {secret})")
        with connect_client(address) as client:
            count = len(package.files)
            say(f"{metadata['forcetune.study']}: {count} file{'s' if count > 1 else ''}, {format_size(package.size)}")
            environment: dict[str, Any] = {
                "working_dir": str(package.path),
                "env_vars": {**stores, **_origin(), "RAY_JOB_STOP_WAIT_TIME_S": str(JOB_STOP_GRACE_S)},
                **({"pip": list(study.shipped_code.pip)} if study.shipped_code.pip else {}),
            }
            archived_file = locate_in_archive(file, Path.cwd().resolve()).as_posix()
            command = ["supervise", archived_file, "--client", _format_versions(), "--restarts", str(restarts)]
            command += ["--priority", metadata["forcetune.priority"], *options]
            return _start_job(client, command, environment, metadata)


def _pack(name: str, file: Path, study: Study, target: Path) -> Package:
    try:
        return pack(file, study, target)
    except InputError as error:
        raise InputError(f"{name}: {error}") from None


def jobs(address: str | None = None, say: Callable[[str], None] = lambda line: None) -> list[Job]:
    """Return all jobs of forcetune on the cluster, the latest first, with the progress of their studies from MLflow.

    Args:
        address: The address of the cluster's dashboard, as in `submit`.
        say: Called with the reason where MLflow cannot be read; `done`, `front` and `hypervolume` are None then.

    Raises:
        InputError: No cluster answers.
    """
    with connect_client(address) as client:
        cluster_jobs = _list_jobs(client)
    progress_by_study = _load_progress(say) if cluster_jobs else {}
    return [_add_progress(job, progress_by_study.get(job.study, {})) for job in cluster_jobs]


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
        _find_job(client, job)
        if not follow:
            yield client.get_job_logs(job)
            return
        yield from _follow(client.tail_job_logs(job))


def get(job: str, address: str | None = None) -> Job:
    """Return a job in its present state.

    Args:
        job: The job's name.
        address: The address of the cluster's dashboard, as in `submit`.

    Raises:
        InputError: The cluster has no such job.
    """
    with connect_client(address) as client:
        return _find_job(client, job)


def find_running(study: str, address: str | None = None) -> Job | None:
    """Return the job that runs a study, None where none does.

    Args:
        study: The name of the study.
        address: The address of the cluster's dashboard, as in `submit`.
    """
    with connect_client(address) as client:
        return next((job for job in _list_jobs(client) if job.study == study and job.state in LIVE_STATES), None)


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
        current = _find_job(client, job)
        if current.state in LIVE_STATES:
            client.stop_job(job)
        deadline = time.monotonic() + JOB_STOP_GRACE_S + ACCEPT_PATIENCE_S
        while current.state in LIVE_STATES and time.monotonic() < deadline:
            time.sleep(0.3)
            current = _find_job(client, job)
        return current


def resume(job: str, address: str | None = None) -> Job:
    """Start a job that has ended again, as a new job of the same study with the same code.

    Args:
        job: The job's name.
        address: The address of the cluster's dashboard, as in `submit`.

    Returns:
        The new job.

    Raises:
        InputError: The cluster has no such job, or no longer has its code.
        HeldError: A job runs the study already.
    """
    with connect_client(address) as client:
        ended_job = _find_job(client, job)
        details = client.get_job_info(job)
        environment = dict(details.runtime_env or {})
        code = str(environment.get("working_dir"))
        if not client._package_exists(code):
            raise InputError(
                f"the cluster no longer has the code of the job {job}; `forcetune submit FILE` sends it again and "
                f"continues the study {ended_job.study!r}"
            )
        if not details.entrypoint.startswith(ENTRYPOINT_PREFIX):
            raise InputError(
                f"the job {job} was not submitted by forcetune; start it again with the tool that submitted it"
            )
        command = shlex.split(details.entrypoint.removeprefix(ENTRYPOINT_PREFIX))
        command[command.index("--client") + 1] = _format_versions()
        command = [word for word in command if word not in ONE_TIME_OPTIONS]
        return _start_job(client, command, environment, dict(details.metadata or {}))


def _start_job(
    client: JobSubmissionClient, command: Sequence[str], environment: dict[str, Any], metadata: dict[str, str]
) -> Job:
    """Submit a job under the study's next number; Ray refuses a number that another user has just taken."""
    study = metadata["forcetune.study"]
    number = 1 + max((_parse_number(job) for job in _refuse_second(client, study)), default=0)
    job = f"{study}-{number}"
    try:
        client.submit_job(
            entrypoint=f"{ENTRYPOINT_PREFIX}{shlex.join(command)}",
            submission_id=job,
            runtime_env=environment,
            metadata=metadata,
        )
    except RuntimeError as error:
        _refuse_second(client, study)
        raise InputError(f"the cluster refused the job: {_find_last_line(str(error))}") from None
    return _wait_until_accepted(client, job)


def _refuse_second(client: JobSubmissionClient, study: str) -> list[Job]:
    """Return the jobs that a study had; raise HeldError where one of them runs."""
    study_jobs = [job for job in _list_jobs(client) if job.study == study]
    for job in study_jobs:
        if job.state in LIVE_STATES:
            raise HeldError(
                f"the study {study!r} is already running, as the job {job.id} of {job.owner}; "
                f"`forcetune logs {job.id} --follow` shows its log"
            )
    return study_jobs


def _metadata(study: Study, priority: Priority) -> dict[str, str]:
    """Return the metadata that Ray keeps with a job, from which `jobs` lists it."""
    from forcetune.tracking.origin import find_user

    return {
        "forcetune.study": study.study,
        "forcetune.trials": str(study.trials),
        "forcetune.priority": priority,
        "forcetune.owner": f"{find_user() or os.getuid()}@{socket.gethostname()}",
    }


def _origin() -> dict[str, str]:
    """Return the variable that gives the job's runs in MLflow the owner's name and commit, not the cluster's."""
    from forcetune import tracking

    return {tracking.RUN_CONTEXT_VARIABLE: json.dumps(tracking.collect_origin_tags("JOB"))}


def _format_versions() -> str:
    return ",".join(f"{name}={text}" for name, text in collect_versions().items())


def _parse_number(job: Job) -> int:
    """Return a job's number among the jobs of its study; 0 for a job that was not named by forcetune."""
    suffix = job.id.rpartition("-")[2]
    return int(suffix) if suffix.isdigit() else 0


def _wait_until_accepted(client: JobSubmissionClient, job: str) -> Job:
    """Return the job once its supervisor has compared the versions; raise InputError where they differ."""
    deadline = time.monotonic() + ACCEPT_PATIENCE_S
    while True:
        current = _find_job(client, job)
        log = client.get_job_logs(job) if current.state != "pending" else ""
        if ACCEPTED_LINE in log or current.state in ("stopped", "succeeded") or time.monotonic() > deadline:
            return current
        if current.state == "failed":
            raise InputError(f"the job {job} was not accepted: {_find_last_line(log) or current.reason}")
        time.sleep(0.2)


def _list_jobs(client: JobSubmissionClient) -> list[Job]:
    all_jobs = [_read_job(details) for details in client.list_jobs() if "forcetune.study" in (details.metadata or {})]
    return sorted(all_jobs, key=lambda job: -(job.started or 0))


def _find_job(client: JobSubmissionClient, job: str) -> Job:
    all_jobs = _list_jobs(client)
    for candidate in all_jobs:
        if candidate.id == job:
            return candidate
    names = [candidate.id for candidate in all_jobs]
    raise InputError(
        f"the cluster has no job {job!r} of forcetune{suggestion(job, names)}; its jobs: {', '.join(names) or 'none'}"
    )


def _read_job(details: JobDetails) -> Job:
    metadata: Mapping[str, str] = details.metadata
    state = details.status.value.lower()
    trials = metadata.get("forcetune.trials")
    return Job(
        id=details.submission_id,
        study=metadata["forcetune.study"],
        state=state,
        owner=metadata.get("forcetune.owner", "?"),
        priority="low" if metadata.get("forcetune.priority") == "low" else "normal",
        started=details.start_time / 1000 if details.start_time else None,
        ended=details.end_time / 1000 if details.end_time else None,
        exit_code=details.driver_exit_code,
        reason=_find_last_line(details.message or "") if state == "failed" else None,
        trials=int(trials) if trials else None,
    )


def _find_last_line(text: str) -> str:
    """Return the last line that is not blank, stripped; "" where there is none."""
    return next((line.strip() for line in reversed(text.splitlines()) if line.strip()), "")


def _collect_store_uris() -> dict[str, str]:
    """Return the addresses of the stores that this shell names, for the job; the cluster has its own for the others.

    No address may have a password: all who reach the Jobs API can read them.
    """
    uris = {name: uri for name in STORE_VARIABLES if (uri := os.environ.get(name))}
    for name, uri in uris.items():
        if has_password(uri):
            raise InputError(
                f"{name} {hide_password(uri)} has a password in it, which every user of the cluster could read; keep "
                "the password in a file on the cluster (postgresql://USER@HOST/DATABASE?passfile=FILE), or set "
                f"{name} where the cluster is started instead of here"
            )
        if sqlite_path(uri) is not None:
            raise InputError(
                f"{name} is {uri}, a file that the cluster's machines do not share; allowed for a job: the address of "
                f"a server. Unset {name} to use the cluster's own store"
            )
    if mlflow := uris.get("MLFLOW_TRACKING_URI"):
        from forcetune.tracking import check_answers

        check_answers(mlflow)
    return uris


def _load_progress(say: Callable[[str], None]) -> dict[str, dict[str, float]]:
    """Return the progress of each study from MLflow; an empty dictionary where no server is known or none answers."""
    local_service = service.find()
    uri = os.environ.get("MLFLOW_TRACKING_URI") or (local_service.mlflow if local_service else None)
    if uri is None:
        say("trials done and fronts are unknown, because only MLflow has them: set MLFLOW_TRACKING_URI to its address")
        return {}
    from forcetune.tracking import load_progress

    try:
        return load_progress(uri)
    except InputError as error:
        say(str(error))
        return {}


def _add_progress(job: Job, progress: Mapping[str, float]) -> Job:
    done, front = (int(progress[name]) if name in progress else None for name in ("trials_done", "front"))
    return replace(job, done=done, front=front, hypervolume=progress.get("hypervolume"))


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
