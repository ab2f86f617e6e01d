"""Evidence that grows night by night: the verdicts that stand, their flips, and the drift of repeated runs."""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from forcetune.analysis.paired import Verdict, judge

SAME_VALUE_TOLERANCE = 1e-9  # floating point may change the values of a run that is the same


@dataclass(frozen=True)
class Standing:
    """The standing of a comparison after a night at which it was judged.

    Attributes:
        night: The night.
        verdict: The verdict on the evidence since the last decision, up to this night.
        holds: The verdict that stands; `undecided` until one is reached.
        since: The night since which it stands; None where none does.
        flipped: Whether another verdict stood until this night.
    """

    night: str
    verdict: Verdict
    holds: str
    since: str | None
    flipped: bool


@dataclass(frozen=True)
class Drift:
    """A comparison of tonight's sentinels with their values of earlier nights.

    Attributes:
        nights: The number of nights before.
        runs: The number of sentinels that have a history and a value tonight.
        changed: The number of those that differ from their own last value.
        shift: The mean of tonight's values minus the means of their histories, in their unit; NaN without runs.
        p: The p of the hypothesis that the change is noise, multiplied by the cost of the look; NaN where it cannot be
            computed.
        alarm: Whether p is at most the level of the test.
    """

    nights: int
    runs: int
    changed: int
    shift: float
    p: float
    alarm: bool


def look_cost(look: int) -> float:
    """Return the factor by which a look multiplies p: pi**2 k**2 / 6 for the k-th one.

    The levels alpha / cost of all looks sum to alpha. So by Bonferroni's inequality, looking every night for ever errs
    with a probability of at most alpha, however the looks depend on each other.

    Args:
        look: The number of the look, from 1.

    Raises:
        ValueError: The number is less than 1.
    """
    if look < 1:
        raise ValueError(f"the number of a look must be at least 1, not {look}")
    return np.pi**2 * look**2 / 6


def follow(
    evidence: Mapping[str, Sequence[tuple[str, float]]], margin: float, alpha: float = 0.05
) -> dict[str, list[Standing]]:
    """Judge comparisons after every night that brought them new pairs.

    The comparisons that have new pairs are judged together, each on its window: all pairs since its last decision. A
    decision, also one that confirms the standing verdict, ends the window. So the standing verdict is tested only
    against evidence that came after it, and months of history do not hide a change; a change that falls into a long
    window is detected later. Each window errs with a probability of at most alpha over all its looks, and comparisons
    that are judged on the same nights err with that probability together. `undecided` replaces no verdict.

    A mean between 0 and the margin both differs from 0 and is too small to matter: there, either verdict is right, and
    one may follow the other. On a night whose pairs are too few to show any difference, nothing is decided. Such a
    night is no look: it cannot err, and it costs nothing.

    Args:
        evidence: For each comparison its pairs of night and difference, in any order; nights sort as strings.
        margin: The difference below which a difference does not matter, in the unit of the differences.
        alpha: The level of the tests.

    Returns:
        The standings of each comparison, one for each night that brought it pairs.
    """
    windows: dict[str, list[np.ndarray]] = {name: [] for name in evidence}
    looks = dict.fromkeys(evidence, 0)  # within the window
    standings: dict[str, list[Standing]] = {name: [] for name in evidence}
    for night, differences in sorted(_group_by_night(evidence).items()):
        for name, values in differences.items():
            windows[name].append(np.array(values, float))
        samples = [np.concatenate(windows[name]) for name in differences]
        costs = [look_cost(looks[name] + 1) for name in differences]
        verdicts = judge(samples, margin, costs, alpha)
        for name, cost, verdict in zip(differences, costs, verdicts, strict=True):
            if verdict.least_p * cost * len(differences) > alpha:
                verdict = replace(verdict, verdict="undecided")
            else:
                looks[name] += 1
            standings[name].append(_make_standing(night, verdict, standings[name]))
            if verdict.verdict != "undecided":
                windows[name].clear()
                looks[name] = 0
    return standings


