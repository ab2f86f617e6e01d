"""MLflow's client, and whether a store answers."""

from __future__ import annotations

import os
import urllib.error
import urllib.request
from pathlib import Path
from typing import TYPE_CHECKING

from forcetune.errors import InputError
from forcetune.stores import shown, sqlite_path, without_login
from forcetune.tracking.requests import patient
from forcetune.tracking.schema import make_tables, refuse_torn

if TYPE_CHECKING:
    from mlflow import MlflowClient

DELETED = "deleted"  # MLflow's word for the stage of an experiment or a run that its UI no longer shows

ANSWER = 5  # seconds that a server gets to say that it is there
HEALTH_TRIES = 3  # where the connection breaks; one that is refused, or not answered, is tried once


def client_of(uri: str) -> MlflowClient:
    """Return a client of a store, which repeats itself what can be repeated.

    MLflow's own would repeat every request, also one that creates a run, and would try for minutes where a server is
    gone.
    """
    os.environ["MLFLOW_HTTP_REQUEST_MAX_RETRIES"] = "0"
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "10")
    os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
    os.environ.setdefault("MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT", "true")  # of each run that ends
    path = sqlite_path(uri)
    if path is None:
        from mlflow import MlflowClient

        client = MlflowClient(uri)
        return patient(client) if uri.startswith(("http://", "https://")) else client
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
    for tries_left in reversed(range(HEALTH_TRIES)):
        try:
            urllib.request.urlopen(f"{without_login(uri)}/health", timeout=ANSWER).close()
        except urllib.error.HTTPError:
            return  # somebody is there, and says more when asked for runs
        except (OSError, ValueError) as error:
            reason = getattr(error, "reason", error)
            if not (tries_left and isinstance(reason, ConnectionResetError)):
                raise InputError(f"no MLflow server answers at {shown(uri)}: {reason}") from None
        else:
            return


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


def delete_experiment(study: str, uri: str) -> None:
    """Delete an experiment with its runs, and leave its name free; MLflow keeps them until `mlflow gc`.

    Nothing happens where there is no such experiment. One that was deleted before under its own name gives it free.
    """
    client = client_of(uri)
    experiment = client.get_experiment_by_name(study)
    if experiment is not None:
        if experiment.lifecycle_stage == DELETED:
            client.restore_experiment(experiment.experiment_id)  # MLflow renames none that is deleted
        client.rename_experiment(experiment.experiment_id, f"{study}.deleted.{experiment.experiment_id}")
    for renamed in client.search_experiments(filter_string=f"name LIKE '{study}.deleted.%'"):  # also by an earlier try
        if renamed.name == f"{study}.deleted.{renamed.experiment_id}":
            client.delete_experiment(renamed.experiment_id)


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
