"""The SQL against MLflow's tables in a SQLite file.

Reading them needs no MLflow, and importing MLflow alone takes longer than a query may.
"""

from __future__ import annotations

import math
import sqlite3
import sys
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

from forcetune.errors import InputError

Point = tuple[str, int, int, float]  # run, step, time in ms since 1970, value

RUN_COLUMNS = ("name", "status", "started", "ended")  # columns of MLflow's table of runs, in forcetune's words
RUNS_PER_QUERY = 500  # SQLite limits the parameters of a query


@contextmanager
def open_tables(path: Path) -> Iterator[sqlite3.Connection]:
    """Open a store for reading; all that is read within the block is of one moment.

    Args:
        path: The SQLite file.

    Yields:
        The connection, which the other functions take.

    Raises:
        InputError: The file is no MLflow store.
    """
    try:
        with closing(sqlite3.connect(f"{path.as_uri()}?mode=ro", uri=True)) as connection:
            connection.execute("begin")
            yield connection
    except sqlite3.Error as error:
        raise InputError(f"{path} cannot be read as an MLflow store: {error}") from error


def select_stages(connection: sqlite3.Connection) -> list[tuple[str, int, str]]:
    """Return the name, the id and the lifecycle stage of each experiment."""
    return list(connection.execute("select name, experiment_id, lifecycle_stage from experiments"))


def select_owner(connection: sqlite3.Connection, run: str) -> str | None:
    """Return the name of the experiment that has a run; None where there is no such run."""
    owner = connection.execute(
        "select e.name from runs r join experiments e using (experiment_id) where r.run_uuid = ?", (run,)
    ).fetchone()
    return str(owner[0]) if owner else None


def select_runs(connection: sqlite3.Connection, experiment: int) -> list[dict[str, Any]]:
    """Return the active runs of an experiment as `load_runs` does, the oldest first."""
    active = "from runs r where r.experiment_id = ? and r.lifecycle_stage = 'active'"
    columns = f"select run_uuid, name, status, start_time, end_time {active} order by start_time"
    runs = {
        run: {**dict(zip(RUN_COLUMNS, row, strict=True)), "id": run, "params": {}, "metrics": {}, "tags": {}}
        for run, *row in connection.execute(columns, (experiment,))
    }
    condition = f"where run_uuid in (select run_uuid {active})"
    for kind in ("params", "tags"):
        texts = f"select run_uuid, key, value from {kind} {condition}"
        for run, key, value in connection.execute(texts, (experiment,)):
            runs[run][kind][key] = value
    metrics = f"select run_uuid, key, value, is_nan from latest_metrics {condition}"
    for run, key, value, is_nan in connection.execute(metrics, (experiment,)):
        runs[run]["metrics"][key] = decode_metric(value, is_nan)
    return list(runs.values())


def select_points(connection: sqlite3.Connection, runs: Sequence[str], metric: str) -> Iterator[Point]:
    """Yield the values of a metric that these runs have logged."""
    for start in range(0, len(runs), RUNS_PER_QUERY):
        block = runs[start : start + RUNS_PER_QUERY]
        query = (
            "select run_uuid, step, timestamp, value, is_nan from metrics "
            f"where key = ? and run_uuid in ({','.join('?' * len(block))})"
        )
        for run, step, time, value, is_nan in connection.execute(query, (metric, *block)):
            yield run, step, time, decode_metric(value, is_nan)


def select_experiments(
    connection: sqlite3.Connection, view_tag: str, report_tag: str
) -> list[tuple[str, int, bool, str | None]]:
    """Return the active experiments, the oldest first.

    Args:
        connection: The connection to the store.
        view_tag: A tag of experiments.
        report_tag: A tag of runs.

    Returns:
        The name and the id of each experiment, whether it has `view_tag`, and the id of a run that has `report_tag`;
        None where it has no such run.
    """
    query = (
        "select e.name, e.experiment_id, "
        "exists(select 1 from experiment_tags t where t.experiment_id = e.experiment_id and t.key = ?), "
        "(select r.run_uuid from runs r join tags t using (run_uuid) "
        "where r.experiment_id = e.experiment_id and r.lifecycle_stage = 'active' and t.key = ? limit 1) "
        "from experiments e where e.lifecycle_stage = 'active' order by e.creation_time"
    )
    return list(connection.execute(query, (view_tag, report_tag)))


def count_runs(path: Path) -> int | None:
    """Return the number of runs in a file; None where it is no database of MLflow's."""
    try:
        with open_tables(path) as connection:
            tables = {name for (name,) in connection.execute("select name from sqlite_master where type = 'table'")}
            if not tables & {"alembic_version", "experiments"}:
                return None
            return int(connection.execute("select count(*) from runs").fetchone()[0]) if "runs" in tables else 0
    except InputError:
        return None


def decode_metric(value: float, is_nan: bool = False) -> float:
    """Return the number that was logged: MLflow keeps NaN as 0 with a mark, and infinity as the largest number."""
    if is_nan:
        return math.nan
    return math.copysign(math.inf, value) if abs(value) >= sys.float_info.max else value
