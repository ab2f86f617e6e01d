"""Studies as jobs on a Ray cluster: submitted, listed, followed, stopped, resumed."""

from forcetune.jobs.following import logs, stop, wait
from forcetune.jobs.listing import LIVE_STATES, Job, State, find_running, get, jobs
from forcetune.jobs.submission import preview, resume, submit, submit_companions

__all__ = [
    "LIVE_STATES",
    "Job",
    "State",
    "find_running",
    "get",
    "jobs",
    "logs",
    "preview",
    "resume",
    "stop",
    "submit",
    "submit_companions",
    "wait",
]
