"""Verdicts of nights and alarms of sentinels: how often the earlier rules, other candidates and today's rules err.

Differences have a standard deviation of one point, the margin is half a point, and a night has two pairs, where a case
says nothing else. A year has 365 nights.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

import numpy as np
import pandas as pd
from scipy import stats

from forcetune.analysis import combine_parts, detect_drift
from forcetune.analysis.collapse_nights import CollapseNights
from forcetune.analysis.holm import adjust_by_holm
from forcetune.analysis.live_nights import LiveNights
from forcetune.analysis.sequential import COLLAPSE_LEVEL, CONTESTED, LIVE_LEVEL
from forcetune.analysis.wealth import Wealth

MARGIN_POINTS, ALPHA, COLLAPSE_MARGIN, COLLAPSE_LOSS_POINTS = 0.5, 0.05, 0.1, 20.0
PAIRS_PER_NIGHT, YEAR_NIGHTS = 2, 365
FALL_NIGHT = 30  # the last night of a champion that is better
SHIFT_NIGHT = 60  # the last night of a sentinel that is as it was
FAMILY = 15
FAMILY_SHARE = 15  # a family counts as so many simulations
YEAR_SHARE = 4  # a simulated year as so many
BOUND_POINTS = 20.0  # within which betting on bounded means takes the differences for granted


class EarlierNights:
    """The rule until 0.1: sign-flip tests on a window of all pairs since the last decision, with alpha spending.

    The k-th look of a window multiplies p by pi**2 k**2 / 6. The p of the flips are those of a saddlepoint [Lugannani
    and Rice 1980] in place of the count of all flips.
    """

    def __init__(self, shape: tuple[int, ...]) -> None:
        self._differences = np.zeros((0, *shape))
        self._is_counted = np.zeros((0, *shape), bool)
        self._looks = np.zeros(shape)
        self.verdicts = np.full(shape, "undecided")

    def add(self, differences: np.ndarray) -> None:
        """Add one pair of each comparison; NaN where a comparison has no pair."""
        self._differences = np.concatenate([self._differences, np.nan_to_num(differences)[None]])
        self._is_counted = np.concatenate([self._is_counted, ~np.isnan(differences)[None]])

    def judge(self) -> None:
        """Judge the comparisons at the end of a night."""
        cost = np.pi**2 * (self._looks + 1) ** 2 / 6
        up, down = (self._sign_flip_p(sign * self._differences) for sign in (1, -1))
        alike = np.maximum(*(self._sign_flip_p(sign * self._differences + MARGIN_POINTS) for sign in (1, -1)))
        differ = adjust_by_holm(np.minimum(2 * np.minimum(up, down) * cost, 1)) <= ALPHA
        alike = adjust_by_holm(np.minimum(alike * cost, 1)) <= ALPHA
        least = 2.0 ** (1 - self._is_counted.sum(0)) * cost * differ.shape[-1]
        is_look = least <= ALPHA
        verdicts = np.where(alike, "ties", np.where(differ, np.where(up < down, "beats", "loses"), "undecided"))
        is_decided = is_look & (verdicts != "undecided")
        self.verdicts = np.where(is_decided, verdicts, self.verdicts)
        self._looks = np.where(is_decided, 0, self._looks + is_look)
        self._is_counted &= ~is_decided
        in_use = self._is_counted.reshape(len(self._is_counted), -1).any(1)
        self._differences, self._is_counted = self._differences[in_use], self._is_counted[in_use]

    def _sign_flip_p(self, differences: np.ndarray) -> np.ndarray:
        values = np.where(self._is_counted, differences, 0.0)
        if not len(values):
            return np.ones(values.shape[1:])
        total, largest = values.sum(0), np.abs(values).sum(0)
        scale = np.sqrt((values**2).sum(0)) + 1e-300
        values, target = values / scale, np.clip(total, -(1 - 1e-6) * largest, (1 - 1e-6) * largest) / scale
        tilt = np.zeros_like(target)
        for _ in range(12):
            slope = np.tanh(tilt * values)
            curvature = (values**2 * (1 - slope**2)).sum(0)
            tilt = np.clip(tilt + ((target - (values * slope).sum(0)) / (curvature + 1e-12)), -60, 60)
        exponent = tilt * target - np.logaddexp(tilt * values, -tilt * values).sum(0) + len(values) * np.log(2)
        curvature = (values**2 * (1 - np.tanh(tilt * values) ** 2)).sum(0)
        w, u = np.sign(tilt) * np.sqrt(2 * np.maximum(exponent, 0)), tilt * np.sqrt(curvature)
        with np.errstate(divide="ignore", invalid="ignore"):
            p = stats.norm.sf(w) + stats.norm.pdf(w) * (1 / u - 1 / w)
        p = np.where(np.abs(w) < 1e-3, stats.norm.sf(target), np.clip(p, 0, 1))
        least = 0.5 ** self._is_counted.sum(0)  # of the flip that makes all differences positive
        return np.asarray(np.where(total >= (1 - 1e-9) * largest, least, np.maximum(p, 2 * least)))


class TanhWealth(Wealth):
    """Bets of the product of 2 / (1 + exp(-2 lambda d)), the test martingale for symmetric differences."""

    def compute_gains(self, outcomes: np.ndarray, caution: np.ndarray | float) -> np.ndarray:
        """Return the gains; the bets know no caution."""
        return np.asarray(np.tanh(self._stakes * outcomes))


class TanhNights(LiveNights):
    """Today's rule with the bets of de la Peña (1999), averaged over a grid of lambda."""

    def __init__(self, shape: tuple[int, ...], margin: float, level: float) -> None:
        super().__init__(shape, margin, level)
        self._wealth = TanhWealth(6, shape, (0.125, 0.25, 0.5, 1.0, 2.0))


