"""What the two UIs say of a study."""

from forcetune.names import COMPANION
from forcetune.spec import METRICS, Study

OWN = "measured by code of the study's own"


def note(study: Study) -> str:
    """In Markdown, its first paragraph plain: what the study is, its objectives and their units, where to look."""
    objectives = "; ".join(f"{name}, {way}: {METRICS.get(name, OWN)}" for name, way in study.directions.items())
    return f"{_what(study.study)} Objectives: {objectives.replace('`', '')}.\n\n{WHERE}\n\n{_how(study.study)}"


WHERE = (
    "Runs named trial-NNNN are trials; the run named like the study has the study file. Metrics of a trial: "
    "`val_accuracy`, `val_loss` and `train_loss` have a value an epoch; `density` is the fraction of prunable weights "
    "kept, `sparsity` is 1 - `density`, `macs` are multiply-adds of one sample, times are in seconds. The tag "
    "`forcetune.outcome` says what became of a trial."
)


def _what(name: str) -> str:
    if name.endswith(COMPANION):
        of = name.removesuffix(COMPANION)
        return f"Companions of the study {of}: re-runs with other seeds, twins and dense runs, none on its front."
    return f"The study {name}: networks pruned before they are trained."


def _how(name: str) -> str:
    of = name.removesuffix(COMPANION)
    return f"`forcetune best {of}` prints the front; `forcetune report {of}` writes a page into the run named {of}."
