"""Fresh seeds: the noise of each point, collapses apart, probabilities to belong to the front."""

import numpy as np
import pandas as pd
import pytest
from scipy import stats
from shared_constants import DEFAULT_OBJECTIVES

from forcetune.analysis import add_seed_estimates, estimate_from_seeds, front, has_collapsed, select_kept
from forcetune.analysis.rates import clopper_pearson
from forcetune.analysis.seed_noise import estimate_noise

POINT_DENSITIES = np.array([0.1, 0.11, 0.12, 0.13])


def estimate(accuracies_by_point, densities=POINT_DENSITIES, searched=None, lives=None):
    runs = [
        np.array([[a, d] for a in accuracies]).reshape(-1, 2)
        for accuracies, d in zip(accuracies_by_point, densities, strict=True)
    ]
    accuracies = [np.nanmean(row) if len(row) else 0.5 for row in accuracies_by_point] if searched is None else searched
    values = np.column_stack([accuracies, densities])
    return estimate_from_seeds(values, densities, runs, DEFAULT_OBJECTIVES, lives)


def make_runs(mean, deviation):
    """Return three accuracies with this mean and standard deviation."""
    return [mean - deviation, mean, mean + deviation]


def test_a_noisy_point_has_its_own_noise():
    estimates = estimate([make_runs(0.8, 0.01), make_runs(0.8, 0.01), make_runs(0.8, 0.01), make_runs(0.8, 0.06)])
    half = (estimates.high - estimates.low)[:, 0] / 2
    student = stats.t.ppf(0.975, 2) / np.sqrt(3)
    assert half[3] > 0.75 * student * 0.06, "its neighbours make it no quiet point"
    assert half[0] < student * 0.01 * 1.5


def test_a_point_that_seems_quiet_has_the_noise_of_its_neighbours():
    estimates = estimate([make_runs(0.8, 0.01), make_runs(0.8, 0.01), make_runs(0.8, 0.01), make_runs(0.8, 0.0001)])
    half = (estimates.high - estimates.low)[:, 0] / 2
    assert half[3] > 10 * stats.t.ppf(0.975, 2) * 0.0001 / np.sqrt(3)


def test_neighbours_narrow_an_interval():
    alone = estimate([make_runs(0.8, 0.01)], POINT_DENSITIES[:1])
    together = estimate([make_runs(0.8, 0.01)] * 4)
    assert (together.high - together.low)[0, 0] < 0.95 * (alone.high - alone.low)[0, 0]


def test_an_objective_without_noise_has_no_interval():
    estimates = estimate([make_runs(0.8, 0.01)] * 4)
    assert (estimates.low[:, 1] == estimates.high[:, 1]).all()
    assert np.allclose(estimates.low[:, 1], POINT_DENSITIES)


def test_equal_accuracies_are_no_certainty():
    estimates = estimate([make_runs(0.8, 0.01), make_runs(0.8, 0.01), [0.7, 0.7, 0.7], []])
    assert (estimates.high - estimates.low)[2, 0] > 0.005, "accuracies count images and can be equal by chance"


def test_a_point_with_one_seed_has_the_noise_of_its_neighbours():
    noise = estimate_noise(
        np.log10(POINT_DENSITIES), [np.array([[0.1], [0.2], [0.3]])] * 3 + [np.array([[0.5]])], np.array([False])
    )
    assert noise.typical[3, 0] == pytest.approx(noise.typical[0, 0], rel=0.25)


def test_collapsed_seeds_are_counted_apart():
    lives = [[True, False, True], [True] * 3, [True] * 3, [False] * 3]
    runs = [[0.8, 0.1, 0.82], make_runs(0.8, 0.01), make_runs(0.75, 0.01), [0.1, 0.1, 0.1]]
    estimates = estimate(runs, lives=lives, searched=[0.81, 0.8, 0.75, 0.9])
    assert estimates.mean[0, 0] == pytest.approx(0.81)
    assert estimates.high[0, 0] - estimates.low[0, 0] < 0.2, "the collapse is no noise"
    assert list(estimates.seeds) == [3, 3, 3, 3]
    assert list(estimates.collapsed) == [1, 0, 0, 3]
    assert estimates.mean[3, 0] == pytest.approx(0.1), "where none lives, what they count with"
    assert estimates.probability[3] < 0.3
    assert 0.5 < estimates.probability[0] < 1


def test_the_interval_of_the_share_of_collapses_is_that_of_clopper_and_pearson():
    count, total = np.array([0, 1, 3, 0]), np.array([3, 5, 3, 0])
    low, high = clopper_pearson(count, total)
    for index in range(3):
        exact = stats.binomtest(int(count[index]), int(total[index])).proportion_ci(0.95, method="exact")
        assert (low[index], high[index]) == pytest.approx((exact.low, exact.high))
    assert np.isnan([low[3], high[3]]).all()


@pytest.mark.parametrize(
    ("outcome", "reason", "expected"),
    [
        ("trained", None, False),
        ("collapsed", "no weight of fc1 is kept", True),
        ("infeasible", "macs<1", False),
        ("failed", "Diverged: the training loss became nan in epoch 2", True),
        ("failed", "the objective val_loss became inf", True),
        ("failed", "OutOfMemoryError: ...", False),
        (None, None, False),
    ],
)
def test_what_counts_as_collapsed(outcome, reason, expected):
    assert has_collapsed(outcome, reason) is expected


def make_trials():
    trials = pd.DataFrame(
        {"val_accuracy": [0.9, 0.8], "density": [0.2, 0.1], "outcome": "trained", "trial": ["a", "b"]}
    )
    return trials.assign(sparsity=1 - trials["density"], run_id=trials["trial"])