class BoundedNights(LiveNights):
    """Today's rule with bets on means of differences within 20 points [Waudby-Smith and Ramdas 2024]."""

    def __init__(self, shape: tuple[int, ...], margin: float, level: float) -> None:
        super().__init__(shape, margin, level)
        self._wealth = Wealth(6, shape, (0.25, 0.5, 0.95))

    def _standardize(self, differences: np.ndarray) -> np.ndarray:
        return self._directions * (differences - self._centres) / (BOUND_POINTS + MARGIN_POINTS)


class SignNights(LiveNights):
    """Today's rule with bets on the signs of the differences."""

    def _standardize(self, differences: np.ndarray) -> np.ndarray:
        return np.sign(self._directions * (differences - self._centres))


NIGHTLY_RULES: Mapping[str, Callable[[tuple[int, ...]], EarlierNights | LiveNights]] = {
    "alpha spending": EarlierNights,
    "tanh": lambda shape: TanhNights(shape, MARGIN_POINTS, LIVE_LEVEL),
    "bounded means": lambda shape: BoundedNights(shape, MARGIN_POINTS, LIVE_LEVEL),
    "signs": lambda shape: SignNights(shape, MARGIN_POINTS, LIVE_LEVEL),
    "now": lambda shape: LiveNights(shape, MARGIN_POINTS, LIVE_LEVEL),
}
Noise = Callable[[np.random.Generator, tuple[int, ...]], np.ndarray]
NOISES: Mapping[str, Noise] = {  # with a mean of 0 and a deviation of 1
    "normal": lambda generator, shape: generator.standard_normal(shape),
    "t3": lambda generator, shape: generator.standard_t(3, shape) / np.sqrt(3),
    "exponential": lambda generator, shape: generator.standard_exponential(shape) - 1,
    "lognormal": lambda generator, shape: (generator.lognormal(0, 1, shape) - np.exp(0.5)) / np.sqrt((np.e - 1) * np.e),
}


