"""The ledger: the Optuna study that says which trials exist and what became of them."""

import hashlib
import json
import time
import uuid
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from copy import copy
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, TypeVar, cast

import optuna
import sqlalchemy
from optuna.distributions import BaseDistribution
from optuna.trial import FrozenTrial, TrialState, create_trial
from sqlalchemy.exc import SQLAlchemyError

from forcetune.errors import HeldError, InputError, StoppedError
from forcetune.names import suggestion
from forcetune.search.faults import durable
from forcetune.search.hold import SCHEMAS, hold
from forcetune.search.proposals import Lesson, Proposal, directions
from forcetune.spec import Study
from forcetune.stores import is_postgresql, quicken_sqlite, shown, sqlite_path, state_folder, why

T = TypeVar("T")

PATIENCE = 300.0  # seconds that a database server may be away
AGAIN = 1.0  # between two tries
STUDY = "forcetune.study"  # the study's attribute that holds the file its trials were made by
ARCHIVE = "forcetune.archive"  # and the one that holds the name under which it is being archived
NOTE, PIECE = "dashboard:note", 2045  # Optuna Dashboard's: what a note's attributes begin with, characters in one
WRITER = "forcetune.writer"  # and the one that names its last driver, where a hold can be lost
STATE = "forcetune.state"  # and the one that tells the study's folder of checkpoints from those of other ledgers
RETRY = "forcetune.retry"  # and the one that holds the numbers of the failed trials that are to be run again
SUPERSEDES = "supersedes"  # a trial's attribute: the number of the failed one in whose place it runs
RETRIED = "retried"  # and the one that says since when, in ms since 1970
REPEATED = ("key", "start", "of", "marks", "fields")  # the attributes that it takes over
RECORD = "forcetune.ended:"  # before a trial's number: the study's attribute with what became of it and its curve
OFF_FRONT = "constraints:off_front"  # the constraint that keeps stopped and collapsed trials off the front


@dataclass(frozen=True)
class Ended:
    """What became of a trial: an outcome of DESIGN's table, its reason, and the objectives' values unless it failed.

    time: when, in ms since 1970; record: what was measured, the facts known before training and the curve.
    """

    outcome: str
    reason: str | None = None
    values: Sequence[float] | None = None
    time: int | None = None
    record: Mapping[str, Any] = field(default_factory=dict)

    @property
    def on_front(self) -> bool:
        """Whether the trial may stand on the front."""
        return self.outcome == "trained"


@dataclass(frozen=True)
class Issued:
    """The attempts at a trial so far: how many, how many of them were lost, and how much room the next one gets.

    lost: the attempts that count towards `retries`; lost_nodes: the attempts that do not, since their node was lost.
    """

    attempt: int = 1
    lost: int = 0
    room: int = 1
    lost_nodes: int = 0


