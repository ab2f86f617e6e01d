"""Which columns a table of points has."""

import io

import pandas as pd
import pytest
from rich.console import Console

from forcetune import analysis
from forcetune.show.fronts import points

OBJECTIVES = {"val_accuracy": "max", "density": "min"}


@pytest.fixture
def table():
    """Trials of two models and three learning rates: the model is worth much, the learning rate little."""
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
    found = pd.DataFrame(rows)
    fields = ["model", "method", "iterations", "lr", "momentum", "density"]
    found.attrs = {"objectives": OBJECTIVES, "studies": ["s"], "fields": fields}
    found.attrs["varied"] = analysis.by_spread(found)
    return found


def shown(table, width=None, extra=()):
    console = Console(width=width or 400, record=True, file=io.StringIO())
    console.print(points(table, extra, width), soft_wrap=True)
    return console.export_text().splitlines()


def test_fields_that_vary_come_by_what_hangs_on_them(table):
    assert analysis.varied(table) == ["model", "iterations", "lr"]
    assert analysis.by_spread(table)[0] == "model"
    header = shown(table)[0].split()
    assert header[:4] == ["sparsity", "accuracy", "method", "model"]
    assert {"iterations", "lr", "trial"} <= {*header}
    assert "momentum" not in header


def test_a_narrow_terminal_counts_what_it_has_no_room_for(table):
    wide, narrow = shown(table, 200), shown(table, 80)
    assert not any("fields that vary" in line for line in wide)
    assert "model" in narrow[0]
    said = next(line for line in narrow if "fields that vary" in line)
    left_out = said.rpartition(": ")[2].split(", ")
    assert left_out
    assert not {*left_out} & {*narrow[0].split()}
    assert all(len(line) <= 80 for line in narrow[: len(table) + 1])


def test_what_is_asked_for_is_always_shown(table):
    assert "momentum" in shown(table, 80, ["momentum"])[0]


def test_a_field_that_none_of_the_points_has_is_no_column(table):
    snip = table[table["method"] == "snip"]
    snip.attrs = table.attrs
    assert "iterations" not in shown(snip)[0]
