"""What running as a job on a cluster costs: until the first trial trains, beside the trials, and in slots that idle.

    python benchmarks/cluster.py --slots 4 --repeats 5

`forcetune up` in a temporary folder, then studies by `forcetune submit`, whose trials prune a small network and then
sleep in place of training: no core is short of time, and what is measured is everything else. Both stores are SQLite
files, MLflow behind its server.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import threading
import time
from collections import defaultdict
from contextlib import suppress
from pathlib import Path
from statistics import median
from typing import Any

import psutil
import yaml

from forcetune import service

FORCETUNE = [sys.executable, "-m", "forcetune"]
AGENTS = ("ray::DashboardAgent", "ray::RuntimeEnvAgent", "ray::JobSupervisor")
# Each trial notes when its training begins and when it ends.
SLEEPER = """
import time


def note(word):
    with open({notes!r}, "a") as notes:
        notes.write(f"{{word}} {{time.time()}}\\n")


def train(model, masks, training, validation, trial):
    for epoch in range(trial["epochs"]):
        if epoch == 0:
            note("began")
        time.sleep({seconds} / trial["epochs"])
        if epoch == trial["epochs"] - 1:
            note("ended")
        yield {{"val_accuracy": trial["lr"]}}
"""


def main() -> None:
    """Run all of it and print the table."""
    arguments = parse()
    with tempfile.TemporaryDirectory() as folder:
        here = Path(folder)
        run(here, "up", "--cpus", str(arguments.slots))
        try:
            study(here, "warm", trials=arguments.slots, seconds=0.1)
            starts = [study(here, f"start{i}", arguments.slots, 0.1).start for i in range(arguments.repeats)]
            print("| what | measured |\n|---|---:|")
            tell(f"from submit to the first trial training, median of {len(starts)}", f"{median(starts):.1f} s")
            for trials, seconds in arguments.studies:
                with Processors(here) as processors:
                    done = study(here, f"s{trials}", trials, seconds, arguments.epochs)
                done.tell(arguments.slots)
                for part, used in processors.seconds().items():
                    tell(f"the same: processor time of {part}, a trial", f"{1000 * used / trials:.0f} ms")
        finally:
            run(here, "down")


class Run:
    """One study: when it was submitted, when its trials trained, when its job ended."""

    def __init__(self, trials: int, seconds: float, submitted: float, notes: Path, ended: float) -> None:
        self.trials = trials
        self.seconds = seconds
        told = [line.split() for line in notes.read_text().splitlines()]
        self._began = [float(at) for word, at in told if word == "began"]
        self._ended = [float(at) for word, at in told if word == "ended"]
        if not len(self._began) == len(self._ended) == trials:
            raise SystemExit(f"{len(self._began)} of {trials} trials began, {len(self._ended)} ended")
        self.start = min(self._began) - submitted
        self.wall = ended - submitted

    def tell(self, slots: int) -> None:
        """Its lines of the table."""
        ideal = self.trials * self.seconds / slots
        busy = ideal / (max(self._ended) - min(self._began))
        what = f"{self.trials} trials of {self.seconds:g} s on {slots} slots"
        tell(f"{what}: time beyond trials over slots, from submit to the job's end", f"{self.wall / ideal - 1:.1%}")
        tell(f"{what}: slots busy, from the first training to the last", f"{busy:.1%}")


class Processors(threading.Thread):
    """Adds up the processor time of what runs for a study, looked at twice a second while it is entered."""

    def __init__(self, folder: Path) -> None:
        super().__init__(daemon=True)
        found = service.find(folder)
        assert found
        self._roots = found.alive()
        self._used: dict[int, tuple[str, float]] = {}  # by process
        self._left = threading.Event()

    def __enter__(self) -> "Processors":
        self._look()
        self._before = dict(self._used)
        self.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._left.set()
        self.join()

    def run(self) -> None:
        """Look until it is left."""
        while not self._left.wait(0.5):
            self._look()

    def seconds(self) -> dict[str, float]:
        """By part."""
        found: dict[str, float] = defaultdict(float)
        for number, (part, used) in self._used.items():
            found[part] += used - self._before.get(number, (part, 0.0))[1]
        return found

    def _look(self) -> None:
        for name, root in self._roots.items():
            for process in [root, *root.children(recursive=True)]:
                with suppress(psutil.Error):  # it has just ended
                    times = process.cpu_times()
                    self._used[process.pid] = part_of(name, process.cmdline()), times.user + times.system


def part_of(root: str, command: list[str]) -> str:
    """What a process is for."""
    if root == "mlflow":
        return "MLflow's server"
    if command[1:4] == ["-m", "forcetune", "search"]:
        return "the driver"
    title = command[0] if command else ""
    return "workers" if title.startswith("ray::") and not title.startswith(AGENTS) else "Ray's head"


def tell(what: str, measured: str) -> None:
    """A line of the table."""
    print(f"| {what} | {measured} |", flush=True)


def study(folder: Path, name: str, trials: int, seconds: float, epochs: int = 1) -> Run:
    """Submit a study and wait for its end."""
    notes = folder / f"{name}.notes"
    (folder / f"sleeper_{name}.py").write_text(SLEEPER.format(notes=str(notes), seconds=seconds))
    written: dict[str, Any] = {
        "study": name,
        "train": f"sleeper_{name}:train",
        "code": [f"sleeper_{name}.py"],
        "trial": {
            "dataset": "synthetic",
            "model": "mlp",
            "width": 12,
            "method": ["random", "magnitude"],
            "density": {"low": 0.5, "high": 0.9, "log": True},
            "lr": {"low": 0.01, "high": 0.1, "log": True},
            "epochs": epochs,
        },
        "search": {"trials": trials, "stopping": "none"},
    }
    (folder / f"{name}.yaml").write_text(yaml.safe_dump(written))
    submitted = time.time()
    run(folder, "submit", f"{name}.yaml", "--wait")
    ended = next(job["ended"] for job in json.loads(run(folder, "jobs", "--json")) if job["study"] == name)
    return Run(trials, seconds, submitted, notes, ended)


def run(folder: Path, *command: str) -> str:
    """What a command of forcetune's prints, which must come to its end."""
    done = subprocess.run([*FORCETUNE, *command], cwd=folder, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"{' '.join(command)}:\n{done.stdout[-2000:]}\n{done.stderr[-4000:]}")
    return done.stdout


def parse() -> argparse.Namespace:
    """What is asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--slots", type=int, default=4)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--epochs", type=int, default=1, help="reports of each trial")
    parser.add_argument("--studies", type=pair, nargs="*", default=[(64, 5.0), (1000, 1.0)], metavar="TRIALSxSECONDS")
    return parser.parse_args()


def pair(text: str) -> tuple[int, float]:
    """64x5 as numbers."""
    trials, _, seconds = text.partition("x")
    return int(trials), float(seconds)


if __name__ == "__main__":
    main()
