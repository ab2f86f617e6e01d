"""One worker of optuna_workers.py: optimizes the study that both share until the trials or the time are used up."""

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

STUDY = "race"
MLFLOW_URI = "sqlite:///mlflow.db"
HEARTBEAT_S = 2
GRACE_S = 6
METRICS = "val_accuracy", "log_density"
SAMPLERS = {"tpe": TPESampler, "gp": GPSampler}


def main() -> None:
    """Optimize."""
    arguments = recipe.parse_arguments(
        __doc__,
        parts={"choices": recipe.PARTS, "default": "published"},
        sampler={"choices": SAMPLERS, "default": "tpe"},
        worker={"type": int, "required": True, "help": "the number of this worker"},
    )
    with open("stores.lock", "w") as lock:  # two workers that create a store at once fail
        fcntl.flock(lock, fcntl.LOCK_EX)
        study = open_study()
        mlflow.set_tracking_uri(MLFLOW_URI)
        mlflow.set_experiment(STUDY)
    # the same seed in both workers, or after a crash, would propose the first points again
    seed = 100_000 * arguments.seed + 2 * len(study.trials) + arguments.worker
    study.sampler = SAMPLERS[arguments.sampler](seed=seed)

    def objective(trial: optuna.Trial) -> tuple[float, float]:
        config = recipe.suggest(trial)
        *_, metrics = recipe.run_trial(arguments.parts, arguments.task, config, arguments.seed)
        trial.set_user_attr("metrics", metrics)
        return metrics["val_accuracy"], metrics["log_density"]

    def keep_record(study: optuna.Study, trial: FrozenTrial) -> None:
        if trial.state == TrialState.COMPLETE:
            recipe.record(arguments.records, trial.params, trial.user_attrs["metrics"])

    enough = MaxTrialsCallback(arguments.trials, states=(TrialState.COMPLETE,))
    study.optimize(objective, callbacks=[mlflow_callback(), keep_record, enough])


def open_study() -> optuna.Study:
    """Create the study in its storage, or load it."""
    storage = RDBStorage(
        "sqlite:///optuna.db",
        heartbeat_interval=HEARTBEAT_S,
        grace_period=GRACE_S,
        failed_trial_callback=RetryFailedTrialCallback(max_retry=3),
    )
    return optuna.create_study(
        storage=storage, study_name=STUDY, directions=["maximize", "minimize"], load_if_exists=True
    )


def mlflow_callback() -> Any:
    """Return MLflow's callback of optuna-integration, or one that logs the same."""
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
