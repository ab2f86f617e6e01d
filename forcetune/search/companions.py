"""Companions of a study: re-runs with fresh seeds until the front is clear (`search.seeds`), and listed companions."""

from collections import defaultdict
from collections.abc import Callable

import numpy as np
from optuna.trial import FrozenTrial, TrialState
from rich.console import Console

from forcetune.analysis import estimate_from_seeds, non_dominated
from forcetune.ledger.ledger import has_retries, is_on_front, load_trials, read_outcomes, select_counted, select_current
from forcetune.ledger.messages import Proposal
from forcetune.names import COMPANION
from forcetune.search.driver import Driver, open_driver
from forcetune.search.ending import compute_budget_left, find_spent
from forcetune.search.marking import mark_front
from forcetune.search.proposals import FixedProposals
from forcetune.stores import mlflow_uri, optuna_uri
from forcetune.study import Budget, CompanionRuns, Search, Study, Trial
from forcetune.tracking import Tracker

FIRST_FRESH_SEEDS = 2  # of each front point, before its place on the front is judged
CLEAR_PROBABILITY = 0.05  # nearer than this to 0 or 1, the probability to stand on the front needs no further seed


def rerun(study: Study, check: Callable[[], None], console: Console, drive: Callable[[Driver], None]) -> str | None:
    """Run the front again with fresh seeds, round by round: one more seed for each point that is in doubt.

    What the ledger has already counts, so that the next call goes on where this one ended.

    Args:
        study: The study; it has `search.seeds`.
        check: Raises HeldError where another driver has the companion.
        console: Where the progress is printed.
        drive: Runs a driver to its end.

    Returns:
        Why the re-runs ended early, None where all were run.
    """
    while True:
        companion = study.make_companion(Search())
        trials, reruns = (
            load_trials(study.study, optuna_uri()),
            select_current(load_trials(companion.study, optuna_uri())),
        )
        proposals = propose_reruns(study, trials, reruns)
        all_ended = all(trial.state.is_finished() for trial in reruns)
        if not proposals and all_ended and not has_retries(companion.study, optuna_uri()):
            return None
        budget = compute_budget_left(study.search.budget, find_spent(read_outcomes(trials)))
        total = len(select_counted(reruns)) + len(proposals)
        companion = study.make_companion(
            Search(trials=total, sampler="random", stopping="none", budget=budget, max_failures=total)
        )
        if proposals:
            message = f"{len(proposals)} trials with fresh seeds: the front, and the trials that may belong to it"
            console.print(message, soft_wrap=True)
        driver = open_driver(companion, check, console, propose=lambda history: FixedProposals(proposals))  # noqa: B023
        drive(driver)
        mark_front(Tracker(study.study, mlflow_uri()))  # by the means over fresh seeds
        if driver.end_reason:
            return f"the re-runs with fresh seeds ended early: {driver.end_reason}"


def run_listed_companions(
    companion_runs: CompanionRuns, check: Callable[[], None], console: Console, drive: Callable[[Driver], None]
) -> str | None:
    """Run the listed companions that the study lacks.

    No constraint of the study holds for them: twins are no candidates for the user's device.

    Args:
        companion_runs: The study and its listed companions.
        check: Raises HeldError where another driver has the companion.
        console: Where the progress is printed.
        drive: Runs a driver to its end.

    Returns:
        Why the companions ended early, None where all were run.
    """
    trials = load_trials(companion_runs.study.study + COMPANION, optuna_uri())
    keys = {trial.user_attrs.get("key") for trial in trials}
    proposals = [
        Proposal(companion_run.trial, parent_key=companion_run.parent_key, tags=companion_run.tags)
        for companion_run in companion_runs.companions
        if companion_run.key not in keys
    ]
    all_ended = all(trial.state.is_finished() for trial in trials)
    if not proposals and all_ended and not has_retries(companion_runs.study.study + COMPANION, optuna_uri()):
        return None
    companion = companion_runs.study.make_companion(
        Search(
            trials=len(select_counted(trials)) + len(proposals),
            sampler="random",
            stopping="none",
            budget=_compute_budget(companion_runs, trials),
            max_failures=len(select_counted(trials)) + len(proposals),  # the night itself decides what failures mean
        ),
        constraints={},
    )
    driver = open_driver(companion, check, console, propose=lambda history: FixedProposals(proposals))
    drive(driver)
    mark_front(Tracker(companion_runs.study.study, mlflow_uri()))  # re-runs that had failed may be among these trials
    return f"the comparisons ended early: {driver.end_reason}" if driver.end_reason else None


def _compute_budget(companion_runs: CompanionRuns, trials: list[FrozenTrial]) -> Budget | None:
    """Return the budget of the companion in all: what was spent before this night, and what the night may cost."""
    if companion_runs.device_hours is None:
        return None
    before = [trial for trial in trials if trial.user_attrs.get("marks", {}).get("night") != companion_runs.night]
    return Budget(device_hours=find_spent(read_outcomes(before))["device_hours"] + companion_runs.device_hours)


def propose_reruns(study: Study, trials: list[FrozenTrial], reruns: list[FrozenTrial]) -> list[Proposal]:
    """Return the next re-runs: two of each front point, then one of each point that may or may not stand on the front.

    All points get the same fresh seeds in the same order. Fresh seeds are above all seeds that the study can propose.

    Args:
        study: The study; it has `search.seeds`.
        trials: The study's trials.
        reruns: The companion's trials, with those that still run.
    """
    assert study.search.seeds is not None
    points = [trial for trial in trials if is_on_front(trial)]
    if not points:
        return []
    values = np.array([trial.values for trial in points])
    tried: dict[str, int] = defaultdict(int)
    fresh: dict[str, list[list[float]]] = defaultdict(list)
    for trial in reruns:
        if trial.state == TrialState.PRUNED or "of" not in trial.user_attrs or "marks" in trial.user_attrs:
            continue
        tried[trial.user_attrs["of"]] += 1
        fresh[trial.user_attrs["of"]] += [
            list(outcome.values) for outcome in read_outcomes([trial]) if outcome.values is not None
        ]
    keys = [trial.user_attrs["key"] for trial in points]
    fields = [trial.user_attrs["fields"] for trial in points]
    on_front = non_dominated(values, list(study.directions.values()))
    densities = np.array([point["density"] for point in fields])
    belief = estimate_from_seeds(values, densities, [np.array(fresh[key]) for key in keys], study.directions)
    proposals = []
    for key, trial, front, probability in zip(keys, fields, on_front, belief.probability, strict=True):
        if front and tried[key] < FIRST_FRESH_SEEDS:
            seeds = FIRST_FRESH_SEEDS
        elif CLEAR_PROBABILITY < probability < 1 - CLEAR_PROBABILITY:
            seeds = tried[key] + 1
        else:
            continue
        for n in range(tried[key], min(seeds, study.search.seeds.front)):
            proposals.append(Proposal(Trial(**{**trial, "seed": study.first_fresh_seed + n}), parent_key=key))
    return proposals
