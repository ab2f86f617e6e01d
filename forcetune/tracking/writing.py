"""What is written of a study and its trials, run by run."""

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
from forcetune.stores import quicken_sqlite, shown
from forcetune.tracking.client import DELETED, check_answers, client_of, say_deleted
from forcetune.tracking.experiments import VIEW_TAG, view
from forcetune.tracking.requests import create_once
from forcetune.tracking.runs import params

if TYPE_CHECKING:
    from mlflow.entities import Metric, Run

KIND = {"mlflow.experimentKind": "custom_model_development"}  # else the UI opens on traces of language models
RUNNING = "attributes.status = 'RUNNING'"  # a condition of MLflow's search
NOTE = "mlflow.note.content"  # shown as the description
STUDY_FILE = "study.yaml"  # among the artifacts of a parent run
REFUSED = "forcetune.refused"  # the tag of a run with the names that MLflow does not take
REFUSED_FOR_GOOD = ("INVALID_PARAMETER_VALUE", "BAD_REQUEST")  # codes of MLflow's; others may pass
SHOWN_NAME = 100  # characters
BATCH = 900  # metrics in a request; MLflow takes 1000


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
    """What a run has: the names of its params, and of its metrics each name with a step at which it was logged.

    overtaken: the last step of any attempt, where the points are those of later attempts alone; else 0.
    """

    params: frozenset[str] = frozenset()
    points: frozenset[tuple[str, int]] = frozenset()
    overtaken: int = 0

    def lacks(self, epoch: Epoch) -> Epoch:
        """Return the part of an epoch that the run does not have."""
        metrics = {name: value for name, value in epoch.metrics.items() if (name, epoch.step) not in self.points}
        return replace(epoch, metrics=metrics)


