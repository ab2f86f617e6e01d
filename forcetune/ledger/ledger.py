"""The ledger: the Optuna study that records which trials exist and what became of them."""

import hashlib
import time
import uuid
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import optuna
from optuna.distributions import BaseDistribution
from optuna.trial import FrozenTrial, TrialState, create_trial

from forcetune.errors import HeldError, InputError
from forcetune.ledger.fail_points import durable
from forcetune.ledger.messages import Attempts, Proposal, TrialOutcome
from forcetune.ledger.storage import (
    FOLDER_ID_ATTR,
    STUDY_ATTR,
    directions,
    find_folder,
    open_storage,
    read_system_attrs,
    rename_once,
)
from forcetune.ledger.study_attributes import ARCHIVE_ATTR, RETRY_ATTR
from forcetune.ledger.trials import (
    OFF_FRONT_CONSTRAINT,
    OUTCOME_ATTR_PREFIX,
    RETRIED_AT_ATTR,
    SUPERSEDES_ATTR,
    is_failed,
    read_trials,
    select_current,
)
from forcetune.ledger.writes import DATABASE_ERRORS, WriteResult, describe_unusable, write_patiently
from forcetune.stores import absolute_uri, enable_write_ahead_log, hide_password, is_postgresql, sqlite_path
from forcetune.study import Study

# Optuna Dashboard's: how the names of a note's attributes begin, and how many characters one of them holds.
DASHBOARD_NOTE_ATTR, NOTE_PIECE_CHARS = "dashboard:note", 2045
# The study's attribute with the token of its last driver, where a lock can be lost with a connection.
WRITER_ATTR = "forcetune.writer"
COPIED_ATTRS = ("key", "start", "of", "marks", "fields")  # what a retry takes over from the failed trial


