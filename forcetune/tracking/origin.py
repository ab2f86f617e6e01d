"""Who runs a study, and from which commit: tags that MLflow itself has names for."""

from __future__ import annotations

import getpass
import json
import os
import subprocess
from pathlib import Path

CONTEXT = "MLFLOW_RUN_CONTEXT"  # MLflow's variable: tags of runs, as JSON; a submitted job gets its owner's by it
GIT_S = 10.0  # that git may take on a slow file system


def origin_tags(source_type: str = "LOCAL") -> dict[str, str]:
    """Return the tags mlflow.user, mlflow.source.name, mlflow.source.type and mlflow.source.git.commit.

    What cannot be found out is left out. Tags in the variable MLFLOW_RUN_CONTEXT take precedence.

    Args:
        source_type: LOCAL, or JOB for what a cluster runs.
    """
    tags = {"mlflow.source.name": "forcetune", "mlflow.source.type": source_type}
    if user := _user():
        tags["mlflow.user"] = user
    if commit := _commit(Path.cwd()):
        tags["mlflow.source.git.commit"] = commit
    return {**tags, **_context()}


def _user() -> str | None:
    try:
        return getpass.getuser()
    except (ImportError, KeyError, OSError):  # a container may run under a number without a name
        return None


def _commit(folder: Path) -> str | None:
    """Return the commit of the repository that has the folder, None where there is none, or no git."""
    command = ["git", "-C", str(folder), "rev-parse", "--verify", "HEAD"]
    try:
        said = subprocess.run(command, capture_output=True, text=True, timeout=GIT_S)
    except (OSError, subprocess.SubprocessError):
        return None
    return said.stdout.strip() if said.returncode == 0 else None


def _context() -> dict[str, str]:
    try:
        tags = json.loads(os.environ.get(CONTEXT, "{}"))
    except ValueError:
        return {}
    return {str(name): str(text) for name, text in tags.items()} if isinstance(tags, dict) else {}
