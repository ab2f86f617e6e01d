"""Each row of the table of benchmarks/verdicts.py on fixed numbers of pairs, small and by seed."""

import importlib.util
import sys

import numpy as np
import pytest
from click.testing import CliRunner
from scipy import stats
from shared_constants import REPOSITORY

from forcetune.analysis import flips

REPETITIONS, SEED = 300, 1
LARGEST_ERROR = stats.binom.ppf(0.999, REPETITIONS, 0.05) / REPETITIONS  # chance makes a rate of 5 % no larger
BENCHMARKS = REPOSITORY / "benchmarks"


def load_cases():
    spec = importlib.util.spec_from_file_location("deciding_pairs", BENCHMARKS / "deciding" / "pairs.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


PAIRS = load_cases()
ROWS = [(case, count) for case in PAIRS.CASES for count in case.pair_counts]
# The rows in which the earlier rule is wrong more often than it says.
EARLIER_ERRORS = {
    ("one arm collapses in 10 %, true gap 2 points, deviation .3", 5),
    ("one arm collapses in 10 %, true gap 2 points, deviation .3", 8),
    ("one arm collapses in 10 %, true gap 2 points, deviation .3", 12),
    ("the twin collapses in 5 %, equal means", 8),
    ("the twin collapses in 5 %, equal means", 12),
    ("the twin collapses in 5 %, equal means", 20),
    ("lognormal skew, mean 0", 8),
    ("lognormal skew, mean 0", 12),
    ("lognormal skew, mean 0", 20),
}


@pytest.mark.parametrize(("case", "count"), ROWS, ids=[f"{case.name}, {count} pairs" for case, count in ROWS])
def test_a_row(case, count, monkeypatch):
    """Replay a row; a coarser grid of many flips changes few verdicts, and is much quicker."""
    monkeypatch.setattr(flips, "GRID_STEPS", 2**12)
    row = PAIRS.simulate(case, count, REPETITIONS, np.random.default_rng([SEED, count]))
    if case.right:
        return
    assert row["after"] <= LARGEST_ERROR
    if (case.name, count) in EARLIER_ERRORS:
        assert row["before"] > LARGEST_ERROR


def find_row(name, count):
    case = next(case for case in PAIRS.CASES if case.name == name)
    return PAIRS.simulate(case, count, REPETITIONS, np.random.default_rng([SEED, count]))


def test_twelve_pairs_show_a_difference_of_one_deviation():
    assert find_row("power: one deviation", 12)["after"] >= stats.binom.ppf(0.01, REPETITIONS, 0.85) / REPETITIONS


def test_twenty_nine_pairs_without_a_collapse_tie_without_a_condition():
    name = "power: no difference, deviation .3, no collapse"
    row, settled_row = find_row(name, 28), find_row(name, 29)
    assert (row["after"], row["named"]) == (0, pytest.approx(1, abs=0.02))
    assert settled_row["after"] == pytest.approx(1, abs=0.02)


def test_the_command_prints_a_table(monkeypatch):
    monkeypatch.syspath_prepend(BENCHMARKS)
    import verdicts

    try:
        result = CliRunner().invoke(verdicts.main, ["--part", "pairs", "--repetitions", "2"], catch_exceptions=False)
    finally:
        for name in [name for name in sys.modules if name.split(".")[0] in ("verdicts", "deciding")]:
            del sys.modules[name]
    lines = result.output.strip().splitlines()
    assert lines[2].startswith("| case | pairs | counted | before | after |")
    assert len(lines) == 4 + len(ROWS)
