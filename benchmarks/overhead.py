"""The cost of a trial besides its training: in whole searches, and as a study grows.

    python benchmarks/overhead.py --trials 100 --baseline-trials 10 --repeats 3 --recorded 100,1000,10000

First come whole searches on a local Ray, with MLflow and Optuna on SQLite in a temporary folder. All of it is real
except the pruning and the training of the trials, which do nothing. Each repetition runs a search of forcetune and then
a shorter search in which Tune starts a process for every trial (`reuse_actors=False`), all else the same. The ratio is
the median of the ratios of the repetitions.

Then comes the driver alone: the cost of one more trial on stores that already hold many.
"""

import argparse
import contextlib
import dataclasses
import json
import random
import tempfile
import time
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from statistics import median
from typing import Any

from rich.console import Console

from forcetune import pruning, trial
from forcetune.execution import environment
from forcetune.study import Study, Trial

environment.prepare()  # Ray reads this environment while it is imported

from forcetune.execution import actors, cluster, nodes  # noqa: E402
from forcetune.execution.connection import connect_ray  # noqa: E402
from forcetune.execution.shares import ExclusiveSlots  # noqa: E402
from forcetune.ledger.ledger import Ledger  # noqa: E402
from forcetune.ledger.messages import Report, TrialStarted  # noqa: E402
from forcetune.ledger.outbox import Outbox  # noqa: E402
from forcetune.search.driver import Driver, open_driver  # noqa: E402
from forcetune.tracking import Epoch, Tracker  # noqa: E402

PHASE_CALLS: dict[str, list[tuple[type, str]]] = {  # the calls that make up each phase of a trial
    "ask": [(Driver, "issue")],
    "hear": [(Driver, "report"), (Driver, "end")],
    "log": [(Tracker, "open_trial"), (Tracker, "log"), (Tracker, "log_file"), (Tracker, "close")],
    "tell": [(Ledger, "tell")],
}
PHASE_TITLES = {
    "ask": "the proposal, and its row in the ledger",
    "hear": "what the worker tells: the files until MLflow has them, the outcome in the ledger",
    "log": "in the background: the run with its params, metrics and tags, masks.npz of a ResNet-20, layers.json",
    "tell": "in the background: the ledger's last word",
}
EPOCH_METRICS = ("train_loss", "val_loss", "val_accuracy")
SAMPLED_TRIALS = 50  # the trials that are measured in a study that has its trials


def main() -> None:
    """Run all measurements and print the tables."""
    arguments = parse_arguments()
    clock = Clock()
    forcetune_seconds, baseline_seconds = [], []
    with connect_ray():
        for _ in range(arguments.repeats):
            forcetune_seconds.append(search(arguments.trials, arguments.slots, clock, reuse_actors=True))
            baseline_seconds.append(search(arguments.baseline_trials, arguments.slots, Clock(), reuse_actors=False))
    report(arguments, clock, forcetune_seconds, baseline_seconds)
    if arguments.recorded:
        report_growth(arguments.recorded)


def parse_arguments() -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trials", type=int, default=100, help="trials of a search")
    parser.add_argument("--baseline-trials", type=int, default=10, help="trials of a search with a process for each")
    parser.add_argument("--slots", type=int, default=2, help="trials at once")
    parser.add_argument("--repeats", type=int, default=3, help="searches of each kind")
    numbers = [100, 1000, 10_000]
    parser.add_argument("--recorded", type=counts, default=numbers, help="trials that a study has (100,1000,10000)")
    return parser.parse_args()


def counts(text: str) -> list[int]:
    """Parse numbers with commas between them; an empty text has none."""
    return [int(word) for word in text.split(",") if word]


def make_study(trials: int, sampler: str = "tpe", **resources: int) -> Study:
    """Return a study of every method with this number of trials."""
    return Study.from_dict(
        {
            "study": "overhead",
            "trial": {
                "dataset": "synthetic",
                "model": "resnet20",
                "method": list(pruning.METHODS),
                "density": {"low": 0.005, "high": 0.5, "log": True},
                "iterations": {"low": 2, "high": 50, "log": True},
                "lr": {"low": 0.02, "high": 0.5, "log": True},
                "epochs": 1,
            },
            "search": {"trials": trials, "sampler": sampler},
            "resources": resources,
        }
    )


