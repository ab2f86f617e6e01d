"""A trial's run written anew from the ledger, where MLflow has content in it that cannot be taken back."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from forcetune.ledger.messages import TrialOutcome
from forcetune.tracking import Epoch, Tracker


@dataclass(frozen=True)
class RunContent:
    """The content that the ledger has for the run of a trial that has ended.

    Attributes:
        number: The trial's number.
        key: The key of the trial.
        params: The params of the run: the fields of the trial, as the ledger has them.
        outcome: The outcome of the trial.
    """

    number: int
    key: str
    params: Mapping[str, Any]
    outcome: TrialOutcome


def write_anew(tracker: Tracker, parent: str, content: RunContent, old: Sequence[str]) -> str:
    """Replace the runs of a trial with a new run that has the ledger's record and the old runs' files and tags.

    A failure in between leaves the old runs and the new one. The next call deletes the unfinished new run and begins
    again from the old ones.

    Args:
        tracker: The tracker of the study's experiment.
        parent: The id of the study's parent run.
        content: The content of the new run.
        old: The ids of the old runs, which are deleted at the end.

    Returns:
        The id of the new run.
    """
    for leftover in tracker.find_runs(content.key):
        if leftover not in old:
            tracker.remove(leftover)
    outcome = content.outcome
    curve = [Epoch(*entry) for entry in outcome.record["curve"]]
    started = min([epoch.time for epoch in curve], default=outcome.time or 0)
    tags = {
        name: value for run in old for name, value in tracker.read_tags(run).items() if name.startswith("forcetune.")
    }
    run = tracker.open_trial(parent, content.number, content.key, tags, started)
    epochs = [Epoch(0, started, dict(outcome.record["facts"])), *curve]
    tracker.log(run, epochs, content.params, outcome.tags)
    if dataset := outcome.record.get("dataset"):
        tracker.log_dataset(run, dataset)
    for old_run in old:
        for name in tracker.list_files(old_run):
            tracker.copy_file(name, old_run, run)
    tracker.close(run, outcome.outcome == "failed", outcome.time)
    for old_run in old:
        tracker.remove(old_run)
    return run