class Ledger:
    """Reads and writes one study's trials; each is known by its number.

    Whoever writes holds the study: numbers are given out by this process alone. A write that the database does not
    take is tried again for as long as the database may come back; then StoppedError.
    """

    def __init__(self, study: Study, uri: str, check: Callable[[], None] = lambda: None) -> None:
        quicken_sqlite()
        self._uri = uri
        self._check = check
        try:
            self._storage = open_storage(uri)
            self._study = optuna.create_study(
                storage=self._storage, study_name=study.study, directions=directions(study), load_if_exists=True
            )
        except (SQLAlchemyError, optuna.exceptions.StorageInternalError) as error:
            raise InputError(f"the Optuna storage {shown(uri)} cannot be used: {why(error)}") from error
        if STUDY not in self._study.user_attrs:
            self._study.set_user_attr(STATE, uuid.uuid4().hex)
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
                self._study.set_metric_names(list(study.objectives))
            self._study.set_user_attr(STUDY, study.identity)
        self._ids = {trial.number: trial._trial_id for trial in self.trials()}
        self._token: str | None = None

    @property
    def folder(self) -> Path:
        """The study's folder on disk while trials run."""
        return _folder(self._study, self._uri)

    def trials(self) -> list[FrozenTrial]:
        """All trials, in the order of their numbers, each with its record as the attribute `ended`."""
        return _with_records(self._study)

    def describe(self, note: str) -> None:
        """Let Optuna Dashboard show what the study is about, in Markdown, under the keys that it keeps notes by."""
        before = self._storage.get_study_system_attrs(self._study._study_id)
        pieces = [note[at : at + PIECE] for at in range(0, len(note), PIECE)]
        if [before.get(f"{NOTE}_str:{place}") for place in range(len(pieces))] == pieces:
            return
        pieces += [""] * sum(f"{NOTE}_str:{place}" in before for place in range(len(pieces), len(before)))
        told = {f"{NOTE}_str:{place}": piece for place, piece in enumerate(pieces)}
        for name, value in {**told, f"{NOTE}_ver": before.get(f"{NOTE}_ver", 0) + 1}.items():
            self._storage.set_study_system_attr(self._study._study_id, name, value)

    def claim(self) -> None:
        """Be the study's driver, of whom there is one: who was so before writes nothing more."""
        if is_postgresql(self._uri):
            self._token = uuid.uuid4().hex
            self._study.set_user_attr(WRITER, self._token)

    def guard(self) -> None:
        """Raise HeldError where another driver has, or has had, the study since this one claimed it.

        A hold on a database is lost with the connection, unseen by a driver that is stopped meanwhile.
        """
        self._check()
        if self._token:
            found = self._storage.get_study_user_attrs(self._study._study_id).get(WRITER)
            if found != self._token:
                raise HeldError(f"the study {self._study.study_name!r} was taken over by another driver meanwhile")

    def confirm(self) -> None:
        """Raise HeldError where another driver has the study; a database that is away is waited for."""
        self._persist(lambda: None)

    def add(self, proposal: Proposal) -> int:
        """Record a trial and its first attempt as RUNNING in one write; its number."""
        attrs = {**_names(proposal), "fields": proposal.trial.fields()}
        with durable("ask"):
            return self._add(proposal.params, proposal.distributions, TrialState.RUNNING, attrs)

    def add_known(self, proposal: Proposal) -> None:
        """Record a proposal that the study already has as PRUNED: it is asked anew and does not count."""
        self._add(proposal.params, proposal.distributions, TrialState.PRUNED, _names(proposal))

    def drop(self, number: int) -> None:
        """Take back a trial that another one repeats."""
        self._finish(number, TrialState.PRUNED)

    def retry(self) -> int:
        """Record the failed trials that `request_retry` was asked for once more, as RUNNING; return how many those are.

        That a trial stands in place of another is written with it, in one write, since Optuna takes no attribute of a
        finished trial. The request is taken back last: after a kill the next driver does what is left of it.
        """
        numbers = pending_retries(self._study)
        failed = [trial for trial in current(self.trials()) if is_failed(trial) and trial.number in numbers]
        for trial in failed:
            attrs = {name: trial.user_attrs[name] for name in REPEATED if name in trial.user_attrs}
            attrs |= {SUPERSEDES: trial.number, RETRIED: int(time.time() * 1000), "issued": asdict(Issued(attempt=0))}
            with durable("retry"):
                self._add(trial.params, trial.distributions, TrialState.RUNNING, attrs)
        if numbers:
            self._persist(lambda: self._storage.set_study_user_attr(self._study._study_id, RETRY, []))
        return len(failed)

    def issue(self, number: int, issued: Issued) -> None:
        """A further attempt at a trial."""
        with durable("issue"):
            self._note(number, "issued", asdict(issued))

    def decide(self, number: int, ended: Ended) -> None:
        """Keep what became of a trial before it is told, so that a restart need not run it again."""
        with durable("decide"):
            study, record = self._study._study_id, asdict(ended)
            self._persist(lambda: self._storage.set_study_system_attr(study, f"{RECORD}{number}", record))

    def tell(self, number: int, ended: Ended) -> None:
        """The commit record: COMPLETE with its values, or FAIL. Twice is once."""
        with durable("tell"):
            for name in ("outcome", "reason"):  # for those who read the Optuna study; forcetune reads the record
                if told := getattr(ended, name):
                    self._note(number, name, told)
            if ended.values is None:
                self._finish(number, TrialState.FAIL)
                return
            if not ended.on_front:
                trial = self._ids[number]
                self._persist(lambda: self._storage.set_trial_system_attr(trial, OFF_FRONT, 1.0))
            self._finish(number, TrialState.COMPLETE, list(ended.values))

    def begin_archive(self, name: str) -> None:
        """Keep the name under which the study is about to be archived, so that a restart finishes that."""
        with durable("archive begun"):
            self._persist(lambda: self._storage.set_study_user_attr(self._study._study_id, ARCHIVE, name))

    def rename(self, name: str) -> None:
        """Give the study another name."""
        with durable("archived"):
            rename_study(self._study.study_name, name, self._uri)

    def _note(self, number: int, name: str, value: Any) -> None:
        self._persist(lambda: self._storage.set_trial_user_attr(self._ids[number], name, value))

    def _finish(self, number: int, state: TrialState, values: Sequence[float] | None = None) -> None:
        self._persist(lambda: self._storage.set_trial_state_values(self._ids[number], state, values))

    def _add(
        self,
        params: dict[str, Any],
        distributions: dict[str, BaseDistribution],
        state: TrialState,
        attrs: Mapping[str, Any],
    ) -> int:
        # study.ask() commits the row, each parameter and each attribute apart: a kill leaves a torn trial
        template = create_trial(state=state, params=params, distributions=distributions, user_attrs=dict(attrs))

        def create() -> tuple[int, int]:
            trial_id = self._storage.create_new_trial(self._study._study_id, template_trial=template)
            return self._storage.get_trial_number_from_id(trial_id), trial_id

        expected = max(self._ids, default=-1) + 1
        number, self._ids[number] = self._persist(create)
        if number > expected:  # written, but a broken connection kept the answer, and so written again
            self._ids = {trial.number: trial._trial_id for trial in self.trials()}
            for ghost in range(expected, number):
                self.drop(ghost)
        return number

    def _persist(self, write: Callable[[], T]) -> T:
        """Do a write that may be repeated, the study held."""
        given_up = time.monotonic() + (PATIENCE if sqlite_path(self._uri) is None else 0)
        while True:
            try:
                self.guard()
                return write()
            except optuna.exceptions.UpdateFinishedTrialError:
                return cast(T, None)  # the try before this one came through
            except (SQLAlchemyError, optuna.exceptions.StorageInternalError) as error:
                if time.monotonic() > given_up:
                    raise StoppedError(
                        f"the ledger {shown(self._uri)} does not take what is written: {why(error)}. Once it does, "
                        "the same command goes on where it was"
                    ) from None
            time.sleep(AGAIN)


