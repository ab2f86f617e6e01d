"""The documents: each command and each block of code runs, or a comment before it says why it cannot."""

import ast
import importlib.util
import re
import time

import pytest
import yaml
from document_blocks import BLOCK_PATTERN, find_blocks, list_pages, make_folder, run_block
from shared_constants import REPOSITORY

import forcetune
from forcetune.cli import main
from forcetune.study import Study

PAGES_WITH_BLOCKS = [page for page in list_pages() if find_blocks(page)]
RUN_LIMIT_S = 240  # of all blocks of all pages, on two quiet cores
SHOWN = "…"  # stands for a value in a message


def test_every_block_that_does_not_run_says_why():
    for page in PAGES_WITH_BLOCKS:
        text = (REPOSITORY / page).read_text(encoding="utf-8")
        assert text.count("<!-- not run") == sum(bool(match["reason"]) for match in BLOCK_PATTERN.finditer(text)), (
            f"{page}: a comment is not directly before a block"
        )
        for block in find_blocks(page):
            assert block.reason is None or len(block.reason) > 20, f"{page}, line {block.line}"


@pytest.mark.parametrize("page", PAGES_WITH_BLOCKS)
def test_yaml_is_valid(page):
    """A block with a whole study is validated as one; data that it names need not be there."""
    for block in find_blocks(page):
        if block.language == "yaml":
            content = yaml.safe_load(block.text)
            fields = content.get("trial", {})
            modules = {str(value).partition(":")[0] for value in fields.values() if ":" in str(value)}
            if {"model", "dataset", "method", "density"} <= fields.keys() and not modules & {"my_data", "my_rules"}:
                Study.from_dict({**content, "study": content.get("study", "s")})


@pytest.fixture(scope="module")
def documents_folder(tmp_path_factory):
    """Return the folder of all pages, its environment variables, and the command lines that ran in it."""
    folder = tmp_path_factory.mktemp("documents")
    return folder, make_folder(folder), set()


@pytest.fixture(scope="module")
def time_spent():
    return []


@pytest.mark.long  # the tutorial and the guides as a reader follows them: two to four minutes
@pytest.mark.parametrize("page", PAGES_WITH_BLOCKS)
def test_the_blocks_run(page, documents_folder, time_spent):
    folder, environment, done = documents_folder
    started = time.monotonic()
    blocks = find_blocks(page)
    for block in sorted(blocks, key=lambda block: block.file_name is None):  # a command may use a file shown below it
        if block.file_name or (block.runs and block.language in ("sh", "python")):
            run_block(block, folder, environment, done)
    done.update(command for block in blocks if block.language == "sh" and block.runs for command in block.commands)
    time_spent.append(time.monotonic() - started)
    print(f"{page}: {time_spent[-1]:.0f} s, {sum(time_spent):.0f} s so far (limit on quiet cores: {RUN_LIMIT_S} s)")


def load_site_hooks():
    spec = importlib.util.spec_from_file_location("site_hooks", REPOSITORY / "docs" / "site_hooks.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize(
    ("page", "link", "expected"),
    [
        ("README.md", "docs/guide/search.md#a", "guide/search.md#a"),
        ("README.md", "docs/race.svg", "race.svg"),
        ("README.md", "CONTRIBUTING.md", "contributing.md"),
        ("README.md", "LICENSE", "source/LICENSE.md"),
        ("CONTRIBUTING.md", "docs/reference/tree.md", "reference/tree.md"),
        ("docs/guide/search.md", "../../search_spaces/digits.yaml", "../source/search_spaces/digits.yaml.md"),
        ("docs/guide/search.md", "results.md#ask", "results.md#ask"),
        ("docs/guide/search.md", "https://arxiv.org/abs/2006.09081", "https://arxiv.org/abs/2006.09081"),
        ("docs/gpu.md", "../cluster", "source/cluster.md"),
    ],
)
def test_links_of_the_repository_lead_to_pages_of_the_site(page, link, expected):
    assert (
        load_site_hooks().move_links(f"see [this]({link}) and x[0](y)", page) == f"see [this]({expected}) and x[0](y)"
    )


def test_a_folder_is_shown_file_by_file():
    text = load_site_hooks().show_source("cluster/timers")
    assert "\n## nightly.timer\n" in text
    assert "exclude: true" in text


def test_a_notebook_is_shown_cell_by_cell():
    text = load_site_hooks().show_source("examples/quickstart.ipynb")
    assert "\n# examples/quickstart.ipynb\n\n## Quickstart\n" in text
    assert "\n````python\nfrom forcetune import run_study\n" in text
    assert "cell_type" not in text


def test_the_python_page_has_every_public_name():
    page = (REPOSITORY / "docs" / "reference" / "python.md").read_text()
    listed = {name.split(".")[1] for name in re.findall(r"^::: (forcetune\.[\w.]+)$", page, re.MULTILINE)}
    assert set(forcetune.__all__) <= listed


def test_the_page_of_commands_is_made_from_the_commands():
    page = (REPOSITORY / "docs" / "reference" / "commands.md").read_text()
    assert ":module: forcetune.cli" in page
    for name, command in main.commands.items():
        assert command.hidden or command.help, f"{name} says nothing about itself"


def list_messages():
    """Return the texts in the code, with SHOWN for each value in them."""
    texts = []
    for path in (REPOSITORY / "forcetune").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.JoinedStr):
                texts.append("".join(v.value if isinstance(v, ast.Constant) else SHOWN for v in node.values))
            elif isinstance(node, ast.Constant) and isinstance(node.value, str):
                texts.append(node.value)
    return texts


def test_the_messages_of_the_page_on_trouble_are_those_of_the_code():
    page = (REPOSITORY / "docs" / "guide" / "trouble.md").read_text()
    quoted = re.findall(r"^\| (?:``(.+?)``|`(.+?)`) \|", page, re.MULTILINE)
    messages = list_messages()
    assert len(quoted) > 25
    for words in (first or second for first, second in quoted):
        pattern = re.compile(".*".join(re.escape(piece.strip()) for piece in words.split(SHOWN)), re.DOTALL)
        assert any(pattern.search(message) for message in messages), f"no message says: {words}"


def test_every_tag_is_listed():
    page = (REPOSITORY / "docs" / "reference" / "stores.md").read_text()
    listed = set(re.findall(r"`forcetune\.(\w+)`", page))
    rooms = ("tracking", "search", "execution")
    sources = "\n".join(path.read_text() for room in rooms for path in (REPOSITORY / "forcetune" / room).glob("*.py"))
    names = set(re.findall(r"[\"']forcetune\.(\w+)[\"']", sources))
    modules = {path.stem for path in (REPOSITORY / "forcetune").iterdir()}
    assert names - modules <= listed | {"forcetune-nightly"}


def test_every_environment_variable_is_listed():
    page = (REPOSITORY / "docs" / "reference" / "stores.md").read_text()
    sources = "\n".join(path.read_text() for path in (REPOSITORY / "forcetune").rglob("*.py"))
    assert {name for name in re.findall(r"[\"'](FORCETUNE_[A-Z]+)[\"']", sources) if name != "FORCETUNE_FAULT"} <= set(
        re.findall(r"`([A-Z_]+)`", page)
    )
