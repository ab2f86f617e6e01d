"""The commands that start MLflow's server and Optuna Dashboard on a store; an address never stands in an argument."""

from __future__ import annotations

import os
import sys

from forcetune.service import LOOPBACK
from forcetune.stores import sqlite_path


def mlflow_server(store: str, port: int) -> tuple[list[str], dict[str, str]]:
    """The command of MLflow's server on an existing store, and its environment.

    Artifacts are read where the runs say that they are, and nothing is served from a folder of the server's own.
    """
    command = [sys.executable, "-m", "mlflow", "server", "--host", LOOPBACK, "--port", str(port), "--workers", "1"]
    command += ["--no-serve-artifacts", "--uvicorn-opts", "--no-access-log"]
    path = sqlite_path(store)
    if path:  # of experiments made in the UI, as a search would place them
        command += ["--default-artifact-root", str(path.parent / "mlruns")]
    own = {
        "MLFLOW_BACKEND_STORE_URI": store,
        "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
        "MLFLOW_DISABLE_TELEMETRY": "true",
    }
    return command, {**_inherited(), **own}


def optuna_dashboard(store: str, port: int) -> tuple[list[str], dict[str, str]]:
    """The command of Optuna Dashboard on an existing storage, and its environment."""
    command = [sys.executable, "-m", "forcetune.ui.ledger", LOOPBACK, str(port)]
    return command, {**_inherited(), "FORCETUNE_STORAGE": store}


def _inherited() -> dict[str, str]:
    """The environment but for what would set up the server otherwise; what reads artifacts from S3 stays."""
    kept = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith("MLFLOW_") or name.startswith("MLFLOW_S3_")
    }
    return {**kept, "PYTHONSAFEPATH": "1"}  # no module of the current folder stands in for one of theirs
