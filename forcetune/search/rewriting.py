"""The run of a trial written anew from the ledger, where MLflow has what cannot be taken back."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from forcetune.search.ledger import TrialOutcome
from forcetune.tracking import Epoch, Tracker


@dataclass(frozen=True)
class RunContent:
    """What the ledger knows of a trial that has ended."""

    number: int
    key: str
    fields: Mapping[str, Any]
    ended: TrialOutcome


def write_anew(tracker: Tracker, parent: str, content: RunContent, old: Sequence[str]) -> str:
    """Return the id of a new run with the ledger's record, and the files and tags of the old runs, which are deleted.

    What fails in between leaves both, and is done again from the old ones.
    """
    for begun in tracker.find_runs(content.key):
        if begun not in old:
            tracker.remove(begun)
    ended = content.ended
    curve = [Epoch(*told) for told in ended.record["curve"]]
    started = min([epoch.time for epoch in curve], default=ended.time or 0)
    tags = {name: text for run in old for name, text in tracker.tags(run).items() if name.startswith("forcetune.")}
    reason = {"forcetune.reason": ended.reason} if ended.reason else {}
    run = tracker.open_trial(parent, content.number, content.key, tags, started)
    told = [Epoch(0, started, dict(ended.record["facts"])), *curve]
    tracker.log(run, told, content.fields, {"forcetune.outcome": ended.outcome, **reason})
    if dataset := ended.record.get("dataset"):
        tracker.log_dataset(run, dataset)
    for source in old:
        for name in tracker.files(source):
            tracker.copy_file(name, source, run)
    tracker.close(run, ended.outcome == "failed", ended.time)
    for source in old:
        tracker.remove(source)
    return run
