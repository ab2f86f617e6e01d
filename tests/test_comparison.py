"""The comparison of methods: its study, its numbers worked out by hand, and the files that it writes."""

import csv
import math

import pandas as pd
import pytest

from forcetune import comparison
from forcetune.errors import InputError
from forcetune.study import Study


@pytest.fixture
def study():
    fields = comparison.grid_study(
        "x", ["snip", "random"], [0.1, 0.001, 0.1], 2, {"model": "mlp", "dataset": "digits", "epochs": 3}, {"cpus": 1}
    )
    return Study.from_dict(fields)


def make_table(study, results):
    """Make the table of a study from the results by method and density: for each seed an accuracy or an outcome."""
    rows = []
    for trial in study.grid():
        trial_result = results[trial.method, trial.density][trial.seed]
        trained = not isinstance(trial_result, str)
        # A failed trial may have logged an accuracy before, and a collapsed one logs chance. Neither may count.
        rows.append(
            {
                "trial": trial.key,
                "outcome": "trained" if trained else trial_result,
                "val_accuracy": trial_result if trained else 0.77,
                "method": trial.method,
                "density": trial.density * 0.999,  # as measured: int(N * density) / N
            }
        )
    return pd.DataFrame(rows)


TRIAL_RESULTS = {
    ("snip", 0.1): [0.8, 0.9],
    ("snip", 0.001): ["collapsed", 0.3],
    ("random", 0.1): [0.5, 0.5],
    ("random", 0.001): ["failed", "collapsed"],
    ("random_uniform", 0.1): [0.5, 0.6],
    ("random_uniform", 0.001): ["failed", "failed"],
    ("random_erk", 0.1): [0.7, 0.7],
    ("random_erk", 0.001): [0.2, 0.2],
}


def test_the_grid_has_the_random_controls_and_every_seed(study):
    trials = list(study.grid())
    assert len(trials) == 4 * 2 * 2
    assert [*dict.fromkeys(study.trial["method"])] == ["snip", "random", "random_uniform", "random_erk"]
    assert {trial.seed for trial in trials} == {0, 1}
    assert {trial.epochs for trial in trials} == {3}
    assert study.search.sampler == "grid"


def test_the_numbers_agree_with_those_worked_out_by_hand(study):
    compared = comparison.compare(make_table(study, TRIAL_RESULTS), study.grid(), chance=0.1).set_index(
        ["method", "density"]
    )
    assert len(compared) == 8
    first = compared.loc["snip", 0.1]
    assert (first["seeds"], first["collapsed"], first["failed"]) == (2, 0, 0)
    # The mean is 0.85, the standard deviation 0.1 / sqrt(2). Student's t with 1 degree of freedom is 12.706 at 97.5 %.
    assert first["mean"] == pytest.approx(0.85)
    assert first["std"] == pytest.approx(0.1 / math.sqrt(2))
    assert first["half_width"] == pytest.approx(12.7062 * 0.1 / 2, rel=1e-4)
    assert first["sparsity"] == pytest.approx(0.9)
    assert compared.loc["snip", 0.001]["mean"] == pytest.approx((0.1 + 0.3) / 2), "a collapsed trial counts at chance"
    assert compared.loc["snip", 0.001]["collapsed"] == 1
    row = compared.loc["random", 0.001]
    assert (row["mean"], row["std"], row["collapsed"], row["failed"]) == (pytest.approx(0.1), 0, 1, 1)


@pytest.mark.parametrize(("seeds", "factor"), [(1, None), (2, "9.0"), (3, "2.5"), (5, None)])
def test_intervals_over_few_seeds_are_doubted(seeds, factor):
    warning = comparison.warn_of_few_seeds(seeds)
    assert (warning is None) == (factor is None)
    assert factor is None or f"is {factor} standard deviations" in warning


def test_one_seed_has_no_interval():
    study = Study.from_dict(comparison.grid_study("x", [], [0.1], 1, {"model": "mlp", "dataset": "digits"}, {}))
    results = {(trial.method, 0.1): [0.5] for trial in study.grid()}
    compared = comparison.compare(make_table(study, results), study.grid(), chance=0.1)
    assert compared["half_width"].isna().all()
    assert comparison.tabulate(compared)[1] == [[method, "50.0"] for method in comparison.COMPARED_CONTROLS]


