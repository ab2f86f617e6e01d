"""An experiment copied to another MLflow store, run by run: params, tags, whole curves, data sets and artifacts."""

from __future__ import annotations

from collections.abc import Callable
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

from forcetune.errors import InputError
from forcetune.stores import shown
from forcetune.tracking.client import check_answers, client_of, delete_experiment
from forcetune.tracking.runs import runs
from forcetune.tracking.writing import BATCH

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Run

MOVED_FROM = "forcetune.moved_from"  # of an experiment: the store that it was in; of a run: its id there
PARENT = "mlflow.parentRunId"
BEGUN = ".moving"  # behind the name of an experiment, or a study, of which a part is there
PARAMS = 100  # in a request


def copy_experiment(name: str, source: str, target: str, say: Callable[[str], None] = lambda line: None) -> None:
    """Copy an experiment with its runs from one store to another; what is there from an earlier try is made anew.

    A run gets another id in the target, since MLflow gives it out; the old one is the tag forcetune.moved_from, by
    which `find_moved` knows it. Nothing is done where the whole experiment has been copied before.

    Args:
        name: The experiment's; it appears in the target once all of it is there.
        source: The store that has it.
        target: The other store.
        say: Is told how far it is.

    Raises:
        InputError: The target has an experiment of that name from elsewhere, or a store does not answer.
    """
    from mlflow.entities import ViewType
    from mlflow.exceptions import MlflowException

    for store in (source, target):
        check_answers(store)
    before, after = client_of(source), client_of(target)
    try:
        experiment = before.get_experiment_by_name(name)
        if experiment is None or has_been_copied(name, source, target):
            return
        if after.get_experiment_by_name(name) is not None:
            raise InputError(f"{shown(target)} has an experiment {name!r} already; nothing is moved")
        delete_experiment(name + BEGUN, target)
        own = {tag: text for tag, text in experiment.tags.items() if tag != MOVED_FROM}
        number = after.create_experiment(name + BEGUN, tags={**own, MOVED_FROM: shown(source)})
        found: list[Run] = []
        token: str | None = None
        while token != "":
            page = before.search_runs(
                [experiment.experiment_id], run_view_type=ViewType.ACTIVE_ONLY, max_results=1000, page_token=token
            )
            found += page
            token = page.token or ""
        found.sort(key=lambda run: (PARENT in run.data.tags, run.info.start_time))  # parents first
        ids: dict[str, str] = {}
        for place, run in enumerate(found, 1):
            ids[run.info.run_id] = _copy_run(run, before, after, number, ids)
            if place % 100 == 0:
                say(f"{name}: {place} of {len(found)} runs")
        after.rename_experiment(number, name)
    except MlflowException as error:
        raise InputError(f"{name} could not be copied to {shown(target)}: {error.message}") from error


def has_been_copied(name: str, source: str, target: str) -> bool:
    """Return whether the target has the whole experiment from this source."""
    there = client_of(target).get_experiment_by_name(name)
    return there is not None and there.tags.get(MOVED_FROM) == shown(source)


def find_difference(name: str, source: str, target: str) -> str | None:
    """Return what a copied experiment lacks; None where all runs have their params, metrics, tags and status."""
    there = {run["tags"].get(MOVED_FROM): run for run in runs(name, target)}
    for run in runs(name, source):
        copy = there.pop(run["id"], None)
        if copy is None:
            return f"the run {run['id']} is not there"
        for part in ("name", "status", "started", "ended", "params", "metrics", "tags"):
            if _comparable(run, part) != _comparable(copy, part):
                return f"the run {run['id']} has other {part} there"
    return None if not there else f"{len(there)} runs there are none of it"


def find_moved(run: str, uri: str) -> str | None:
    """Return the id that a run has in this store, into which it was moved; None where it was not."""
    client = client_of(uri)
    numbers = [experiment.experiment_id for experiment in client.search_experiments()]
    found = client.search_runs(numbers, f"tags.`{MOVED_FROM}` = '{run}'", max_results=1)
    return str(found[0].info.run_id) if found else None


def _copy_run(run: Run, before: MlflowClient, after: MlflowClient, experiment: str, ids: dict[str, str]) -> str:
    from mlflow.entities import Param

    tags = {**run.data.tags, MOVED_FROM: run.info.run_id}
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


def _comparable(run: dict[str, Any], part: str) -> Any:
    if part == "tags":
        return {name: text for name, text in run["tags"].items() if name not in (MOVED_FROM, PARENT)}
    return {name: repr(value) for name, value in run[part].items()} if part == "metrics" else run[part]
