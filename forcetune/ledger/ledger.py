"""The ledger: the Optuna study that records which trials exist and what became of them."""

import hashlib
import json
import time
import uuid
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from copy import copy
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any, TypeVar, cast

import optuna
import sqlalchemy
from optuna.distributions import BaseDistribution
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, TrialState, create_trial
from sqlalchemy.exc import SQLAlchemyError

from forcetune.errors import HeldError, InputError, StoppedError, locating
from forcetune.ledger.driver_lock import SCHEMA_LOCK_NAME, driver_lock
from forcetune.ledger.fail_points import durable
from forcetune.ledger.messages import Attempts, PriorTrial, Proposal, TrialOutcome
from forcetune.names import suggestion
from forcetune.stores import (
    absolute_uri,
    enable_write_ahead_log,
    hide_password,
    innermost_message,
    is_postgresql,
    sqlite_path,
    state_folder,
)
from forcetune.study import Study

T = TypeVar("T")

DATABASE_ERRORS = (SQLAlchemyError, optuna.exceptions.StorageInternalError)
DATABASE_PATIENCE_S = 300.0  # that a database server may be away
DATABASE_RETRY_PAUSE_S = 1.0  # between two attempts at a write
# Attributes of the Optuna study:
STUDY_ATTR = "forcetune.study"  # the study file that its trials were made by
ARCHIVE_ATTR = "forcetune.archive"  # the name under which the study is being archived
# Optuna Dashboard's: how the names of a note's attributes begin, and how many characters one of them holds.
DASHBOARD_NOTE_ATTR, NOTE_PIECE_CHARS = "dashboard:note", 2045
WRITER_ATTR = "forcetune.writer"  # the token of its last driver, where a lock can be lost with a connection
FOLDER_ID_ATTR = "forcetune.state"  # tells the study's folder of checkpoints from those of other ledgers
RETRY_ATTR = "forcetune.retry"  # the numbers of the failed trials that are to be run again
ANNOUNCED_END_ATTR = "forcetune.announced"  # the last end of the study for which the program of `on_end` was started
# Attributes of a trial that runs in place of a failed one:
SUPERSEDES_ATTR = "supersedes"  # the number of the failed trial
RETRIED_AT_ATTR = "retried"  # since when it does so, in ms since 1970
COPIED_ATTRS = ("key", "start", "of", "marks", "fields")  # what it takes over from the failed trial
# The study's attribute with what became of a trial, and its curve, is this and the trial's number.
OUTCOME_ATTR_PREFIX = "forcetune.ended:"
OFF_FRONT_CONSTRAINT = "constraints:off_front"  # keeps stopped and collapsed trials off the front


def directions(study: Study) -> list[StudyDirection]:
    """Return the directions of the study's objectives as Optuna's."""
    optuna_directions = {"max": StudyDirection.MAXIMIZE, "min": StudyDirection.MINIMIZE}
    return [optuna_directions[direction] for direction in study.directions.values()]


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
            raise InputError(_cannot_be_used(uri, error)) from error
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
        return _folder(self._study, self._uri)

    @property
    def claimant(self) -> str:
        """The study's name, and a hash that tells it from the studies of this name in other stores.

        All drivers of the study have the same. Studies of earlier versions have no identifier: the address of the store
        alone tells them apart.
        """
        identifier = f"{self._study.user_attrs.get(FOLDER_ID_ATTR)} {hide_password(absolute_uri(self._uri))}"
        return f"{self._study.study_name}-{hashlib.sha256(identifier.encode()).hexdigest()[:16]}"

    def trials(self) -> list[FrozenTrial]:
        """Return all trials in the order of their numbers, each with its record as the user attribute `ended`."""
        return _with_records(self._study)

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
            self._persist(lambda: _rename(self._study.study_name, name, self._uri))

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

    def _persist(self, write: Callable[[], T]) -> T:
        """Do a write that may be repeated, and repeat it while the database is away.

        Raises:
            HeldError: Another driver has the study.
            StoppedError: The database did not come back in time.
        """

        def guarded_write() -> T:
            self.guard()
            return write()

        return _write_patiently(guarded_write, self._uri)


def _write_patiently(write: Callable[[], T], uri: str) -> T:
    """Do a write to a store that may be repeated, and repeat it while the database is away.

    Raises:
        StoppedError: The database did not come back in time.
    """
    deadline = time.monotonic() + (DATABASE_PATIENCE_S if sqlite_path(uri) is None else 0)
    while True:
        try:
            return write()
        except optuna.exceptions.UpdateFinishedTrialError:
            return cast(T, None)  # the attempt before this one came through
        except DATABASE_ERRORS as error:
            if time.monotonic() > deadline:
                raise StoppedError(_refuses_writes(uri, error)) from None
        time.sleep(DATABASE_RETRY_PAUSE_S)


