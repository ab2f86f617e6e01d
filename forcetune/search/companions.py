"""Companions of a study: re-runs with fresh seeds until the front is clear (`search.seeds`), and listed companions."""

import itertools
from collections import defaultdict
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np
from optuna.trial import FrozenTrial, TrialState
from rich.console import Console

from forcetune.analysis import estimate_from_seeds, find_least_accuracy, has_collapsed, non_dominated
from forcetune.ledger.messages import Proposal
from forcetune.ledger.study_attributes import has_retries
from forcetune.ledger.trials import (
    is_fresh_seed,
    is_on_front,
    load_trials,
    read_outcomes,
    select_counted,
    select_current,
)
from forcetune.names import COMPANION
from forcetune.search.driver import Driver, open_driver
from forcetune.search.ending import LEAST_BUDGET_HOURS, compute_budget_left, find_spent
from forcetune.search.marking import mark_front, move_aliases
from forcetune.search.printing import print_line
from forcetune.search.proposals import FixedProposals
from forcetune.stores import mlflow_uri, optuna_uri
from forcetune.study import Budget, CompanionRuns, Search, Study, Trial
from forcetune.tracking import Tracker

FIRST_FRESH_SEEDS = 3  # that live, of each point that may belong to the front, before it counts as clear
CLEAR_PROBABILITY = 0.05  # nearer than this to 0 or 1, the probability to belong to the front needs no further seed


def rerun(
    study: Study,
    check: Callable[[], None],
    console: Console,
    drive: Callable[[Driver], None],
    references: Mapping[str, float] | None = None,
) -> str | None:
    """Run the front again with fresh seeds, round by round: one more seed for each point that is in doubt.

    What the ledger has already counts, so that the next call goes on where this one ended.

    Args:
        study: The study; it has `search.seeds`.
        check: Raises HeldError where another driver has the companion.
        console: Where the progress is printed.
        drive: Runs a driver to its end.
        references: The worst value of each objective that counts; a seed that is not better in the accuracy counts as
            collapsed.

    Returns:
        Why the re-runs ended early, None where all were run.
    """
    while True:
        companion = study.make_companion(Search())
        trials = load_trials(study.study, optuna_uri())
        reruns = select_current(load_trials(companion.study, optuna_uri()))
        proposals = propose_reruns(study, trials, reruns, references)
        all_ended = all(trial.state.is_finished() for trial in reruns)
        if not proposals and all_ended and not has_retries(companion.study, optuna_uri()):
            return None
        budget = compute_budget_left(study.search.budget, find_spent(read_outcomes(trials)))
        if budget and min(budget.model_dump(exclude_none=True).values(), default=1.0) <= LEAST_BUDGET_HOURS:
            if all_ended:
                return "there are no further re-runs with fresh seeds, because the search has used up the budget"
            proposals = []  # only the re-runs that were interrupted go on
        total = len(select_counted(reruns)) + len(proposals)
        companion = study.make_companion(
            Search(trials=total, sampler="random", stopping="none", budget=budget, max_failures=total)
        )
        if proposals:
            message = f"{len(proposals)} trials with fresh seeds: the front, and the trials that may belong to it"
            print_line(console, message)
        propose = partial(_propose_fixed, proposals)
        driver = open_driver(
            companion, check, console, references=references, propose=propose, is_charged=lambda tags: not tags
        )
        drive(driver)
        _update_front(study.study, console)  # by the means over fresh seeds
        if driver.end_reason:
            return f"the re-runs with fresh seeds ended early: {driver.end_reason}"


def run_listed_companions(
    companion_runs: CompanionRuns,
    check: Callable[[], None],
    console: Console,
    drive: Callable[[Driver], None],
    references: Mapping[str, float] | None = None,
) -> str | None:
    """Run the listed companions that the study lacks.

    No constraint of the study holds for them: twins are no candidates for the user's device.

    Args:
        companion_runs: The study and its listed companions.
        check: Raises HeldError where another driver has the companion.
        console: Where the progress is printed.
        drive: Runs a driver to its end.
        references: The worst value of each objective that counts, which a run that collapses gets.

    Returns:
        Why the companions ended early, None where all were run.
    """
    study = companion_runs.study
    trials = load_trials(study.study + COMPANION, optuna_uri())
    keys = {trial.user_attrs.get("key") for trial in trials}
    proposals = [
        Proposal(companion_run.trial, parent_key=companion_run.parent_key, tags=companion_run.tags)
        for companion_run in companion_runs.companions
        if companion_run.key not in keys
    ]
    all_ended = all(trial.state.is_finished() for trial in trials)
    if not proposals and all_ended and not has_retries(study.study + COMPANION, optuna_uri()):
        return None
    total = len(select_counted(trials)) + len(proposals)
    device_hours = companion_runs.device_hours
    companion = study.make_companion(
        Search(
            trials=total,
            sampler="random",
            stopping="none",
            budget=None if device_hours is None else Budget(device_hours=device_hours),
            max_failures=total,  # the night itself decides what failures mean
        ),
        constraints={},
    )
    propose = partial(_propose_fixed, proposals)
    driver = open_driver(
        companion, check, console, references=references, propose=propose,
        is_charged=lambda tags: tags.get("night") == companion_runs.night,
    )  # fmt: skip
    drive(driver)
    _update_front(study.study, console)  # re-runs that had failed may be among these trials
    return f"the comparisons ended early: {driver.end_reason}" if driver.end_reason else None


