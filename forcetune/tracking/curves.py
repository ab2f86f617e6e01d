"""Learning curves: the values of a metric, epoch by epoch."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pandas as pd

from forcetune.stores import mlflow_uri, sqlite_path
from forcetune.tracking import sqlite
from forcetune.tracking.client import open_client

CURVE_CONNECTIONS = 8  # at a time, to an MLflow server


def load_curves(runs: Sequence[str], metric: str, uri: str | None = None) -> pd.DataFrame:
    """Return the history of a metric in each of these runs.

    A trial that failed and was run again may have several values at a step: the last one counts. A SQLite file is read
    at once; a server is asked run by run, since MLflow has no other request.

    Args:
        runs: The ids of the runs.
        metric: The name of the metric.
        uri: The URI of the MLflow store; by default MLFLOW_TRACKING_URI, or mlflow.db in the current folder.

    Returns:
        The columns run_id, step and value, in the order of the runs and steps.

    Raises:
        InputError: The store does not answer.
    """
    store = uri or mlflow_uri()
    path = sqlite_path(store)
    points = _read_file(path, runs, metric) if path else _ask_client(store, runs, metric)
    table = pd.DataFrame(points, columns=["run_id", "step", "time", "value"]).sort_values("time", kind="stable")
    table = table.drop_duplicates(["run_id", "step"], keep="last").drop(columns="time")
    table["run_id"] = pd.Categorical(table["run_id"], categories=list(dict.fromkeys(runs)))
    return table.sort_values(["run_id", "step"], kind="stable", ignore_index=True).astype({"run_id": str})


def _read_file(path: Path, runs: Sequence[str], metric: str) -> Iterator[sqlite.Point]:
    with sqlite.open_tables(path) as connection:
        yield from sqlite.select_points(connection, runs, metric)


def _ask_client(uri: str, runs: Sequence[str], metric: str) -> Iterator[sqlite.Point]:
    with open_client(uri) as client:

        def ask(run: str) -> list[sqlite.Point]:
            history = client.get_metric_history(run, metric)
            return [(run, entry.step, entry.timestamp, sqlite.decode_metric(entry.value)) for entry in history]

        with ThreadPoolExecutor(CURVE_CONNECTIONS) as pool:
            for history in pool.map(ask, runs):
                yield from history
