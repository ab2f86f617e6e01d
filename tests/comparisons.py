"""A comparison of methods for tests: its file, its study, and tables of invented results."""

import pandas as pd

from forcetune import analysis
from forcetune.study import Study
from forcetune.study.comparison import list_configurations, make_grid

COMPARED_FILE = {
    "study": "x",
    "trial": {
        "model": "mlp",
        "dataset": "digits",
        "epochs": 3,
        "method": ["snip", "random"],
        "density": [0.1, 0.001],
        "seed": [0, 1],
    },
    "resources": {"cpus": 1},
}


def make_study(**fields):
    """Make the study of a comparison, from COMPARED_FILE with these fields of a trial."""
    return Study.from_dict(make_grid({**COMPARED_FILE, "trial": {**COMPARED_FILE["trial"], **fields}}))


def make_table(study, results):
    """Make the table of a study from the results by method and density: for each seed an accuracy or an outcome."""
    rows = []
    for trial in study.grid():
        trial_result = results[trial.method, trial.density][trial.seed]
        trained = not isinstance(trial_result, str)
        # A failed trial may have logged an accuracy before, and a collapsed one logs chance. Neither may count.
        rows.append(
            {
                "trial": trial.key,
                "outcome": "trained" if trained else trial_result,
                "val_accuracy": trial_result if trained else 0.77,
                "method": trial.method,
                "density": trial.density * 0.999,  # as measured: int(N * density) / N
            }
        )
    return pd.DataFrame(rows)


TRIAL_RESULTS = {
    ("snip", 0.1): [0.8, 0.9],
    ("snip", 0.001): ["collapsed", 0.3],
    ("random", 0.1): [0.5, 0.5],
    ("random", 0.001): ["failed", "collapsed"],
    ("random_uniform", 0.1): [0.5, 0.6],
    ("random_uniform", 0.001): ["failed", "failed"],
    ("random_erk", 0.1): [0.7, 0.7],
    ("random_erk", 0.001): [0.2, 0.2],
}


def compare(study, table):
    """Return the comparison of a study from the table of its trials."""
    return analysis.compare(table, list_configurations(study), chance=0.1)
