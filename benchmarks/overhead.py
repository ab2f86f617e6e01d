"""What one trial costs beside its training: in whole searches, and as a study grows.

    python benchmarks/overhead.py --trials 100 --baseline-trials 10 --repeats 3 --recorded 100,1000,10000

First whole searches on a local Ray with MLflow and Optuna on SQLite in a temporary folder, all of it real but the
pruning and the training of the trials, which do nothing. Each repetition runs a search as forcetune does it and then
a shorter one in which Tune starts a process for every trial (`reuse_actors=False`), all else the same; the ratio is
the median of the repetitions' own ratios.

Then the driver alone, on stores that hold so many trials: what one more costs.
"""

import argparse
import contextlib
import dataclasses
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
from forcetune.search import environment
from forcetune.spec import Study, Trial

environment.prepare()  # what Ray reads while it is imported

from forcetune.search import cluster  # noqa: E402
from forcetune.search.connection import connected  # noqa: E402
from forcetune.search.driver import Driver, open_driver  # noqa: E402
from forcetune.search.ledger import Ledger  # noqa: E402
from forcetune.search.outbox import Outbox  # noqa: E402
from forcetune.search.shares import Alone  # noqa: E402
from forcetune.search.worker import Opening, Report  # noqa: E402
from forcetune.tracking import Epoch, Tracker  # noqa: E402

PARTS: dict[str, list[tuple[type, str]]] = {  # the calls that make up each part
    "ask": [(Driver, "issue")],
    "hear": [(Driver, "report"), (Driver, "end")],
    "log": [(Tracker, "open_trial"), (Tracker, "log"), (Tracker, "log_file"), (Tracker, "close")],
    "tell": [(Ledger, "tell")],
}
WHAT = {
    "ask": "the proposal, and its row in the ledger",
    "hear": "what the worker tells: the files until MLflow has them, the outcome in the ledger",
    "log": "in the background: the run with its params, metrics and tags, masks.npz of a ResNet-20, layers.json",
    "tell": "in the background: the ledger's last word",
}
EPOCH_METRICS = ("train_loss", "val_loss", "val_accuracy")
SAMPLE = 50  # trials by which a study that has its trials is measured


def main() -> None:
    """Run all of it and print the tables."""
    arguments = parse()
    clock = Clock()
    ours, baseline = [], []
    with connected():
        for _ in range(arguments.repeats):
            ours.append(search(arguments.trials, arguments.slots, clock, reuse_actors=True))
            baseline.append(search(arguments.baseline_trials, arguments.slots, Clock(), reuse_actors=False))
    report(arguments, clock, ours, baseline)
    if arguments.recorded:
        report_growth(arguments.recorded)


def parse() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trials", type=int, default=100, help="trials of a search")
    parser.add_argument("--baseline-trials", type=int, default=10, help="trials of a search with a process for each")
    parser.add_argument("--slots", type=int, default=2, help="trials at once")
    parser.add_argument("--repeats", type=int, default=3, help="searches of each kind")
    numbers = [100, 1000, 10_000]
    parser.add_argument("--recorded", type=counts, default=numbers, help="trials that a study has (100,1000,10000)")
    return parser.parse_args()


def counts(text: str) -> list[int]:
    """Numbers with commas between; none of an empty text."""
    return [int(word) for word in text.split(",") if word]


