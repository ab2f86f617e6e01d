"""Fronts of tables, estimates from fresh seeds, and hypervolumes."""

import numpy as np
import pandas as pd
import pytest
from shared_constants import DEFAULT_OBJECTIVES

from forcetune.analysis import add_seed_estimates, estimate_from_seeds, front, hypervolume, non_dominated, where


def make_table(*rows):
    columns = ["method", "density", "val_accuracy", "outcome"]
    return pd.DataFrame(rows, columns=columns).assign(sparsity=lambda t: 1 - t["density"])


FRONT_ROWS = [
    ("snip", 0.5, 0.99, "trained"),
    ("force", 0.05, 0.90, "trained"),
    ("random", 0.05, 0.80, "trained"),  # worse at the same density
    ("force", 0.1, 0.90, "trained"),  # denser for the same accuracy
    ("synflow", 0.01, 0.60, "trained"),
    ("snip", 0.005, 0.10, "collapsed"),  # sparsest, but never trained
    ("snip", 0.004, 0.95, "stopped"),
    ("grasp", 0.003, np.nan, "trained"),
]


def test_the_front_has_the_trained_trials_that_none_dominates():
    front_rows = front(make_table(*FRONT_ROWS), DEFAULT_OBJECTIVES)
    assert list(front_rows["density"]) == [0.5, 0.05, 0.01]
    assert list(front_rows["method"]) == ["snip", "force", "synflow"]


def test_equal_rows_stay_together():
    twins = [("snip", 0.1, 0.9, "trained"), ("force", 0.1, 0.9, "trained")]
    assert len(front(make_table(*twins), DEFAULT_OBJECTIVES)) == 2


def test_one_objective_keeps_the_best():
    assert list(front(make_table(*FRONT_ROWS), {"val_accuracy": "max"})["density"]) == [0.5]


@pytest.mark.parametrize(
    ("conditions", "densities"),
    [
        (["sparsity>=0.95"], [0.05, 0.01]),  # in floating point, 1 - 0.05 is slightly less than 0.95
        (["sparsity>=0.951"], [0.01]),
        (["val_accuracy>=0.9"], [0.5, 0.05]),
        (["method=force"], [0.05]),
        (["method=random"], [0.05]),  # on the front of random pruning, not on the study's
        (["val_accuracy>=0.999"], []),
    ],
)
def test_the_front_of_trials_that_meet_the_conditions(conditions, densities):
    assert list(front(where(make_table(*FRONT_ROWS), conditions), DEFAULT_OBJECTIVES)["density"]) == densities


def test_the_front_of_an_empty_table_is_empty():
    assert front(pd.DataFrame(), DEFAULT_OBJECTIVES).empty


def test_non_dominated_agrees_with_the_definition():
    values = np.random.default_rng(0).integers(0, 6, size=(60, 3)).astype(float)
    directions = ["max", "min", "max"]
    signs = np.array([1, -1, 1])

    def is_dominated(row):
        return any((signs * other >= signs * row).all() and (other != row).any() for other in values)

    assert list(non_dominated(values, directions)) == [not is_dominated(row) for row in values]


# The accuracy that the first seed reached at each density, and the density
FIRST_SEED_POINTS = np.array([[0.90, 0.4], [0.80, 0.2], [0.79, 0.21], [0.50, 0.3]])


def estimate_points(fresh_runs):
    runs = [
        np.array([[accuracy, density] for accuracy in accuracies]).reshape(-1, 2)
        for accuracies, (_, density) in fresh_runs
    ]
    return estimate_from_seeds(FIRST_SEED_POINTS, FIRST_SEED_POINTS[:, 1], runs, DEFAULT_OBJECTIVES)


def test_points_without_fresh_seeds_have_no_intervals():
    estimates = estimate_points([([], point) for point in FIRST_SEED_POINTS])
    assert list(estimates.seeds) == [0, 0, 0, 0]
    assert np.allclose(estimates.mean, FIRST_SEED_POINTS)
    assert np.isnan(estimates.probability).all()
    assert np.isnan(estimates.low).all()


def test_the_seed_that_chose_a_point_is_left_out():
    estimates = estimate_points(
        [([0.86, 0.88], FIRST_SEED_POINTS[0]), *(([], point) for point in FIRST_SEED_POINTS[1:])]
    )
    assert estimates.mean[0] == pytest.approx([0.87, 0.4])
    assert list(estimates.seeds) == [2, 0, 0, 0]


