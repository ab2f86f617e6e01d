"""The front of a study in MLflow: tags by which a search there finds its runs, their weights, and registry aliases."""

from collections.abc import Callable
from dataclasses import dataclass, field, replace

import pandas as pd

from forcetune import analysis, tracking
from forcetune.errors import InputError
from forcetune.ledger.fail_points import durable
from forcetune.names import COMPANION, NETWORK_FILE
from forcetune.tracking import FRONT_TAG, KEPT_BY_SEARCH, KNEE_TAG, WEIGHTS_DROPPED, AliasMoves, Tracker, TrialTable


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
    table = _add_estimates(tracking.load_table(study, uri), uri)
    front = analysis.front(table.trials, table.objectives)
    changes = []
    for tag, rows in ((FRONT_TAG, front), (KNEE_TAG, analysis.knee(front, table.objectives))):
        expected = set(rows["run_id"]) if len(rows) else set()
        tagged = set(table.marked[tag])
        changes += [TagChange(run, tag, run in expected) for run in sorted(expected ^ tagged)]
    dropped = [run for run, keeper in table.weights.items() if keeper == WEIGHTS_DROPPED]
    return FrontChanges(changes, _find_surplus_weights(table, table.trials), dropped)


def _add_estimates(table: TrialTable, uri: str) -> TrialTable:
    """Return the table of a study with the estimates from its re-runs."""
    reruns = tracking.load_reruns(table.studies[0], uri)
    return replace(table, trials=analysis.add_seed_estimates(table.trials, reruns, table.objectives, table.references))


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


def find_alias_moves(study: str, uri: str) -> dict[str, AliasMoves]:
    """Return the moves by which the aliases of registered networks follow the front of their study.

    Args:
        study: The name of the study.
        uri: The address of the MLflow store.

    Returns:
        The moves by the name of the registered model; none where no network of the study is registered.

    Raises:
        InputError: A store, or the registry, does not answer.
    """
    table = tracking.load_table(study, uri)
    landmarks = _find_landmarks(table, uri) if table.registered else {}
    return {name: tracking.find_alias_moves(name, study, landmarks, uri) for name in table.registered}


def move_aliases(study: str, uri: str, say: Callable[[str], None]) -> None:
    """Let the aliases of the study's registered networks follow its front.

    A registry that does not answer fails nothing, since the doctor moves the aliases too.

    Args:
        study: The name of the study; nothing is done for a companion.
        uri: The address of the MLflow store.
        say: Called with a sentence on each alias that moved, and on each that should and cannot.
    """
    if study.endswith(COMPANION):
        return
    table = tracking.load_table(study, uri)
    landmarks = _find_landmarks(table, uri) if table.registered else {}
    for name in table.registered:
        try:
            moves = tracking.move_aliases(name, study, landmarks, uri=uri)
        except InputError as error:
            say(f"the aliases of {name} were not moved: {error}; `forcetune doctor {study} --repair` moves them")
            continue
        for alias, version in moves.moved.items():
            say(f"models:/{name}@{alias} is version {version} now")
        trial_names: dict[str, str] = dict(zip(table.trials["run_id"], table.trials["name"], strict=True))
        for alias, run in moves.missing.items():
            trial = f"{study}/{trial_names[run]}"
            has_weights = table.weights.get(run, WEIGHTS_DROPPED) != WEIGHTS_DROPPED
            training = "" if has_weights else f"`forcetune train {trial}` makes its weights, and then "
            say(
                f"models:/{name}@{alias} stays where it is: on the front {trial} has its place now, which is not "
                f"registered; {training}`forcetune export {trial} --register {name}` registers it"
            )


def _find_landmarks(table: TrialTable, uri: str) -> dict[str, str]:
    trials = _add_estimates(table, uri).trials
    return analysis.find_landmarks(analysis.front(trials, table.objectives), table.objectives)
