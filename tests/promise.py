"""The promise that a search keeps whatever is killed, checked in its stores."""

from collections import Counter
from pathlib import Path

import optuna
import pandas as pd
from optuna.trial import FrozenTrial

from forcetune import analysis
from forcetune.names import NETWORK_FILE
from forcetune.stores import mlflow_uri, optuna_uri
from forcetune.tracking import WEIGHTS_DROPPED, TrialTable, load_reruns, load_table, read_file

EPOCH_METRICS = ("train_loss", "val_loss", "val_accuracy")
RUN_STATUS_BY_TRIAL_STATE = {"COMPLETE": "FINISHED", "FAIL": "FAILED"}  # Optuna: MLflow


def check_promise(
    study: str, trials: int, ledger: str | None = None, mlflow: str | None = None, saved: Path | None = None
) -> pd.DataFrame:
    """Assert that each trial was run exactly once and is in both stores, and return the study's table.

    Args:
        study: The name of the study.
        trials: The number of trials.
        ledger: The address of the Optuna storage; by default that of the environment.
        mlflow: The address of the MLflow store; by default that of the environment.
        saved: The file in which the workers noted their checkpoints, with a key, an attempt and an epoch in each line.
    """
    mlflow = mlflow or mlflow_uri()
    trials_by_key = _load_trials(study, ledger or optuna_uri())
    table = load_table(study, mlflow)
    rows = table.trials
    assert (len(trials_by_key), len(rows)) == (trials, trials), "each configuration has one trial and one run"
    assert {trial.state.name for trial in trials_by_key.values()} <= RUN_STATUS_BY_TRIAL_STATE.keys(), (
        "nothing is left RUNNING in Optuna"
    )
    statuses = {key: RUN_STATUS_BY_TRIAL_STATE[trial.state.name] for key, trial in trials_by_key.items()}
    assert statuses == dict(zip(rows["trial"], rows["status"], strict=True))
    for row in rows[rows["status"] == "FINISHED"].to_dict("records"):
        assert trials_by_key[row["trial"]].values == [row[name] for name in table.objectives]
    _check_runs(study, mlflow, rows)
    _check_weights(table, mlflow)
    if saved:
        _check_saved(saved)
    return rows


def _load_trials(study: str, uri: str) -> dict[str, FrozenTrial]:
    """Return Optuna's trials by their keys, without repeated proposals and superseded trials."""
    trials = optuna.load_study(study_name=study, storage=uri).get_trials(deepcopy=False)
    counted_trials = [trial for trial in trials if trial.state.name != "PRUNED"]
    superseded = {trial.user_attrs["supersedes"] for trial in counted_trials if "supersedes" in trial.user_attrs}
    assert {trial.state.name for trial in counted_trials if trial.number in superseded} <= {"FAIL"}
    counted_trials = [trial for trial in counted_trials if trial.number not in superseded]
    keys = Counter(trial.user_attrs["key"] for trial in counted_trials)
    assert not [key for key, count in keys.items() if count > 1], "no configuration is a trial twice"
    return {trial.user_attrs["key"]: trial for trial in counted_trials}


def _check_weights(table: TrialTable, uri: str) -> None:
    """Assert that exactly the runs whose weights the study keeps have them, and that their tags say so."""
    reruns = load_reruns(table.studies[0], uri)
    trials = analysis.add_seed_estimates(table.trials, reruns, table.objectives, table.references)
    kept = analysis.select_kept(trials, table.objectives, **table.keep_rule) if table.keep_rule else trials.iloc[:0]
    tagged = {run for run, keeper in table.weights.items() if keeper != WEIGHTS_DROPPED}
    assert tagged <= set(kept["run_id"]), "weights that are no longer kept are deleted"
    for run in table.trials["run_id"]:
        assert (read_file(run, NETWORK_FILE, uri) is not None) == (run in tagged), f"{run}: weights have their tag"


def _check_runs(study: str, uri: str, rows: pd.DataFrame) -> None:
    """Assert that one FINISHED run is the parent of all others, and that each epoch has its metrics once."""
    from mlflow import MlflowClient

    client = MlflowClient(uri)
    experiment = client.get_experiment_by_name(study)
    parents = client.search_runs([experiment.experiment_id], "tags.`forcetune.kind` = 'search'")
    assert [run.info.status for run in parents] == ["FINISHED"], "one parent run"
    children = client.search_runs(
        [experiment.experiment_id], f"tags.`mlflow.parentRunId` = '{parents[0].info.run_id}'", max_results=50_000
    )
    all_runs = client.search_runs([experiment.experiment_id], max_results=50_000)
    assert len(children) == len(rows) == len(all_runs) - 1, "every run but the parent belongs to a trial"
    outcomes = dict(zip(rows["run_id"], rows["outcome"], strict=True))
    for run in children:
        steps = {m: [e.step for e in client.get_metric_history(run.info.run_id, m)] for m in run.data.metrics}
        repeated_steps = {metric: s for metric, s in steps.items() if len(set(s)) < len(s)}
        assert not repeated_steps, f"{run.info.run_name} has a metric twice at a step: {repeated_steps}"
        if outcomes[run.info.run_id] == "trained":
            epochs = list(range(1, int(run.data.params["epochs"]) + 1))
            assert all(sorted(steps[metric]) == epochs for metric in EPOCH_METRICS), f"{run.info.run_name}: {steps}"


def _check_saved(path: Path) -> None:
    """Assert that the epochs of each trial's checkpoints grow over all its attempts, so that none was trained twice."""
    last: dict[str, int] = {}
    for line in path.read_text().splitlines():
        key, attempt, step = line.split()
        assert int(step) > last.get(key, 0), f"attempt {attempt} at {key} trained epoch {step} after {last[key]}"
        last[key] = int(step)
