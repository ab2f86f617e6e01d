"""Fresh seeds of the front: how often intervals hold the mean, and how often what is said of the front is true.

Each repetition makes a study with a true front, runs the policy of `search.seeds` on it with up to five seeds a point,
and compares what is said with the truth. The old rule is the one of version 0.1.0: two seeds first, one noise for all
points of like density, the search's value where a point has no seed, and collapsed seeds at the accuracy of guessing.
"""

import argparse
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from itertools import pairwise

import numpy as np
import pandas as pd
from scipy import stats

from forcetune.analysis import estimate_from_seeds, non_dominated
from forcetune.search.companions import count_wanted_seeds

OBJECTIVES = {"val_accuracy": "max", "density": "min"}
SEED_LIMIT, OLD_FIRST_SEEDS, NEW_FIRST_SEEDS = 5, 2, 3
GUESSING_ACCURACY = 0.1
NOISY_FACTOR, COLLAPSE_SHARE = 3.0, 0.15
BINS = (0.0, 0.2, 0.4, 0.6, 0.8, 1.0)


@dataclass(frozen=True)
class SimulatedStudy:
    """A study of n trials whose true accuracies are known.

    Attributes:
        densities: Of shape (n,).
        accuracies: The expected accuracies of runs that live, of shape (n,).
        deviations: The standard deviations over seeds, of shape (n,).
        collapse_share: How often a run collapses.
        is_skewed: Whether the noise is exponential, with its tail towards low accuracies.
        noisy: The point that is noisier than its neighbours; None without one.
    """

    densities: np.ndarray
    accuracies: np.ndarray
    deviations: np.ndarray
    collapse_share: float = 0.0
    is_skewed: bool = False
    noisy: int | None = None

    def draw(self, generator: np.random.Generator, seeds: int) -> np.ndarray:
        """Draw the accuracies of runs that live, of shape (n, seeds)."""
        shape = len(self.densities), seeds
        noise = 1 - generator.exponential(size=shape) if self.is_skewed else generator.normal(size=shape)
        return self.accuracies[:, None] + self.deviations[:, None] * noise

    @property
    def on_front(self) -> np.ndarray:
        """Whether each point is on the true front, of shape (n,)."""
        return non_dominated(np.column_stack([self.accuracies, self.densities]), ["max", "min"])


@dataclass(frozen=True)
class Claims:
    """The claims of a rule on n points when its policy has ended.

    Attributes:
        seeds: The fresh seeds of each point, of shape (n,).
        low: The lower end of the interval of the mean accuracy, of shape (n,).
        high: The upper end.
        probability: The probability to belong to the front, of shape (n,).
        collapses: The ends of the interval of the share of collapses, of shape (2, n); None for the old rule.
    """

    seeds: np.ndarray
    low: np.ndarray
    high: np.ndarray
    probability: np.ndarray
    collapses: np.ndarray | None = None


def draw_study(generator: np.random.Generator) -> SimulatedStudy:
    """Draw a study: accuracies fall off a cliff in log density, and trials fall short of it by a varying amount."""
    trials = int(generator.choice([20, 40, 80]))
    log_density = np.sort(generator.uniform(-2.3, -0.4, trials))
    cliff = _logistic((log_density - generator.uniform(-2.3, -1.6)) / generator.uniform(0.15, 0.5))
    shortfall = generator.exponential(generator.choice([0.01, 0.03, 0.1]), trials)
    noise = generator.choice([0.005, 0.01, 0.02])
    return _make_study(log_density, cliff, shortfall, np.full(trials, noise))


def draw_other_study(generator: np.random.Generator) -> SimulatedStudy:
    """Draw a study of another kind: good and bad methods, noise that grows where the accuracy falls, flat fronts."""
    trials = int(generator.choice([16, 32, 64]))
    log_density = np.sort(generator.normal(-1.5, 0.5, trials))
    cliff = generator.uniform(0.5, 1) * np.exp(-(np.maximum(0, generator.uniform(-1.8, -1.0) - log_density) ** 2))
    shortfall = np.abs(generator.normal(0, generator.choice([0.01, 0.02, 0.05]), trials))
    shortfall += generator.choice([0, 0.05], trials)
    return _make_study(log_density, cliff, shortfall, 0.005 + 0.03 * (1 - cliff))


def rows(repetitions: int, seed: int) -> pd.DataFrame:
    """Simulate all cases.

    Args:
        repetitions: The number of studies of each case.
        seed: The seed of the simulation.

    Returns:
        A row for each case, measure (`interval` or `on the front`) and rule (`old` or `new`): points (their number),
        seeds (the mean number of their fresh seeds), said (the mean of what the rule says) and true (how often that
        holds).
    """
    tables = [_simulate_case(case, draw, repetitions, seed + index) for index, (case, draw) in enumerate(CASES.items())]
    return pd.concat(tables, ignore_index=True)


