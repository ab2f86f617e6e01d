"""Trials in MLflow: written run by run, read back as a table. Everything that knows MLflow is here."""

from __future__ import annotations

import json
import logging
import os
import re
import sqlite3
import time
import urllib.error
import urllib.request
from collections.abc import Iterable, Mapping
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

import pandas as pd
import yaml

from forcetune.errors import InputError
from forcetune.names import COMPANION, suggestion
from forcetune.stores import mlflow_uri, quicken_sqlite, shown, sqlite_path

if TYPE_CHECKING:
    from mlflow import MlflowClient

KIND = {"mlflow.experimentKind": "custom_model_development"}  # else the UI opens on traces of language models
ANSWER = 5  # seconds that a server gets to say that it is there
STUDY_FILE = "study.yaml"  # among the artifacts of a parent run
MARKS = ("of", "arm", "night", "again")  # tags of companions: what each is there for
BATCH = 900  # metrics in a request; MLflow takes 1000


class UnknownError(InputError):
    """The store has no such study."""


@dataclass(frozen=True)
class Epoch:
    """Metrics at a step, an epoch or 0, and when they were measured in ms since 1970."""

    step: int
    time: int
    metrics: dict[str, float]

    def plain(self) -> tuple[int, int, dict[str, float]]:
        """As data that JSON knows."""
        return self.step, self.time, self.metrics


@dataclass(frozen=True)
class Logged:
    """The params and metrics that a run has, and the last epoch among them, -1 where there is none."""

    params: set[str]
    metrics: set[str]
    last_step: int