def _group_by_night(evidence: Mapping[str, Sequence[tuple[str, float]]]) -> dict[str, dict[str, list[float]]]:
    """Return the differences of each night, by the name of the comparison."""
    nights: dict[str, dict[str, list[float]]] = defaultdict(lambda: defaultdict(list))
    for name, pairs in evidence.items():
        for night, difference in pairs:
            nights[night][name].append(difference)
    return nights


def _make_standing(night: str, verdict: Verdict, before: Sequence[Standing]) -> Standing:
    """Return the standing after a verdict of this night, given the standings before."""
    holds, since = (before[-1].holds, before[-1].since) if before else ("undecided", None)
    if verdict.verdict in ("undecided", holds):
        return Standing(night, verdict, holds, since, flipped=False)
    return Standing(night, verdict, verdict.verdict, night, flipped=since is not None)


def detect_drift(history: np.ndarray, tonight: np.ndarray, look: int, alpha: float = 0.05) -> Drift:
    """Compare sentinels, which run the same configuration and seed every night, with their values of earlier nights.

    Where no value ever varied, any change is drift: of code, driver, library or data. So values should be fine-grained:
    an accuracy on few samples stays the same by chance, a loss does not. Where values vary, the mean shift and each
    run's own shift are tested against the noise from night to night by t tests, with Bonferroni's correction over these
    tests, so that one broken run is detected among many. p is NaN until two nights have given the same run.

    Args:
        history: The values of earlier nights, of shape (nights, runs); NaN where a run is missing.
        tonight: The values of tonight, of shape (runs,); NaN where a run is missing.
        look: The number of this comparison, from 1.
        alpha: The level of the test.
    """
    history, tonight = np.asarray(history, float), np.asarray(tonight, float)
    is_measured = ~np.isnan(history)
    nights, runs = int(is_measured.any(1).sum()), is_measured.any(0) & ~np.isnan(tonight)
    history, is_measured, tonight = history[:, runs], is_measured[:, runs], tonight[runs]
    if not len(tonight):
        return Drift(nights, 0, 0, np.nan, np.nan, alarm=False)
    counts = is_measured.sum(0)
    means = np.where(is_measured, history, 0).sum(0) / counts
    squares = (np.where(is_measured, history - means, 0) ** 2).sum(0)
    last = np.array([run[~np.isnan(run)][-1] for run in history.T])
    changed = int((np.abs(tonight - last) > SAME_VALUE_TOLERANCE).sum())
    p = min(1.0, look_cost(look) * _noise_p(tonight - means, squares, counts)) if (counts > 1).any() else np.nan
    return Drift(nights, len(tonight), changed, float((tonight - means).mean()), p, alarm=p <= alpha)


def _noise_p(shifts: np.ndarray, squares: np.ndarray, counts: np.ndarray) -> float:
    """Return the p of the hypothesis that shifts are noise.

    Noise is pooled over runs, but sparse networks vary more than dense ones. So the noise of a single run is never
    taken as less than its own, and it has only its own degrees of freedom. Those of the pooled noise are
    Satterthwaite's.

    Args:
        shifts: Of shape (runs,).
        squares: For each run the sum of the squares of its values about their mean, of shape (runs,).
        counts: The number of those values, of shape (runs,).
    """
    from scipy import stats

    if squares.max() <= SAME_VALUE_TOLERANCE**2:
        return 0.0 if (np.abs(shifts) > SAME_VALUE_TOLERANCE).any() else 1.0
    repeated = counts > 1
    freedom, scales = counts - 1, 1 + 1 / counts
    pooled = squares.sum() / freedom.sum()
    variances = np.maximum(pooled, squares[repeated] / freedom[repeated]) * scales[repeated]
    p = 2 * stats.t.sf(np.abs(shifts[repeated]) / np.sqrt(variances), freedom[repeated])
    if len(shifts) > 1:
        effective = squares.sum() ** 2 / (squares[repeated] ** 2 / freedom[repeated]).sum()
        mean = 2 * stats.t.sf(np.abs(shifts.sum()) / np.sqrt(pooled * scales.sum()), effective)
        p = np.append(p, mean)
    return float(p.min() * len(p))
