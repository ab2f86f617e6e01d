"""The writer of a study and its trials in MLflow, run by run."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

import yaml

from forcetune.errors import InputError
from forcetune.stores import enable_write_ahead_log, hide_password
from forcetune.tracking.client import DELETED_STAGE, check_answers, explain_deleted, make_client
from forcetune.tracking.experiments import VIEW_TAG, make_view
from forcetune.tracking.requests import create_once, repeat
from forcetune.tracking.runs import format_params

if TYPE_CHECKING:
    from mlflow.entities import Metric, Run

EXPERIMENT_TAGS = {"mlflow.experimentKind": "custom_model_development"}  # else the UI opens on language models' traces
RUNNING_FILTER = "attributes.status = 'RUNNING'"  # in the language of MLflow's search
NOTE_TAG = "mlflow.note.content"  # shown as the description
STUDY_FILE = "study.yaml"  # among the artifacts of a parent run
REFUSED_TAG = "forcetune.refused"  # the tag of a run with the names that MLflow does not take
PERMANENT_CODES = ("INVALID_PARAMETER_VALUE", "BAD_REQUEST")  # MLflow's codes of errors that a repetition cannot mend
REFUSED_NAME_CHARACTERS = 100  # of each name in REFUSED_TAG
KEEP_TAG = "forcetune.keep"  # of a parent run: whose weights are kept, as JSON
WEIGHTS_TAG = "forcetune.weights"  # of a run that has weights, is about to get them, or has lost them
RETRAINED_TAG = "forcetune.retrained"  # of a run with weights: the metrics of theirs that differ from the run's
KEPT_BY_SEARCH, KEPT_BY_USER, WEIGHTS_DROPPED = "search", "user", "dropped"  # the values of WEIGHTS_TAG


@dataclass(frozen=True)
class Epoch:
    """Metrics at a step.

    Attributes:
        step: The epoch, or 0 for metrics that are logged once.
        time: The time of the measurement, in ms since 1970.
        metrics: The values by the names of the metrics.
    """

    step: int
    time: int
    metrics: dict[str, float]

    def plain(self) -> tuple[int, int, dict[str, float]]:
        """Return the epoch as data that JSON can hold: step, time and metrics."""
        return self.step, self.time, self.metrics


@dataclass(frozen=True)
class LoggedContent:
    """The names and steps that are logged in a run.

    Attributes:
        params: The names of its params.
        points: The metrics: each name with a step at which it is logged.
        max_step: The highest step of all attempts, where `points` leaves out those of earlier attempts; else 0.
    """

    params: frozenset[str] = frozenset()
    points: frozenset[tuple[str, int]] = frozenset()
    max_step: int = 0

    def select_missing(self, epoch: Epoch) -> Epoch:
        """Return the epoch with only those of its metrics that the run does not have at its step."""
        metrics = {name: value for name, value in epoch.metrics.items() if (name, epoch.step) not in self.points}
        return replace(epoch, metrics=metrics)


class Tracker:
    """A writer of one study's experiment, which it creates where there is none.

    Args:
        study: The name of the study, and of its experiment.
        uri: The URI of the MLflow store.

    Attributes:
        client: MLflow's client of the store.
        study: The name of the study.
        uri: The URI of the MLflow store.

    Raises:
        InputError: MLflow does not answer or cannot use the store, or the experiment was deleted in MLflow.
    """

    def __init__(self, study: str, uri: str) -> None:
        from mlflow.exceptions import MlflowException

        for name in ("mlflow.store.db.utils", "alembic"):
            logging.getLogger(name).setLevel(logging.WARNING)
        enable_write_ahead_log(uri)
        check_answers(uri)
        try:
            self.client = make_client(uri)
            experiment = create_once(
                lambda: self.client.get_experiment_by_name(study),
                lambda: self.client.get_experiment(self.client.create_experiment(study, tags=EXPERIMENT_TAGS)),
            )
        except MlflowException as error:
            raise InputError(f"the MLflow store {hide_password(uri)} cannot be used: {error.message}") from error
        if experiment.lifecycle_stage == DELETED_STAGE:
            raise InputError(explain_deleted(study))
        self._experiment = experiment.experiment_id
        self.study = study
        self.uri = uri
        self._artifacts: dict[str, Any] = {}  # the artifact stores of the runs that this tracker has opened

    def open_study(self, objectives: Mapping[str, str], tags: Mapping[str, str]) -> str:
        """Return the id of the study's parent run, and put the run in state RUNNING; create it where there is none.

        Args:
            objectives: Objective to `max` or `min`, in their order.
            tags: Other tags, for a run that is created.
        """
        parent_tags = {"forcetune.kind": "search", "forcetune.objectives": json.dumps(dict(objectives))}
        run: str = create_once(
            lambda: _get_first_id(self._find("search")),
            lambda: self._create(self.study, {**tags, **parent_tags}).info.run_id,
        )
        self.client.update_run(run, status="RUNNING")
        return run

    def describe(
        self,
        parent: str,
        study: Mapping[str, Any],
        references: Mapping[str, float],
        note: str,
        fields: Sequence[str] = (),
    ) -> None:
        """Log the study's file, and describe the study for MLflow's UI: with a note, and a view of its trials.

        Args:
            parent: The id of the study's parent run.
            study: The study as plain data.
            references: The reference point of the hypervolume, by objective.
            note: The description, in Markdown; the UI shows its first paragraph at once.
            fields: The names of the sampled fields, columns of the view.
        """
        # The keys are not sorted: the order of the objectives is the order of their values in the ledger.
        self.client.log_text(parent, yaml.safe_dump(dict(study), sort_keys=False, allow_unicode=True), STUDY_FILE)
        self.client.set_tag(parent, "forcetune.references", json.dumps(dict(references)))
        self.client.set_tag(parent, NOTE_TAG, note)
        self.client.set_experiment_tag(self._experiment, NOTE_TAG, note)
        self.client.set_experiment_tag(
            self._experiment, VIEW_TAG, json.dumps(make_view([*study["objectives"]], fields))
        )

    def find_trial(self, key: str) -> str | None:
        """Return the id of the run of the trial with this key; None where there is none.

        A late request to create the run may have made another one, to which nothing was logged: it is deleted.
        """
        runs = self.find_runs(key)
        for duplicate in runs[1:]:
            self.remove(duplicate)
        return runs[0] if runs else None

    def find_runs(self, key: str) -> list[str]:
        """Return the ids of all runs of the trial with this key, the one with the most content first."""
        return [run.info.run_id for run in self._find("trial", f"tags.`forcetune.trial` = '{key}'")]

    def clean_up_runs(self, parent: str, load_failed: Callable[[], Mapping[str, bool]]) -> None:
        """End the runs that late requests have left in state RUNNING though the study is over.

        A run to which nothing was logged is deleted. A run that was closed, and that a late request has put back in
        state RUNNING, is closed again. Runs of trials that are not in the ledger are left alone.

        Args:
            parent: The id of the study's parent run.
            load_failed: Returns whether each trial of the ledger has failed, by its key; called only where a trial's
                run is in state RUNNING.
        """
        for run in self._find("search", RUNNING_FILTER):
            if run.info.run_id != parent and _is_bare(run):
                self.remove(run.info.run_id)
        running = self._find("trial", RUNNING_FILTER)
        failed = load_failed() if running else {}
        for run in running:
            key = run.data.tags.get("forcetune.trial", "")
            if key in failed and _is_bare(run):
                self.remove(run.info.run_id)
            elif key in failed:
                self.close(run.info.run_id, failed[key], run.info.end_time)

    def remove_duplicates(self, kind: str, name: str) -> None:
        """Delete the runs of a kind and a name to which nothing was logged, which late requests have created."""
        for run in self._find(kind, f"{RUNNING_FILTER} and tags.`mlflow.runName` = '{name}'"):
            if _is_bare(run):
                self.remove(run.info.run_id)

    def open_trial(self, parent: str, number: int, key: str, tags: Mapping[str, str], started: int) -> str:
        """Create a run for a trial, in state RUNNING, and return its id.

        Args:
            parent: The id of the study's parent run.
            number: The number of the trial, from which the run gets its name.
            key: The key of the trial.
            tags: Other tags.
            started: The time when the trial started, in ms since 1970.
        """
        from mlflow.store.artifact.artifact_repository_registry import get_artifact_repository

        trial_tags = {"forcetune.kind": "trial", "forcetune.trial": key, "mlflow.parentRunId": parent}
        run = self._create(f"trial-{number:04d}", {**tags, **trial_tags}, started)
        self._artifacts[run.info.run_id] = get_artifact_repository(run.info.artifact_uri, tracking_uri=self.uri)
        return str(run.info.run_id)

    def restore_deleted(self, run: str | None, error: Exception) -> bool:
        """Restore the experiment and the run where they were deleted in MLflow meanwhile.

        Args:
            run: The id of the run; None where it is not created yet.
            error: The exception that MLflow has raised. MLflow is asked about deletions only after a permanent error.

        Returns:
            Whether the experiment or the run was deleted.
        """
        if getattr(error, "error_code", None) not in PERMANENT_CODES:
            return False
        experiment_deleted = self.client.get_experiment(self._experiment).lifecycle_stage == DELETED_STAGE
        if experiment_deleted:
            self.client.restore_experiment(self._experiment)
        if run is None or self.client.get_run(run).info.lifecycle_stage != DELETED_STAGE:
            return experiment_deleted
        self.client.restore_run(run)
        return True

    def read_logged(self, run: str, since: int | None = None) -> LoggedContent:
        """Return the names and steps that are logged in a run.

        Args:
            run: The id of the run.
            since: A time in ms since 1970; metrics that were measured before it are left out.
        """
        history = self._load_history(run)
        points = frozenset((point.key, point.step) for point in _select_since(history, since))
        max_step = max((point.step for point in history), default=0) if since else 0
        return LoggedContent(frozenset(self.client.get_run(run).data.params), points, max_step)

    def log(
        self,
        run: str,
        epochs: Iterable[Epoch] = (),
        fields: Mapping[str, Any] | None = None,
        tags: Mapping[str, str] | None = None,
    ) -> dict[str, str]:
        """Log metrics, a trial's fields as params, and tags in as few requests as MLflow allows.

        A second call with the same arguments changes nothing.

        Args:
            run: The id of the run.
            epochs: The metrics, with their steps and times.
            fields: The fields of the trial.
            tags: The tags by name.

        Returns:
            The reasons, by name, for which MLflow refuses some of the names permanently. All others are logged, and the
            run's tag forcetune.refused lists the refused names.

        Raises:
            MlflowException: MLflow does not answer, or refuses the whole run.
        """
        from mlflow.entities import Metric, Param, RunTag
        from mlflow.exceptions import MlflowException

        metrics = [
            Metric(name, float(value), epoch.time, epoch.step)
            for epoch in epochs
            for name, value in epoch.metrics.items()
        ]
        run_params = [Param(name, text) for name, text in format_params(fields or {}).items()]
        run_tags = [RunTag(name, value) for name, value in _shorten_tags(tags or {}).items()]
        try:
            self.client.log_batch(run, metrics=metrics, params=run_params, tags=run_tags)
        except MlflowException as error:
            if error.error_code not in PERMANENT_CODES:
                raise
            return self._log_by_name(run, metrics, run_params, run_tags)
        return {}

    def _log_by_name(self, run: str, metrics: list[Any], params: list[Any], tags: list[Any]) -> dict[str, str]:
        """Log each name by itself, since MLflow refuses a whole request for one name in it."""
        from mlflow.exceptions import MlflowException

        refused: dict[str, str] = {}
        for kind, entries in (("metrics", metrics), ("params", params), ("tags", tags)):
            for name in dict.fromkeys(entry.key for entry in entries):
                request: dict[str, Any] = {kind: [entry for entry in entries if entry.key == name]}
                try:
                    self.client.log_batch(run, **request)
                except MlflowException as error:
                    if error.error_code not in PERMANENT_CODES:
                        raise
                    refused[name] = str(error.message).partition("\n")[0]
        if refused:  # a run that was deleted takes no tag either, and raises here
            earlier = self.client.get_run(run).data.tags.get(REFUSED_TAG, "")
            names = dict.fromkeys(
                [*filter(None, earlier.split(", ")), *(name[:REFUSED_NAME_CHARACTERS] for name in refused)]
            )
            self.client.set_tag(run, REFUSED_TAG, ", ".join(names)[:5000])
        return refused

    def log_dataset(self, run: str, dataset: Mapping[str, Any]) -> None:
        """Log the data set of a run as its input; a second call changes nothing.

        MLflow's search then finds the run by `dataset.name` and `dataset.digest`.

        Args:
            run: The id of the run.
            dataset: The fields of `data.DataIdentity`.
        """
        from mlflow.entities import Dataset, DatasetInput, InputTag

        source = json.dumps({"name": dataset["name"], "data_root": dataset["root"]})
        sizes = {name: dataset[name] for name in ("train_samples", "test_samples", "classes")}
        run_dataset = Dataset(dataset["name"], dataset["digest"], "forcetune", source, profile=json.dumps(sizes))
        self.client.log_inputs(run, [DatasetInput(run_dataset, [InputTag("mlflow.data.context", "training")])])

    def mark(self, run: str, tag: str, marked: bool) -> None:
        """Set a tag of a run to `true`, or delete the tag.

        Args:
            run: The id of the run.
            tag: The name of the tag.
            marked: Whether the run has the tag afterwards.
        """
        if marked:
            self.client.set_tag(run, tag, "true")
        else:
            self._delete_tag(run, tag)

    def tag_weights(self, run: str, keeper: str) -> None:
        """Tag a run that is about to get the weights of its trial, or that has lost them.

        Args:
            run: The id of the run.
            keeper: KEPT_BY_SEARCH or KEPT_BY_USER, since only the weights that a search keeps are deleted by it; or
                WEIGHTS_DROPPED.
        """
        self.client.set_tag(run, WEIGHTS_TAG, keeper)

    def set_keep_rule(self, parent: str, keep: str, has_seeds: bool) -> None:
        """Note in the parent run of a study whose weights are kept, for all who mark the front and for the doctor.

        Args:
            parent: The id of the parent run.
            keep: The field `search.keep`.
            has_seeds: Whether the study has `search.seeds`.
        """
        self.client.set_tag(parent, KEEP_TAG, json.dumps({"keep": keep, "has_seeds": has_seeds}))

    def remove_file(self, run: str, name: str) -> None:
        """Delete a file among the run's artifacts; nothing happens where there is none.

        Args:
            run: The id of the run.
            name: The name of the file.

        Raises:
            MlflowException: MLflow does not answer, or its artifact store deletes no files.
        """
        from mlflow.store.artifact.artifact_repository_registry import get_artifact_repository

        artifact_uri = self.client.get_run(run).info.artifact_uri
        repository = get_artifact_repository(artifact_uri, tracking_uri=self.uri)  # MlflowClient deletes no artifact
        repeat(lambda: repository.delete_artifacts(name))

    def log_file(self, run: str, path: Path) -> None:
        """Log a file among the run's artifacts."""
        if run in self._artifacts:
            self._artifacts[run].log_artifact(str(path))
        else:  # the client first asks the store where the artifacts of the run are
            self.client.log_artifact(run, str(path))

    def close(self, run: str, failed: bool = False, ended: int | None = None) -> None:
        """End a run as FINISHED or FAILED.

        Args:
            run: The id of the run.
            failed: Whether it ends as FAILED.
            ended: The time of its end, in ms since 1970; now where it is None.
        """
        self.client.set_terminated(run, "FAILED" if failed else "FINISHED", end_time=ended)
        self._artifacts.pop(run, None)

    def reopen(self, run: str) -> None:
        """Put a run back in state RUNNING."""
        self.client.update_run(run, status="RUNNING")

    def reopen_failed(self, run: str) -> None:
        """Put the run of a failed trial back in state RUNNING, and keep the reason as `forcetune.failed_before`.

        The tag of the outcome is deleted last. After a kill or a lost answer before that, the next call does all of it
        again.
        """
        tags = self.read_tags(run)
        if tags.get("forcetune.outcome") == "failed":
            if reason := tags.get("forcetune.reason"):
                self.client.set_tag(run, "forcetune.failed_before", reason)
            for name in ("forcetune.reason", "forcetune.outcome"):
                self._delete_tag(run, name)
        self.reopen(run)

    def read_tags(self, run: str) -> dict[str, str]:
        """Return the tags of a run."""
        return dict(self.client.get_run(run).data.tags)

    def remove(self, run: str) -> None:
        """Delete a run, so that no table has it; MLflow keeps it among its deleted runs."""
        self.client.delete_run(run)

    def list_files(self, run: str) -> set[str]:
        """Return the names of a run's artifacts."""
        return {artifact.path for artifact in self.client.list_artifacts(run)}

    def copy_file(self, name: str, source: str, run: str) -> None:
        """Copy an artifact from one run to another.

        Args:
            name: The name of the artifact.
            source: The id of the run that has it.
            run: The id of the run that gets it.
        """
        with TemporaryDirectory() as folder:
            self.client.log_artifact(run, self.client.download_artifacts(source, name, folder))

    def list_steps(self, run: str, since: int | None = None) -> dict[str, list[int]]:
        """Return the steps at which each metric of a run was logged, with an entry for each time that it was.

        Args:
            run: The id of the run.
            since: A time in ms since 1970; metrics that were measured before it are left out.
        """
        steps: dict[str, list[int]] = {}
        for point in _select_since(self._load_history(run), since):
            steps.setdefault(point.key, []).append(point.step)
        return steps

    def _load_history(self, run: str) -> list[Metric]:
        metrics = self.client.get_run(run).data.metrics
        return [point for name in metrics for point in self.client.get_metric_history(run, name)]

    def open_record(self, kind: str, name: str, tags: Mapping[str, str]) -> str:
        """Return the id of a run that is no trial's; create it, in state RUNNING, where there is none.

        Args:
            kind: The kind of the run, the tag forcetune.kind.
            name: The name of the run.
            tags: Other tags, for a run that is created.
        """
        run: str = create_once(
            lambda: _get_first_id(self._find(kind, f"tags.`mlflow.runName` = '{name}'")),
            lambda: self._create(name, {"forcetune.kind": kind, **tags}).info.run_id,
        )
        return run

    def rename(self, name: str) -> None:
        """Rename the experiment; `load_table` then finds it under the new name."""
        self.client.rename_experiment(self._experiment, name)

    def _delete_tag(self, run: str, name: str) -> None:
        """Delete a tag, which an earlier request whose answer was lost may already have deleted."""
        from mlflow.exceptions import MlflowException

        try:
            self.client.delete_tag(run, name)
        except MlflowException as error:
            if error.error_code != "RESOURCE_DOES_NOT_EXIST":
                raise

    def _create(self, name: str, tags: Mapping[str, str], started: int | None = None) -> Run:
        return self.client.create_run(self._experiment, start_time=started, tags=_shorten_tags(tags), run_name=name)

    def _find(self, kind: str, condition: str | None = None) -> list[Run]:
        """Return the runs of a kind, the one with the most content first; of runs with equal content the oldest first.

        Of two runs of one trial, only the one to which the driver logs has more than its first tags.
        """
        query = f"tags.`forcetune.kind` = '{kind}'" + (f" and {condition}" if condition else "")
        runs = list(self.client.search_runs([self._experiment], query))
        runs.sort(key=lambda run: (-_count_entries(run), run.info.start_time, run.info.run_id))
        return runs


def _select_since(history: Iterable[Metric], since: int | None) -> list[Metric]:
    return [point for point in history if point.timestamp >= (since or 0)]


def _get_first_id(runs: Sequence[Run]) -> str | None:
    return runs[0].info.run_id if runs else None


def _is_bare(run: Run) -> bool:
    """Return whether nothing was logged to a run since it was created."""
    return not (run.data.metrics or run.data.params or "forcetune.references" in run.data.tags)


def _count_entries(run: Run) -> int:
    return len(run.data.metrics) + len(run.data.params) + len(run.data.tags)


def _shorten_tags(tags: Mapping[str, str]) -> dict[str, str]:
    return {name: str(value)[:5000] for name, value in tags.items()}