@contextmanager
def writing_to(uri: str) -> Iterator[None]:
    """Raise StoppedError where a store refuses a write in this block, which is not repeated.

    Args:
        uri: The address of the Optuna storage.
    """
    try:
        yield
    except DATABASE_ERRORS as error:
        raise StoppedError(_refuses_writes(uri, error)) from error


def _refuses_writes(uri: str, error: Exception) -> str:
    return (
        f"the ledger {hide_password(uri)} refuses writes: {innermost_message(error)}. Once it accepts them, run the "
        "same command again to continue"
    )


def _cannot_be_used(uri: str, error: Exception) -> str:
    return f"the Optuna storage {hide_password(uri)} cannot be used: {innermost_message(error)}"


def open_storage(uri: str) -> optuna.storages.BaseStorage:
    """Return Optuna's storage at an address; only one process at a time makes its tables.

    Raises:
        InputError: The address is neither one of SQLite nor one of PostgreSQL, or the storage cannot be used.
    """
    if sqlite_path(uri) is None and not is_postgresql(uri):
        raise InputError(
            f"the Optuna storage {hide_password(uri)} is not supported; allowed: sqlite:///FILE and "
            "postgresql://HOST/DATABASE"
        )
    with driver_lock(SCHEMA_LOCK_NAME, uri, wait=True):
        try:
            storage = optuna.storages.RDBStorage(uri, engine_kwargs={"pool_pre_ping": True})
        except DATABASE_ERRORS as error:
            raise InputError(_cannot_be_used(uri, error)) from error
        return optuna.storages.get_storage(storage)


def has_study(name: str, uri: str) -> bool:
    """Return whether the store has a study of this name; a SQLite file that does not exist is not made."""
    return _load(name, uri) is not None


def is_foreign(name: str, uri: str) -> bool:
    """Return whether the store has an Optuna study of this name that another program has made."""
    study = _load(name, uri)
    return study is not None and STUDY_ATTR not in study.user_attrs


def folder_of(name: str, uri: str, new_name: str | None = None) -> Path:
    """Return the folder of the running trials of a study that the store has.

    Args:
        name: The name of the study.
        uri: The address of the Optuna storage.
        new_name: The name that the study is about to get; None where it keeps its name.
    """
    study = _load(name, uri)
    assert study is not None
    return _folder(study, uri, new_name)


def rename_study(name: str, new: str, uri: str) -> None:
    """Give a study another name.

    Raises:
        StoppedError: The store does not accept the write.
    """
    _write_patiently(lambda: _rename(name, new, uri), uri)


def _rename(name: str, new: str, uri: str) -> None:
    # Optuna itself can only copy the trials one by one to a study of the new name
    engine = sqlalchemy.create_engine(uri)
    statement = sqlalchemy.text("update studies set study_name = :new where study_name = :name")
    with engine.begin() as connection:
        connection.execute(statement, {"name": name, "new": new})
    engine.dispose()


def delete_study(name: str, uri: str) -> None:
    """Delete a study with all of its trials, where the store has it.

    Raises:
        StoppedError: The store does not accept the write.
    """
    storage = open_storage(uri)
    with suppress(KeyError):  # an earlier attempt came through, though the connection lost the answer
        _write_patiently(lambda: optuna.delete_study(study_name=name, storage=storage), uri)


def _folder(study: optuna.Study, uri: str, new_name: str | None = None) -> Path:
    """Return the folder of a study's running trials, under its new name where there is one.

    Two ledgers may have a study of one name and share a state folder: a hash follows the name, of the study's
    identifier and, for a SQLite ledger, of its file, since a copy of the file has the same identifier. Studies of
    earlier versions have no identifier, and keep the folder with their name.
    """
    name, identifier = new_name or study.study_name, study.user_attrs.get(FOLDER_ID_ATTR)
    states = state_folder(uri)
    if identifier is None:
        return states / name
    path = sqlite_path(uri)
    file = "" if path is None else path.name if path.parent / states.name == states else str(path)
    return states / f"{name}-{hashlib.sha256(f'{identifier} {file}'.encode()).hexdigest()[:8]}"


