"""Make the folder of stores that tests/test_old_store.py reads: `python tests/data/make_store.py ARCHIVE`.

Run it with the version of forcetune whose stores are to be kept, here that of commit db262f3. It searches a study with
companions, holds it against random pruning once and on two nights, and kills the driver of a second study in the
middle of a trial. The archive has the stores, their artifacts, the checkpoint of the interrupted trial and the files
that were written by hand. MLflow keeps absolute addresses of artifacts: the folder has the neutral name STORE_FOLDER,
which the test replaces by its own.
"""

import os
import signal
import sqlite3
import subprocess
import sys
import tarfile
import time
from contextlib import closing
from pathlib import Path

STORE_FOLDER = Path("/tmp/forcetune-old-store")
OLD_FORCETUNE_COMMAND = [sys.executable, "-c", "from forcetune.cli import main; main()"]
HANDWRITTEN_FILES = {
    "whole.yaml": """\
study: whole
trial:
  dataset: synthetic
  model: mlp
  width: 12
  epochs: 3
  method: [random, snip, force]
  density: {low: 0.05, high: 0.5, log: true}
  lr: {low: 0.02, high: 0.2, log: true}
search: {trials: 10, seeds: {front: 2}}
""",
    "cut.yaml": """\
study: cut
trial:
  dataset: synthetic
  model: paced:build
  epochs: 6
  method: [random, magnitude]
  density: {low: 0.1, high: 0.9, log: true}
search: {trials: 4, stopping: none}
resources: {concurrent: 1}
""",
    "paced.py": """\
import time
from pathlib import Path

from torch import nn


class Pace(nn.Module):
    def forward(self, x):
        if self.training and not Path(__file__).with_name("hurry").exists():
            time.sleep(0.4)
        return x


def build(input_shape, classes):
    size = input_shape[0] * input_shape[1] * input_shape[2]
    return nn.Sequential(nn.Flatten(), nn.Linear(size, 12), nn.ReLU(), Pace(), nn.Linear(12, classes))
""",
    "nightly.yaml": "studies: [whole]\nbands: [0.5, 0.9, 1]\nseeds: 1\nsentinels: 1\n",
}


def main(archive: Path) -> None:
    """Make the stores and pack them."""
    STORE_FOLDER.mkdir()
    for name, text in HANDWRITTEN_FILES.items():
        (STORE_FOLDER / name).write_text(text)
    forcetune("search", "whole.yaml")
    forcetune("baseline", "whole", "--top", "1", "--bands", "0.5,0.9,1", "--seeds", "2")
    for night in ("2026-11-01", "2026-11-02"):
        forcetune("nightly", "nightly.yaml", "--date", night)
    interrupt("cut")
    for store in ("mlflow.db", "optuna.db"):
        with closing(sqlite3.connect(STORE_FOLDER / store)) as connection:
            connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
            connection.execute("VACUUM")
    with tarfile.open(archive, "w:xz", preset=9) as packed:
        for path in sorted(STORE_FOLDER.iterdir()):
            if path.name != "__pycache__" and not path.name.endswith(("-wal", "-shm")):
                packed.add(path, path.name)


def forcetune(*command: str) -> None:
    """Run a command of forcetune in the folder."""
    subprocess.run([*OLD_FORCETUNE_COMMAND, *command], cwd=STORE_FOLDER, env=environment(), check=True)


def interrupt(study: str) -> None:
    """Kill the driver of a search while its second trial trains, with a checkpoint behind it."""
    command = [*OLD_FORCETUNE_COMMAND, "search", f"{study}.yaml"]
    driver = subprocess.Popen(command, cwd=STORE_FOLDER, env=environment())
    while not list(STORE_FOLDER.glob(f".forcetune/{study}*/0001/1/checkpoint.pt")):
        assert driver.poll() is None, "the search has ended"
        time.sleep(0.02)
    time.sleep(0.5)  # so that the epoch reaches MLflow
    driver.send_signal(signal.SIGKILL)
    driver.wait()
    time.sleep(10)  # the workers outlive the driver for some seconds


def environment() -> dict[str, str]:
    """Return the variables of this process without those that name other stores, and with this version's modules."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("MLFLOW_", "FORCETUNE_", "RAY_"))}
    return {**kept, "PYTHONPATH": str(Path(__file__).parents[2]), "USER": "somebody", "LOGNAME": "somebody"}


if __name__ == "__main__":
    main(Path(sys.argv[1]).absolute())
