"""A rival: Syne Tune's multi-objective ASHA on its local backend, where it is installed. It writes no MLflow runs.

    PYTHONPATH=.:benchmarks python benchmarks/rivals/syne_tune_script.py --task digits

The backend starts syne_tune_trial.py for each trial. The same command after a crash loads the saved tuner. Every
configuration has iterations, because its search space has no conditions.
"""

import os
from pathlib import Path
from typing import Any

os.environ["SYNETUNE_FOLDER"] = str(Path("syne-tune").absolute())  # Syne Tune reads it while it is imported

import recipe
from syne_tune import Tuner
from syne_tune.backend import LocalBackend
from syne_tune.config_space import choice, lograndint, loguniform
from syne_tune.constants import ST_TUNER_DILL_FILENAME
from syne_tune.optimizer.schedulers.multiobjective.moasha import MOASHA
from syne_tune.stopping_criterion import StoppingCriterion
from syne_tune.tuner_callback import TunerCallback
from syne_tune.util import experiment_path

SLEEP_S = 0.1  # between two polls of the trials; Syne Tune's default of 5 s is longer than a trial
TRIAL_SCRIPT = Path(__file__).with_name("syne_tune_trial.py")
TUNER_NAME = "race"
FIXED_OPTIONS = "task", "seed", "parts"


class RecordingCallback(TunerCallback):
    """A callback that writes each trial that ends, stopped by the scheduler or not, to the file of records."""

    def __init__(self, path: str) -> None:
        self._path = path

    def on_trial_result(self, trial: Any, status: str, result: dict[str, Any], decision: str) -> None:
        if decision == "STOP":
            self.on_trial_complete(trial, result)

    def on_trial_complete(self, trial: Any, result: dict[str, Any]) -> None:
        config = {name: value for name, value in trial.config.items() if name not in FIXED_OPTIONS}
        if config["method"] not in recipe.ITERATIVE_METHODS:
            del config["iterations"]
        recipe.record(self._path, config, result)


def main() -> None:
    """Search until the trials or the time are used up."""
    arguments = recipe.parse_arguments(__doc__, parts={"choices": recipe.IMPLEMENTATIONS, "default": "published"})
    space = {
        "method": choice(recipe.RACE_METHODS),
        "density": loguniform(*recipe.DENSITY_RANGE),
        "lr": loguniform(*recipe.LR_RANGE),
        "iterations": lograndint(*recipe.ITERATIONS_RANGE),
        **{name: getattr(arguments, name) for name in FIXED_OPTIONS},
    }
    scheduler = MOASHA(
        space,
        metrics=["error", "log_density"],
        time_attr="epoch",
        max_t=recipe.TASKS[arguments.task]["epochs"],
        grace_period=1,
        reduction_factor=2,
        random_seed=arguments.seed,
    )
    experiment = experiment_path(tuner_name=TUNER_NAME)
    if (experiment / ST_TUNER_DILL_FILENAME).exists():
        Tuner.load(str(experiment)).run()
        return
    Tuner(
        trial_backend=LocalBackend(entry_point=str(TRIAL_SCRIPT), num_gpus_per_trial=0),
        scheduler=scheduler,
        stop_criterion=StoppingCriterion(max_num_trials_finished=arguments.trials - 1),
        n_workers=recipe.SLOTS,
        sleep_time=SLEEP_S,
        callbacks=[RecordingCallback(arguments.records)],
        tuner_name=TUNER_NAME,
        suffix_tuner_name=False,
    ).run()


if __name__ == "__main__":
    main()