class Tracker:
    """Writes one study's experiment."""

    def __init__(self, study: str, uri: str) -> None:
        from mlflow.exceptions import MlflowException

        for noisy in ("mlflow.store.db.utils", "alembic"):
            logging.getLogger(noisy).setLevel(logging.WARNING)
        quicken_sqlite()
        check_answers(uri)
        try:
            self._client = _client(uri)
            experiment = self._client.get_experiment_by_name(study)
            self._experiment = (
                experiment.experiment_id if experiment else self._client.create_experiment(study, tags=KIND)
            )
        except MlflowException as error:
            raise InputError(f"the MLflow store {shown(uri)} cannot be used: {error.message}") from error
        self._study = study
        self._uri = uri
        self._artifacts: dict[str, Any] = {}  # where the files of the runs go that were opened here

    def open_study(self, objectives: Mapping[str, str], tags: Mapping[str, str]) -> str:
        """The id of the study's parent run, made where there is none, in state RUNNING."""
        found = self._find("search")
        if found is None:
            own = {"forcetune.kind": "search", "forcetune.objectives": json.dumps(dict(objectives))}
            run = self._client.create_run(self._experiment, tags=_tags({**tags, **own}), run_name=self._study)
            found = str(run.info.run_id)
        self._client.update_run(found, status="RUNNING")
        return found

    def describe(self, parent: str, study: Mapping[str, Any]) -> None:
        """The study as it is written, among the parent run's artifacts."""
        self._client.log_dict(parent, dict(study), STUDY_FILE)

    def find_trial(self, key: str) -> str | None:
        """The id of the run of the trial with this key; None where there is none."""
        return self._find("trial", key)

    def open_trial(self, parent: str, number: int, key: str, tags: Mapping[str, str], started: int) -> str:
        """The id of a new run for a trial, under the parent run, in state RUNNING; started: ms since 1970."""
        from mlflow.store.artifact.artifact_repository_registry import get_artifact_repository

        own = {"forcetune.kind": "trial", "forcetune.trial": key, "mlflow.parentRunId": parent}
        run = self._client.create_run(
            self._experiment, start_time=started, tags=_tags({**tags, **own}), run_name=f"trial-{number:04d}"
        )
        self._artifacts[run.info.run_id] = get_artifact_repository(run.info.artifact_uri, tracking_uri=self._uri)
        return str(run.info.run_id)

    def logged(self, run: str) -> Logged:
        """What a run has already."""
        found = self._client.get_run(run).data
        last = max((step for steps in self.steps(run).values() for step in steps), default=-1)
        return Logged({*found.params}, {*found.metrics}, last)

    def log(
        self,
        run: str,
        epochs: Iterable[Epoch] = (),
        fields: Mapping[str, Any] | None = None,
        tags: Mapping[str, str] | None = None,
    ) -> None:
        """Metrics, a trial's fields as params, and tags in as few requests as MLflow allows.

        Sent twice they stand there once.
        """
        from mlflow.entities import Metric, Param, RunTag

        metrics = [
            Metric(name, float(value), epoch.time, epoch.step)
            for epoch in epochs
            for name, value in epoch.metrics.items()
        ]
        first, *more = [metrics[i : i + BATCH] for i in range(0, len(metrics), BATCH)] or [[]]
        self._client.log_batch(
            run,
            metrics=first,
            params=[Param(name, text) for name, text in params(fields or {}).items()],
            tags=[RunTag(name, value) for name, value in _tags(tags or {}).items()],
        )
        for metrics in more:
            self._client.log_batch(run, metrics=metrics)

    def log_file(self, run: str, path: Path) -> None:
        """A file among the run's artifacts."""
        if run in self._artifacts:
            self._artifacts[run].log_artifact(str(path))
        else:  # the client asks the store first where they go
            self._client.log_artifact(run, str(path))

    def close(self, run: str, failed: bool = False, ended: int | None = None) -> None:
        """End a run as FINISHED or FAILED; ended: ms since 1970, now where it is not given."""
        self._client.set_terminated(run, "FAILED" if failed else "FINISHED", end_time=ended)
        self._artifacts.pop(run, None)

    def reopen(self, run: str) -> None:
        """Put a run back in state RUNNING."""
        self._client.update_run(run, status="RUNNING")

    def remove(self, run: str) -> None:
        """Take a run out of every table; MLflow keeps it among its deleted runs."""
        self._client.delete_run(run)

    def files(self, run: str) -> set[str]:
        """The names of a run's artifacts."""
        return {found.path for found in self._client.list_artifacts(run)}

    def copy_file(self, name: str, source: str, run: str) -> None:
        """Give a run an artifact of another one."""
        with TemporaryDirectory() as folder:
            self._client.log_artifact(run, self._client.download_artifacts(source, name, folder))

    def steps(self, run: str) -> dict[str, list[int]]:
        """The steps at which each metric of a run was logged, one entry for each time."""
        metrics = self._client.get_run(run).data.metrics
        return {name: [entry.step for entry in self._client.get_metric_history(run, name)] for name in metrics}

    def named(self, kind: str, name: str) -> str | None:
        """The id of the run of that kind and name; None where there is none."""
        wanted = f"tags.`forcetune.kind` = '{kind}' and tags.`mlflow.runName` = '{name}'"
        runs = self._client.search_runs([self._experiment], wanted, max_results=1)
        return str(runs[0].info.run_id) if runs else None

    def open_record(self, name: str, tags: Mapping[str, str]) -> str:
        """The id of a new run that is no trial's, in state RUNNING."""
        return str(self._client.create_run(self._experiment, tags=_tags(tags), run_name=name).info.run_id)

    def rename(self, name: str) -> None:
        """Give the experiment another name, under which `table` finds it."""
        self._client.rename_experiment(self._experiment, name)

    def _find(self, kind: str, key: str | None = None) -> str | None:
        wanted = f"tags.`forcetune.kind` = '{kind}'" + (f" and tags.`forcetune.trial` = '{key}'" if key else "")
        runs = self._client.search_runs([self._experiment], wanted, max_results=1)
        return str(runs[0].info.run_id) if runs else None


class Record:
    """A run that holds what was concluded, of the kind `baseline` or `nightly`; found again by its name."""

    def __init__(self, experiment: str, kind: str, name: str, tags: Mapping[str, str] | None = None) -> None:
        self._tracker = Tracker(experiment, mlflow_uri())
        self._client = self._tracker._client
        found = self._tracker.named(kind, name)
        own = {"forcetune.kind": kind, **(tags or {})}
        self.run = found or self._tracker.open_record(name, own)

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


def read_json(run: str, name: str, uri: str | None = None) -> Any:
    """What a JSON file among a run's artifacts says; None where there is none."""
    client = _client(uri or mlflow_uri())
    if name not in {found.path for found in client.list_artifacts(run)}:
        return None
    with TemporaryDirectory() as folder:
        return json.loads(Path(client.download_artifacts(run, name, folder)).read_text())


def records(experiment: str, kind: str) -> list[dict[str, Any]]:
    """The runs of that kind as `runs` gives them, oldest first; none where there is no such experiment."""
    try:
        found = runs(experiment, mlflow_uri())
    except UnknownError:
        return []
    return [run for run in found if run["tags"].get("forcetune.kind") == kind]


def _client(uri: str) -> MlflowClient:
    """MLflow's own would try for minutes where a server is gone; whoever logs here tries again by himself."""
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "1")
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "10")
    os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
    os.environ.setdefault("MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT", "true")  # of each run that ends
    from mlflow import MlflowClient

    return MlflowClient(uri)