class Clock:
    """A clock that adds up the seconds of the calls of each phase."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = defaultdict(float)

    @contextlib.contextmanager
    def running(self) -> Iterator[None]:
        """Time the calls of all phases while the context is entered."""
        originals = [(owner, name, getattr(owner, name)) for calls in PHASE_CALLS.values() for owner, name in calls]
        for phase, calls in PHASE_CALLS.items():
            for owner, name in calls:
                self._wrap(phase, owner, name)
        try:
            yield
        finally:
            for owner, name, call in originals:
                setattr(owner, name, call)

    def _wrap(self, phase: str, owner: type, name: str) -> None:
        call = getattr(owner, name)

        def timed(*arguments: Any, **options: Any) -> Any:
            started = time.monotonic()
            try:
                return call(*arguments, **options)
            finally:
                self.seconds[phase] += time.monotonic() - started

        setattr(owner, name, timed)


@contextlib.contextmanager
def temporary_folder() -> Iterator[Path]:
    """Make an empty folder the current folder while the context is entered."""
    with tempfile.TemporaryDirectory() as path, contextlib.chdir(path):
        yield Path(path)


def search(trials: int, slots: int, clock: Clock, reuse_actors: bool) -> float:
    """Search in a folder of its own; return the seconds a trial, from the end of the first trial to the end of all."""
    study = make_study(trials, concurrent=slots)
    with temporary_folder(), clock.running():
        resources = nodes.resolve_resources(study, Console(quiet=True))
        if nodes.count_slots(resources) < slots:
            raise SystemExit(f"this machine has no room for {slots} trials at once")
        driver = open_driver(study, lambda: None, Console(quiet=True))
        end_times: list[float] = []
        driver.progress.end_trial = lambda *arguments: end_times.append(time.monotonic())  # type: ignore[method-assign]
        cluster.run(driver, resources, ExclusiveSlots(slots), NoOpWorker, reuse_actors)
        driver.close()
        return (time.monotonic() - end_times[0]) / (trials - 1)


class NoOpWorker(actors.Worker):
    """The real worker, but with trials that all get the same random mask at once and are never trained."""

    def setup(self, config: dict[str, Any]) -> None:
        """Replace preparation and training by constants in this process."""
        super().setup(config)
        example = trial.prepare(Trial(dataset="synthetic", model="resnet20", method="random", density=0.05))

        def prepare(configuration: Trial, *options: object) -> trial.PreparedTrial:
            return dataclasses.replace(
                example, trial=configuration, metrics={**example.metrics, "density": configuration.density}
            )

        trial.prepare, trial.TrialRun = prepare, IdleTrialRun  # type: ignore[assignment, misc]


class IdleTrialRun(trial.TrialRun):
    """A trial whose one epoch takes no time."""

    def __iter__(self) -> Iterator[dict[str, float]]:
        yield {"epoch": 1, "train_loss": 1.0, "val_loss": 1.0, "val_accuracy": 0.5, "train_seconds": 0.0}


def median_phase_seconds(count: int) -> dict[str, float]:
    """Return the seconds of each phase of a trial, median, once the study has `count` trials."""
    prepared = trial.prepare(Trial(dataset="synthetic", model="resnet20", method="random", density=0.05))
    layers = json.dumps(pruning.layer_table(prepared.masks), indent=1).encode()
    files = {"masks.npz": pruning.pack_masks(prepared.masks), "layers.json": layers}
    start_report = Report(trial_started=TrialStarted(prepared.metrics, "cpu", []), files=files)
    with temporary_folder():
        drive(make_study(count, "random"), start_report)  # the cost of the stores does not depend on the sampler
        trial_seconds = drive(make_study(count + SAMPLED_TRIALS), start_report)
    return {phase: median(seconds[phase] for seconds in trial_seconds) for phase in PHASE_CALLS}


def drive(study: Study, start_report: Report) -> list[dict[str, float]]:
    """Run the driver through its trials one by one, MLflow included; return the seconds of the phases of each trial."""
    driver = open_driver(study, lambda: None, Console(quiet=True))
    trial_seconds = []
    clock = Clock()
    with clock.running():
        while assignment := driver.issue():
            now = int(time.time() * 1000)
            # if the accuracy were the density, no trial would dominate another and the front would hold all of them
            accuracy = random.Random(assignment.number).random()
            epoch = Epoch(1, now, dict.fromkeys(EPOCH_METRICS, accuracy))
            assert start_report.trial_started
            static_metrics = {**start_report.trial_started.static_metrics, "density": assignment.trial.density}
            started = dataclasses.replace(start_report.trial_started, static_metrics=static_metrics)
            first_report = dataclasses.replace(start_report, trial_started=started)
            driver.report(assignment.number, assignment.attempt, first_report)
            metrics = {**static_metrics, **epoch.metrics}
            driver.end(assignment.number, assignment.attempt, Report(metrics, epoch, outcome="trained"))
            wait_for_outbox(driver)
            trial_seconds.append(dict(clock.seconds))
            clock.seconds.clear()
    driver.close()
    return trial_seconds


def wait_for_outbox(driver: Driver) -> None:
    """Wait until MLflow has all that the driver has sent."""
    outbox: Outbox = driver._outbox
    outbox.drain(60)


def report(
    arguments: argparse.Namespace, clock: Clock, forcetune_seconds: list[float], baseline_seconds: list[float]
) -> None:
    """Print the phases, the wall time and the ratio."""
    trials = arguments.trials * arguments.repeats
    print(
        f"No-op trials, {arguments.slots} at once: {arguments.repeats} searches of {arguments.trials} and, in turn, of "
        f"{arguments.baseline_trials} with a process for each\n"
    )
    print("| part | ms a trial | what |")
    print("|---|---:|---|")
    for phase, title in PHASE_TITLES.items():
        print(f"| {phase} | {1000 * clock.seconds[phase] / trials:.1f} | {title} |")
    print(
        f"| **total** | {1000 * median(forcetune_seconds):.1f} "
        f"| wall time from the first trial's end until MLflow has the last |"
    )
    print(
        f"| process a trial | {1000 * median(baseline_seconds):.1f} "
        f"| the same where Tune starts a process for every trial |"
    )
    ratio = median(
        baseline_s / forcetune_s for baseline_s, forcetune_s in zip(baseline_seconds, forcetune_seconds, strict=True)
    )
    print(f"\nprocess a trial / forcetune: {ratio:.1f}")


def report_growth(recorded: list[int]) -> None:
    """Print the cost of a trial by the number of trials before it, each row as soon as it is measured."""
    print(f"\nms of one more trial, median of {SAMPLED_TRIALS}, where a study has so many:\n")
    print("| trials | " + " | ".join(PHASE_CALLS) + " |")
    print("|---:|" + "---:|" * len(PHASE_CALLS), flush=True)
    for count in recorded:
        seconds = median_phase_seconds(count)
        print(f"| {count} | " + " | ".join(f"{1000 * seconds[phase]:.1f}" for phase in PHASE_CALLS) + " |", flush=True)


if __name__ == "__main__":
    main()
