"""The submission of a study as a job, new or resumed: what is sent, and the wait until the cluster accepts it."""

from __future__ import annotations

import json
import os
import shlex
import socket
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

from forcetune.errors import HeldError, InputError
from forcetune.jobs.client import connect_client
from forcetune.jobs.listing import LIVE_STATES, Job, find_job, find_last_line, list_jobs
from forcetune.jobs.package import Package, format_size, locate_in_archive, pack
from forcetune.jobs.supervisor import ACCEPTED_LINE, collect_versions
from forcetune.names import COMPANION
from forcetune.stores import STORE_VARIABLES, has_password, hide_password, sqlite_path
from forcetune.study import CompanionRuns, Priority, Study, load_study
from forcetune.temporary import make_folder

if TYPE_CHECKING:
    from ray.job_submission import JobSubmissionClient

JOB_STOP_GRACE_S = 60  # for a stopped job to hand back its trials; Ray's default is 3 s
ACCEPT_PATIENCE_S = 20.0  # for a cluster to confirm the client's versions
ENTRYPOINT_PREFIX = "exec python -m forcetune "  # by which a job of forcetune is known
ONE_TIME_OPTIONS = ["--fresh", "--retry-failed"]  # of a job; the job that resumes it must not have them


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
        ended_job = find_job(client, job)
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
        raise InputError(f"the cluster refused the job: {find_last_line(str(error))}") from None
    return _wait_until_accepted(client, job)


def _refuse_second(client: JobSubmissionClient, study: str) -> list[Job]:
    """Return the jobs that a study had; raise HeldError where one of them runs."""
    study_jobs = [job for job in list_jobs(client) if job.study == study]
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
        current = find_job(client, job)
        log = client.get_job_logs(job) if current.state != "pending" else ""
        if ACCEPTED_LINE in log or current.state in ("stopped", "succeeded") or time.monotonic() > deadline:
            return current
        if current.state == "failed":
            raise InputError(f"the job {job} was not accepted: {find_last_line(log) or current.reason}")
        time.sleep(0.2)


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
