"""The runs of an experiment as MLflow has them, straight from its tables where those are a file."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from forcetune.errors import InputError
from forcetune.names import suggestion
from forcetune.stores import sqlite_path
from forcetune.tracking import sqlite
from forcetune.tracking.client import DELETED_STAGE, explain_deleted, list_runs, open_client

if TYPE_CHECKING:
    from mlflow import MlflowClient


class UnknownError(InputError):
    """The error that the store has no such study."""


def load_runs(study: str, uri: str) -> list[dict[str, Any]]:
    """Return the runs of a study's experiment, the oldest first.

    Args:
        study: The name of the experiment.
        uri: The URI of the MLflow store.

    Returns:
        A dictionary for each run: id, name, status, started and ended (in ms since 1970; ended is None while the run
        goes on), params (as text), metrics (the last value of each) and tags.

    Raises:
        UnknownError: The store has no such experiment.
        InputError: The store does not answer.
    """
    path = sqlite_path(uri)
    return _ask_client(study, uri) if path is None else _read_file(study, path)


def is_foreign(study: str, uri: str) -> bool:
    """Return whether an experiment of this name is another program's.

    It is where it is MLflow's own Default, or has runs and none of them is a search.

    Args:
        study: The name of the experiment.
        uri: The URI of the MLflow store.
    """
    try:
        kinds = [run["tags"].get("forcetune.kind") for run in load_runs(study, uri)]
    except InputError:
        return False
    return study == "Default" or (bool(kinds) and "search" not in kinds)


def count_runs(study: str, uri: str) -> int:
    """Return the number of runs of a study's experiment; 0 where there is no such experiment.

    Args:
        study: The name of the experiment.
        uri: The URI of the MLflow store.

    Raises:
        InputError: The store does not answer.
    """
    try:
        return len(load_runs(study, uri))
    except UnknownError:
        return 0


def _read_file(study: str, path: Path) -> list[dict[str, Any]]:
    if not path.is_file():
        raise InputError(f"there is no MLflow store at {path}; run a search in this folder, or set MLFLOW_TRACKING_URI")
    with sqlite.open_tables(path) as connection:
        stages = sqlite.select_stages(connection)
        ids = {name: number for name, number, stage in stages if stage != DELETED_STAGE}
        if study in ids:
            return sqlite.select_runs(connection, ids[study])
        if any(name == study for name, _, _ in stages):
            raise UnknownError(explain_deleted(study))
        owner = sqlite.select_owner(connection, study)
        raise _run_error(study, owner) if owner else _unknown_error(study, ids)


def _ask_client(study: str, uri: str) -> list[dict[str, Any]]:
    with open_client(uri) as client:
        experiment = client.get_experiment_by_name(study)
        if experiment is None:
            names = {entry.experiment_id: entry.name for entry in client.search_experiments()}
            owner = _find_owner(client, study)
            raise _run_error(study, names.get(owner, owner)) if owner else _unknown_error(study, names.values())
        if experiment.lifecycle_stage == DELETED_STAGE:
            raise UnknownError(explain_deleted(study))
        runs = list_runs(client, [experiment.experiment_id])
    return [
        {
            "id": run.info.run_id,
            "name": run.info.run_name,
            "status": run.info.status,
            "started": run.info.start_time,
            "ended": run.info.end_time,
            "params": run.data.params,
            "metrics": {name: sqlite.decode_metric(value) for name, value in run.data.metrics.items()},
            "tags": run.data.tags,
        }
        for run in reversed(runs)
    ]


def _find_owner(client: MlflowClient, run: str) -> str | None:
    """Return the id of the experiment that has this run; None where there is no such run."""
    from mlflow.exceptions import MlflowException

    try:
        return str(client.get_run(run).info.experiment_id)
    except MlflowException:
        return None


def _run_error(run: str, experiment: str) -> UnknownError:
    return UnknownError(f"{run} is the id of a run of the experiment {experiment!r}; name a study instead")


def _unknown_error(study: str, experiments: Iterable[str]) -> UnknownError:
    names = ", ".join(sorted(set(experiments) - {"Default"})) or "none yet"
    return UnknownError(f"this MLflow store has no study {study!r}{suggestion(study, experiments)}; it has: {names}")


def format_params(fields: Mapping[str, Any]) -> dict[str, str]:
    """Return a trial's fields as the params of its run: text as it is, other values as JSON."""
    return {name: _format_value(value) for name, value in fields.items()}


def _format_value(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)


def parse_param(text: str) -> Any:
    """Return the value of a field from the param of a run, the inverse of `format_params`."""
    try:
        return json.loads(text)
    except ValueError:
        return text
