"""The blocks of code in the documents: which of them can run, and the folder in which they run.

A comment before a block says what cannot run, and why; neither a repository host nor the site shows it:

    <!-- not run: REASON -->                  the whole block
    <!-- not run (WORDS; WORDS): REASON -->   the lines that have one of these words
    <!-- no block of this page is run: REASON -->
"""

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from shared_constants import REPOSITORY

BLOCK_PATTERN = re.compile(
    r"(?:^<!-- not run(?: \((?P<words>[^)]*)\))?: (?P<reason>.+?) -->\n)?^```(?P<language>[a-z]+)\n(?P<text>.*?)^```$",
    re.DOTALL | re.MULTILINE,
)
PAGE_PATTERN = re.compile(r"^<!-- no block of this page is run: .+ -->$", re.MULTILINE)
FILE_PATTERN = re.compile(r"# (\w+\.(?:py|yaml))\n")  # the first line of a block that shows a file
TRIAL_PATTERN = re.compile(r"digits/trial-\d{4}")  # stands for the knee, whose weights the tutorial keeps
INSTALLATION = "pip install"  # lines with it would change the environment of the tests
COPIED = ("search_spaces", "cluster", "examples")
PROGRAMS = {"forcetune": '-c "from forcetune.cli import main; main()"', "python": ""}


@dataclass(frozen=True)
class Block:
    """A block of code of a page.

    Attributes:
        page: The path of the page in the repository.
        line: The number of its first line.
        language: The language.
        text: The code.
        skipped_words: Words of the lines that cannot run.
        reason: Why the block or these lines cannot run; None where all can.
    """

    page: str
    line: int
    language: str
    text: str
    skipped_words: tuple[str, ...]
    reason: str | None

    @property
    def runs(self) -> bool:
        """Whether the block, or a part of it, can run."""
        return self.reason is None or bool(self.skipped_words)

    @property
    def file_name(self) -> str | None:
        """The name of the file that the block shows; None where it shows none."""
        match = FILE_PATTERN.match(self.text)
        return match[1] if match else None

    @property
    def lines(self) -> list[str]:
        """The lines that can run; a line that ends in a backslash belongs to the next one."""
        joined = self.text.replace("\\\n", " ").splitlines()
        return [line for line in joined if not any(word in line for word in (*self.skipped_words, INSTALLATION))]

    @property
    def commands(self) -> list[str]:
        """The commands of a block of the shell that can run, without their comments."""
        stripped = [line.split("  #")[0].strip() for line in self.lines]
        return [command for command in stripped if command and not command.startswith("#")]


def find_blocks(page: str) -> list[Block]:
    """Return the blocks of a page that name a language."""
    text = (REPOSITORY / page).read_text(encoding="utf-8")
    page_reason = PAGE_PATTERN.search(text)
    blocks = []
    for match in BLOCK_PATTERN.finditer(text):
        words = tuple(word.strip() for word in (match["words"] or "").split(";") if word.strip())
        reason = match["reason"] or (page_reason and page_reason[0])
        line = text.count("\n", 0, match.start("language")) + 1
        blocks.append(Block(page, line, match["language"], match["text"], words, reason))
    return blocks


def list_pages() -> list[str]:
    """Return README.md and the pages of docs/, the tutorial first: its search makes the study that others ask."""
    pages = sorted(str(path.relative_to(REPOSITORY)) for path in (REPOSITORY / "docs").rglob("*.md"))
    return ["docs/tutorial.md", "README.md", *(page for page in pages if page != "docs/tutorial.md")]


def make_folder(folder: Path) -> dict[str, str]:
    """Prepare a folder as the documents see it, and return its environment variables."""
    for name in COPIED:
        shutil.copytree(REPOSITORY / name, folder / name)
    programs = folder / ".venv" / "bin"
    programs.mkdir(parents=True)
    for name, arguments in PROGRAMS.items():
        (programs / name).write_text(f'#!/bin/sh\nexec "{sys.executable}" {arguments} "$@"\n')
        (programs / name).chmod(0o755)
    inherited = {
        name: value for name, value in os.environ.items() if not name.startswith(("RAY_", "MLFLOW_", "FORCETUNE_"))
    }
    path = f"{programs}:{Path(sys.executable).parent}:{os.environ['PATH']}"
    # Plotly shows a figure where nobody looks
    return {**inherited, "HOME": str(folder), "PATH": path, "PYTHONPATH": str(REPOSITORY), "PLOTLY_RENDERER": "json"}


def run_block(block: Block, folder: Path, environment: dict[str, str], done: set[str]) -> None:
    """Run a block, or write the file that it shows; an error names its page and its line.

    Args:
        block: The block.
        folder: The folder in which it runs.
        environment: The environment variables.
        done: The command lines that ran on earlier pages; they do not run again.
    """
    if block.file_name:
        (folder / block.file_name).write_text(block.text)
        return
    for command in _list_processes(block, done):
        if TRIAL_PATTERN.search(command[-1]):
            command[-1] = TRIAL_PATTERN.sub(_find_knee(folder, environment), command[-1])
        result = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)
        position = f"{block.page}, line {block.line}: {command[-1]}"
        assert result.returncode == 0, f"{position}\n{result.stdout[-1500:]}\n{result.stderr[-3000:]}"


def _find_knee(folder: Path, environment: dict[str, str]) -> str:
    """Return the name of the knee of the study `digits`."""
    command = [folder / ".venv" / "bin" / "forcetune", "best", "digits", "--knee", "--json"]
    result = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=True)
    return f"digits/{json.loads(result.stdout)[0]['name']}"


def _list_processes(block: Block, done: set[str]) -> Iterator[list[str]]:
    """Yield the processes that a block starts."""
    if block.language == "python":
        yield [sys.executable, "-c", block.text]
        return
    for command in block.commands:
        if command not in done:
            yield ["bash", "-euo", "pipefail", "-c", command]
