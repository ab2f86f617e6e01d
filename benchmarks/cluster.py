"""The cost of running as a job on a cluster: time until the first trial trains, time beyond the trials, idle slots.

    python benchmarks/cluster.py --slots 4 --repeats 5

`forcetune up` runs in a temporary folder, then `forcetune submit` runs studies. Their trials prune a small network and
then sleep in place of training, so that no core is short of time and only the remaining work is measured. Both stores
are SQLite files; MLflow's file is behind its server.
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

from forcetune.local import service

FORCETUNE_COMMAND = [sys.executable, "-m", "forcetune"]
RAY_AGENT_TITLES = ("ray::DashboardAgent", "ray::RuntimeEnvAgent", "ray::JobSupervisor")
# Only the trial itself knows when its training begins and ends, so it writes both times down.
SLEEPER_CODE = """
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
    """Run all studies and print the table."""
    arguments = parse_arguments()
    with tempfile.TemporaryDirectory() as folder:
        work_folder = Path(folder)
        run(work_folder, "up", "--cpus", str(arguments.slots))
        try:
            run_study(work_folder, "warm", trials=arguments.slots, seconds=0.1)
            starts = [
                run_study(work_folder, f"start{i}", arguments.slots, 0.1).first_training_s
                for i in range(arguments.repeats)
            ]
            print("| what | measured |\n|---|---:|")
            report(f"from submit to the first trial training, median of {len(starts)}", f"{median(starts):.1f} s")
            for trials, seconds in arguments.studies:
                with ProcessorMeter(work_folder) as meter:
                    study_run = run_study(work_folder, f"s{trials}", trials, seconds, arguments.epochs)
                study_run.report(arguments.slots)
                for component, cpu_s in meter.seconds().items():
                    report(f"the same: processor time of {component}, a trial", f"{1000 * cpu_s / trials:.0f} ms")
        finally:
            run(work_folder, "down")


class StudyRun:
    """A study that has run: the times of its submission, of its trials' training and of the end of its job."""

    def __init__(self, trials: int, seconds: float, submitted: float, notes: Path, ended: float) -> None:
        self.trials = trials
        self.seconds = seconds
        events = [line.split() for line in notes.read_text().splitlines()]
        self._training_starts = [float(time_s) for event, time_s in events if event == "began"]
        self._training_ends = [float(time_s) for event, time_s in events if event == "ended"]
        if not len(self._training_starts) == len(self._training_ends) == trials:
            raise SystemExit(f"{len(self._training_starts)} of {trials} trials began, {len(self._training_ends)} ended")
        self.first_training_s = min(self._training_starts) - submitted
        self.wall_s = ended - submitted

    def report(self, slots: int) -> None:
        """Print the study's rows of the table."""
        ideal_s = self.trials * self.seconds / slots
        busy_share = ideal_s / (max(self._training_ends) - min(self._training_starts))
        title = f"{self.trials} trials of {self.seconds:g} s on {slots} slots"
        report(
            f"{title}: time beyond trials over slots, from submit to the job's end", f"{self.wall_s / ideal_s - 1:.1%}"
        )
        report(f"{title}: slots busy, from the first training to the last", f"{busy_share:.1%}")


class ProcessorMeter(threading.Thread):
    """A thread that adds up the processor time of the service's processes, sampled twice a second."""

    def __init__(self, folder: Path) -> None:
        super().__init__(daemon=True)
        running_service = service.find(folder)
        assert running_service
        self._roots = running_service.running_processes()
        self._cpu_times: dict[
            int, tuple[str, float]
        ] = {}  # by process id: its component, and its processor seconds so far
        self._exited = threading.Event()

    def __enter__(self) -> "ProcessorMeter":
        self._sample()
        self._initial_cpu_times = dict(self._cpu_times)
        self.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._exited.set()
        self.join()

    def run(self) -> None:
        """Sample until the meter is exited."""
        while not self._exited.wait(0.5):
            self._sample()

    def seconds(self) -> dict[str, float]:
        """Return the processor seconds of each component since the meter was entered."""
        totals: dict[str, float] = defaultdict(float)
        for pid, (component, cpu_s) in self._cpu_times.items():
            totals[component] += cpu_s - self._initial_cpu_times.get(pid, (component, 0.0))[1]
        return totals

    def _sample(self) -> None:
        for name, root in self._roots.items():
            for process in [root, *root.children(recursive=True)]:
                with suppress(psutil.Error):  # the process has just ended
                    times = process.cpu_times()
                    self._cpu_times[process.pid] = component_of(name, process.cmdline()), times.user + times.system


def component_of(root: str, command: list[str]) -> str:
    """Return the component that a process belongs to."""
    if root == "mlflow":
        return "MLflow's server"
    if command[1:4] == ["-m", "forcetune", "search"]:
        return "the driver"
    title = command[0] if command else ""
    return "workers" if title.startswith("ray::") and not title.startswith(RAY_AGENT_TITLES) else "Ray's head"


def report(title: str, value: str) -> None:
    """Print a row of the table."""
    print(f"| {title} | {value} |", flush=True)


def run_study(folder: Path, name: str, trials: int, seconds: float, epochs: int = 1) -> StudyRun:
    """Submit a study, wait for its end, and return its times."""
    notes = folder / f"{name}.notes"
    (folder / f"sleeper_{name}.py").write_text(SLEEPER_CODE.format(notes=str(notes), seconds=seconds))
    study_fields: dict[str, Any] = {
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
    (folder / f"{name}.yaml").write_text(yaml.safe_dump(study_fields))
    submitted = time.time()
    run(folder, "submit", f"{name}.yaml", "--wait")
    ended = next(job["ended"] for job in json.loads(run(folder, "jobs", "--json")) if job["study"] == name)
    return StudyRun(trials, seconds, submitted, notes, ended)


def run(folder: Path, *command: str) -> str:
    """Return the output of a forcetune command; exit where the command fails."""
    process = subprocess.run([*FORCETUNE_COMMAND, *command], cwd=folder, capture_output=True, text=True, check=False)
    if process.returncode:
        raise SystemExit(f"{' '.join(command)}:\n{process.stdout[-2000:]}\n{process.stderr[-4000:]}")
    return process.stdout


def parse_arguments() -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--slots", type=int, default=4)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--epochs", type=int, default=1, help="reports of each trial")
    parser.add_argument("--studies", type=pair, nargs="*", default=[(64, 5.0), (1000, 1.0)], metavar="TRIALSxSECONDS")
    return parser.parse_args()


def pair(text: str) -> tuple[int, float]:
    """Parse a number of trials and their seconds, such as 64x5."""
    trials, _, seconds = text.partition("x")
    return int(trials), float(seconds)


if __name__ == "__main__":
    main()
