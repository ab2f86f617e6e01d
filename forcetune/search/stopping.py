"""Early stopping of trials: rules that compare a trial with the trials that passed the same rung.

Neither Ray Tune nor Optuna stops trials that have several objectives. A rung is a part of a trial's epochs
(`training.find_rungs`). At a rung each trial is judged by its static metrics and by its averaged weights.
"""

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence

import numpy as np

from forcetune.analysis import dominates, pareto_ranks
from forcetune.study import Trial
from forcetune.training import find_rungs

GRACE_TRIALS = 20  # that must have passed a rung before a rule stops a trial there
MIN_DOMINATING_TRIALS = 3  # that dominate a trial which `safe` stops
# The shares count the epochs of the trials after the first GRACE_TRIALS, in the tables of benchmarks/stopping.py.
TRAINED_EPOCH_SHARES = {"pareto": 0.39, "safe": 0.42}

Rule = Callable[[np.ndarray], str | None]


def pareto(losses: np.ndarray) -> str | None:
    """Judge the last trial of a rung by guarded multi-objective successive halving.

    The better half by non-dominated rank goes on. Of the trials with the same rank half count as ahead. A trial that
    no trial dominates goes on in any case. The rule is asynchronous, after ASHA [1810.05934] and its form for several
    objectives [2106.12639].

    Args:
        losses: The losses at the rung, of shape (trials, objectives), all minimised. The last row is the trial that is
            judged.

    Returns:
        Why the trial is stopped, None where it goes on.
    """
    ranks = pareto_ranks(losses)
    rank = ranks[-1]
    ahead = int((ranks < rank).sum())
    level = int((ranks == rank).sum()) - 1
    if len(losses) <= GRACE_TRIALS or rank == 0 or ahead + level / 2 < len(losses) / 2:
        return None
    return f"rank {rank + 1}, behind {ahead} and level with {level} of {len(losses)} trials"


def safe(losses: np.ndarray) -> str | None:
    """Judge the last trial of a rung: stop it only where several trials dominate it.

    Args:
        losses: The losses at the rung, as in `pareto`.

    Returns:
        Why the trial is stopped, None where it goes on.
    """
    ahead = int(dominates(losses[:-1], losses[-1]).sum())
    if len(losses) <= GRACE_TRIALS or ahead < MIN_DOMINATING_TRIALS:
        return None
    return f"dominated by {ahead} of {len(losses)} trials"


RULES: dict[str, Rule] = {"pareto": pareto, "safe": safe}


def estimate_trained_share(rule: str, trials: int) -> float:
    """Return the share of all epochs that a search with a rule trains, as benchmarks/stopping.py measured it.

    Args:
        rule: A row of RULES, or another word where no trial is stopped.
        trials: The number of trials of the search.
    """
    share = TRAINED_EPOCH_SHARES.get(rule, 1.0)
    beginning = min(GRACE_TRIALS, trials)
    return (beginning + share * (trials - beginning)) / trials


class EarlyStopping:
    """The judge of a study's trials: each trial is judged once at each of its rungs, in the order of arrival.

    Args:
        rule: The rule that judges, None where no trial is stopped.
        directions: The direction of each objective, `min` or `max`, by its name.
    """

    def __init__(self, rule: Rule | None, directions: Mapping[str, str]) -> None:
        self._rule = rule
        self._objectives = list(directions)
        self._signs = np.where(np.array(list(directions.values())) == "max", -1.0, 1.0)
        self._losses: dict[str, dict[int, np.ndarray]] = defaultdict(dict)  # by rung and by number of the trial

    def judge(self, number: int, trial: Trial, epoch: int, metrics: Mapping[str, float]) -> str | None:
        """Return why a trial is to be stopped after this epoch, with the rung's name; None where it goes on.

        Args:
            number: The trial's number in the ledger.
            trial: Its fields.
            epoch: The epoch that has ended, counted from 1.
            metrics: The metrics, as in `record`.
        """
        rung = self.record(number, trial, epoch, metrics)
        if rung is None or self._rule is None:
            return None
        reason = self._rule(np.array(list(self._losses[rung].values())))
        return f"at rung {rung}, after epoch {epoch}: {reason}" if reason else None

    def record(self, number: int, trial: Trial, epoch: int, metrics: Mapping[str, float]) -> str | None:
        """Record the losses of a trial at a rung, so that other trials are compared with them.

        A trial is not recorded where an objective is unknown at the rung, or where its density has not `settled` yet
        (0): it is not judged, and no trial is compared with it.

        Args:
            number: The trial's number in the ledger.
            trial: Its fields.
            epoch: The epoch that has ended, counted from 1.
            metrics: The static metrics and those of the epoch, by name.

        Returns:
            The rung's name; None where the epoch is no rung or the trial is not recorded.
        """
        rung = find_rungs(trial.epochs, trial.lr_schedule).get(epoch)
        if rung is None or not metrics.get("settled", 1):
            return None
        values = [metrics.get(f"ema_{name}", metrics.get(name)) for name in self._objectives]
        if any(value is None for value in values):
            return None
        self._losses[rung].pop(number, None)  # an entry from before an interruption: the judged trial must stand last
        self._losses[rung][number] = _to_losses(values, self._signs)  # type: ignore[arg-type]
        return rung


def _to_losses(values: Sequence[float], signs: np.ndarray) -> np.ndarray:
    """Return the values as losses; NaN becomes infinity, which is worse than any number."""
    losses = np.asarray(values, float) * signs
    return np.where(np.isnan(losses), np.inf, losses)
