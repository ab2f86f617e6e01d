"""MLflow's client, and whether a store answers."""

from __future__ import annotations

import os
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, TypeVar

from forcetune.errors import InputError
from forcetune.stores import hide_password, innermost_message, is_http, sqlite_path, without_login
from forcetune.tracking.requests import add_retries
from forcetune.tracking.schema import make_store_error, make_tables

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Experiment, Run
    from mlflow.store.entities import PagedList

EntityT = TypeVar("EntityT")

DELETED_STAGE = "deleted"  # MLflow's word for the stage of an experiment or a run that its UI no longer shows

MLFLOW_HEALTH_TIMEOUT_S = 5  # a server that is there answers this request within milliseconds
MLFLOW_HEALTH_TRIES = 3  # for a connection that breaks; one that is refused, or not answered, is tried once


def make_client(uri: str) -> MlflowClient:
    """Return a client of a store, which repeats the requests that can be repeated; a new SQLite file gets its tables.

    MLflow's own retries are switched off: they repeat every request, also one that creates a run, and they try for
    minutes where a server is gone.

    Args:
        uri: The URI of the MLflow store.

    Raises:
        InputError: MLflow cannot use the store.
    """
    os.environ["MLFLOW_HTTP_REQUEST_MAX_RETRIES"] = "0"
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "10")
    os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
    os.environ.setdefault("MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT", "true")  # MLflow prints the URL of each ended run
    from mlflow import MlflowClient

    path = sqlite_path(uri)
    if path is None:
        try:
            client = MlflowClient(uri)
        except Exception as error:  # SQLAlchemy's, where a database is away, or MLflow's own
            raise InputError(
                f"the MLflow store {hide_password(uri)} cannot be used: {innermost_message(error)}"
            ) from error
        return add_retries(client) if is_http(uri) else client
    try:
        make_tables(path)
        return MlflowClient(uri)
    except Exception as error:  # SQLAlchemy's, alembic's, MLflow's own, or sqlite3's
        raise make_store_error(path, error) from error


@contextmanager
def open_client(uri: str) -> Iterator[MlflowClient]:
    """Open a client of a store that answers; an error of MLflow is an InputError of one sentence.

    Args:
        uri: The URI of the MLflow store.

    Raises:
        InputError: The store does not answer, cannot be used, or refuses a request.
    """
    from mlflow.exceptions import MlflowException

    check_answers(uri)
    try:
        yield make_client(uri)
    except MlflowException as error:
        raise InputError(f"the MLflow store {hide_password(uri)} cannot be used: {error.message}") from error


def check_answers(uri: str) -> None:
    """Check that an MLflow server answers within seconds; a store that is no server passes.

    Args:
        uri: The URI of the MLflow store.

    Raises:
        InputError: The server does not answer.
    """
    if not is_http(uri):
        return
    for tries_left in reversed(range(MLFLOW_HEALTH_TRIES)):
        try:
            urllib.request.urlopen(f"{without_login(uri)}/health", timeout=MLFLOW_HEALTH_TIMEOUT_S).close()
        except urllib.error.HTTPError:
            return  # a server is there, and a request for runs gets a better error from it
        except (OSError, ValueError) as error:
            reason = getattr(error, "reason", error)
            if not (tries_left and isinstance(reason, ConnectionResetError)):
                raise InputError(f"the MLflow server at {hide_password(uri)} does not answer: {reason}") from None
        else:
            return


def download_file(run: str, name: str, uri: str) -> bytes | None:
    """Return the content of a file among a run's artifacts; None where the run has no such file.

    Args:
        run: The id of the run.
        name: The name of the file.
        uri: The URI of the MLflow store.

    Raises:
        InputError: The artifacts cannot be read.
    """
    client = make_client(uri)
    try:
        if name not in {artifact.path for artifact in client.list_artifacts(run)}:
            return None
        with TemporaryDirectory() as folder:
            return Path(client.download_artifacts(run, name, folder)).read_bytes()
    except Exception as error:  # an MlflowException, or what reading the artifact store raises
        raise InputError(f"{name} of the run {run} in {hide_password(uri)} cannot be read: {error}") from error


def is_deleted(study: str, uri: str) -> bool:
    """Return whether the experiment of this name was deleted in MLflow, which keeps it until `mlflow gc`.

    Args:
        study: The name of the experiment.
        uri: The URI of the MLflow store.

    Raises:
        InputError: MLflow does not answer.
    """
    experiment = _find_experiment(study, uri)
    return experiment is not None and experiment.lifecycle_stage == DELETED_STAGE


def restore_experiment(study: str, uri: str) -> None:
    """Restore an experiment that was deleted in MLflow, with its runs.

    Args:
        study: The name of the experiment.
        uri: The URI of the MLflow store.

    Raises:
        InputError: MLflow does not answer.
    """
    with open_client(uri) as client:
        if experiment := client.get_experiment_by_name(study):
            client.restore_experiment(experiment.experiment_id)


def delete_experiment(study: str, uri: str) -> None:
    """Delete an experiment with its runs, and free its name; MLflow keeps both until `mlflow gc`.

    An experiment that was deleted before, and that still has its name, is renamed too. Nothing happens where there is
    no such experiment.

    Args:
        study: The name of the experiment.
        uri: The URI of the MLflow store.

    Raises:
        InputError: MLflow does not answer.
    """
    with open_client(uri) as client:
        experiment = client.get_experiment_by_name(study)
        if experiment is not None:
            if experiment.lifecycle_stage == DELETED_STAGE:
                client.restore_experiment(experiment.experiment_id)  # MLflow does not rename a deleted experiment
            client.rename_experiment(experiment.experiment_id, f"{study}.deleted.{experiment.experiment_id}")
        # An earlier call may have been cut off after it renamed an experiment.
        for renamed in client.search_experiments(filter_string=f"name LIKE '{study}.deleted.%'"):
            if renamed.name == f"{study}.deleted.{renamed.experiment_id}":
                client.delete_experiment(renamed.experiment_id)


def explain_deleted(study: str) -> str:
    """Return the sentence on a study whose experiment was deleted in MLflow."""
    return (
        f"the experiment of the study {study!r} was deleted in MLflow, and its trials are still in the ledger; "
        f"`forcetune doctor {study} --repair` restores it, `mlflow gc` removes it for good"
    )


def has_experiment(study: str, uri: str) -> bool:
    """Return whether MLflow has an experiment of this name, deleted or not.

    Args:
        study: The name of the experiment.
        uri: The URI of the MLflow store.

    Raises:
        InputError: MLflow does not answer.
    """
    return _find_experiment(study, uri) is not None


def _find_experiment(study: str, uri: str) -> Experiment | None:
    with open_client(uri) as client:
        return client.get_experiment_by_name(study)


def list_runs(client: MlflowClient, experiment_ids: Sequence[str], query: str = "") -> list[Run]:
    """Return all runs of experiments that are not deleted, page by page, of which MLflow gives 1000 runs at most.

    Args:
        client: A client of the store.
        experiment_ids: The ids of the experiments.
        query: A filter of MLflow.
    """
    return _read_pages(
        lambda token: client.search_runs(list(experiment_ids), query, max_results=1000, page_token=token)
    )


def list_all_experiments(client: MlflowClient) -> list[Experiment]:
    """Return all experiments that are not deleted, the oldest first, page by page."""
    return _read_pages(lambda token: client.search_experiments(order_by=["creation_time ASC"], page_token=token))


def _read_pages(search: Callable[[str | None], PagedList[EntityT]]) -> list[EntityT]:
    page = search(None)
    entities = list(page)
    while page.token:
        page = search(page.token)
        entities += page
    return entities
