"""Effects of fields: planted effects are found at equal density, from pairs of trials where there are pairs."""

import itertools

import numpy as np
import pandas as pd
import pytest
from shared_constants import DEFAULT_OBJECTIVES

from forcetune import analysis
from forcetune.errors import InputError

EFFECT_FIELDS = ["model", "method", "density", "iterations", "schedule", "lr", "seed"]


def make_table(rows):
    frame = pd.DataFrame(rows).assign(outcome="trained", study="s")
    frame["iterations"] = frame["iterations"].astype("Int64")
    return frame


def compare_values(trials, field):
    return analysis.effects(trials, field, EFFECT_FIELDS)


def compute_accuracy(density):
    """Return an accuracy that falls with the density as in real studies."""
    return 0.95 / (1 + np.exp(-2.5 * (np.log10(density) + 2)))


def make_row(method, density, generator, seed=0, iterations=None, schedule=None, gain=0.0, lr=0.1, model="cnn"):
    noise = generator.normal(0, 0.01)
    fields = {"model": model, "method": method, "density": density, "iterations": iterations, "schedule": schedule}
    return {**fields, "lr": lr, "seed": seed, "val_accuracy": compute_accuracy(density) + gain + noise}


@pytest.fixture
def grid():
    """Return a grid of methods, densities and seeds; force is 4 points better with 20 iterations than with 5."""
    generator = np.random.default_rng(0)
    rows = []
    for density, seed in itertools.product([0.1, 0.03, 0.01], range(4)):
        seed_effect = generator.normal(0, 0.05)  # the effect of a seed on all of its trials
        rows.append(make_row("snip", density, generator, seed, gain=seed_effect))
        for iterations, schedule in itertools.product([5, 20], ["exponential", "linear"]):
            gain = seed_effect + (0.04 if iterations == 20 else 0)
            rows.append(make_row("force", density, generator, seed, iterations, schedule, gain))
    return make_table(rows)


def test_a_grid_is_paired_by_all_else(grid):
    effect = compare_values(grid, "iterations").iloc[0]
    assert (effect["better"], effect["worse"], effect["paired"]) == ("20", "5", "all else equal")
    assert (effect["pairs"], effect["trials"]) == (24, 48)
    assert effect["difference"] == pytest.approx(4, abs=0.6)
    assert effect["low"] < 4 < effect["high"]
    assert effect["p"] < 0.001


def test_fields_that_a_method_lacks_do_not_keep_it_from_being_paired(grid):
    effect = compare_values(grid, "method").iloc[0]
    assert (effect["better"], effect["worse"], effect["pairs"]) == ("force", "snip", 12)
    assert effect["difference"] == pytest.approx(2, abs=0.6), "the mean over the iterations of force"


def test_pairs_share_their_seed(grid):
    distinct_seeds = grid.assign(seed=range(len(grid)))
    assert "all else equal" not in set(compare_values(distinct_seeds, "iterations")["paired"])
    wide_effect = compare_values(distinct_seeds, "iterations").iloc[0]
    narrow_effect = compare_values(grid, "iterations").iloc[0]
    assert wide_effect["high"] - wide_effect["low"] > 2 * (narrow_effect["high"] - narrow_effect["low"])


def make_search(count=400, gain=0.03, generator=None):
    """Make the table of a search that draws densities.

    Exponential schedules are better in it, and they are tried more often at high densities.
    """
    generator = generator or np.random.default_rng(1)
    rows = []
    for _ in range(count):
        density = 10 ** generator.uniform(-3, -0.3)
        schedule = "exponential" if generator.random() < 0.3 + 0.4 * (density > 0.02) else "linear"
        schedule_gain = gain if schedule == "exponential" else 0.0
        steps, lr = int(generator.integers(2, 51)), float(generator.uniform(0.01, 0.5))
        rows.append(make_row("force", density, generator, 0, steps, schedule, schedule_gain, lr))
    return make_table(rows)


def test_a_search_is_paired_by_density():
    effect = compare_values(make_search(), "schedule").iloc[0]
    assert (effect["better"], effect["paired"]) == ("exponential", "like density")
    assert effect["difference"] == pytest.approx(3, abs=0.5)
    means = make_search().groupby("schedule")["val_accuracy"].mean()
    assert means["exponential"] - means["linear"] > 0.1, (
        "without pairs the schedule of the denser trials looks far better than it is"
    )


def test_few_trials_are_not_paired():
    effect = compare_values(make_search(14), "schedule").iloc[0]
    assert (effect["paired"], effect["pairs"]) == ("not", 0)
    assert effect["low"] < effect["difference"] < effect["high"]


