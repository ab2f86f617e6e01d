"""The front of a table."""

import numpy as np
import pandas as pd
import pytest

from forcetune.analysis import add_seed_estimates, best, estimate_from_seeds, front, hypervolume, non_dominated, where

OBJECTIVES = {"val_accuracy": "max", "density": "min"}


def table(*rows):
    columns = ["method", "density", "val_accuracy", "outcome"]
    made = pd.DataFrame(rows, columns=columns).assign(sparsity=lambda t: 1 - t["density"])
    made.attrs["objectives"] = OBJECTIVES
    return made


ROWS = [
    ("snip", 0.5, 0.99, "trained"),
    ("force", 0.05, 0.90, "trained"),
    ("random", 0.05, 0.80, "trained"),  # worse at the same density
    ("force", 0.1, 0.90, "trained"),  # denser for the same accuracy
    ("synflow", 0.01, 0.60, "trained"),
    ("snip", 0.005, 0.10, "collapsed"),  # sparsest, but never trained
    ("snip", 0.004, 0.95, "stopped"),
    ("grasp", 0.003, np.nan, "trained"),
]


def test_front():
    found = front(table(*ROWS), OBJECTIVES)
    assert list(found["density"]) == [0.5, 0.05, 0.01]
    assert list(found["method"]) == ["snip", "force", "synflow"]


def test_equal_rows_stay_together():
    twins = [("snip", 0.1, 0.9, "trained"), ("force", 0.1, 0.9, "trained")]
    assert len(front(table(*twins), OBJECTIVES)) == 2


def test_one_objective_keeps_the_best():
    assert list(front(table(*ROWS), {"val_accuracy": "max"})["density"]) == [0.5]


@pytest.mark.parametrize(
    ("conditions", "densities"),
    [
        (["sparsity>=0.95"], [0.05, 0.01]),  # 1 - 0.05 is a hair less than 0.95 in floating point
        (["sparsity>=0.951"], [0.01]),
        (["val_accuracy>=0.9"], [0.5, 0.05]),
        (["method=force"], [0.05]),
        (["method=random"], [0.05]),  # the front of its own trials, though off the study's
        (["val_accuracy>=0.999"], []),
    ],
)
def test_best_of_what_meets_the_conditions(conditions, densities):
    assert list(best(where(table(*ROWS), conditions))["density"]) == densities


def test_empty_table():
    empty = pd.DataFrame()
    empty.attrs["objectives"] = OBJECTIVES
    assert best(empty).empty


def test_non_dominated_agrees_with_the_definition():
    values = np.random.default_rng(0).integers(0, 6, size=(60, 3)).astype(float)
    ways = ["max", "min", "max"]
    signs = np.array([1, -1, 1])

    def dominated(row):
        return any((signs * other >= signs * row).all() and (other != row).any() for other in values)

    assert list(non_dominated(values, ways)) == [not dominated(row) for row in values]


# Accuracies of one seed at each density, and of the fresh ones
POINTS = np.array([[0.90, 0.4], [0.80, 0.2], [0.79, 0.21], [0.50, 0.3]])


def belief(fresh):
    runs = [np.array([[accuracy, density] for accuracy in found]).reshape(-1, 2) for found, (_, density) in fresh]
    return estimate_from_seeds(POINTS, POINTS[:, 1], runs, OBJECTIVES)


def test_nothing_is_believed_of_single_seeds():
    found = belief([([], point) for point in POINTS])
    assert list(found.seeds) == [0, 0, 0, 0]
    assert np.allclose(found.mean, POINTS)
    assert np.isnan(found.probability).all()
    assert np.isnan(found.low).all()


def test_the_seed_that_chose_a_point_is_left_out():
    found = belief([([0.86, 0.88], POINTS[0]), *(([], point) for point in POINTS[1:])])
    assert found.mean[0] == pytest.approx([0.87, 0.4])
    assert list(found.seeds) == [2, 0, 0, 0]


