"""A service on this machine, and the jobs of a cluster."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from rich.console import Console

from forcetune.show.layout import console, ruled

if TYPE_CHECKING:
    from forcetune.jobs import Job
    from forcetune.service import Service


def service(found: Service, new: bool) -> None:
    """What runs on this machine, and how it is reached."""
    from forcetune.stores import shown

    out = Console(soft_wrap=True, highlight=False)
    out.print("started" if new else "runs already")
    rows = {
        "Ray": f"{found.ray}  dashboard and jobs; its token: {found.token}",
        "MLflow": f"{found.mlflow}  {shown(found.backend)}",
        "Optuna": shown(found.storage),
        "Prometheus": found.metrics,
    }
    for name, told in rows.items():
        out.print(f"{name:<10}  {told}")
    for process, address, port in found.exposed():
        out.print(f"listens beyond loopback: {process} on {address}, port {port}")
    out.print("`forcetune submit FILE` in this folder finds them; elsewhere:")
    for name, value in found.variables.items():
        out.print(f"export {name}={value}")


def jobs(found: list[Job]) -> None:
    """Jobs, the latest first, and below them why those failed that did."""
    from forcetune.times import duration

    if not found:
        console().print("the cluster has no job of forcetune")
        return
    table = ruled("job", "study", "state", "trials", "front", "hypervolume", "age", "owner", left=3)
    table.columns[-1].justify = "left"
    for job in found:
        trials = f"{'-' if job.done is None else job.done} of {'?' if job.trials is None else job.trials}"
        front = "-" if job.front is None else f"{job.front} points"
        volume = "-" if job.hypervolume is None else f"{job.hypervolume:.3f}"
        age = "-" if job.started is None else duration(time.time() - job.started)
        state = f"{job.state}, low priority" if job.priority == "low" else job.state
        table.add_row(job.id, job.study, state, trials, front, volume, age, job.owner)
    console().print(table)
    for job in found:
        if job.reason:
            console().print(f"{job.id}: {job.reason}", soft_wrap=True, highlight=False)