def run_old(study: SimulatedStudy, searched: np.ndarray, runs: np.ndarray, lives: np.ndarray) -> Claims:
    """Run the old policy.

    Args:
        study: The study.
        searched: The accuracies of the search, of shape (n,).
        runs: The accuracies of the fresh seeds if they live, of shape (n, SEED_LIMIT).
        lives: Whether they live, of the same shape.
    """
    counted = np.where(lives, runs, GUESSING_ACCURACY)
    on_front = non_dominated(np.column_stack([searched, study.densities]), ["max", "min"])
    tried = np.where(on_front, OLD_FIRST_SEEDS, 0)
    while True:
        claims = _estimate_old(np.log10(study.densities), searched, counted, tried)
        is_in_doubt = (claims.probability > 0.05) & (claims.probability < 0.95)
        wanted = np.minimum(tried + is_in_doubt, SEED_LIMIT)
        if (wanted == tried).all():
            return claims
        tried = wanted


def run_new(study: SimulatedStudy, searched: np.ndarray, runs: np.ndarray, lives: np.ndarray) -> Claims:
    """Run forcetune's policy; the arguments are those of `run_old`."""
    values = np.column_stack([searched, study.densities])
    on_front = non_dominated(values, ["max", "min"])
    tried = np.zeros(len(values), int)
    while True:
        fresh = [
            np.column_stack([np.where(alive, run, GUESSING_ACCURACY)[:count], np.full(count, density)])
            for run, alive, count, density in zip(runs, lives, tried, study.densities, strict=True)
        ]
        alive = [row[:count] for row, count in zip(lives, tried, strict=True)]
        estimates = estimate_from_seeds(values, study.densities, fresh, OBJECTIVES, alive)
        wanted = count_wanted_seeds(on_front, estimates.probability, tried, estimates.collapsed, SEED_LIMIT)
        if (wanted == tried).all():
            collapses = np.stack([estimates.collapse_low, estimates.collapse_high])
            return Claims(tried, estimates.low[:, 0], estimates.high[:, 0], estimates.probability, collapses)
        tried = wanted


SEED_RULES: Mapping[str, Callable[..., Claims]] = {"old": run_old, "new": run_new}


def _logistic(x: np.ndarray) -> np.ndarray:
    return np.asarray(1 / (1 + np.exp(-x)))


def _make_study(
    log_density: np.ndarray, cliff: np.ndarray, shortfall: np.ndarray, deviations: np.ndarray
) -> SimulatedStudy:
    accuracies = GUESSING_ACCURACY + (0.98 - GUESSING_ACCURACY) * cliff * np.exp(-shortfall)  # no two are equal
    return SimulatedStudy(10**log_density, accuracies, deviations)


def _draw_with_noisy_point(generator: np.random.Generator) -> SimulatedStudy:
    """Draw a study in which a point of the true front is noisier than its neighbours."""
    study = draw_study(generator)
    noisy = int(generator.choice(np.flatnonzero(study.on_front)))
    deviations = study.deviations.copy()
    deviations[noisy] *= NOISY_FACTOR
    return replace(study, deviations=deviations, noisy=noisy)


CASES: Mapping[str, Callable[[np.random.Generator], SimulatedStudy]] = {
    "normal noise": draw_study,
    "normal noise, other fronts": draw_other_study,
    f"a point {NOISY_FACTOR:g} times noisier than its neighbours": _draw_with_noisy_point,
    f"collapses in {COLLAPSE_SHARE:.0%} of runs": lambda generator: replace(
        draw_study(generator), collapse_share=COLLAPSE_SHARE
    ),
    "exponential noise": lambda generator: replace(draw_study(generator), is_skewed=True),
}


def _simulate_case(
    case: str, draw: Callable[[np.random.Generator], SimulatedStudy], repetitions: int, seed: int
) -> pd.DataFrame:
    points: dict[str, list[pd.DataFrame]] = {name: [] for name in SEED_RULES}
    for repetition in range(repetitions):
        generator = np.random.default_rng([seed, repetition])
        study = draw(generator)
        searched, runs = study.draw(generator, 1)[:, 0], study.draw(generator, SEED_LIMIT)
        lives = generator.random(runs.shape) >= study.collapse_share
        for name, run in SEED_RULES.items():
            points[name].append(_judge(study, run(study, searched, runs, lives), name))
    tables = [
        table
        for name in SEED_RULES
        for table in _summarize(case, name, pd.concat(points[name], ignore_index=True), OLD_FIRST_SEEDS)
    ]
    return pd.DataFrame([row for table in tables for row in table])


