"""The table of a comparison, in each of its forms."""

import csv
import math
from pathlib import Path

import pandas as pd
import pytest
from comparisons import TRIAL_RESULTS, compare, make_study, make_table

from forcetune.errors import InputError
from forcetune.report import comparison
from forcetune.study.comparison import COMPARED_CONTROLS


@pytest.fixture
def study():
    return make_study()


@pytest.mark.parametrize(("seeds", "factor"), [(1, None), (2, "9.0"), (3, "2.5"), (5, None)])
def test_intervals_over_few_seeds_are_doubted(seeds, factor):
    warning = comparison.warn_of_few_seeds(seeds)
    assert (warning is None) == (factor is None)
    assert factor is None or f"is {factor} standard deviations" in warning


def test_one_seed_has_no_interval():
    study = make_study(method="random", density=0.1, seed=0)
    results = {(trial.method, 0.1): [0.5] for trial in study.grid()}
    compared = compare(study, make_table(study, results))
    assert compared["half_width"].isna().all()
    assert comparison.tabulate(compared).rows == [[method, "50.0"] for method in COMPARED_CONTROLS]


def test_methods_are_rows_and_sparsities_are_columns(study):
    compared = compare(study, make_table(study, TRIAL_RESULTS))
    table = comparison.tabulate(compared)
    assert table.header == ["method", "90 %", "99.9 %"]
    assert table.rows[0] == ["snip", "85.0 ± 63.5", "20.0 ± 127.1 †1"]
    assert table.rows[1] == ["random", "50.0 ± 0.0", "10.0 ± 0.0 †1‡1"]
    assert table.rows[2][2] == "10.0 ± 0.0 ‡2"


@pytest.mark.parametrize(
    ("density", "shown"), [(0.5, "50 %"), (0.1, "90 %"), (0.005, "99.5 %"), (0.0001, "99.99 %"), (1.0, "0 %")]
)
def test_sparsity_is_shown_without_needless_digits(density, shown):
    compared = pd.DataFrame(
        [{"method": "snip", "density": density, "mean": 0.5, "half_width": math.nan, "collapsed": 0, "failed": 0}]
    )
    assert comparison.tabulate(compared).header[1] == shown


def test_a_cell_has_the_sparsity_that_was_reached(study):
    compared = compare(study, make_table(study, TRIAL_RESULTS))
    is_snip = compared["method"] == "snip"
    compared.loc[is_snip, "reached"] = compared["density"] * 0.5
    compared.loc[~is_snip, "reached"] = compared["density"] * 0.999
    table = comparison.tabulate(compared)
    assert table.rows[0] == ["snip", "85.0 ± 63.5 (95 %)", "20.0 ± 127.1 †1 (99.95 %)"]
    assert table.rows[1] == ["random", "50.0 ± 0.0", "10.0 ± 0.0 †1‡1"]
    assert table.legend.endswith(comparison.REACHED_LEGEND)


def test_markdown_has_a_row_a_method(study):
    compared = compare(study, make_table(study, TRIAL_RESULTS))
    lines = comparison.tabulate(compared, "What it shows.").to_markdown().splitlines()
    assert lines[0] == "What it shows."
    assert lines[2] == "| method | 90 % | 99.9 % |"
    assert lines[4] == "| `snip` | 85.0 ± 63.5 | 20.0 ± 127.1 †1 |"
    assert lines[-1] == comparison.LEGEND


def test_latex_escapes_what_latex_reads(study):
    compared = compare(study, make_table(study, TRIAL_RESULTS))
    text = comparison.tabulate(compared, "On my_data at 95 %.").to_latex()
    assert r"\caption{On my\_data at 95 \%. $\dagger$n: " in text
    assert r"  random\_erk & 70.0 $\pm$ 0.0 & 20.0 $\pm$ 0.0 \\" in text
    assert text.count(r"\\") == 5, "the header and four methods"
    assert text.count("{") == text.count("}")


def test_export_writes_three_files(study, tmp_path):
    compared = compare(study, make_table(study, TRIAL_RESULTS))
    paths = comparison.export(compared, comparison.tabulate(compared, "What it shows."), tmp_path / "compare-a.b")
    assert [path.name for path in paths] == ["compare-a.b.csv", "compare-a.b.md", "compare-a.b.tex"]
    rows = list(csv.DictReader(paths[0].read_text().splitlines()))
    assert rows[0]["method"] == "snip"
    assert float(rows[0]["mean"]) == pytest.approx(0.85)


def test_a_file_that_cannot_be_written_is_named(study):
    compared = compare(study, make_table(study, TRIAL_RESULTS))
    with pytest.raises(InputError, match=r"--out: /proc/none/compare.csv cannot be written: .*; all trials are kept"):
        comparison.export(compared, comparison.tabulate(compared), Path("/proc/none/compare"))
