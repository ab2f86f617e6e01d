"""Companions of a study: those that `search.seeds` asks for, until it is clear which points stand, and listed ones."""

from collections import defaultdict
from collections.abc import Callable

import numpy as np
from optuna.trial import FrozenTrial, TrialState
from rich.console import Console

from forcetune.analysis import believe, non_dominated
from forcetune.names import COMPANION
from forcetune.search.driver import Driver, open_driver
from forcetune.search.ending import left_of, spent_by
from forcetune.search.ledger import counted, current, ends, has_retries, is_on_front, trials_of
from forcetune.search.marking import mark_front
from forcetune.search.proposals import FixedProposals, Proposal
from forcetune.spec import Budget, CompanionRuns, Search, Study, Trial
from forcetune.stores import mlflow_uri, optuna_uri
from forcetune.tracking import Tracker

FIRST = 2  # fresh seeds of a front point before anything is said of it
CLEAR = 0.05  # of a probability to stand on the front, or not to


def rerun(study: Study, check: Callable[[], None], console: Console, drive: Callable[[Driver], None]) -> str | None:
    """Run the companions round by round, a seed more for each point that is in doubt; why they ended early, if so.

    drive: runs a driver to its end. What is there already counts, so that a restart goes on.
    """
    while True:
        companion = study.companion(Search())
        theirs, reruns = trials_of(study.study, optuna_uri()), current(trials_of(companion.study, optuna_uri()))
        proposals = wanted(study, theirs, reruns)
        all_ended = all(trial.state.is_finished() for trial in reruns)
        if not proposals and all_ended and not has_retries(companion.study, optuna_uri()):
            return None
        budget = left_of(study.search.budget, spent_by(ends(theirs)))
        total = len(counted(reruns)) + len(proposals)
        companion = study.companion(
            Search(trials=total, sampler="random", stopping="none", budget=budget, max_failures=total)
        )
        if proposals:
            told = f"{len(proposals)} trials with fresh seeds: the front, and what lies within its noise"
            console.print(told, soft_wrap=True)
        driver = open_driver(companion, check, console, propose=lambda history: FixedProposals(proposals))  # noqa: B023
        drive(driver)
        mark_front(Tracker(study.study, mlflow_uri()))  # by the means over fresh seeds
        if driver.ending:
            return f"the re-runs with fresh seeds ended by the {driver.ending}"


def run_listed_companions(
    companion_runs: CompanionRuns, check: Callable[[], None], console: Console, drive: Callable[[Driver], None]
) -> str | None:
    """Run the companions that the study lacks; why they ended early, if so.

    drive: runs a driver to its end. Twins are no candidates for the user's device: no constraint holds for them.
    """
    known = trials_of(companion_runs.study.study + COMPANION, optuna_uri())
    keys = {trial.user_attrs.get("key") for trial in known}
    proposals = [
        Proposal(one.trial, of=one.of, marks=one.marks) for one in companion_runs.companions if one.key not in keys
    ]
    all_ended = all(trial.state.is_finished() for trial in known)
    if not proposals and all_ended and not has_retries(companion_runs.study.study + COMPANION, optuna_uri()):
        return None
    companion = companion_runs.study.companion(
        Search(
            trials=len(counted(known)) + len(proposals),
            sampler="random",
            stopping="none",
            budget=_budget(companion_runs, known),
            max_failures=len(counted(known)) + len(proposals),  # a night says itself what failures mean
        ),
        constraints={},
    )
    driver = open_driver(companion, check, console, propose=lambda history: FixedProposals(proposals))
    drive(driver)
    mark_front(Tracker(companion_runs.study.study, mlflow_uri()))  # re-runs that had failed may be among what was run
    return f"the comparisons ended by their {driver.ending}" if driver.ending else None


def _budget(companion_runs: CompanionRuns, known: list[FrozenTrial]) -> Budget | None:
    """What may be spent in all: what it was before this night, and what the night may cost."""
    if companion_runs.device_hours is None:
        return None
    before = [trial for trial in known if trial.user_attrs.get("marks", {}).get("night") != companion_runs.night]
    return Budget(device_hours=spent_by(ends(before))["device_hours"] + companion_runs.device_hours)


def wanted(study: Study, trials: list[FrozenTrial], reruns: list[FrozenTrial]) -> list[Proposal]:
    """The next re-runs: two of each front point, then one of each that may or may not stand on the front.

    trials: the study's; reruns: the companion's, those that still run among them. All points get the same fresh
    seeds in the same order, above all that the study itself can ask for.
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
        fresh[trial.user_attrs["of"]] += [list(ended.values) for ended in ends([trial]) if ended.values is not None]
    keys = [trial.user_attrs["key"] for trial in points]
    fields = [trial.user_attrs["fields"] for trial in points]
    on_front = non_dominated(values, list(study.directions.values()))
    densities = np.array([found["density"] for found in fields])
    belief = believe(values, densities, [np.array(fresh[key]) for key in keys], study.directions)
    found = []
    for key, trial, front, probability in zip(keys, fields, on_front, belief.probability, strict=True):
        if front and tried[key] < FIRST:
            seeds = FIRST
        elif CLEAR < probability < 1 - CLEAR:
            seeds = tried[key] + 1
        else:
            continue
        for n in range(tried[key], min(seeds, study.search.seeds.front)):
            found.append(Proposal(Trial(**{**trial, "seed": study.first_fresh_seed + n}), of=key))
    return found
