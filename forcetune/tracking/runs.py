"""The runs of an experiment as MLflow has them, straight from its tables where those are a file."""

from __future__ import annotations

import json
import math
import sqlite3
import sys
from collections.abc import Iterable, Mapping
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Any

from forcetune.errors import InputError
from forcetune.names import suggestion
from forcetune.stores import shown, sqlite_path
from forcetune.tracking.client import DELETED, check_answers, client_of, say_deleted

if TYPE_CHECKING:
    from mlflow import MlflowClient

RUN = ("name", "status", "started", "ended")  # columns of MLflow's table, in our words


class UnknownError(InputError):
    """The store has no such study."""


def runs(study: str, uri: str) -> list[dict[str, Any]]:
    """The runs of a study's experiment, oldest first: id, name, status, params, last metrics and tags of each.

    started and ended: ms since 1970, ended None while it runs.
    Raises InputError where there is no such experiment, or the store does not answer.
    """
    path = sqlite_path(uri)
    return _runs_of_client(study, uri) if path is None else _runs_of_file(study, path)


def is_foreign(study: str, uri: str) -> bool:
    """Whether an experiment of this name is another program's: MLflow's own, or one with runs and without a search."""
    try:
        kinds = [run["tags"].get("forcetune.kind") for run in runs(study, uri)]
    except InputError:
        return False
    return study == "Default" or (bool(kinds) and "search" not in kinds)


def count_runs(study: str, uri: str) -> int:
    """How many runs a study's experiment has; 0 where there is no such experiment."""
    try:
        return len(runs(study, uri))
    except UnknownError:
        return 0


def _runs_of_file(study: str, path: Path) -> list[dict[str, Any]]:
    """Straight from MLflow's SQLite tables: importing MLflow alone takes longer than a query may."""
    if not path.is_file():
        raise InputError(f"there is no MLflow store at {path}; run a search in this folder, or set MLFLOW_TRACKING_URI")
    try:
        with closing(sqlite3.connect(f"{path.as_uri()}?mode=ro", uri=True)) as connection:
            stages = list(connection.execute("select name, experiment_id, lifecycle_stage from experiments"))
            ids = {name: number for name, number, stage in stages if stage != DELETED}
            if study not in ids:
                if any(name == study for name, _, _ in stages):
                    raise UnknownError(say_deleted(study))
                owner = connection.execute(
                    "select e.name from runs r join experiments e using (experiment_id) where r.run_uuid = ?", (study,)
                ).fetchone()
                raise _run_of(study, owner[0]) if owner else _unknown(study, ids)
            wanted = (ids[study],)
            active = "from runs r where r.experiment_id = ? and r.lifecycle_stage = 'active'"
            runs = {
                run: {**dict(zip(RUN, row, strict=True)), "id": run, "params": {}, "metrics": {}, "tags": {}}
                for run, *row in connection.execute(
                    f"select run_uuid, name, status, start_time, end_time {active} order by start_time", wanted
                )
            }
            chosen = f"where run_uuid in (select run_uuid {active})"
            for kind in ("params", "tags"):
                for run, key, value in connection.execute(f"select run_uuid, key, value from {kind} {chosen}", wanted):
                    runs[run][kind][key] = value
            query = f"select run_uuid, key, value, is_nan from latest_metrics {chosen}"
            for run, key, value, is_nan in connection.execute(query, wanted):
                runs[run]["metrics"][key] = measured(value, is_nan)
    except sqlite3.Error as error:
        raise InputError(f"{path} is not readable as an MLflow store: {error}") from error
    return list(runs.values())


def _runs_of_client(study: str, uri: str) -> list[dict[str, Any]]:
    from mlflow.exceptions import MlflowException

    check_answers(uri)
    client = client_of(uri)
    try:
        experiment = client.get_experiment_by_name(study)
        if experiment is None:
            names = {found.experiment_id: found.name for found in client.search_experiments()}
            owner = _owner(client, study)
            raise _run_of(study, names.get(owner, owner)) if owner else _unknown(study, names.values())
        if experiment.lifecycle_stage == DELETED:
            raise UnknownError(say_deleted(study))
        runs: list[Any] = []
        token = None
        while token != "":
            page = client.search_runs([experiment.experiment_id], max_results=1000, page_token=token)
            runs += page
            token = page.token or ""
    except MlflowException as error:
        raise InputError(f"the MLflow store {shown(uri)} does not answer: {error.message}") from error
    return [
        {
            "id": run.info.run_id,
            "name": run.info.run_name,
            "status": run.info.status,
            "started": run.info.start_time,
            "ended": run.info.end_time,
            "params": run.data.params,
            "metrics": {name: measured(value) for name, value in run.data.metrics.items()},
            "tags": run.data.tags,
        }
        for run in reversed(runs)
    ]


def _owner(client: MlflowClient, run: str) -> str | None:
    """The id of the experiment that has this run; None where there is no such run."""
    from mlflow.exceptions import MlflowException

    try:
        return str(client.get_run(run).info.experiment_id)
    except MlflowException:
        return None


def _run_of(run: str, experiment: str) -> UnknownError:
    return UnknownError(
        f"{run} is a run of the experiment {experiment!r}, and no study; studies are named by their name"
    )


def _unknown(study: str, known: Iterable[str]) -> UnknownError:
    names = ", ".join(sorted(set(known) - {"Default"})) or "none yet"
    return UnknownError(f"no study {study!r} in this MLflow store{suggestion(study, known)}; there are: {names}")


def measured(value: float, is_nan: bool = False) -> float:
    """The number that was logged: MLflow keeps NaN as 0 with a mark, and infinity as the largest number."""
    if is_nan:
        return math.nan
    return math.copysign(math.inf, value) if abs(value) >= sys.float_info.max else value


def params(fields: Mapping[str, Any]) -> dict[str, str]:
    """A trial's fields as the params of its run."""
    return {name: _text(value) for name, value in fields.items()}


def _text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)


def value_of(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        return text
