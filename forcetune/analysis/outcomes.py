"""The runs that count as collapsed: those that were not trained, that diverged, or that guess after training."""

from collections.abc import Mapping

import numpy as np

# A network has to learn this share of the way from the worst accuracy that counts, by default that of guessing, to 1.
# A network that always names the most frequent class is a little better than guessing, and has learned nothing.
MIN_LEARNED_SHARE = 0.02
DIVERGED_REASONS = ("Diverged: ", "the objective ")  # how the reason of a run begins whose numbers are not finite


def has_diverged(outcome: str | None, reason: object) -> bool:
    """Return whether a training ended with numbers that are not finite, which is an effect of the mask.

    Args:
        outcome: The outcome of the run; None where it has not ended.
        reason: The reason of the outcome; not a text where there is none.
    """
    return outcome == "failed" and isinstance(reason, str) and reason.startswith(DIVERGED_REASONS)


def has_collapsed(outcome: str | None, reason: object) -> bool:
    """Return whether a run collapsed, so that nothing was trained, or diverged.

    Args:
        outcome: The outcome of the run; None where it has not ended.
        reason: The reason of the outcome; not a text where there is none.
    """
    return outcome == "collapsed" or has_diverged(outcome, reason)


def find_least_accuracy(references: Mapping[str, float]) -> float:
    """Return the accuracy below which a trained network counts as collapsed: it guesses.

    Args:
        references: The worst value of each objective that counts; for the accuracy it is by default that of guessing.

    Returns:
        The accuracy; minus infinity where the references have none for the accuracy.
    """
    worst = references.get("val_accuracy", -np.inf)
    return worst + MIN_LEARNED_SHARE * (1 - worst) if np.isfinite(worst) else -np.inf
