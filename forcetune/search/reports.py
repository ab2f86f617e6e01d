"""Reports of workers as the driver reads them: the epochs, the tags of the run, and the outcome of the trial."""

import math
from collections.abc import Collection

from forcetune.ledger.messages import Report, TrialOutcome, TrialStarted
from forcetune.study import Resources
from forcetune.tracking import Epoch


def list_epochs(report: Report) -> list[Epoch]:
    """Return the epochs of a report, those of earlier attempts first."""
    return [*(report.trial_started.curve if report.trial_started else []), *([report.epoch] if report.epoch else [])]


def make_tags(trial_started: TrialStarted, attempt: int, devices: float, resources: Resources) -> dict[str, str]:
    """Return the tags that the start of an attempt gives to the run of its trial.

    Args:
        trial_started: The report of the start.
        attempt: The number of the attempt.
        devices: The devices of a trial that device hours count.
        resources: The study's resources.
    """
    tags = {
        "forcetune.device": trial_started.device,
        "forcetune.devices": f"{devices:g}",
        "forcetune.threads": str(resources.threads),
        "forcetune.attempt": str(attempt),
    }
    if resources.processes > 1:
        tags["forcetune.processes"] = str(resources.processes)
    if trial_started.dataset:
        tags["forcetune.data"] = trial_started.dataset["digest"]
    if trial_started.driver:
        tags["forcetune.driver"] = trial_started.driver
    return tags


def determine_outcome(report: Report, objectives: Collection[str]) -> TrialOutcome:
    """Return the outcome of a trial by its last report; a trial whose objectives are not finite has failed.

    Args:
        report: The report, which has an outcome.
        objectives: The names of the study's objectives.
    """
    assert report.outcome is not None
    if report.outcome == "failed":
        return TrialOutcome("failed", report.reason)
    metrics = report.metrics
    if missing := [name for name in objectives if name not in metrics]:
        reason = f"the trial does not report the objective {missing[0]}; it reports {', '.join(metrics)}"
        return TrialOutcome("failed", reason)
    values = {name: float(metrics[name]) for name in objectives}
    for name, value in values.items():
        if not math.isfinite(value):
            return TrialOutcome("failed", f"the objective {name} became {value}")
    return TrialOutcome(report.outcome, report.reason, list(values.values()))
