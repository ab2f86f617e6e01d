"""Evidence that grows night by night: the verdicts that stand in their two parts, since when, and their flips."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np

from forcetune.analysis.collapse_nights import CollapseNights
from forcetune.analysis.collapses import DEFAULT_COLLAPSE_MARGIN
from forcetune.analysis.live_nights import LiveNights
from forcetune.analysis.pairs import Pairs, combine_parts

ALPHA = 0.05  # of all verdicts of a family, false on any night
LIVE_LEVEL, COLLAPSE_LEVEL = 0.045, 0.005  # the parts of it for the differences and for the collapses
MAX_NEEDED_PAIRS = 1000  # a projection beyond it says that no verdict is near
CONTESTED = 0.25  # the part of the way to another verdict from which a verdict that stands counts as contested


@dataclass(frozen=True)
class Standing:
    """The standing of a comparison after a night that brought it pairs.

    Attributes:
        night: The night.
        pairs: The number of pairs so far, with those in which a run collapsed.
        live_pairs: The number of those in which both runs live.
        live: The verdict on the differences where both runs live, under symmetric differences: `beats`, `ties`,
            `loses` or `undecided`.
        collapses: The verdict on the collapses: `beats` where the champion collapses less often, `loses` where it
            collapses more often, `ties` where the rates differ by less than their margin, or `undecided`.
        holds: The verdict that stands; `undecided` until one is reached.
        since: The night since which it stands; None where none does.
        flipped: Whether another verdict stood until this night.
        p_difference: The p of no difference that could change the verdict, corrected for all comparisons.
        p_equivalence: The p of no tie, corrected for all comparisons.
        p_collapses: The p of equal rates of collapses, corrected for all comparisons.
        champion_collapses: The number of pairs in which the champion's run collapsed or diverged.
        twin_collapses: The number of pairs in which the twin's run collapsed or diverged.
        bound: The upper bound of the probability that one arm alone collapses, the larger of both arms; it holds for
            all comparisons and on all nights together.
        nearest: The verdict on the differences that is nearest to standing in place of the present one.
        progress: The part of the way to it, from 0 to 1.
        needed: The number of live pairs after which it would stand if the evidence went on growing as it has grown;
            None where it does not grow.
    """

    night: str
    pairs: int
    live_pairs: int
    live: str
    collapses: str
    holds: str
    since: str | None
    flipped: bool
    p_difference: float
    p_equivalence: float
    p_collapses: float
    champion_collapses: int
    twin_collapses: int
    bound: float
    nearest: str
    progress: float
    needed: int | None

    @property
    def is_contested(self) -> bool:
        """Whether a verdict stands, and a quarter of the evidence for another one is complete."""
        return self.holds != "undecided" and self.progress >= CONTESTED


def follow(
    evidence: Mapping[str, Mapping[str, Pairs]],
    margin: float,
    collapse_margin: float = DEFAULT_COLLAPSE_MARGIN,
    alpha: float = ALPHA,
) -> dict[str, list[Standing]]:
    """Judge comparisons after every night that brought pairs.

    All pairs count, from the first on, and every night is a look that costs nothing: the p are those of wealth that was
    bet on the pairs one after the other. Bonferroni's method corrects them over all comparisons that have pairs.
    `undecided` replaces a verdict only where the two parts come to contradict each other.

    Args:
        evidence: For each comparison its pairs of each night, within a night in the order of their seeds; nights sort
            as strings.
        margin: The difference below which a difference does not matter, in the unit of the differences.
        collapse_margin: The difference of two rates of collapses, from 0 to 1, below which it does not matter.
        alpha: The probability that any verdict is false on any night; nine tenths of it are for the differences. The
            bounds of collapses, by which rates are alike, fail with this probability beside it.

    Returns:
        The standings of each comparison, one for each night that brought it pairs.
    """
    shape, share = (len(evidence),), alpha / ALPHA
    live = LiveNights(shape, margin, LIVE_LEVEL * share)
    collapses = CollapseNights(shape, collapse_margin, COLLAPSE_LEVEL * share, alpha)
    standings: dict[str, list[Standing]] = {name: [] for name in evidence}
    live_pairs = np.zeros(shape, int)
    for night in sorted({night for nights in evidence.values() for night in nights}):
        tonight = {name: nights[night] for name, nights in evidence.items() if night in nights}
        for differences in _align(evidence, {name: pairs.differences for name, pairs in tonight.items()}):
            live.add(differences)
            live_pairs += ~np.isnan(differences)
        champions = _align(evidence, {name: pairs.champion_collapses for name, pairs in tonight.items()})
        twins = _align(evidence, {name: pairs.twin_collapses for name, pairs in tonight.items()})
        for champion, twin in zip(champions, twins, strict=True):
            collapses.add(champion, twin)
        live.judge()
        collapses.judge()
        for index, name in enumerate(evidence):
            if name in tonight:
                before = standings[name][-1] if standings[name] else None
                standings[name].append(_make_standing(night, index, live, collapses, int(live_pairs[index]), before))
    return standings


def describe_standing(standing: Standing) -> str:
    """Return in plain words what a verdict assumes, what is open, and how far the next verdict is."""
    words = []
    if standing.holds != "undecided":
        if standing.live == standing.holds:
            words.append("under symmetric differences")
        if standing.holds == "ties" and standing.collapses == "undecided":
            words.append(f"where both live; collapses: at most {100 * standing.bound:.0f} %")
    is_open_part = standing.live not in ("undecided", standing.holds)
    if is_open_part:
        words.append(f"{standing.live} where both live")
        if standing.collapses in ("undecided", "ties"):
            words.append(f"collapses {standing.champion_collapses} : {standing.twin_collapses} of {standing.pairs}")
    if standing.holds in ("beats", "loses") and standing.holds not in (standing.live, standing.collapses):
        words.append("no part says so any more")
    if standing.collapses in ("beats", "loses"):
        rarely = "less" if standing.collapses == "beats" else "more"
        words.append(
            f"the champion collapses {rarely} often: {standing.champion_collapses} against "
            f"{standing.twin_collapses} of {standing.pairs} runs"
        )
    if standing.is_contested or (standing.holds == "undecided" and not is_open_part):
        words.append(_describe_progress(standing))
    return "; ".join(words)


def _describe_progress(standing: Standing) -> str:
    more = MAX_NEEDED_PAIRS + 1 if standing.needed is None else max(1, standing.needed - standing.live_pairs)
    if more > MAX_NEEDED_PAIRS or standing.progress <= 0:
        return "no verdict is near"
    pairs = "pair" if more == 1 else "pairs"
    return f"{standing.progress:.0%} of the way to {standing.nearest}, about {more} more {pairs}"


def _make_standing(
    night: str, index: int, live: LiveNights, collapses: CollapseNights, live_pairs: int, before: Standing | None
) -> Standing:
    """Return the standing of the comparison with this index, given the standing of the night before."""
    live_verdict, collapse_verdict = str(live.verdicts[index]), str(collapses.verdicts[index])
    leanings = str(live.leanings[index]), str(collapses.leanings[index])
    combined = combine_parts(live_verdict, collapse_verdict, *leanings)
    held, since = (before.holds, before.since) if before else ("undecided", None)
    is_contradiction = {live_verdict, collapse_verdict} == {"beats", "loses"}
    holds = held if combined == "undecided" and not is_contradiction else combined
    if holds != held:
        since = None if holds == "undecided" else night
    pairs, needed = int(collapses.pairs[index]), live.needed[index]
    return Standing(
        night=night,
        pairs=pairs,
        live_pairs=live_pairs,
        live=live_verdict,
        collapses=collapse_verdict,
        holds=holds,
        since=since,
        flipped=held not in ("undecided", holds),
        p_difference=float(live.p_difference[index]),
        p_equivalence=float(live.p_equivalence[index]),
        p_collapses=float(collapses.p[index]),
        champion_collapses=int(collapses.champion[index]),
        twin_collapses=int(collapses.twin[index]),
        bound=float(collapses.bounds[index]),
        nearest=str(live.nearest[index]),
        progress=float(live.progress[index]),
        needed=int(needed) if np.isfinite(needed) else None,
    )


def _align(names: Iterable[str], samples: Mapping[str, np.ndarray]) -> np.ndarray:
    """Return samples as a table with a column for each name; NaN where a sample is missing or has no more values."""
    columns = [np.asarray(samples.get(name, ()), float) for name in names]
    table = np.full((max(map(len, columns), default=0), len(columns)), np.nan)
    for index, column in enumerate(columns):
        table[: len(column), index] = column
    return table
