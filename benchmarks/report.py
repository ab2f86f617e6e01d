"""How long the page of a large study takes to write and to open, and how large it is.

    python benchmarks/report.py --trials 5000

The study is made up: trials of seven methods whose accuracy falls with sparsity, with learning curves, one of three
stopped early, written straight into a fresh MLflow store. Opened in headless Chromium from a file, from navigation to
the last figure drawn, median of three.
"""

import argparse
import json
import os
import shutil
import sqlite3
import statistics
import time
import uuid
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np

from forcetune import report
from forcetune.tracking import Tracker

METHODS = ("random", "magnitude", "snip", "iter_snip", "force", "synflow", "grasp")
ITERATIVE = ("iter_snip", "force", "synflow")
EPOCHS = 10
STUDY = "large"
TABLES = {
    "runs": (
        *("run_uuid", "name", "source_type", "user_id", "status", "start_time", "end_time", "lifecycle_stage"),
        *("experiment_id", "artifact_uri"),
    ),
    "params": ("run_uuid", "key", "value"),
    "tags": ("run_uuid", "key", "value"),
    "metrics": ("run_uuid", "key", "value", "timestamp", "step", "is_nan"),
    "latest_metrics": ("run_uuid", "key", "value", "timestamp", "step", "is_nan"),
}


def main() -> None:
    """Make the study, write its page, open it, and print what that took."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trials", type=int, default=5000)
    parser.add_argument("--keep", type=Path, help="where to leave the page")
    arguments = parser.parse_args()
    with TemporaryDirectory() as folder:
        os.chdir(folder)
        make_study(Path("mlflow.db").resolve(), arguments.trials)
        started = time.perf_counter()
        page = report.write(STUDY).resolve()
        written = time.perf_counter() - started
        opened = open_page(page)
        print(f"{arguments.trials} trials: written in {written:.1f} s, {page.stat().st_size / 1e6:.1f} MB")
        print(f"all figures drawn {statistics.median(opened):.2f} s after navigation, median of {len(opened)}")
        if arguments.keep:
            shutil.copy(page, arguments.keep)
        os.chdir("/")


def make_study(path: Path, trials: int) -> None:
    """A study of so many trials in a new store; straight into its tables, since the client takes minutes."""
    objectives = {"val_accuracy": "max", "density": "min"}
    tracker = Tracker(STUDY, f"sqlite:///{path}")
    parent = tracker.open_study(objectives, {})
    tracker.client.set_tag(parent, "forcetune.references", json.dumps({"val_accuracy": 0.1, "density": 0.5}))
    experiment = tracker.client.get_run(parent).info.experiment_id
    tracker.close(parent)
    rows: dict[str, list[tuple[Any, ...]]] = {name: [] for name in TABLES}
    generator = np.random.default_rng(0)
    for number in range(trials):
        for table, row in _rows(number, int(experiment), generator):
            rows[table].append(row)
    with closing(sqlite3.connect(path)) as connection:
        for table, columns in TABLES.items():
            marks = ",".join("?" * len(columns))
            connection.executemany(f"insert into {table} ({','.join(columns)}) values ({marks})", rows[table])
        connection.commit()


def _rows(number: int, experiment: int, generator: np.random.Generator) -> Iterator[tuple[str, tuple[Any, ...]]]:
    run, start = uuid.UUID(bytes=generator.bytes(16)).hex, 1_700_000_000_000 + 1000 * number
    fields, metrics, outcome = _trial(generator)
    tags = {"kind": "trial", "trial": run[:16], "outcome": outcome}
    where = Path("mlruns", run).resolve()
    yield (
        "runs",
        (run, f"trial-{number:04d}", "LOCAL", "", "FINISHED", start, start + 900, "active", experiment, where.as_uri()),
    )
    if outcome == "trained":
        where.mkdir(parents=True)
        where.joinpath("layers.json").write_text(json.dumps(_layers(fields["density"])))
    for key, value in fields.items():
        yield "params", (run, key, value if isinstance(value, str) else json.dumps(value))
    for key, value in tags.items():
        yield "tags", (run, f"forcetune.{key}", value)
    epochs = EPOCHS if outcome == "trained" else EPOCHS // 4
    reached = metrics["val_accuracy"]
    for epoch in range(1, epochs + 1):
        value = 0.1 + (reached - 0.1) * (1 - np.exp(-epoch / 3))
        yield "metrics", (run, "val_accuracy", float(value), start + epoch, epoch, False)
    for key, value in metrics.items():
        yield "latest_metrics", (run, key, float(value), start, epochs, False)


def _layers(density: float) -> list[dict[str, Any]]:
    """Twenty layers, the first and the last denser than those between."""
    found = []
    for place in range(20):
        kept = min(1.0, density * (4 if place in (0, 19) else 1.2 - place / 20))
        found.append({"layer": f"layers.{place}.weight", "shape": [64, 64], "weights": 4096, "kept": int(4096 * kept)})
    return found


def _trial(generator: np.random.Generator) -> tuple[dict[str, Any], dict[str, float], str]:
    """Fields, last metrics and outcome of a trial."""
    method = str(generator.choice(METHODS))
    density = float(10 ** generator.uniform(-2.5, -0.3))
    skill = 0.05 * METHODS.index(method)
    accuracy = 0.1 + 0.88 / (1 + np.exp(-2.5 * (np.log10(density) + 2 + skill))) + generator.normal(0, 0.03)
    outcome = str(generator.choice(["trained", "trained", "stopped"]))
    fields: dict[str, Any] = {"dataset": "digits", "model": "convnet", "method": method, "density": density}
    fields |= {"lr": float(10 ** generator.uniform(-2, 0)), "epochs": EPOCHS, "batch_size": 64, "seed": 0}
    if method in ITERATIVE:
        schedule = str(generator.choice(["exponential", "linear"]))
        fields |= {"iterations": int(generator.integers(2, 50)), "schedule": schedule}
    known = float(np.clip(accuracy, 0.05, 0.99))
    metrics = {"val_accuracy": known, "density": density, "sparsity": 1 - density, "val_loss": 1 - known}
    metrics |= {"effective_density": 0.98 * density, "macs": float(round(451_904 * density**0.6)), "collapsed": 0.0}
    metrics |= {"prune_seconds": float(generator.uniform(0.1, 2)), "train_seconds": float(generator.uniform(5, 20))}
    return fields, metrics, outcome


def open_page(page: Path, times: int = 3) -> list[float]:
    """Seconds from navigation to the last figure drawn, by the browser's own clock."""
    from playwright.sync_api import sync_playwright

    names = ("chromium", "chromium-browser", "google-chrome")
    found = next(path for name in names if (path := shutil.which(name)))
    options = ["--no-sandbox", "--disable-gpu", "--disable-background-networking"]
    seconds = []
    with sync_playwright() as playwright:
        for _ in range(times):
            browser = playwright.chromium.launch(executable_path=found, args=options)
            tab = browser.new_page(viewport={"width": 1400, "height": 900})
            tab.goto(page.as_uri())
            tab.wait_for_selector("html[data-drawn]")
            seconds.append(tab.evaluate("performance.getEntriesByName('drawn')[0].startTime") / 1000)
            browser.close()
    return seconds


if __name__ == "__main__":
    main()
