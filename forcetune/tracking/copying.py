"""An experiment copied to another MLflow store, run by run: params, tags, whole curves, data sets and artifacts."""

from __future__ import annotations

from collections.abc import Callable
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

from forcetune.errors import InputError
from forcetune.stores import hide_password
from forcetune.tracking.client import check_answers, delete_experiment, make_client
from forcetune.tracking.runs import load_runs
from forcetune.tracking.writing import METRICS_PER_REQUEST

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Run

MOVED_FROM_TAG = "forcetune.moved_from"  # of an experiment: the store that it was in; of a run: its id in that store
PARENT_TAG = "mlflow.parentRunId"
MOVING_SUFFIX = ".moving"  # behind the name of an experiment, or a study, of which only a part is copied
PARAMS_PER_REQUEST = 100  # MLflow's own limit


def copy_experiment(name: str, source: str, target: str, say: Callable[[str], None] = lambda line: None) -> None:
    """Copy an experiment with its runs from one store to another.

    MLflow gives a run another id in the target; the old id is the tag forcetune.moved_from, by which `find_moved_run`
    finds the run. A copy that an earlier call did not complete is made anew. Nothing happens where the source has no
    such experiment, or where an earlier call has copied all of it.

    Args:
        name: The name of the experiment. The target has it under this name once the copy is complete.
        source: The URI of the store that has the experiment.
        target: The URI of the other store.
        say: A function that is called with a line of progress after every 100 runs.

    Raises:
        InputError: The target has an experiment of that name from another source, or a store does not answer.
    """
    from mlflow.entities import ViewType
    from mlflow.exceptions import MlflowException

    for store in (source, target):
        check_answers(store)
    source_client, target_client = make_client(source), make_client(target)
    try:
        experiment = source_client.get_experiment_by_name(name)
        if experiment is None or has_been_copied(name, source, target):
            return
        if target_client.get_experiment_by_name(name) is not None:
            raise InputError(
                f"{hide_password(target)} already has an experiment {name!r} from another source; nothing was moved"
            )
        delete_experiment(name + MOVING_SUFFIX, target)
        tags = {tag: text for tag, text in experiment.tags.items() if tag != MOVED_FROM_TAG}
        experiment_id = target_client.create_experiment(
            name + MOVING_SUFFIX, tags={**tags, MOVED_FROM_TAG: hide_password(source)}
        )
        runs: list[Run] = []
        token: str | None = None
        while token != "":
            page = source_client.search_runs(
                [experiment.experiment_id], run_view_type=ViewType.ACTIVE_ONLY, max_results=1000, page_token=token
            )
            runs += page
            token = page.token or ""
        # A child's tag needs the new id of its parent.
        runs.sort(key=lambda run: (PARENT_TAG in run.data.tags, run.info.start_time))
        new_ids: dict[str, str] = {}
        for count, run in enumerate(runs, 1):
            new_ids[run.info.run_id] = _copy_run(run, source_client, target_client, experiment_id, new_ids)
            if count % 100 == 0:
                say(f"{name}: {count} of {len(runs)} runs")
        target_client.rename_experiment(experiment_id, name)
    except MlflowException as error:
        raise InputError(f"{name} could not be copied to {hide_password(target)}: {error.message}") from error


def has_been_copied(name: str, source: str, target: str) -> bool:
    """Return whether the target has the whole experiment from this source."""
    copy = make_client(target).get_experiment_by_name(name)
    return copy is not None and copy.tags.get(MOVED_FROM_TAG) == hide_password(source)


def find_difference(name: str, source: str, target: str) -> str | None:
    """Return the first difference between an experiment and its copy.

    Args:
        name: The name of the experiment in both stores.
        source: The URI of the store that it was copied from.
        target: The URI of the store that has the copy.

    Returns:
        A sentence on the difference; None where all runs have the same name, times, status, params, metrics and tags.

    Raises:
        InputError: A store does not answer, or has no such experiment.
    """
    copies = {run["tags"].get(MOVED_FROM_TAG): run for run in load_runs(name, target)}
    for run in load_runs(name, source):
        copy = copies.pop(run["id"], None)
        if copy is None:
            return f"the copy lacks the run {run['id']}"
        for attribute in ("name", "status", "started", "ended", "params", "metrics", "tags"):
            if _comparable(run, attribute) != _comparable(copy, attribute):
                return f"the run {run['id']} and its copy differ in {attribute}"
    return None if not copies else f"the copy has {len(copies)} runs that the source does not have"


def find_moved_run(run: str, uri: str) -> str | None:
    """Return the id, in this store, of the run that had the id `run` in another store; None where there is none."""
    client = make_client(uri)
    experiment_ids = [experiment.experiment_id for experiment in client.search_experiments()]
    runs = client.search_runs(experiment_ids, f"tags.`{MOVED_FROM_TAG}` = '{run}'", max_results=1)
    return str(runs[0].info.run_id) if runs else None


def _copy_run(
    run: Run, source_client: MlflowClient, target_client: MlflowClient, experiment: str, new_ids: dict[str, str]
) -> str:
    """Copy a run into an experiment of the target and return its new id.

    Args:
        run: The run in the source.
        source_client: The client of the source.
        target_client: The client of the target.
        experiment: The id of the experiment in the target.
        new_ids: The ids in the target of the runs that are copied, by their ids in the source.
    """
    from mlflow.entities import Param

    tags = {**run.data.tags, MOVED_FROM_TAG: run.info.run_id}
    if PARENT_TAG in tags:
        tags[PARENT_TAG] = new_ids.get(tags[PARENT_TAG], tags[PARENT_TAG])
    copy = target_client.create_run(experiment, run.info.start_time, tags, run.info.run_name).info.run_id
    params = [Param(name, text) for name, text in run.data.params.items()]
    for start in range(0, len(params), PARAMS_PER_REQUEST):
        target_client.log_batch(copy, params=params[start : start + PARAMS_PER_REQUEST])
    points = [point for name in run.data.metrics for point in source_client.get_metric_history(run.info.run_id, name)]
    for start in range(0, len(points), METRICS_PER_REQUEST):
        target_client.log_batch(copy, metrics=points[start : start + METRICS_PER_REQUEST])
    if run.inputs and run.inputs.dataset_inputs:
        target_client.log_inputs(copy, run.inputs.dataset_inputs)
    with TemporaryDirectory() as folder:
        for artifact in source_client.list_artifacts(run.info.run_id):
            source_client.download_artifacts(run.info.run_id, artifact.path, folder)
        target_client.log_artifacts(copy, folder)
    if run.info.status == "RUNNING":
        target_client.update_run(copy, status="RUNNING")
    else:
        target_client.set_terminated(copy, run.info.status, run.info.end_time)
    return str(copy)


def _comparable(run: dict[str, Any], attribute: str) -> Any:
    """Return an attribute of a run as it can be compared with its copy's: no tags of the move, NaN equal to NaN."""
    if attribute == "tags":
        return {name: text for name, text in run["tags"].items() if name not in (MOVED_FROM_TAG, PARENT_TAG)}
    return {name: repr(value) for name, value in run[attribute].items()} if attribute == "metrics" else run[attribute]
