"""What was measured epoch by epoch."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path

import pandas as pd

from forcetune.errors import InputError
from forcetune.stores import mlflow_uri, shown, sqlite_path
from forcetune.tracking.client import check_answers, client_of
from forcetune.tracking.runs import measured

Point = tuple[str, int, int, float]  # run, step, time in ms since 1970, value
AT_ONCE = 500  # runs in a question to SQLite, which has a limit
CONNECTIONS = 8


def curves(runs: Sequence[str], metric: str, uri: str | None = None) -> pd.DataFrame:
    """The history of a metric in each of these runs: run_id, step, value, in the order of runs and steps.

    A trial that failed and was run again may have several values at a step: the last one counts. A server is asked
    run by run, MLflow has no other way; of a file all is read at once.
    Raises InputError where the store does not answer.
    """
    store = uri or mlflow_uri()
    path = sqlite_path(store)
    points = _of_file(path, runs, metric) if path else _of_client(store, runs, metric)
    found = pd.DataFrame(points, columns=["run_id", "step", "time", "value"]).sort_values("time", kind="stable")
    found = found.drop_duplicates(["run_id", "step"], keep="last").drop(columns="time")
    found["run_id"] = pd.Categorical(found["run_id"], categories=list(dict.fromkeys(runs)))
    return found.sort_values(["run_id", "step"], kind="stable", ignore_index=True).astype({"run_id": str})


def _of_file(path: Path, runs: Sequence[str], metric: str) -> Iterator[Point]:
    try:
        with closing(sqlite3.connect(f"{path.as_uri()}?mode=ro", uri=True)) as connection:
            for start in range(0, len(runs), AT_ONCE):
                some = runs[start : start + AT_ONCE]
                marks = ",".join("?" * len(some))
                query = (
                    "select run_uuid, step, timestamp, value, is_nan from metrics "
                    f"where key = ? and run_uuid in ({marks})"
                )
                for run, step, time, value, is_nan in connection.execute(query, (metric, *some)):
                    yield run, step, time, measured(value, is_nan)
    except sqlite3.Error as error:
        raise InputError(f"{path} is not readable as an MLflow store: {error}") from error


def _of_client(uri: str, runs: Sequence[str], metric: str) -> Iterator[Point]:
    from mlflow.exceptions import MlflowException

    check_answers(uri)
    client = client_of(uri)

    def ask(run: str) -> list[Point]:
        history = client.get_metric_history(run, metric)
        return [(run, entry.step, entry.timestamp, measured(entry.value)) for entry in history]

    try:
        with ThreadPoolExecutor(CONNECTIONS) as pool:
            for history in pool.map(ask, runs):
                yield from history
    except MlflowException as error:
        raise InputError(f"the MLflow store {shown(uri)} does not answer: {error.message}") from error
