"""The rows of front seeds in the table of verdicts, replayed small: what is said against what happens."""

import numpy as np
import pytest
from shared_constants import REPOSITORY

REPETITIONS = 60  # studies of each case


@pytest.fixture(scope="module")
def simulated():
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(REPOSITORY / "benchmarks")
        from deciding.seeds import rows

        return rows(REPETITIONS, seed=100).set_index(["rule", "measure", "case"]).sort_index()


CASES = [
    "normal noise",
    "normal noise, stopped at the first seeds",
    "normal noise, other fronts",
    "a point 3 times noisier than its neighbours",
    "collapses in 15% of runs",
    "exponential noise",
]


@pytest.mark.long  # it runs the policy on three hundred studies: half a minute
@pytest.mark.parametrize("case", CASES)
def test_intervals_hold_the_mean(simulated, case):
    row = simulated.loc[("new", "interval", case)]
    standard_error = (0.95 * 0.05 / row["points"]) ** 0.5
    assert row["true"] == pytest.approx(0.95, abs=0.02 + 3 * standard_error)


@pytest.mark.long  # the same studies
@pytest.mark.parametrize("case", ["a point 3 times noisier than its neighbours", "collapses in 15% of runs"])
def test_the_old_rule_did_not_hold_it(simulated, case):
    assert simulated.loc[("old", "interval", case)]["true"] < 0.92


@pytest.mark.long  # the same studies
def test_what_is_said_of_the_front_happens(simulated):
    bins = simulated.loc[("new", "on the front")]
    bins = bins[bins["points"] > 80]
    assert len(bins) >= 10
    standard_errors = (bins["true"] * (1 - bins["true"]) / bins["points"]) ** 0.5
    assert ((bins["true"] - bins["said"]).abs() < 0.05 + 3 * standard_errors).all(), bins.to_string()


@pytest.fixture
def simulation(monkeypatch):
    monkeypatch.syspath_prepend(REPOSITORY / "benchmarks")
    from deciding import seeds

    return seeds


def test_a_simulation_has_its_seed(simulation):
    tables = [simulation.rows(1, seed) for seed in (1, 1, 2)]
    assert tables[0].equals(tables[1])
    assert not tables[0].equals(tables[2])
    assert set(tables[0]["case"]) >= set(CASES[:1])


def test_normal_noise_replayed_small(simulation):
    held, seeds = [], []
    for repetition in range(12):
        generator = np.random.default_rng([3, repetition])
        study = simulation.draw_study(generator)
        searched, runs = study.draw(generator, 1)[:, 0], study.draw(generator, simulation.SEED_LIMIT)
        claims = simulation.run_new(study, searched, runs, np.ones(runs.shape, bool))
        is_run = claims.seeds > 0
        held += list(((claims.low <= study.accuracies) & (study.accuracies <= claims.high))[is_run])
        seeds += list(claims.seeds[is_run])
    assert np.mean(held) == pytest.approx(0.95, abs=0.02 + 3 * (0.95 * 0.05 / len(held)) ** 0.5)
    assert set(seeds) == {3, 4, 5}, "three seeds at least, and five at most"
