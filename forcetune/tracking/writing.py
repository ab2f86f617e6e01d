"""What is written of a study and its trials, run by run."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import yaml

from forcetune.errors import InputError
from forcetune.stores import quicken_sqlite, shown
from forcetune.tracking.client import DELETED, check_answers, client_of, say_deleted
from forcetune.tracking.experiments import VIEW_TAG, view
from forcetune.tracking.runs import params

KIND = {"mlflow.experimentKind": "custom_model_development"}  # else the UI opens on traces of language models
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
    """What a run has: the names of its params, and of its metrics each name with a step at which it was logged."""

    params: frozenset[str] = frozenset()
    points: frozenset[tuple[str, int]] = frozenset()

    def lacks(self, epoch: Epoch) -> Epoch:
        """Return the part of an epoch that the run does not have."""
        metrics = {name: value for name, value in epoch.metrics.items() if (name, epoch.step) not in self.points}
        return replace(epoch, metrics=metrics)


class Tracker:
    """Writes one study's experiment."""

    def __init__(self, study: str, uri: str) -> None:
        from mlflow.exceptions import MlflowException

        for noisy in ("mlflow.store.db.utils", "alembic"):
            logging.getLogger(noisy).setLevel(logging.WARNING)
        quicken_sqlite()
        check_answers(uri)
        try:
            self.client = client_of(uri)
            experiment = self.client.get_experiment_by_name(study)
            self._experiment = (
                experiment.experiment_id if experiment else self.client.create_experiment(study, tags=KIND)
            )
        except MlflowException as error:
            raise InputError(f"the MLflow store {shown(uri)} cannot be used: {error.message}") from error
        if experiment and experiment.lifecycle_stage == DELETED:
            raise InputError(say_deleted(study))
        self._study = study
        self._uri = uri
        self._artifacts: dict[str, Any] = {}  # where the files of the runs go that were opened here

    def open_study(self, objectives: Mapping[str, str], tags: Mapping[str, str]) -> str:
        """The id of the study's parent run, made where there is none, in state RUNNING."""
        found = self._find("search")
        if found is None:
            own = {"forcetune.kind": "search", "forcetune.objectives": json.dumps(dict(objectives))}
            run = self.client.create_run(self._experiment, tags=_tags({**tags, **own}), run_name=self._study)
            found = str(run.info.run_id)
        self.client.update_run(found, status="RUNNING")
        return found

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
        """The id of the run of the trial with this key; None where there is none."""
        return self._find("trial", key)

    def open_trial(self, parent: str, number: int, key: str, tags: Mapping[str, str], started: int) -> str:
        """The id of a new run for a trial, under the parent run, in state RUNNING; started: ms since 1970."""
        from mlflow.store.artifact.artifact_repository_registry import get_artifact_repository

        own = {"forcetune.kind": "trial", "forcetune.trial": key, "mlflow.parentRunId": parent}
        run = self.client.create_run(
            self._experiment, start_time=started, tags=_tags({**tags, **own}), run_name=f"trial-{number:04d}"
        )
        self._artifacts[run.info.run_id] = get_artifact_repository(run.info.artifact_uri, tracking_uri=self._uri)
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

    def logged(self, run: str) -> Logged:
        """What a run has already."""
        points = ((name, step) for name, steps in self.steps(run).items() for step in steps)
        return Logged(frozenset(self.client.get_run(run).data.params), frozenset(points))

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

    def steps(self, run: str) -> dict[str, list[int]]:
        """The steps at which each metric of a run was logged, one entry for each time."""
        metrics = self.client.get_run(run).data.metrics
        return {name: [entry.step for entry in self.client.get_metric_history(run, name)] for name in metrics}

    def named(self, kind: str, name: str) -> str | None:
        """The id of the run of that kind and name; None where there is none."""
        wanted = f"tags.`forcetune.kind` = '{kind}' and tags.`mlflow.runName` = '{name}'"
        runs = self.client.search_runs([self._experiment], wanted, max_results=1)
        return str(runs[0].info.run_id) if runs else None

    def open_record(self, name: str, tags: Mapping[str, str]) -> str:
        """The id of a new run that is no trial's, in state RUNNING."""
        return str(self.client.create_run(self._experiment, tags=_tags(tags), run_name=name).info.run_id)

    def rename(self, name: str) -> None:
        """Give the experiment another name, under which `table` finds it."""
        self.client.rename_experiment(self._experiment, name)

    def _find(self, kind: str, key: str | None = None) -> str | None:
        wanted = f"tags.`forcetune.kind` = '{kind}'" + (f" and tags.`forcetune.trial` = '{key}'" if key else "")
        runs = self.client.search_runs([self._experiment], wanted, max_results=1)
        return str(runs[0].info.run_id) if runs else None


def _tags(tags: Mapping[str, str]) -> dict[str, str]:
    return {name: str(value)[:5000] for name, value in tags.items()}