class Tracker:
    """Writes one study's experiment; study: its name in MLflow, uri: of the store."""

    def __init__(self, study: str, uri: str) -> None:
        from mlflow.exceptions import MlflowException

        for noisy in ("mlflow.store.db.utils", "alembic"):
            logging.getLogger(noisy).setLevel(logging.WARNING)
        quicken_sqlite()
        check_answers(uri)
        try:
            self.client = client_of(uri)
            experiment = create_once(
                lambda: self.client.get_experiment_by_name(study),
                lambda: self.client.get_experiment(self.client.create_experiment(study, tags=KIND)),
            )
        except MlflowException as error:
            raise InputError(f"the MLflow store {shown(uri)} cannot be used: {error.message}") from error
        if experiment.lifecycle_stage == DELETED:
            raise InputError(say_deleted(study))
        self._experiment = experiment.experiment_id
        self.study = study
        self.uri = uri
        self._artifacts: dict[str, Any] = {}  # where the files of the runs go that were opened here

    def open_study(self, objectives: Mapping[str, str], tags: Mapping[str, str]) -> str:
        """The id of the study's parent run, made where there is none, in state RUNNING."""
        own = {"forcetune.kind": "search", "forcetune.objectives": json.dumps(dict(objectives))}
        run = create_once(
            lambda: _first_id(self._find("search")),
            lambda: self._create(self.study, {**tags, **own}).info.run_id,
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
        """The study as it is written, among the parent run's artifacts; for MLflow's UI what it is about, and columns.

        references: of the hypervolume, by objective; note: in Markdown, its first paragraph is shown at once; fields:
        those that are sampled.
        """
        # in its own order: that of the objectives is the order of their values in the ledger
        self.client.log_text(parent, yaml.safe_dump(dict(study), sort_keys=False, allow_unicode=True), STUDY_FILE)
        self.client.set_tag(parent, "forcetune.references", json.dumps(dict(references)))
        self.client.set_tag(parent, NOTE, note)
        self.client.set_experiment_tag(self._experiment, NOTE, note)
        self.client.set_experiment_tag(self._experiment, VIEW_TAG, json.dumps(view([*study["objectives"]], fields)))

    def find_trial(self, key: str) -> str | None:
        """The id of the run of the trial with this key; None where there is none.

        A request to create it that came late has made another run, to which nothing was logged: that is deleted.
        """
        runs = self.find_runs(key)
        for double in runs[1:]:
            self.remove(double)
        return runs[0] if runs else None

    def find_runs(self, key: str) -> list[str]:
        """The ids of all runs of the trial with this key."""
        return [run.info.run_id for run in self._find("trial", f"tags.`forcetune.trial` = '{key}'")]

    def settle(self, parent: str, ended: Callable[[], Mapping[str, bool]]) -> None:
        """End what seems to run though the study is over, since a request came late.

        A run that was created and to which nothing was logged is deleted. One that was closed and then put in state
        RUNNING by a late request is closed again. Runs of trials that are not the ledger's are left alone.

        Args:
            parent: The study's parent run.
            ended: Asked for the keys of the ledger's trials, and whether each has failed, if anything seems to run.
        """
        for run in self._find("search", RUNNING):
            if run.info.run_id != parent and _is_bare(run):
                self.remove(run.info.run_id)
        running = self._find("trial", RUNNING)
        failed = ended() if running else {}
        for run in running:
            key = run.data.tags.get("forcetune.trial", "")
            if key in failed and _is_bare(run):
                self.remove(run.info.run_id)
            elif key in failed:
                self.close(run.info.run_id, failed[key], run.info.end_time)

    def remove_doubles(self, kind: str, name: str) -> None:
        """Delete the runs of a kind and a name that were only created, by requests that came late."""
        for run in self._find(kind, f"{RUNNING} and tags.`mlflow.runName` = '{name}'"):
            if _is_bare(run):
                self.remove(run.info.run_id)

    def open_trial(self, parent: str, number: int, key: str, tags: Mapping[str, str], started: int) -> str:
        """The id of a new run for a trial, under the parent run, in state RUNNING; started: ms since 1970."""
        from mlflow.store.artifact.artifact_repository_registry import get_artifact_repository

        own = {"forcetune.kind": "trial", "forcetune.trial": key, "mlflow.parentRunId": parent}
        run = self._create(f"trial-{number:04d}", {**tags, **own}, started)
        self._artifacts[run.info.run_id] = get_artifact_repository(run.info.artifact_uri, tracking_uri=self.uri)
        return str(run.info.run_id)

    def restore_deleted(self, run: str | None, error: Exception) -> bool:
        """Restore the experiment and the run where they were deleted in MLflow meanwhile; whether one was.

        Args:
            run: The id of the run; None where it was still to be made.
            error: What MLflow raised. Where it did not answer at all it is not asked again.
        """
        if getattr(error, "error_code", None) not in REFUSED_FOR_GOOD:
            return False
        experiment_deleted = self.client.get_experiment(self._experiment).lifecycle_stage == DELETED
        if experiment_deleted:
            self.client.restore_experiment(self._experiment)
        if run is None or self.client.get_run(run).info.lifecycle_stage != DELETED:
            return experiment_deleted
        self.client.restore_run(run)
        return True

    def logged(self, run: str, since: int | None = None) -> Logged:
        """What a run has already; of the metrics those that were measured since then, in ms since 1970."""
        history = self._history(run)
        points = frozenset((point.key, point.step) for point in _since(history, since))
        last = max((point.step for point in history), default=0) if since else 0
        return Logged(frozenset(self.client.get_run(run).data.params), points, last)

    def log(
        self,
        run: str,
        epochs: Iterable[Epoch] = (),
        fields: Mapping[str, Any] | None = None,
        tags: Mapping[str, str] | None = None,
    ) -> dict[str, str]:
        """Log metrics, a trial's fields as params, and tags in as few requests as MLflow allows.

        Sent twice they stand there once.

        Returns:
            What MLflow refuses for good, by name, and why; the rest is logged, and the run's tag forcetune.refused has
            the names.
        """
        from mlflow.entities import Metric, Param, RunTag
        from mlflow.exceptions import MlflowException

        metrics = [
            Metric(name, float(value), epoch.time, epoch.step)
            for epoch in epochs
            for name, value in epoch.metrics.items()
        ]
        named = [Param(name, text) for name, text in params(fields or {}).items()]
        tagged = [RunTag(name, value) for name, value in _tags(tags or {}).items()]
        first, *more = [metrics[i : i + BATCH] for i in range(0, len(metrics), BATCH)] or [[]]
        try:
            self.client.log_batch(run, metrics=first, params=named, tags=tagged)
            for batch in more:
                self.client.log_batch(run, metrics=batch)
        except MlflowException as error:
            if error.error_code not in REFUSED_FOR_GOOD:
                raise
            return self._log_by_name(run, metrics, named, tagged)
        return {}

    def _log_by_name(self, run: str, metrics: list[Any], params: list[Any], tags: list[Any]) -> dict[str, str]:
        """Log each name by itself, since MLflow refuses the whole of a request for one name in it."""
        from mlflow.exceptions import MlflowException

        refused: dict[str, str] = {}
        for kind, entries in (("metrics", metrics), ("params", params), ("tags", tags)):
            for name in dict.fromkeys(entry.key for entry in entries):
                own = [entry for entry in entries if entry.key == name]
                try:
                    for start in range(0, len(own), BATCH):
                        request: dict[str, Any] = {kind: own[start : start + BATCH]}
                        self.client.log_batch(run, **request)
                except MlflowException as error:
                    if error.error_code not in REFUSED_FOR_GOOD:
                        raise
                    refused[name] = str(error.message).partition("\n")[0]
        if refused:  # a run that takes nothing at all, since it was deleted, raises here
            known = self.client.get_run(run).data.tags.get(REFUSED, "")
            names = dict.fromkeys([*filter(None, known.split(", ")), *(name[:SHOWN_NAME] for name in refused)])
            self.client.set_tag(run, REFUSED, ", ".join(names)[:5000])
        return refused

    def log_dataset(self, run: str, dataset: Mapping[str, Any]) -> None:
        """Name the run's data set as an input of the run; sent twice it stands there once.

        dataset: as `data.DataIdentity` has it; `dataset.name` and `dataset.digest` find the run in MLflow's search.
        """
        from mlflow.entities import Dataset, DatasetInput, InputTag

        source = json.dumps({"name": dataset["name"], "data_root": dataset["root"]})
        sizes = {name: dataset[name] for name in ("train_samples", "test_samples", "classes")}
        logged = Dataset(dataset["name"], dataset["digest"], "forcetune", source, profile=json.dumps(sizes))
        self.client.log_inputs(run, [DatasetInput(logged, [InputTag("mlflow.data.context", "training")])])

    def mark(self, run: str, tag: str, marked: bool) -> None:
        """Give a run the tag with the value `true`, or take it away."""
        if marked:
            self.client.set_tag(run, tag, "true")
        else:
            self._delete_tag(run, tag)

    def log_file(self, run: str, path: Path) -> None:
        """A file among the run's artifacts."""
        if run in self._artifacts:
            self._artifacts[run].log_artifact(str(path))
        else:  # the client asks the store first where they go
            self.client.log_artifact(run, str(path))

    def close(self, run: str, failed: bool = False, ended: int | None = None) -> None:
        """End a run as FINISHED or FAILED; ended: ms since 1970, now where it is not given."""
        self.client.set_terminated(run, "FAILED" if failed else "FINISHED", end_time=ended)
        self._artifacts.pop(run, None)

    def reopen(self, run: str) -> None:
        """Put a run back in state RUNNING."""
        self.client.update_run(run, status="RUNNING")

    def reopen_failed(self, run: str) -> None:
        """Put the run of a failed trial back in state RUNNING; the reason is kept as `forcetune.failed_before`.

        The outcome goes last: until then a kill, or an answer that is lost, has all of this done again.
        """
        tags = self.tags(run)
        if tags.get("forcetune.outcome") == "failed":
            if reason := tags.get("forcetune.reason"):
                self.client.set_tag(run, "forcetune.failed_before", reason)
            for name in ("forcetune.reason", "forcetune.outcome"):
                self._delete_tag(run, name)
        self.reopen(run)

    def tags(self, run: str) -> dict[str, str]:
        """The tags of a run."""
        return dict(self.client.get_run(run).data.tags)

    def remove(self, run: str) -> None:
        """Take a run out of every table; MLflow keeps it among its deleted runs."""
        self.client.delete_run(run)

    def files(self, run: str) -> set[str]:
        """The names of a run's artifacts."""
        return {found.path for found in self.client.list_artifacts(run)}

    def copy_file(self, name: str, source: str, run: str) -> None:
        """Give a run an artifact of another one."""
        with TemporaryDirectory() as folder:
            self.client.log_artifact(run, self.client.download_artifacts(source, name, folder))

    def steps(self, run: str, since: int | None = None) -> dict[str, list[int]]:
        """The steps at which each metric of a run was logged, one entry for each time.

        since: in ms since 1970; what was measured before does not count.
        """
        steps: dict[str, list[int]] = {}
        for point in _since(self._history(run), since):
            steps.setdefault(point.key, []).append(point.step)
        return steps

    def _history(self, run: str) -> list[Metric]:
        metrics = self.client.get_run(run).data.metrics
        return [point for name in metrics for point in self.client.get_metric_history(run, name)]

    def open_record(self, kind: str, name: str, tags: Mapping[str, str]) -> str:
        """The id of the run of that kind and name, which is no trial's; made where there is none, in state RUNNING."""
        return create_once(
            lambda: _first_id(self._find(kind, f"tags.`mlflow.runName` = '{name}'")),
            lambda: self._create(name, {"forcetune.kind": kind, **tags}).info.run_id,
        )

    def rename(self, name: str) -> None:
        """Give the experiment another name, under which `table` finds it."""
        self.client.rename_experiment(self._experiment, name)

    def _delete_tag(self, run: str, name: str) -> None:
        """Delete a tag; a request whose answer was lost may have done so before."""
        from mlflow.exceptions import MlflowException

        try:
            self.client.delete_tag(run, name)
        except MlflowException as error:
            if error.error_code != "RESOURCE_DOES_NOT_EXIST":
                raise

    def _create(self, name: str, tags: Mapping[str, str], started: int | None = None) -> Run:
        return self.client.create_run(self._experiment, start_time=started, tags=_tags(tags), run_name=name)

    def _find(self, kind: str, condition: str | None = None) -> list[Run]:
        """The runs of a kind: that with the most content first, of equal ones the oldest.

        Of two runs of one trial, one has nothing but its first tags: the driver logs to the other one alone.
        """
        wanted = f"tags.`forcetune.kind` = '{kind}'" + (f" and {condition}" if condition else "")
        runs = list(self.client.search_runs([self._experiment], wanted))
        runs.sort(key=lambda run: (-_content(run), run.info.start_time, run.info.run_id))
        return runs


def _since(history: Iterable[Metric], since: int | None) -> list[Metric]:
    return [point for point in history if point.timestamp >= (since or 0)]


def _first_id(runs: Sequence[Run]) -> str | None:
    return runs[0].info.run_id if runs else None


def _is_bare(run: Run) -> bool:
    """Whether nothing was logged to a run since it was created."""
    return not (run.data.metrics or run.data.params or "forcetune.references" in run.data.tags)


def _content(run: Run) -> int:
    return len(run.data.metrics) + len(run.data.params) + len(run.data.tags)


def _tags(tags: Mapping[str, str]) -> dict[str, str]:
    return {name: str(value)[:5000] for name, value in tags.items()}
