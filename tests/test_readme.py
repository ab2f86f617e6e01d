"""The README and the pages under docs/: tables and tree are complete, and commands, links and examples work."""

import dataclasses
import re
import subprocess
import sys

import click
import pytest
import yaml
from shared_constants import REPOSITORY

from forcetune.cli import main
from forcetune.data import DATASETS
from forcetune.models import MODELS
from forcetune.pruning import METHODS
from forcetune.study import METRICS, Nightly, Resources, Search, Study, Trial
from forcetune.study.comparison import make_grid
from forcetune.study.reading import read_yaml
from forcetune.trial import run

README = REPOSITORY / "README.md"
LINKED_PATHS = dict.fromkeys(re.findall(r"\((docs/[\w/-]+\.md)\)", README.read_text()))  # each once, in order
PAGES = [README, *(REPOSITORY / path for path in LINKED_PATHS)]
DOCUMENTS = "\n".join(page.read_text() for page in PAGES)


def find_blocks(language):
    return re.findall(rf"```{language}\n(.*?)```", DOCUMENTS, re.DOTALL)


def read_table(header):
    """Return the cells of the table with this header, without backticks."""
    table = DOCUMENTS[DOCUMENTS.index(f"\n| {header} |") + 1 :].split("\n\n")[0].splitlines()[2:]
    return [[cell.strip().strip("`") for cell in re.split(r"(?<!\\)\|", line)[1:-1]] for line in table]


def test_every_field_is_listed_with_its_default():
    written_defaults = {
        f"{section}.{name}".strip("."): default for section, name, default, _ in read_table("section | field")
    }
    models = {"": Study, "trial": Trial, "search": Search, "resources": Resources}
    for section, model in models.items():
        for name, info in model.model_fields.items():
            if name in models:
                continue
            default = written_defaults.pop(f"{section}.{name}".strip("."))
            if info.is_required():
                assert default == "required"
            else:
                assert yaml.safe_load(default or "null") == info.default, name
    assert not written_defaults, "the documents list fields that no longer exist"


def test_every_key_of_a_nightly_file_is_listed_with_its_default():
    written_defaults = {name: default for name, default, _ in read_table("key")}
    assert written_defaults.keys() == Nightly.model_fields.keys()
    for name, info in Nightly.model_fields.items():
        assert (
            written_defaults[name] == "required"
            if info.is_required()
            else yaml.safe_load(written_defaults[name] or "null") == info.default
        )


def test_every_metric_and_method_is_listed():
    assert [row[0] for row in read_table("metric")] == list(METRICS)
    listed = [row[0] for header in ("method", "method while training") for row in read_table(header)]
    assert sorted(listed) == sorted(METHODS)
    assert [name for name in listed if METHODS[name].rule] == [row[0] for row in read_table("method while training")]


