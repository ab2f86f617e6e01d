"""Runs that hold what was concluded, with files to read again."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from forcetune.errors import InputError
from forcetune.stores import mlflow_uri, shown
from forcetune.tracking.client import check_answers, client_of
from forcetune.tracking.runs import UnknownError, runs
from forcetune.tracking.writing import Epoch, Tracker


class Record:
    """A run that holds what was concluded, of the kind `baseline` or `nightly`; found again by its name."""

    def __init__(self, experiment: str, kind: str, name: str, tags: Mapping[str, str] | None = None) -> None:
        self._tracker = Tracker(experiment, mlflow_uri())
        self._client = self._tracker.client
        self._kind, self._name = kind, name
        self.run = self._tracker.open_record(kind, name, tags or {})

    @property
    def finished(self) -> bool:
        """Whether it was closed."""
        return str(self._client.get_run(self.run).info.status) == "FINISHED"

    def read(self, name: str) -> Any:
        """What a JSON file among its artifacts says; None where there is none."""
        return read_json(self.run, name)

    def write(self, name: str, content: str) -> None:
        """A file among its artifacts, in place of one of that name."""
        self._client.log_text(self.run, content, name)

    def log(self, metrics: Mapping[str, float], tags: Mapping[str, str]) -> None:
        """Metrics and tags."""
        self._tracker.log(self.run, [Epoch(0, int(time.time() * 1000), dict(metrics))], tags=tags)

    def close(self) -> None:
        """It is whole."""
        self._tracker.close(self.run)
        self._tracker.remove_doubles(self._kind, self._name)


def records(experiment: str, kind: str) -> list[dict[str, Any]]:
    """The runs of that kind as `runs` gives them, oldest first; none where there is no such experiment."""
    try:
        found = runs(experiment, mlflow_uri())
    except UnknownError:
        return []
    return [run for run in found if run["tags"].get("forcetune.kind") == kind]


def read_json(run: str, name: str, uri: str | None = None) -> Any:
    """What a JSON file among a run's artifacts says; None where there is none.

    Raises InputError where the place of the artifacts cannot be read.
    """
    client = client_of(uri or mlflow_uri())
    try:
        if name not in {found.path for found in client.list_artifacts(run)}:
            return None
        with TemporaryDirectory() as folder:
            return json.loads(Path(client.download_artifacts(run, name, folder)).read_text())
    except Exception as error:  # an MlflowException, or what reading the artifact store raises
        raise InputError(f"{name} of the run {run} cannot be read: {error}") from error


def log_page(run: str, name: str, content: str) -> None:
    """A page among the artifacts of a run, in place of one of that name. Raises InputError where MLflow refuses."""
    store = mlflow_uri()
    check_answers(store)
    try:
        client_of(store).log_text(run, content, name)
    except Exception as error:  # an MlflowException, or what writing to the artifact store raises
        raise InputError(f"the run {run} in {shown(store)} takes no {name}: {error}") from error
