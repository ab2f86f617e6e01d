"""What happened on its way to MLflow: in the background, in order, tried again until MLflow has it."""

import logging
import shutil
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from forcetune.search.faults import durable
from forcetune.search.ledger import Ended
from forcetune.search.marking import mark_front
from forcetune.search.proposals import Proposal
from forcetune.search.rewriting import RunContent, write_anew
from forcetune.tracking import Epoch, Logged, Tracker

log = logging.getLogger(__name__)

SHOWN = 5.0  # seconds between two looks that MLflow gets at how far the study is
AGAIN = 1.0  # seconds before what MLflow did not take is tried again


@dataclass
class Record:
    """One trial as MLflow shall have it, and how much of it MLflow has."""

    number: int
    proposal: Proposal
    started: int  # ms since 1970
    adopt: bool  # whether an earlier driver may have made its run
    retried: int | None = None  # since when it runs in place of one that failed, whose run goes on; ms since 1970
    facts: dict[str, float] = field(default_factory=dict)
    curve: dict[int, Epoch] = field(default_factory=dict)
    tags: dict[str, str] = field(default_factory=dict)
    files: dict[str, Path] = field(default_factory=dict)
    dataset: Mapping[str, Any] | None = None  # which data it has
    sent_dataset: Mapping[str, Any] | None = None
    ended: Ended | None = None
    version: int = 0  # of what is known, so that a delivery sees whether there is more by now
    run: str | None = None
    refused: set[str] = field(default_factory=set)  # names that MLflow does not take; the ledger alone has their values
    before: Logged = field(default_factory=Logged)  # what the run had when this driver took it up
    has_params: bool = False
    sent_facts: set[str] = field(default_factory=set)
    last_step: int = -1  # the last epoch that was sent by this driver


