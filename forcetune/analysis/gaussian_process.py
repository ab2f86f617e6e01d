"""A Gaussian process over ranges, choices and conditional fields, with a mean that is linear in the first field."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import LinAlgError, cho_factor, cho_solve, solve_triangular
from scipy.optimize import minimize

Array = NDArray[np.float64]

MEAN_VARIANCE, SLOPE_VARIANCE = 16.0, 36.0  # of the level and the slope of the mean, wide beside logits of -4.6 to 4.6
JITTER = 1e-8
SQRT_5 = 5**0.5


@dataclass(frozen=True)
class Hyperparameters:
    """The hyperparameters of the process.

    Attributes:
        log_scale: The logarithm of the variance of the values around their mean.
        log_weights: The logarithm of 1 / (length scale)^2 of each field, (fields,).
        log_noise: The logarithm of the noise variance where the first field is 0.
        noise_slope: The change of that logarithm from there to where the first field is 1.
    """

    log_scale: float
    log_weights: Array
    log_noise: float
    noise_slope: float

    def to_vector(self) -> Array:
        """Return all hyperparameters as one vector."""
        return np.concatenate([[self.log_scale], self.log_weights, [self.log_noise, self.noise_slope]])

    @staticmethod
    def from_vector(vector: Array) -> Hyperparameters:
        """Return the hyperparameters of a vector that `to_vector` made."""
        return Hyperparameters(float(vector[0]), vector[1:-2], float(vector[-2]), float(vector[-1]))


class GaussianProcess:
    """A Gaussian process whose mean is linear in the first field.

    A configuration is a row with one number a field: a range is scaled to [0, 1], a choice has a number for each of its
    values, and NaN stands where the field does not apply. The squared distance of two rows in a field is
    (difference)^2 for a range, 0 or 1 for a choice, and 1 where the field applies to one of the two alone. The
    covariance is a Matern 5/2 function of the weighted sum of these, plus those of a level and a slope with wide
    priors. The logarithm of the noise variance is linear in the first field.

    Args:
        is_choice: Whether each field is a choice, (fields,).
        prior_weights: The prior median of 1 / (length scale)^2 of each field, NaN where it is the usual one, (fields,);
            None where it is the usual one for all fields.

    Attributes:
        hyperparameters: The hyperparameters; `fit` replaces them.
    """

    def __init__(self, is_choice: NDArray[np.bool_], prior_weights: Array | None = None) -> None:
        self._is_choice = is_choice
        fields = len(is_choice)
        # Length scales of 0.7 for ranges and 1.4 for choices; noise with a deviation of a fifth of a logit
        weights: Array = np.asarray(np.where(is_choice, np.log(0.5), np.log(2.0)), np.float64)
        if prior_weights is not None:
            weights = np.where(np.isnan(prior_weights), weights, np.log(prior_weights))
        self._prior_mean = Hyperparameters(0.0, weights, float(np.log(0.04)), 0.0).to_vector()
        self._prior_deviation = Hyperparameters(1.0, np.full(fields, 1.5), 1.0, 1.0).to_vector()
        self.hyperparameters = Hyperparameters.from_vector(self._prior_mean)

    def fit(self, rows: Array, values: Array, iterations: int = 40) -> None:
        """Fit the hyperparameters: the maximum of their posterior, from where they are.

        Args:
            rows: The configurations, (n, fields).
            values: Their values, (n,).
            iterations: The largest number of steps of the optimizer.
        """
        distances = self._measure(rows, rows)

        def objective(vector: Array) -> tuple[float, Array]:
            return self._negative_log_posterior(vector, rows[:, 0], values, distances)

        start = self.hyperparameters.to_vector()
        bounds = [(mean - 5, mean + 5) for mean in self._prior_mean]
        result = minimize(objective, start, jac=True, method="L-BFGS-B", bounds=bounds, options={"maxiter": iterations})
        self.hyperparameters = Hyperparameters.from_vector(result.x)

    def condition(self, rows: Array, values: Array, extra_noise: Array | None = None) -> Posterior:
        """Return the process given values of configurations.

        Args:
            rows: The configurations, (n, fields).
            values: Their values, (n,).
            extra_noise: The variance that is added to the noise of each value, (n,); None for none.
        """
        parameters = self.hyperparameters
        covariance = self.measure_covariance(rows, rows)
        noise = np.exp(parameters.log_noise + parameters.noise_slope * rows[:, 0]) + JITTER
        covariance[np.diag_indices(len(rows))] += noise if extra_noise is None else noise + extra_noise
        factor: Array = np.linalg.cholesky(covariance).astype(np.float64)
        weights = cho_solve((factor, True), values)
        return Posterior(self, rows, factor, weights)

    def measure_covariance(self, rows: Array, second_rows: Array) -> Array:
        """Return the covariance of the values of two sets of configurations, (rows, second_rows)."""
        covariance: Array = (
            np.exp(self.hyperparameters.log_scale) * self.correlate(rows, second_rows)
            + MEAN_VARIANCE
            + SLOPE_VARIANCE * np.outer(rows[:, 0] - 0.5, second_rows[:, 0] - 0.5)
        )
        return covariance

    def correlate(self, rows: Array, second_rows: Array) -> Array:
        """Return the correlation of the values of two sets of configurations around their mean, (rows, second_rows)."""
        distances = self._measure(rows, second_rows)
        r = np.sqrt(np.tensordot(np.exp(self.hyperparameters.log_weights), distances, 1))
        correlation: Array = (1 + SQRT_5 * r + 5 / 3 * r**2) * np.exp(-SQRT_5 * r)
        return correlation

    def measure_variance(self, rows: Array) -> Array:
        """Return the variance of the value of each configuration before any data, (rows,)."""
        variance: Array = (
            np.exp(self.hyperparameters.log_scale) + MEAN_VARIANCE + SLOPE_VARIANCE * (rows[:, 0] - 0.5) ** 2
        )
        return variance

    def _measure(self, rows: Array, second_rows: Array) -> Array:
        """Return the squared distances in each field, (fields, rows, second_rows)."""
        first, second = rows.T[:, :, None], second_rows.T[:, None, :]
        first_applies, second_applies = ~np.isnan(first), ~np.isnan(second)
        differences = np.where(
            self._is_choice[:, None, None], (first != second).astype(float), np.nan_to_num(first - second) ** 2
        )
        return np.where(first_applies & second_applies, differences, (first_applies != second_applies).astype(float))

    def _negative_log_posterior(self, vector: Array, u: Array, values: Array, distances: Array) -> tuple[float, Array]:
        """Return the negative logarithm of the posterior of the hyperparameters, and its gradient."""
        parameters = Hyperparameters.from_vector(vector)
        weights = np.exp(parameters.log_weights)
        r = np.sqrt(np.tensordot(weights, distances, 1))
        decay = np.exp(parameters.log_scale - SQRT_5 * r)
        matern = (1 + SQRT_5 * r + 5 / 3 * r**2) * decay
        noise = np.exp(parameters.log_noise + parameters.noise_slope * u)
        covariance = matern + MEAN_VARIANCE + SLOPE_VARIANCE * np.outer(u - 0.5, u - 0.5)
        covariance[np.diag_indices(len(u))] += noise + JITTER
        shifts = (vector - self._prior_mean) / self._prior_deviation
        try:
            factor = cho_factor(covariance, lower=True)
        except LinAlgError:
            return 1e10, np.zeros(len(vector))
        solved = cho_solve(factor, values)
        inverse = cho_solve(factor, np.eye(len(u)))
        likelihood = 0.5 * values @ solved + np.log(np.diag(factor[0])).sum()
        outer = inverse - np.outer(solved, solved)  # d likelihood = 1/2 trace(outer * d covariance)
        # d matern / d r^2 = -5/6 (1 + sqrt(5) r) decay, so nothing is divided by r
        slope = outer * (-5 / 6 * (1 + SQRT_5 * r) * decay)
        weight_gradients = 0.5 * weights * np.einsum("kij,ij->k", distances, slope)
        noise_gradients = 0.5 * np.diag(outer) * noise
        gradient = np.concatenate(
            [
                [0.5 * (outer * matern).sum()],
                weight_gradients,
                [noise_gradients.sum(), (noise_gradients * u).sum()],
            ]
        )
        return float(likelihood + 0.5 * (shifts**2).sum()), gradient + shifts / self._prior_deviation


@dataclass(frozen=True)
class Posterior:
    """A Gaussian process given the values of configurations.

    Attributes:
        process: The process.
        rows: The configurations, (n, fields).
        factor: The lower Cholesky factor of the covariance of their noisy values, (n, n).
        weights: The solution of that covariance for the values, (n,).
    """

    process: GaussianProcess
    rows: Array
    factor: Array
    weights: Array

    def predict(self, rows: Array) -> tuple[Array, Array]:
        """Return the mean and the standard deviation of the value of each configuration, without noise."""
        covariance = self.process.measure_covariance(rows, self.rows)
        mean = covariance @ self.weights
        solved = solve_triangular(self.factor, covariance.T, lower=True)
        variance = self.process.measure_variance(rows) - (solved**2).sum(0)
        return mean, np.sqrt(np.maximum(variance, 1e-10))

    def measure_covariance(self, rows: Array, second_rows: Array) -> Array:
        """Return the covariance of the values of two sets of configurations, without noise, (rows, second_rows)."""
        first, second = (
            solve_triangular(self.factor, self.process.measure_covariance(self.rows, chosen), lower=True)
            for chosen in (rows, second_rows)
        )
        covariance: Array = self.process.measure_covariance(rows, second_rows) - first.T @ second
        return covariance

    def measure_residuals(self, left_out: Sequence[Sequence[int]]) -> Array:
        """Return how far values lie from what other values say of them, in the deviations that are expected.

        Args:
            left_out: For each residual the rows that do not take part in its prediction: first the row that is
                predicted, then the others.
        """
        precision = cho_solve((self.factor, True), np.eye(len(self.rows)))
        residuals = []
        for indices in left_out:
            # The inverse of a block of the precision is the covariance of these values given all others
            covariance = np.linalg.inv(precision[np.ix_(indices, indices)])
            residuals.append(covariance[0] @ self.weights[list(indices)] / np.sqrt(covariance[0, 0]))
        return np.array(residuals)

    def noise_deviation(self, rows: Array) -> Array:
        """Return the standard deviation of the noise at each configuration."""
        parameters = self.process.hyperparameters
        return np.exp(0.5 * (parameters.log_noise + parameters.noise_slope * rows[:, 0]))
