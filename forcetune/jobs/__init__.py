"""Studies as jobs on a Ray cluster: submitted, listed, followed, stopped, resumed."""

from __future__ import annotations

import asyncio
import getpass
import json
import os
import shlex
import socket
import time
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, get_args

from forcetune import service
from forcetune.errors import HeldError, InputError
from forcetune.jobs.client import connected
from forcetune.jobs.package import Package, pack, placed, told
from forcetune.jobs.supervisor import ACCEPTED, STORES, versions
from forcetune.names import COMPANION, suggestion
from forcetune.spec import CompanionRuns, Priority, Study, load
from forcetune.stores import has_password, shown, sqlite_path
from forcetune.temporary import make_folder

if TYPE_CHECKING:
    from ray.job_submission import JobDetails, JobSubmissionClient

State = Literal["pending", "running", "stopped", "failed", "succeeded"]

LIVE = ("pending", "running")
WAITING = 2.0  # seconds between two looks at a job that is waited for
GRACE = 60  # seconds that a job gets to hand back its trials when it is stopped; Ray's own are 3
ACCEPTING = 20.0  # seconds within which a cluster that has the client's versions says so
ENTRY = "exec python -m forcetune "  # how a job that was submitted here begins
ONCE = ["--fresh", "--retry-failed"]  # options of a job that are not those of the one that resumes it


@dataclass(frozen=True)
class Job:
    """A job of forcetune's: which study, what became of it, whose, and how far the study is.

    started, ended: seconds since 1970; exit_code: of the driver; reason: the last line of a failed job's log;
    trials: how many the study shall have; done, front, hypervolume: trials ended, points of the front and what it
    covers, as MLflow has them, None where it has none.
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
    """Send a study to a cluster, which goes on where the study was; returns once the cluster has accepted it.

    address: of the dashboard, http://HOST:8265; RAY_ADDRESS or the service of the current folder where it is not
    given. restarts: of a driver that dies. retry_failed: run the failed trials again. say: is told what is
    sent, and as what.
    Raises InputError where the file, what it ships or the stores' addresses cannot be used, where no cluster answers
    and where the cluster has other versions; HeldError where a job runs the study already. Nothing has run then.
    """
    if priority not in get_args(Priority):
        raise InputError(f"priority {priority!r}; allowed: {', '.join(get_args(Priority))}")
    study = load(file)
    options = [option for option, wanted in zip(ONCE, (fresh, retry_failed), strict=True) if wanted]
    return _send(str(file), Path(file), study, _metadata(study, priority), address, options, restarts, say)


def preview(file: str | Path) -> Package:
    """Return what `submit` would send of a study, without a cluster; the archive itself is gone.

    Raises:
        InputError: The file, or what it ships, cannot be used.
    """
    study = load(file)
    with make_folder("job") as folder:
        return _pack(str(file), Path(file), study, folder.path / "code.zip")


def submit_companions(
    companion_runs: CompanionRuns,
    address: str | None = None,
    priority: Priority = "normal",
    restarts: int = 3,
    say: Callable[[str], None] = lambda line: None,
) -> Job:
    """Send companions of a study to a cluster, to be run as `search.run_companions` does; a job of the companion.

    Raises as `submit` does.
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
    stores = _stores()
    with make_folder("job") as folder:
        package = _pack(name, file, study, folder.path / "code.zip")
        for path, secret in package.left_out.items():
            say(f"{metadata['forcetune.study']}: left out: {path}, which {secret}")
        with connected(address) as client:
            say(f"{metadata['forcetune.study']}: {_counted(package.files)}, {told(package.size)}")
            environment: dict[str, Any] = {
                "working_dir": str(package.path),
                "env_vars": {**stores, **_origin(), "RAY_JOB_STOP_WAIT_TIME_S": str(GRACE)},
                **({"pip": list(study.shipped.pip)} if study.shipped.pip else {}),
            }
            place = placed(file, Path.cwd().resolve()).as_posix()
            command = ["supervise", place, "--client", _versions(), "--restarts", str(restarts)]
            command += ["--priority", metadata["forcetune.priority"], *options]
            return _start(client, command, environment, metadata)


def _pack(name: str, file: Path, study: Study, target: Path) -> Package:
    try:
        return pack(file, study, target)
    except InputError as error:
        raise InputError(f"{name}: {error}") from None


