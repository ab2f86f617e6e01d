"""The notebooks of examples/: each runs from its first cell to its last, in an empty folder."""

import json
import shutil
import subprocess
import sys

import pytest
from commands import make_environment
from shared_constants import REPOSITORY

NOTEBOOKS = {  # what the output of the last cell with code has
    "quickstart": "compact: ",
    "own_method": "random_erk",
}
EXECUTE = "from nbclient.cli import main; main()"


def read_cells(path):
    return json.loads(path.read_text(encoding="utf-8"))["cells"]


@pytest.mark.long  # each starts a kernel and Ray, and trains some dozens of networks
@pytest.mark.parametrize(("name", "words"), NOTEBOOKS.items(), ids=NOTEBOOKS)
def test_a_notebook_runs(tmp_path, name, words):
    notebook = tmp_path / f"{name}.ipynb"
    shutil.copy(REPOSITORY / "examples" / notebook.name, notebook)
    command = [sys.executable, "-c", EXECUTE, "--inplace", "--timeout=300", str(notebook)]
    environment = make_environment(tmp_path)
    result = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr[-3000:]
    *_, last = [cell for cell in read_cells(notebook) if cell["cell_type"] == "code"]
    text = "".join(line for output in last["outputs"] for line in output.get("text", []))
    assert words in text, text
    assert "Traceback" not in text


def test_every_notebook_is_run_and_has_no_output():
    paths = sorted((REPOSITORY / "examples").glob("*.ipynb"))
    assert [path.stem for path in paths] == sorted(NOTEBOOKS)
    for path in paths:
        for cell in read_cells(path):
            assert not cell.get("outputs"), f"{path.name} has the output of a run"
            assert cell.get("execution_count") is None
