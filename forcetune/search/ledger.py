"""The ledger: the Optuna study that says which trials exist and what became of them."""

import json
import logging
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import optuna
from optuna.trial import FrozenTrial, TrialState, create_trial
from sqlalchemy.exc import SQLAlchemyError

from forcetune.errors import InputError
from forcetune.search.proposals import Proposal, directions
from forcetune.spec import Study
from forcetune.stores import quicken_sqlite, shown, sqlite_path

STUDY = "forcetune.study"  # the study's attribute that holds the file its trials were made by
OFF_FRONT = "off_front"  # the constraint that keeps stopped and collapsed trials off the front


@dataclass(frozen=True)
class Ended:
    """What became of a trial: an outcome of DESIGN's table, its reason, and the objectives' values unless it failed."""

    outcome: str
    reason: str | None = None
    values: Sequence[float] | None = None

    @property
    def on_front(self) -> bool:
        """Whether the trial may stand on the front."""
        return self.outcome == "trained"


class Ledger:
    """Reads and writes one study's trials; each is known by its number."""

    def __init__(self, study: Study, uri: str) -> None:
        optuna.logging.set_verbosity(logging.WARNING)
        quicken_sqlite()
        try:
            self._study = optuna.create_study(
                storage=uri, study_name=study.study, directions=directions(study), load_if_exists=True
            )
        except SQLAlchemyError as error:
            raise InputError(f"the Optuna storage {shown(uri)} cannot be used: {error}") from error
        if not self._study.user_attrs:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
                self._study.set_metric_names(list(study.objectives))
            self._study.set_user_attr(STUDY, study.identity)
        self._ids = {trial.number: trial._trial_id for trial in self.trials()}

    def trials(self) -> list[FrozenTrial]:
        """All trials, in the order of their numbers."""
        return self._study.get_trials(deepcopy=False)

    def add(self, proposal: Proposal) -> int:
        """Record a trial as RUNNING in one write; its number."""
        attrs = {"key": proposal.trial.key, "fields": proposal.trial.fields()}
        return self._add(proposal, TrialState.RUNNING, attrs)

    def add_known(self, proposal: Proposal) -> None:
        """Record a proposal that the study already has as PRUNED: it is asked anew and does not count."""
        self._add(proposal, TrialState.PRUNED, {"key": proposal.trial.key})

    def note(self, number: int, **attrs: Any) -> None:
        """Keep facts beside a trial, a write each."""
        for name, value in attrs.items():
            self._storage.set_trial_user_attr(self._ids[number], name, value)

    def decide(self, number: int, ended: Ended) -> None:
        """Keep what became of a trial before it is told, so that a restart need not run it again."""
        self.note(number, ended={"outcome": ended.outcome, "reason": ended.reason, "values": ended.values})

    def tell(self, number: int, ended: Ended) -> None:
        """The commit record: COMPLETE with its values, or FAIL."""
        if ended.values is None:
            self._study.tell(number, state=TrialState.FAIL)
            return
        if not ended.on_front:
            optuna.trial.Trial(self._study, self._ids[number]).set_constraint(OFF_FRONT, 1.0)
        self._study.tell(number, list(ended.values))

    @property
    def _storage(self) -> optuna.storages.BaseStorage:
        return self._study._storage

    def _add(self, proposal: Proposal, state: TrialState, attrs: Mapping[str, Any]) -> int:
        # study.ask() commits the row, each parameter and each attribute apart: a kill leaves a torn trial
        template = create_trial(
            state=state, params=proposal.params, distributions=proposal.distributions, user_attrs=dict(attrs)
        )
        trial_id = self._storage.create_new_trial(self._study._study_id, template_trial=template)
        number = self._storage.get_trial_number_from_id(trial_id)
        self._ids[number] = trial_id
        return number


def refuse_changes(study: Study, uri: str) -> None:
    """Raise InputError where the study's trials were made by a file that differs in more than search and resources.

    Opens no store that is not there yet.
    """
    path = sqlite_path(uri)
    if path and not path.exists():
        return
    try:
        known = optuna.load_study(study_name=study.study, storage=uri)
    except KeyError:
        return
    except SQLAlchemyError as error:
        raise InputError(f"the Optuna storage {shown(uri)} cannot be used: {error}") from error
    before = known.user_attrs.get(STUDY)
    now = json.loads(json.dumps(study.identity))
    if before is None:
        raise InputError(f"study: {shown(uri)} has an Optuna study {study.study!r} of another program; rename yours")
    if before != now and known.get_trials(deepcopy=False):
        raise InputError(
            f"study: {study.study!r} has trials of another file ({'; '.join(_differences(before, now))}). Under one "
            "name only search and resources may change: give the study another name"
        )


def _differences(before: Any, now: Any, place: str = "") -> list[str]:
    if isinstance(before, dict) and isinstance(now, dict):
        keys = [*before, *(key for key in now if key not in before)]
        return [
            line
            for key in keys
            for line in _differences(before.get(key), now.get(key), f"{place}.{key}" if place else key)
        ]
    return [] if before == now else [f"{place} was {json.dumps(before)}, is {json.dumps(now)}"]