@dataclass(frozen=True)
class Course:
    """The verdicts of simulated comparisons.

    Attributes:
        verdicts: The verdict that stands after each night, of shape (nights, *shape).
    """

    verdicts: np.ndarray

    def share(self, *names: str, by: int | None = None) -> float:
        """Return the share of comparisons that had one of these verdicts on any night, up to a night."""
        return float(np.isin(self.verdicts[:by], names).any(0).mean())

    def nights_until(self, name: str, after: int) -> np.ndarray:
        """Return how many nights after a night the verdict stands; infinite where it never does."""
        is_seen = self.verdicts[after:] == name
        return np.where(is_seen.any(0), is_seen.argmax(0) + 1.0, np.inf)


def simulate(
    rule: Callable[[tuple[int, ...]], EarlierNights | LiveNights], differences: np.ndarray, is_sparing: bool = False
) -> Course:
    """Judge simulated comparisons night by night.

    Args:
        rule: Makes the verdicts of a batch of this shape.
        differences: The differences, of shape (nights, pairs a night, *shape).
        is_sparing: Whether a comparison with a verdict has one pair a night until the verdict is contested.
    """
    nights = rule(differences.shape[2:])
    history = []
    for tonight in differences:
        is_open = nights.verdicts == "undecided"
        if isinstance(nights, LiveNights):
            is_open = is_open | (nights.progress >= CONTESTED)
        for index, pair in enumerate(tonight):
            nights.add(pair if index == 0 or not is_sparing else np.where(is_open, pair, np.nan))
        nights.judge()
        history.append(nights.verdicts)
    return Course(np.array(history))


def rows(repetitions: int, seed: int) -> pd.DataFrame:
    """Return the measured shares of each case, a column a rule.

    Args:
        repetitions: The number of simulated comparisons; families and years take fewer.
        seed: The seed of all simulations.
    """
    tables = [list_deciding_rows, list_falling_rows, list_year_rows, list_collapse_rows, list_sentinel_rows]
    return pd.DataFrame([row for list_rows in tables for row in list_rows(repetitions, np.random.default_rng(seed))])