def jobs(address: str | None = None, say: Callable[[str], None] = lambda line: None) -> list[Job]:
    """All jobs of forcetune's that the cluster knows, the latest first, with what MLflow says of their studies.

    say: is told why where `done`, `front` and `hypervolume` are None since MLflow cannot be asked.
    Raises InputError where no cluster answers.
    """
    with connected(address) as client:
        found = _jobs(client)
    known = _progress(say) if found else {}
    return [_with_progress(job, known.get(job.study, {})) for job in found]


def logs(job: str, follow: bool = False, address: str | None = None) -> Iterator[str]:
    """What a job has printed, piece by piece; with `follow` until it ends. Raises InputError for an unknown job."""
    with connected(address) as client:
        _find(client, job)
        if not follow:
            yield client.get_job_logs(job)
            return
        yield from _followed(client.tail_job_logs(job))


def get(job: str, address: str | None = None) -> Job:
    """One job as it stands. Raises InputError for an unknown one."""
    with connected(address) as client:
        return _find(client, job)


def running(study: str, address: str | None = None) -> Job | None:
    """The job that runs this study, if one does."""
    with connected(address) as client:
        return next((job for job in _jobs(client) if job.study == study and job.state in LIVE), None)


def wait(job: str, address: str | None = None) -> Job:
    """The job once it has ended. Raises InputError for an unknown one, and where the cluster answers no more."""
    while (found := get(job, address)).state in LIVE:
        time.sleep(WAITING)
    return found


def stop(job: str, address: str | None = None) -> Job:
    """Stop a job, its trials in flight handed back, and wait until it has ended; one that has ended stays as it is.

    Raises InputError for an unknown job.
    """
    with connected(address) as client:
        found = _find(client, job)
        if found.state in LIVE:
            client.stop_job(job)
        deadline = time.monotonic() + GRACE + ACCEPTING
        while found.state in LIVE and time.monotonic() < deadline:
            time.sleep(0.3)
            found = _find(client, job)
        return found


def resume(job: str, address: str | None = None) -> Job:
    """Start a job that has ended again, with the code that it had, as a new job of the same study.

    Raises InputError for an unknown job, and where the cluster no longer has its code; HeldError where a job runs the
    study already.
    """
    with connected(address) as client:
        before = _find(client, job)
        details = client.get_job_info(job)
        environment = dict(details.runtime_env or {})
        code = str(environment.get("working_dir"))
        if not client._package_exists(code):
            raise InputError(
                f"the cluster no longer has the code of the job {job}; `forcetune submit FILE` sends it again, and the "
                f"study {before.study!r} goes on where it was"
            )
        if not details.entrypoint.startswith(ENTRY):
            raise InputError(f"the job {job} was not submitted by forcetune; whoever did so can start it again")
        command = shlex.split(details.entrypoint.removeprefix(ENTRY))
        command[command.index("--client") + 1] = _versions()
        command = [word for word in command if word not in ONCE]
        return _start(client, command, environment, dict(details.metadata or {}))


def _start(
    client: JobSubmissionClient, command: Sequence[str], environment: dict[str, Any], metadata: dict[str, str]
) -> Job:
    """Submit under the study's next number: Ray refuses a number that somebody else has just taken."""
    study = metadata["forcetune.study"]
    number = 1 + max((_number(job) for job in _refuse_second(client, study)), default=0)
    job = f"{study}-{number}"
    try:
        client.submit_job(
            entrypoint=f"{ENTRY}{shlex.join(command)}",
            submission_id=job,
            runtime_env=environment,
            metadata=metadata,
        )
    except RuntimeError as error:
        _refuse_second(client, study)
        raise InputError(f"the cluster does not take the job: {_line(str(error))}") from None
    return _accepted(client, job)


def _refuse_second(client: JobSubmissionClient, study: str) -> list[Job]:
    """The jobs that a study had; raises HeldError where one of them runs."""
    found = [job for job in _jobs(client) if job.study == study]
    for job in found:
        if job.state in LIVE:
            raise HeldError(
                f"the study {study!r} runs already, as the job {job.id} of {job.owner}; "
                f"`forcetune logs {job.id} --follow` shows it"
            )
    return found


def _metadata(study: Study, priority: Priority) -> dict[str, str]:
    """What Ray keeps with a job, for whoever lists them."""
    return {
        "forcetune.study": study.study,
        "forcetune.trials": str(study.trials),
        "forcetune.priority": priority,
        "forcetune.owner": f"{getpass.getuser()}@{socket.gethostname()}",
    }


def _origin() -> dict[str, str]:
    """Return the variable by which the job's runs in MLflow have the owner's name and commit, not the cluster's."""
    from forcetune import tracking

    return {tracking.CONTEXT: json.dumps(tracking.origin_tags("JOB"))}


