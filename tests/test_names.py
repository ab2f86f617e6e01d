"""Names of rows and of the user's own code."""

import sys

import pytest

from forcetune.errors import InputError
from forcetune.names import METRIC_NAME_CHARACTERS, check_metric_name, resolve, suggestion

TABLE = {"snip": 1, "force": 2}


def test_a_row():
    assert resolve("force", TABLE, "method") == 2


def test_unknown_names_the_near_and_the_allowed():
    with pytest.raises(InputError, match=r"unknown method 'forse' \(did you mean 'force'\?\); allowed: snip, force"):
        resolve("forse", TABLE, "method")
    assert suggestion("zzz", TABLE) == ""


def test_a_function_in_the_current_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    (tmp_path / "mine_here.py").write_text("def score(net): return 7\nvalue = 'text'\n")
    assert resolve("mine_here:score", TABLE, "method")(None) == 7
    (tmp_path / "rows_here.py").write_text("own_row = 3\n")
    assert resolve("rows_here:own_row", TABLE, "method") == 3, "of the type of the table's rows"
    with pytest.raises(InputError, match="mine_here has no function 'scoer' .did you mean 'score'"):
        resolve("mine_here:scoer", TABLE, "method")
    with pytest.raises(InputError, match="has no function 'value'"):
        resolve("mine_here:value", TABLE, "method")


def test_a_module_of_the_current_folder_goes_before_an_installed_one(tmp_path, monkeypatch):
    installed, here = tmp_path / "installed", tmp_path / "here"
    for folder, value in ((installed, 1), (here, 2)):
        folder.mkdir()
        (folder / "twice_here.py").write_text(f"def score(net): return {value}\n")
    monkeypatch.chdir(here)
    monkeypatch.setattr(sys, "path", [str(installed), *sys.path])
    assert resolve("twice_here:score", TABLE, "method")(None) == 2


def test_a_module_that_raises_while_it_loads(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    (tmp_path / "broken_here.py").write_text("1 / 0\n")
    with pytest.raises(InputError, match=r"'broken_here' does not load \(ZeroDivisionError"):
        resolve("broken_here:score", TABLE, "method")


NAMES = [
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


@pytest.mark.parametrize("name", NAMES)
def test_a_metric_has_a_name_that_mlflow_takes(name):
    validation = pytest.importorskip("mlflow.utils.validation")
    try:
        validation._validate_metric(f"{name}", 1.0, 0, 0)
        validation._validate_metric(f"val_{name}", 1.0, 0, 0)
        taken = bool(name)
    except Exception:
        taken = False
    if taken:
        assert check_metric_name(name) == name
    else:
        with pytest.raises(ValueError, match="MLflow does not accept the metric name") as refused:
            check_metric_name(name)
        better = str(refused.value).split("'")[-2]
        assert check_metric_name(better) == better


def test_a_metric_that_is_called_by_a_number():
    with pytest.raises(ValueError, match="metric name '5'.*'5' is allowed"):
        check_metric_name(5)
