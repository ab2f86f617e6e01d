"""MLflow's client, and whether a store answers."""

from __future__ import annotations

import os
import urllib.error
import urllib.request
from pathlib import Path
from typing import TYPE_CHECKING

from forcetune.errors import InputError
from forcetune.stores import shown, sqlite_path, without_login
from forcetune.tracking.schema import make_tables, refuse_torn

if TYPE_CHECKING:
    from mlflow import MlflowClient

DELETED = "deleted"  # MLflow's word for the stage of an experiment or a run that its UI no longer shows

ANSWER = 5  # seconds that a server gets to say that it is there


def client_of(uri: str) -> MlflowClient:
    """MLflow's own would try for minutes where a server is gone; whoever logs here tries again by himself."""
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "1")
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "10")
    os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
    os.environ.setdefault("MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT", "true")  # of each run that ends
    path = sqlite_path(uri)
    if path is None:
        from mlflow import MlflowClient

        return MlflowClient(uri)
    return _client_of_file(uri, path)


def _client_of_file(uri: str, path: Path) -> MlflowClient:
    """A client of a SQLite file, whose tables are made first where it is new. Raises InputError where it is torn."""
    from mlflow import MlflowClient

    try:
        make_tables(path)
        return MlflowClient(uri)
    except Exception as error:  # SQLAlchemy's, alembic's, MLflow's own, or sqlite3's
        raise refuse_torn(path, error) from error


def check_answers(uri: str) -> None:
    """Raise InputError where a server of MLflow does not answer within seconds."""
    if not uri.startswith(("http://", "https://")):
        return
    try:
        urllib.request.urlopen(f"{without_login(uri)}/health", timeout=ANSWER).close()
    except urllib.error.HTTPError:
        return  # somebody is there, and says more when asked for runs
    except (OSError, ValueError) as error:
        reason = getattr(error, "reason", error)
        raise InputError(f"no MLflow server answers at {shown(uri)}: {reason}") from None


def is_deleted(study: str, uri: str) -> bool:
    """Return whether the experiment of this name was deleted in MLflow, which keeps it until `mlflow gc`.

    Raises:
        InputError: MLflow does not answer.
    """
    from mlflow.exceptions import MlflowException

    check_answers(uri)
    try:
        experiment = client_of(uri).get_experiment_by_name(study)
    except MlflowException as error:
        raise InputError(f"the MLflow store {shown(uri)} cannot be used: {error.message}") from error
    return experiment is not None and experiment.lifecycle_stage == DELETED


def restore(study: str, uri: str) -> None:
    """Restore an experiment that was deleted in MLflow, with its runs."""
    client = client_of(uri)
    if experiment := client.get_experiment_by_name(study):
        client.restore_experiment(experiment.experiment_id)


def say_deleted(study: str) -> str:
    """Return the sentence on a study whose experiment was deleted in MLflow."""
    return (
        f"the experiment of the study {study!r} was deleted in MLflow, and its trials are still in the ledger; "
        f"`forcetune doctor {study} --repair` restores it, `mlflow gc` removes it for good"
    )


def exists(study: str, uri: str) -> bool:
    """Whether MLflow has an experiment of this name. Raises InputError where it does not answer."""
    from mlflow.exceptions import MlflowException

    check_answers(uri)
    try:
        return client_of(uri).get_experiment_by_name(study) is not None
    except MlflowException as error:
        raise InputError(f"the MLflow store {shown(uri)} cannot be used: {error.message}") from error
