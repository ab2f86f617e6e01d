"""A searched study, and something that runs its companions in no time: what they reach is made up by the test."""

from rich.console import Console

from forcetune.ledger.messages import Proposal, Report
from forcetune.search.companions import run_listed_companions
from forcetune.search.driver import open_driver
from forcetune.search.proposals import FixedProposals
from forcetune.study import Trial
from forcetune.tracking import Epoch

QUIET = Console(quiet=True)
# method, density and validation accuracy: two sparsities, random pruning tried at both, and more often at the first
TRIALS = [
    ("snip", 0.3, 0.90),
    ("snip", 0.28, 0.80),
    ("random", 0.29, 0.85),
    ("random", 0.25, 0.60),
    ("random", 0.22, 0.55),
    ("force", 0.05, 0.70),
    ("force", 0.06, 0.65),
    ("random", 0.07, 0.40),
]


def end(driver, assignment, val=0.5, test=None, outcome="trained", seconds=36.0, reason="it broke"):
    density = assignment.fields["density"]
    metrics = {"val_accuracy": val, "density": density, "sparsity": 1 - density, "prune_seconds": 0.0}
    metrics |= {"train_seconds": seconds, **({} if test is None else {"test_accuracy": test})}
    told = Report(metrics, Epoch(2, 1000, metrics), outcome=outcome, reason=reason if outcome == "failed" else None)
    driver.end(assignment.number, assignment.attempt, told)


def search(make_study, trials=TRIALS, name="s", trial=None, **top):
    """A study whose trials are TRIALS, as if it had been searched."""
    study = make_study(
        {"method": ["random", "snip", "force"], **(trial or {})},
        study=name,
        search={"trials": max(1, len(trials))},
        **top,
    )
    base = {name: study.trial[name] for name in ("dataset", "model", "width", "epochs")}
    listed = [Proposal(Trial(**base, method=method, density=density)) for method, density, _ in trials]
    references = study.references(0.25)
    driver = open_driver(
        study, lambda: None, QUIET, references=references, propose=lambda history: FixedProposals(listed)
    )
    driver.describe()
    reached = {(method, density): accuracy for method, density, accuracy in trials}
    while assignment := driver.issue():
        end(driver, assignment, reached[assignment.fields["method"], assignment.fields["density"]])
    driver.close()
    return study


class Lab:
    """Runs errands; `accuracy` and `validation` say what a trial's fields reach, `dies_after` when to break off."""

    def __init__(self):
        self.accuracy = lambda fields: 0.5
        self.validation = lambda fields: 0.4
        self.outcome = lambda fields: "trained"
        self.reason = "it broke"
        self.dies_after = None
        self.ran = []

    def __call__(self, companion_runs):
        return run_listed_companions(companion_runs, lambda: None, QUIET, self._drive)

    def _drive(self, driver):
        while assignment := driver.issue():
            if self.dies_after is not None and len(self.ran) >= self.dies_after:
                driver.hand_back()
                driver.close()
                raise KeyboardInterrupt
            self.ran.append(assignment.fields)
            end(
                driver,
                assignment,
                self.validation(assignment.fields),
                self.accuracy(assignment.fields),
                self.outcome(assignment.fields),
                reason=self.reason,
            )
        driver.close()
