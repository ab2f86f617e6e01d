"""The command that compares methods."""

from collections import defaultdict

import pytest
import yaml
from click.testing import CliRunner
from comparisons import COMPARED_FILE, make_study, make_table
from tables import make_results

from forcetune.cli import main, methods
from forcetune.study.comparison import COMPARED_CONTROLS, make_grid


@pytest.fixture
def searched_studies(monkeypatch, tmp_path):
    """Replace the search by one in which all trials reach the accuracy 0.5; return the list of its studies."""
    studies = []

    def search(study, file, fresh, rerun_command):
        studies.append(study)
        accuracies = defaultdict(lambda: [0.5] * len(study.space["seed"].values))
        return make_results(make_table(study, accuracies)), None

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
    text = "# mine\n" + yaml.safe_dump({**make_grid(COMPARED_FILE), "study": "x"})
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
    assert {trial.method for trial in trials} == {"force", *COMPARED_CONTROLS}
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