def refuse_changes(study: Study, uri: str) -> None:
    """Check that the study file has not changed since the study's trials were made, but for what may change.

    Raises:
        InputError: The trials were made by a study file that differs in more than `search`, `resources`, `code` and
            `on_end`, or another program made the study.
    """
    optuna_study = _load(study.study, uri)
    if optuna_study is None:
        return
    trials = optuna_study.get_trials(deepcopy=False)
    before = optuna_study.user_attrs.get(STUDY_ATTR)
    now = json.loads(json.dumps(study.identity))
    if before is None and not trials and optuna_study.directions == directions(study):
        return  # a driver was killed while it made the study
    if before is None:
        raise InputError(
            f"study: another program has an Optuna study {study.study!r} in {hide_password(uri)}; give your study "
            "another name"
        )
    names = [list(identity["objectives"]) for identity in (before, now)]
    if not trials and (names[0] != names[1] or optuna_study.directions != directions(study)):
        raise InputError(
            f"study: {study.study!r} has no trial yet, but it was made with other objectives, or in another order "
            f"(then {', '.join(names[0])}, now {', '.join(names[1])}): give the study another name, or use --fresh"
        )
    if before != now and trials:
        raise InputError(
            f"study: the trials of {study.study!r} were made by a different study file "
            f"({'; '.join(_differences(before, now))}). Only search, resources, code and on_end may change: give the "
            "study another name, or use --fresh, which archives the existing study and starts a new one"
        )


def load_recorded_study(name: str, uri: str) -> Study:
    """Return a study as its trials were made.

    `search` and `resources` have their defaults. The names in it, such as those of the user's functions, are not looked
    up.

    Raises:
        InputError: The ledger has no such study.
    """
    optuna_study = _load(name, uri)
    if optuna_study is None or STUDY_ATTR not in optuna_study.user_attrs:
        studies = {} if _missing(uri) else {study.study_name: study for study in open_storage(uri).get_all_studies()}
        near = suggestion(name, {*studies} - {name})  # another program may have a study of this name
        raise InputError(
            f"the ledger {hide_password(uri)} has no study {name!r} of forcetune{near}; "
            f"its studies: {', '.join(sorted(studies)) or 'none yet'}"
        )
    return Study.model_validate(optuna_study.user_attrs[STUDY_ATTR])


def load_prior_trials(study: Study, uri: str) -> dict[str, list[PriorTrial]]:
    """Return the complete trials of the studies under `search.warm_start`.

    Args:
        study: The study that learns from them.
        uri: The address of the Optuna storage.

    Returns:
        The trials by the name of their study, with the values in the order of this study's objectives.

    Raises:
        InputError: The ledger has no such study, or its objectives differ from this study's.
    """
    prior_trials: dict[str, list[PriorTrial]] = {}
    for i, name in enumerate(study.search.warm_start):
        yaml_path = f"search.warm_start.{i}"
        with locating(yaml_path):
            objectives = list(load_recorded_study(name, uri).directions.items())
        if dict(objectives) != study.directions:
            raise InputError(
                f"{yaml_path}: the objectives of {name!r} are {_format_objectives(dict(objectives))}, those of this "
                f"study {_format_objectives(study.directions)}; they must be the same"
            )
        order = [objectives.index(objective) for objective in study.directions.items()]
        prior_trials[name] = [
            PriorTrial(trial.user_attrs["fields"], [trial.values[i] for i in order], is_on_front(trial))
            for trial in optuna.load_study(study_name=name, storage=open_storage(uri)).get_trials(deepcopy=False)
            if trial.state == TrialState.COMPLETE and "fields" in trial.user_attrs
        ]
    return prior_trials


def _format_objectives(objectives: Mapping[str, str]) -> str:
    return ", ".join(f"{name} {direction}" for name, direction in objectives.items())


def _proposal_attrs(proposal: Proposal) -> dict[str, Any]:
    attrs = {"key": proposal.key, "start": proposal.start, "of": proposal.parent_key, "marks": dict(proposal.tags)}
    return {name: value for name, value in attrs.items() if value}


def load_trials(name: str, uri: str) -> list[FrozenTrial]:
    """Return all trials of a study in the order of their numbers; none where the store does not have the study."""
    study = _load(name, uri)
    return _with_records(study) if study else []


def select_current(trials: Sequence[FrozenTrial]) -> list[FrozenTrial]:
    """Return the trials that are in force: all but the failed trials that another trial replaces."""
    superseded = {trial.user_attrs[SUPERSEDES_ATTR] for trial in trials if is_retry(trial)}
    return [trial for trial in trials if trial.number not in superseded]


def is_retry(trial: FrozenTrial) -> bool:
    """Return whether a trial runs, or has run, in place of a failed one. A duplicate of such a trial is PRUNED."""
    return SUPERSEDES_ATTR in trial.user_attrs and trial.state != TrialState.PRUNED


