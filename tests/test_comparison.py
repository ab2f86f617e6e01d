"""The comparison of methods: its study, its numbers worked out by hand, its files, and its command."""

import csv
import math
from collections import defaultdict

import pandas as pd
import pytest
import yaml
from click.testing import CliRunner

from forcetune import comparison
from forcetune.cli import main, methods
from forcetune.errors import InputError
from forcetune.results import Results
from forcetune.study import Study

COMPARED_FILE = {
    "study": "x",
    "trial": {
        "model": "mlp",
        "dataset": "digits",
        "epochs": 3,
        "method": ["snip", "random"],
        "density": [0.1, 0.001],
        "seed": [0, 1],
    },
    "resources": {"cpus": 1},
}


def make_study(**fields):
    """Make the study of a comparison, from COMPARED_FILE with these fields of a trial."""
    return Study.from_dict(comparison.make_grid({**COMPARED_FILE, "trial": {**COMPARED_FILE["trial"], **fields}}))


@pytest.fixture
def study():
    return make_study()


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
    assert (study.search.sampler, study.stopping, study.resources.cpus) == ("grid", "none", 1)


def test_a_grid_without_seeds_has_five():
    fields = {name: value for name, value in COMPARED_FILE["trial"].items() if name != "seed"}
    assert comparison.make_grid({**COMPARED_FILE, "trial": fields})["trial"]["seed"] == [0, 1, 2, 3, 4]


def test_the_grid_of_a_grid_is_the_same():
    grid = comparison.make_grid(COMPARED_FILE)
    assert grid["study"] == "compare-x"
    assert comparison.make_grid(grid) == grid


def test_a_method_may_have_settings_of_its_own():
    study = make_study(method=["snip", "force"], iterations={"choices": [7], "when": {"method": "force"}})
    assert {trial.iterations for trial in study.grid() if trial.method == "force"} == {7}
    assert len(list(study.grid())) == 5 * 2 * 2


@pytest.mark.parametrize(
    ("change", "messages"),
    [
        ({"lr": [0.1, 0.2]}, ["trial.lr: varies (one of 0.1, 0.2)", "method, density, seed"]),
        ({"lr": {"low": 0.1, "high": 0.2}, "width": [8, 9]}, ["trial.lr: varies", "trial.width: varies"]),
        ({"density": {"low": 0.1, "high": 0.2}}, ["trial.density: is a range (0.1 to 0.2)"]),
        ({"method": "snop"}, ["trial.method: unknown method 'snop'"]),
        ({"densty": 1}, ["trial.densty: unknown key"]),
    ],
)
def test_a_study_that_varies_otherwise_is_refused(change, messages):
    with pytest.raises(InputError) as error:
        make_study(**change)
    assert [message for message in messages if message not in str(error.value)] == []


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"search": {"trials": 3}}, "without trials; allowed: sampler: grid, "),
        ({"search": {"sampler": "tpe", "stopping": "pareto"}}, "without sampler, stopping; allowed: "),
        ({"constraints": {"macs": 1000}}, "constraints: "),
        ({"search": {"sampler": "grid", "stopping": "none", "max_failures": 3, "budget": {"hours": 1}}}, None),
    ],
)
def test_a_study_whose_trials_may_end_early_is_refused(change, message):
    if message is None:
        assert comparison.make_grid({**COMPARED_FILE, **change})["search"] == change["search"]
        return
    with pytest.raises(InputError) as error:
        comparison.make_grid({**COMPARED_FILE, **change})
    assert message in str(error.value)


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
    study = make_study(method="random", density=0.1, seed=0)
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
    with pytest.raises(InputError, match=r"x.yaml .* another study; .*--out.*`study:` in FILE"):
        comparison.write_study(path, {"study": "y"})
    assert path.read_text() == "study: x\n"
    comparison.write_study(path, {"study": "x", "resources": {"cpus": 2}})
    assert path.read_text() == "study: x\nresources:\n  cpus: 2\n", "resources may change"
    comparison.write_study(path, {"study": "x", "search": {"max_failures": 3}})
    assert path.read_text() == "study: x\nsearch:\n  max_failures: 3\n", "and so may the search"
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


@pytest.fixture
def searched_studies(monkeypatch, tmp_path):
    """Replace the search by one in which all trials reach the accuracy 0.5; return the list of its studies."""
    studies = []

    def search(study, file, fresh, rerun_command):
        studies.append(study)
        accuracies = defaultdict(lambda: [0.5] * len(study.space["seed"].values))
        return Results(make_table(study, accuracies), pd.DataFrame()), None

    monkeypatch.setattr(methods, "run_search", search)
    monkeypatch.chdir(tmp_path)
    return studies


def run_compare(*arguments, code=0):
    result = CliRunner().invoke(main, ["compare", *arguments])
    assert result.exit_code == code, result.output
    return result.output


