"""The experiments of a store, and the view by which MLflow's UI shows one as a table of trials."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlencode

from forcetune.stores import sqlite_path
from forcetune.tracking import sqlite
from forcetune.tracking.client import list_all_experiments, list_runs, open_client

VIEW_KEY = "forcetune"  # the key under which MLflow's UI keeps our view of an experiment
VIEW_TAG = f"mlflow.sharedViewState.{VIEW_KEY}"  # the tag of an experiment in which MLflow's UI looks for that view
REPORT_TAG = "forcetune.report"  # of a study's parent run that has a page among its artifacts: the name of that page
TRIALS_FILTER = "tags.`forcetune.kind` = 'trial'"  # in the language of MLflow's search
CHARTED_RUNS, CHARTED_CURVES = 1000, 10  # in the plot of the front, and in that of learning curves
SECTION = "study"  # of the page, the id of the section with the charts
VISIBLE = {"deleted": False, "isGenerated": False}  # flags of a section, or of a chart


@dataclass(frozen=True)
class Experiment:
    """An experiment of MLflow.

    Attributes:
        name: Its name; that of the study.
        number: Its id in the store.
        has_view: Whether it has a saved view of its trials.
        report_run: The id of the run that has the study's report among its artifacts; empty where none was written.
    """

    name: str
    number: str
    has_view: bool
    report_run: str = ""

    @property
    def page(self) -> str:
        """The path, below the server's address, of the page with the table of its trials.

        The path names the type of workflow, since MLflow otherwise opens on traces of language models.
        """
        page = f"/#/experiments/{self.number}/runs?workflowType=machine_learning"
        if self.has_view:
            return f"{page}&viewStateShareKey={VIEW_KEY}"
        query = {"searchFilter": TRIALS_FILTER, "orderByKey": "metrics.`sparsity`", "orderByAsc": "true"}
        return f"{page}&{urlencode(query, quote_via=quote)}"

    @property
    def report_page(self) -> str:
        """The path, below the server's address, of the page that shows the study's report; empty where none exists."""
        return f"/#/experiments/{self.number}/runs/{self.report_run}/artifacts" if self.report_run else ""


def list_experiments(uri: str) -> list[Experiment]:
    """Return the experiments of an MLflow store, without its Default, the oldest first.

    Args:
        uri: The URI of the MLflow store, a file or a server.

    Raises:
        InputError: The store cannot be read.
    """
    path = sqlite_path(uri)
    experiments = _ask_client(uri) if path is None else _read_file(path)
    return [experiment for experiment in experiments if experiment.name != "Default"]


def make_view(objectives: Sequence[str], fields: Sequence[str]) -> dict[str, Any]:
    """Return the saved view of an experiment: its trials by sparsity, and two charts.

    The columns are method, outcome, sparsity, the objectives, and the other sampled fields. The charts are the front
    and the learning curves.

    Args:
        objectives: The names of the objectives.
        fields: The names of the sampled fields.
    """
    metrics = dict.fromkeys(["sparsity", *(name for name in objectives if name != "density")])
    other_fields = [name for name in fields if name not in ("density", "method")]
    columns = [
        "params.`method`",
        "tags.`forcetune.outcome`",
        *(f"metrics.`{name}`" for name in metrics),
        *(f"params.`{name}`" for name in other_fields),
    ]
    quality = next((name for name in metrics if name != "sparsity"), "val_accuracy")
    state = {
        "searchFilter": TRIALS_FILTER,
        "orderByKey": "metrics.`sparsity`",
        "orderByAsc": True,
        "startTime": "ALL",
        "lifecycleFilter": "Active",
        "datasetsFilter": [],
        "modelVersionFilter": "All Runs",
        "selectedColumns": columns,
        "columnOrder": columns,  # else MLflow puts metrics first, then params, then tags
        "columnWidths": {},
        "compareRunCharts": [_make_scatter(quality), _make_curves(quality)],
        "compareRunSections": [{"uuid": SECTION, "name": "Study", "display": True, **VISIBLE, "isReordered": False}],
        "runsHiddenMode": "SHOW_ALL",
        "isAccordionReordered": False,
        "autoRefreshEnabled": True,
        "hideEmptyCharts": True,
    }
    now = int(time.time() * 1000)
    return {"name": "Trials", "createdAt": now, "updatedAt": now, "state": json.dumps(state)}


def _make_scatter(quality: str) -> dict[str, Any]:
    axes = {"xaxis": {"key": "sparsity", "type": "METRIC"}, "yaxis": {"key": quality, "type": "METRIC"}}
    return _make_chart("SCATTER", "front", CHARTED_RUNS, axes)


def _make_curves(metric: str) -> dict[str, Any]:
    axis = {"xAxisKey": "step", "selectedXAxisMetricKey": "", "xAxisScaleType": "linear", "scaleType": "linear"}
    lines = {"metricKey": metric, "selectedMetricKeys": [metric], "lineSmoothness": 0, "range": {}}
    return _make_chart("LINE", "curves", CHARTED_CURVES, {**axis, **lines})


def _make_chart(kind: str, name: str, runs: int, content: Mapping[str, Any]) -> dict[str, Any]:
    chart = {"type": kind, "uuid": name, "metricSectionId": SECTION, **VISIBLE}
    return {**chart, **content, "runsCountToCompare": runs}


def _read_file(path: Path) -> list[Experiment]:
    with sqlite.open_tables(path) as connection:
        rows = sqlite.select_experiments(connection, VIEW_TAG, REPORT_TAG)
    return [Experiment(name, str(number), bool(has_view), run or "") for name, number, has_view, run in rows]


def _ask_client(uri: str) -> list[Experiment]:
    with open_client(uri) as client:
        experiments = list_all_experiments(client)
        ids = [experiment.experiment_id for experiment in experiments]
        runs = list_runs(client, ids, f"tags.`{REPORT_TAG}` LIKE '%'")
    report_runs = {run.info.experiment_id: run.info.run_id for run in runs}
    return [
        Experiment(
            experiment.name,
            str(experiment.experiment_id),
            VIEW_TAG in experiment.tags,
            report_runs.get(experiment.experiment_id, ""),
        )
        for experiment in experiments
    ]
