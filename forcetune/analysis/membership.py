"""The probability that a point belongs to the front: draws of all values from what seeds and neighbours say."""

from dataclasses import dataclass

import numpy as np

from forcetune.analysis.fronts import non_dominated
from forcetune.analysis.seed_noise import SeedNoise, weigh_neighbours

FRONT_DRAWS = 1000  # of all values
MAX_STANDARD_ERRORS = 5.0  # a value is not expected farther away
PRIOR_BANDWIDTH_DECADES = 0.35  # of density, within which values lie alike around their trend
TREND_BANDWIDTH_DECADES = 0.1  # of density, over which the trend is a line
MIN_PRIOR_WEIGHT = 1e-3
PRIOR_POINTS = 1.0  # that the flat part of a prior counts for
PRIOR_STEPS = 12  # of expectation-maximization
MIN_GRID_POINTS, MAX_GRID_POINTS = 64, 400
ODDS_FACTOR = 1.17  # of the odds of the draws: chosen on the case "normal noise" of benchmarks/deciding/seeds.py
COLLAPSE_PRIOR_SEEDS = 4.0  # that the share of collapses in the whole study counts for at a point
SLOPE_RIDGE = 0.1  # of the squared bandwidth, so that points of one density have a trend


@dataclass(frozen=True)
class SeenPoints:
    """The observations of n points in m objectives that are all minimised.

    Attributes:
        log_density: The decimal logarithm of the density, of shape (n,).
        searched: The values of the search, of shape (n, m).
        mean: The means over the fresh seeds that live, of shape (n, m); the value of the search where there is none.
        living: The number of fresh seeds that live, of shape (n,).
        collapsed: The number of fresh seeds that collapsed, of shape (n,).
    """

    log_density: np.ndarray
    searched: np.ndarray
    mean: np.ndarray
    living: np.ndarray
    collapsed: np.ndarray


def estimate_membership(points: SeenPoints, noise: SeedNoise) -> np.ndarray:
    """Estimate the probability that each point belongs to the front.

    A value has a likelihood, from the search and the fresh seeds of the point, and a prior: what the points of near
    density reach, cleaned of noise (an empirical Bayes estimate by expectation-maximization; Kiefer and Wolfowitz,
    1956; Efron, 2014). With the prior, the value by which a point was chosen may count: a point that was lucky in the
    search is drawn towards its neighbours. A point belongs to the front where at least half of its seeds live and no
    other such point dominates it.

    Args:
        points: What was seen of the points.
        noise: The noise of one seed at each of them.

    Returns:
        The probabilities, of shape (n,).
    """
    typical, living = noise.typical, points.living[:, None]
    has_search = (typical > 0) | (living == 0)  # without noise, a search that differs from its seeds says nothing
    counts = living + has_search
    losses = (points.searched * has_search + points.mean * living) / counts
    errors = typical / np.sqrt(counts)
    chosen = np.flatnonzero(~_is_beaten(losses, MAX_STANDARD_ERRORS * errors, points.collapsed))
    generator = np.random.default_rng(0)
    drawn = np.repeat(losses[None, chosen], FRONT_DRAWS, axis=0)
    for objective in range(losses.shape[1]):
        noisy = np.flatnonzero(errors[chosen, objective] > 0)
        if len(noisy):
            rows = chosen[noisy]
            drawn[:, noisy, objective] = _draw_losses(
                losses[rows, objective],
                _smooth(losses[rows, objective], points.log_density[rows]),
                noise.deviations[rows, objective] / np.sqrt(counts[rows, objective])[:, None],
                noise.weights[rows, objective],
                points.log_density[rows],
                generator,
            )
    lives = _draw_lives(points.living[chosen], points.collapsed[chosen], points, generator)
    probability = np.zeros(len(losses))
    probability[chosen] = _count_fronts(drawn, lives) / FRONT_DRAWS
    return ODDS_FACTOR * probability / (1 + (ODDS_FACTOR - 1) * probability)


def _is_beaten(losses: np.ndarray, reach: np.ndarray, collapsed: np.ndarray) -> np.ndarray:
    """Return which points are dominated even at their best, by a point at its worst that has never collapsed."""
    worst = (losses + reach)[collapsed == 0]
    if not len(worst):
        return np.zeros(len(losses), bool)
    safe = worst[non_dominated(worst, ["min"] * losses.shape[1])]
    return np.asarray(((safe[None] < (losses - reach)[:, None]).all(2)).any(1))


