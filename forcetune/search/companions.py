"""`search.seeds`: front points, and what lies within their noise, run again until it is clear which of them stand."""

from collections import defaultdict
from collections.abc import Callable

import numpy as np
from optuna.trial import FrozenTrial, TrialState
from rich.console import Console

from forcetune.analysis import believe, non_dominated
from forcetune.search.driver import Driver, open_driver
from forcetune.search.ending import left_of, spent_by
from forcetune.search.ledger import counted, ends, is_on_front, trials_of
from forcetune.search.proposals import Listed, Proposal
from forcetune.spec import Search, Study, Trial
from forcetune.stores import optuna_uri

FIRST = 2  # fresh seeds of a front point before anything is said of it
CLEAR = 0.05  # of a probability to stand on the front, or not to


def rerun(study: Study, check: Callable[[], None], console: Console, drive: Callable[[Driver], None]) -> str | None:
    """Run the companions round by round, a seed more for each point that is in doubt; why they ended early, if so.

    drive: runs a driver to its end. What is there already counts, so that a restart goes on.
    """
    while True:
        companion = study.companion(Search())
        theirs, reruns = trials_of(study.study, optuna_uri()), trials_of(companion.study, optuna_uri())
        proposals = wanted(study, theirs, reruns)
        if not proposals and all(trial.state.is_finished() for trial in reruns):
            return None
        budget = left_of(study.search.budget, spent_by(ends(theirs)))
        total = len(counted(reruns)) + len(proposals)
        companion = study.companion(Search(trials=total, sampler="random", stopping="none", budget=budget))
        if proposals:
            told = f"{len(proposals)} trials with fresh seeds: the front, and what lies within its noise"
            console.print(told, soft_wrap=True)
        driver = open_driver(companion, check, console, propose=lambda history: Listed(proposals))  # noqa: B023
        drive(driver)
        if driver.ending:
            return f"the re-runs with fresh seeds ended by the {driver.ending}"


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
        if trial.state == TrialState.PRUNED or "of" not in trial.user_attrs:
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
            found.append(Proposal(Trial(**{**trial, "seed": _first_fresh(study) + n}), of=key))
    return found


def _first_fresh(study: Study) -> int:
    known = study.space["seed"].values if "seed" in study.space else [Trial.model_fields["seed"].default]
    return 1 + max(known)