def check_answers(uri: str) -> None:
    """Raise InputError where a server of MLflow does not answer within seconds."""
    if not uri.startswith(("http://", "https://")):
        return
    try:
        urllib.request.urlopen(f"{uri.rstrip('/')}/health", timeout=ANSWER).close()
    except urllib.error.HTTPError:
        return  # somebody is there, and says more when asked for runs
    except (OSError, ValueError) as error:
        reason = getattr(error, "reason", error)
        raise InputError(f"no MLflow server answers at {shown(uri)}: {reason}") from None


def progress(uri: str) -> dict[str, dict[str, float]]:
    """What the parent run of each study says of it: trials_done, front and hypervolume, as far as they are there.

    Raises InputError where MLflow does not answer.
    """
    from mlflow.exceptions import MlflowException

    check_answers(uri)
    client = _client(uri)
    try:
        names = {found.experiment_id: found.name for found in client.search_experiments()}
        parents = client.search_runs(list(names), "tags.`forcetune.kind` = 'search'", max_results=1000)
    except MlflowException as error:
        raise InputError(f"the MLflow store {shown(uri)} cannot be used: {error.message}") from error
    return {names[run.info.experiment_id]: dict(run.data.metrics) for run in parents}


def exists(study: str, uri: str) -> bool:
    """Whether MLflow has an experiment of this name. Raises InputError where it does not answer."""
    from mlflow.exceptions import MlflowException

    check_answers(uri)
    try:
        return _client(uri).get_experiment_by_name(study) is not None
    except MlflowException as error:
        raise InputError(f"the MLflow store {shown(uri)} cannot be used: {error.message}") from error


def table(study: str, uri: str | None = None) -> pd.DataFrame:
    """One row a trial: run_id, name, status, outcome, reason, trial (the key), then params and last metrics.

    Where a param and a metric share a name (`density`), the metric, which was measured, is shown. The
    objectives of the study are in `.attrs["objectives"]`. Raises InputError where there is no such study.
    """
    recorded = runs(study, uri or mlflow_uri())
    parent = _parent(study, recorded)
    trials = [run for run in recorded if run["tags"].get("forcetune.kind") == "trial"]
    found = pd.DataFrame([_row(run) for run in trials])
    found = found.astype(dict.fromkeys(_whole_numbers(trials), "Int64"))
    found.attrs["objectives"] = json.loads(parent["tags"]["forcetune.objectives"])
    return found


def _parent(study: str, recorded: list[dict[str, Any]]) -> dict[str, Any]:
    for run in recorded:
        if run["tags"].get("forcetune.kind") == "search":
            return run
    raise InputError(f"the MLflow experiment {study!r} is no study of forcetune: it has no parent run of a search")


def reruns(study: str, uri: str | None = None) -> pd.DataFrame | None:
    """The re-runs with fresh seeds, `of` the key of the trial that each runs again; None where there are none."""
    found = companions(study, uri)
    if found is None or "arm" not in found:
        return found
    return found[found["arm"].isna()]


def companions(study: str, uri: str | None = None) -> pd.DataFrame | None:
    """The table of a study's companion, re-runs and arms of comparisons; None where there is none.

    Its columns besides: of (the key of the study's trial that each is there for), arm, night, again.
    """
    try:
        return table(study + COMPANION, uri)
    except UnknownError:
        return None


def study_file(study: str, uri: str | None = None) -> dict[str, Any]:
    """The study as it is written, from the artifacts of its parent run.

    Raises InputError where there is no such study, or its file cannot be had.
    """
    store = uri or mlflow_uri()
    parent = _parent(study, runs(study, store))
    try:
        text = Path(_client(store).download_artifacts(parent["id"], STUDY_FILE)).read_text()
    except Exception as error:  # an MlflowException, or what reading the artifact store raises
        raise InputError(f"the run {parent['id']} in {shown(store)} has no {STUDY_FILE} to read: {error}") from error
    return dict(yaml.safe_load(text))


def fetch_masks(source: str, uri: str | None = None) -> Path:
    """The file of masks that is meant: a path as it is, or the masks.npz of the run with this id.

    Raises InputError where the store has no such run, or the run no masks.
    """
    if not re.fullmatch("[0-9a-f]{32}", source):
        return Path(source)
    store = uri or mlflow_uri()
    try:
        return Path(_client(store).download_artifacts(source, "masks.npz"))
    except Exception as error:  # an MlflowException, or what reading the artifact store raises
        raise InputError(f"the run {source} in {shown(store)} has no masks.npz to read: {error}") from error


