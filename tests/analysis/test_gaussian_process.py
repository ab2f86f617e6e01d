"""The Gaussian process: its gradient, its predictions against a formula, and the distances of conditional fields."""

import numpy as np
import pytest
from scipy.optimize import check_grad

from forcetune.analysis.gaussian_process import MEAN_VARIANCE, SLOPE_VARIANCE, GaussianProcess, Hyperparameters

IS_CHOICE = np.array([False, True, False])


def draw_rows(count, seed=0):
    generator = np.random.default_rng(seed)
    rows = generator.random((count, 3))
    rows[:, 1] = generator.integers(3, size=count)
    rows[rows[:, 1] == 0, 2] = np.nan  # the third field applies with two of three choices
    return rows


def test_the_gradient_is_that_of_the_posterior():
    rows, process = draw_rows(12), GaussianProcess(IS_CHOICE)
    values = np.random.default_rng(1).standard_normal(12)
    distances = process._measure(rows, rows)

    def objective(vector):
        return process._negative_log_posterior(vector, rows[:, 0], values, distances)

    vector = process.hyperparameters.to_vector() + 0.3
    error = check_grad(lambda v: objective(v)[0], lambda v: objective(v)[1], vector)
    assert error < 1e-4


def test_the_distances_of_ranges_choices_and_absent_fields():
    rows = np.array([[0.0, 1, 0.2], [0.5, 2, 0.6], [0.5, 0, np.nan], [0.5, 0, np.nan]])
    distances = GaussianProcess(IS_CHOICE)._measure(rows, rows)
    assert distances[0, 0].tolist() == [0, 0.25, 0.25, 0.25]
    assert distances[1, 0].tolist() == [0, 1, 1, 1]
    assert distances[2, 0] == pytest.approx([0, 0.16, 1, 1])
    assert distances[2, 2].tolist() == [1, 1, 0, 0], "two absent fields are equal"


def test_the_predictions_are_those_of_the_formula():
    rows, second_rows, process = draw_rows(8), draw_rows(5, seed=2), GaussianProcess(IS_CHOICE)
    process.hyperparameters = Hyperparameters(0.3, np.array([1.0, -0.5, 0.2]), -2.0, 0.7)
    values = np.random.default_rng(3).standard_normal(8)
    weights = np.exp([1.0, -0.5, 0.2])

    def covariance(first, second):
        r = np.sqrt(np.tensordot(weights, process._measure(first, second), 1))
        matern = np.exp(0.3) * (1 + 5**0.5 * r + 5 / 3 * r**2) * np.exp(-(5**0.5) * r)
        return matern + MEAN_VARIANCE + SLOPE_VARIANCE * np.outer(first[:, 0] - 0.5, second[:, 0] - 0.5)

    noisy = covariance(rows, rows) + np.diag(np.exp(-2 + 0.7 * rows[:, 0]))
    cross = covariance(second_rows, rows)
    mean, deviation = process.condition(rows, values).predict(second_rows)
    assert mean == pytest.approx(cross @ np.linalg.solve(noisy, values), rel=1e-5)
    expected = covariance(second_rows, second_rows) - cross @ np.linalg.solve(noisy, cross.T)
    assert deviation == pytest.approx(np.sqrt(np.diag(expected)), rel=1e-4)


def test_a_fit_learns_which_field_matters():
    generator = np.random.default_rng(4)
    rows = generator.random((80, 3))
    rows[:, 1] = generator.integers(2, size=80)
    values = 3 * rows[:, 0] + 2 * np.sin(6 * rows[:, 2]) + 0.05 * generator.standard_normal(80)
    process = GaussianProcess(IS_CHOICE)
    process.fit(rows, values)
    range_weight, choice_weight = process.hyperparameters.log_weights[2], process.hyperparameters.log_weights[1]
    assert range_weight > choice_weight + 1
    mean, _ = process.condition(rows, values).predict(np.array([[0.5, 0, 0.25]]))
    assert mean[0] == pytest.approx(1.5 + 2 * np.sin(1.5), abs=0.1)


def test_a_residual_is_that_of_a_process_without_the_rows():
    generator = np.random.default_rng(0)
    rows, values = generator.random((12, 2)), generator.standard_normal(12)
    process = GaussianProcess(np.array([False, False]))
    posterior = process.condition(rows, values)
    left_out = [3, 5, 8]
    kept = np.setdiff1d(np.arange(12), left_out)
    without = process.condition(rows[kept], values[kept])
    mean, deviation = without.predict(rows[[3]])
    expected = (values[3] - mean[0]) / np.hypot(deviation[0], without.noise_deviation(rows[[3]])[0])
    assert posterior.measure_residuals([left_out]) == pytest.approx([expected], rel=1e-5)


def test_covariances_agree_with_deviations():
    generator = np.random.default_rng(0)
    rows, values = generator.random((12, 2)), generator.standard_normal(12)
    posterior = GaussianProcess(np.array([False, False])).condition(rows, values)
    queried = generator.random((4, 2))
    covariance = posterior.measure_covariance(queried, queried)
    assert np.diag(covariance) == pytest.approx(posterior.predict(queried)[1] ** 2, rel=1e-6)
    assert covariance == pytest.approx(covariance.T)
    assert abs(posterior.measure_covariance(queried[:1], queried[1:2])[0, 0] - covariance[0, 1]) < 1e-9


def test_a_field_may_have_a_prior_of_its_own():
    process = GaussianProcess(np.array([False, True]), np.array([np.nan, 0.01]))
    rows = np.array([[0.5, 0.0], [0.5, 1.0]])
    usual = GaussianProcess(np.array([False, True]))
    assert usual.correlate(rows, rows)[0, 1] < 0.8 < 0.98 < process.correlate(rows, rows)[0, 1]
