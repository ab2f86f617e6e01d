"""The commands that start MLflow's server and Optuna Dashboard on a store; no argument holds a store's address."""

from __future__ import annotations

import os
import sys

from forcetune.local.service import LOOPBACK
from forcetune.stores import sqlite_path


def mlflow_server(store: str, port: int) -> tuple[list[str], dict[str, str]]:
    """Return the command that starts MLflow's server on an existing store, and its environment.

    The server reads artifacts where the runs say that they are, and serves none from a folder of its own.
    """
    command = [sys.executable, "-m", "mlflow", "server", "--host", LOOPBACK, "--port", str(port), "--workers", "1"]
    command += ["--no-serve-artifacts", "--uvicorn-opts", "--no-access-log"]
    path = sqlite_path(store)
    if path:  # so that experiments made in the UI have the folder that a search uses
        command += ["--default-artifact-root", str(path.parent / "mlruns")]
    server_variables = {
        "MLFLOW_BACKEND_STORE_URI": store,
        "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
        "MLFLOW_DISABLE_TELEMETRY": "true",
    }
    return command, {**_inherited_environment(), **server_variables}


def optuna_dashboard(store: str, port: int) -> tuple[list[str], dict[str, str]]:
    """Return the command that starts Optuna Dashboard on an existing storage, and its environment."""
    command = [sys.executable, "-m", "forcetune.local.optuna_dashboard", LOOPBACK, str(port)]
    return command, {**_inherited_environment(), "FORCETUNE_STORAGE": store}


def _inherited_environment() -> dict[str, str]:
    """Return the environment without variables that configure MLflow's server; those for artifacts on S3 stay."""
    kept = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith("MLFLOW_") or name.startswith("MLFLOW_S3_")
    }
    return {**kept, "PYTHONSAFEPATH": "1"}  # no module of the current folder replaces one of the servers' own
