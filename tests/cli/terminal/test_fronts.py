"""The columns of a table of points."""

import io
from dataclasses import replace

import pandas as pd
import pytest
from rich.console import Console
from shared_constants import DEFAULT_OBJECTIVES
from tables import make_results

from forcetune import analysis
from forcetune.cli.terminal.fronts import points


@pytest.fixture
def study_results():
    """Return trials of two models, which have a large effect, and of three learning rates, which have a small one."""
    rows = [
        {
            "name": f"trial-{n:04d}",
            "run_id": f"{n:032x}",
            "outcome": "trained",
            "method": "force" if n % 2 else "snip",
            **({"iterations": 5 * n} if n % 2 else {}),
            "model": "mlp" if n < 3 else "convnet",
            "lr": [0.1, 0.2, 0.3][n % 3],
            "momentum": 0.9,
            "density": 0.1 * (n + 1),
            "sparsity": 1 - 0.1 * (n + 1),
            "val_accuracy": (0.5 if n < 3 else 0.9) + 0.01 * (n % 3),
            "device_seconds": 1.0,
        }
        for n in range(6)
    ]
    trials = pd.DataFrame(rows)
    fields = ["model", "method", "iterations", "lr", "momentum", "density"]
    varied = analysis.rank_varied_fields(trials, fields, DEFAULT_OBJECTIVES)
    return make_results(trials, fields=fields, varied=varied)


def print_points(study_results, width=None, extra=()):
    console = Console(width=width or 400, record=True, file=io.StringIO())
    console.print(points(study_results, extra, width), soft_wrap=True)
    return console.export_text().splitlines()


def test_varied_fields_come_in_the_order_of_their_effect(study_results):
    assert analysis.find_varied_fields(study_results.trials, study_results.fields) == ["model", "iterations", "lr"]
    assert study_results.varied[0] == "model"
    header = print_points(study_results)[0].split()
    assert header[:4] == ["sparsity", "accuracy", "method", "model"]
    assert {"iterations", "lr", "trial"} <= {*header}
    assert "momentum" not in header


def test_a_narrow_terminal_names_the_fields_that_do_not_fit(study_results):
    wide, narrow = print_points(study_results, 200), print_points(study_results, 80)
    assert not any("fields that vary" in line for line in wide)
    assert "model" in narrow[0]
    note = next(line for line in narrow if "fields that vary" in line)
    left_out = note.rpartition(": ")[2].split(", ")
    assert left_out
    assert not {*left_out} & {*narrow[0].split()}
    assert all(len(line) <= 80 for line in narrow[: len(study_results.trials) + 1])


def test_a_requested_field_is_always_shown(study_results):
    assert "momentum" in print_points(study_results, 80, ["momentum"])[0]


def test_a_field_that_no_point_has_is_no_column(study_results):
    snip = replace(study_results, trials=study_results.trials[study_results.trials["method"] == "snip"])
    assert "iterations" not in print_points(snip)[0]
