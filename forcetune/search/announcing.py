"""The announcement of a study's end: `on_end` starts a program that reads why it has ended, once over restarts."""

import json
import socket
from collections import Counter
from typing import Any, Literal

from rich.console import Console

from forcetune.ledger.fail_points import durable
from forcetune.ledger.study_attributes import load_announced_end, record_announced_end
from forcetune.ledger.trials import is_fresh_seed, load_trials, select_current
from forcetune.names import COMPANION
from forcetune.programs import start_program
from forcetune.search.ending import find_spent, list_outcomes
from forcetune.search.printing import print_line
from forcetune.stores import optuna_uri
from forcetune.study import Study

EndState = Literal["completed", "ended early", "failed"]


def announce_end(study: Study, state: EndState, reason: str | None, console: Console) -> None:
    """Start the program of `on_end`, unless it was started for this end already.

    An end is another one where a trial has ended since, or where its state or reason differs. After a kill between the
    start of the program and the record of it, the next driver starts the program again.

    Args:
        study: The study; this process has its lock.
        state: How the study has ended: with all its trials, early by its budget or patience, or given up.
        reason: Why it has ended; None where it is completed.
        console: Where a failure of the program is reported.
    """
    if not study.on_end:
        return
    uri = optuna_uri()
    trials = load_trials(study.study, uri)
    reruns = [trial for trial in load_trials(study.study + COMPANION, uri) if is_fresh_seed(trial)]
    times = [outcome.time or 0 for outcome in list_outcomes([*trials, *reruns])]
    end = {"state": state, "reason": reason, "time": max(times, default=0)}
    if load_announced_end(study.study, uri) == end:
        return
    outcomes = list_outcomes(select_current(trials))
    message: dict[str, Any] = {
        "study": study.study,
        **end,
        "trials": study.trials,
        "outcomes": dict(Counter(outcome.outcome for outcome in outcomes)),
        "reruns": len(list_outcomes(select_current(reruns))),
        **find_spent(list_outcomes(trials)),
        "host": socket.gethostname(),
    }
    if failure := start_program(study.on_end, json.dumps(message) + "\n"):
        print_line(console, f"on_end: {failure}")
    with durable("announced"):
        record_announced_end(study.study, uri, end)