def select_counted(trials: Sequence[FrozenTrial]) -> list[FrozenTrial]:
    """Return the trials that count towards `trials`: all but superseded trials and repeated proposals."""
    return [trial for trial in select_current(trials) if trial.state != TrialState.PRUNED]


def retried_at(trial: FrozenTrial) -> int | None:
    """Return since when a trial runs in place of a failed one, in ms since 1970; None where it does not."""
    return trial.user_attrs.get(RETRIED_AT_ATTR) if is_retry(trial) else None


def request_retry(name: str, uri: str) -> None:
    """Note that the next driver of a study runs its failed trials again, where the store has the study.

    Raises:
        StoppedError: The store does not accept the write.
    """
    study = _load(name, uri)
    if study is None:
        return
    if failed := [trial.number for trial in select_current(study.get_trials(deepcopy=False)) if is_failed(trial)]:
        _write_patiently(lambda: study.set_user_attr(RETRY_ATTR, failed), uri)


def has_retries(name: str, uri: str) -> bool:
    """Return whether failed trials of the study are still to be run again."""
    study = _load(name, uri)
    return study is not None and bool(study.user_attrs.get(RETRY_ATTR))


def load_announced_end(name: str, uri: str) -> dict[str, Any] | None:
    """Return the last end of a study for which the program of `on_end` was started; None where there is none."""
    study = _load(name, uri)
    return study.user_attrs.get(ANNOUNCED_END_ATTR) if study else None


def record_announced_end(name: str, uri: str, end: Mapping[str, Any]) -> None:
    """Record that the program of `on_end` was started for this end of a study.

    Raises:
        StoppedError: The store does not accept the write.
    """
    study = _load(name, uri)
    if study is not None:
        _write_patiently(lambda: study.set_user_attr(ANNOUNCED_END_ATTR, dict(end)), uri)


def is_failed(trial: FrozenTrial) -> bool:
    """Return whether this is a trial of forcetune's that failed after its retries."""
    return trial.state == TrialState.FAIL and "fields" in trial.user_attrs


def is_on_front(trial: FrozenTrial) -> bool:
    """Return whether a trial may stand on the front: it is COMPLETE, and was trained to its end."""
    return trial.state == TrialState.COMPLETE and OFF_FRONT_CONSTRAINT not in trial.system_attrs


def read_outcomes(trials: Iterable[FrozenTrial]) -> list[TrialOutcome]:
    """Return the outcomes of those of the trials that have ended."""
    return [TrialOutcome(**trial.user_attrs["ended"]) for trial in trials if "ended" in trial.user_attrs]


def pending_archive(name: str, uri: str) -> str | None:
    """Return the name under which a driver that was killed began to archive the study; None where none did."""
    study = _load(name, uri)
    return study.user_attrs.get(ARCHIVE_ATTR) if study else None


def read_system_attrs(study: optuna.Study) -> dict[str, Any]:
    """Return the system attributes of an Optuna study, which has no public method for them."""
    return study._storage.get_study_system_attrs(study._study_id)


def _with_records(study: optuna.Study) -> list[FrozenTrial]:
    """Return the study's trials, each with its record as the attribute `ended`.

    A record holds a whole curve. It is an attribute of the study, since an attribute of a trial would be a column of
    `study.trials_dataframe()`, and a line in Optuna Dashboard. Trials of earlier versions have it as an attribute.
    """
    attrs = read_system_attrs(study)
    trials = []
    for trial in study.get_trials(deepcopy=False):
        if record := attrs.get(f"{OUTCOME_ATTR_PREFIX}{trial.number}"):
            trial = copy(trial)  # since Optuna shares its own object with all its callers
            trial.user_attrs = {**trial.user_attrs, "ended": record}
        trials.append(trial)
    return trials


def _load(name: str, uri: str) -> optuna.Study | None:
    if _missing(uri):
        return None
    try:
        return optuna.load_study(study_name=name, storage=open_storage(uri))
    except KeyError:
        return None
    except DATABASE_ERRORS as error:
        raise InputError(_cannot_be_used(uri, error)) from error


def _missing(uri: str) -> bool:
    path = sqlite_path(uri)
    return path is not None and not path.exists()


def _differences(before: Any, now: Any, path: str = "") -> list[str]:
    if isinstance(before, dict) and isinstance(now, dict):
        keys = [*before, *(key for key in now if key not in before)]
        return [
            line
            for key in keys
            for line in _differences(before.get(key), now.get(key), f"{path}.{key}" if path else key)
        ]
    return [] if before == now else [f"{path} was {json.dumps(before)}, is now {json.dumps(now)}"]
