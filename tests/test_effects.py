"""What it took: planted effects are found, at equal density, paired where there are pairs."""

import itertools

import numpy as np
import pandas as pd
import pytest

from forcetune import analysis
from forcetune.errors import InputError

FIELDS = ["model", "method", "density", "iterations", "schedule", "lr", "seed"]


def study(rows):
    made = pd.DataFrame(rows).assign(outcome="trained", study="s")
    made["iterations"] = made["iterations"].astype("Int64")
    made.attrs = {"objectives": {"val_accuracy": "max", "density": "min"}, "fields": FIELDS}
    return made


def reach(density):
    """An accuracy that falls with density as real ones do."""
    return 0.95 / (1 + np.exp(-2.5 * (np.log10(density) + 2)))


def row(method, density, generator, seed=0, iterations=None, schedule=None, gain=0.0, lr=0.1, model="cnn"):
    noise = generator.normal(0, 0.01)
    fields = {"model": model, "method": method, "density": density, "iterations": iterations, "schedule": schedule}
    return {**fields, "lr": lr, "seed": seed, "val_accuracy": reach(density) + gain + noise}


@pytest.fixture
def grid():
    """Two methods, three densities, four seeds; force is 4 points better with 20 iterations than with 5."""
    generator = np.random.default_rng(0)
    rows = []
    for density, seed in itertools.product([0.1, 0.03, 0.01], range(4)):
        shared = generator.normal(0, 0.05)  # what a seed does to all trials that have it
        rows.append(row("snip", density, generator, seed, gain=shared))
        for iterations, schedule in itertools.product([5, 20], ["exponential", "linear"]):
            gain = shared + (0.04 if iterations == 20 else 0)
            rows.append(row("force", density, generator, seed, iterations, schedule, gain))
    return study(rows)


def test_a_grid_is_paired_by_all_else(grid):
    found = analysis.effects(grid, "iterations").iloc[0]
    assert (found["better"], found["worse"], found["paired"]) == ("20", "5", "all else equal")
    assert (found["pairs"], found["trials"]) == (24, 48)
    assert found["difference"] == pytest.approx(4, abs=0.6)
    assert found["low"] < 4 < found["high"]
    assert found["p"] < 0.001


def test_fields_that_a_method_lacks_do_not_keep_it_from_being_paired(grid):
    found = analysis.effects(grid, "method").iloc[0]
    assert (found["better"], found["worse"], found["pairs"]) == ("force", "snip", 12)
    assert found["difference"] == pytest.approx(2, abs=0.6), "the mean over its iterations"


def test_pairs_share_their_seed(grid):
    alone = grid.assign(seed=range(len(grid)))
    assert "all else equal" not in set(analysis.effects(alone, "iterations")["paired"])
    wide = analysis.effects(alone, "iterations").iloc[0]
    narrow = analysis.effects(grid, "iterations").iloc[0]
    assert wide["high"] - wide["low"] > 2 * (narrow["high"] - narrow["low"])


def searched(count=400, gain=0.03, generator=None):
    """A search: densities are drawn; exponential schedules are better, and tried more often where it is dense."""
    generator = generator or np.random.default_rng(1)
    rows = []
    for _ in range(count):
        density = 10 ** generator.uniform(-3, -0.3)
        schedule = "exponential" if generator.random() < 0.3 + 0.4 * (density > 0.02) else "linear"
        better = gain if schedule == "exponential" else 0.0
        steps, lr = int(generator.integers(2, 51)), float(generator.uniform(0.01, 0.5))
        rows.append(row("force", density, generator, 0, steps, schedule, better, lr))
    return study(rows)


def test_a_search_is_paired_by_density():
    found = analysis.effects(searched(), "schedule").iloc[0]
    assert (found["better"], found["paired"]) == ("exponential", "like density")
    assert found["difference"] == pytest.approx(3, abs=0.5)
    raw = searched().groupby("schedule")["val_accuracy"].mean()
    assert raw["exponential"] - raw["linear"] > 0.1, "what is tried where it is dense looks far better than it is"


def test_few_trials_are_not_paired():
    found = analysis.effects(searched(14), "schedule").iloc[0]
    assert (found["paired"], found["pairs"]) == ("not", 0)
    assert found["low"] < found["difference"] < found["high"]


