"""A study read back as a table, a row a trial, and the other content of its runs."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd
import yaml

from forcetune.errors import InputError
from forcetune.names import COMPANION, RUN_ID_PATTERN, suggestion
from forcetune.stores import hide_password, mlflow_uri
from forcetune.tracking.client import download_file, list_all_experiments, list_runs, make_client, open_client
from forcetune.tracking.copying import find_moved_run
from forcetune.tracking.registry import REGISTERED_TAG
from forcetune.tracking.runs import UnknownError, load_runs, parse_param
from forcetune.tracking.writing import KEEP_TAG, STUDY_FILE, WEIGHTS_TAG

if TYPE_CHECKING:
    from mlflow.entities import Run

FRONT_TAG, KNEE_TAG = "forcetune.front", "forcetune.knee"  # of the runs on a study's front, and of the run at its knee
DEVICE_TAG = "forcetune.device"  # the name of the device on which a trial ran
# The columns that a table of trials has without trials too.
TABLE_COLUMNS = ("run_id", "name", "status", "started", "ended", "outcome", "reason", "trial", "device_seconds")
REACHED_TOLERANCE = 0.02  # of a density, by which the density that was reached may differ: whole weights are kept
COMPANION_TAGS = ("of", "arm", "night", "again")  # the purpose of a companion; columns of a companion's table


@dataclass(frozen=True, eq=False, kw_only=True)
class TrialTable:
    """The trials of a study, or of several studies with the same objectives, with the properties of the studies.

    Attributes:
        trials: The trials, one row a trial.
        studies: The names of the studies.
        objectives: Objective to `max` or `min`.
        fields: The names of the fields that the trials have.
        device_hours: The device hours of the studies, lost attempts included; None where no run says so.
        state: The state of the search: RUNNING, FINISHED, ...
        references: The worst value of each objective that counts, where it is set; empty for several studies.
        parent: The id of the study's parent run; empty for several studies.
        keep_rule: Whose weights are kept, as the last search noted it: `keep` and `has_seeds`; empty for several
            studies, and for those of versions that kept none.
        weights: Who keeps the weights of a trial (KEPT_BY_SEARCH, KEPT_BY_USER), or that they were deleted
            (WEIGHTS_DROPPED), by the id of its run; empty for several studies.
        marked: For FRONT_TAG and KNEE_TAG the ids of the runs that have them; empty for several studies.
        devices: The name of the device on which a trial ran, by the id of its run.
        registered: The names of the models in MLflow's registry that have networks of the study; empty for several
            studies.
    """

    trials: pd.DataFrame
    studies: Sequence[str]
    objectives: Mapping[str, str]
    fields: Sequence[str]
    device_hours: float | None
    state: str
    references: Mapping[str, float] = field(default_factory=dict)
    parent: str = ""
    keep_rule: Mapping[str, Any] = field(default_factory=dict)
    weights: Mapping[str, str] = field(default_factory=dict)
    marked: Mapping[str, Sequence[str]] = field(default_factory=dict)
    devices: Mapping[str, str] = field(default_factory=dict)
    registered: Sequence[str] = ()


def load_table(study: str, uri: str | None = None) -> TrialTable:
    """Return the trials of a study as a table.

    Args:
        study: The name of the study.
        uri: The URI of the MLflow store; by default MLFLOW_TRACKING_URI, or mlflow.db in the current folder.

    Returns:
        The table. Its trials have the columns run_id, name, status, started, ended, outcome, reason, trial (the key),
        the params, the last values of the metrics, and device_seconds: the seconds of pruning and training times the
        devices of the trial (GPUs, or cores where it has no GPU). Where a param and a metric share a name (`density`),
        the column has the metric, which was measured. Where trials reached another density than they were asked for,
        as with whole channels, requested_density is what they were asked for.

    Raises:
        UnknownError: The store has no such study.
        InputError: The store does not answer, or the experiment is no study.
    """
    runs = load_runs(study, uri or mlflow_uri())
    parent = _find_parent(study, runs)
    trials = [run for run in runs if run["tags"].get("forcetune.kind") == "trial"]
    rows = pd.DataFrame([_make_row(run) for run in trials], columns=None if trials else [*TABLE_COLUMNS])
    return TrialTable(
        # The copy puts the columns into few blocks of memory, where each would else have its own.
        trials=rows.astype(dict.fromkeys(_find_integer_params(trials), "Int64")).copy(),
        studies=[study],
        objectives=json.loads(parent["tags"]["forcetune.objectives"]),
        fields=list(dict.fromkeys(name for run in trials for name in run["params"])),
        device_hours=parent["metrics"].get("device_hours"),
        state=parent["status"],
        references=json.loads(parent["tags"].get("forcetune.references", "{}")),
        parent=parent["id"],
        keep_rule=json.loads(parent["tags"].get(KEEP_TAG, "{}")),
        weights={run["id"]: run["tags"][WEIGHTS_TAG] for run in trials if WEIGHTS_TAG in run["tags"]},
        marked={tag: [run["id"] for run in trials if tag in run["tags"]] for tag in (FRONT_TAG, KNEE_TAG)},
        devices={run["id"]: run["tags"][DEVICE_TAG] for run in trials if DEVICE_TAG in run["tags"]},
        registered=json.loads(parent["tags"].get(REGISTERED_TAG, "[]")),
    )


def _find_parent(study: str, runs: list[dict[str, Any]]) -> dict[str, Any]:
    for run in runs:
        if run["tags"].get("forcetune.kind") == "search":
            return run
    raise InputError(f"the MLflow experiment {study!r} was not made by forcetune: it has no parent run of a search")


def load_companions(study: str, uri: str | None = None) -> pd.DataFrame | None:
    """Return a study's companions: its re-runs and the arms of its comparisons.

    Args:
        study: The name of the study.
        uri: The URI of the MLflow store; by default MLFLOW_TRACKING_URI, or mlflow.db in the current folder.

    Returns:
        Rows as those of `load_table`, with the columns of (the key of the study's trial that a companion belongs
        to), arm, night and again where companions have them; None where the study has no companion.

    Raises:
        InputError: The store does not answer.
    """
    try:
        return load_table(study + COMPANION, uri).trials
    except UnknownError:
        return None


def load_reruns(study: str, uri: str | None = None) -> pd.DataFrame | None:
    """Return the table of a study's re-runs with fresh seeds.

    Args:
        study: The name of the study.
        uri: The URI of the MLflow store; by default MLFLOW_TRACKING_URI, or mlflow.db in the current folder.

    Returns:
        A table as `load_companions` gives it; `of` is the key of the trial that is run again. None where the study has
        no companion.

    Raises:
        InputError: The store does not answer.
    """
    return select_reruns(load_companions(study, uri))


def select_reruns(companions: pd.DataFrame | None) -> pd.DataFrame | None:
    """Return the re-runs among companions, which are no arm of a comparison.

    Args:
        companions: The table of companions, as `load_companions` gives it.
    """
    if companions is None or "arm" not in companions:
        return companions
    return companions[companions["arm"].isna()]


def load_study_file(study: str, uri: str | None = None) -> dict[str, Any]:
    """Return the content of a study's file, from the artifacts of its parent run.

    Args:
        study: The name of the study.
        uri: The URI of the MLflow store; by default MLFLOW_TRACKING_URI, or mlflow.db in the current folder.

    Returns:
        The study as plain data, with its objectives in the order that they have in the ledger.

    Raises:
        InputError: There is no such study, or its file cannot be read.
    """
    store = uri or mlflow_uri()
    parent = _find_parent(study, load_runs(study, store))
    content = download_file(parent["id"], STUDY_FILE, store)
    if content is None:
        raise InputError(
            f"{STUDY_FILE} of the run {parent['id']} in {hide_password(store)} cannot be read: there is no such file"
        )
    written = dict(yaml.safe_load(content))
    order = json.loads(parent["tags"]["forcetune.objectives"])  # the keys of the file may have been sorted by hand
    return {**written, "objectives": {name: written["objectives"][name] for name in order}}


def fetch_masks(source: str, uri: str | None = None) -> Path:
    """Return the path of a file of masks.

    Args:
        source: A path, which is returned as it is, or the id of a run, whose masks.npz is downloaded.
        uri: The URI of the MLflow store; by default MLFLOW_TRACKING_URI, or mlflow.db in the current folder.

    Raises:
        InputError: The store has no such run, or the run has no masks.
    """
    if not RUN_ID_PATTERN.fullmatch(source):
        return Path(source)
    store = uri or mlflow_uri()
    try:
        return Path(make_client(store).download_artifacts(_get_run(source, store).info.run_id, "masks.npz"))
    except Exception as error:  # an MlflowException, or what reading the artifact store raises
        raise InputError(f"masks.npz of the run {source} in {hide_password(store)} cannot be read: {error}") from error


def load_trial_fields(run: str, uri: str | None = None) -> dict[str, Any]:
    """Return the fields of a trial.

    Args:
        run: The id of the trial's run.
        uri: The URI of the MLflow store; by default MLFLOW_TRACKING_URI, or mlflow.db in the current folder.

    Raises:
        InputError: The store has no such run, or the run is no trial.
    """
    store = uri or mlflow_uri()
    trial = _get_run(run, store)
    if trial.data.tags.get("forcetune.kind") != "trial":
        raise InputError(f"the run {run} in {hide_password(store)} is not a trial of forcetune")
    return {name: parse_param(text) for name, text in trial.data.params.items()}


def find_run(run: str, uri: str | None = None) -> str:
    """Return the id of a run.

    Args:
        run: The id, also the one that the run had in the store from which it was moved, or the run's study and name,
            as in `digits/trial-0036`.
        uri: The URI of the MLflow store; by default MLFLOW_TRACKING_URI, or mlflow.db in the current folder.

    Raises:
        InputError: The store has no such run or study, or the study has no such run.
    """
    store = uri or mlflow_uri()
    study, slash, name = run.rpartition("/")
    if not slash:
        return str(_get_run(run, store).info.run_id)
    ids = {entry["name"]: entry["id"] for entry in load_runs(study, store)}
    if name not in ids:
        raise InputError(f"the study {study!r} has no run {name!r}{suggestion(name, ids)}")
    return str(ids[name])


def find_study(run: str, uri: str | None = None) -> str:
    """Return the name of the experiment that has a run: that of the study, or of its companion.

    Args:
        run: The id of the run.
        uri: The URI of the MLflow store; by default MLFLOW_TRACKING_URI, or mlflow.db in the current folder.

    Raises:
        InputError: The store has no such run.
    """
    store = uri or mlflow_uri()
    experiment_id = _get_run(run, store).info.experiment_id
    return str(make_client(store).get_experiment(experiment_id).name)


def load_run_tags(run: str, uri: str | None = None) -> dict[str, str]:
    """Return the tags of a run.

    Args:
        run: The id of the run.
        uri: The URI of the MLflow store; by default MLFLOW_TRACKING_URI, or mlflow.db in the current folder.

    Raises:
        InputError: The store has no such run.
    """
    return dict(_get_run(run, uri or mlflow_uri()).data.tags)


def load_run_metrics(run: str, uri: str | None = None) -> dict[str, float]:
    """Return the last value of each metric of a run.

    Args:
        run: The id of the run.
        uri: The URI of the MLflow store; by default MLFLOW_TRACKING_URI, or mlflow.db in the current folder.

    Raises:
        InputError: The store has no such run.
    """
    return dict(_get_run(run, uri or mlflow_uri()).data.metrics)


def read_file(run: str, name: str, uri: str | None = None) -> bytes | None:
    """Return the content of a file among a run's artifacts; None where the run has no such file.

    Args:
        run: The id of the run.
        name: The name of the file.
        uri: The URI of the MLflow store; by default MLFLOW_TRACKING_URI, or mlflow.db in the current folder.

    Raises:
        InputError: The store has no such run, or its artifacts cannot be read.
    """
    store = uri or mlflow_uri()
    return download_file(_get_run(run, store).info.run_id, name, store)


def _get_run(run: str, store: str) -> Run:
    """Return the run with this id, which may be the id that it had in the store from which it was moved."""
    from mlflow.exceptions import MlflowException

    client = make_client(store)
    try:
        return client.get_run(run)
    except MlflowException as error:
        if error.error_code == "RESOURCE_DOES_NOT_EXIST" and (moved := find_moved_run(run, store)):
            return client.get_run(moved)
        raise InputError(
            f"there is no run {run!r} in {hide_password(store)}; `forcetune best STUDY` prints run ids"
        ) from error


def load_progress(uri: str) -> dict[str, dict[str, float]]:
    """Return the metrics of each study's parent run: trials_done, front and hypervolume, as far as they are logged.

    Args:
        uri: The URI of the MLflow store.

    Returns:
        The metrics by name, for each study by its name.

    Raises:
        InputError: MLflow does not answer.
    """
    with open_client(uri) as client:
        names = {experiment.experiment_id: experiment.name for experiment in list_all_experiments(client)}
        parents = list_runs(client, list(names), "tags.`forcetune.kind` = 'search'")
    return {names[run.info.experiment_id]: dict(run.data.metrics) for run in parents}


def _make_row(run: dict[str, Any]) -> dict[str, Any]:
    return {
        "run_id": run["id"],
        "name": run["name"],
        "status": run["status"],
        "started": run["started"],
        "ended": run["ended"],
        "outcome": run["tags"].get("forcetune.outcome"),
        "reason": run["tags"].get("forcetune.reason"),
        "trial": run["tags"].get("forcetune.trial"),
        **{tag: run["tags"][f"forcetune.{tag}"] for tag in COMPANION_TAGS if f"forcetune.{tag}" in run["tags"]},
        **{name: parse_param(text) for name, text in run["params"].items()},
        **run["metrics"],
        **_select_requested_density(run),
        "device_seconds": _sum_device_seconds(run),
    }


def _select_requested_density(run: dict[str, Any]) -> dict[str, float]:
    """Return the density that was asked for, where the trial reached another one than whole weights explain."""
    requested, reached = float(run["params"].get("density", "nan")), float(run["metrics"].get("density", "nan"))
    differs = abs(requested - reached) > REACHED_TOLERANCE * requested
    return {"requested_density": requested} if differs else {}


def _sum_device_seconds(run: dict[str, Any]) -> float:
    devices = float(run["tags"].get("forcetune.devices", 1))
    return devices * sum(float(run["metrics"].get(name, 0.0)) for name in ("prune_seconds", "train_seconds"))


def _find_integer_params(trials: list[dict[str, Any]]) -> set[str]:
    """Return the params that are integers in every trial that has them; pandas makes floats where a trial lacks one."""
    params = {name for run in trials for name in run["params"]}
    fractional = {name for run in trials for name, text in run["params"].items() if not text.lstrip("-").isdigit()}
    return params - fractional