def open_storage(uri: str) -> optuna.storages.BaseStorage:
    """Optuna's storage at an address, its tables made by one process at a time.

    Raises InputError where the address is none of SQLite's or PostgreSQL's.
    """
    if sqlite_path(uri) is None and not is_postgresql(uri):
        raise InputError(f"the Optuna storage {shown(uri)}: allowed: sqlite:///FILE and postgresql://HOST/DATABASE")
    with hold(SCHEMAS, uri, wait=True):
        return optuna.storages.get_storage(optuna.storages.RDBStorage(uri, engine_kwargs={"pool_pre_ping": True}))


def known(name: str, uri: str) -> bool:
    """Whether the store has a study of this name; opens none that is not there yet."""
    return _load(name, uri) is not None


def is_foreign(name: str, uri: str) -> bool:
    """Whether the store has an Optuna study of this name that another program has made."""
    found = _load(name, uri)
    return found is not None and STUDY not in found.user_attrs


def folder_of(name: str, uri: str, renamed: str | None = None) -> Path:
    """The folder of a study that the store has; renamed: the name that it will have."""
    found = _load(name, uri)
    assert found is not None
    return _folder(found, uri, renamed)


def rename_study(name: str, new: str, uri: str) -> None:
    """Give a study another name, its trials as they are; Optuna itself can only copy them one by one."""
    engine = sqlalchemy.create_engine(uri)
    statement = sqlalchemy.text("update studies set study_name = :new where study_name = :name")
    with engine.begin() as connection:
        connection.execute(statement, {"name": name, "new": new})
    engine.dispose()