NETWORK_OPTIONS = ("--model", "mlp", "--dataset", "digits")
COMPARE_OPTIONS = (*NETWORK_OPTIONS, "--methods", "snip,force,snip", "--densities", "0.1,0.05,0.1")


def test_options_alone_are_a_comparison(searched_studies, tmp_path):
    output = run_compare(*COMPARE_OPTIONS, "--seeds", "2", "--out", "tables")
    assert "Validation accuracy of mlp on digits by sparsity, in percent: mean and 95 % interval over 2 seeds" in output
    endings = (".yaml", ".csv", ".md", ".tex")
    paths = [f"tables/compare-mlp-digits{ending}" for ending in endings]
    assert f"written: {', '.join(paths)}" in output
    assert all((tmp_path / path).is_file() for path in paths)
    written = yaml.safe_load((tmp_path / paths[0]).read_text())
    assert written == {
        "study": "compare-mlp-digits",
        "trial": {
            "model": "mlp",
            "dataset": "digits",
            "method": ["snip", "force", "random", "random_uniform", "random_erk"],
            "seed": [0, 1],
            "density": [0.1, 0.05],
        },
        "search": {"sampler": "grid"},
    }, "the same study as in versions that compared no file, so that their comparisons continue"
    run_compare(paths[0])
    assert searched_studies[1].identity == searched_studies[0].identity, "the file that was written can be compared"


def test_a_file_is_compared_with_its_settings(searched_studies, tmp_path):
    text = yaml.safe_dump(COMPARED_FILE)
    (tmp_path / "x.yaml").write_text(text)
    assert "written: compare-x.yaml, compare-x.csv, compare-x.md, compare-x.tex\n" in run_compare("x.yaml")
    assert (tmp_path / "x.yaml").read_text() == text
    (study,) = searched_studies
    assert study.identity == make_study().identity
    assert {trial.epochs for trial in study.grid()} == {3}


def test_a_file_that_is_a_comparison_stays_as_it_is(searched_studies, tmp_path):
    text = "# mine\n" + yaml.safe_dump({**comparison.make_grid(COMPARED_FILE), "study": "x"})
    (tmp_path / "x.yaml").write_text(text)
    assert "written: x.yaml, x.csv, x.md, x.tex\n" in run_compare("x.yaml")
    assert (tmp_path / "x.yaml").read_text() == text
    output = run_compare("x.yaml", "--seeds", "1", code=2)
    assert "x.yaml already has another study" in output


def test_options_replace_what_the_file_has(searched_studies, tmp_path):
    (tmp_path / "x.yaml").write_text(yaml.safe_dump(COMPARED_FILE))
    run_compare("x.yaml", "--methods", "force", "--densities", "0.2", "--seeds", "3", "--model", "convnet")
    (study,) = searched_studies
    trials = list(study.grid())
    assert {trial.method for trial in trials} == {"force", *comparison.COMPARED_CONTROLS}
    assert {(trial.density, trial.model, trial.epochs) for trial in trials} == {(0.2, "convnet", 3)}
    assert {trial.seed for trial in trials} == {0, 1, 2}


def test_options_set_what_the_file_lacks(searched_studies, tmp_path):
    (tmp_path / "x.yaml").write_text("study: x\ntrial: {model: mlp, dataset: digits, width: 12}\n")
    run_compare("x.yaml", "--methods", "snip", "--densities", "0.1")
    (study,) = searched_studies
    assert {(trial.width, trial.density) for trial in study.grid()} == {(12, 0.1)}
    assert {trial.seed for trial in study.grid()} == {0, 1, 2, 3, 4}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (COMPARE_OPTIONS[2:], "--model is missing; required without FILE: --model, --dataset, --methods, --densities"),
        (NETWORK_OPTIONS, "--methods is missing; "),
        (("gone.yaml",), "gone.yaml: the file cannot be read"),
        (("varied.yaml",), "varied.yaml: trial.lr: varies"),
        (("varied.yaml", "--methods", ","), "--methods ,: allowed: names"),
        (("varied.yaml", "--densities", "x"), "--densities x: allowed: numbers"),
        (
            (*COMPARE_OPTIONS, "--out", "varied.yaml/tables"),
            "--out: varied.yaml/tables/compare-mlp-digits.yaml cannot be written",
        ),
    ],
)
def test_compare_refuses_in_one_line(searched_studies, tmp_path, arguments, message):
    (tmp_path / "varied.yaml").write_text(
        yaml.safe_dump({**COMPARED_FILE, "trial": {**COMPARED_FILE["trial"], "lr": [0.1, 0.2]}})
    )
    output = run_compare(*arguments, code=2)
    assert message in output
    assert output.count("\n") == 1
    assert [path.name for path in tmp_path.iterdir()] == ["varied.yaml"]
    assert searched_studies == []
