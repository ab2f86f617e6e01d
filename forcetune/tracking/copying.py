"""An experiment copied to another MLflow store, run by run: params, tags, whole curves, data sets and artifacts."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

from forcetune.errors import InputError, StoppedError
from forcetune.stores import shown
from forcetune.tracking.client import DELETED, check_answers, client_of, delete_experiment, say_deleted
from forcetune.tracking.writing import BATCH, STUDY_FILE

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Run

# The tag of an experiment names the store that it was in; the tag of a run holds its earlier ids, the latest last.
MOVED_FROM = "forcetune.moved_from"
PARENT = "mlflow.parentRunId"
BEGUN = ".moving"  # behind the name of an experiment, or a study, of which a part is there
PARAMS = 100  # in a request


def copy_experiment(name: str, source: str, target: str, say: Callable[[str], None] = lambda line: None) -> None:
    """Copy an experiment with its runs from one store to another; what is there from an earlier try is made anew.

    A run gets another id in the target, since MLflow gives it out; the old ones are in the tag forcetune.moved_from, by
    which `find_moved` knows it. Nothing is done where the whole experiment has been copied before. The experiment has
    its name in the target once the copy was compared with the original.

    Args:
        name: The experiment's.
        source: The store that has it.
        target: The other store.
        say: Is told how far it is.

    Raises:
        InputError: The target has an experiment of that name from elsewhere, that here was deleted, artifacts cannot be
            read, or a store does not answer.
        StoppedError: The copy is not what the original is; it stays under another name.
    """
    from mlflow.exceptions import MlflowException

    for store in (source, target):
        check_answers(store)
    before, after = client_of(source), client_of(target)
    try:
        experiment, there = before.get_experiment_by_name(name), after.get_experiment_by_name(name)
        if experiment is None:
            return
        if there is not None:
            copies, originals = _runs_of(after, there.experiment_id), _runs_of(before, experiment.experiment_id)
            is_copy = there.tags.get(MOVED_FROM) == shown(source)
            if is_copy and not _find_difference(originals, before, copies, after):
                return
            raise InputError(
                f"{shown(target)} has an experiment {name!r} already, and it is not the same as the one here; nothing "
                "is moved"
            )
        if experiment.lifecycle_stage == DELETED:
            raise InputError(say_deleted(name))
        delete_experiment(name + BEGUN, target)
        own = {tag: text for tag, text in experiment.tags.items() if tag != MOVED_FROM}
        number = after.create_experiment(name + BEGUN, tags={**own, MOVED_FROM: shown(source)})
        found = _runs_of(before, experiment.experiment_id)
        described = [run for run in found if "forcetune.references" in run.data.tags]  # these have the study's file
        if not all(before.list_artifacts(run.info.run_id) for run in described):
            raise InputError(
                f"the artifacts of {name} cannot be read from here, not even its {STUDY_FILE}: the folder, or the "
                "server, that keeps them is not within reach; nothing is moved"
            )
        found.sort(key=lambda run: (PARENT in run.data.tags, run.info.start_time))  # parents first
        ids: dict[str, str] = {}
        for place, run in enumerate(found, 1):
            ids[run.info.run_id] = _copy_run(run, before, after, number, ids)
            if place % 100 == 0:
                say(f"{name}: {place} of {len(found)} runs")
        if wrong := _find_difference(found, before, _runs_of(after, number), after):
            raise StoppedError(
                f"the copy of {name} in {shown(target)} is not what the original is: {wrong}. Both are kept, the copy "
                f"as {name}{BEGUN}; the same command copies it anew"
            )
        after.rename_experiment(number, name)
    except MlflowException as error:
        raise InputError(f"{name} could not be copied to {shown(target)}: {error.message}") from error
    except OSError as error:  # a full disk, an artifact server that breaks off
        raise InputError(f"{name} could not be copied to {shown(target)}: {error}") from error


def find_moved(run: str, uri: str) -> str | None:
    """Return the id that a run has in this store, into which it was moved; None where it was not."""
    if not re.fullmatch("[0-9a-f]{32}", run):
        return None
    client = client_of(uri)
    numbers = [experiment.experiment_id for experiment in client.search_experiments()]
    found = client.search_runs(numbers, f"tags.`{MOVED_FROM}` LIKE '%{run}%'", max_results=1)
    return str(found[0].info.run_id) if found else None


def _copy_run(run: Run, before: MlflowClient, after: MlflowClient, experiment: str, ids: dict[str, str]) -> str:
    from mlflow.entities import Param

    tags = {**run.data.tags, MOVED_FROM: f"{run.data.tags.get(MOVED_FROM, '')} {run.info.run_id}".strip()}
    if PARENT in tags:
        tags[PARENT] = ids.get(tags[PARENT], tags[PARENT])
    copy = after.create_run(experiment, run.info.start_time, tags, run.info.run_name).info.run_id
    params = [Param(name, text) for name, text in run.data.params.items()]
    for start in range(0, len(params), PARAMS):
        after.log_batch(copy, params=params[start : start + PARAMS])
    points = [point for name in run.data.metrics for point in before.get_metric_history(run.info.run_id, name)]
    for start in range(0, len(points), BATCH):
        after.log_batch(copy, metrics=points[start : start + BATCH])
    if run.inputs and run.inputs.dataset_inputs:
        after.log_inputs(copy, run.inputs.dataset_inputs)
    with TemporaryDirectory() as folder:
        for found in before.list_artifacts(run.info.run_id):
            before.download_artifacts(run.info.run_id, found.path, folder)
        after.log_artifacts(copy, folder)
    if run.info.status == "RUNNING":
        after.update_run(copy, status="RUNNING")
    else:
        after.set_terminated(copy, run.info.status, run.info.end_time)
    return str(copy)


def _runs_of(client: MlflowClient, experiment: str) -> list[Run]:
    """All active runs of an experiment, page by page."""
    found: list[Run] = []
    token: str | None = None
    while token != "":
        page = client.search_runs([experiment], max_results=1000, page_token=token)
        found += page
        token = page.token or ""
    return found


def _find_difference(
    originals: Sequence[Run], before: MlflowClient, copies: Sequence[Run], after: MlflowClient
) -> str | None:
    """What the copies lack, in words; None where each run has what its original has."""
    there = {run.data.tags.get(MOVED_FROM, "").rpartition(" ")[2]: run for run in copies}
    for run in originals:
        copy = there.pop(run.info.run_id, None)
        if copy is None:
            return f"the run {run.info.run_id} is not there"
        ours, theirs = _content(run, before), _content(copy, after)
        if different := [name for name in ours if ours[name] != theirs[name]]:
            return f"the run {run.info.run_id} has other {', '.join(different)} there"
    return f"it has {len(there)} runs more" if there else None


def _content(run: Run, client: MlflowClient) -> dict[str, Any]:
    """What two runs must agree in."""
    run_id, info, data = run.info.run_id, run.info, run.data
    inputs = run.inputs.dataset_inputs if run.inputs else []
    return {
        "name and status": (info.run_name, info.status, info.start_time),
        "end": None if info.status == "RUNNING" else info.end_time,  # one that was opened again keeps an old one
        "params": data.params,
        "metrics": {name: repr(value) for name, value in data.metrics.items()},
        "curves": {name: len(client.get_metric_history(run_id, name)) for name in data.metrics},
        "tags": {name: text for name, text in data.tags.items() if name not in (MOVED_FROM, PARENT)},
        "data sets": sorted((found.dataset.name, found.dataset.digest) for found in inputs),
        "artifacts": sorted(_files(client, run_id)),
    }


def _files(client: MlflowClient, run: str, folder: str | None = None) -> list[tuple[str, int | None]]:
    """The files among a run's artifacts and their sizes in bytes."""
    found: list[tuple[str, int | None]] = []
    for entry in client.list_artifacts(run, folder):
        found += _files(client, run, entry.path) if entry.is_dir else [(entry.path, entry.file_size)]
    return found
