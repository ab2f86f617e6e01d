"""MLflow's UI and Optuna Dashboard, started where they are missing, on loopback alone."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from dataclasses import replace
from threading import Event

from forcetune.local.children import Children
from forcetune.local.dashboards import MLFLOW, Link, find
from forcetune.local.links import find_links
from forcetune.local.service import LOOPBACK, free_port
from forcetune.stores import sqlite_path

# The command `optuna-dashboard` takes the address of a storage, which may hold a password, only as an argument. The
# script adds that argument inside the process: the system shows other accounts those that the process was started with.
OPTUNA_DASHBOARD_SCRIPT = """
import importlib.metadata, os, sys
sys.argv.append(os.environ["FORCETUNE_STORAGE"])
importlib.metadata.entry_points(group="console_scripts")["optuna-dashboard"].load()()
"""


def run(study: str | None, stop: Event, on_open: Callable[[list[Link]], None], start_limit_s: float) -> None:
    """Start the missing dashboards of the current folder, or of the stores that the environment names, until `stop`.

    Dashboards that were started here end with this call, and die with this process where it is killed.

    Args:
        study: The study whose pages the links lead to.
        stop: Ends the call once it is set.
        on_open: Called once with the links, when all dashboards answer.
        start_limit_s: Seconds that each started dashboard may take to answer.

    Raises:
        InputError: There is nothing to show, or no such study.
        StoppedError: A dashboard does not start; none is left running.
    """
    dashboards = find()
    if study:
        find_links(study, dashboards)  # an unknown study is refused before anything is started
    with Children() as children:
        dashboards = [_start(dashboard, children) for dashboard in dashboards]
        children.wait(stop, start_limit_s)
        if not stop.is_set():
            on_open(find_links(study, dashboards))
            stop.wait()


def _start(dashboard: Link, children: Children) -> Link:
    """Return the dashboard with its address, after starting it where only its store exists."""
    if dashboard.address or not dashboard.store:
        return dashboard
    is_mlflow = dashboard.name == MLFLOW
    port = free_port(5000 if is_mlflow else 8080)  # the defaults of their own commands
    address = f"http://{LOOPBACK}:{port}"
    command, variables = (mlflow_server if is_mlflow else optuna_dashboard)(dashboard.store, port)
    health = f"{address}/health" if is_mlflow else f"{address}/api/studies"
    children.start(dashboard.name, command, {**_inherited_environment(), **variables}, health)
    return replace(dashboard, address=address)


def mlflow_server(store: str, port: int) -> tuple[list[str], dict[str, str]]:
    """Return the command that starts MLflow's server on an existing store, and the variables that it needs.

    The server reads artifacts where the runs say that they are, and serves none from a folder of its own.
    """
    command = [sys.executable, "-m", "mlflow", "server", "--host", LOOPBACK, "--port", str(port), "--workers", "1"]
    command += ["--no-serve-artifacts", "--uvicorn-opts", "--no-access-log"]
    if path := sqlite_path(store):  # so that experiments made in the UI have the folder that a search uses
        command += ["--default-artifact-root", str(path.parent / "mlruns")]
    variables = {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false", "MLFLOW_DISABLE_TELEMETRY": "true"}
    return command, {**variables, "MLFLOW_BACKEND_STORE_URI": store}


def optuna_dashboard(store: str, port: int) -> tuple[list[str], dict[str, str]]:
    """Return the command that starts Optuna Dashboard on an existing storage, and the variables that it needs."""
    options = ["--host", LOOPBACK, "--port", str(port), "--server", "wsgiref"]
    return [sys.executable, "-c", OPTUNA_DASHBOARD_SCRIPT, *options], {"FORCETUNE_STORAGE": store}


def _inherited_environment() -> dict[str, str]:
    """Return the environment without variables that configure MLflow's server; those for artifacts on S3 stay."""
    names = [name for name in os.environ if name.startswith("MLFLOW_S3_") or not name.startswith("MLFLOW_")]
    inherited = {name: os.environ[name] for name in names}
    return {**inherited, "PYTHONSAFEPATH": "1"}  # no module of the current folder replaces one of the servers' own
