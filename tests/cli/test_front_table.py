"""The table of points that `best` prints, and the page's words, where fresh seeds collapsed."""

import pandas as pd
import pytest
from rich.console import Console
from tables import make_results

from forcetune.cli.terminal import fronts
from forcetune.report import listing, numbers, words


@pytest.fixture
def make_seeded():
    def make(collapsed):
        trials = pd.DataFrame(
            {
                "run_id": ["r0", "r1"],
                "name": ["trial-0", "trial-1"],
                "trial": ["k0", "k1"],
                "method": "snip",
                "outcome": "trained",
                "device_seconds": 1.0,
                "density": [0.1, 0.01],
                "sparsity": [0.9, 0.99],
                "val_accuracy": [0.9, 0.8],
                "val_accuracy_mean": [0.88, 0.79],
                "val_accuracy_low": [0.86, 0.78],
                "val_accuracy_high": [0.9, 0.8],
                "seeds": pd.array([5, 3], "Int64"),
                "collapsed_seeds": pd.array([collapsed, 0], "Int64"),
                "collapse_low": [0.0051, 0.0],
                "collapse_high": [0.7164, 0.7076],
                "front_probability": [0.97, 1.0],
            }
        )
        return make_results(trials)

    return make


def print_points(results):
    console = Console(width=400)
    with console.capture() as capture:
        console.print(fronts.points(results), soft_wrap=True)
    return capture.get()


def test_collapsed_seeds_have_a_column(make_seeded):
    output = print_points(make_seeded(1))
    first, second = output.splitlines()[1:3]
    assert "1 (1% to 72%)" in first
    assert "97%" in first
    assert "%  -  " in second or " - " in second
    assert "leaves the front once more than half of its seeds have collapsed" in output


def test_the_probability_is_open_while_no_point_has_two_fresh_seeds(make_seeded):
    results = make_seeded(0)
    results.trials["seeds"] = pd.array([1, 0], "Int64")
    results.trials["front_probability"] = float("nan")
    first, _ = print_points(results).splitlines()[1:3]
    assert "97%" not in first
    assert "trial-0" in first


def test_without_a_collapse_there_is_no_such_column(make_seeded):
    assert "collapsed" not in print_points(make_seeded(0))


@pytest.mark.parametrize("collapsed", [0, 1])
def test_the_page_counts_collapsed_seeds(make_seeded, collapsed):
    prepared = numbers.prepare_trials(make_seeded(collapsed))
    listed = listing.build_listing(prepared)
    assert ("collapsed_seeds" in listed) == ("collapse_high" in listed) == bool(collapsed)
    assert any("collapsed" in sentence for sentence in words.write_notes(prepared.trials)) == bool(collapsed)
    assert ("collapsed seeds" in words.tabulate_front(prepared).header) == bool(collapsed)
