"""What one trial costs beside its training, in milliseconds a part, and against a process for every trial.

    python benchmarks/overhead.py --trials 100 --baseline-trials 10 --repeats 3

Whole searches on a local Ray with MLflow and Optuna on SQLite in a temporary folder, all of it real but the pruning
and the training of the trials, which do nothing. Each repetition runs a search as forcetune does it and then a
shorter one in which Tune starts a process for every trial (`reuse_actors=False`), all else the same; the ratio is
the median of the repetitions' own ratios.
"""

import argparse
import contextlib
import dataclasses
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from statistics import median
from typing import Any

from rich.console import Console

from forcetune import pruning, trial
from forcetune.search import environment
from forcetune.spec import Study, Trial
from forcetune.stores import absolute

environment.prepare()  # what Ray reads while it is imported

from forcetune.search import cluster  # noqa: E402
from forcetune.search.driver import Driver  # noqa: E402
from forcetune.search.ledger import Ledger  # noqa: E402
from forcetune.search.progress import Progress  # noqa: E402
from forcetune.search.proposals import Proposal  # noqa: E402
from forcetune.search.worker import Assignment  # noqa: E402
from forcetune.tracking import Tracker  # noqa: E402

PARTS = {
    "ask": "the proposal, and its row in the ledger",
    "run record": "the MLflow run with its params, and its id in the ledger",
    "place": "Tune: from the driver to the worker's step and back, the wait for a driver busy with others included",
    "log": "the worker: what is known before training in one request, an epoch in another",
    "artifacts": "masks.npz of a ResNet-20 and layers.json",
    "tell": "the outcome in the ledger, the end of the run, the ledger's last word",
}
Moments = dict[str, float]  # of one trial: name to time.monotonic(), which runs alike in all processes of a machine


def main() -> None:
    """Run searches of both kinds in turn and print the table."""
    arguments = parse()
    ours, baseline = [], []
    with cluster.connected():
        for _ in range(arguments.repeats):
            ours.append(search(arguments.trials, arguments.slots, reuse_actors=True))
            baseline.append(search(arguments.baseline_trials, arguments.slots, reuse_actors=False))
    report(arguments, ours, baseline)


def parse() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trials", type=int, default=100, help="trials of a search")
    parser.add_argument("--baseline-trials", type=int, default=10, help="trials of a search with a process for each")
    parser.add_argument("--slots", type=int, default=2, help="trials at once")
    parser.add_argument("--repeats", type=int, default=3, help="searches of each kind")
    return parser.parse_args()


def search(trials: int, slots: int, reuse_actors: bool) -> list[Moments]:
    """Search in a folder of its own; the moments of the trials in the order in which they ended."""
    study = Study.from_dict(
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
            "search": {"trials": trials},
            "resources": {"concurrent": slots},
        }
    )
    with tempfile.TemporaryDirectory() as folder, contextlib.chdir(folder):
        mlflow, optuna = absolute("sqlite:///mlflow.db"), absolute("sqlite:///optuna.db")
        ledger, tracker = TimedLedger(study, optuna), Tracker(study.study, mlflow)
        if cluster.slots(study.resources) < slots:
            raise SystemExit(f"this machine has no room for {slots} trials at once")
        driver = TimedDriver(study, ledger, tracker, mlflow, Progress(study, Console(quiet=True)))
        cluster.run(driver, study.resources, slots, NoOpWorker, reuse_actors)
        driver.close()
    if len(driver.ended) != trials:
        raise SystemExit(f"{len(driver.ended)} of {trials} trials were trained: no numbers")
    return driver.ended


class TimedLedger(Ledger):
    """Notes the moment at which a proposal became a trial."""

    added = 0.0

    def add(self, proposal: Proposal) -> int:
        """Add, then look at the clock."""
        number = super().add(proposal)
        self.added = time.monotonic()
        return number


class TimedDriver(Driver):
    """Keeps the moments of every trial, those that its worker sends included."""

    def __init__(self, study: Study, ledger: TimedLedger, *others: Any) -> None:
        super().__init__(study, ledger, *others)
        self._timed = ledger
        self._moments: dict[int, Moments] = {}
        self.ended: list[Moments] = []

    def issue(self) -> Assignment | None:
        """Issue between two looks at the clock."""
        asked = time.monotonic()
        assignment = super().issue()
        if assignment is not None:
            moments = {"asked": asked, "added": self._timed.added, "issued": time.monotonic()}
            self._moments[assignment.number] = moments
        return assignment

    def end(self, number: int, metrics: Mapping[str, Any] | None) -> None:
        """End between two looks at the clock; only a trained trial is kept."""
        returned = time.monotonic()
        super().end(number, metrics)
        if metrics and metrics["outcome"] == "trained":
            worker = {name: metrics[name] for name in ("started", "stepped", "artifacts")}
            self.ended.append({**self._moments[number], **worker, "returned": returned, "told": time.monotonic()})


