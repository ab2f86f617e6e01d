"""The cost of questions to a study of 5000 trials, compared with MLflow's own query for its runs.

    python benchmarks/questions.py --trials 5000 --repeats 3

A made-up study is written into an MLflow store (SQLite) in a temporary folder. In each repetition MLflow's client asks
for all runs of the experiment, forcetune reads them as a table, and each question is asked of that table. The last rows
are a process that asks MLflow's client for the runs, and the whole command `best` as a process of its own. The table
shows the medians of the repetitions and their ratios to MLflow's query.
"""

import argparse
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

from mlflow import MlflowClient
from stored import MADE_UP_STUDY, make_store

from forcetune import analysis
from forcetune.report import results
from forcetune.search.importance import importance
from forcetune.stores import mlflow_uri

CLIENT_CODE = """
from mlflow import MlflowClient
client = MlflowClient()
experiment, token = client.get_experiment_by_name({name!r}).experiment_id, None
while token != "":
    page = client.search_runs([experiment], max_results=1000, page_token=token)
    token = page.token or ""
"""
BEST_CODE = f"from forcetune.cli import main; main(['best', {MADE_UP_STUDY!r}])"


def main() -> None:
    """Ask all questions in turn, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trials", type=int, default=5000)
    parser.add_argument("--repeats", type=int, default=3)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        make_store(Path(folder), arguments.trials)
        seconds: dict[str, list[float]] = defaultdict(list)
        for _ in range(arguments.repeats):
            time_questions(seconds)
        print_table(seconds)


def time_questions(seconds: dict[str, list[float]]) -> None:
    """Ask each question once, MLflow's query first, and append its seconds."""

    def timed(name: str, question: Callable[[], Any]) -> Any:
        started = time.perf_counter()
        result = question()
        seconds[name].append(time.perf_counter() - started)
        return result

    timed("MLflow's client: all runs", query_runs)
    study_results = timed("the table, instead of that query", lambda: results.load(MADE_UP_STUDY))
    objectives, fields = study_results.objectives, study_results.fields
    trials, find_front = study_results.trials, partial(analysis.front, objectives=objectives)
    front = timed("the front", lambda: find_front(trials))
    timed("its knee", lambda: analysis.knee(front, objectives))
    timed("conditions: macs<100k", lambda: find_front(analysis.where(trials, ["macs<100k", "method=force,snip"])))
    timed("the front of each method", lambda: analysis.ask_by_value(trials, "method", find_front))
    timed("effect of method, 21 pairs of values", lambda: analysis.effects(trials, "method", fields))
    timed("effect of iterations", lambda: analysis.effects(trials, "iterations", fields))
    timed("importance of all fields", lambda: importance(study_results))
    for name, code in (
        ("a process: MLflow's client", CLIENT_CODE.format(name=MADE_UP_STUDY)),
        ("a process: forcetune best", BEST_CODE),
    ):
        timed(name, partial(subprocess.run, [sys.executable, "-c", code], check=True, capture_output=True))


def query_runs() -> None:
    """Query all runs by MLflow's client, page by page."""
    client = MlflowClient(mlflow_uri())
    experiment = client.get_experiment_by_name(MADE_UP_STUDY)
    assert experiment
    token = None
    while token != "":
        page = client.search_runs([experiment.experiment_id], max_results=1000, page_token=token)
        token = page.token or ""


def print_table(seconds: dict[str, list[float]]) -> None:
    """Print the medians as a Markdown table."""
    query_s = median(next(iter(seconds.values())))
    print("| question | seconds | over MLflow's query |\n|---|---:|---:|")
    for name, times_s in seconds.items():
        print(f"| {name} | {median(times_s):.2f} | {median(times_s) / query_s:.2f} |")


if __name__ == "__main__":
    main()
