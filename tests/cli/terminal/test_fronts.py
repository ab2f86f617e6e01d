"""The columns of a table of points."""

import io

import pandas as pd
import pytest
from rich.console import Console
from shared_constants import DEFAULT_OBJECTIVES

from forcetune import analysis
from forcetune.cli.terminal.fronts import points


@pytest.fixture
def table():
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
    frame = pd.DataFrame(rows)
    fields = ["model", "method", "iterations", "lr", "momentum", "density"]
    frame.attrs = {"objectives": DEFAULT_OBJECTIVES, "studies": ["s"], "fields": fields}
    frame.attrs["varied"] = analysis.rank_varied_fields(frame)
    return frame


def print_points(table, width=None, extra=()):
    console = Console(width=width or 400, record=True, file=io.StringIO())
    console.print(points(table, extra, width), soft_wrap=True)
    return console.export_text().splitlines()


def test_varied_fields_come_in_the_order_of_their_effect(table):
    assert analysis.find_varied_fields(table) == ["model", "iterations", "lr"]
    assert analysis.rank_varied_fields(table)[0] == "model"
    header = print_points(table)[0].split()
    assert header[:4] == ["sparsity", "accuracy", "method", "model"]
    assert {"iterations", "lr", "trial"} <= {*header}
    assert "momentum" not in header


def test_a_narrow_terminal_names_the_fields_that_do_not_fit(table):
    wide, narrow = print_points(table, 200), print_points(table, 80)
    assert not any("fields that vary" in line for line in wide)
    assert "model" in narrow[0]
    note = next(line for line in narrow if "fields that vary" in line)
    left_out = note.rpartition(": ")[2].split(", ")
    assert left_out
    assert not {*left_out} & {*narrow[0].split()}
    assert all(len(line) <= 80 for line in narrow[: len(table) + 1])


def test_a_requested_field_is_always_shown(table):
    assert "momentum" in print_points(table, 80, ["momentum"])[0]


def test_a_field_that_no_point_has_is_no_column(table):
    snip = table[table["method"] == "snip"]
    snip.attrs = table.attrs
    assert "iterations" not in print_points(snip)[0]
