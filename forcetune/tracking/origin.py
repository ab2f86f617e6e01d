"""The origin of a study, its user and its commit, as the tags for which MLflow itself has names."""

from __future__ import annotations

import getpass
import json
import os
import subprocess
from pathlib import Path

# MLflow's variable: the tags of runs, as JSON. A submitted job gets those of its owner by it.
RUN_CONTEXT_VARIABLE = "MLFLOW_RUN_CONTEXT"
GIT_TIMEOUT_S = 10.0  # git may take seconds on a slow file system


def collect_origin_tags(source_type: str = "LOCAL") -> dict[str, str]:
    """Return the tags mlflow.user, mlflow.source.name, mlflow.source.type and mlflow.source.git.commit.

    A tag whose value is not available is left out. Tags in the variable MLFLOW_RUN_CONTEXT take precedence.

    Args:
        source_type: LOCAL, or JOB for a study that runs as a job on a cluster.
    """
    # MLflow's resolve_tags takes the commit of the folder of the program, not of the study
    tags = {"mlflow.source.name": "forcetune", "mlflow.source.type": source_type}
    if user := find_user():
        tags["mlflow.user"] = user
    if commit := _get_commit(Path.cwd()):
        tags["mlflow.source.git.commit"] = commit
    return {**tags, **_read_context()}


def find_user() -> str | None:
    """Return the name of the user who runs this process; None where the system has no name for the account."""
    try:
        return getpass.getuser()
    except (ImportError, KeyError, OSError):  # a container may run under a number without a name
        return None


def _get_commit(folder: Path) -> str | None:
    """Return the commit of the repository that has the folder; None where there is no repository, or no git."""
    command = ["git", "-C", str(folder), "rev-parse", "--verify", "HEAD"]
    try:
        process = subprocess.run(command, capture_output=True, text=True, timeout=GIT_TIMEOUT_S)
    except (OSError, subprocess.SubprocessError):
        return None
    return process.stdout.strip() if process.returncode == 0 else None


def _read_context() -> dict[str, str]:
    try:
        tags = json.loads(os.environ.get(RUN_CONTEXT_VARIABLE, "{}"))
    except ValueError:
        return {}
    return {str(name): str(text) for name, text in tags.items()} if isinstance(tags, dict) else {}
