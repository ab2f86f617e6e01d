"""What the README says is there, runs, and is the whole of it."""

import dataclasses
import re
import subprocess
import sys
from pathlib import Path

import click
import pytest
import yaml

from forcetune.cli import main
from forcetune.data import DATASETS
from forcetune.models import MODELS
from forcetune.pruning import METHODS
from forcetune.study import METRICS, Nightly, Resources, Search, Study, Trial
from forcetune.study.reading import read_yaml
from forcetune.trial import run

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()


def blocks(language):
    return re.findall(rf"```{language}\n(.*?)```", README, re.DOTALL)


def rows(header):
    """The cells of the table whose header starts so, without backticks."""
    table = README[README.index(f"\n| {header} |") + 1 :].split("\n\n")[0].splitlines()[2:]
    return [[cell.strip().strip("`") for cell in re.split(r"(?<!\\)\|", line)[1:-1]] for line in table]


def test_every_field_is_listed_with_its_default():
    written = {f"{section}.{name}".strip("."): default for section, name, default, _ in rows("section | field")}
    models = {"": Study, "trial": Trial, "search": Search, "resources": Resources}
    for section, model in models.items():
        for name, info in model.model_fields.items():
            if name in models:
                continue
            default = written.pop(f"{section}.{name}".strip("."))
            if info.is_required():
                assert default == "required"
            else:
                assert yaml.safe_load(default or "null") == info.default, name
    assert not written, "fields that are no more"


def test_every_key_of_a_nightly_file_is_listed_with_its_default():
    written = {name: default for name, default, _ in rows("key")}
    assert written.keys() == Nightly.model_fields.keys()
    for name, info in Nightly.model_fields.items():
        assert (
            written[name] == "required"
            if info.is_required()
            else yaml.safe_load(written[name] or "null") == info.default
        )


def test_every_metric_and_method_is_listed():
    assert [row[0] for row in rows("metric")] == list(METRICS)
    assert [row[0] for row in rows("method")] == list(METHODS)


def test_the_tree_lists_every_file():
    listed = re.findall(r"^( *)(\S+)", README.split("## The tree")[1].split("```")[1], re.MULTILINE)
    found, folders = set(), []
    for indent, name in listed:
        folders = [*folders[: len(indent) // 2], name]
        if not name.endswith("/"):
            found.add("".join(folders))
    tracked = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True).stdout.split()
    listed_whole = ("forcetune/", "benchmarks/", "search_spaces/", "cluster/", "docs/")
    sources = {path for path in tracked if path.startswith(listed_whole)}
    assert found >= {path for path in sources if not path.endswith("__init__.py")}
    assert all((ROOT / path).exists() for path in found)


def test_the_commands_exist():
    for line in "\n".join(blocks("sh")).splitlines():
        command = line.split("#")[0].split()
        if command[:1] == ["make"]:
            assert re.search(rf"^{command[1]}:", (ROOT / "Makefile").read_text(), re.MULTILINE), line
        elif command[:1] == [".venv/bin/forcetune"]:
            subcommand = main.commands[command[1]]
            if isinstance(subcommand, click.Group):
                subcommand = subcommand.commands[command[2]]
            parameters = subcommand.get_params(click.Context(subcommand))
            options = {option for parameter in parameters for option in parameter.opts}
            assert {word for word in command if word.startswith("--")} <= options, line


def test_links_and_paths_exist():
    paths = re.findall(r"\]\(([^)h#][^)]*)\)", README)
    assert len(paths) > 3, "the README has links"
    for path in paths:
        assert (ROOT / path).exists(), path


def test_the_study_file_is_the_one_that_is_shipped():
    written = yaml.safe_load(blocks("yaml")[0])
    assert written == yaml.safe_load((ROOT / "search_spaces" / "digits.yaml").read_text())
    assert Study.from_dict(written).study == "digits"


def test_the_library_example_runs():
    code = next(block for block in blocks("python") if "find_masks(" in block)
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert "'density': 0.00999" in done.stdout


@pytest.fixture
def own_code(tmp_path):
    """The README's files of a user's own code, written where it says."""
    named = [block for block in blocks("python") + blocks("yaml") if re.match(r"# \w+\.(py|yaml)\n", block)]
    assert len(named) == 6
    for block in named:
        (tmp_path / block.split("\n")[0].removeprefix("# ")).write_text(block)
    return tmp_path


def test_the_own_code_example_runs(own_code):
    code = "from forcetune.study import load_study as load; from forcetune.trial import run\n"
    code += "for trial in load('mine.yaml').grid(): print(trial.method, list(run(trial))[-1]['val_accuracy'])"
    environment = {"PYTHONPATH": str(ROOT), "PATH": "/usr/bin:/bin", "HOME": str(own_code)}
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=own_code, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    accuracies = {line.split()[0]: float(line.split()[1]) for line in done.stdout.splitlines()}
    assert set(accuracies) == {"my_scores:score", "my_scores:careful", "random"}
    assert max(accuracies.values()) > 0.8, "the halves of the images differ"


def test_the_own_functions_of_a_task_run(own_code, monkeypatch):
    monkeypatch.syspath_prepend(own_code)
    study = {
        "study": "s",
        "trial": {"dataset": "digits", "model": "mlp", "method": "snip", "density": 0.3, "epochs": 8},
    }
    (own_code / "asked.yaml").write_text(next(block for block in blocks("yaml") if "measure: my_task" in block))
    task = Study.from_dict({**study, **read_yaml(own_code / "asked.yaml")}).task
    assert task.constraints.keys() == {"macs", "effective_density", "latency_ms"}
    fields = Trial(**study["trial"], lr=0.03)
    own = list(run(fields, task))
    plain = list(run(fields, dataclasses.replace(task, train=None)))
    for found in (own, plain):
        assert found[-1]["val_f1"] > 0.5
        assert found[-1]["latency_ms"] > 0
    assert "ema_val_f1" in plain[0]


def test_the_streaming_example_runs(own_code):
    code = "from forcetune.study import Trial; from forcetune.trial import run\n"
    code += "trial = Trial(dataset='my_stream:load', model='resnet8', width=4, method='snip', density=0.5, epochs=1)\n"
    code += "print([metrics['epoch'] for metrics in run(trial)])"
    environment = {"PYTHONPATH": str(ROOT), "PATH": "/usr/bin:/bin", "HOME": str(own_code)}
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=own_code, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout == "[1]\n"


def test_every_model_and_data_set_is_named():
    for table in (MODELS, DATASETS):
        assert [name for name in table if f"`{name}`" not in README] == []
