"""A model of the quality at each density: what the trials so far say about configurations that were not run."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.special import expit, logit, ndtr
from scipy.stats import qmc

from forcetune.analysis.gaussian_process import Array, GaussianProcess, Hyperparameters, Posterior

LOWEST_SHARE, HIGHEST_SHARE = 0.01, 0.99  # of the way from chance to 1, between which the quality is modelled
QUADRATURE_NODES = 16
_NODES, _NODE_WEIGHTS = np.polynomial.hermite_e.hermegauss(QUADRATURE_NODES)
_NODE_WEIGHTS = _NODE_WEIGHTS / _NODE_WEIGHTS.sum()
STOPPED_NOISE = 0.25  # variance, in logits, that a value has which only bounds the end of a stopped trial


@dataclass(frozen=True)
class Field:
    """A field of the configurations.

    Attributes:
        name: The name of the field.
        choices: The values of a choice; empty for a range.
        low: The lowest value of a range.
        high: The highest value of a range.
        log: Whether a range is scaled by its logarithm.
        conditions: Name of a choice to its values, all of which must hold for the field to apply.
        prior_weight: The prior median of 1 / (length scale)^2 in the model; NaN for the usual one.
    """

    name: str
    choices: tuple[Any, ...] = ()
    low: float = 0.0
    high: float = 1.0
    log: bool = False
    conditions: Mapping[str, Sequence[Any]] | None = None
    prior_weight: float = np.nan

    def scale(self, value: Any) -> float:
        """Return a value as a number: the index of a choice, or the position in a range, 0 to 1."""
        if self.choices:
            return float(self.choices.index(value))
        if self.low == self.high:
            return 0.0
        if self.log:
            return float(np.log(value / self.low) / np.log(self.high / self.low))
        return float((value - self.low) / (self.high - self.low))

    def unscale(self, number: float) -> Any:
        """Return the value of a number."""
        if self.choices:
            return self.choices[int(number)]
        if self.log:
            return float(np.clip(self.low * (self.high / self.low) ** number, self.low, self.high))
        return float(np.clip(self.low + (self.high - self.low) * number, self.low, self.high))


class Space:
    """The fields of a search, the density first.

    Args:
        fields: The fields; the first one is the density. A field that has conditions comes after those it names.
    """

    def __init__(self, fields: Sequence[Field]) -> None:
        self.fields = list(fields)
        self.is_choice = np.array([bool(field.choices) for field in self.fields])
        self.index = {field.name: i for i, field in enumerate(self.fields)}

    def scale(self, values: Mapping[str, Any]) -> Array:
        """Return a configuration as a row of numbers, NaN where a field is absent."""
        return np.array(
            [field.scale(values[field.name]) if field.name in values else np.nan for field in self.fields], dtype=float
        )

    def unscale(self, row: Array) -> dict[str, Any]:
        """Return the values of the fields that apply in a row."""
        return {
            field.name: field.unscale(number)
            for field, number in zip(self.fields, row, strict=True)
            if not np.isnan(number)
        }

    def blank_absent(self, rows: Array) -> Array:
        """Write NaN where a field does not apply, and return the rows."""
        for i, field in enumerate(self.fields):
            for parent, values in (field.conditions or {}).items():
                if parent not in self.index:
                    continue
                parent_field = self.fields[self.index[parent]]
                numbers = [parent_field.scale(value) for value in values if value in parent_field.choices]
                rows[~np.isin(rows[:, self.index[parent]], numbers), i] = np.nan
        return rows

    def draw_sobol_numbers(self, count: int, generator: np.random.Generator) -> Array:
        """Return the first points of a scrambled Sobol sequence, in [0, 1), (count, fields)."""
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # a number of points that is no power of 2
            points: Array = qmc.Sobol(len(self.fields), seed=generator).random(count)
        return points

    def draw(self, unit: Array) -> Array:
        """Return configurations from numbers in [0, 1), (n, fields)."""
        rows = unit.copy()
        for i, field in enumerate(self.fields):
            if field.choices:
                rows[:, i] = np.floor(unit[:, i] * len(field.choices))
        return self.blank_absent(rows)

    def perturb(self, rows: Array, scale: float, generator: np.random.Generator) -> Array:
        """Return configurations near others: ranges are moved, and some choices are drawn anew.

        Args:
            rows: Configurations, (n, fields).
            scale: The deviation of the moves, and half of the share of choices that are drawn anew.
            generator: The source of the random numbers.
        """
        moved, fresh = rows.copy(), self.draw(generator.random(rows.shape))
        for i, field in enumerate(self.fields):
            if field.choices:
                change = generator.random(len(rows)) < min(2 * scale, 1.0) / max(self.is_choice.sum(), 1)
                moved[change, i] = np.floor(generator.random(int(change.sum())) * len(field.choices))
            else:
                moved[:, i] = np.clip(moved[:, i] + scale * generator.standard_normal(len(rows)), 0.0, 1.0)
        absent = np.isnan(moved)  # of a field that applies after a choice has changed
        moved[absent] = np.where(np.isnan(fresh), generator.random(rows.shape), fresh)[absent]
        return self.blank_absent(moved)


@dataclass(frozen=True)
class Observations:
    """Trials that a belief rests on.

    Attributes:
        rows: The configurations, (n, fields).
        qualities: The quality of each, between chance and 1, (n,).
        costs: The density that each reached, scaled as the first field is, (n,).
        is_bound: Whether a quality only bounds the end of a trial that was stopped, (n,).
    """

    rows: Array
    qualities: Array
    costs: Array
    is_bound: NDArray[np.bool_]


class Belief:
    """A Gaussian process on the logit of the quality, linear in the logarithm of the density on average.

    On the scale of the quality itself, the process expects more than 1 and looks for it in vain; on that of logits, a
    gain shrinks with the distance to 1.

    Args:
        space: The fields, the density first.
        chance: The quality of a guess, which counts as the lowest.
        hyperparameters: The hyperparameters of an earlier belief, which `fit` begins with; None for those of the prior.
    """

    def __init__(self, space: Space, chance: float, hyperparameters: Hyperparameters | None = None) -> None:
        self.space = space
        self.chance = chance
        self.process = GaussianProcess(space.is_choice, np.array([field.prior_weight for field in space.fields]))
        if hyperparameters is not None:
            self.process.hyperparameters = hyperparameters
        self._posterior: Posterior | None = None

    def to_logit(self, qualities: Array) -> Array:
        """Return the logit of each quality's share of the way from chance to 1."""
        share = (qualities - self.chance) / (1 - self.chance)
        scaled: Array = logit(np.clip(share, LOWEST_SHARE, HIGHEST_SHARE))
        return scaled

    def to_quality(self, logits: Array) -> Array:
        """Return the quality of each logit."""
        qualities: Array = self.chance + (1 - self.chance) * expit(logits)
        return qualities

    def fit(self, observations: Observations, iterations: int) -> None:
        """Fit the hyperparameters to the trials that ended, in at most so many steps."""
        ended = ~observations.is_bound
        if ended.sum() >= 3 and iterations:
            self.process.fit(
                observations.rows[ended], self.to_logit(observations.qualities[ended]), iterations=iterations
            )

    def condition(self, observations: Observations, running_rows: Array | None = None) -> None:
        """Take trials into account.

        The value of a stopped trial is a lower bound of its end. The trial counts with the mean that the other trials
        predict above that bound, and with more noise. A running trial counts as ended, with the value that is expected.

        Args:
            observations: The trials.
            running_rows: The configurations that run, (running, fields).
        """
        rows, logits = observations.rows, self.to_logit(observations.qualities)
        bounds, extra_noise = observations.is_bound, np.zeros(len(rows))
        if bounds.any() and not bounds.all():
            posterior = self.process.condition(rows[~bounds], logits[~bounds])
            mean, deviation = posterior.predict(rows[bounds])
            logits = logits.copy()
            logits[bounds] = _mean_above(mean, deviation, logits[bounds])
            extra_noise[bounds] = STOPPED_NOISE
        self._posterior = self.process.condition(rows, logits, extra_noise)
        if running_rows is not None and len(running_rows):
            expected, _ = self._posterior.predict(running_rows)
            self._posterior = self.process.condition(
                np.concatenate([rows, running_rows]),
                np.concatenate([logits, expected]),
                np.concatenate([extra_noise, np.zeros(len(running_rows))]),
            )

    @property
    def posterior(self) -> Posterior:
        """The process of the logits, given the trials that `condition` took into account."""
        assert self._posterior, "call `condition` first"
        return self._posterior

    def predict(self, rows: Array) -> tuple[Array, Array]:
        """Return the mean and the deviation of the logit of the quality of each configuration, without noise."""
        return self.posterior.predict(rows)

    def expect_costs(self, rows: Array, observations: Observations) -> Array:
        """Return the density that each configuration will probably reach, scaled.

        Most configurations reach the density that they ask for. Whole channels and small dense networks do not: their
        difference is estimated as that of the trials that are near in the model.
        """
        differences = observations.costs - observations.rows[:, 0]
        if np.abs(differences).max() < 1e-3:
            return rows[:, 0]
        correlations = self.process.correlate(rows, observations.rows) ** 4 + 1e-9
        expected: Array = rows[:, 0] + correlations @ differences / correlations.sum(1)
        return expected

    def expect_gain(self, rows: Array, costs: Array, staircase: Staircase) -> Array:
        """Return the area that each configuration is expected to add below the staircase of the front.

        A trial at density u0 with quality y adds the integral from u0 to 1 of max(y - F(u), 0), with F(u) the best
        quality so far at most as dense: a sum over the steps of F.

        Args:
            rows: The configurations, (n, fields).
            costs: The density that each of them will reach, scaled, (n,).
            staircase: The front so far.
        """
        mean, deviation = self.predict(rows)
        qualities = self.to_quality(mean[:, None] + deviation[:, None] * _NODES)
        gains = np.maximum(qualities[:, :, None] - staircase.heights, 0)  # (n, nodes, steps)
        expected = np.einsum("q,nqs->ns", _NODE_WEIGHTS, gains)
        areas: Array = (expected * staircase.measure_lengths(costs)).sum(1)
        return areas


