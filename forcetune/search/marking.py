"""The front of a study in MLflow: tags by which a search there finds its runs, and their trained weights."""

from dataclasses import dataclass, field

import pandas as pd

from forcetune import analysis, tracking
from forcetune.ledger.fail_points import durable
from forcetune.names import COMPANION, NETWORK_FILE
from forcetune.tracking import FRONT_TAG, KEPT_BY_SEARCH, KNEE_TAG, WEIGHTS_DROPPED, Tracker, TrialTable


@dataclass(frozen=True)
class TagChange:
    """A change to a run: the run gets the tag where `is_set` is true, and loses it where it is false."""

    run: str
    tag: str
    is_set: bool


@dataclass(frozen=True)
class FrontChanges:
    """The changes that make MLflow agree with the front of a study.

    Attributes:
        tags: A change for each run that lacks a tag of the front or its knee, or has one that it should not have.
        surplus_weights: The runs whose weights `search.keep` no longer keeps.
        dropped_weights: The runs whose weights were deleted before.
    """

    tags: list[TagChange] = field(default_factory=list)
    surplus_weights: list[str] = field(default_factory=list)
    dropped_weights: list[str] = field(default_factory=list)


def find_front_changes(study: str, uri: str) -> FrontChanges:
    """Return the changes by which the runs of a study agree with the front that `forcetune best` prints.

    Args:
        study: The name of the study.
        uri: The address of the MLflow store.

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
    dropped = [run for run, keeper in table.weights.items() if keeper == WEIGHTS_DROPPED]
    return FrontChanges(changes, _find_surplus_weights(table, trials), dropped)


def _find_surplus_weights(table: TrialTable, trials: pd.DataFrame) -> list[str]:
    kept_by_search = {run for run, keeper in table.weights.items() if keeper == KEPT_BY_SEARCH}
    if not kept_by_search or not table.keep_rule:
        return []
    kept = analysis.select_kept(trials, table.objectives, **table.keep_rule)
    # Weights are in MLflow before the outcome of their trial; until that is there, nothing says that they are surplus
    judged = set(trials.loc[trials["outcome"].notna(), "run_id"]) if len(trials) else set()
    return sorted((kept_by_search & judged) - (set(kept["run_id"]) if len(kept) else set()))


def mark_front(tracker: Tracker, is_last: bool = False) -> None:
    """Tag the runs of the tracker's study that are on its front, and no other runs; delete weights that left it.

    A companion has no front: nothing is done for it.

    Args:
        tracker: The tracker of the study's experiment.
        is_last: Whether the search ends here. Then weights that were written after they were deleted, by a request that
            was late, are deleted again.
    """
    if tracker.study.endswith(COMPANION):
        return
    changes = find_front_changes(tracker.study, tracker.uri)
    for change in changes.tags:
        tracker.mark(change.run, change.tag, change.is_set)
    for run in changes.surplus_weights:
        drop_weights(tracker, run)
    for run in changes.dropped_weights if is_last else ():
        if NETWORK_FILE in tracker.list_files(run):
            drop_weights(tracker, run)


def drop_weights(tracker: Tracker, run: str) -> None:
    """Delete the weights of a run. The tag changes last, so that a kill in between leaves a run that is found again."""
    with durable("drop"):
        tracker.remove_file(run, NETWORK_FILE)
    tracker.tag_weights(run, WEIGHTS_DROPPED)
