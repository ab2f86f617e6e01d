"""The second study of search_spaces/, on real images."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
FORCETUNE = [sys.executable, "-c", "from forcetune.cli import main; main()"]


@pytest.mark.long
def test_fashion_is_searched_whole(tmp_path):
    environment = {**os.environ, "HOME": str(tmp_path / "home"), "PYTHONPATH": str(ROOT)}
    command = [*FORCETUNE, "search", str(ROOT / "search_spaces" / "fashion.yaml")]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    print(done.stdout)
    assert done.returncode == 0, done.stderr
    assert "front of 12 trials" in done.stdout
    asked = [*FORCETUNE, "best", "fashion", "--json"]
    found = subprocess.run(asked, cwd=tmp_path, env=environment, capture_output=True, text=True, check=True)
    front = json.loads(found.stdout)
    # 3 epochs on 9000 images: a densest network that learns no more than this is broken
    assert front[0]["val_accuracy"] > 0.7
    assert front[-1]["sparsity"] > 0.9
