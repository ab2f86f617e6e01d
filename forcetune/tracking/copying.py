"""An experiment copied to another MLflow store, run by run: params, tags, whole curves, data sets and artifacts."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

from forcetune.errors import InputError, StoppedError
from forcetune.names import RUN_ID_PATTERN
from forcetune.stores import hide_password
from forcetune.tracking.client import (
    DELETED_STAGE,
    check_answers,
    delete_experiment,
    explain_deleted,
    list_runs,
    make_client,
)
from forcetune.tracking.writing import STUDY_FILE

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Run

# The tag of an experiment names the store that it was in; the tag of a run holds its earlier ids, the latest last.
MOVED_FROM_TAG = "forcetune.moved_from"
PARENT_TAG = "mlflow.parentRunId"
MOVING_SUFFIX = ".moving"  # behind the name of an experiment, or a study, of which only a part is copied


def copy_experiment(name: str, source: str, target: str, say: Callable[[str], None] = lambda line: None) -> None:
    """Copy an experiment with its runs from one store to another, and compare the copy with the original.

    MLflow gives a run another id in the target; the old ids are in the tag forcetune.moved_from, by which
    `find_moved_run` finds the run. A copy that an earlier call did not complete is made anew. Nothing happens where the
    source has no such experiment, or where an earlier call has copied all of it.

    Args:
        name: The name of the experiment. The target has it under this name once the copy was compared.
        source: The URI of the store that has the experiment.
        target: The URI of the other store.
        say: A function that is called with a line of progress after every 100 runs.

    Raises:
        InputError: The target has an experiment of that name that is not the same, the experiment was deleted in the
            source, its artifacts cannot be read, or a store does not answer.
        StoppedError: The copy differs from the original; the target keeps it under another name.
    """
    from mlflow.exceptions import MlflowException

    for store in (source, target):
        check_answers(store)
    source_client, target_client = make_client(source), make_client(target)
    try:
        experiment = source_client.get_experiment_by_name(name)
        existing = target_client.get_experiment_by_name(name)
        if experiment is None:
            return
        if existing is not None:
            copies = list_runs(target_client, [existing.experiment_id])
            originals = list_runs(source_client, [experiment.experiment_id])
            is_copy = existing.tags.get(MOVED_FROM_TAG) == hide_password(source)
            if is_copy and not _find_difference(originals, source_client, copies, target_client):
                return
            raise InputError(
                f"{hide_password(target)} already has an experiment {name!r}, which differs from the one here; nothing "
                "was moved"
            )
        if experiment.lifecycle_stage == DELETED_STAGE:
            raise InputError(explain_deleted(name))
        delete_experiment(name + MOVING_SUFFIX, target)
        tags = {tag: text for tag, text in experiment.tags.items() if tag != MOVED_FROM_TAG}
        experiment_id = target_client.create_experiment(
            name + MOVING_SUFFIX, tags={**tags, MOVED_FROM_TAG: hide_password(source)}
        )
        runs = list_runs(source_client, [experiment.experiment_id])
        # The tag is set right after the study's file is logged.
        runs_with_file = [run for run in runs if "forcetune.references" in run.data.tags]
        if not all(source_client.list_artifacts(run.info.run_id) for run in runs_with_file):
            raise InputError(
                f"the artifacts of {name} cannot be read from here, not even its {STUDY_FILE}: the folder or the "
                "server that keeps them cannot be reached; nothing was moved"
            )
        # A child's tag needs the new id of its parent.
        runs.sort(key=lambda run: (PARENT_TAG in run.data.tags, run.info.start_time))
        new_ids: dict[str, str] = {}
        for count, run in enumerate(runs, 1):
            new_ids[run.info.run_id] = _copy_run(run, source_client, target_client, experiment_id, new_ids)
            if count % 100 == 0:
                say(f"{name}: {count} of {len(runs)} runs")
        copies = list_runs(target_client, [experiment_id])
        if difference := _find_difference(runs, source_client, copies, target_client):
            raise StoppedError(
                f"the copy of {name} in {hide_password(target)} differs from the original: {difference}. Both are "
                f"kept, the copy as {name}{MOVING_SUFFIX}; run the same command again to copy it anew"
            )
        target_client.rename_experiment(experiment_id, name)
    except MlflowException as error:
        raise InputError(f"{name} could not be copied to {hide_password(target)}: {error.message}") from error
    except OSError as error:  # a full disk, or an artifact server that breaks off
        raise InputError(f"{name} could not be copied to {hide_password(target)}: {error}") from error


def find_moved_run(run: str, uri: str) -> str | None:
    """Return the id, in this store, of the run that had the id `run` in an earlier store; None where there is none."""
    if not RUN_ID_PATTERN.fullmatch(run):
        return None
    client = make_client(uri)
    experiment_ids = [experiment.experiment_id for experiment in client.search_experiments()]
    runs = client.search_runs(experiment_ids, f"tags.`{MOVED_FROM_TAG}` LIKE '%{run}%'", max_results=1)
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

    earlier_ids = f"{run.data.tags.get(MOVED_FROM_TAG, '')} {run.info.run_id}".strip()
    tags = {**run.data.tags, MOVED_FROM_TAG: earlier_ids}
    if PARENT_TAG in tags:
        tags[PARENT_TAG] = new_ids.get(tags[PARENT_TAG], tags[PARENT_TAG])
    copy = target_client.create_run(experiment, run.info.start_time, tags, run.info.run_name).info.run_id
    target_client.log_batch(copy, params=[Param(name, text) for name, text in run.data.params.items()])
    points = [point for name in run.data.metrics for point in source_client.get_metric_history(run.info.run_id, name)]
    target_client.log_batch(copy, metrics=points)
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


def _find_difference(
    originals: Sequence[Run], source_client: MlflowClient, copies: Sequence[Run], target_client: MlflowClient
) -> str | None:
    """Return a sentence on the first difference between runs and their copies; None where there is none."""
    copies_by_id = {run.data.tags.get(MOVED_FROM_TAG, "").rpartition(" ")[2]: run for run in copies}
    for run in originals:
        copy = copies_by_id.pop(run.info.run_id, None)
        if copy is None:
            return f"the copy lacks the run {run.info.run_id}"
        content, copied_content = _read_content(run, source_client), _read_content(copy, target_client)
        if differing := [name for name in content if content[name] != copied_content[name]]:
            return f"the run {run.info.run_id} and its copy differ in {', '.join(differing)}"
    return f"the copy has {len(copies_by_id)} runs that the original does not have" if copies_by_id else None


def _read_content(run: Run, client: MlflowClient) -> dict[str, Any]:
    """Return the content of a run that its copy must have too, by the words for it."""
    run_id, info, data = run.info.run_id, run.info, run.data
    inputs = run.inputs.dataset_inputs if run.inputs else []
    return {
        "name": info.run_name,
        "status": info.status,
        "start": info.start_time,
        "end": None if info.status == "RUNNING" else info.end_time,  # a run that was opened again keeps its old end
        "params": data.params,
        "metrics": {name: repr(value) for name, value in data.metrics.items()},  # as text NaN equals NaN
        "curves": {name: len(client.get_metric_history(run_id, name)) for name in data.metrics},
        "tags": {name: text for name, text in data.tags.items() if name not in (MOVED_FROM_TAG, PARENT_TAG)},
        "data sets": sorted((entry.dataset.name, entry.dataset.digest) for entry in inputs),
        "artifacts": sorted(_list_artifact_files(client, run_id)),
    }


def _list_artifact_files(client: MlflowClient, run_id: str, folder: str | None = None) -> list[tuple[str, int | None]]:
    """List the files among a run's artifacts, each with its size in bytes."""
    files: list[tuple[str, int | None]] = []
    for entry in client.list_artifacts(run_id, folder):
        files += _list_artifact_files(client, run_id, entry.path) if entry.is_dir else [(entry.path, entry.file_size)]
    return files
