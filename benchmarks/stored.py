"""A study of many trials in an MLflow store, made up in seconds: no network is pruned or trained for it."""

import os
import sqlite3
import uuid
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

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
    """Write mlflow.db with the study `made-up`, curves included, into the folder; MLFLOW_TRACKING_URI names it."""
    os.environ["MLFLOW_TRACKING_URI"] = uri = f"sqlite:///{folder}/mlflow.db"
    study = Study.from_dict(WRITTEN)
    tracker = Tracker(NAME, uri)
    parent = tracker.open_study(study.directions, {})
    tracker.describe(parent, study.model_dump(), study.references(0.1), "made up for a benchmark")
    tracker.close(parent)
    with closing(sqlite3.connect(folder / "mlflow.db")) as connection, connection:
        _insert(connection, parent, list(_trials(trials, np.random.default_rng(seed))))


def _trials(count: int, generator: np.random.Generator) -> Iterator[tuple[Trial, dict[str, float], list[float], str]]:
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


def _insert(connection: sqlite3.Connection, parent: str, trials: list) -> None:
    """As rows of MLflow's tables, like the parent's own."""
    columns = [row[1] for row in connection.execute("pragma table_info(runs)")]
    template = dict(
        zip(columns, connection.execute("select * from runs where run_uuid = ?", (parent,)).fetchone(), strict=True)
    )
    rows: dict[str, list] = {name: [] for name in ("runs", "params", "tags", "metrics", "latest_metrics")}
    for number, (trial, facts, curve, outcome) in enumerate(trials):
        run, began = uuid.uuid4().hex, STARTED + TOOK * number
        place = template["artifact_uri"].replace(parent, run)
        own = {"run_uuid": run, "name": f"trial-{number:04d}", "start_time": began, "artifact_uri": place}
        rows["runs"].append(tuple({**template, **own, "end_time": began + TOOK}.values()))
        rows["params"] += [(name, text, run) for name, text in params(trial.fields()).items()]
        tags = {
            "kind": "trial",
            "trial": trial.key,
            "outcome": outcome,
            "devices": "1",
            "attempt": "1",
            "device": "cpu",
        }
        rows["tags"] += [(f"forcetune.{name}", text, run) for name, text in tags.items()]
        rows["tags"] += [("mlflow.parentRunId", parent, run), ("mlflow.runName", own["name"], run)]
        measured = [(name, value, began, run, 0, 0) for name, value in facts.items()]
        measured += [("val_accuracy", value, began + step, run, step + 1, 0) for step, value in enumerate(curve)]
        rows["metrics"] += measured
        rows["latest_metrics"] += [
            (n, v, at, step, 0, run) for n, v, at, _, step, _ in {each[0]: each for each in measured}.values()
        ]
    for table, found in rows.items():
        names = {
            "latest_metrics": "key, value, timestamp, step, is_nan, run_uuid",
            "metrics": "key, value, timestamp, run_uuid, step, is_nan",
        }
        into = (
            f"{table} ({names[table]})"
            if table in names
            else {"params": "params (key, value, run_uuid)", "tags": "tags (key, value, run_uuid)"}.get(table, table)
        )
        connection.executemany(f"insert into {into} values ({','.join('?' * len(found[0]))})", found)
