"""A study read back as a table, a row a trial, and what else its runs hold."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd
import yaml

from forcetune.errors import InputError
from forcetune.names import COMPANION, suggestion
from forcetune.stores import mlflow_uri, shown
from forcetune.tracking.client import check_answers, client_of
from forcetune.tracking.copying import find_moved
from forcetune.tracking.runs import UnknownError, runs, value_of
from forcetune.tracking.writing import STUDY_FILE

if TYPE_CHECKING:
    from mlflow.entities import Run

FRONT, KNEE = "forcetune.front", "forcetune.knee"  # tags of the runs on a study's front, and of the one at its knee
MARKS = ("of", "arm", "night", "again")  # tags of companions: what each is there for


def table(study: str, uri: str | None = None) -> pd.DataFrame:
    """One row a trial: run_id, name, status, started, ended, outcome, reason, trial (the key), params, last metrics.

    Where a param and a metric share a name (`density`), the metric, which was measured, is shown. device_seconds: that
    pruning and training took, times the devices that a trial has (GPUs, or cores where it has no GPU). In `.attrs`:
    study, objectives (metric to `max` or `min`), references (the worst value of each that counts, as far as they are
    known), device_hours (of the study in all, lost attempts included; None where no run says so), fields (those that
    trials have), state (of the search: RUNNING, FINISHED, ...), parent (the id of the study's parent run) and marked
    (for the tags FRONT and KNEE the ids of the runs that have them).
    Raises InputError where there is no such study.
    """
    recorded = runs(study, uri or mlflow_uri())
    parent = _parent(study, recorded)
    trials = [run for run in recorded if run["tags"].get("forcetune.kind") == "trial"]
    found = pd.DataFrame([_row(run) for run in trials])
    found = found.astype(
        dict.fromkeys(_whole_numbers(trials), "Int64")
    ).copy()  # else each column is a block of its own
    found.attrs = {
        "study": study,
        "objectives": json.loads(parent["tags"]["forcetune.objectives"]),
        "references": json.loads(parent["tags"].get("forcetune.references", "{}")),
        "device_hours": parent["metrics"].get("device_hours"),
        "fields": list(dict.fromkeys(name for run in trials for name in run["params"])),
        "state": parent["status"],
        "parent": parent["id"],
        "marked": {tag: [run["id"] for run in trials if tag in run["tags"]] for tag in (FRONT, KNEE)},
    }
    return found


def _parent(study: str, recorded: list[dict[str, Any]]) -> dict[str, Any]:
    for run in recorded:
        if run["tags"].get("forcetune.kind") == "search":
            return run
    raise InputError(f"the MLflow experiment {study!r} is no study of forcetune: it has no parent run of a search")


def companions(study: str, uri: str | None = None) -> pd.DataFrame | None:
    """The table of a study's companion, re-runs and arms of comparisons; None where there is none.

    Its columns besides: of (the key of the study's trial that each is there for), arm, night, again.
    """
    try:
        return table(study + COMPANION, uri)
    except UnknownError:
        return None


def reruns(study: str, uri: str | None = None) -> pd.DataFrame | None:
    """The re-runs with fresh seeds, `of` the key of the trial that each runs again; None where there are none."""
    return without_arms(companions(study, uri))


def without_arms(companions: pd.DataFrame | None) -> pd.DataFrame | None:
    """Of companions those that are on no side of any comparison: the re-runs."""
    if companions is None or "arm" not in companions:
        return companions
    return companions[companions["arm"].isna()]


def study_file(study: str, uri: str | None = None) -> dict[str, Any]:
    """The study as it is written, from the artifacts of its parent run.

    Raises InputError where there is no such study, or its file cannot be had.
    """
    store = uri or mlflow_uri()
    parent = _parent(study, runs(study, store))
    try:
        text = Path(client_of(store).download_artifacts(parent["id"], STUDY_FILE)).read_text()
    except Exception as error:  # an MlflowException, or what reading the artifact store raises
        raise InputError(f"the run {parent['id']} in {shown(store)} has no {STUDY_FILE} to read: {error}") from error
    written = dict(yaml.safe_load(text))
    order = json.loads(parent["tags"]["forcetune.objectives"])  # of a file that somebody has sorted
    return {**written, "objectives": {name: written["objectives"][name] for name in order}}


def fetch_masks(source: str, uri: str | None = None) -> Path:
    """The file of masks that is meant: a path as it is, or the masks.npz of the run with this id.

    Raises InputError where the store has no such run, or the run no masks.
    """
    if not re.fullmatch("[0-9a-f]{32}", source):
        return Path(source)
    store = uri or mlflow_uri()
    try:
        return Path(client_of(store).download_artifacts(_get_run(source, store).info.run_id, "masks.npz"))
    except Exception as error:  # an MlflowException, or what reading the artifact store raises
        raise InputError(f"the run {source} in {shown(store)} has no masks.npz to read: {error}") from error


def trial_fields(run: str, uri: str | None = None) -> dict[str, Any]:
    """The fields of the trial whose run has this id. Raises InputError where the store has no such trial."""
    store = uri or mlflow_uri()
    found = _get_run(run, store)
    if found.data.tags.get("forcetune.kind") != "trial":
        raise InputError(f"the run {run} in {shown(store)} is no trial of forcetune")
    return {name: value_of(text) for name, text in found.data.params.items()}


def find_run(run: str, uri: str | None = None) -> str:
    """The id of the run that is meant: an id as it is, or that of a study's run by its name, `digits/trial-0036`.

    Raises InputError where the study, or the run in it, is not there.
    """
    study, slash, name = run.rpartition("/")
    if not slash:
        return run
    known = {found["name"]: found["id"] for found in runs(study, uri or mlflow_uri())}
    if name not in known:
        raise InputError(f"the study {study!r} has no run {name!r}{suggestion(name, known)}")
    return str(known[name])


def run_tags(run: str, uri: str | None = None) -> dict[str, str]:
    """The tags of the run with this id. Raises InputError where the store has no such run."""
    return dict(_get_run(run, uri or mlflow_uri()).data.tags)


def _get_run(run: str, store: str) -> Run:
    """The run with this id, also the one that it had in the store from which it was moved."""
    from mlflow.exceptions import MlflowException

    client = client_of(store)
    try:
        return client.get_run(run)
    except MlflowException as error:
        if error.error_code == "RESOURCE_DOES_NOT_EXIST" and (moved := find_moved(run, store)):
            return client.get_run(moved)
        raise InputError(f"there is no run {run!r} in {shown(store)}; `forcetune best STUDY` prints run ids") from error


def progress(uri: str) -> dict[str, dict[str, float]]:
    """What the parent run of each study says of it: trials_done, front and hypervolume, as far as they are there.

    Raises InputError where MLflow does not answer.
    """
    from mlflow.exceptions import MlflowException

    check_answers(uri)
    client = client_of(uri)
    try:
        names = {found.experiment_id: found.name for found in client.search_experiments()}
        parents = client.search_runs(list(names), "tags.`forcetune.kind` = 'search'", max_results=1000)
    except MlflowException as error:
        raise InputError(f"the MLflow store {shown(uri)} cannot be used: {error.message}") from error
    return {names[run.info.experiment_id]: dict(run.data.metrics) for run in parents}


def _row(run: dict[str, Any]) -> dict[str, Any]:
    return {
        "run_id": run["id"],
        "name": run["name"],
        "status": run["status"],
        "started": run["started"],
        "ended": run["ended"],
        "outcome": run["tags"].get("forcetune.outcome"),
        "reason": run["tags"].get("forcetune.reason"),
        "trial": run["tags"].get("forcetune.trial"),
        **{mark: run["tags"][f"forcetune.{mark}"] for mark in MARKS if f"forcetune.{mark}" in run["tags"]},
        **{name: value_of(text) for name, text in run["params"].items()},
        **run["metrics"],
        "device_seconds": _device_seconds(run),
    }


def _device_seconds(run: dict[str, Any]) -> float:
    devices = float(run["tags"].get("forcetune.devices", 1))
    return devices * sum(run["metrics"].get(name, 0.0) for name in ("prune_seconds", "train_seconds"))


def _whole_numbers(trials: list[dict[str, Any]]) -> set[str]:
    """Params that are whole numbers in every trial that has them; where some lack one, pandas would make floats."""
    params = {name for run in trials for name in run["params"]}
    fractional = {name for run in trials for name, text in run["params"].items() if not text.lstrip("-").isdigit()}
    return params - fractional