def test_intervals_hold_the_effect_as_often_as_they_say():
    generator = np.random.default_rng(2)
    for count, least in ((60, 0.85), (300, 0.85)):
        held = []
        for _ in range(60):
            found = analysis.effects(searched(count, 0.02, generator), "schedule").iloc[0]
            sign = 1 if found["better"] == "exponential" else -1
            low, high = sorted((sign * found["low"], sign * found["high"]))
            held.append(low <= 2 <= high)
        assert np.mean(held) >= least, count


def test_numbers_of_many_values_are_looked_at_in_thirds():
    found = analysis.effects(searched(), "iterations")
    assert len(found) == 3
    levels = {*found["better"], *found["worse"]}
    assert len(levels) == 3
    assert all(" to " in level for level in levels)
    assert (found["p"] > 0.01).all(), "none was planted"


def test_collapsed_trials_count_and_stopped_ones_do_not(grid):
    sparse = grid["density"] == 0.01
    snip = sparse & (grid["method"] == "snip")
    collapsed = grid.assign(
        outcome=np.where(snip, "collapsed", "trained"), val_accuracy=np.where(snip, 0.1, grid["val_accuracy"])
    )
    collapsed.attrs = grid.attrs
    assert analysis.effects(collapsed, "method").iloc[0]["difference"] > 8
    stopped = collapsed.assign(outcome=np.where(snip, "stopped", "trained"))
    stopped.attrs = grid.attrs
    assert analysis.effects(stopped, "method").iloc[0]["pairs"] == 8


def test_a_model_is_compared_with_another_by_one_trend():
    generator = np.random.default_rng(3)
    rows = [row("snip", 10 ** generator.uniform(-2, -0.3), generator, model="cnn", gain=0.05) for _ in range(40)]
    rows += [row("snip", 10 ** generator.uniform(-2, -0.3), generator, model="mlp") for _ in range(40)]
    found = analysis.effects(study(rows), "model").iloc[0]
    assert (found["better"], found["difference"]) == ("cnn", pytest.approx(5, abs=1))


@pytest.mark.parametrize(
    ("field", "words"),
    [
        ("schedul", "did you mean 'schedule'"),
        ("model", "effects of 'model' cannot"),
        ("density", "effects of 'density' cannot"),
    ],
)
def test_fields_without_an_effect_are_refused(grid, field, words):
    with pytest.raises(InputError, match=words):
        analysis.effects(grid, field)


def test_no_accuracy_no_effect(grid):
    with pytest.raises(InputError, match="val_accuracy"):
        analysis.effects(grid.assign(outcome="failed"), "method")


def test_at_equal_density_takes_the_trend_out():
    found = searched(gain=0.0)
    left = analysis.accuracy_at_equal_density(found)
    assert abs(np.corrcoef(left, np.log10(found["density"]))[0, 1]) < 0.15
    assert left.std() < 2, "percent; the noise has one"
    assert analysis.accuracy_at_equal_density(found.iloc[:9]).isna().all()
    assert analysis.accuracy_at_equal_density(found.iloc[:0]).empty


def test_at_equal_density_tells_stopped_trials_too(grid):
    some = grid.assign(outcome=["stopped", *["trained"] * (len(grid) - 1)])
    some.loc[0, "val_accuracy"] = 0.0
    assert analysis.accuracy_at_equal_density(some)[0] < -50


def test_losses_rank_accuracy_among_those_of_like_density():
    found = searched()
    losses = analysis.objective_losses(found)
    assert list(losses) == ["val_accuracy", "density", "accuracy at equal density"]
    assert losses["val_accuracy"].equals(-found["val_accuracy"])
    ranks = losses["accuracy at equal density"]
    assert ranks.between(0, 1).all()
    assert abs(np.corrcoef(ranks, np.log10(found["density"]))[0, 1]) < 0.1
    better = ranks[found["schedule"] == "exponential"].mean()
    assert better < ranks[found["schedule"] == "linear"].mean() - 0.3


def test_a_small_dense_network_has_no_method():
    generator = np.random.default_rng(1)
    densities = np.geomspace(0.01, 0.3, 12)
    rows = [row("snip", density, generator) for density in densities]
    rows += [{**row("random", density, generator, gain=0.05), "small_dense": "macs"} for density in densities]
    (found,) = analysis.effects(study(rows), "method").to_dict("records")
    assert (found["better"], found["worse"]) == ("small_dense", "snip")