def trial_fields(run: str, uri: str | None = None) -> dict[str, Any]:
    """The fields of the trial whose run has this id. Raises InputError where the store has no such trial."""
    from mlflow.exceptions import MlflowException

    store = uri or mlflow_uri()
    try:
        found = _client(store).get_run(run)
    except MlflowException as error:
        raise InputError(f"there is no run {run!r} in {shown(store)}; `forcetune best STUDY` prints run ids") from error
    if found.data.tags.get("forcetune.kind") != "trial":
        raise InputError(f"the run {run} in {shown(store)} is no trial of forcetune")
    return {name: _value(text) for name, text in found.data.params.items()}


def _row(run: dict[str, Any]) -> dict[str, Any]:
    return {
        "run_id": run["id"],
        "name": run["name"],
        "status": run["status"],
        "outcome": run["tags"].get("forcetune.outcome"),
        "reason": run["tags"].get("forcetune.reason"),
        "trial": run["tags"].get("forcetune.trial"),
        **{mark: run["tags"][f"forcetune.{mark}"] for mark in MARKS if f"forcetune.{mark}" in run["tags"]},
        **{name: _value(text) for name, text in run["params"].items()},
        **run["metrics"],
    }


def params(fields: Mapping[str, Any]) -> dict[str, str]:
    """A trial's fields as the params of its run."""
    return {name: _text(value) for name, value in fields.items()}


def _whole_numbers(trials: list[dict[str, Any]]) -> set[str]:
    """Params that are whole numbers in every trial that has them; where some lack one, pandas would make floats."""
    params = {name for run in trials for name in run["params"]}
    fractional = {name for run in trials for name, text in run["params"].items() if not text.lstrip("-").isdigit()}
    return params - fractional


def runs(study: str, uri: str) -> list[dict[str, Any]]:
    """The runs of a study's experiment, oldest first: id, name, status, params, last metrics and tags of each.

    Raises InputError where there is no such experiment, or the store does not answer.
    """
    path = sqlite_path(uri)
    return _runs_of_client(study, uri) if path is None else _runs_of_file(study, path)


def _runs_of_file(study: str, path: Path) -> list[dict[str, Any]]:
    """Straight from MLflow's SQLite tables: importing MLflow alone takes longer than a query may."""
    if not path.is_file():
        raise InputError(f"there is no MLflow store at {path}; run a search in this folder, or set MLFLOW_TRACKING_URI")
    try:
        with closing(sqlite3.connect(f"{path.as_uri()}?mode=ro", uri=True)) as connection:
            ids = dict(
                connection.execute("select name, experiment_id from experiments where lifecycle_stage = 'active'")
            )
            if study not in ids:
                raise _unknown(study, ids)
            wanted = (ids[study],)
            active = "from runs r where r.experiment_id = ? and r.lifecycle_stage = 'active'"
            runs = {
                run: {"id": run, "name": name, "status": status, "params": {}, "metrics": {}, "tags": {}}
                for run, name, status in connection.execute(
                    f"select run_uuid, name, status {active} order by start_time", wanted
                )
            }
            for kind, rows in (("params", "params"), ("metrics", "latest_metrics"), ("tags", "tags")):
                query = f"select run_uuid, key, value from {rows} where run_uuid in (select run_uuid {active})"
                for run, key, value in connection.execute(query, wanted):
                    runs[run][kind][key] = value
    except sqlite3.Error as error:
        raise InputError(f"{path} is not readable as an MLflow store: {error}") from error
    return list(runs.values())


def _runs_of_client(study: str, uri: str) -> list[dict[str, Any]]:
    from mlflow.exceptions import MlflowException

    check_answers(uri)
    client = _client(uri)
    try:
        experiment = client.get_experiment_by_name(study)
        if experiment is None:
            raise _unknown(study, [found.name for found in client.search_experiments()])
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
            "params": run.data.params,
            "metrics": run.data.metrics,
            "tags": run.data.tags,
        }
        for run in reversed(runs)
    ]


def _unknown(study: str, known: Iterable[str]) -> UnknownError:
    names = ", ".join(sorted(set(known) - {"Default"})) or "none yet"
    return UnknownError(f"no study {study!r} in this MLflow store{suggestion(study, known)}; there are: {names}")


def _tags(tags: Mapping[str, str]) -> dict[str, str]:
    return {name: str(value)[:5000] for name, value in tags.items()}


def _text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)


def _value(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        return text
