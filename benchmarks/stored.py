"""A study of many trials in an MLflow store, made up in seconds: no network is pruned or trained for it."""

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

from forcetune.spec import Study, Trial
from forcetune.tracking import Tracker, params

NAME = "made-up"
METHODS = ["random", "magnitude", "snip", "iter_snip", "force", "synflow", "grasp"]
GOOD = dict(zip(METHODS, [0.0, 0.4, 0.7, 1.0, 1.1, 1.2, 0.6], strict=True))  # what a method is worth where it is sparse
EPOCHS = 15
WRITTEN = {
    "study": NAME,
    "trial": {
        "dataset": "digits",
        "model": "convnet",
        "method": METHODS,
        "density": {"low": 0.002, "high": 0.5, "log": True},
        "iterations": {"low": 2, "high": 50, "log": True, "when": {"method": ["iter_snip", "force", "synflow"]}},
        "schedule": {"choices": ["exponential", "linear"], "when": {"method": ["iter_snip", "force", "synflow"]}},
        "epochs": EPOCHS,
        "lr": {"low": 0.02, "high": 0.5, "log": True},
    },
}
STARTED, TOOK = 1_790_000_000_000, 20_000  # ms


def make_store(folder: Path, trials: int, seed: int = 0) -> None:
    """Write mlflow.db and mlruns/ with the study `made-up` into the folder; MLFLOW_TRACKING_URI names it."""
    os.environ["MLFLOW_TRACKING_URI"] = uri = f"sqlite:///{folder}/mlflow.db"
    study = Study.from_dict(WRITTEN)
    with chdir(folder):  # below which files go
        tracker = Tracker(NAME, uri)
    parent = tracker.open_study(study.directions, {})
    tracker.describe(parent, study.model_dump(), study.references(0.1), "made up for a benchmark")
    tracker.close(parent)
    with closing(sqlite3.connect(folder / "mlflow.db")) as connection, connection:
        _insert(connection, parent, _trials(trials, np.random.default_rng(seed)))


Made = tuple[Trial, dict[str, float], list[float], str]  # a trial, its metrics, its curve, its outcome


def _trials(count: int, generator: np.random.Generator) -> Iterator[Made]:
    for _ in range(count):
        method = METHODS[generator.integers(len(METHODS))]
        density = float(10 ** generator.uniform(np.log10(0.002), np.log10(0.5)))
        steps = {
            "iterations": int(generator.integers(2, 51)),
            "schedule": ["exponential", "linear"][generator.integers(2)],
        }
        trial = Trial(
            dataset="digits", model="convnet", method=method, density=density, epochs=EPOCHS,
            lr=float(10 ** generator.uniform(-1.7, -0.3)), **(steps if GOOD[method] >= 1 else {}),
        )  # fmt: skip
        reach = 1 / (1 + np.exp(1.0 - 2.6 * (np.log10(density) + 1.2 + GOOD[method])))
        final = float(np.clip(0.1 + 0.89 * reach + generator.normal(0, 0.015), 0.05, 0.995))
        curve = [final * (1 - np.exp(-(epoch + 1) / 4)) for epoch in range(EPOCHS - 1)] + [final]
        outcome = "stopped" if generator.random() < 0.25 and reach < 0.6 else "trained"
        curve = curve[: EPOCHS // 4] if outcome == "stopped" else curve
        facts = {
            "density": density, "sparsity": 1 - density, "effective_density": density * 0.97, "collapsed": 0.0,
            "macs": float(int(4e6 * density**0.6)), "macs_fraction": density**0.6, "layers_emptied": 0.0,
            "prune_seconds": 0.4, "train_seconds": 18.0 * len(curve) / EPOCHS, "saliency_samples": 128.0,
        }  # fmt: skip
        yield trial, facts, curve, outcome


COLUMNS = {  # of MLflow's tables, in the order in which rows are made here
    "params": "run_uuid, key, value",
    "tags": "run_uuid, key, value",
    "metrics": "run_uuid, key, value, timestamp, step, is_nan",
    "latest_metrics": "run_uuid, key, value, timestamp, step, is_nan",
}


def _insert(connection: sqlite3.Connection, parent: str, trials: Iterable[Made]) -> None:
    """As rows of MLflow's tables, a trial's run like the parent's own."""
    connection.row_factory = sqlite3.Row
    template = dict(connection.execute("select * from runs where run_uuid = ?", (parent,)).fetchone())
    rows: dict[str, list[tuple[Any, ...]]] = defaultdict(list)
    for number, (trial, facts, curve, outcome) in enumerate(trials):
        run, began = uuid.uuid4().hex, STARTED + TOOK * number
        place = template["artifact_uri"].replace(parent, run)
        own = {"run_uuid": run, "name": f"trial-{number:04d}", "start_time": began, "artifact_uri": place}
        rows["runs"].append(tuple({**template, **own, "end_time": began + TOOK}.values()))
        rows["params"] += [(run, name, text) for name, text in params(trial.fields()).items()]
        tags = {"kind": "trial", "trial": trial.key, "outcome": outcome, "devices": "1", "attempt": "1"}
        rows["tags"] += [(run, f"forcetune.{name}", text) for name, text in tags.items()]
        rows["tags"] += [(run, "mlflow.parentRunId", parent), (run, "mlflow.runName", own["name"])]
        measured = [(run, name, value, began, 0, 0) for name, value in facts.items()]
        measured += [(run, "val_accuracy", value, began + step, step, 0) for step, value in enumerate(curve, 1)]
        rows["metrics"] += measured
        rows["latest_metrics"] += {name: (run, name, *rest) for _, name, *rest in measured}.values()
        if outcome == "trained":
            _write_layers(Path(place.removeprefix("file://")), trial.density)
    for table, found in rows.items():
        into = f"{table} ({COLUMNS[table]})" if table in COLUMNS else table
        connection.executemany(f"insert into {into} values ({','.join('?' * len(found[0]))})", found)


def _write_layers(folder: Path, density: float) -> None:
    """layers.json of twenty layers, the first and the last denser than those between."""
    parts = [min(1.0, density * (4 if place in (0, 19) else 1.2 - place / 20)) for place in range(20)]
    layers = [
        {"layer": f"{n}.weight", "shape": [64, 64], "weights": 4096, "kept": int(4096 * part), "density": part}
        for n, part in enumerate(parts)
    ]
    folder.mkdir(parents=True)
    (folder / "layers.json").write_text(json.dumps(layers))
