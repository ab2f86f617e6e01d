"""Evidence that grows night by night: what stands, when it flips, and whether the runs themselves drift."""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

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
    by months of history. Each window errs with at most alpha over all its looks, and comparisons judged on the same
    nights err with that together. `undecided` replaces nothing. A mean between 0 and the margin both differs and is too
    small to matter: there, either verdict is right, and one may follow the other.
    """
    windows: dict[str, list[np.ndarray]] = {name: [] for name in evidence}
    standings: dict[str, list[Standing]] = {name: [] for name in evidence}
    for night, found in sorted(_by_night(evidence).items()):
        for name, values in found.items():
            windows[name].append(np.array(values, float))
        samples = [np.concatenate(windows[name]) for name in found]
        costs = [look_cost(len(windows[name])) for name in found]
        for name, verdict in zip(found, judge(samples, margin, costs, alpha), strict=True):
            standings[name].append(_after(night, verdict, standings[name]))
            if verdict.verdict != "undecided":
                windows[name].clear()
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

    history (nights, runs), tonight (runs,): NaN where a run is missing; look: the how many-th comparison this is.
    Where nothing in the history ever varied, any change is drift: of code, driver, library or data. Else the mean shift
    and each run's own shift are held against the noise from night to night, pooled over runs, by t tests (Bonferroni
    over these): one broken run is seen among many. Nothing is told before two nights in which a run came again.
    """
    history, tonight = np.asarray(history, float), np.asarray(tonight, float)
    known = ~np.isnan(history)
    counts = known.sum(0)
    both = (counts > 0) & ~np.isnan(tonight)
    means = np.where(known, history, 0).sum(0) / np.maximum(counts, 1)
    residuals = np.where(known, history - means, 0)
    shifts = (tonight - means)[both]
    last = np.array([column[~np.isnan(column)][-1] for column in history.T[both]])
    changed = int((np.abs(tonight[both] - last) > DUST).sum())
    p = np.nan
    if len(shifts) and (freedom := int((counts - 1)[counts > 0].sum())):
        deviation = np.sqrt((residuals**2).sum() / freedom) if np.abs(residuals).max() > DUST else 0.0
        p = _noise(shifts, 1 + 1 / counts[both], deviation, freedom, look_cost(look))
    shift = float(shifts.mean()) if len(shifts) else np.nan
    return Drift(int(known.any(1).sum()), len(shifts), changed, shift, p, p <= alpha)


def _noise(shifts: np.ndarray, variances: np.ndarray, deviation: float, freedom: int, cost: float) -> float:
    """The p of shifts (runs,) whose variances are these in units of the noise; 0 for any change where there is none."""
    from scipy import stats

    if not deviation:
        return 0.0 if (np.abs(shifts) > DUST).any() else 1.0
    signals = shifts / np.sqrt(variances)
    if len(shifts) > 1:
        signals = np.append(signals, shifts.sum() / np.sqrt(variances.sum()))
    least = 2 * stats.t.sf(np.abs(signals).max() / deviation, freedom)
    return float(min(1, least * len(signals) * cost))