class NoOpWorker(cluster.Worker):
    """The real worker, but that each of its trials is the same random mask at once, never trained."""

    def setup(self, config: dict[str, Any]) -> None:
        """In this process, put constants in the place of preparing and training, and clocks on the artifacts."""
        super().setup(config)
        example = trial.prepare(Trial(dataset="synthetic", model="resnet20", method="random", density=0.05))

        def prepare(wanted: Trial) -> trial.Prepared:
            return dataclasses.replace(example, trial=wanted, metrics={**example.metrics, "density": wanted.density})

        def train(prepared: trial.Prepared) -> Iterator[dict[str, float]]:
            told = {"epoch": 1, "train_loss": 1.0, "val_loss": 1.0, "val_accuracy": 0.5, "train_seconds": 0.0}
            yield {**prepared.metrics, **told}

        trial.prepare, trial.train = prepare, train
        self._artifacts: list[float] = []
        for owner, names in ((pruning, ("layer_table", "save_masks")), (Tracker, ("log_file", "log_json"))):
            for name in names:
                setattr(owner, name, timed(getattr(owner, name), self._artifacts))

    def step(self) -> dict[str, Any]:
        """The trial's one epoch, with the worker's own moments among its metrics."""
        self._artifacts.clear()
        started = time.monotonic()
        metrics = super().step()
        return {**metrics, "started": started, "stepped": time.monotonic(), "artifacts": sum(self._artifacts)}


def timed(function: Callable[..., Any], seconds: list[float]) -> Callable[..., Any]:
    """The function, adding to `seconds` how long each call took."""

    def call(*arguments: Any, **named: Any) -> Any:
        started = time.monotonic()
        try:
            return function(*arguments, **named)
        finally:
            seconds.append(time.monotonic() - started)

    return call


def parts(moments: Moments) -> dict[str, float]:
    """The seconds of one trial by part; they add up to all of its time.

    `place` is measured directly, as the two ways between driver and worker. The driver does one thing after the
    other, so with several trials at once `place` is mostly the wait while it writes about another; `--slots 1`
    shows it alone.
    """
    return {
        "ask": moments["added"] - moments["asked"],
        "run record": moments["issued"] - moments["added"],
        "place": moments["started"] - moments["issued"] + moments["returned"] - moments["stepped"],
        "log": moments["stepped"] - moments["started"] - moments["artifacts"],
        "artifacts": moments["artifacts"],
        "tell": moments["told"] - moments["returned"],
    }


def wall(trials: list[Moments], skip: int = 0) -> float:
    """Seconds of the search for each of its trials, those left out that ended first, while actors started."""
    began = trials[skip - 1]["told"] if skip else min(moments["asked"] for moments in trials)
    return (trials[-1]["told"] - began) / (len(trials) - skip)


def report(arguments: argparse.Namespace, ours: list[list[Moments]], baseline: list[list[Moments]]) -> None:
    """Print the parts, the wall time and the ratio."""
    warm_up = arguments.trials // 5
    warm = [parts(moments) for trials in ours for moments in trials[warm_up:]]
    each = [wall(trials, warm_up) for trials in ours]
    process_each = [wall(trials) for trials in baseline]
    rows = {name: (median(part[name] for part in warm), what) for name, what in PARTS.items()}
    rows["one trial"] = median(sum(part.values()) for part in warm), "from its proposal to its end, the parts together"
    rows["**total**"] = median(each), f"wall time of the search over its trials, {arguments.slots} at once"
    rows["process a trial"] = median(process_each), "the same where Tune starts a process for every trial"
    print(
        f"No-op trials: median of {arguments.repeats} searches of {arguments.trials} (the first {warm_up} of each left "
        f"out: actors start) and, in turn, of {arguments.baseline_trials} with a process for each\n"
    )
    print("| part | ms a trial | what |")
    print("|---|---:|---|")
    for name, (seconds, what) in rows.items():
        print(f"| {name} | {1000 * seconds:.1f} | {what} |")
    ratio = median(theirs / mine for theirs, mine in zip(process_each, each, strict=True))
    print(f"\nprocess a trial / forcetune: {ratio:.1f}")
    whole = median(wall(theirs) / wall(mine) for theirs, mine in zip(baseline, ours, strict=True))
    start = median(
        min(moments["started"] - moments["asked"] for moments in trials[: arguments.slots]) for trials in ours
    )
    print(f"over whole searches of {arguments.trials}, with the actors' start ({start:.1f} s): {whole:.1f}")


if __name__ == "__main__":
    main()
