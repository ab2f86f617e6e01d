"""A rival: a Ray Tune script as in Ray's documentation, with OptunaSearch and MLflow's callback.

    PYTHONPATH=.:benchmarks python benchmarks/rivals/tune_script.py --task digits --stopping asha

The same command after a crash restores the experiment, as the documentation says.
"""

from pathlib import Path
from typing import Any

import ray
import recipe
from ray import tune
from ray.air.integrations.mlflow import MLflowLoggerCallback
from ray.tune.schedulers import ASHAScheduler
from ray.tune.search.optuna import OptunaSearch

TUNE_STORAGE = Path("tune").absolute()
EXPERIMENT = "race"


class RecordingCallback(tune.Callback):
    """A callback that writes each trial that ends, stopped by the scheduler or not, to the file of records."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def on_trial_complete(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        recipe.record(self._path, trial.config, trial.last_result)


def main() -> None:
    """Search until the trials or the time are used up."""
    arguments = recipe.parse_arguments(
        __doc__,
        parts={"choices": recipe.IMPLEMENTATIONS, "default": "published"},
        stopping={"choices": ["none", "asha"], "default": "none"},
    )

    def train(config: dict[str, Any]) -> None:
        for metrics in recipe.run_trial(arguments.parts, arguments.task, config, arguments.seed):
            tune.report(metrics)

    trainable = tune.with_resources(train, {"cpu": 1})
    ray.init(num_cpus=recipe.SLOTS, include_dashboard=False, log_to_driver=False)
    experiment = TUNE_STORAGE / EXPERIMENT
    if tune.Tuner.can_restore(str(experiment)):
        tuner = tune.Tuner.restore(str(experiment), trainable)
    else:
        search_algorithm = OptunaSearch(
            recipe.suggest, metric=["val_accuracy", "log_density"], mode=["max", "min"], seed=arguments.seed
        )
        epochs = recipe.TASKS[arguments.task]["epochs"]
        asha = ASHAScheduler(
            "epoch", metric="val_accuracy", mode="max", max_t=epochs, grace_period=1, reduction_factor=2
        )
        mlflow_callback = MLflowLoggerCallback(
            tracking_uri=f"sqlite:///{Path('mlflow.db').absolute()}", experiment_name="race"
        )
        tuner = tune.Tuner(
            trainable,
            tune_config=tune.TuneConfig(
                search_alg=search_algorithm,
                scheduler=asha if arguments.stopping == "asha" else None,
                num_samples=arguments.trials,
                reuse_actors=True,
            ),
            run_config=tune.RunConfig(
                name=EXPERIMENT,
                storage_path=str(TUNE_STORAGE),
                verbose=0,
                callbacks=[mlflow_callback, RecordingCallback(Path(arguments.records).absolute())],
            ),
        )
    tuner.fit()


if __name__ == "__main__":
    main()