class Outbox:
    """Delivers records in a thread of its own; nothing that it does delays who hands them in.

    The ledger and the trials' folders hold all that is on its way: a driver that starts after a kill fills its
    outbox from there. When a trial has ended and its run is closed, `tell` is called: the ledger's last word.
    `guard` is called before a delivery, and raises where another driver has the study.
    """

    def __init__(
        self,
        tracker: Tracker,
        parent: str,
        provenance: Mapping[str, str],
        tell: Callable[[int, Ended], None],
        guard: Callable[[], None],
    ) -> None:
        self._tracker = tracker
        self._parent = parent
        self._provenance = provenance
        self._tell = tell
        self._guard = guard
        self._records: dict[int, Record] = {}
        self._due: deque[int] = deque()
        self._change = threading.Condition()
        self._closing = False
        self._thread: threading.Thread | None = None
        self._standing: Epoch | None = None
        self._unmarked: set[int] = set()  # trials that may have moved the front since it was marked
        self._shown = -SHOWN
        self._refused: set[str] = set()
        self.warn: Callable[[str], None] = log.warning  # is told what the user should know at once
        self.trouble: Exception | None = None  # why the last delivery failed
        self.logged: Callable[[float], None] = lambda seconds: None  # told how long a delivery took

    def open(self, number: int, proposal: Proposal, folder: Path, adopt: bool, retried: int | None = None) -> None:
        """A trial that has begun, or begins again; the files in its folder are those not known to be in MLflow.

        retried: since when it runs in place of one that failed, in ms since 1970; None where no other one did.
        """
        record = Record(number, proposal, int(time.time() * 1000), adopt, retried)
        marks = {**({"of": proposal.of} if proposal.of else {}), **proposal.marks}
        record.tags = {f"forcetune.{name}": text for name, text in marks.items()}
        record.files = {path.name: path for path in folder.glob("*.*") if path.is_file()}
        with self._change:
            self._records[number] = record
        self._put(number)

    def add(
        self,
        number: int,
        facts: Mapping[str, float] | None = None,
        epochs: list[Epoch] | None = None,
        tags: Mapping[str, str] | None = None,
    ) -> None:
        """What is new about a trial; an epoch or a fact that is there already stays as it is.

        What was sent and not answered is sent again: MLflow takes equal values for one, of two attempts it keeps both.
        """
        with self._change:
            record = self._records[number]
            record.facts = {**(facts or {}), **record.facts}
            record.tags.update(tags or {})
            for epoch in epochs or []:
                record.curve.setdefault(epoch.step, epoch)
        self._put(number)

    def add_dataset(self, number: int, dataset: Mapping[str, Any] | None) -> None:
        """Take in which data a trial has, as `Tracker.log_dataset` takes it; None where that is not known."""
        with self._change:
            self._records[number].dataset = dataset
        self._put(number)

    def attach(self, number: int, name: str, content: bytes, folder: Path) -> None:
        """A file of the trial, kept in its folder until MLflow has it."""
        with durable("files"):
            folder.mkdir(parents=True, exist_ok=True)
            part = folder / f"{name}~"
            part.write_bytes(content)
            part.replace(folder / name)
        with self._change:
            self._records[number].files[name] = folder / name

    def end(self, number: int, ended: Ended) -> None:
        """What became of a trial."""
        with self._change:
            self._records[number].ended = ended
        self._put(number)

    def show(self, standing: Epoch) -> None:
        """How far the study is, for the parent run; the step is the number of trials that have ended.

        Told at times, and at last, but no promise, since it can be counted anew.
        """
        with self._change:
            self._standing = standing
            self._start()
            self._change.notify_all()

    def mark_front(self, number: int) -> None:
        """Mark the study's front anew in MLflow once the trial with this number, which may be on it, is there.

        Done at times, and no promise: the driver does so once more at the end of the study.
        """
        with self._change:
            self._unmarked.add(number)

    def measured(self, number: int) -> dict[str, Any]:
        """What was measured of a trial, as data that JSON knows: the facts known before training, and the curve."""
        with self._change:
            record = self._records[number]
            dataset = {"dataset": dict(record.dataset)} if record.dataset else {}
            curve = [epoch.plain() for _, epoch in sorted(record.curve.items())]
            return {"facts": dict(record.facts), "curve": curve, **dataset}

    @property
    def waiting(self) -> int:
        """Trials of which MLflow lacks something."""
        return len(self._due)

    def drain(self, seconds: float) -> int:
        """Wait until MLflow has everything, at most so long; how many trials it still lacks something of."""
        with self._change:
            self._change.wait_for(lambda: not self._due, timeout=seconds)
            left = len(self._due)
        if not left:
            self._show_standing()
        return left

    def close(self) -> None:
        """Stop delivering."""
        with self._change:
            self._closing = True
            self._change.notify_all()
        if self._thread:
            self._thread.join(timeout=1)

    def _put(self, number: int) -> None:
        with self._change:
            self._records[number].version += 1
            if number not in self._due:
                self._due.append(number)
            self._start()
            self._change.notify_all()

    def _start(self) -> None:
        if self._thread is None:
            self._thread = threading.Thread(target=self._work, name="outbox", daemon=True)
            self._thread.start()

    def _work(self) -> None:
        while True:
            with self._change:
                self._change.wait_for(lambda: self._due or self._closing)
                if self._closing:
                    return
            self._deliver_next()
            if time.monotonic() > self._shown + SHOWN:
                self._show_standing()

    def _show_standing(self) -> None:
        with self._change:
            standing, self._standing = self._standing, None
            self._shown = time.monotonic()
        if standing:
            try:
                self._guard()
                self._tracker.log(self._parent, [standing])
            except Exception as error:  # the next one tells more
                log.debug("how far the study is, is not in MLflow: %s", error)
        self._mark_front()

    def _mark_front(self) -> None:
        """Mark the front once MLflow has all trials that may have moved it."""
        with self._change:
            due = set() if self._unmarked & self._records.keys() else self._unmarked
            self._unmarked = self._unmarked - due
        if not due:
            return
        try:
            self._guard()
            mark_front(self._tracker)
        except Exception as error:  # it is tried again
            log.debug("the front is not marked in MLflow: %s", error)
            with self._change:
                self._unmarked |= due

    def _deliver_next(self) -> None:
        """Try to bring the first of what is due to where it is known; what fails goes to the end of the line."""
        with self._change:
            number = self._due[0]
            record = self._records[number]
            version, ended = record.version, record.ended
        began = time.monotonic()
        try:
            self._guard()
            self._deliver(record, ended)
            self.logged(time.monotonic() - began)
            failed = None
        except Exception as error:  # a dead server, a full disk: whatever it is, the record is kept
            failed = error
            self._restore_deleted(record, error)
        with self._change:
            self.trouble = failed
            self._due.remove(number)
            if failed or record.version > version:
                self._due.append(number)
            elif ended:
                del self._records[number]
            self._change.notify_all()
            if failed:
                log.debug("trial %d is not in MLflow yet: %s", number, failed)
                self._change.wait_for(lambda: self._closing, timeout=AGAIN)

    def _restore_deleted(self, record: Record, error: Exception) -> None:
        """Restore a run that somebody has deleted in MLflow: nothing more could be written about its trial."""
        with suppress(Exception):  # MLflow does not answer, which is what failed then
            if self._tracker.restore_deleted(record.run, error):
                self.warn(
                    f"the run of trial {record.number}, or the study's experiment, was deleted in MLflow while the "
                    "study runs; it is restored, since the trial could not be written otherwise"
                )

    def _deliver(self, record: Record, ended: Ended | None) -> None:
        if record.run is None:
            self._open(record)
        self._log(record, ended)
        if record.dataset and record.dataset is not record.sent_dataset:
            self._tracker.log_dataset(self._run(record), record.dataset)
            record.sent_dataset = record.dataset
        for name, path in list(record.files.items()):
            with durable("artifact"):
                self._tracker.log_file(self._run(record), path)
            del record.files[name]
        if ended:
            self._end(record, ended)

    def _open(self, record: Record) -> None:
        key = record.proposal.key
        found = self._tracker.find_trial(key) if record.adopt else None
        record.adopt = True  # should this fail, the run may have been made all the same
        if found:
            if record.retried:
                self._tracker.reopen_failed(found)
            record.before = self._tracker.logged(found, record.retried)
            record.has_params = bool(record.before.params)
            record.sent_facts = {name for name, _ in record.before.points}
        else:
            with durable("run record"):
                found = self._tracker.open_trial(self._parent, record.number, key, self._provenance, record.started)
        record.run = found

    def _log(self, record: Record, ended: Ended | None) -> None:
        with self._change:
            params = {} if record.has_params else record.proposal.trial.fields()
            known = record.sent_facts | record.refused
            facts = {name: value for name, value in record.facts.items() if name not in known}
            unsent = [epoch for step, epoch in sorted(record.curve.items()) if step > record.last_step]
            epochs = [lacking for epoch in unsent if (lacking := self._lacking(record, epoch)).metrics]
            tags, record.tags = {**record.tags, **_outcome(ended)}, {}
        if not (params or facts or epochs or tags):
            return
        told = [*([Epoch(0, record.started, facts)] if facts else []), *epochs]
        try:
            with durable("log"):
                refused = self._tracker.log(self._run(record), told, params, tags)
        except Exception:
            with self._change:
                record.tags = {**tags, **record.tags}
            raise
        self._set_apart(record, refused)
        record.has_params = True
        record.sent_facts |= {*facts}
        record.last_step = unsent[-1].step if unsent else record.last_step

    def _lacking(self, record: Record, epoch: Epoch) -> Epoch:
        """The part of an epoch that is still to be sent."""
        taken = {name: value for name, value in epoch.metrics.items() if name not in record.refused}
        return record.before.lacks(replace(epoch, metrics=taken))

    def _set_apart(self, record: Record, refused: Mapping[str, str]) -> None:
        record.refused |= refused.keys()
        for name in refused.keys() - self._refused:
            self._refused.add(name)
            self.warn(
                f"MLflow does not take {name[:60]!r} of trial {record.number}, nor of any other: "
                f"{refused[name][:200]}. The ledger alone keeps it; all else is delivered"
            )

    def _end(self, record: Record, ended: Ended) -> None:
        if ended.outcome != "failed" and max(record.curve, default=0) < record.before.overtaken:
            content = RunContent(record.number, record.proposal.key, record.proposal.trial.fields(), ended)
            record.run = write_anew(self._tracker, self._parent, content, [self._run(record)])
        with durable("end"):
            self._tracker.close(self._run(record), ended.outcome == "failed", ended.time)
        self._tell(record.number, ended)

    def _run(self, record: Record) -> str:
        assert record.run is not None
        return record.run


def _outcome(ended: Ended | None) -> dict[str, str]:
    """What became of a trial, as tags of its run."""
    if ended is None:
        return {}
    return {"forcetune.outcome": ended.outcome, **({"forcetune.reason": ended.reason} if ended.reason else {})}


def remove(folder: Path) -> None:
    """Take away the folder of a trial that is told."""
    with durable("clean"):
        shutil.rmtree(folder, ignore_errors=True)
