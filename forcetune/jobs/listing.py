"""The jobs of forcetune on a cluster, as Ray lists them, and the progress of their studies, from MLflow."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal

from forcetune.errors import InputError
from forcetune.jobs.client import connect_client
from forcetune.local import service
from forcetune.names import suggestion
from forcetune.study import Priority

if TYPE_CHECKING:
    from ray.job_submission import JobDetails, JobSubmissionClient

State = Literal["pending", "running", "stopped", "failed", "succeeded"]

LIVE_STATES = ("pending", "running")


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


def jobs(address: str | None = None, say: Callable[[str], None] = lambda line: None) -> list[Job]:
    """Return all jobs of forcetune on the cluster, the latest first, with the progress of their studies from MLflow.

    Args:
        address: The address of the cluster's dashboard, as in `submit`.
        say: Called with the reason where MLflow cannot be read; `done`, `front` and `hypervolume` are None then.

    Raises:
        InputError: No cluster answers.
    """
    with connect_client(address) as client:
        cluster_jobs = list_jobs(client)
    progress_by_study = _load_progress(say) if cluster_jobs else {}
    return [_add_progress(job, progress_by_study.get(job.study, {})) for job in cluster_jobs]


def get(job: str, address: str | None = None) -> Job:
    """Return a job in its present state.

    Args:
        job: The job's name.
        address: The address of the cluster's dashboard, as in `submit`.

    Raises:
        InputError: The cluster has no such job.
    """
    with connect_client(address) as client:
        return find_job(client, job)


def find_running(study: str, address: str | None = None) -> Job | None:
    """Return the job that runs a study, None where none does.

    Args:
        study: The name of the study.
        address: The address of the cluster's dashboard, as in `submit`.
    """
    with connect_client(address) as client:
        return next((job for job in list_jobs(client) if job.study == study and job.state in LIVE_STATES), None)


def list_jobs(client: JobSubmissionClient) -> list[Job]:
    """Return all jobs of forcetune on a cluster, the latest first, without the progress of their studies."""
    all_jobs = [_read_job(details) for details in client.list_jobs() if "forcetune.study" in (details.metadata or {})]
    return sorted(all_jobs, key=lambda job: -(job.started or 0))


def find_job(client: JobSubmissionClient, job: str) -> Job:
    """Return the job of this name.

    Raises:
        InputError: The cluster has no such job.
    """
    all_jobs = list_jobs(client)
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
        reason=find_last_line(details.message or "") if state == "failed" else None,
        trials=int(trials) if trials else None,
    )


def find_last_line(text: str) -> str:
    """Return the last line that is not blank, stripped; "" where there is none."""
    return next((line.strip() for line in reversed(text.splitlines()) if line.strip()), "")


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
