"""A study that was searched and runners of its companions; nothing is trained, and the test makes up the metrics."""

import pandas as pd
from rich.console import Console

from forcetune.ledger.messages import Proposal, Report
from forcetune.search.companions import run_listed_companions
from forcetune.search.driver import open_driver
from forcetune.search.proposals import FixedProposals
from forcetune.study import Trial
from forcetune.tracking import Epoch

QUIET_CONSOLE = Console(quiet=True)
# Method, density and validation accuracy: two bands of sparsity have random pruning, the first band more of it.
SEARCHED_TRIALS = [
    ("snip", 0.3, 0.90),
    ("snip", 0.28, 0.80),
    ("random", 0.29, 0.85),
    ("random", 0.25, 0.60),
    ("random", 0.22, 0.55),
    ("force", 0.05, 0.70),
    ("force", 0.06, 0.65),
    ("random", 0.07, 0.40),
]


def end(driver, assignment, val_accuracy=0.5, test_accuracy=None, outcome="trained", seconds=36.0, reason="it broke"):
    density = assignment.trial.density
    metrics = {"val_accuracy": val_accuracy, "density": density, "sparsity": 1 - density, "prune_seconds": 0.0}
    metrics |= {"train_seconds": seconds, **({} if test_accuracy is None else {"test_accuracy": test_accuracy})}
    report = Report(metrics, Epoch(2, 1000, metrics), outcome=outcome, reason=reason if outcome == "failed" else None)
    driver.end(assignment.number, assignment.attempt, report)


def search(make_study, trials=SEARCHED_TRIALS, name="s", trial=None, **top):
    """Return a study whose trials have ended with the accuracies in `trials`."""
    study = make_study(
        {"method": ["random", "snip", "force"], **(trial or {})},
        study=name,
        search={"trials": max(1, len(trials))},
        **top,
    )
    fixed_fields = {name: study.trial[name] for name in ("dataset", "model", "width", "epochs")}
    proposals = [Proposal(Trial(**fixed_fields, method=method, density=density)) for method, density, _ in trials]
    references = study.references(0.25)
    driver = open_driver(
        study, lambda: None, QUIET_CONSOLE, references=references, propose=lambda history: FixedProposals(proposals)
    )
    driver.describe()
    accuracies = {(method, density): accuracy for method, density, accuracy in trials}
    while assignment := driver.issue():
        end(driver, assignment, accuracies[assignment.trial.method, assignment.trial.density])
    driver.close()
    return study


class CompanionRunner:
    """A runner of companions that trains nothing.

    Attributes:
        accuracy: A function from a trial's fields to its test accuracy.
        validation: A function from a trial's fields to its validation accuracy.
        outcome: A function from a trial's fields to its outcome.
        reason: The reason of failed trials.
        interrupt_after_runs: The number of runs after which the runner is interrupted; None where it is not.
        run_fields: The fields of all trials that it has run.
    """

    def __init__(self):
        self.accuracy = lambda fields: 0.5
        self.validation = lambda fields: 0.4
        self.outcome = lambda fields: "trained"
        self.reason = "it broke"
        self.interrupt_after_runs = None
        self.run_fields = []

    def __call__(self, companion_runs):
        return run_listed_companions(companion_runs, lambda: None, QUIET_CONSOLE, self._drive)

    def _drive(self, driver):
        while assignment := driver.issue():
            if self.interrupt_after_runs is not None and len(self.run_fields) >= self.interrupt_after_runs:
                driver.hand_back()
                driver.close()
                raise KeyboardInterrupt
            fields = assignment.trial.fields()
            self.run_fields.append(fields)
            end(
                driver,
                assignment,
                self.validation(fields),
                self.accuracy(fields),
                self.outcome(fields),
                reason=self.reason,
            )
        driver.close()


class TableRunner(CompanionRunner):
    """A runner that keeps the companions in tables, which is much quicker than both stores.

    It knows no budget, and `interrupt_after_runs` does not interrupt it.
    """

    def __init__(self):
        super().__init__()
        self._rows = {}

    def __call__(self, companion_runs):
        rows = self._rows.setdefault(companion_runs.study.study, {})
        for companion in companion_runs.companions:
            if companion.key not in rows:
                rows[companion.key] = self._run(companion)

    def load_companions(self, study, uri=None):
        """Return the companions of a study, in place of `tracking.load_companions`."""
        rows = self._rows.get(study)
        return pd.DataFrame(list(rows.values())) if rows else None

    def _run(self, companion):
        fields = companion.trial.fields()
        self.run_fields.append(fields)
        outcome = self.outcome(fields)
        return {
            **fields,
            "run_id": f"{len(self.run_fields):032x}",
            "trial": companion.key,
            "of": companion.parent_key,
            **companion.tags,
            "outcome": outcome,
            "reason": self.reason if outcome == "failed" else None,
            "val_accuracy": self.validation(fields),
            "test_accuracy": self.accuracy(fields),
            "device_seconds": 36.0,
        }