def _judge(study: SimulatedStudy, claims: Claims, rule: str) -> pd.DataFrame:
    """Return a row for each point with fresh seeds: what is said of it, and the truth."""
    share = study.collapse_share
    means = study.accuracies * (1 - share) + GUESSING_ACCURACY * share if rule == "old" else study.accuracies
    low, high = claims.collapses if claims.collapses is not None else np.full((2, len(means)), np.nan)
    table = pd.DataFrame(
        {
            "seeds": claims.seeds,
            "is_covered": (claims.low <= means) & (means <= claims.high),
            "width": (claims.high - claims.low) / study.deviations,
            "is_share_covered": (low <= share) & (share <= high),
            "has_share": claims.collapses is not None and share > 0,
            "probability": claims.probability,
            "on_front": study.on_front,
            "is_noisy": np.arange(len(means)) == (-1 if study.noisy is None else study.noisy),
            "has_noisy": study.noisy is not None,
        }
    )
    return table[table["seeds"] > 0]


def _summarize(case: str, rule: str, points: pd.DataFrame, old_first: int) -> list[list[dict[str, object]]]:
    first = old_first if rule == "old" else NEW_FIRST_SEEDS
    chosen = points[points["is_noisy"]] if points["has_noisy"].any() else points
    stopped = chosen[chosen["seeds"] == first]
    coverage = [
        _make_row(f"{case}{suffix}", "interval", rule, rows, 0.95, rows["is_covered"].mean())
        for suffix, rows in (("", chosen), (", stopped at the first seeds", stopped))
    ]
    if points["has_share"].any():
        covered = points["is_share_covered"].mean()
        coverage.append(_make_row(f"{case}, share of collapses", "interval", rule, points, 0.95, covered))
    positions = np.clip(np.searchsorted(BINS, points["probability"], side="right") - 1, 0, len(BINS) - 2)
    calibration = [
        _make_row(
            f"{case}, said {low:.0%} to {high:.0%}",
            "on the front",
            rule,
            rows,
            rows["probability"].mean(),
            rows["on_front"].mean(),
        )
        for index, (low, high) in enumerate(pairwise(BINS))
        if len(rows := points[positions == index])
    ]
    return [coverage, calibration]


def _make_row(case: str, measure: str, rule: str, points: pd.DataFrame, claim: float, true: float) -> dict[str, object]:
    return {
        "case": case,
        "measure": measure,
        "rule": rule,
        "points": len(points),
        "seeds": points["seeds"].mean(),
        "width": points["width"].mean(),
        "said": claim,
        "true": true,
    }


def _estimate_old(log_density: np.ndarray, searched: np.ndarray, runs: np.ndarray, tried: np.ndarray) -> Claims:
    """Return what version 0.1.0 says of points, from the first `tried` of their fresh seeds."""
    is_used = np.arange(runs.shape[1]) < tried[:, None]
    mean = np.where(tried > 0, (runs * is_used).sum(1) / np.maximum(tried, 1), searched)
    squares = (((runs - mean[:, None]) ** 2) * is_used).sum(1)
    repeated = np.flatnonzero(tried > 1)
    freedom = tried[repeated] - 1
    weights = 1e-3 + np.exp(-0.5 * ((log_density[:, None] - log_density[repeated]) / 0.25) ** 2)
    shared = weights @ freedom
    error = np.sqrt(weights @ squares[repeated] / shared) / np.sqrt(np.maximum(tried, 1))
    shared_freedom = shared**2 / (weights**2 @ freedom)
    half = stats.t.ppf(0.975, shared_freedom) * error
    probability = _find_old_probability(log_density, mean, error, shared_freedom)
    return Claims(tried, mean - half, mean + half, probability)


def _find_old_probability(
    log_density: np.ndarray, mean: np.ndarray, error: np.ndarray, freedom: np.ndarray, draws: int = 1000
) -> np.ndarray:
    order = np.argsort(log_density)
    noise = np.random.default_rng(0).standard_t(freedom, size=(draws, len(mean)))
    drawn = (mean + error * noise)[:, order]
    best_before = np.column_stack([np.full(draws, -np.inf), np.maximum.accumulate(drawn, axis=1)[:, :-1]])
    probability = np.empty(len(mean))
    probability[order] = (drawn > best_before).mean(0)
    return probability


def main() -> None:
    """Simulate all cases and print the rows of both rules side by side."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repetitions", type=int, default=400, help="studies of each case")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    table = rows(arguments.repetitions, arguments.seed)
    by_rule = table.set_index(["case", "rule"]).unstack("rule").reindex(table["case"].unique())
    print("| case | points | seeds | old: said | true | new: said | true |\n|---|---:|---:|---:|---:|---:|---:|")
    for case, row in by_rule.iterrows():
        columns = [(name, rule) for rule in SEED_RULES for name in ("said", "true")]
        shares = ["" if pd.isna(row[column]) else f"{row[column]:.1%}" for column in columns]
        print(f"| {case} | {row['points', 'new']:.0f} | {row['seeds', 'new']:.1f} | {' | '.join(shares)} |")


if __name__ == "__main__":
    main()
