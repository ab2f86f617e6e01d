"""Each row of the table of benchmarks/verdicts.py on nights and sentinels, small and by seed."""

import importlib.util

import numpy as np
import pytest
from scipy import stats
from shared_constants import REPOSITORY

REPETITIONS, SEED = 200, 1


@pytest.fixture(scope="module")
def nights():
    spec = importlib.util.spec_from_file_location(
        "deciding_nights", REPOSITORY / "benchmarks" / "deciding" / "nights.py"
    )
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def get_bound(aim, runs, level):
    """Return the share of the runs that chance undercuts, or exceeds, at this level where the aim is the truth."""
    return stats.binom.ppf(level, runs, aim) / runs


@pytest.fixture(scope="module")
def table(nights):
    """Return the rows of all cases that take seconds, by case and measure."""
    tables = [nights.list_deciding_rows, nights.list_falling_rows]
    rows = [row for list_rows in tables for row in list_rows(REPETITIONS, np.random.default_rng(SEED))]
    return {(row["case"], row["measure"].split(";")[0]): row for row in rows}


def test_no_difference_ties_within_thirty_nights(table):
    row = table["difference 0", "ties by night 30"]
    assert row["now"] >= get_bound(0.59, REPETITIONS, 0.01)
    assert row["alpha spending"] < 0.2
    assert table["difference 0", "ties by night 90"]["now"] > 0.97
    assert table["difference 0, family of 15", "ties by night 90"]["now"] > 0.9


def test_no_difference_rarely_gives_one(table):
    assert table["difference 0", "a difference"]["now"] <= get_bound(0.05, REPETITIONS, 0.999)


def test_a_quarter_of_a_deviation_gives_a_verdict(table):
    row = table["a quarter of a deviation", "a verdict by night 90"]
    assert row["now"] >= get_bound(0.995, REPETITIONS, 0.001)
    assert row["alpha spending"] < 0.4
    assert table["a quarter of a deviation", "loses"]["now"] <= get_bound(0.05, REPETITIONS, 0.999)


def test_a_fall_is_seen_within_a_month(table):
    for case in ("from +2 to -1", "from +2 to -1, family of 15"):
        row = table[case, "seen within 32 nights"]
        assert row["now"] > row["alpha spending"] + 0.1
    assert table["from +2 to -1", "seen within 32 nights"]["now"] >= get_bound(0.5, REPETITIONS // 2, 0.01)


@pytest.mark.long  # five distributions of a year of nights
def test_a_year_of_nights_rarely_errs(nights):
    runs = 200
    for row in nights.list_year_rows(runs * nights.YEAR_SHARE, np.random.default_rng(SEED)):
        assert row["now"] <= get_bound(0.05, runs, 0.999), row["case"]


def test_collapses_are_a_part_of_their_own(nights, monkeypatch):
    monkeypatch.setattr(nights, "YEAR_NIGHTS", 120)
    runs = 100
    generator = np.random.default_rng(SEED)
    equal, rare, frequent = nights.list_collapse_rows(runs * nights.YEAR_SHARE, generator)
    for row in (equal, rare):
        assert row["now"] <= get_bound(0.05, runs, 0.999), row["case"]
    assert frequent["now"] >= 0.9


def test_sentinels_see_a_lasting_shift(nights, monkeypatch):
    monkeypatch.setattr(nights, "YEAR_NIGHTS", 60)
    runs = 60
    week, month, doubled, quiet, failed = nights.list_sentinel_rows(
        runs * nights.YEAR_SHARE, np.random.default_rng(SEED)
    )
    assert week["now"] > week["alpha spending"] + 0.3
    assert month["now"] >= week["now"]
    assert doubled["now"] >= get_bound(0.87, runs, 0.01)
    assert quiet["now"] <= get_bound(0.05, runs // 2, 0.999)
    assert failed["now"] > 0.9
    assert failed["alpha spending"] < 0.2