def make_reruns(*runs):
    return pd.DataFrame(runs, columns=["of", "density", "val_accuracy", "outcome", "reason"])


DIVERGED = "Diverged: the training loss became nan in epoch 2"
LIVING_RERUNS = [("a", 0.2, 0.9 + shift, "trained", None) for shift in (-0.01, 0, 0.01)]


def test_a_point_of_which_most_seeds_collapse_is_on_no_front():
    collapsed = [
        ("b", 0.1, 0.1, "collapsed", "r"),
        ("b", 0.1, 0.5, "failed", DIVERGED),
        ("b", 0.1, 0.8, "trained", None),
    ]
    trials = add_seed_estimates(make_trials(), make_reruns(*LIVING_RERUNS, *collapsed), DEFAULT_OBJECTIVES)
    assert trials["collapsed_seeds"].tolist() == [0, 2]
    assert trials["val_accuracy_mean"][1] == pytest.approx(0.8), "what was logged before it diverged counts nowhere"
    assert list(front(trials, DEFAULT_OBJECTIVES)["trial"]) == ["a"]
    assert list(select_kept(trials, DEFAULT_OBJECTIVES, "front", True)["trial"]) == ["a"]
    assert list(select_kept(trials, DEFAULT_OBJECTIVES, "all", True)["trial"]) == ["a", "b"]
    assert trials["front_probability"][0] == 1


def test_a_point_of_which_half_the_seeds_live_stays_on_the_front():
    half = [("b", 0.1, 0.1, "collapsed", "r"), ("b", 0.1, 0.8, "trained", None)]
    trials = add_seed_estimates(make_trials(), make_reruns(*LIVING_RERUNS, *half), DEFAULT_OBJECTIVES)
    assert list(front(trials, DEFAULT_OBJECTIVES)["trial"]) == ["a", "b"]
    assert trials["collapse_low"][1] == pytest.approx(0.0126, abs=1e-3)
    assert trials["collapse_high"][1] == pytest.approx(0.9874, abs=1e-3)


def test_a_trained_network_that_guesses_has_collapsed():
    guessing = [("b", 0.1, 0.11, "trained", None), ("b", 0.1, 0.8, "trained", None)]
    reruns = make_reruns(*LIVING_RERUNS, *guessing)
    trials = add_seed_estimates(make_trials(), reruns, DEFAULT_OBJECTIVES, {"val_accuracy": 0.1, "density": 0.5})
    assert (trials["collapsed_seeds"][1], trials["val_accuracy_mean"][1]) == (1, 0.8)
    assert add_seed_estimates(make_trials(), reruns, DEFAULT_OBJECTIVES)["collapsed_seeds"][1] == 0, (
        "nothing says what guessing is"
    )


def test_reruns_that_failed_or_run_say_nothing():
    silent = [("b", 0.1, 0.7, "failed", "OSError: disk"), ("b", 0.1, 0.7, None, None)]
    trials = add_seed_estimates(make_trials(), make_reruns(*LIVING_RERUNS, *silent), DEFAULT_OBJECTIVES)
    assert trials["seeds"].tolist() == [3, 0]


def test_a_lucky_search_is_drawn_to_its_neighbours():
    """One of ten trials of equal density stands out in the search by two deviations, and has no seed yet."""
    densities = np.full(10, 0.1) + np.arange(10) * 1e-6
    searched = np.array([0.80, 0.80, 0.81, 0.79, 0.80, 0.81, 0.79, 0.80, 0.80, 0.82])
    runs = [make_runs(0.8, 0.01)] * 4 + [[]] * 6
    estimates = estimate(runs, densities, searched)
    normal = np.random.default_rng(0).normal(searched, 0.01, size=(4000, 10))
    naive = (normal[:, 9] > normal[:, :9].max(1)).mean()
    assert 0.02 < estimates.probability[9] < naive


def test_points_whose_seeds_all_collapse():
    collapsed, alive = np.zeros(3, bool), np.ones(3, bool)
    estimates = estimate([[0.1] * 3] * 4, searched=[0.8] * 4, lives=[collapsed] * 4)
    assert estimates.collapsed.tolist() == [3] * 4
    assert np.isnan([estimates.probability, estimates.low[:, 0], estimates.high[:, 0]]).all()
    accuracies = [[0.1] * 3, [0.1] * 3, [0.1] * 3, make_runs(0.7, 0.01)]
    estimates = estimate(accuracies, searched=[0.8] * 4, lives=[collapsed] * 3 + [alive])
    assert (estimates.probability[:3] < 0.5).all()
    assert estimates.probability[3] > 0.5


def test_neither_the_unit_nor_the_direction_of_an_objective_matters():
    accuracies = [make_runs(0.8, 0.01), make_runs(0.82, 0.02), make_runs(0.79, 0.01), make_runs(0.83, 0.01)]
    expected = estimate(accuracies)
    losses = [np.array([[5 - 100 * a, d] for a in runs]) for runs, d in zip(accuracies, POINT_DENSITIES, strict=True)]
    values = np.array([sample.mean(0) for sample in losses])
    estimates = estimate_from_seeds(values, POINT_DENSITIES, losses, {"val_loss": "min", "density": "min"})
    assert estimates.probability == pytest.approx(expected.probability, abs=0.005)
    assert estimates.high[:, 0] == pytest.approx(5 - 100 * expected.low[:, 0])
    assert estimates.probability.min() < 0.5 < estimates.probability.max()