def test_a_study_whose_trials_all_failed_has_a_table(study):
    failed = make_table(study, {key: ["failed", "failed"] for key in TRIAL_RESULTS}).drop(columns="val_accuracy")
    compared = comparison.compare(failed, study.grid(), chance=0.1)
    assert set(compared["mean"]) == {0.1}
    assert set(compared["failed"]) == {2}


def test_running_trials_are_not_counted(study):
    unfinished = make_table(study, TRIAL_RESULTS)
    unfinished.loc[0, "outcome"] = None
    assert comparison.compare(unfinished, study.grid(), chance=0.1)["seeds"].sum() == 15


def test_methods_are_rows_and_sparsities_are_columns(study):
    compared = comparison.compare(make_table(study, TRIAL_RESULTS), study.grid(), chance=0.1)
    header, rows = comparison.tabulate(compared)
    assert header == ["method", "90 %", "99.9 %"]
    assert rows[0] == ["snip", "85.0 ± 63.5", "20.0 ± 127.1 †1"]
    assert rows[1] == ["random", "50.0 ± 0.0", "10.0 ± 0.0 †1‡1"]
    assert rows[2][2] == "10.0 ± 0.0 ‡2"


@pytest.mark.parametrize(
    ("density", "shown"), [(0.5, "50 %"), (0.1, "90 %"), (0.005, "99.5 %"), (0.0001, "99.99 %"), (1.0, "0 %")]
)
def test_sparsity_is_shown_without_needless_digits(density, shown):
    compared = pd.DataFrame(
        [{"method": "snip", "density": density, "mean": 0.5, "half_width": math.nan, "collapsed": 0, "failed": 0}]
    )
    assert comparison.tabulate(compared)[0][1] == shown


def test_markdown_has_a_row_a_method(study):
    compared = comparison.compare(make_table(study, TRIAL_RESULTS), study.grid(), chance=0.1)
    lines = comparison.to_markdown(compared, "What it shows.").splitlines()
    assert lines[0] == "What it shows."
    assert lines[2] == "| method | 90 % | 99.9 % |"
    assert lines[4] == "| `snip` | 85.0 ± 63.5 | 20.0 ± 127.1 †1 |"
    assert lines[-1] == comparison.LEGEND


def test_latex_escapes_what_latex_reads(study):
    compared = comparison.compare(make_table(study, TRIAL_RESULTS), study.grid(), chance=0.1)
    text = comparison.to_latex(compared, "On my_data at 95 %.")
    assert r"\caption{On my\_data at 95 \%. $\dagger$n: " in text
    assert r"  random\_erk & 70.0 $\pm$ 0.0 & 20.0 $\pm$ 0.0 \\" in text
    assert text.count(r"\\") == 5, "the header and four methods"
    assert text.count("{") == text.count("}")


def test_export_writes_three_files(study, tmp_path):
    compared = comparison.compare(make_table(study, TRIAL_RESULTS), study.grid(), chance=0.1)
    paths = comparison.export(compared, "What it shows.", tmp_path / "compare-a.b")
    assert [path.name for path in paths] == ["compare-a.b.csv", "compare-a.b.md", "compare-a.b.tex"]
    rows = list(csv.DictReader(paths[0].read_text().splitlines()))
    assert rows[0]["method"] == "snip"
    assert float(rows[0]["mean"]) == pytest.approx(0.85)


def test_a_study_file_is_never_overwritten_by_another_study(tmp_path):
    path = comparison.write_study(tmp_path / "new" / "x.yaml", {"study": "x"})
    assert comparison.write_study(path, {"study": "x"}) == path, "the same study is accepted again"
    with pytest.raises(InputError, match=r"x.yaml .* another study; .*--study.*--out"):
        comparison.write_study(path, {"study": "y"})
    assert path.read_text() == "study: x\n"
    comparison.write_study(path, {"study": "x", "resources": {"cpus": 2}})
    assert path.read_text() == "study: x\nresources:\n  cpus: 2\n", "resources may change"
    path.write_text("[not, a, study]")
    with pytest.raises(InputError, match="another study"):
        comparison.write_study(path, {"study": "x"})
    path.write_bytes(b"\xff: {")
    with pytest.raises(InputError, match="--out: .*x.yaml cannot be"):
        comparison.write_study(path, {"study": "x"})


def test_a_folder_that_cannot_be_made_is_refused(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match="--out: .* cannot be written"):
        comparison.write_study(tmp_path / "file" / "x.yaml", {"study": "x"})