def test_intervals_hold_the_effect_as_often_as_they_say():
    """Search thirty times: the share of intervals with the effect has a standard error of 0.04 where it is 0.95."""
    generator = np.random.default_rng(2)
    for count in (60, 300):
        covered = []
        for _ in range(30):
            effect = compare_values(make_search(count, 0.02, generator), "schedule").iloc[0]
            sign = 1 if effect["better"] == "exponential" else -1
            low, high = sorted((sign * effect["low"], sign * effect["high"]))
            covered.append(low <= 2 <= high)
        assert np.mean(covered) >= 0.85, count


def test_numbers_of_many_values_are_compared_in_thirds():
    effects = compare_values(make_search(), "iterations")
    assert len(effects) == 3
    levels = {*effects["better"], *effects["worse"]}
    assert len(levels) == 3
    assert all(" to " in level for level in levels)
    assert (effects["p"] > 0.01).all(), "no effect was planted"


def test_collapsed_trials_count_and_stopped_ones_do_not(grid):
    sparse = grid["density"] == 0.01
    snip = sparse & (grid["method"] == "snip")
    collapsed = grid.assign(
        outcome=np.where(snip, "collapsed", "trained"), val_accuracy=np.where(snip, 0.1, grid["val_accuracy"])
    )
    assert compare_values(collapsed, "method").iloc[0]["difference"] > 8
    stopped = collapsed.assign(outcome=np.where(snip, "stopped", "trained"))
    assert compare_values(stopped, "method").iloc[0]["pairs"] == 8


def test_a_model_is_compared_with_another_by_one_trend():
    generator = np.random.default_rng(3)
    rows = [make_row("snip", 10 ** generator.uniform(-2, -0.3), generator, model="cnn", gain=0.05) for _ in range(40)]
    rows += [make_row("snip", 10 ** generator.uniform(-2, -0.3), generator, model="mlp") for _ in range(40)]
    effect = compare_values(make_table(rows), "model").iloc[0]
    assert (effect["better"], effect["difference"]) == ("cnn", pytest.approx(5, abs=1))


@pytest.mark.parametrize(
    ("field", "message"),
    [
        ("schedul", "did you mean 'schedule'"),
        ("model", "effects of 'model' cannot"),
        ("density", "effects of 'density' cannot"),
    ],
)
def test_fields_without_an_effect_are_refused(grid, field, message):
    with pytest.raises(InputError, match=message):
        compare_values(grid, field)


def test_a_table_without_accuracies_is_refused(grid):
    with pytest.raises(InputError, match="val_accuracy"):
        compare_values(grid.assign(outcome="failed"), "method")


def test_accuracy_at_equal_density_has_no_trend_with_density():
    trials = make_search(gain=0.0)
    residuals = analysis.accuracy_at_equal_density(trials)
    assert abs(np.corrcoef(residuals, np.log10(trials["density"]))[0, 1]) < 0.15
    assert residuals.std() < 2, "in percent; the noise deviates by 1"
    assert analysis.accuracy_at_equal_density(trials.iloc[:9]).isna().all()
    assert analysis.accuracy_at_equal_density(trials.iloc[:0]).empty


def test_stopped_trials_have_an_accuracy_at_equal_density(grid):
    with_stopped = grid.assign(outcome=["stopped", *["trained"] * (len(grid) - 1)])
    with_stopped.loc[0, "val_accuracy"] = 0.0
    assert analysis.accuracy_at_equal_density(with_stopped)[0] < -50


def test_losses_rank_accuracy_among_trials_of_like_density():
    trials = make_search()
    losses = analysis.objective_losses(trials, DEFAULT_OBJECTIVES)
    assert list(losses) == ["val_accuracy", "density", "accuracy at equal density"]
    assert losses["val_accuracy"].equals(-trials["val_accuracy"])
    ranks = losses["accuracy at equal density"]
    assert ranks.between(0, 1).all()
    assert abs(np.corrcoef(ranks, np.log10(trials["density"]))[0, 1]) < 0.1
    exponential_rank = ranks[trials["schedule"] == "exponential"].mean()
    assert exponential_rank < ranks[trials["schedule"] == "linear"].mean() - 0.3


def test_a_small_dense_network_is_compared_as_a_method():
    generator = np.random.default_rng(1)
    densities = np.geomspace(0.01, 0.3, 12)
    rows = [make_row("snip", density, generator) for density in densities]
    rows += [{**make_row("random", density, generator, gain=0.05), "small_dense": "macs"} for density in densities]
    (effect,) = compare_values(make_table(rows), "method").to_dict("records")
    assert (effect["better"], effect["worse"]) == ("small_dense", "snip")