def list_deciding_rows(repetitions: int, generator: np.random.Generator) -> Iterator[dict[str, object]]:
    """Yield how often verdicts are reached where the difference is 0, or a quarter of a deviation."""
    shape = (90, PAIRS_PER_NIGHT, repetitions, 1)
    equal = _simulate_rules(NOISES["normal"](generator, shape))
    yield _make_row("difference 0", "ties by night 30", "59 %", {name: c.share("ties", by=30) for name, c in equal})
    yield _make_row("difference 0", "ties by night 90", "", {name: c.share("ties") for name, c in equal})
    yield _make_row("difference 0", "a difference", "5 %", {name: c.share("beats", "loses") for name, c in equal})
    family_shape = (90, PAIRS_PER_NIGHT, max(1, repetitions // FAMILY_SHARE), FAMILY)
    family = _simulate_rules(NOISES["normal"](generator, family_shape))
    yield _make_row("difference 0, family of 15", "ties by night 90", "", {name: c.share("ties") for name, c in family})
    quarter = _simulate_rules(0.25 + NOISES["normal"](generator, shape))
    shares = {name: c.share("beats", "ties") for name, c in quarter}
    yield _make_row("a quarter of a deviation", "a verdict by night 90", "99.5 %", shares)
    yield _make_row("a quarter of a deviation", "loses", "5 %", {name: c.share("loses") for name, c in quarter})


def list_falling_rows(repetitions: int, generator: np.random.Generator) -> Iterator[dict[str, object]]:
    """Yield how soon a champion is seen to lose that falls from +2 to -1; decided comparisons have a pair a night."""
    for title, shape in (
        ("from +2 to -1", (max(1, repetitions // 2), 1)),
        ("from +2 to -1, family of 15", (max(1, repetitions // FAMILY_SHARE), FAMILY)),
    ):
        differences = 2 + NOISES["normal"](generator, (FALL_NIGHT + 90, PAIRS_PER_NIGHT, *shape))
        differences[FALL_NIGHT:, ..., 0] -= 3  # of a family one champion falls
        delays = {
            name: simulate(NIGHTLY_RULES[name], differences, is_sparing=True).nights_until("loses", FALL_NIGHT)[..., 0]
            for name in ("alpha spending", "tanh", "now")
        }
        median = ", ".join(f"{name} {np.median(nights):.0f}" for name, nights in delays.items())
        shares = {name: float((nights <= 32).mean()) for name, nights in delays.items()}
        yield _make_row(title, f"seen within 32 nights; half of them after: {median}", "50 %", shares)


def list_year_rows(repetitions: int, generator: np.random.Generator) -> Iterator[dict[str, object]]:
    """Yield how often a verdict of a year is false: at a difference of 0, and at the margin."""
    shape = (YEAR_NIGHTS, PAIRS_PER_NIGHT, max(1, repetitions // YEAR_SHARE), 1)
    for name, draw in NOISES.items():
        noise = draw(generator, shape)
        shares = {rule: c.share("beats", "loses") for rule, c in _simulate_rules(noise, "alpha spending")}
        yield _make_row(f"difference 0, {name}, a year", "a difference", "5 %", shares)
        for sign, title in ((1, ""), (-1, ", mirrored")):
            if sign == 1 or name in ("exponential", "lognormal"):
                at_margin = MARGIN_POINTS + sign * noise
                shares = {rule: c.share("ties", "loses") for rule, c in _simulate_rules(at_margin, "alpha spending")}
                yield _make_row(f"at the margin, {name}{title}, a year", "ties or loses", "5 %", shares)


def list_collapse_rows(repetitions: int, generator: np.random.Generator) -> Iterator[dict[str, object]]:
    """Yield the verdicts in two parts where runs collapse, and those of the differences with collapses left in."""
    shape = (YEAR_NIGHTS, PAIRS_PER_NIGHT, max(1, repetitions // YEAR_SHARE), 1)
    for title, champion_rate, twin_rate, names, aim in (
        ("collapses in 5 % of both arms, a year", 0.05, 0.05, ("beats", "loses"), "5 %"),
        ("twin collapses in 5 %, a year", 0.0, 0.05, ("loses",), "5 %"),
        ("twin collapses in 20 %, a year", 0.0, 0.2, ("beats",), ""),
    ):
        champion, twin = (generator.random(shape) < rate for rate in (champion_rate, twin_rate))
        live = NOISES["normal"](generator, shape)
        left_in = live + COLLAPSE_LOSS_POINTS * (twin.astype(float) - champion)
        shares = {
            "tanh": simulate(NIGHTLY_RULES["tanh"], left_in).share(*names),
            "now": _simulate_parts(live, champion, twin).share(*names),
        }
        measure = "a false verdict" if aim else "beats"
        yield _make_row(title, f"{measure}; tanh: collapses left in", aim, shares)


def list_sentinel_rows(repetitions: int, generator: np.random.Generator) -> Iterator[dict[str, object]]:
    """Yield how soon sentinels see a lasting shift, and how many false alarms a year has."""
    runs = max(1, repetitions // YEAR_SHARE)
    shifted = generator.standard_normal((SHIFT_NIGHT + 40, runs))
    shifted[SHIFT_NIGHT:] += 2
    first = {name: _find_first_alarms(detect, shifted, SHIFT_NIGHT) for name, detect in DETECTORS.items()}
    for nights in (7, 40):
        shares = {name: float((alarms < SHIFT_NIGHT + nights).mean()) for name, alarms in first.items()}
        yield _make_row("sentinels, a lasting shift of 2 deviations", f"seen within {nights} nights", "87 %", shares)
    doubled = generator.standard_normal((SHIFT_NIGHT + 7, runs, 2))
    doubled[SHIFT_NIGHT:] += 2
    alarms = [
        any(detect_drift(series[:night]).alarm for night in range(SHIFT_NIGHT + 1, SHIFT_NIGHT + 8))
        for series in doubled.swapaxes(0, 1)
    ]
    shares = {"now": float(np.mean(alarms))}
    yield _make_row("sentinels, the same of both runs of an arm", "seen within 7 nights", "87 %", shares)
    steady = generator.standard_normal((YEAR_NIGHTS, max(1, runs // 2)))
    shares = {name: float(np.isfinite(_find_first_alarms(d, steady, 2)).mean()) for name, d in DETECTORS.items()}
    yield _make_row("sentinels, no change", "a false alarm in a year", "5 %", shares)
    losses = 0.01 * generator.standard_normal((SHIFT_NIGHT + 7, max(1, runs // 2)))
    accuracies = generator.standard_normal(losses.shape)  # in points, and not changed
    losses[SHIFT_NIGHT:] += 0.05
    losses[SHIFT_NIGHT - 10] = np.nan
    values = {"alpha spending": accuracies, "now": losses}
    shares = {
        name: float(np.isfinite(_find_first_alarms(DETECTORS[name], values[name], SHIFT_NIGHT)).mean())
        for name in DETECTORS
    }
    yield _make_row("sentinels, a failed run, then a loss up by .05", "seen within 7 nights", "", shares)


def _simulate_rules(differences: np.ndarray, *left_out: str) -> list[tuple[str, Course]]:
    return [(name, simulate(rule, differences)) for name, rule in NIGHTLY_RULES.items() if name not in left_out]


def _simulate_parts(differences: np.ndarray, champion: np.ndarray, twin: np.ndarray) -> Course:
    """Judge the differences where both runs live and the collapses, and combine both parts."""
    shape = differences.shape[2:]
    live = LiveNights(shape, MARGIN_POINTS, LIVE_LEVEL)
    collapses = CollapseNights(shape, COLLAPSE_MARGIN, COLLAPSE_LEVEL, ALPHA)
    history, combine = [], np.vectorize(combine_parts)
    for night, tonight in enumerate(differences):
        for index, pair in enumerate(tonight):
            has_collapsed = champion[night, index] | twin[night, index]
            live.add(np.where(has_collapsed, np.nan, pair))
            collapses.add(champion[night, index].astype(float), twin[night, index].astype(float))
        live.judge()
        collapses.judge()
        history.append(combine(live.verdicts, collapses.verdicts, live.leanings, collapses.leanings))
    return Course(np.array(history))


def _detect_earlier(values: np.ndarray) -> bool:
    """Return the earlier rule's alarm: tonight against all nights before, at a cost that grows with each look."""
    history = values[:-1]
    look = max(1, len(history) - 1)
    statistic = (values[-1] - history.mean()) / (history.std(ddof=1) * np.sqrt(1 + 1 / len(history)))
    return bool(2 * stats.t.sf(abs(statistic), len(history) - 1) * np.pi**2 * look**2 / 6 <= ALPHA)


def _detect_now(values: np.ndarray) -> bool:
    return np.isfinite(values[-1]) and detect_drift(values[:, None], ALPHA).alarm


DETECTORS: Mapping[str, Callable[[np.ndarray], bool]] = {"alpha spending": _detect_earlier, "now": _detect_now}


def _find_first_alarms(detect: Callable[[np.ndarray], bool], values: np.ndarray, first: int) -> np.ndarray:
    """Return the index of the first night from `first` on with an alarm, for each series; infinite without any."""
    return np.array(
        [
            next((night for night in range(first, len(series)) if detect(series[: night + 1])), np.inf)
            for series in values.T
        ]
    )


def _make_row(case: str, measure: str, aim: str, shares: Mapping[str, float]) -> dict[str, object]:
    return {"case": case, "measure": measure, "aim": aim, **{name: shares.get(name, np.nan) for name in NIGHTLY_RULES}}
