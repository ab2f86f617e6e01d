"""The experiments of a store, and the view by which MLflow's UI shows one as a table of trials."""

from __future__ import annotations

import json
import sqlite3
import time
from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlencode

from forcetune.errors import InputError
from forcetune.stores import shown, sqlite_path
from forcetune.tracking.client import check_answers, client_of

VIEW = "forcetune"
VIEW_TAG = f"mlflow.sharedViewState.{VIEW}"  # of an experiment; the key under which MLflow's UI keeps a saved view
TRIALS = "tags.`forcetune.kind` = 'trial'"
CHARTED = 1000  # runs in a scatter plot


@dataclass(frozen=True)
class Experiment:
    """An experiment of MLflow; page: its table of trials, below the server's address."""

    name: str
    number: str
    viewed: bool

    @property
    def page(self) -> str:
        """The table of its trials; MLflow opens on traces of language models unless told what is trained."""
        page = f"/#/experiments/{self.number}/runs?workflowType=machine_learning"
        if self.viewed:
            return f"{page}&viewStateShareKey={VIEW}"
        asked = {"searchFilter": TRIALS, "orderByKey": "metrics.`sparsity`", "orderByAsc": "true"}
        return f"{page}&{urlencode(asked, quote_via=quote)}"


def experiments(uri: str) -> list[Experiment]:
    """The experiments of an MLflow store or server but its Default, the oldest first.

    Raises InputError where it cannot be read.
    """
    path = sqlite_path(uri)
    found = _of_client(uri) if path is None else _of_file(path)
    return [each for each in found if each.name != "Default"]


def view(objectives: Sequence[str], fields: Sequence[str]) -> dict[str, Any]:
    """The saved view: trials by sparsity, with the front as a chart.

    Its columns: method, outcome, sparsity, the objectives, then the other sampled fields.
    """
    metrics = dict.fromkeys(["sparsity", *(name for name in objectives if name != "density")])
    others = [name for name in fields if name not in ("density", "method")]
    columns = [
        "params.`method`",
        "tags.`forcetune.outcome`",
        *(f"metrics.`{name}`" for name in metrics),
        *(f"params.`{name}`" for name in others),
    ]
    quality = next((name for name in metrics if name != "sparsity"), "val_accuracy")
    state = {
        "searchFilter": TRIALS,
        "orderByKey": "metrics.`sparsity`",
        "orderByAsc": True,
        "startTime": "ALL",
        "lifecycleFilter": "Active",
        "datasetsFilter": [],
        "modelVersionFilter": "All Runs",
        "selectedColumns": columns,
        "columnOrder": columns,  # else MLflow puts metrics first, then params, then tags
        "columnWidths": {},
        "compareRunCharts": [_scatter(quality), _curves(quality)],
        "compareRunSections": [{"uuid": "study", "name": "Study", "display": True, **_OURS, "isReordered": False}],
        "runsHiddenMode": "SHOW_ALL",
        "isAccordionReordered": False,
        "autoRefreshEnabled": True,
        "hideEmptyCharts": True,
    }
    now = int(time.time() * 1000)
    return {"name": "Trials", "createdAt": now, "updatedAt": now, "state": json.dumps(state)}


_OURS: Mapping[str, Any] = {"deleted": False, "isGenerated": False}


def _scatter(quality: str) -> dict[str, Any]:
    axes = {"xaxis": {"key": "sparsity", "type": "METRIC"}, "yaxis": {"key": quality, "type": "METRIC"}}
    return {
        "type": "SCATTER",
        "uuid": "front",
        "metricSectionId": "study",
        **_OURS,
        **axes,
        "runsCountToCompare": CHARTED,
    }


def _curves(metric: str) -> dict[str, Any]:
    axis = {"xAxisKey": "step", "selectedXAxisMetricKey": "", "xAxisScaleType": "linear", "scaleType": "linear"}
    own = {"metricKey": metric, "selectedMetricKeys": [metric], "lineSmoothness": 0, "range": {}}
    return {
        "type": "LINE",
        "uuid": "curves",
        "metricSectionId": "study",
        **_OURS,
        **axis,
        **own,
        "runsCountToCompare": 10,
    }


def _of_file(path: Path) -> list[Experiment]:
    """Straight from MLflow's tables: importing MLflow takes longer than a page may."""
    query = (
        "select e.name, e.experiment_id, "
        "exists(select 1 from experiment_tags t where t.experiment_id = e.experiment_id and t.key = ?) "
        "from experiments e where e.lifecycle_stage = 'active' order by e.creation_time"
    )
    try:
        with closing(sqlite3.connect(f"{path.as_uri()}?mode=ro", uri=True)) as connection:
            rows = connection.execute(query, (VIEW_TAG,)).fetchall()
    except sqlite3.Error as error:
        raise InputError(f"{path} is not readable as an MLflow store: {error}") from error
    return [Experiment(name, str(number), bool(viewed)) for name, number, viewed in rows]


def _of_client(uri: str) -> list[Experiment]:
    from mlflow.exceptions import MlflowException

    check_answers(uri)
    try:
        found = client_of(uri).search_experiments(order_by=["creation_time ASC"])
    except MlflowException as error:
        raise InputError(f"the MLflow store {shown(uri)} cannot be used: {error.message}") from error
    return [Experiment(each.name, str(each.experiment_id), VIEW_TAG in each.tags) for each in found]
