"""A worker of optuna_workers.py: it optimizes the shared study until the trials or the time are used up."""

import fcntl
from importlib.util import find_spec
from typing import Any

import mlflow
import optuna
import recipe
from optuna.samplers import GPSampler, TPESampler
from optuna.storages import RDBStorage, RetryFailedTrialCallback
from optuna.study import MaxTrialsCallback
from optuna.trial import FrozenTrial, TrialState

OPTUNA_STUDY = "race"  # the name under which the kill test looks for it: RACE_STUDY in racing/arms.py
MLFLOW_URI = "sqlite:///mlflow.db"
HEARTBEAT_S = 2
HEARTBEAT_GRACE_S = 6
METRICS = "val_accuracy", "log_density"
OPTUNA_SAMPLERS = {"tpe": TPESampler, "gp": GPSampler}


def main() -> None:
    """Optimize the shared study and record each complete trial."""
    arguments = recipe.parse_arguments(
        __doc__,
        parts={"choices": recipe.IMPLEMENTATIONS, "default": "published"},
        sampler={"choices": OPTUNA_SAMPLERS, "default": "tpe"},
        worker={"type": int, "required": True, "help": "the number of this worker"},
    )
    with open("stores.lock", "w") as lock:  # creating a store fails where both workers do it at once
        fcntl.flock(lock, fcntl.LOCK_EX)
        study = open_study()
        mlflow.set_tracking_uri(MLFLOW_URI)
        mlflow.set_experiment(OPTUNA_STUDY)
    # the same seed in both workers, or after a crash, would propose the first points again
    seed = 100_000 * arguments.seed + 2 * len(study.trials) + arguments.worker
    study.sampler = OPTUNA_SAMPLERS[arguments.sampler](seed=seed)

    def objective(trial: optuna.Trial) -> tuple[float, float]:
        config = recipe.suggest(trial)
        *_, metrics = recipe.run_trial(arguments.parts, arguments.task, config, arguments.seed)
        trial.set_user_attr("metrics", metrics)
        return metrics["val_accuracy"], metrics["log_density"]

    def keep_record(study: optuna.Study, trial: FrozenTrial) -> None:
        if trial.state == TrialState.COMPLETE:
            recipe.record(arguments.records, trial.params, trial.user_attrs["metrics"])

    stop_at_trials = MaxTrialsCallback(arguments.trials, states=(TrialState.COMPLETE,))
    study.optimize(objective, callbacks=[mlflow_callback(), keep_record, stop_at_trials])


def open_study() -> optuna.Study:
    """Create the study in its storage, or load it from there."""
    storage = RDBStorage(
        "sqlite:///optuna.db",
        heartbeat_interval=HEARTBEAT_S,
        grace_period=HEARTBEAT_GRACE_S,
        failed_trial_callback=RetryFailedTrialCallback(max_retry=3),
    )
    return optuna.create_study(
        storage=storage, study_name=OPTUNA_STUDY, directions=["maximize", "minimize"], load_if_exists=True
    )


def mlflow_callback() -> Any:
    """Return MLflow's callback of optuna-integration or, where that is not installed, one that logs the same."""
    if find_spec("optuna_integration"):
        from optuna_integration.mlflow import MLflowCallback

        return MLflowCallback(tracking_uri=MLFLOW_URI, metric_name=METRICS)

    def log(study: optuna.Study, trial: FrozenTrial) -> None:
        with mlflow.start_run(run_name=str(trial.number)):
            mlflow.log_params(trial.params)
            mlflow.log_metrics(dict(zip(METRICS, trial.values or [], strict=False)))
            mlflow.set_tags({"number": trial.number, "state": trial.state.name})

    return log


if __name__ == "__main__":
    main()
