"""The public API of the package: its names, and a study that Python runs."""

import io
import os
import subprocess
import sys
import tomllib

import pandas as pd
import pytest
import yaml
from plotly.graph_objects import Figure
from rich.console import Console
from shared_constants import REPOSITORY
from tables import make_results

import forcetune
from forcetune import Study, analysis, load_results, load_study, run, run_study
from forcetune.errors import InputError
from forcetune.report import results

PUBLIC_NAMES = [
    "Study",
    "export_network",
    "find_masks",
    "jobs",
    "load_masks",
    "load_network",
    "load_results",
    "load_study",
    "load_trial",
    "run_study",
]
HEAVY_PACKAGES = ("torch", "ray", "mlflow", "optuna", "pydantic", "pandas", "plotly")
API_STUDY = {
    "study": "s",
    "trial": {
        "dataset": "synthetic",
        "model": "mlp",
        "width": 12,
        "method": ["random", "snip"],
        "density": {"low": 0.05, "high": 0.5, "log": True},
        "epochs": 2,
    },
    "search": {"trials": 4},
    "resources": {"concurrent": 2},
}
BROKEN_STUDIES = [
    {**API_STUDY, "trial": {**API_STUDY["trial"], "densty": 0.1, "epochs": 0}},
    {**API_STUDY, "search": {"trials": 0}, "resource": {}},
    {"study": "s"},
    [],
    None,
]
END_REASON = "the search ended early: 1 device hour of <budget> is used up"


def test_the_public_names_are_those_of_the_documents():
    assert set(PUBLIC_NAMES) <= set(forcetune.__all__)
    assert set(forcetune.__all__) <= set(dir(forcetune))
    assert set(forcetune.__all__) == {*forcetune._MODULES, "jobs"}
    for name in forcetune.__all__:
        assert getattr(forcetune, name).__doc__, name


def test_no_public_name_but_jobs_is_the_name_of_a_module():
    module_names = {path.stem for path in (REPOSITORY / "forcetune").iterdir()}
    assert module_names & {*forcetune.__all__} == {"jobs"}


def test_importing_forcetune_loads_no_heavy_package():
    code = f"import sys, forcetune; dir(forcetune); print(*{{*{HEAVY_PACKAGES}}} & {{*sys.modules}})"
    completed = subprocess.run([sys.executable, "-c", code], cwd=REPOSITORY, capture_output=True, text=True, check=True)
    assert completed.stdout.split() == []


def test_loading_results_draws_no_figure():
    code = "import sys, forcetune; forcetune.load_results; print(*{'plotly', 'mlflow', 'torch'} & {*sys.modules})"
    completed = subprocess.run([sys.executable, "-c", code], cwd=REPOSITORY, capture_output=True, text=True, check=True)
    assert completed.stdout.split() == []


def test_an_unknown_name_is_no_attribute():
    with pytest.raises(AttributeError, match="no attribute 'run_studdy'"):
        forcetune.run_studdy  # noqa: B018


def test_type_checkers_find_the_types():
    package_data = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["tool"]["setuptools"]["package-data"]
    assert "py.typed" in package_data["forcetune"]
    assert (REPOSITORY / "forcetune" / "py.typed").is_file()


@pytest.fixture
def searches(monkeypatch):
    """Replace the search, and return a list of its arguments; the stores keep what they have."""
    calls = []
    monkeypatch.setattr(run, "search_study", lambda *arguments: calls.append(arguments) or END_REASON)
    return calls


@pytest.fixture
def no_results(monkeypatch):
    """Replace the results in the stores by empty tables."""
    monkeypatch.setattr(results, "load", lambda *studies: make_results(pd.DataFrame()))


def test_a_study_is_a_dict_a_study_or_a_file(searches, no_results, tmp_path):
    path = tmp_path / "study.yaml"
    path.write_text(yaml.safe_dump(API_STUDY, sort_keys=False))
    for study in (API_STUDY, Study.from_dict(API_STUDY), path, str(path)):
        run_study(study)
    assert [arguments[0] for arguments in searches] == 4 * [load_study(path)]


@pytest.mark.parametrize("content", BROKEN_STUDIES)
def test_a_dict_is_refused_with_the_errors_of_a_file(searches, tmp_path, content):
    path = tmp_path / "study.yaml"
    path.write_text(yaml.safe_dump(content, sort_keys=False))
    with pytest.raises(InputError) as from_file:
        run_study(path)
    with pytest.raises(InputError) as from_dict:
        run_study(content)
    assert str(from_file.value) == f"{path}: {from_dict.value}"
    assert searches == []


def test_a_study_that_was_not_validated_whole_is_refused(searches):
    with pytest.raises(InputError, match="trial.densty: unknown key"):
        run_study(Study(study="s", trial={"densty": 0.1}))
    assert searches == []


def test_the_options_have_names_and_reach_the_search(searches, no_results):
    console = Console(file=io.StringIO())
    run_study(API_STUDY, fresh=True, priority="low", retry_failed=True, console=console)
    assert searches[0][1:] == (console, True, "low", True)
    run_study(API_STUDY)
    assert isinstance(searches[1][1], Console)
    assert searches[1][2:] == (False, "normal", False)
    with pytest.raises(TypeError):
        run_study(API_STUDY, True)


def test_the_results_are_those_of_the_stores(search_study, searches):
    study_results = run_study(search_study())
    loaded = results.load("s")
    pd.testing.assert_frame_equal(load_results("s"), loaded.trials)
    pd.testing.assert_frame_equal(study_results.trials, loaded.trials)
    front = analysis.front(loaded.trials, loaded.objectives)
    assert study_results.front["name"].tolist() == loaded.front["name"].tolist() == front["name"].tolist() != []
    assert study_results.end_reason == END_REASON
    html = study_results._repr_html_()
    assert html.count("<tr>") == 1 + len(study_results.front)
    assert "of &lt;budget&gt;" in html
    figures = study_results.figures()
    assert isinstance(figures["main"], Figure)
    assert repr(study_results).startswith("<StudyResults of s: 8 trials")


# The second study starts another Ray in the process, and runs in a thread, as the cells of some notebooks do.
SCRIPT = """
import threading
from forcetune import load_results, run_study

def show(results):
    print(results.study, len(results.trials), len(results.front) > 0, results.end_reason, "main" in results.figures())

study = {study}
show(run_study(study))
show(run_study(study))
thread = threading.Thread(target=lambda: show(run_study({{**study, "study": "other"}})))
thread.start()
thread.join()
print(*load_results("s", "other")["study"].value_counts())
"""


@pytest.mark.long
def test_whole_studies_run_from_a_script(tmp_path):
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("RAY_", "MLFLOW_", "FORCETUNE_"))}
    completed = subprocess.run(
        [sys.executable, "-c", SCRIPT.format(study=API_STUDY)],
        cwd=tmp_path,
        env={**kept, "HOME": str(tmp_path), "PYTHONPATH": str(REPOSITORY)},
        capture_output=True,
        text=True,
        timeout=400,
        check=False,
    )
    assert completed.returncode == 0, completed.stderr
    lines = completed.stdout.splitlines()
    assert sum(" of 4 done" in line for line in lines) == 8, "a line for each trial"
    shown = [line for line in lines if line.endswith("True")]
    assert shown == ["s 4 True None True", "s 4 True None True", "other 4 True None True"]
    assert lines[-1] == "4 4"
