"""The front of a study as tags of its runs, by which a search in MLflow finds it."""

from dataclasses import dataclass

from forcetune import analysis, tracking
from forcetune.names import COMPANION
from forcetune.tracking import FRONT_TAG, KNEE_TAG, Tracker


@dataclass(frozen=True)
class TagChange:
    """A change to a run: the run gets the tag where `is_set` is true, and loses it where it is false."""

    run: str
    tag: str
    is_set: bool


def find_tag_changes(study: str, uri: str) -> list[TagChange]:
    """Return the changes to the tags of a study's runs that mark the front that `forcetune best` prints, and its knee.

    Args:
        study: The name of the study.
        uri: The address of the MLflow store.

    Returns:
        One change for each run that lacks a tag, or has a tag that it should not have.

    Raises:
        InputError: The store has no such study, or does not answer.
    """
    table = tracking.load_table(study, uri)
    trials = analysis.add_seed_estimates(table.trials, tracking.load_reruns(study, uri), table.objectives)
    front = analysis.front(trials, table.objectives)
    changes = []
    for tag, rows in ((FRONT_TAG, front), (KNEE_TAG, analysis.knee(front, table.objectives))):
        expected = set(rows["run_id"]) if len(rows) else set()
        tagged = set(table.marked[tag])
        changes += [TagChange(run, tag, run in expected) for run in sorted(expected ^ tagged)]
    return changes


def mark_front(tracker: Tracker) -> None:
    """Tag the runs of the tracker's study that are on its front, and no other runs.

    A companion has no front: nothing is done for it.
    """
    if tracker.study.endswith(COMPANION):
        return
    for change in find_tag_changes(tracker.study, tracker.uri):
        tracker.mark(change.run, change.tag, change.is_set)