@dataclass(frozen=True)
class Staircase:
    """The best quality so far at most as dense as each density, a function that rises in steps.

    Attributes:
        starts: The density at which each step begins, scaled, rising, (steps,); the first one begins at minus infinity.
        heights: The quality of each step, (steps,).
        low: The lowest density that counts, scaled.
        high: The highest density that counts, scaled.
    """

    starts: Array
    heights: Array
    low: float = 0.0
    high: float = 1.0

    @staticmethod
    def from_points(costs: Array, qualities: Array, chance: float, low: float = 0.0, high: float = 1.0) -> Staircase:
        """Return the staircase of trials; below the first one it has the height of chance."""
        starts, heights = [-np.inf], [chance]
        for i in np.lexsort((-qualities, costs)):
            if qualities[i] > heights[-1]:
                starts.append(float(costs[i]))
                heights.append(float(qualities[i]))
        return Staircase(np.array(starts), np.array(heights), low, high)

    def measure_lengths(self, densities: Array) -> Array:
        """Return the length of each step that lies to the right of each density, (densities, steps)."""
        ends = np.append(self.starts[1:], np.inf)
        begin = np.maximum(np.maximum(self.starts[None, :], densities[:, None]), self.low)
        end = np.minimum(ends[None, :], self.high)
        lengths: Array = np.maximum(end - begin, 0)
        return lengths


def _mean_above(mean: Array, deviation: Array, bounds: Array) -> Array:
    """Return the means of normal variables that are known to lie above bounds."""
    z = np.clip((bounds - mean) / deviation, -8, 8)
    density = np.exp(-0.5 * z**2) / np.sqrt(2 * np.pi)
    above: Array = np.maximum(mean + deviation * density / np.maximum(ndtr(-z), 1e-12), bounds)
    return above