def make_study(trials: int, sampler: str = "tpe", **resources: int) -> Study:
    """A study of every method, of so many trials."""
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
    """Adds up how long the calls of each part took; for as long as it is entered."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = defaultdict(float)

    @contextlib.contextmanager
    def running(self) -> Iterator[None]:
        """Put the clock around the calls."""
        before = [(owner, name, getattr(owner, name)) for calls in PARTS.values() for owner, name in calls]
        for part, calls in PARTS.items():
            for owner, name in calls:
                self._wrap(part, owner, name)
        try:
            yield
        finally:
            for owner, name, call in before:
                setattr(owner, name, call)

    def _wrap(self, part: str, owner: type, name: str) -> None:
        call = getattr(owner, name)

        def timed(*arguments: Any, **named: Any) -> Any:
            started = time.monotonic()
            try:
                return call(*arguments, **named)
            finally:
                self.seconds[part] += time.monotonic() - started

        setattr(owner, name, timed)


@contextlib.contextmanager
def folder() -> Iterator[Path]:
    """An empty one, the current folder meanwhile."""
    with tempfile.TemporaryDirectory() as made, contextlib.chdir(made):
        yield Path(made)


def search(trials: int, slots: int, clock: Clock, reuse_actors: bool) -> float:
    """Search in a folder of its own; the seconds a trial from the first that ended, actors started, to the last."""
    study = make_study(trials, concurrent=slots)
    with folder(), clock.running():
        if cluster.slots(study.resources) < slots:
            raise SystemExit(f"this machine has no room for {slots} trials at once")
        driver = open_driver(study, lambda: None, Console(quiet=True))
        ended: list[float] = []
        driver.progress.ended = lambda *told: ended.append(time.monotonic())  # type: ignore[method-assign]
        cluster.run(driver, study.resources, Alone(slots), NoOpWorker, reuse_actors)
        driver.close()
        return (time.monotonic() - ended[0]) / (trials - 1)


class NoOpWorker(cluster.Worker):
    """The real worker, but that each of its trials is the same random mask at once, never trained."""

    def setup(self, config: dict[str, Any]) -> None:
        """In this process, put constants in the place of preparing and training."""
        super().setup(config)
        example = trial.prepare(Trial(dataset="synthetic", model="resnet20", method="random", density=0.05))

        def prepare(wanted: Trial, *how: object) -> trial.Prepared:
            return dataclasses.replace(example, trial=wanted, metrics={**example.metrics, "density": wanted.density})

        trial.prepare, trial.Underway = prepare, Idle


class Idle(trial.Underway):
    """A trial whose one epoch takes no time."""

    def __iter__(self) -> Iterator[dict[str, float]]:
        told = {"epoch": 1, "train_loss": 1.0, "val_loss": 1.0, "val_accuracy": 0.5, "train_seconds": 0.0}
        yield {**self.prepared.metrics, **told}


def grown(count: int) -> dict[str, float]:
    """The seconds of each part of a trial, median, once the study has so many trials."""
    prepared = trial.prepare(Trial(dataset="synthetic", model="resnet20", method="random", density=0.05))
    masks, layers = pruning.pack_masks(prepared.masks), pruning.layer_table(prepared.masks)
    opening = Opening(prepared.metrics, "cpu", masks, layers, [])
    with folder():
        drive(make_study(count, "random"), opening)  # whatever is recorded, the stores do not care who proposed it
        each = drive(make_study(count + SAMPLE), opening)
    return {part: median(seconds[part] for seconds in each) for part in PARTS}


def drive(study: Study, opening: Opening) -> list[dict[str, float]]:
    """Let the driver have its trials one by one, MLflow and all; the seconds of the parts of each."""
    driver = open_driver(study, lambda: None, Console(quiet=True))
    found = []
    clock = Clock()
    with clock.running():
        while assignment := driver.issue():
            now = int(time.time() * 1000)
            # were it the density, no trial would dominate another: the front would hold all of them
            accuracy = random.Random(assignment.number).random()
            epoch = Epoch(1, now, dict.fromkeys(EPOCH_METRICS, accuracy))
            opened = dataclasses.replace(opening, facts={**opening.facts, "density": assignment.fields["density"]})
            driver.report(assignment.number, assignment.attempt, Report(opening=opened))
            metrics = {**opened.facts, **epoch.metrics}
            driver.end(assignment.number, assignment.attempt, Report(metrics, epoch, outcome="trained"))
            drained(driver)
            found.append(dict(clock.seconds))
            clock.seconds.clear()
    driver.close()
    return found


def drained(driver: Driver) -> None:
    """Wait until MLflow has the trial."""
    outbox: Outbox = driver._outbox
    outbox.drain(60)


def report(arguments: argparse.Namespace, clock: Clock, ours: list[float], baseline: list[float]) -> None:
    """Print the parts, the wall time and the ratio."""
    trials = arguments.trials * arguments.repeats
    print(
        f"No-op trials, {arguments.slots} at once: {arguments.repeats} searches of {arguments.trials} and, in turn, of "
        f"{arguments.baseline_trials} with a process for each\n"
    )
    print("| part | ms a trial | what |")
    print("|---|---:|---|")
    for part, what in WHAT.items():
        print(f"| {part} | {1000 * clock.seconds[part] / trials:.1f} | {what} |")
    print(f"| **total** | {1000 * median(ours):.1f} | wall time from the first trial's end until MLflow has the last |")
    print(f"| process a trial | {1000 * median(baseline):.1f} | the same where Tune starts a process for every trial |")
    ratio = median(theirs / mine for theirs, mine in zip(baseline, ours, strict=True))
    print(f"\nprocess a trial / forcetune: {ratio:.1f}")


def report_growth(recorded: list[int]) -> None:
    """Print what a trial costs by the number of trials before it, each row as soon as it is known."""
    print(f"\nms of one more trial, median of {SAMPLE}, where a study has so many:\n")
    print("| trials | " + " | ".join(PARTS) + " |")
    print("|---:|" + "---:|" * len(PARTS), flush=True)
    for count in recorded:
        seconds = grown(count)
        print(f"| {count} | " + " | ".join(f"{1000 * seconds[part]:.1f}" for part in PARTS) + " |", flush=True)


if __name__ == "__main__":
    main()
