"""Runs that hold conclusions about studies, with files that are read again."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from typing import Any

from forcetune.errors import InputError
from forcetune.stores import hide_password, mlflow_uri
from forcetune.tracking.client import check_answers, download_file, make_client
from forcetune.tracking.experiments import REPORT_TAG
from forcetune.tracking.runs import UnknownError, load_runs
from forcetune.tracking.writing import Epoch, Tracker


class Record:
    """A run that holds conclusions, of the kind `baseline` or `nightly`; found again by its name.

    Opening a record makes its run where there is none.

    Args:
        experiment: The name of the experiment.
        kind: The kind of the run, the tag forcetune.kind.
        name: The name of the run.
        tags: Other tags, for a run that is made.

    Attributes:
        run: The id of the run.

    Raises:
        InputError: MLflow does not answer.
    """

    def __init__(self, experiment: str, kind: str, name: str, tags: Mapping[str, str] | None = None) -> None:
        self._tracker = Tracker(experiment, mlflow_uri())
        self._client = self._tracker.client
        self._kind, self._name = kind, name
        self.run = self._tracker.open_record(kind, name, tags or {})

    @property
    def is_finished(self) -> bool:
        """Whether the record was closed."""
        return str(self._client.get_run(self.run).info.status) == "FINISHED"

    def read(self, name: str) -> Any:
        """Return the content of a JSON file among the run's artifacts; None where there is no such file."""
        return read_json(self.run, name)

    def write(self, name: str, content: str) -> None:
        """Write a file among the run's artifacts; it replaces a file of that name."""
        self._client.log_text(self.run, content, name)

    def log(self, metrics: Mapping[str, float], tags: Mapping[str, str]) -> None:
        """Log metrics, at step 0, and tags."""
        self._tracker.log(self.run, [Epoch(0, int(time.time() * 1000), dict(metrics))], tags=tags)

    def close(self) -> None:
        """End the run as FINISHED, and delete the duplicates that late requests have made of it."""
        self._tracker.close(self.run)
        self._tracker.remove_duplicates(self._kind, self._name)


def list_records(experiment: str, kind: str, uri: str | None = None) -> list[dict[str, Any]]:
    """Return the runs of a kind as `load_runs` gives them, the oldest first.

    Args:
        experiment: The name of the experiment.
        kind: The kind of the runs, the tag forcetune.kind.
        uri: The URI of the MLflow store; by default MLFLOW_TRACKING_URI, or mlflow.db in the current folder.

    Returns:
        The runs; none where there is no such experiment.

    Raises:
        InputError: The store does not answer.
    """
    try:
        runs = load_runs(experiment, uri or mlflow_uri())
    except UnknownError:
        return []
    return [run for run in runs if run["tags"].get("forcetune.kind") == kind]


def read_json(run: str, name: str, uri: str | None = None) -> Any:
    """Return the content of a JSON file among a run's artifacts.

    Args:
        run: The id of the run.
        name: The name of the file.
        uri: The URI of the MLflow store; by default MLFLOW_TRACKING_URI, or mlflow.db in the current folder.

    Returns:
        The content; None where the run has no such file.

    Raises:
        InputError: The artifact store cannot be read, or the file is no JSON.
    """
    content = download_file(run, name, uri or mlflow_uri())
    try:
        return None if content is None else json.loads(content)
    except ValueError as error:
        raise InputError(f"{name} of the run {run} cannot be read: {error}") from error


def log_page(run: str, name: str, content: str) -> None:
    """Write a page among the artifacts of a run, and its name to REPORT_TAG; it replaces a file of that name.

    Args:
        run: The id of the run.
        name: The name of the file.
        content: The HTML of the page.

    Raises:
        InputError: MLflow refuses the page, or does not answer.
    """
    store = mlflow_uri()
    check_answers(store)
    try:
        client = make_client(store)
        client.log_text(run, content, name)
        client.set_tag(run, REPORT_TAG, name)
    except Exception as error:  # an MlflowException, or what writing to the artifact store raises
        raise InputError(f"{name} cannot be written to the run {run} in {hide_password(store)}: {error}") from error


def log_metrics(run: str, metrics: Mapping[str, float], uri: str | None = None) -> None:
    """Log metrics of a run that has ended, at step 0; a value replaces the one of an earlier call.

    Args:
        run: The id of the run.
        metrics: The values by name.
        uri: The URI of the MLflow store; by default MLFLOW_TRACKING_URI, or mlflow.db in the current folder.

    Raises:
        InputError: MLflow refuses the metrics, or does not answer.
    """
    from mlflow.entities import Metric

    store = uri or mlflow_uri()
    check_answers(store)
    time_ms = int(time.time() * 1000)
    try:
        values = [Metric(name, float(value), time_ms, 0) for name, value in metrics.items()]
        make_client(store).log_batch(run, metrics=values)
    except Exception as error:  # an MlflowException, or an error of the connection
        raise InputError(f"metrics cannot be logged to the run {run} in {hide_password(store)}: {error}") from error
