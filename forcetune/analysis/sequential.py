"""Evidence that grows night by night: what stands, when it flips, and whether the runs themselves drift."""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from forcetune.analysis.paired import Verdict, judge

DUST = 1e-9  # what floating point may change in a run that is the same


@dataclass(frozen=True)
class Standing:
    """Where a comparison stands after a night at which it was looked at.

    verdict: on the evidence since the last decision up to this night. holds: the verdict that stands, `undecided` until
    one is reached; since: the night since which it does. flipped: whether another one stood until this night.
    """

    night: str
    verdict: Verdict
    holds: str
    since: str | None
    flipped: bool


@dataclass(frozen=True)
class Drift:
    """Whether tonight's sentinels are what they were.

    nights: of history. runs: sentinels with a history and a value tonight; changed: those that differ from their own
    last value. shift: the mean of tonight's values minus the means of their histories, in their unit; NaN without runs.
    p: that this is noise, at what the look costs; NaN where it cannot be told.
    """

    nights: int
    runs: int
    changed: int
    shift: float
    p: float
    alarm: bool


def look_cost(look: int) -> float:
    """The factor by which the k-th look, from 1, multiplies p: pi**2 k**2 / 6.

    The levels alpha / cost of all looks sum to alpha, so by Bonferroni's inequality looking every night for ever errs
    with a probability of at most alpha, however the looks depend on each other.
    """
    if look < 1:
        raise ValueError(f"looks are counted from 1, not {look}")
    return np.pi**2 * look**2 / 6


def follow(
    evidence: Mapping[str, Sequence[tuple[str, float]]], margin: float, alpha: float = 0.05
) -> dict[str, list[Standing]]:
    """Judge comparisons after every night that brought them new pairs.

    evidence: comparison -> (night, difference) in any order; nights sort as strings. Those with new pairs are judged
    together, each on its window: all pairs since its last decision. A decision, also one that confirms what stands,
    ends the window, so what stands is only ever held against evidence that came after it, and a change is not drowned
    by months of history; one that falls into a long window is seen later. Each window errs with at most alpha over all
    its looks, and comparisons judged on the same nights err with that together. `undecided` replaces nothing. A mean
    between 0 and the margin both differs and is too small to matter: there, either verdict is right, and one may follow
    the other. On a night whose pairs are too few for any difference to be shown nothing is decided, and that is no
    look: it cannot err, and costs nothing.
    """
    windows: dict[str, list[np.ndarray]] = {name: [] for name in evidence}
    looks = dict.fromkeys(evidence, 0)  # within the window
    standings: dict[str, list[Standing]] = {name: [] for name in evidence}
    for night, found in sorted(_by_night(evidence).items()):
        for name, values in found.items():
            windows[name].append(np.array(values, float))
        samples = [np.concatenate(windows[name]) for name in found]
        costs = [look_cost(looks[name] + 1) for name in found]
        judged = judge(samples, margin, costs, alpha)
        for name, cost, verdict in zip(found, costs, judged, strict=True):
            if verdict.least_p * cost * len(found) > alpha:
                verdict = replace(verdict, verdict="undecided")
            else:
                looks[name] += 1
            standings[name].append(_after(night, verdict, standings[name]))
            if verdict.verdict != "undecided":
                windows[name].clear()
                looks[name] = 0
    return standings


def _by_night(evidence: Mapping[str, Sequence[tuple[str, float]]]) -> dict[str, dict[str, list[float]]]:
    nights: dict[str, dict[str, list[float]]] = defaultdict(lambda: defaultdict(list))
    for name, pairs in evidence.items():
        for night, difference in pairs:
            nights[night][name].append(difference)
    return nights


def _after(night: str, verdict: Verdict, before: Sequence[Standing]) -> Standing:
    holds, since = (before[-1].holds, before[-1].since) if before else ("undecided", None)
    if verdict.verdict in ("undecided", holds):
        return Standing(night, verdict, holds, since, flipped=False)
    return Standing(night, verdict, verdict.verdict, night, flipped=since is not None)


def drift(history: np.ndarray, tonight: np.ndarray, look: int, alpha: float = 0.05) -> Drift:
    """Compare sentinels, the same configuration and seed every night, with what they gave before.

    history (nights, runs), tonight (runs,): NaN where a run is missing; look: the how many-th comparison this is, from
    1. Where nothing ever varied, any change is drift: of code, driver, library or data. So values should be fine: an
    accuracy of few samples stays the same by chance, a loss does not. Else the mean shift and each run's own are held
    against the noise from night to night by t tests, Bonferroni over these: one broken run is seen among many.
    Nothing is told before two nights gave the same run.
    """
    history, tonight = np.asarray(history, float), np.asarray(tonight, float)
    known = ~np.isnan(history)
    nights, runs = int(known.any(1).sum()), known.any(0) & ~np.isnan(tonight)
    history, known, tonight = history[:, runs], known[:, runs], tonight[runs]
    if not len(tonight):
        return Drift(nights, 0, 0, np.nan, np.nan, alarm=False)
    counts = known.sum(0)
    means = np.where(known, history, 0).sum(0) / counts
    squares = (np.where(known, history - means, 0) ** 2).sum(0)
    last = np.array([run[~np.isnan(run)][-1] for run in history.T])
    changed = int((np.abs(tonight - last) > DUST).sum())
    p = min(1.0, look_cost(look) * _noise(tonight - means, squares, counts)) if (counts > 1).any() else np.nan
    return Drift(nights, len(tonight), changed, float((tonight - means).mean()), p, alarm=p <= alpha)


def _noise(shifts: np.ndarray, squares: np.ndarray, counts: np.ndarray) -> float:
    """The p that shifts (runs,) are noise; squares: of a run's values about their mean, counts: how many those are.

    Noise is pooled over runs, but sparse networks vary more than dense ones. So a single run is never held against less
    than its own noise, and has only its own degrees of freedom; those of the pooled noise are Satterthwaite's.
    """
    from scipy import stats

    if squares.max() <= DUST**2:
        return 0.0 if (np.abs(shifts) > DUST).any() else 1.0
    again = counts > 1
    freedom, scales = counts - 1, 1 + 1 / counts
    pooled = squares.sum() / freedom.sum()
    own = np.maximum(pooled, squares[again] / freedom[again]) * scales[again]
    p = 2 * stats.t.sf(np.abs(shifts[again]) / np.sqrt(own), freedom[again])
    if len(shifts) > 1:
        effective = squares.sum() ** 2 / (squares[again] ** 2 / freedom[again]).sum()
        mean = 2 * stats.t.sf(np.abs(shifts.sum()) / np.sqrt(pooled * scales.sum()), effective)
        p = np.append(p, mean)
    return float(p.min() * len(p))
