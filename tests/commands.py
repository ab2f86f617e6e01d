"""The commands of forcetune: in the process of the test, which saves the seconds of an import, or in a new process.

In the process of the test a command has no signals, no exit code of a crash and no fresh import. Tests that need one
of these start a process.
"""

import os
import sqlite3
import subprocess
import sys
from collections.abc import Mapping
from contextlib import closing, nullcontext
from pathlib import Path

import optuna
import pytest
import yaml
from click.testing import CliRunner, Result
from shared_constants import FORCETUNE_COMMAND, REPOSITORY

from forcetune import run
from forcetune.cli import isolation, main
from forcetune.execution import environment
from forcetune.execution.worker import execute

environment.prepare()  # before a command imports Ray, so that each Ray of this process has the same variables

STORE_VARIABLES = ("RAY_ADDRESS", "MLFLOW_TRACKING_URI", "FORCETUNE_STORAGE", "FORCETUNE_STATE")


def write_study(folder: Path, study: object, name: str = "study.yaml") -> str:
    (folder / name).write_text(yaml.safe_dump(study))
    return name


def run_command(
    folder: Path, *arguments: str, variables: Mapping[str, str] | None = None, with_ray: bool = False
) -> Result:
    """Run a command in this process; an exception that the command does not report is raised.

    Afterwards the current folder, the environment variables and the modules that can be imported are as before. `check`
    runs the user's code in this process too.

    Args:
        folder: The folder in which the command runs.
        arguments: The command and its arguments.
        variables: The environment variables that name stores and clusters; others of them are unset.
        with_ray: Whether Ray runs the trials of a search; otherwise `SequentialSession` does.

    Returns:
        The exit code, the output and the errors.
    """
    modules = set(sys.modules)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setattr(sys, "path", list(sys.path))
        for name in STORE_VARIABLES:
            patch.delenv(name, raising=False)
        for name, value in (variables or {}).items():
            patch.setenv(name, value)
        if not with_ray:
            patch.setattr(run, "RaySession", SequentialSession)
        patch.setattr(isolation, "run_isolated", _run_in_this_process)
        patch.setattr(isolation, "reporting", lambda result_fd: nullcontext())
        try:
            return CliRunner().invoke(main, arguments, catch_exceptions=False)
        finally:
            _forget_modules(modules, folder)


def _run_in_this_process(arguments: list[str], timeout_s: float) -> int:
    command, *options = arguments
    main.main([command, "--result-fd", "-1", *options], prog_name="forcetune")


def _forget_modules(before: set[str], folder: Path) -> None:
    """Forget the modules of the user's folder, so that another folder may have modules of the same names."""
    for name in set(sys.modules) - before:
        module = sys.modules[name]
        paths = [getattr(module, "__file__", None) or "", *getattr(module, "__path__", [])]
        if any(path.startswith(str(folder)) for path in paths):
            del sys.modules[name]


def make_environment(home: Path) -> dict[str, str]:
    """Return environment variables with an empty home, so that Ray and MLflow do not read the user's settings."""
    inherited = {
        name: value for name, value in os.environ.items() if not name.startswith(("RAY_", "MLFLOW_", "FORCETUNE_"))
    }
    return {**inherited, "HOME": str(home), "PYTHONPATH": str(REPOSITORY)}


def run_process(folder: Path, environment: Mapping[str, str], *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run a command in a new process."""
    return subprocess.run(
        [*FORCETUNE_COMMAND, *arguments],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )


class SequentialSession:
    """A session that runs trials one after the other in this process, in place of `RaySession`.

    It starts no Ray, so it refuses no resources.
    """

    def __init__(self, study, console, priority):
        pass

    def __enter__(self):
        return self

    def __exit__(self, *error):
        pass

    def begin(self):
        pass

    def start(self):
        pass

    def drive(self, driver):
        driver.describe()
        with driver.progress:
            while assignment := driver.issue():
                for report in execute(assignment):
                    deliver = driver.end if report.outcome else driver.report
                    if deliver(assignment.number, assignment.attempt, report):
                        break
        driver.close()


def read_states(folder: Path, study: str = "small") -> tuple[list[str], list[str]]:
    """Return the states of the trials in Optuna and the statuses of their runs in MLflow, read from the stores."""
    trials = optuna.load_study(study_name=study, storage=f"sqlite:///{folder}/optuna.db").trials
    runs = query(folder, "select name, status from runs where name like 'trial-%'")
    return [trial.state.name for trial in trials], [status for _, status in sorted(runs)]


def query(folder: Path, sql: str) -> list[tuple]:
    with closing(sqlite3.connect(folder / "mlflow.db")) as connection:
        return connection.execute(sql).fetchall()
