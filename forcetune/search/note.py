"""The note on a study that MLflow and Optuna Dashboard show."""

from forcetune.names import COMPANION
from forcetune.study import METRICS, Study

USER_METRIC = "measured by the study's own code"


def render_note(study: Study) -> str:
    """Return the note on a study: what the study is, its objectives with their units, and where to look.

    Args:
        study: The study, or a companion.

    Returns:
        Markdown, whose first paragraph is plain text.
    """
    objectives = "; ".join(
        f"{name}, {direction}: {METRICS.get(name, USER_METRIC)}" for name, direction in study.directions.items()
    )
    return (
        f"{_describe_study(study.study)} Objectives: {objectives.replace('`', '')}.\n\n{RUNS_GUIDE}\n\n"
        f"{_describe_commands(study.study)}"
    )


RUNS_GUIDE = (
    "Runs named trial-NNNN are trials; the run with the name of the study has the study file. Metrics of a trial: "
    "`val_accuracy`, `val_loss` and `train_loss` have one value per epoch; `density` is the fraction of prunable "
    "weights kept, `sparsity` is 1 - `density`, `macs` are multiply-adds of one sample, times are in seconds. The tag "
    "`forcetune.outcome` is the outcome of a trial."
)


def _describe_study(name: str) -> str:
    if name.endswith(COMPANION):
        study = name.removesuffix(COMPANION)
        return f"Companions of the study {study}: re-runs with other seeds, twins and dense runs; none is on its front."
    return f"The study {name}: networks pruned before they are trained."


def _describe_commands(name: str) -> str:
    study = name.removesuffix(COMPANION)
    return (
        f"`forcetune best {study}` prints the front; "
        f"`forcetune report {study}` writes a page into the run named {study}."
    )
