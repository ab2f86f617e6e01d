"""The front of a study as tags of its runs, by which MLflow can be asked for it."""

from dataclasses import dataclass

from forcetune import analysis, tracking
from forcetune.names import COMPANION
from forcetune.tracking import FRONT, KNEE, Tracker


@dataclass(frozen=True)
class Mark:
    """A run that shall have the tag (marked), or lose it."""

    run: str
    tag: str
    marked: bool


def missing_marks(study: str, uri: str) -> list[Mark]:
    """Return how the tags of a study's runs differ from the front that `forcetune best` prints, and its knee.

    Raises:
        InputError: The store has no such study, or does not answer.
    """
    table = tracking.table(study, uri)
    front = analysis.best(analysis.with_seeds(table, tracking.reruns(study, uri)))
    marks = []
    for tag, rows in ((FRONT, front), (KNEE, analysis.knee(front))):
        wanted = set(rows["run_id"]) if len(rows) else set()
        marked = set(table.attrs["marked"][tag])
        marks += [Mark(run, tag, run in wanted) for run in sorted(wanted ^ marked)]
    return marks


def mark_front(tracker: Tracker) -> None:
    """Tag the runs of the tracker's study that are on its front, and no others; a companion has no front."""
    if tracker.study.endswith(COMPANION):
        return
    for mark in missing_marks(tracker.study, tracker.uri):
        tracker.mark(mark.run, mark.tag, mark.marked)