def _counted(files: Sequence[Path]) -> str:
    return f"{len(files)} file{'s' if len(files) > 1 else ''}"


def _versions() -> str:
    return ",".join(f"{name}={text}" for name, text in versions().items())


def _number(job: Job) -> int:
    """Of a study's jobs in order; 0 of one that somebody else has named."""
    last = job.id.rpartition("-")[2]
    return int(last) if last.isdigit() else 0


def _accepted(client: JobSubmissionClient, job: str) -> Job:
    """The job once its supervisor has looked at the versions; raises InputError where they differ."""
    deadline = time.monotonic() + ACCEPTING
    while True:
        found = _find(client, job)
        log = client.get_job_logs(job) if found.state != "pending" else ""
        if ACCEPTED in log or found.state in ("stopped", "succeeded") or time.monotonic() > deadline:
            return found
        if found.state == "failed":
            raise InputError(f"the job {job} was not accepted: {_line(log) or found.reason}")
        time.sleep(0.2)


def _jobs(client: JobSubmissionClient) -> list[Job]:
    found = [_job(details) for details in client.list_jobs() if "forcetune.study" in (details.metadata or {})]
    return sorted(found, key=lambda job: -(job.started or 0))


def _find(client: JobSubmissionClient, job: str) -> Job:
    known = _jobs(client)
    for found in known:
        if found.id == job:
            return found
    names = [found.id for found in known]
    raise InputError(
        f"the cluster has no job {job!r} of forcetune{suggestion(job, names)}; there are: {', '.join(names) or 'none'}"
    )


def _job(details: JobDetails) -> Job:
    known: Mapping[str, str] = details.metadata
    state = details.status.value.lower()
    trials = known.get("forcetune.trials")
    return Job(
        id=details.submission_id,
        study=known["forcetune.study"],
        state=state,
        owner=known.get("forcetune.owner", "?"),
        priority="low" if known.get("forcetune.priority") == "low" else "normal",
        started=details.start_time / 1000 if details.start_time else None,
        ended=details.end_time / 1000 if details.end_time else None,
        exit_code=details.driver_exit_code,
        reason=_line(details.message or "") if state == "failed" else None,
        trials=int(trials) if trials else None,
    )


def _line(text: str) -> str:
    """The last line with something in it."""
    return next((line.strip() for line in reversed(text.splitlines()) if line.strip()), "")


def _stores() -> dict[str, str]:
    """The addresses of the stores that this shell names, for the job; what it does not name the cluster knows.

    Everybody who reaches the Jobs API reads them.
    """
    found = {name: uri for name in STORES if (uri := os.environ.get(name))}
    for name, uri in found.items():
        if has_password(uri):
            raise InputError(
                f"{name} {shown(uri)} has a password in it, which all who reach the cluster would see; keep it in a "
                "password file on the cluster (postgresql://USER@HOST/DATABASE?passfile=FILE), or set the address "
                "where the cluster is started and not here"
            )
        if sqlite_path(uri) is not None:
            raise InputError(
                f"{name} is {uri}, a file that the cluster's machines do not share; allowed for a job: the address of "
                "a server, or nothing where the cluster's own is meant"
            )
    if mlflow := found.get("MLFLOW_TRACKING_URI"):
        from forcetune.tracking import check_answers

        check_answers(mlflow)
    return found


def _progress(say: Callable[[str], None]) -> dict[str, dict[str, float]]:
    """What MLflow says of each study; nothing where no server is known or none answers."""
    here = service.find()
    uri = os.environ.get("MLFLOW_TRACKING_URI") or (here.mlflow if here else None)
    if uri is None:
        say("trials done and fronts are in MLflow, whose address is not known here: set MLFLOW_TRACKING_URI")
        return {}
    from forcetune.tracking import progress

    try:
        return progress(uri)
    except InputError as error:
        say(str(error))
        return {}


def _with_progress(job: Job, known: Mapping[str, float]) -> Job:
    done, front = (int(known[name]) if name in known else None for name in ("trials_done", "front"))
    return replace(job, done=done, front=front, hypervolume=known.get("hypervolume"))


def _followed(pieces: AsyncIterator[str]) -> Iterator[str]:
    loop = asyncio.new_event_loop()
    try:
        while True:
            try:
                yield loop.run_until_complete(anext(pieces))
            except StopAsyncIteration:
                return
    finally:
        loop.run_until_complete(pieces.aclose())  # type: ignore[attr-defined]
        loop.close()
