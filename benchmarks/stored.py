"""A made-up study of many trials in an MLflow store, written in seconds: no network is pruned or trained for it."""

import json
import os
import sqlite3
import uuid
from collections import defaultdict
from collections.abc import Iterable, Iterator
from contextlib import chdir, closing
from pathlib import Path
from typing import Any

import numpy as np

from forcetune.study import Study, Trial
from forcetune.tracking import Tracker, format_params

MADE_UP_STUDY = "made-up"
MADE_UP_METHODS = ["random", "magnitude", "snip", "iter_snip", "force", "synflow", "grasp"]
# a method of higher quality keeps its accuracy at lower densities
METHOD_QUALITIES = dict(zip(MADE_UP_METHODS, [0.0, 0.4, 0.7, 1.0, 1.1, 1.2, 0.6], strict=True))
CURVE_EPOCHS = 15
STUDY_FIELDS = {
    "study": MADE_UP_STUDY,
    "trial": {
        "dataset": "digits",
        "model": "convnet",
        "method": MADE_UP_METHODS,
        "density": {"low": 0.002, "high": 0.5, "log": True},
        "iterations": {"low": 2, "high": 50, "log": True, "when": {"method": ["iter_snip", "force", "synflow"]}},
        "schedule": {"choices": ["exponential", "linear"], "when": {"method": ["iter_snip", "force", "synflow"]}},
        "epochs": CURVE_EPOCHS,
        "lr": {"low": 0.02, "high": 0.5, "log": True},
    },
}
FIRST_START_MS, TRIAL_MS = 1_790_000_000_000, 20_000


def make_store(folder: Path, trials: int, seed: int = 0) -> None:
    """Write mlflow.db and mlruns/ with the study `made-up` into the folder, and set MLFLOW_TRACKING_URI to it."""
    os.environ["MLFLOW_TRACKING_URI"] = uri = f"sqlite:///{folder}/mlflow.db"
    study = Study.from_dict(STUDY_FIELDS)
    with chdir(folder):  # files go below the folder in which the tracker is made
        tracker = Tracker(MADE_UP_STUDY, uri)
    parent = tracker.open_study(study.directions, {})
    tracker.describe(parent, study.model_dump(), study.references(0.1), "made up for a benchmark")
    tracker.close(parent)
    with closing(sqlite3.connect(folder / "mlflow.db")) as connection, connection:
        _insert(connection, parent, _make_trials(trials, np.random.default_rng(seed)))


MadeUpTrial = tuple[Trial, dict[str, float], list[float], str]  # a trial, its metrics, its curve, its outcome


def _make_trials(count: int, generator: np.random.Generator) -> Iterator[MadeUpTrial]:
    for _ in range(count):
        method = MADE_UP_METHODS[generator.integers(len(MADE_UP_METHODS))]
        density = float(10 ** generator.uniform(np.log10(0.002), np.log10(0.5)))
        step_fields: dict[str, Any] = {
            "iterations": int(generator.integers(2, 51)),
            "schedule": ["exponential", "linear"][generator.integers(2)],
        }
        trial = Trial(
            dataset="digits", model="convnet", method=method, density=density, epochs=CURVE_EPOCHS,
            lr=float(10 ** generator.uniform(-1.7, -0.3)), **(step_fields if METHOD_QUALITIES[method] >= 1 else {}),
        )  # fmt: skip
        accuracy_share = 1 / (1 + np.exp(1.0 - 2.6 * (np.log10(density) + 1.2 + METHOD_QUALITIES[method])))
        final_accuracy = float(np.clip(0.1 + 0.89 * accuracy_share + generator.normal(0, 0.015), 0.05, 0.995))
        curve = [final_accuracy * (1 - np.exp(-(epoch + 1) / 4)) for epoch in range(CURVE_EPOCHS - 1)] + [
            final_accuracy
        ]
        outcome = "stopped" if generator.random() < 0.25 and accuracy_share < 0.6 else "trained"
        curve = curve[: CURVE_EPOCHS // 4] if outcome == "stopped" else curve
        metrics = {
            "density": density, "sparsity": 1 - density, "effective_density": density * 0.97, "collapsed": 0.0,
            "macs": float(int(4e6 * density**0.6)), "macs_fraction": density**0.6, "layers_emptied": 0.0,
            "prune_seconds": 0.4, "train_seconds": 18.0 * len(curve) / CURVE_EPOCHS, "saliency_samples": 128.0,
        }  # fmt: skip
        yield trial, metrics, curve, outcome


TABLE_COLUMNS = {  # of MLflow's tables, in the order of the values in the rows below
    "params": "run_uuid, key, value",
    "tags": "run_uuid, key, value",
    "metrics": "run_uuid, key, value, timestamp, step, is_nan",
    "latest_metrics": "run_uuid, key, value, timestamp, step, is_nan",
}


def _insert(connection: sqlite3.Connection, parent: str, trials: Iterable[MadeUpTrial]) -> None:
    """Insert the trials as rows of MLflow's tables; the run of a trial is a changed copy of the parent's run."""
    connection.row_factory = sqlite3.Row
    template = dict(connection.execute("select * from runs where run_uuid = ?", (parent,)).fetchone())
    rows: dict[str, list[tuple[Any, ...]]] = defaultdict(list)
    for number, (trial, metrics, curve, outcome) in enumerate(trials):
        run, start_ms = uuid.uuid4().hex, FIRST_START_MS + TRIAL_MS * number
        artifact_uri = template["artifact_uri"].replace(parent, run)
        run_fields = {
            "run_uuid": run,
            "name": f"trial-{number:04d}",
            "start_time": start_ms,
            "artifact_uri": artifact_uri,
        }
        rows["runs"].append(tuple({**template, **run_fields, "end_time": start_ms + TRIAL_MS}.values()))
        rows["params"] += [(run, name, text) for name, text in format_params(trial.fields()).items()]
        tags = {"kind": "trial", "trial": trial.key, "outcome": outcome, "devices": "1", "attempt": "1"}
        rows["tags"] += [(run, f"forcetune.{name}", text) for name, text in tags.items()]
        rows["tags"] += [(run, "mlflow.parentRunId", parent), (run, "mlflow.runName", run_fields["name"])]
        metric_rows = [(run, name, value, start_ms, 0, 0) for name, value in metrics.items()]
        metric_rows += [(run, "val_accuracy", value, start_ms + step, step, 0) for step, value in enumerate(curve, 1)]
        rows["metrics"] += metric_rows
        rows["latest_metrics"] += {name: (run, name, *point) for _, name, *point in metric_rows}.values()
        if outcome == "trained":
            _write_layers(Path(artifact_uri.removeprefix("file://")), trial.density)
    for table, table_rows in rows.items():
        target = f"{table} ({TABLE_COLUMNS[table]})" if table in TABLE_COLUMNS else table
        connection.executemany(f"insert into {target} values ({','.join('?' * len(table_rows[0]))})", table_rows)


def _write_layers(folder: Path, density: float) -> None:
    """Write the layers.json of twenty layers, of which the first and the last are the densest."""
    layer_densities = [min(1.0, density * (4 if index in (0, 19) else 1.2 - index / 20)) for index in range(20)]
    layers = [
        {
            "layer": f"{n}.weight",
            "shape": [64, 64],
            "weights": 4096,
            "kept": int(4096 * layer_density),
            "density": layer_density,
        }
        for n, layer_density in enumerate(layer_densities)
    ]
    folder.mkdir(parents=True)
    (folder / "layers.json").write_text(json.dumps(layers))
