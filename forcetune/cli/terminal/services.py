"""A service on this machine, and the jobs of a cluster."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from forcetune.cli.terminal.layout import console
from forcetune.report.tables import Table
from forcetune.search.printing import print_line

if TYPE_CHECKING:
    from forcetune.jobs import Job
    from forcetune.local.service import Service


def service(local_service: Service, is_new: bool) -> None:
    """Print what runs on this machine, and how to reach it.

    Args:
        local_service: The service.
        is_new: Whether this command has started it.
    """
    from forcetune.stores import hide_password

    out = console()
    print_line(out, "started" if is_new else "already running")
    rows = {
        "Ray": f"{local_service.ray}  dashboard and jobs; its token: {local_service.token}",
        "MLflow": f"{local_service.mlflow}  {hide_password(local_service.backend)}",
        "Optuna": hide_password(local_service.storage),
        "Prometheus": local_service.metrics,
    }
    for name, description in rows.items():
        print_line(out, f"{name:<10}  {description}")
    for process, address, port in local_service.exposed_ports():
        print_line(out, f"listens beyond loopback: {process} on {address}, port {port}")
    print_line(out, "`forcetune submit FILE` finds them in this folder; in other folders, set:")
    for name, value in local_service.variables.items():
        print_line(out, f"export {name}={value}")


def jobs(cluster_jobs: list[Job]) -> None:
    """Print jobs in their order, and below them why some failed.

    Args:
        cluster_jobs: The jobs of a cluster.
    """
    from forcetune.formats import duration

    if not cluster_jobs:
        print_line(console(), "the cluster has no job of forcetune")
        return
    header = ["job", "study", "state", "trials", "front", "hypervolume", "age", "owner"]
    rows = []
    for job in cluster_jobs:
        trials = f"{'-' if job.done is None else job.done} of {'?' if job.trials is None else job.trials}"
        front = "-" if job.front is None else f"{job.front} points"
        volume = "-" if job.hypervolume is None else f"{job.hypervolume:.3f}"
        age = "-" if job.started is None else duration(time.time() - job.started)
        state = f"{job.state}, low priority" if job.priority == "low" else job.state
        rows.append([job.id, job.study, state, trials, front, volume, age, job.owner])
    console().print(Table(header, rows, {"job", "study", "state", "owner"}).to_terminal())
    for job in cluster_jobs:
        if job.reason:
            print_line(console(), f"{job.id}: {job.reason}")
