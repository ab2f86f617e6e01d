"""When a trial is stopped early: rules that compare it with the trials that passed the same rung.

Neither Ray Tune nor Optuna stops trials that have several objectives. A rung is a part of a trial's epochs
(`training.rungs`); there each is judged by what is known of it before training and by its averaged weights.
"""

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence

import numpy as np

from forcetune.analysis import dominates, pareto_ranks
from forcetune.spec import Trial
from forcetune.training import rungs

GRACE = 20  # trials that have passed a rung before it stops one
SEVERAL = 3  # that dominate a trial which `safe` stops
# of the epochs of the trials after the first GRACE, from the compute in the tables of benchmarks/stopping.py
SHARES = {"pareto": 0.39, "safe": 0.42}

Rule = Callable[[np.ndarray], str | None]


def pareto(losses: np.ndarray) -> str | None:
    """Guarded multi-objective successive halving: the better half by non-dominated rank goes on.

    losses: (trials at the rung, objectives), all minimised, the one that is judged last. Returns why it is stopped.
    Asynchronous, after ASHA [1810.05934] and its form for several objectives [2106.12639]. Of those of the same rank
    half count as ahead; what nothing dominates goes on in any case.
    """
    ranks = pareto_ranks(losses)
    own = ranks[-1]
    ahead = int((ranks < own).sum())
    level = int((ranks == own).sum()) - 1
    if len(losses) <= GRACE or own == 0 or ahead + level / 2 < len(losses) / 2:
        return None
    return f"rank {own + 1}, behind {ahead} and level with {level} of {len(losses)} trials"


def safe(losses: np.ndarray) -> str | None:
    """Stops only what several trials dominate; arguments and result as of `pareto`."""
    ahead = int(dominates(losses[:-1], losses[-1]).sum())
    if len(losses) <= GRACE or ahead < SEVERAL:
        return None
    return f"dominated by {ahead} of {len(losses)} trials"


RULES: dict[str, Rule] = {"pareto": pareto, "safe": safe}


def share_trained(rule: str, trials: int) -> float:
    """The share of all epochs that a search with a rule trains, as benchmarks/stopping.py found it."""
    share = SHARES.get(rule, 1.0)
    beginning = min(GRACE, trials)
    return (beginning + share * (trials - beginning)) / trials


class EarlyStopping:
    """Judges each trial of a study once at each of its rungs, in the order in which they get there."""

    def __init__(self, rule: Rule | None, directions: Mapping[str, str]) -> None:
        self._rule = rule
        self._objectives = list(directions)
        self._signs = np.where(np.array(list(directions.values())) == "max", -1.0, 1.0)
        self._at: dict[str, dict[int, np.ndarray]] = defaultdict(dict)

    def judge(self, number: int, trial: Trial, epoch: int, metrics: Mapping[str, float]) -> str | None:
        """Why the trial is to be stopped after this epoch, with the rung's name; None where it goes on."""
        rung = self.see(number, trial, epoch, metrics)
        if rung is None or self._rule is None:
            return None
        reason = self._rule(np.array(list(self._at[rung].values())))
        return f"at rung {rung}, after epoch {epoch}: {reason}" if reason else None

    def see(self, number: int, trial: Trial, epoch: int, metrics: Mapping[str, float]) -> str | None:
        """Keep what a trial reached at a rung for others to be compared with; the rung, None where this is none.

        metrics: those known before training and those of the epoch. A trial whose objectives are not known at the
        rung, or whose density has not `settled` yet (0), is not judged, and nothing is compared with it.
        """
        rung = rungs(trial.epochs, trial.lr_schedule).get(epoch)
        if rung is None or not metrics.get("settled", 1):
            return None
        values = [metrics.get(f"ema_{name}", metrics.get(name)) for name in self._objectives]
        if any(value is None for value in values):
            return None
        self._at[rung].pop(number, None)  # seen before an interruption: the one that is judged stands last
        self._at[rung][number] = _losses(values, self._signs)  # type: ignore[arg-type]
        return rung


def _losses(values: Sequence[float], signs: np.ndarray) -> np.ndarray:
    """What is no number is worse than any."""
    losses = np.asarray(values, float) * signs
    return np.where(np.isnan(losses), np.inf, losses)
