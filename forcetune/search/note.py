"""What MLflow's UI says of a study."""

from forcetune.names import COMPANION
from forcetune.spec import METRICS, Study


def note(study: Study) -> str:
    """In Markdown: what the experiment is, what its objectives are and in which unit, where to look."""
    objectives = "\n".join(
        f"- `{name}` ({way}): {METRICS.get(name, 'measured by the study’s own code')}"
        for name, way in study.directions.items()
    )
    return f"{_what(study.study)}\n\nObjectives:\n\n{objectives}\n\n{_WHERE}"


_WHERE = (
    "Runs named `trial-NNNN` are trials. Their metrics `val_accuracy`, `val_loss` and `train_loss` have a value an "
    "epoch, `density` is the fraction of prunable weights kept, `sparsity` is 1 - `density`; times are in seconds. "
    "The tag `forcetune.outcome` says what became of a trial. The run named like the study has the study file."
)


def _what(name: str) -> str:
    if name.endswith(COMPANION):
        of = name.removesuffix(COMPANION)
        return (
            f"Companions of the study **{of}**: re-runs with other seeds, twins and dense runs. None is on its front."
        )
    return (
        f"The study **{name}** of forcetune: networks pruned before they are trained. `forcetune best {name}` prints "
        f"its front, `forcetune report {name}` writes it as a page into the run named {name}."
    )
