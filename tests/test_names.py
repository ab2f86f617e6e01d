"""Names of rows and of functions that a user wrote."""

import sys

import pytest

from forcetune.errors import InputError
from forcetune.names import METRIC_NAME_CHARACTERS, check_metric_name, resolve, suggestion

ROW_TABLE = {"snip": 1, "force": 2}


def test_a_row_is_found_by_its_name():
    assert resolve("force", ROW_TABLE, "method") == 2


def test_an_unknown_name_is_refused_with_near_and_allowed_names():
    with pytest.raises(InputError, match=r"unknown method 'forse' \(did you mean 'force'\?\); allowed: snip, force"):
        resolve("forse", ROW_TABLE, "method")
    assert suggestion("zzz", ROW_TABLE) == ""


def test_a_function_in_the_current_folder_is_found_by_its_name(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    (tmp_path / "mine_here.py").write_text("def score(net): return 7\nvalue = 'text'\n")
    assert resolve("mine_here:score", ROW_TABLE, "method")(None) == 7
    (tmp_path / "rows_here.py").write_text("own_row = 3\n")
    assert resolve("rows_here:own_row", ROW_TABLE, "method") == 3, "a value of the type of the rows is a row"
    with pytest.raises(InputError, match="mine_here has no function 'scoer' .did you mean 'score'"):
        resolve("mine_here:scoer", ROW_TABLE, "method")
    with pytest.raises(InputError, match="has no function 'value'"):
        resolve("mine_here:value", ROW_TABLE, "method")


def test_a_module_of_the_current_folder_precedes_an_installed_one(tmp_path, monkeypatch):
    installed, here = tmp_path / "installed", tmp_path / "here"
    for folder, value in ((installed, 1), (here, 2)):
        folder.mkdir()
        (folder / "twice_here.py").write_text(f"def score(net): return {value}\n")
    monkeypatch.chdir(here)
    monkeypatch.setattr(sys, "path", [str(installed), *sys.path])
    assert resolve("twice_here:score", ROW_TABLE, "method")(None) == 2


def test_a_module_that_raises_while_it_loads_is_refused(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    (tmp_path / "broken_here.py").write_text("1 / 0\n")
    with pytest.raises(InputError, match=r"'broken_here' does not load \(ZeroDivisionError"):
        resolve("broken_here:score", ROW_TABLE, "method")


METRIC_NAMES = [
    *("accuracy", "top 5", "f1.macro", "a/b", "x:y", "größe", "x" * METRIC_NAME_CHARACTERS),
    *(
        "recall@5",
        "f1 (macro)",
        "a//b",
        "a/",
        "/a",
        "..",
        ".",
        "../a",
        "./a",
        "a/../b",
        "",
        "x" * 300,
        "a\nb",
        "%",
    ),
]


@pytest.mark.parametrize("name", METRIC_NAMES)
def test_a_metric_name_is_accepted_where_mlflow_accepts_it(name):
    validation = pytest.importorskip("mlflow.utils.validation")
    try:
        validation._validate_metric(f"{name}", 1.0, 0, 0)
        validation._validate_metric(f"val_{name}", 1.0, 0, 0)
        accepted = bool(name)
    except Exception:
        accepted = False
    if accepted:
        assert check_metric_name(name) == name
    else:
        with pytest.raises(ValueError, match="MLflow does not accept the metric name") as error:
            check_metric_name(name)
        suggested_name = str(error.value).split("'")[-2]
        assert check_metric_name(suggested_name) == suggested_name


def test_a_metric_name_that_is_a_number_is_refused():
    with pytest.raises(ValueError, match="metric name '5'.*'5' is allowed"):
        check_metric_name(5)