def test_the_interval_of_a_single_point_is_students_t():
    from scipy import stats

    seeds = [0.80, 0.82, 0.84, 0.81, 0.83]
    estimates = estimate_from_seeds(
        FIRST_SEED_POINTS[:1], FIRST_SEED_POINTS[:1, 1], [np.array([[s, 0.4] for s in seeds])], DEFAULT_OBJECTIVES
    )
    low, high = stats.t.interval(0.95, 4, np.mean(seeds), stats.sem(seeds))
    assert (estimates.low[0, 0], estimates.high[0, 0]) == pytest.approx((low, high))
    assert estimates.low[0, 1] == estimates.high[0, 1] == pytest.approx(0.4), "the density never varied"


def test_intervals_hold_the_mean_as_often_as_they_say():
    generator = np.random.default_rng(0)
    truth = np.array([[0.9, 0.4], [0.8, 0.2], [0.7, 0.1]])
    covered = []
    for _ in range(200):  # of three points: the share has a standard error of 0.009
        runs = [np.column_stack([a + 0.02 * generator.standard_normal(3), [d] * 3]) for a, d in truth]
        estimates = estimate_from_seeds(truth, truth[:, 1], runs, DEFAULT_OBJECTIVES)
        covered += list((estimates.low[:, 0] <= truth[:, 0]) & (truth[:, 0] <= estimates.high[:, 0]))
    assert np.mean(covered) == pytest.approx(0.95, abs=0.02)


def test_the_probability_to_stand_on_the_front():
    fresh_runs = [
        ([0.90, 0.91, 0.89], FIRST_SEED_POINTS[0]),
        ([0.80, 0.82, 0.78], FIRST_SEED_POINTS[1]),
        ([0.80, 0.82, 0.78], FIRST_SEED_POINTS[2]),
    ]
    estimates = estimate_points([*fresh_runs, ([], FIRST_SEED_POINTS[3])])
    assert estimates.probability[0] == 1, "no other point is close"
    assert estimates.probability[1] == 1, "the sparsest point is on the front at any accuracy"
    assert 0.3 < estimates.probability[2] < 0.75, "denser and as accurate, where denser points are more accurate"
    assert estimates.probability[3] == 0


def test_estimates_from_reruns_are_added_to_a_table():
    rows = make_table(("snip", 0.4, 0.9, "trained"), ("snip", 0.2, 0.85, "trained"), ("snip", 0.1, 0.5, "stopped"))
    rows["trial"] = ["a", "b", "c"]
    rerun_rows = [("a", 0.4, 0.80), ("a", 0.4, 0.82), ("b", 0.2, 0.84), ("b", 0.2, 0.86), ("b", 0.2, np.nan)]
    reruns = pd.DataFrame(rerun_rows, columns=["of", "density", "val_accuracy"])
    estimated_rows = add_seed_estimates(rows, reruns, DEFAULT_OBJECTIVES)
    assert list(estimated_rows["seeds"][:2]) == [2, 2]
    assert pd.isna(estimated_rows["seeds"][2])
    assert estimated_rows["val_accuracy_mean"][0] == pytest.approx(0.81)
    assert list(front(estimated_rows, DEFAULT_OBJECTIVES)["trial"]) == ["b"], "by its mean the denser trial is worse"
    assert list(front(rows, DEFAULT_OBJECTIVES)["trial"]) == ["a", "b"]
    accurate = where(estimated_rows, ["val_accuracy>=0.82"])
    assert list(front(accurate, DEFAULT_OBJECTIVES)["trial"]) == ["b"]
    assert add_seed_estimates(rows, None, DEFAULT_OBJECTIVES) is rows


def test_hypervolume_counts_density_by_its_logarithm():
    points = np.array([[0.5, 0.05], [0.3, 0.005]])
    references = {"val_accuracy": 0.1, "density": 0.5}
    assert hypervolume(points, DEFAULT_OBJECTIVES, references) == pytest.approx(0.4 * 1 + 0.2 * 1)
    assert hypervolume(np.array([[0.05, 0.6]]), DEFAULT_OBJECTIVES, references) == 0
    assert hypervolume(points[:0], DEFAULT_OBJECTIVES, references) == 0
    latency_volume = hypervolume(np.array([[3.0]]), {"latency_ms": "min"}, {"latency_ms": 10.0})
    assert latency_volume == pytest.approx(7), "other objectives are not scaled"


def test_a_collapsed_rerun_of_effective_density_zero_is_counted():
    directions = {"val_accuracy": "max", "effective_density": "min"}
    runs = [np.array([[0.1, 0.0], [0.5, 0.01]])]
    estimates = estimate_from_seeds(np.array([[0.5, 0.01]]), np.array([0.01]), runs, directions)
    assert np.isfinite([estimates.low, estimates.high]).all()
    assert estimates.mean[0, 0] == pytest.approx(0.3)
