"""`forcetune init` and `forcetune schema`: study files to start from, and the schema by which editors check them."""

import json
import tomllib
from importlib.resources import files

import jsonschema
import pytest
from click.testing import CliRunner
from shared_constants import REPOSITORY, SEARCH_SPACES

from forcetune.cli import main
from forcetune.errors import InputError
from forcetune.study import SCHEMA_FILE, Search, Study, Trial, load_study, make_schema, read_shipped_schema
from forcetune.study.reading import read_yaml
from forcetune.study.sections import Resources

STUDY_FILES = [*sorted(SEARCH_SPACES.rglob("*.yaml")), REPOSITORY / "benchmarks" / "curves.yaml"]
EDITOR_LINE = "# yaml-language-server: $schema="
GOOD_TRIAL = {"dataset": "digits", "model": "mlp", "method": "snip", "density": 0.1}
VALID_CHANGES = [
    {"trial": {"density": [0.1, 0.2]}},
    {"trial": {"density": {"low": 0.01, "high": 1, "log": True}}},
    {"trial": {"lr": {"low": 0.1, "high": 0.5, "step": 0.1}, "epochs": {"low": 1, "high": 9, "step": 2}}},
    {"trial": {"method": ["snip", "force"], "iterations": {"choices": [5, 10], "when": {"method": "force"}}}},
    {"trial": {"method": ["snip", "force"], "iterations": {"low": 5, "high": 9, "when": {"method": ["force"]}}}},
    {"trial": {"small_dense": [None, "macs"], "width": None, "model": "torchvision:resnet18", "momentum": 0}},
    {"objectives": {"val_accuracy": "max", "macs": {"direction": "min", "reference": 1e6}}},
    {"constraints": {"macs": 1e6, "effective_density": {"min": 0.01, "max": None}}},
    {"search": {"trials": None, "max_failures": 0.2, "start": [{"density": 0.1}], "budget": {"hours": 1}}},
    {"search": {"seeds": {"front": 5}, "patience": {"trials": 10, "gain": 0.01}, "max_failures": 3}},
    {"resources": {"gpus": "auto", "cpus": 0.5, "max_seconds": 60}},
    {"code": ["my_nets.py"]},
    {"code": {"paths": [], "pip": ["timm"]}},
]
BROKEN_CHANGES = [
    {"study": "no name"},
    {"resource": {}},
    {"trial": {"densty": 0.1}},
    {"trial": {"density": 0}},
    {"trial": {"density": []}},
    {"trial": {"density": [0.1, 0.1]}},
    {"trial": {"density": {"low": 0.1}}},
    {"trial": {"density": {"low": 0.1, "high": 2}}},
    {"trial": {"density": {"choices": [0.1], "log": True}}},
    {"trial": {"epochs": 1.5}},
    {"trial": {"epochs": {"low": 1, "high": 9, "step": 0.5}}},
    {"trial": {"method": "snpi"}},
    {"trial": {"method": {"low": 1, "high": 2}}},
    {"trial": {"schedule": "quadratic"}},
    {"trial": {"optimizer": "adam"}},
    {"trial": {"screen": "yes"}},
    {"trial": {"iterations": {"choices": [5], "when": {"metod": "snip"}}}},
    {"loss": "mse"},
    {"objectives": {}},
    {"objectives": {"val_accuracy": "up"}},
    {"constraints": {"macs": {"low": 1}}},
    {"search": {"trials": 0}},
    {"search": {"sampler": "cma"}},
    {"search": {"max_failures": -1}},
    {"search": {"start": [{"densty": 0.1}]}},
    {"resources": {"gpus": -1}},
    {"resources": {"gpus": "all"}},
    {"code": {"path": []}},
]


def make_study_content(change):
    """Return the content of a study file; a change to `trial` changes only the fields that it names."""
    return {"study": "s", **change, "trial": {**GOOD_TRIAL, **change.get("trial", {})}}


@pytest.fixture(scope="module")
def validator():
    return jsonschema.Draft202012Validator(make_schema())


@pytest.fixture
def run_command(tmp_path, monkeypatch):
    """Return a function that runs a command in an empty folder."""
    monkeypatch.chdir(tmp_path)
    return lambda *arguments: CliRunner().invoke(main, arguments)


@pytest.mark.parametrize("name", ["digits", "fashion", "gpu"])
def test_init_copies_a_shipped_study_and_the_schema(run_command, tmp_path, name):
    completed = run_command("init", name)
    assert completed.exit_code == 0, completed.output
    assert f"forcetune search {name}.yaml" in completed.output
    assert {path.name for path in tmp_path.iterdir()} == {f"{name}.yaml", SCHEMA_FILE}
    assert (tmp_path / f"{name}.yaml").read_bytes() == (SEARCH_SPACES / f"{name}.yaml").read_bytes()
    assert (tmp_path / SCHEMA_FILE).read_bytes() == (SEARCH_SPACES / SCHEMA_FILE).read_bytes()
    assert load_study(f"{name}.yaml").study == name