def _draw_losses(
    losses: np.ndarray,
    trend: np.ndarray,
    errors: np.ndarray,
    weights: np.ndarray,
    log_density: np.ndarray,
    generator: np.random.Generator,
) -> np.ndarray:
    """Draw the true losses of n points in one objective from their posterior distributions; (draws, n).

    Args:
        losses: The losses that were seen, of shape (n,).
        trend: The trend of losses over density, of shape (n,).
        errors: The values of their standard errors, of shape (n, k).
        weights: The probabilities of these values, of shape (n, k).
        log_density: Of shape (n,).
        generator: The source of random numbers.
    """
    nearness = weigh_neighbours(log_density, PRIOR_BANDWIDTH_DECADES, MIN_PRIOR_WEIGHT)
    residuals = losses - trend
    typical = np.exp((weights * np.log(errors)).sum(1))
    grid = _make_grid(residuals, typical)
    steps = (residuals[:, None, None] - grid[None, :, None]) / errors[:, None, :]  # (n, grid, k)
    likelihood = (np.exp(-0.5 * steps**2) * (weights / errors)[:, None, :]).sum(-1)
    likelihood /= likelihood.max(1, keepdims=True)
    total = nearness.sum(1, keepdims=True) + PRIOR_POINTS
    prior = np.full_like(likelihood, 1 / len(grid))
    for _ in range(PRIOR_STEPS):
        posterior = likelihood * prior
        posterior /= posterior.sum(1, keepdims=True)
        prior = (nearness @ posterior + PRIOR_POINTS / len(grid)) / total
    posterior = np.cumsum(likelihood * prior, axis=1)
    posterior /= posterior[:, -1:]
    uniform = generator.random((FRONT_DRAWS, len(losses)))
    draws = [np.interp(uniform[:, i], row, grid) for i, row in enumerate(posterior)]
    return np.asarray(trend + np.column_stack(draws))


def _make_grid(residuals: np.ndarray, typical: np.ndarray) -> np.ndarray:
    """Return the values on which a distribution of residuals stands, finer than the smallest error."""
    reach = MAX_STANDARD_ERRORS * typical
    low, high = (residuals - reach).min(), (residuals + reach).max()
    count = int(np.clip(3 * (high - low) / typical.min(), MIN_GRID_POINTS, MAX_GRID_POINTS))
    return np.linspace(low, high, count)


def _smooth(values: np.ndarray, x: np.ndarray) -> np.ndarray:
    """Return the trend of values over x: at each point the line through it and its neighbours, weighted by nearness."""
    weights = weigh_neighbours(x, TREND_BANDWIDTH_DECADES, MIN_PRIOR_WEIGHT) + np.eye(len(x))
    weights = weights / weights.sum(1, keepdims=True)
    mean_x, mean = weights @ x, weights @ values
    covariance = weights @ (x * values) - mean_x * mean
    variance = weights @ x**2 - mean_x**2
    slope = covariance / (variance + SLOPE_RIDGE * TREND_BANDWIDTH_DECADES**2)
    return np.asarray(mean + slope * (x - mean_x))


def _draw_lives(
    living: np.ndarray, collapsed: np.ndarray, points: SeenPoints, generator: np.random.Generator
) -> np.ndarray:
    """Draw whether at least half of the seeds of a point live; (draws, points). It is certain without a collapse."""
    lives = np.ones((FRONT_DRAWS, len(living)), bool)
    rows = np.flatnonzero(collapsed)
    share = (points.collapsed.sum() + 0.5) / (points.collapsed.sum() + points.living.sum() + 1)
    a = COLLAPSE_PRIOR_SEEDS * share + collapsed[rows]
    b = COLLAPSE_PRIOR_SEEDS * (1 - share) + living[rows]
    lives[:, rows] = generator.beta(a, b, size=(FRONT_DRAWS, len(rows))) <= 0.5
    return lives


def _count_fronts(drawn: np.ndarray, lives: np.ndarray) -> np.ndarray:
    """Return in how many draws each point is non-dominated among the points that live.

    Args:
        drawn: The losses, of shape (draws, n, m).
        lives: Of shape (draws, n).
    """
    if drawn.shape[2] == 2 and (drawn[0, :, 1] == drawn[:, :, 1]).all():
        return _count_fronts_over_fixed(np.where(lives, drawn[:, :, 0], np.inf), drawn[0, :, 1])
    counts = np.zeros(drawn.shape[1])
    for losses, alive in zip(drawn, lives, strict=True):
        counts[alive] += non_dominated(losses[alive], ["min"] * drawn.shape[2])
    return counts


def _count_fronts_over_fixed(drawn: np.ndarray, fixed: np.ndarray) -> np.ndarray:
    """Return the same counts for two objectives, of which the second has no noise.

    Args:
        drawn: The losses in the first objective, of shape (draws, n); infinite where a point does not count.
        fixed: The losses in the second objective, of shape (n,).
    """
    order = np.argsort(fixed, kind="stable")
    lowest = np.minimum.accumulate(drawn[:, order], axis=1)
    lowest = np.column_stack([np.full(len(drawn), np.inf), lowest])
    below = np.searchsorted(fixed[order], fixed, side="left")  # the number of points that are better in the second
    up_to = np.searchsorted(fixed[order], fixed, side="right")
    is_best = (drawn <= lowest[:, up_to]) & (drawn < lowest[:, below]) & np.isfinite(drawn)
    return np.asarray(is_best.sum(0))