def test_the_interval_is_students_where_one_point_has_all_seeds():
    from scipy import stats

    seeds = [0.80, 0.82, 0.84, 0.81, 0.83]
    found = estimate_from_seeds(POINTS[:1], POINTS[:1, 1], [np.array([[s, 0.4] for s in seeds])], OBJECTIVES)
    low, high = stats.t.interval(0.95, 4, np.mean(seeds), stats.sem(seeds))
    assert (found.low[0, 0], found.high[0, 0]) == pytest.approx((low, high))
    assert found.low[0, 1] == found.high[0, 1] == pytest.approx(0.4), "the density never varied"


def test_intervals_hold_the_mean_as_often_as_they_say():
    generator = np.random.default_rng(0)
    truth = np.array([[0.9, 0.4], [0.8, 0.2], [0.7, 0.1]])
    held = []
    for _ in range(400):
        runs = [np.column_stack([a + 0.02 * generator.standard_normal(3), [d] * 3]) for a, d in truth]
        found = estimate_from_seeds(truth, truth[:, 1], runs, OBJECTIVES)
        held += list((found.low[:, 0] <= truth[:, 0]) & (truth[:, 0] <= found.high[:, 0]))
    assert np.mean(held) == pytest.approx(0.95, abs=0.02)


def test_the_probability_to_stand_on_the_front():
    fresh = [([0.90, 0.91, 0.89], POINTS[0]), ([0.80, 0.82, 0.78], POINTS[1]), ([0.80, 0.82, 0.78], POINTS[2])]
    found = belief([*fresh, ([], POINTS[3])])
    assert found.probability[0] == 1, "nothing comes near"
    assert found.probability[1] == 1, "the sparsest stands whatever it reaches"
    assert found.probability[2] == pytest.approx(0.5, abs=0.06), "denser, and as good"
    assert found.probability[3] == 0


def test_a_table_with_its_reruns():
    rows = table(("snip", 0.4, 0.9, "trained"), ("snip", 0.2, 0.85, "trained"), ("snip", 0.1, 0.5, "stopped"))
    rows["trial"] = ["a", "b", "c"]
    told = [("a", 0.4, 0.80), ("a", 0.4, 0.82), ("b", 0.2, 0.84), ("b", 0.2, 0.86), ("b", 0.2, np.nan)]
    reruns = pd.DataFrame(told, columns=["of", "density", "val_accuracy"])
    found = add_seed_estimates(rows, reruns)
    assert list(found["seeds"][:2]) == [2, 2]
    assert pd.isna(found["seeds"][2])
    assert found["val_accuracy_mean"][0] == pytest.approx(0.81)
    assert list(best(found)["trial"]) == ["b"], "by the means the denser one is worse"
    assert list(best(rows)["trial"]) == ["a", "b"]
    assert best(where(found, ["val_accuracy>=0.82"]))["trial"].tolist() == ["b"]
    assert add_seed_estimates(rows, None) is rows


def test_hypervolume_counts_density_by_its_logarithm():
    points = np.array([[0.5, 0.05], [0.3, 0.005]])
    references = {"val_accuracy": 0.1, "density": 0.5}
    assert hypervolume(points, OBJECTIVES, references) == pytest.approx(0.4 * 1 + 0.2 * 1)
    assert hypervolume(np.array([[0.05, 0.6]]), OBJECTIVES, references) == 0
    assert hypervolume(points[:0], OBJECTIVES, references) == 0
    latency = hypervolume(np.array([[3.0]]), {"latency_ms": "min"}, {"latency_ms": 10.0})
    assert latency == pytest.approx(7), "any other as it is"


def test_a_collapsed_rerun_of_effective_density_zero_is_counted():
    directions = {"val_accuracy": "max", "effective_density": "min"}
    runs = [np.array([[0.1, 0.0], [0.5, 0.01]])]
    found = estimate_from_seeds(np.array([[0.5, 0.01]]), np.array([0.01]), runs, directions)
    assert np.isfinite([found.low, found.high]).all()
    assert found.mean[0, 0] == pytest.approx(0.3)