def delete_study(name: str, uri: str) -> None:
    """Delete a study with all of its trials."""
    optuna.delete_study(study_name=name, storage=open_storage(uri))


def _folder(study: optuna.Study, uri: str, renamed: str | None = None) -> Path:
    """The folder of a study's running trials.

    Two ledgers may have a study of one name and share a state folder, so that an identifier follows the name; of a
    SQLite ledger its file counts too, since a copy has the same identifier. Studies of earlier versions have none, and
    keep the folder with their name.
    """
    name, identifier = renamed or study.study_name, study.user_attrs.get(STATE)
    states = state_folder(uri)
    if identifier is None:
        return states / name
    path = sqlite_path(uri)
    file = "" if path is None else path.name if path.parent / states.name == states else str(path)
    return states / f"{name}-{hashlib.sha256(f'{identifier} {file}'.encode()).hexdigest()[:8]}"


def refuse_changes(study: Study, uri: str) -> None:
    """Raise InputError where the study's trials were made by a file that differs in more than search and resources."""
    found = _load(study.study, uri)
    if found is None:
        return
    trials = found.get_trials(deepcopy=False)
    before = found.user_attrs.get(STUDY)
    now = json.loads(json.dumps(study.identity))
    if before is None and not trials and found.directions == directions(study):
        return  # a driver that was killed while it made the study
    if before is None:
        raise InputError(f"study: {shown(uri)} has an Optuna study {study.study!r} of another program; rename yours")
    if before != now and trials:
        raise InputError(
            f"study: {study.study!r} has trials of another file ({'; '.join(_differences(before, now))}). Under one "
            "name only search and resources may change: give the study another name, or archive what is there and "
            "start anew with --fresh"
        )


def recorded(name: str, uri: str) -> Study:
    """The study as its trials were made, `search` and `resources` at their defaults; no name in it is looked up.

    Raises InputError where the ledger has no such study.
    """
    found = _load(name, uri)
    if found is None or STUDY not in found.user_attrs:
        there = {} if _missing(uri) else {study.study_name: study for study in open_storage(uri).get_all_studies()}
        raise InputError(
            f"the ledger {shown(uri)} has no study {name!r} of forcetune{suggestion(name, there)}; "
            f"there are: {', '.join(sorted(there)) or 'none yet'}"
        )
    return Study.model_validate(found.user_attrs[STUDY])


def taught(study: Study, uri: str) -> dict[str, list[Lesson]]:
    """What the studies of `search.warm_start` found out, by their names.

    Raises InputError where the ledger has no such study, or its objectives are others.
    """
    found: dict[str, list[Lesson]] = {}
    for i, name in enumerate(study.search.warm_start):
        place = f"search.warm_start.{i}"
        try:
            theirs = list(recorded(name, uri).directions.items())
        except InputError as error:
            raise InputError(f"{place}: {error}") from None
        if dict(theirs) != study.directions:
            raise InputError(
                f"{place}: {name!r} searched for {_told(dict(theirs))}, this study searches for "
                f"{_told(study.directions)}; the objectives must be the same"
            )
        order = [theirs.index(objective) for objective in study.directions.items()]
        found[name] = [
            Lesson(trial.user_attrs["fields"], [trial.values[i] for i in order], is_on_front(trial))
            for trial in optuna.load_study(study_name=name, storage=open_storage(uri)).get_trials(deepcopy=False)
            if trial.state == TrialState.COMPLETE and "fields" in trial.user_attrs
        ]
    return found


def _told(objectives: Mapping[str, str]) -> str:
    return ", ".join(f"{name} {way}" for name, way in objectives.items())


def _names(proposal: Proposal) -> dict[str, Any]:
    named = {"key": proposal.key, "start": proposal.start, "of": proposal.of, "marks": dict(proposal.marks)}
    return {name: told for name, told in named.items() if told}


