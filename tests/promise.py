"""What a search promises whatever is killed, counted in its stores."""

from collections import Counter
from pathlib import Path

import optuna
import pandas as pd
from optuna.trial import FrozenTrial

from forcetune.stores import mlflow_uri, optuna_uri
from forcetune.tracking import load_table

EPOCH_METRICS = ("train_loss", "val_loss", "val_accuracy")
STATUS = {"COMPLETE": "FINISHED", "FAIL": "FAILED"}  # of a trial in Optuna, of its run in MLflow


def check_promise(
    study: str, trials: int, ledger: str | None = None, mlflow: str | None = None, saved: Path | None = None
) -> pd.DataFrame:
    """Assert that each of so many trials was run exactly once and stands in both stores; the study's table.

    ledger, mlflow: addresses of the stores, those of the environment where they are not given; saved: the file in
    which the workers noted their checkpoints, a line of key, attempt and epoch each.
    """
    mlflow = mlflow or mlflow_uri()
    told = _trials(study, ledger or optuna_uri())
    rows = load_table(study, mlflow)
    assert (len(told), len(rows)) == (trials, trials), "one trial and one run each"
    assert {trial.state.name for trial in told.values()} <= STATUS.keys(), "nothing is left RUNNING in Optuna"
    statuses = {key: STATUS[trial.state.name] for key, trial in told.items()}
    assert statuses == dict(zip(rows["trial"], rows["status"], strict=True))
    for row in rows[rows["status"] == "FINISHED"].to_dict("records"):
        assert told[row["trial"]].values == [row[name] for name in rows.attrs["objectives"]]
    _check_runs(study, mlflow, rows)
    if saved:
        _check_saved(saved)
    return rows


def _trials(study: str, uri: str) -> dict[str, FrozenTrial]:
    """Optuna's trials by their keys, repeated proposals and superseded trials left out."""
    found = optuna.load_study(study_name=study, storage=uri).get_trials(deepcopy=False)
    kept = [trial for trial in found if trial.state.name != "PRUNED"]
    superseded = {trial.user_attrs["supersedes"] for trial in kept if "supersedes" in trial.user_attrs}
    assert {trial.state.name for trial in kept if trial.number in superseded} <= {"FAIL"}
    kept = [trial for trial in kept if trial.number not in superseded]
    keys = Counter(trial.user_attrs["key"] for trial in kept)
    assert not [key for key, count in keys.items() if count > 1], "no configuration is a trial twice"
    return {trial.user_attrs["key"]: trial for trial in kept}


def _check_runs(study: str, uri: str, rows: pd.DataFrame) -> None:
    """One parent, FINISHED; every other run a child of it; no metric twice at a step, no epoch left out."""
    from mlflow import MlflowClient

    client = MlflowClient(uri)
    experiment = client.get_experiment_by_name(study)
    parents = client.search_runs([experiment.experiment_id], "tags.`forcetune.kind` = 'search'")
    assert [run.info.status for run in parents] == ["FINISHED"], "one parent run"
    children = client.search_runs(
        [experiment.experiment_id], f"tags.`mlflow.parentRunId` = '{parents[0].info.run_id}'", max_results=50_000
    )
    everything = client.search_runs([experiment.experiment_id], max_results=50_000)
    assert len(children) == len(rows) == len(everything) - 1, "no run that is no trial's"
    outcomes = dict(zip(rows["run_id"], rows["outcome"], strict=True))
    for run in children:
        steps = {m: [e.step for e in client.get_metric_history(run.info.run_id, m)] for m in run.data.metrics}
        twice = {metric: s for metric, s in steps.items() if len(set(s)) < len(s)}
        assert not twice, f"{run.info.run_name} has a metric twice at a step: {twice}"
        if outcomes[run.info.run_id] == "trained":
            epochs = list(range(1, int(run.data.params["epochs"]) + 1))
            assert all(sorted(steps[metric]) == epochs for metric in EPOCH_METRICS), f"{run.info.run_name}: {steps}"


def _check_saved(path: Path) -> None:
    """Each trial's checkpoints, over all its attempts, have later and later epochs: none was trained anew."""
    last: dict[str, int] = {}
    for line in path.read_text().splitlines():
        key, attempt, step = line.split()
        assert int(step) > last.get(key, 0), f"attempt {attempt} at {key} trained epoch {step} after {last[key]}"
        last[key] = int(step)
