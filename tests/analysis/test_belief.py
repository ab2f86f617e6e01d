"""The belief about the front: the area that a trial adds, bounds of stopped trials, and conditional fields."""

import numpy as np
import pytest
from scipy.special import expit, logit

from forcetune.analysis.belief import Belief, Field, Observations, Space, Staircase

SPACE = Space(
    [
        Field("density", low=0.01, high=1.0, log=True),
        Field("method", choices=("random", "force")),
        Field("iterations", low=1, high=100, log=True, conditions={"method": ["force"]}),
    ]
)


def observe(*points, bounds=()):
    rows = [SPACE.scale({"density": density, "method": "random"}) for density, _ in points]
    return Observations(
        np.array(rows),
        np.array([quality for _, quality in points]),
        np.array([row[0] for row in rows]),
        np.array([i in bounds for i in range(len(points))]),
    )


def test_values_and_rows():
    row = SPACE.scale({"density": 0.1, "method": "force", "iterations": 10})
    assert row == pytest.approx([0.5, 1, 0.5])
    assert SPACE.unscale(row) == {"density": pytest.approx(0.1), "method": "force", "iterations": pytest.approx(10)}
    assert np.isnan(SPACE.scale({"density": 0.1, "method": "random"})[2])
    assert SPACE.unscale(SPACE.scale({"density": 1.0, "method": "random"})) == {"density": 1.0, "method": "random"}


def test_drawn_and_moved_configurations_have_the_fields_that_apply():
    generator = np.random.default_rng(0)
    drawn = SPACE.draw(generator.random((200, 3)))
    for rows in (drawn, SPACE.perturb(drawn, 0.5, generator)):
        assert np.array_equal(np.isnan(rows[:, 2]), rows[:, 1] == 0)
        assert 0 <= rows[:, 0].min() < rows[:, 0].max() <= 1
        assert {*rows[:, 1]} == {0.0, 1.0}


def test_the_staircase_is_the_best_so_far():
    costs, qualities = np.array([0.5, 0.2, 0.8, 0.2, 0.9]), np.array([0.7, 0.4, 0.6, 0.3, 0.9])
    staircase = Staircase.from_points(costs, qualities, chance=0.1)
    assert staircase.starts.tolist() == [-np.inf, 0.2, 0.5, 0.9]
    assert staircase.heights.tolist() == [0.1, 0.4, 0.7, 0.9]
    assert staircase.measure_lengths(np.array([0.3]))[0] == pytest.approx([0, 0.2, 0.4, 0.1])
    assert staircase.measure_lengths(np.array([0.0]))[0] == pytest.approx([0.2, 0.3, 0.4, 0.1])
    focused = Staircase.from_points(costs, qualities, 0.1, low=0.4, high=0.6)
    assert focused.measure_lengths(np.array([0.0]))[0] == pytest.approx([0, 0.1, 0.1, 0])


def test_the_expected_gain_is_the_mean_of_drawn_gains():
    belief = Belief(SPACE, chance=0.1)
    belief.condition(observe((0.02, 0.3), (0.1, 0.6), (0.5, 0.8)))
    row = SPACE.scale({"density": 0.05, "method": "random"})[None]
    costs, heights = observe((0.02, 0.3), (0.1, 0.6), (0.5, 0.8)).costs, np.array([0.3, 0.6, 0.8])
    staircase = Staircase.from_points(costs, heights, 0.1)
    mean, deviation = belief.predict(row)
    qualities = 0.1 + 0.9 * expit(np.random.default_rng(0).normal(mean[0], deviation[0], 200_000))

    def area(quality):
        """The integral over the density from that of the trial to the highest, on a fine grid."""
        grid = np.linspace(row[0, 0], 1, 2001)[:-1]
        front = np.array([max([0.1, *heights[costs <= u]]) for u in grid])
        return np.maximum(quality - front, 0).mean() * (1 - row[0, 0])

    table = np.interp(qualities, levels := np.linspace(0.1, 1, 901), [area(level) for level in levels])
    assert belief.expect_gain(row, row[:, 0], staircase)[0] == pytest.approx(table.mean(), rel=0.02)


def test_a_dominated_configuration_is_worth_less():
    belief = Belief(SPACE, chance=0.1)
    observations = observe((0.01, 0.5), (0.02, 0.9), (0.1, 0.91), (0.5, 0.92), (1.0, 0.93))
    belief.condition(observations)
    staircase = Staircase.from_points(observations.costs, observations.qualities, 0.1)
    rows = np.array([SPACE.scale({"density": density, "method": "random"}) for density in (0.012, 0.9)])
    gains = belief.expect_gain(rows, rows[:, 0], staircase)
    assert gains[0] > 5 * gains[1] > 0


def test_a_stopped_trial_is_a_bound_and_not_an_end():
    """The others say 0.8 there; a trial that was stopped at 0.3 does not pull that down, one that ended there does."""
    points = [(0.04, 0.8), (0.05, 0.8), (0.06, 0.8), (0.05, 0.3)]
    row, means = SPACE.scale({"density": 0.05, "method": "random"})[None], {}
    for bounds in ((), (3,)):
        belief = Belief(SPACE, chance=0.1)
        belief.condition(observe(*points, bounds=bounds))
        means[bounds] = belief.to_quality(belief.predict(row)[0])[0]
    assert means[()] < 0.7 < means[(3,)]


def test_qualities_are_clipped_between_chance_and_one():
    belief = Belief(SPACE, chance=0.1)
    assert belief.to_logit(np.array([0.0, 0.1, 0.55, 1.0])) == pytest.approx(logit([0.01, 0.01, 0.5, 0.99]))
    assert belief.to_quality(belief.to_logit(np.array([0.3]))) == pytest.approx([0.3])


def test_the_density_that_is_reached_follows_that_of_near_trials():
    """A small dense network reaches more than it asks for: the expected cost takes that from trials like it."""
    belief = Belief(SPACE, chance=0.1)
    rows = np.array([SPACE.scale({"density": 0.1, "method": method}) for method in ("random", "force")])
    rows[1, 2] = 0.5
    observations = Observations(rows, np.array([0.5, 0.5]), np.array([0.5, 0.9]), np.array([False, False]))
    near_random, near_force = rows + 0.01 * (np.arange(3) == 0)
    expected = belief.expect_costs(np.array([near_random, near_force]), observations)
    assert expected == pytest.approx([0.51, 0.91], abs=0.08)