def test_the_tree_lists_every_file():
    listed_lines = re.findall(
        r"^( *)(\S+)",
        (REPOSITORY / "docs" / "reference" / "tree.md").read_text().split("# The tree")[1].split("```")[1],
        re.MULTILINE,
    )
    listed_files, folders = set(), []
    for indent, name in listed_lines:
        folders = [*folders[: len(indent) // 2], name]
        if not name.endswith("/"):
            listed_files.add("".join(folders))
    tracked = subprocess.run(
        ["git", "ls-files"], cwd=REPOSITORY, capture_output=True, text=True, check=True
    ).stdout.split()
    complete_folders = ("forcetune/", "benchmarks/", "search_spaces/", "cluster/", "docs/")
    recorded = tuple(f"benchmarks/{name}-results/" for name in ("ceilings", "dial", "front", "race", "search"))
    sources = {path for path in tracked if path.startswith(complete_folders) and not path.startswith(recorded)}
    assert listed_files >= {path for path in sources if not path.endswith("__init__.py")}
    assert all((REPOSITORY / path).exists() for path in listed_files)


def test_the_commands_exist():
    for line in "\n".join(find_blocks("sh")).splitlines():
        command = line.split("#")[0].split()
        if command[:1] == ["make"]:
            assert re.search(rf"^{command[1]}:", (REPOSITORY / "Makefile").read_text(), re.MULTILINE), line
        elif command[:1] in (["forcetune"], [".venv/bin/forcetune"]):
            subcommand = main.commands[command[1]]
            if isinstance(subcommand, click.Group):
                subcommand = subcommand.commands[command[2]]
            parameters = subcommand.get_params(click.Context(subcommand))
            options = {option for parameter in parameters for option in parameter.opts}
            assert {word for word in command if word.startswith("--")} <= options, line


def test_links_and_paths_exist():
    count = 0
    for page in PAGES:
        for target in re.findall(r"\]\(([^)\s]+)\)", page.read_text()):
            if target.startswith("http"):
                continue
            path, _, anchor = target.partition("#")
            linked = (page.parent / path).resolve() if path else page
            assert linked.exists(), f"{page.name}: {target}"
            if anchor:
                headings = re.findall(r"^#+ (.*)$", linked.read_text(), re.MULTILINE)
                slugs = {re.sub(r"[^a-z0-9 -]", "", heading.lower()).replace(" ", "-") for heading in headings}
                assert anchor in slugs, f"{page.name}: {target}"
            count += 1
    assert count > 20, "the pages have links"


def test_the_readme_stays_short_and_links_every_page():
    assert len(README.read_text().splitlines()) < 200
    assert {*PAGES[1:]} == {*(REPOSITORY / "docs").rglob("*.md")}


def test_the_study_file_is_the_one_that_is_shipped():
    written = yaml.safe_load(
        next(
            block
            for block in find_blocks("yaml")
            if block.startswith(("# ", "study: digits")) and "study: digits" in block
        )
    )
    assert written == yaml.safe_load((REPOSITORY / "search_spaces" / "digits.yaml").read_text())
    assert Study.from_dict(written).study == "digits"


def test_the_files_for_prune_and_compare_are_valid():
    shuffled, wide = (
        next(yaml.safe_load(block) for block in find_blocks("yaml") if block.startswith(f"study: {name}\n"))
        for name in ("shuffled", "wide")
    )
    assert Study.from_dict(make_grid(wide)).trials == 5 * 3 * 5, "two methods and three controls"
    fields = {**shuffled["trial"], "method": "snip", "density": 0.1}
    assert Study.from_dict({**shuffled, "trial": fields}).make_trial({}).shuffle


def test_the_rule_of_the_example_does_its_duties(capsys):
    exec(next(block for block in find_blocks("python") if "exercise_rule(" in block), {"__name__": "__main__"})
    assert "'step': 18" in capsys.readouterr().out


def test_the_library_example_runs(capsys):
    exec(next(block for block in find_blocks("python") if "find_masks(" in block), {})
    assert "'density': 0.00999" in capsys.readouterr().out


@pytest.fixture
def user_code_folder(tmp_path):
    """Return a folder with the files of user code that the documents show."""
    file_blocks = [
        block for block in find_blocks("python") + find_blocks("yaml") if re.match(r"# \w+\.(py|yaml)\n", block)
    ]
    assert len(file_blocks) == 9
    for block in file_blocks:
        (tmp_path / block.split("\n")[0].removeprefix("# ")).write_text(block)
    return tmp_path


def test_the_user_code_example_runs(user_code_folder):
    code = "from forcetune.study import load_study as load; from forcetune.trial import run\n"
    code += "for trial in load('mine.yaml').grid(): print(trial.method, list(run(trial))[-1]['val_accuracy'])"
    environment = {"PYTHONPATH": str(REPOSITORY), "PATH": "/usr/bin:/bin", "HOME": str(user_code_folder)}
    result = subprocess.run(
        [sys.executable, "-c", code], cwd=user_code_folder, env=environment, capture_output=True, text=True, check=False
    )
    assert result.returncode == 0, result.stderr
    accuracies = {line.split()[0]: float(line.split()[1]) for line in result.stdout.splitlines()}
    assert set(accuracies) == {"my_scores:score", "my_scores:careful", "random"}
    assert max(accuracies.values()) > 0.8, "the halves of the images differ"


def test_the_user_functions_of_a_task_run(user_code_folder, monkeypatch):
    monkeypatch.syspath_prepend(user_code_folder)
    study = {
        "study": "s",
        "trial": {"dataset": "digits", "model": "mlp", "method": "snip", "density": 0.3, "epochs": 8},
    }
    (user_code_folder / "asked.yaml").write_text(
        next(block for block in find_blocks("yaml") if "measure: my_task" in block)
    )
    task = Study.from_dict({**study, **read_yaml(user_code_folder / "asked.yaml")}).task
    assert task.constraints.keys() == {"macs", "effective_density", "latency_ms"}
    fields = Trial(**study["trial"], lr=0.03)
    user_loop_epochs = list(run(fields, task))
    plain_epochs = list(run(fields, dataclasses.replace(task, train=None)))
    for epochs in (user_loop_epochs, plain_epochs):
        assert epochs[-1]["val_f1"] > 0.5
        assert epochs[-1]["latency_ms"] > 0
    assert "ema_val_f1" in plain_epochs[0]


def test_the_streaming_example_runs(user_code_folder, monkeypatch):
    monkeypatch.syspath_prepend(user_code_folder)
    trial = Trial(dataset="my_stream:load", model="resnet8", width=4, method="snip", density=0.5, epochs=1)
    assert [metrics["epoch"] for metrics in run(trial)] == [1]


def test_every_model_and_data_set_is_named():
    for table in (MODELS, DATASETS):
        assert [name for name in table if f"`{name}`" not in DOCUMENTS] == []