def trials_of(name: str, uri: str) -> list[FrozenTrial]:
    """All trials of a study, in the order of their numbers; none of one that the store does not have."""
    found = _load(name, uri)
    return _with_records(found) if found else []


def current(trials: Sequence[FrozenTrial]) -> list[FrozenTrial]:
    """Those that are in force: not a failed trial in whose place another one runs, or has run."""
    superseded = {trial.user_attrs[SUPERSEDES] for trial in trials if is_retry(trial)}
    return [trial for trial in trials if trial.number not in superseded]


def is_retry(trial: FrozenTrial) -> bool:
    """Whether a trial runs, or has run, in place of one that failed; of two such the later one was dropped."""
    return SUPERSEDES in trial.user_attrs and trial.state != TrialState.PRUNED


def counted(trials: Sequence[FrozenTrial]) -> list[FrozenTrial]:
    """Those that count towards `trials`: neither superseded, nor proposed again though known."""
    return [trial for trial in current(trials) if trial.state != TrialState.PRUNED]


def retried_at(trial: FrozenTrial) -> int | None:
    """Since when a trial runs in place of one that failed, in ms since 1970; None where it does not."""
    return trial.user_attrs.get(RETRIED) if is_retry(trial) else None


def request_retry(name: str, uri: str) -> int:
    """Note that the failed trials of a study are to be run again, by the next driver; return how many those are.

    A study that the store does not have has none.
    """
    found = _load(name, uri)
    failed = [trial.number for trial in current(found.get_trials(deepcopy=False)) if is_failed(trial)] if found else []
    if found and failed:
        found.set_user_attr(RETRY, failed)
    return len(failed)


def has_retries(name: str, uri: str) -> bool:
    """Whether failed trials of the study are still to be run again."""
    found = _load(name, uri)
    return found is not None and bool(pending_retries(found))


def pending_retries(study: optuna.Study) -> set[int]:
    """The numbers of the failed trials that are still to be run again."""
    return set(study.user_attrs.get(RETRY, []))


def is_failed(trial: FrozenTrial) -> bool:
    """Whether a trial of forcetune's failed after its retries."""
    return trial.state == TrialState.FAIL and "fields" in trial.user_attrs


def is_on_front(trial: FrozenTrial) -> bool:
    """Whether a trial may stand on the front: told, and trained to its end."""
    return trial.state == TrialState.COMPLETE and OFF_FRONT not in trial.system_attrs


def ends(trials: Iterable[FrozenTrial]) -> list[Ended]:
    """What became of those of the trials that have ended."""
    return [Ended(**trial.user_attrs["ended"]) for trial in trials if "ended" in trial.user_attrs]


def pending_archive(name: str, uri: str) -> str | None:
    """The name under which a driver that was killed began to archive the study."""
    found = _load(name, uri)
    return found.user_attrs.get(ARCHIVE) if found else None


def _with_records(study: optuna.Study) -> list[FrozenTrial]:
    """Return the study's trials, each with its record as the attribute `ended`.

    A record holds a whole curve. It is kept beside the trials, since what a trial has itself stands in each row of
    `study.trials_dataframe()`, and in Optuna Dashboard. Trials of earlier versions have it themselves.
    """
    attrs = study._storage.get_study_system_attrs(study._study_id)
    trials = []
    for trial in study.get_trials(deepcopy=False):
        if record := attrs.get(f"{RECORD}{trial.number}"):
            trial = copy(trial)  # Optuna's own is shared by all who read it
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
    except (SQLAlchemyError, optuna.exceptions.StorageInternalError) as error:
        raise InputError(f"the Optuna storage {shown(uri)} cannot be used: {why(error)}") from error


def _missing(uri: str) -> bool:
    path = sqlite_path(uri)
    return path is not None and not path.exists()


def _differences(before: Any, now: Any, place: str = "") -> list[str]:
    if isinstance(before, dict) and isinstance(now, dict):
        keys = [*before, *(key for key in now if key not in before)]
        return [
            line
            for key in keys
            for line in _differences(before.get(key), now.get(key), f"{place}.{key}" if place else key)
        ]
    return [] if before == now else [f"{place} was {json.dumps(before)}, is {json.dumps(now)}"]