def test_init_writes_digits_without_a_name(run_command, tmp_path):
    assert run_command("init").exit_code == 0
    assert (tmp_path / "digits.yaml").is_file()


def test_init_overwrites_nothing(run_command, tmp_path):
    (tmp_path / "mine.yaml").write_text("study: mine\n")
    (tmp_path / SCHEMA_FILE).write_text("{}")
    refused = run_command("init", "--out", "mine.yaml")
    assert refused.exit_code == 2
    assert refused.stderr == (
        "forcetune: mine.yaml exists already, and is not overwritten; --out FILE writes the study to another file\n"
    )
    assert run_command("init", "--out", "other.yaml").exit_code == 0
    assert (tmp_path / "mine.yaml").read_text() == "study: mine\n"
    assert (tmp_path / SCHEMA_FILE).read_text() == "{}"


def test_init_refuses_what_it_cannot_write(run_command, tmp_path):
    unknown = run_command("init", "digit")
    assert unknown.exit_code == 2
    assert unknown.stderr == (
        "forcetune: unknown search space 'digit' (did you mean 'digits'?); allowed: digits, fashion, gpu, latency\n"
    )
    missing = run_command("init", "--out", "nowhere/study.yaml")
    assert missing.exit_code == 2
    assert missing.stderr == "forcetune: nowhere/study.yaml cannot be written: No such file or directory\n"
    assert list(tmp_path.iterdir()) == []


def test_the_help_of_init_lists_the_search_spaces(run_command):
    text = run_command("init", "--help").output
    for path in SEARCH_SPACES.glob("*.yaml"):
        assert f"\n  {path.stem} " in text
    assert "Six methods and two controls" in text
    assert "yaml-language-server: $schema" not in text


def test_an_installed_package_has_the_search_spaces():
    package_data = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["tool"]["setuptools"]["package-data"]
    assert "search_spaces/*" in package_data["forcetune"]
    assert "search_spaces/paper/*" in package_data["forcetune"]
    packaged_folder = files("forcetune").joinpath("search_spaces")
    packaged = {file.name: file.read_bytes() for file in packaged_folder.iterdir() if file.is_file()}
    assert packaged == {path.name: path.read_bytes() for path in SEARCH_SPACES.iterdir() if path.is_file()}


def test_schema_prints_the_schema_or_writes_it(run_command, tmp_path):
    printed = run_command("schema")
    assert printed.exit_code == 0
    assert json.loads(printed.output) == make_schema()
    (tmp_path / "s.json").write_text("{}")
    assert run_command("schema", "--out", "s.json").exit_code == 0
    assert (tmp_path / "s.json").read_text() == printed.output
    refused = run_command("schema", "--out", "nowhere/s.json")
    assert refused.exit_code == 2
    assert refused.stderr == "forcetune: --out: nowhere/s.json cannot be written: No such file or directory\n"


def test_the_shipped_schema_is_that_of_the_models():
    message = f"write it again: forcetune schema --out search_spaces/{SCHEMA_FILE}"
    assert read_shipped_schema() == json.dumps(make_schema(), indent=2, ensure_ascii=False) + "\n", message


def test_the_schema_is_one_of_its_draft():
    schema = make_schema()
    assert schema["$schema"] == "https://json-schema.org/draft/2020-12/schema"
    jsonschema.Draft202012Validator.check_schema(schema)


def test_each_field_has_a_description():
    definitions = make_schema()["$defs"]
    for name, model in {"Trial": Trial, "Search": Search, "Resources": Resources}.items():
        properties = definitions[name]["properties"]
        assert properties.keys() == model.model_fields.keys()
        for field, info in model.model_fields.items():
            assert properties[field]["description"] == info.description
    sections = [section for name, section in definitions.items() if name not in ("When", "Trial")]
    for section in sections:
        assert all("description" in field for field in section.get("properties", {}).values())


@pytest.mark.parametrize("path", STUDY_FILES, ids=lambda path: path.stem)
def test_shipped_study_files_are_valid_and_name_the_schema(path, validator):
    validator.validate(read_yaml(path))
    first_line = path.read_text().splitlines()[0]
    assert first_line.startswith(EDITOR_LINE)
    schema_path = path.parent / first_line.removeprefix(EDITOR_LINE)
    assert schema_path.resolve() == SEARCH_SPACES / SCHEMA_FILE


@pytest.mark.parametrize("change", VALID_CHANGES, ids=str)
def test_what_a_study_may_contain_is_valid(change, validator):
    content = make_study_content(change)
    assert Study.from_dict(content).study == "s"
    validator.validate(content)


@pytest.mark.parametrize("change", BROKEN_CHANGES, ids=str)
def test_what_no_study_may_contain_is_not_valid(change, validator):
    content = make_study_content(change)
    with pytest.raises(InputError):
        Study.from_dict(content)
    assert not validator.is_valid(content)


@pytest.mark.parametrize("field", ["dataset", "model", "method", "density"])
def test_the_required_fields_are_required(field, validator):
    content = make_study_content({})
    del content["trial"][field]
    assert not validator.is_valid(content)