def _propose_fixed(proposals: list[Proposal], history: list[FrozenTrial]) -> FixedProposals:
    return FixedProposals(proposals)


def _update_front(study: str, console: Console) -> None:
    """Mark the front of a study again, and let the aliases of its registered networks follow.

    The runs have ended, so an error of MLflow is printed, and ends nothing.
    """
    try:
        mark_front(Tracker(study, mlflow_uri()))
        move_aliases(study, mlflow_uri(), lambda line: print_line(console, line))
    except Exception as error:  # MLflow raises many types
        print_line(
            console, f"the front of {study} is not marked anew ({error}); `forcetune doctor {study} --repair` does it"
        )


def propose_reruns(
    study: Study,
    trials: list[FrozenTrial],
    reruns: list[FrozenTrial],
    references: Mapping[str, float] | None = None,
) -> list[Proposal]:
    """Return the next re-runs, as `count_wanted_seeds` decides.

    All points get the same fresh seeds in the same order, but for seeds that another companion has taken. Fresh seeds
    are above all seeds that the study can propose.

    Args:
        study: The study; it has `search.seeds`.
        trials: The study's trials.
        reruns: The companion's trials, with those that still run.
        references: The worst value of each objective that counts.
    """
    assert study.search.seeds is not None
    points = [trial for trial in trials if is_on_front(trial)]
    if not points:
        return []
    values = np.array([trial.values for trial in points])
    fresh = _collect_seeds(study, reruns, find_least_accuracy(references or {}))
    keys = [trial.user_attrs["key"] for trial in points]
    fields = [trial.user_attrs["fields"] for trial in points]
    belief = estimate_from_seeds(
        values,
        np.array([point["density"] for point in fields]),
        [np.array(fresh[key].values) for key in keys],
        study.directions,
        [np.array(fresh[key].lives, bool) for key in keys],
    )
    tried = np.array([fresh[key].tried for key in keys])
    on_front = non_dominated(values, list(study.directions.values()))
    wanted = count_wanted_seeds(on_front, belief.probability, tried, belief.collapsed, study.search.seeds.front)
    taken = {rerun_trial.user_attrs.get("key") for rerun_trial in reruns}
    proposals = []
    for key, trial, count in zip(keys, fields, wanted - tried, strict=True):
        for fresh_trial in _list_free_trials(trial, study.first_fresh_seed, taken, count):
            proposals.append(Proposal(fresh_trial, parent_key=key))
            taken.add(fresh_trial.key)
    return proposals


def _list_free_trials(
    fields: Mapping[str, Any], first_seed: int, taken: Collection[str | None], count: int
) -> list[Trial]:
    """Return a trial with its next fresh seeds; points that differ in their seed alone share a key for each of them."""
    trials = (Trial(**{**fields, "seed": seed}) for seed in itertools.count(first_seed))
    return list(itertools.islice((fresh for fresh in trials if fresh.key not in taken), count))


@dataclass
class _FreshSeeds:
    """The fresh seeds of a point: how many were tried, the values of those that ended, and which of these live."""

    tried: int = 0
    values: list[Sequence[float]] = field(default_factory=list)
    lives: list[bool] = field(default_factory=list)


def _collect_seeds(study: Study, reruns: list[FrozenTrial], least_accuracy: float) -> defaultdict[str, _FreshSeeds]:
    """Return the fresh seeds of each point, by its key. A seed that failed by accident counts only as tried."""
    fresh: defaultdict[str, _FreshSeeds] = defaultdict(_FreshSeeds)
    for trial in reruns:
        if trial.state == TrialState.PRUNED or not is_fresh_seed(trial):
            continue
        seeds = fresh[trial.user_attrs["of"]]
        seeds.tried += 1
        for outcome in read_outcomes([trial]):
            collapsed = has_collapsed(outcome.outcome, outcome.reason)
            if collapsed or outcome.outcome == "trained":
                values = outcome.values or [np.nan] * len(study.objectives)
                accuracy = dict(zip(study.objectives, values, strict=True)).get("val_accuracy", np.inf)
                seeds.values.append(values)
                seeds.lives.append(not collapsed and not accuracy < least_accuracy)
    return fresh


def count_wanted_seeds(
    on_front: np.ndarray, probability: np.ndarray, tried: np.ndarray, collapsed: np.ndarray, limit: int
) -> np.ndarray:
    """Return how many fresh seeds each of n points is to have had after the next round.

    A point that may belong to the front has three that live before it counts as clear; after that it gets another one
    while it is in doubt. A point on the front of the search has three in any case, whether they live or not.

    Args:
        on_front: Whether the point is on the front of the search, of shape (n,).
        probability: The probability to belong to the front, of shape (n,); NaN where it cannot be estimated yet.
        tried: The number of fresh seeds so far, with those that still run, of shape (n,).
        collapsed: The number of them that collapsed or diverged, of shape (n,).
        limit: The largest number of fresh seeds of a point.

    Returns:
        The numbers, of shape (n,), at least `tried`.
    """
    is_possible = (probability > CLEAR_PROBABILITY) | (np.isnan(probability) & on_front)
    is_in_doubt = (probability > CLEAR_PROBABILITY) & (probability < 1 - CLEAR_PROBABILITY)
    least = np.where(on_front | (tried > 0), FIRST_FRESH_SEEDS, 0)
    first = np.where(is_possible, FIRST_FRESH_SEEDS + collapsed, least)
    wanted = np.where(tried < first, first, tried + is_in_doubt)
    return np.asarray(np.maximum(tried, np.minimum(wanted, limit)))