class Ledger:
    """The trials of one study in Optuna's storage, each with a number.

    Only the process that has the study's lock writes, so that no other one gives out numbers. A write that a
    database server does not take is repeated for DATABASE_PATIENCE_S; then StoppedError is raised.

    Args:
        study: The study; it is made in the storage where it is new.
        uri: The address of the Optuna storage.
        check: Called before each write; raises HeldError where another driver has the study.

    Raises:
        InputError: The storage cannot be used.
    """

    def __init__(self, study: Study, uri: str, check: Callable[[], None] = lambda: None) -> None:
        enable_write_ahead_log(uri)
        self._uri = uri
        self._check = check
        try:
            self._storage = open_storage(uri)
            self._study = optuna.create_study(
                storage=self._storage, study_name=study.study, directions=directions(study), load_if_exists=True
            )
            self._study_id = self._storage.get_study_id_from_name(study.study)
            self._size = self._describe_study(study)  # the number of the next trial
        except DATABASE_ERRORS as error:
            raise InputError(describe_unusable(uri, error)) from error
        self._token: str | None = None

    def _describe_study(self, study: Study) -> int:
        """Store what a new study was made by, and return the number of its trials."""
        if STUDY_ATTR not in self._study.user_attrs:
            self._study.set_user_attr(FOLDER_ID_ATTR, uuid.uuid4().hex)
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
                self._study.set_metric_names(list(study.objectives))
        trials = self._study.get_trials(deepcopy=False)
        if STUDY_ATTR not in self._study.user_attrs or not trials:  # without a trial the file may still change
            self._study.set_user_attr(STUDY_ATTR, study.identity)
        return len(trials)

    @property
    def folder(self) -> Path:
        """The folder of the study's running trials."""
        return find_folder(self._study, self._uri)

    @property
    def claimant(self) -> str:
        """The study's name, and a hash that tells it from the studies of this name in other stores.

        All drivers of the study have the same. The address of the store counts for a file, which can be copied, and for
        studies of earlier versions, which have no identifier.
        """
        identifier = self._study.user_attrs.get(FOLDER_ID_ATTR)
        if identifier is None or sqlite_path(self._uri):
            identifier = f"{identifier} {hide_password(absolute_uri(self._uri))}"
        return f"{self._study.study_name}-{hashlib.sha256(identifier.encode()).hexdigest()[:16]}"

    def trials(self) -> list[FrozenTrial]:
        """Return all trials in the order of their numbers, each with its record as the user attribute `ended`."""
        return read_trials(self._study)

    def describe(self, note: str) -> None:
        """Store a note for Optuna Dashboard, in the attributes that it keeps notes in.

        Args:
            note: What the study is about, in Markdown.
        """
        attrs = read_system_attrs(self._study)
        pieces = [note[start : start + NOTE_PIECE_CHARS] for start in range(0, len(note), NOTE_PIECE_CHARS)]
        if [attrs.get(f"{DASHBOARD_NOTE_ATTR}_str:{index}") for index in range(len(pieces))] == pieces:
            return
        pieces += [""] * sum(f"{DASHBOARD_NOTE_ATTR}_str:{index}" in attrs for index in range(len(pieces), len(attrs)))
        entries: dict[str, Any] = {f"{DASHBOARD_NOTE_ATTR}_str:{index}": piece for index, piece in enumerate(pieces)}
        entries[f"{DASHBOARD_NOTE_ATTR}_ver"] = attrs.get(f"{DASHBOARD_NOTE_ATTR}_ver", 0) + 1
        for name, value in entries.items():
            self._persist(partial(self._storage.set_study_system_attr, self._study_id, name, value))

    def claim(self) -> None:
        """Make this process the study's one driver: the driver before it can write nothing more."""
        if is_postgresql(self._uri):
            token = uuid.uuid4().hex
            self._persist(lambda: self._study.set_user_attr(WRITER_ATTR, token))
            self._token = token

    def guard(self) -> None:
        """Check that no other driver has had the study since this one claimed it.

        A lock in a database is lost with the connection; a process that is stopped at that time does not notice it.

        Raises:
            HeldError: Another driver has the study, or has had it.
        """
        self._check()
        if self._token and self._study.user_attrs.get(WRITER_ATTR) != self._token:
            raise HeldError(f"another driver took over the study {self._study.study_name!r} in the meantime")

    def confirm(self) -> None:
        """Check that no other driver has the study, and wait for a database that is away.

        Raises:
            HeldError: Another driver has the study.
            StoppedError: The database did not come back in time.
        """
        self._persist(lambda: None)

    def add(self, proposal: Proposal) -> int:
        """Record a trial and its first attempt as RUNNING, in one write; return the trial's number."""
        attrs = {**_proposal_attrs(proposal), "fields": proposal.trial.fields()}
        with durable("ask"):
            return self._add(proposal.params, proposal.distributions, TrialState.RUNNING, attrs)

    def add_repeated(self, proposal: Proposal) -> None:
        """Record a proposal that the study already has as PRUNED: it does not count, and another one is asked for."""
        self._add(proposal.params, proposal.distributions, TrialState.PRUNED, _proposal_attrs(proposal))

    def drop(self, number: int) -> None:
        """Mark a trial that repeats another one as PRUNED."""
        self._finish(number, TrialState.PRUNED)

    def retry(self) -> int:
        """Record a new RUNNING trial for each failed trial that `request_retry` noted.

        The new trial and the attribute that names the failed one are one write, since Optuna takes no attribute for a
        finished trial. The request is deleted last: after a kill the next driver does what is left of it.

        Returns:
            The number of new trials.
        """
        numbers = self._study.user_attrs.get(RETRY_ATTR, [])
        failed = [trial for trial in select_current(self.trials()) if is_failed(trial) and trial.number in numbers]
        for trial in failed:
            attrs = {name: trial.user_attrs[name] for name in COPIED_ATTRS if name in trial.user_attrs}
            attrs |= {
                SUPERSEDES_ATTR: trial.number,
                RETRIED_AT_ATTR: int(time.time() * 1000),
                "issued": asdict(Attempts(attempt=0)),
            }
            with durable("retry"):
                self._add(trial.params, trial.distributions, TrialState.RUNNING, attrs)
        if numbers:
            self._persist(lambda: self._study.set_user_attr(RETRY_ATTR, []))
        return len(failed)

    def issue(self, number: int, attempts: Attempts) -> None:
        """Record a further attempt at a trial.

        Args:
            number: The trial's number.
            attempts: The attempts, with this one.
        """
        with durable("issue"):
            self._set_trial_attr(number, "issued", asdict(attempts))

    def decide(self, number: int, outcome: TrialOutcome) -> None:
        """Record the outcome of a trial before the trial is finished, so that a restart need not run it again."""
        with durable("decide"):
            name, record = f"{OUTCOME_ATTR_PREFIX}{number}", asdict(outcome)
            self._persist(lambda: self._storage.set_study_system_attr(self._study_id, name, record))

    def tell(self, number: int, outcome: TrialOutcome) -> None:
        """Finish a trial, as the last write about it: COMPLETE with its values, or FAIL; a repetition is harmless."""
        with durable("tell"):
            for name in ("outcome", "reason"):  # for readers of the Optuna study; forcetune itself reads the record
                if value := getattr(outcome, name):
                    self._set_trial_attr(number, name, value)
            if outcome.values is None:
                self._finish(number, TrialState.FAIL)
                return
            if not outcome.on_front:
                self._persist(
                    lambda: self._storage.set_trial_system_attr(self._find_id(number), OFF_FRONT_CONSTRAINT, 1.0)
                )
            self._finish(number, TrialState.COMPLETE, list(outcome.values))

    def begin_archive(self, name: str) -> None:
        """Record the name under which the study is about to be archived, so that a restart finishes the archiving."""
        with durable("archive begun"):
            self._persist(lambda: self._study.set_user_attr(ARCHIVE_ATTR, name))

    def rename(self, name: str) -> None:
        """Give the study another name."""
        with durable("archived"):
            self._persist(lambda: rename_once(self._study.study_name, name, self._uri))

    def _set_trial_attr(self, number: int, name: str, value: Any) -> None:
        # only the Trial that study.ask() returns has a public set_user_attr
        self._persist(lambda: self._storage.set_trial_user_attr(self._find_id(number), name, value))

    def _finish(self, number: int, state: TrialState, values: Sequence[float] | None = None) -> None:
        # study.tell(..., skip_if_finished=True) also reads the trial twice, and takes 7 ms in place of 2
        self._persist(lambda: self._storage.set_trial_state_values(self._find_id(number), state, values))

    def _find_id(self, number: int) -> int:
        return self._storage.get_trial_id_from_study_id_trial_number(self._study_id, number)

    def _add(
        self,
        params: dict[str, Any],
        distributions: dict[str, BaseDistribution],
        state: TrialState,
        attrs: Mapping[str, Any],
    ) -> int:
        # study.ask() commits the row, each parameter and each attribute separately: a kill would leave half a trial.
        # study.add_trial() makes the same single write as create_new_trial(), but does not return the trial's number.
        template = create_trial(state=state, params=params, distributions=distributions, user_attrs=dict(attrs))

        def create() -> int:
            trial_id = self._storage.create_new_trial(self._study_id, template_trial=template)
            return self._storage.get_trial_number_from_id(trial_id)

        number = self._persist(create)
        for duplicate in range(self._size, number):  # a broken connection lost the answer to a write: it was repeated
            self.drop(duplicate)
        self._size = number + 1
        return number

    def _persist(self, write: Callable[[], WriteResult]) -> WriteResult:
        """Do a write that may be repeated, and repeat it while the database is away.

        Raises:
            HeldError: Another driver has the study.
            StoppedError: The database did not come back in time.
        """

        def guarded_write() -> WriteResult:
            self.guard()
            return write()

        return write_patiently(guarded_write, self._uri)


def _proposal_attrs(proposal: Proposal) -> dict[str, Any]:
    attrs = {"key": proposal.key, "start": proposal.start, "of": proposal.parent_key, "marks": dict(proposal.tags)}
    return {name: value for name, value in attrs.items() if value}
