"""What questions to a study of 5000 trials cost beyond MLflow's own query for its runs.

    python benchmarks/questions.py --trials 5000 --repeats 3

A made-up study is written into an MLflow store (SQLite) in a temporary folder. In turn, each time: MLflow's client asks
for all runs of the experiment; forcetune reads them as a table; each question is asked of that table. Medians of the
repetitions, and the ratio to MLflow's query. At last the whole command `best`, a process of its own, beside a process
that asks MLflow's client for the runs.
"""

import argparse
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

from mlflow import MlflowClient
from stored import NAME, make_store

from forcetune import analysis, results, search
from forcetune.stores import mlflow_uri

CLIENT = """
from mlflow import MlflowClient
client = MlflowClient()
experiment, token = client.get_experiment_by_name({name!r}).experiment_id, None
while token != "":
    page = client.search_runs([experiment], max_results=1000, page_token=token)
    token = page.token or ""
"""
BEST = f"from forcetune.cli import main; main(['best', {NAME!r}])"


def main() -> None:
    """Ask everything in turn, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trials", type=int, default=5000)
    parser.add_argument("--repeats", type=int, default=3)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        make_store(Path(folder), arguments.trials)
        seconds: dict[str, list[float]] = defaultdict(list)
        for _ in range(arguments.repeats):
            once(seconds)
        show(seconds)


def once(seconds: dict[str, list[float]]) -> None:
    """Each part once, MLflow's query first."""

    def timed(name: str, ask: Callable[[], Any]) -> Any:
        began = time.perf_counter()
        found = ask()
        seconds[name].append(time.perf_counter() - began)
        return found

    timed("MLflow's client: all runs", query)
    table = timed("the table, instead of that query", lambda: results.load(NAME))
    front = timed("the front", lambda: analysis.best(table))
    timed("its knee", lambda: analysis.knee(front))
    timed("conditions: macs<100k", lambda: analysis.best(analysis.where(table, ["macs<100k", "method=force,snip"])))
    timed("the front of each method", lambda: analysis.each(table, "method"))
    timed("effect of method, 21 pairs of values", lambda: analysis.effects(table, "method"))
    timed("effect of iterations", lambda: analysis.effects(table, "iterations"))
    timed("importance of all fields", lambda: search.importance(table))
    for name, code in (("a process: MLflow's client", CLIENT.format(name=NAME)), ("a process: forcetune best", BEST)):
        timed(name, lambda code=code: subprocess.run([sys.executable, "-c", code], check=True, capture_output=True))


def query() -> None:
    client = MlflowClient(mlflow_uri())
    experiment = client.get_experiment_by_name(NAME)
    token = None
    while token != "":
        page = client.search_runs([experiment.experiment_id], max_results=1000, page_token=token)
        token = page.token or ""


def show(seconds: dict[str, list[float]]) -> None:
    """A Markdown table of medians."""
    first = median(next(iter(seconds.values())))
    print("| question | seconds | over MLflow's query |\n|---|---:|---:|")
    for name, took in seconds.items():
        print(f"| {name} | {median(took):.2f} | {median(took) / first:.2f} |")


if __name__ == "__main__":
    main()
