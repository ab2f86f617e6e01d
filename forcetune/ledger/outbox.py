"""The delivery of trials to MLflow: in the background, in order, repeated until MLflow has everything."""

import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from forcetune.ledger.fail_points import durable
from forcetune.ledger.messages import Proposal, TrialOutcome
from forcetune.ledger.rewriting import RunContent, write_anew
from forcetune.names import NETWORK_FILE
from forcetune.state_files import list_folder, make_folder, on_disk, remove_folder, write_whole
from forcetune.tracking import KEPT_BY_SEARCH, Epoch, LoggedContent, Tracker

log = logging.getLogger(__name__)

PROGRESS_INTERVAL_S = 5.0  # between two updates of the study's progress in MLflow
DELIVERY_RETRY_PAUSE_S = 1.0  # after a delivery that failed


@dataclass
class Record:
    """One trial: the content that its run in MLflow should have, and how much of it MLflow has."""

    number: int
    proposal: Proposal
    started: int  # ms since 1970
    adopt: bool  # whether its run may be there already
    retried_at: int | None = None  # since when it runs in place of a failed trial, whose run goes on; ms since 1970
    static_metrics: dict[str, float] = field(default_factory=dict)
    curve: dict[int, Epoch] = field(default_factory=dict)
    tags: dict[str, str] = field(default_factory=dict)
    files: dict[str, Path] = field(default_factory=dict)
    dataset: Mapping[str, Any] | None = None  # the identity of its data set
    sent_dataset: Mapping[str, Any] | None = None
    outcome: TrialOutcome | None = None
    version: int = 0  # counts changes, so that a delivery sees whether there is more by now
    run: str | None = None
    refused_names: set[str] = field(default_factory=set)  # that MLflow does not take; only the ledger has their values
    logged_before: LoggedContent = field(default_factory=LoggedContent)  # the run's content when this driver took it up
    has_params: bool = False
    sent_static_metrics: set[str] = field(default_factory=set)
    last_step: int = -1  # the last epoch that this driver has sent


class Outbox:
    """The queue of records that a thread of its own delivers to MLflow, so that no delivery delays the driver.

    The ledger and the trials' folders have everything that is not delivered yet: a driver that starts after a kill
    fills its outbox from them.

    Args:
        tracker: The tracker of the study's experiment.
        parent: The id of the study's parent run.
        provenance: The tags with the versions and the origin that each new run gets.
        tell: Called with a trial's number and outcome once its run is closed; finishes the trial in the ledger.
        guard: Called before each delivery; raises HeldError where another driver has the study.
        mark: Called with the tracker; tags the runs that are on the study's front.

    Attributes:
        warn: Called with a text that the user should see at once.
        last_error: Why the last delivery failed; None where it did not.
        on_delivered: Called with the seconds that a delivery took.
    """

    def __init__(
        self,
        tracker: Tracker,
        parent: str,
        provenance: Mapping[str, str],
        tell: Callable[[int, TrialOutcome], None],
        guard: Callable[[], None],
        mark: Callable[[Tracker], None],
    ) -> None:
        self._tracker = tracker
        self._parent = parent
        self._provenance = provenance
        self._tell = tell
        self._guard = guard
        self._mark = mark
        self._records: dict[int, Record] = {}
        self._queue: deque[int] = deque()
        self._changed = threading.Condition()
        self._closing = False
        self._thread: threading.Thread | None = None
        self._study_progress: Epoch | None = None
        self._front_candidates: set[int] = set()  # numbers of trials that may have moved the front since it was marked
        self._last_shown = -PROGRESS_INTERVAL_S
        self._refused_names: set[str] = set()
        self.warn: Callable[[str], None] = log.warning
        self.last_error: Exception | None = None
        self.on_delivered: Callable[[float], None] = lambda seconds: None

    def open(self, number: int, proposal: Proposal, folder: Path, adopt: bool, retried_at: int | None = None) -> None:
        """Add a trial that has begun, or begins again.

        Args:
            number: The trial's number.
            proposal: The trial's configuration.
            folder: The trial's folder; the files in it may not be in MLflow yet.
            adopt: Whether an earlier driver may have made the trial's run, which goes on then.
            retried_at: Since when the trial runs in place of a failed one, in ms since 1970; None where it does not.
        """
        record = Record(number, proposal, int(time.time() * 1000), adopt, retried_at)
        tags = {**({"of": proposal.parent_key} if proposal.parent_key else {}), **proposal.tags}
        record.tags = {f"forcetune.{name}": value for name, value in tags.items()}
        record.files = {path.name: path for path in list_folder(folder) if "." in path.name}  # attempts have folders
        with self._changed:
            self._records[number] = record
        self._enqueue(number)

    def add(
        self,
        number: int,
        static_metrics: Mapping[str, float] | None = None,
        epochs: list[Epoch] | None = None,
        tags: Mapping[str, str] | None = None,
    ) -> None:
        """Add new content to a trial; an epoch or a static metric that it has already stays as it is.

        A request without an answer is sent again. MLflow keeps equal values once, but it keeps both values where those
        of two attempts differ: hence the first value stays.

        Args:
            number: The trial's number.
            static_metrics: The metrics that are known before training, by name.
            epochs: The epochs with their metrics.
            tags: Tags of the run.
        """
        with self._changed:
            record = self._records[number]
            record.static_metrics = {**(static_metrics or {}), **record.static_metrics}
            record.tags.update(tags or {})
            for epoch in epochs or []:
                record.curve.setdefault(epoch.step, epoch)
        self._enqueue(number)

    def add_dataset(self, number: int, dataset: Mapping[str, Any] | None) -> None:
        """Add the identity of a trial's data set.

        Args:
            number: The trial's number.
            dataset: The identity, as `Tracker.log_dataset` takes it; None where it is not known.
        """
        with self._changed:
            self._records[number].dataset = dataset
        self._enqueue(number)

    def attach(self, number: int, name: str, content: bytes, folder: Path) -> None:
        """Add a file to a trial, and keep it in the trial's folder until MLflow has it.

        Args:
            number: The trial's number.
            name: The name of the file.
            content: The content of the file.
            folder: The trial's folder.
        """
        with durable("files"):
            make_folder(folder)
            write_whole(folder / name, content)
        with self._changed:
            self._records[number].files[name] = folder / name

    def end(self, number: int, outcome: TrialOutcome) -> None:
        """Add the outcome of a trial: once MLflow has everything, its run is closed and the ledger finishes it."""
        with self._changed:
            self._records[number].outcome = outcome
        self._enqueue(number)

    def show_progress(self, progress: Epoch) -> None:
        """Set the study's progress, which is logged to its parent run at intervals and at the end.

        A value may be lost, since the progress can be counted again.

        Args:
            progress: The metrics; the step is the number of trials that have ended.
        """
        with self._changed:
            self._study_progress = progress
            self._start()
            self._changed.notify_all()

    def mark_front(self, number: int) -> None:
        """Mark the study's front again in MLflow once MLflow has the trial with this number, which may be on it.

        The front is marked at intervals, and a mark may be lost: the driver marks it again at the end of the study.
        """
        with self._changed:
            self._front_candidates.add(number)

    def collect_measurements(self, number: int) -> dict[str, Any]:
        """Return the measurements of a trial as JSON data: the static metrics, the curve, and the data set if known."""
        with self._changed:
            record = self._records[number]
            dataset = {"dataset": dict(record.dataset)} if record.dataset else {}
            curve = [epoch.plain() for _, epoch in sorted(record.curve.items())]
            return {"facts": dict(record.static_metrics), "curve": curve, **dataset}

    @property
    def waiting(self) -> int:
        """The number of trials of which MLflow lacks something."""
        return len(self._queue)

    def drain(self, seconds: float) -> int:
        """Wait until MLflow has everything.

        Args:
            seconds: The longest wait.

        Returns:
            The number of trials of which MLflow still lacks something.
        """
        with self._changed:
            self._changed.wait_for(lambda: not self._queue, timeout=seconds)
            undelivered = len(self._queue)
        if not undelivered:
            self._send_progress()
        return undelivered

    def close(self) -> None:
        """Stop delivering."""
        with self._changed:
            self._closing = True
            self._changed.notify_all()
        if self._thread:
            self._thread.join(timeout=1)

    def _enqueue(self, number: int) -> None:
        with self._changed:
            self._records[number].version += 1
            if number not in self._queue:
                self._queue.append(number)
            self._start()
            self._changed.notify_all()

    def _start(self) -> None:
        if self._thread is None:
            self._thread = threading.Thread(target=self._work, name="outbox", daemon=True)
            self._thread.start()

    def _work(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._queue or self._closing)
                if self._closing:
                    return
            self._deliver_next()
            if time.monotonic() > self._last_shown + PROGRESS_INTERVAL_S:
                self._send_progress()

    def _send_progress(self) -> None:
        with self._changed:
            progress, self._study_progress = self._study_progress, None
            self._last_shown = time.monotonic()
        if progress:
            try:
                self._guard()
                self._tracker.log(self._parent, [progress])
            except Exception as error:  # the next progress supersedes this one
                log.debug("the study's progress was not logged to MLflow: %s", error)
        self._mark_front()

    def _mark_front(self) -> None:
        """Mark the front once MLflow has all trials that may have moved it."""
        with self._changed:
            candidates = set() if self._front_candidates & self._records.keys() else self._front_candidates
            self._front_candidates = self._front_candidates - candidates
        if not candidates:
            return
        try:
            self._guard()
            self._mark(self._tracker)
        except Exception as error:  # it is tried again
            log.debug("the front was not marked in MLflow: %s", error)
            with self._changed:
                self._front_candidates |= candidates

    def _deliver_next(self) -> None:
        """Try to deliver the first record of the queue. A record that fails, or has changed, moves to the end."""
        with self._changed:
            number = self._queue[0]
            record = self._records[number]
            version, outcome = record.version, record.outcome
        started = time.monotonic()
        try:
            self._guard()
            self._deliver(record, outcome)
            self.on_delivered(time.monotonic() - started)
            failure = None
        except Exception as error:  # a dead server, a full disk: the record is kept, whatever it is
            failure = error
            self._restore_deleted(record, error)
        with self._changed:
            self.last_error = failure
            self._queue.remove(number)
            if failure or record.version > version:
                self._queue.append(number)
            elif outcome:
                del self._records[number]
            self._changed.notify_all()
            if failure:
                log.debug("trial %d is not in MLflow yet: %s", number, failure)
                self._changed.wait_for(lambda: self._closing, timeout=DELIVERY_RETRY_PAUSE_S)

    def _restore_deleted(self, record: Record, error: Exception) -> None:
        """Restore a run that somebody has deleted in MLflow, since nothing more could be written to it."""
        with suppress(Exception):  # where MLflow does not answer, that is why the delivery failed
            if self._tracker.restore_deleted(record.run, error):
                self.warn(
                    f"the run of trial {record.number} or the study's experiment was deleted in MLflow during the "
                    "search; it was restored so that the trial can be written"
                )

    def _deliver(self, record: Record, outcome: TrialOutcome | None) -> None:
        if record.run is None:
            self._open(record)
        self._log(record, outcome)
        if record.dataset and record.dataset is not record.sent_dataset:
            self._tracker.log_dataset(self._run_id(record), record.dataset)
            record.sent_dataset = record.dataset
        for name, path in list(record.files.items()):
            if name == NETWORK_FILE:  # the tag comes first, so that no weights are in MLflow without it
                self._tracker.tag_weights(self._run_id(record), KEPT_BY_SEARCH)
            with durable("artifact"), on_disk(path) as local_path:
                self._tracker.log_file(self._run_id(record), local_path)
            with self._changed:
                if record.files[name] is path:  # else it was replaced meanwhile
                    del record.files[name]
        if outcome:
            self._end(record, outcome)

    def _open(self, record: Record) -> None:
        key = record.proposal.key
        run = self._tracker.find_trial(key) if record.adopt else None
        record.adopt = True  # if this fails, the run may have been made all the same
        if run:
            if record.retried_at:
                self._tracker.reopen_failed(run)
            record.logged_before = self._tracker.read_logged(run, record.retried_at)
            record.has_params = bool(record.logged_before.params)
            record.sent_static_metrics = {name for name, _ in record.logged_before.points}
        else:
            with durable("run record"):
                run = self._tracker.open_trial(self._parent, record.number, key, self._provenance, record.started)
        record.run = run

    def _log(self, record: Record, outcome: TrialOutcome | None) -> None:
        with self._changed:
            params = {} if record.has_params else record.proposal.trial.fields()
            settled_names = record.sent_static_metrics | record.refused_names
            static_metrics = {name: value for name, value in record.static_metrics.items() if name not in settled_names}
            unsent = [epoch for step, epoch in sorted(record.curve.items()) if step > record.last_step]
            epochs = [unsent_epoch for epoch in unsent if (unsent_epoch := self._select_unsent(record, epoch)).metrics]
            tags, record.tags = {**record.tags, **(outcome.tags if outcome else {})}, {}
        if not (params or static_metrics or epochs or tags):
            return
        batch = [*([Epoch(0, record.started, static_metrics)] if static_metrics else []), *epochs]
        try:
            with durable("log"):
                reasons = self._tracker.log(self._run_id(record), batch, params, tags)
        except Exception:
            with self._changed:
                record.tags = {**tags, **record.tags}
            raise
        self._note_refused(record, reasons)
        record.has_params = True
        record.sent_static_metrics |= {*static_metrics}
        record.last_step = unsent[-1].step if unsent else record.last_step

    def _select_unsent(self, record: Record, epoch: Epoch) -> Epoch:
        """Return an epoch with those of its metrics that are still to be sent."""
        metrics = {name: value for name, value in epoch.metrics.items() if name not in record.refused_names}
        return record.logged_before.select_missing(replace(epoch, metrics=metrics))

    def _note_refused(self, record: Record, reasons: Mapping[str, str]) -> None:
        record.refused_names |= reasons.keys()
        for name in reasons.keys() - self._refused_names:
            self._refused_names.add(name)
            self.warn(
                f"MLflow refuses {name[:60]!r} of trial {record.number} and of every other trial: "
                f"{reasons[name][:200]}. Only the ledger keeps it; everything else is delivered"
            )

    def _end(self, record: Record, outcome: TrialOutcome) -> None:
        if outcome.outcome != "failed" and max(record.curve, default=0) < record.logged_before.max_step:
            content = RunContent(record.number, record.proposal.key, record.proposal.trial.fields(), outcome)
            record.run = write_anew(self._tracker, self._parent, content, [self._run_id(record)])
        with durable("end"):
            self._tracker.close(self._run_id(record), outcome.outcome == "failed", outcome.time)
        self._tell(record.number, outcome)

    def _run_id(self, record: Record) -> str:
        assert record.run is not None
        return record.run


def remove_trial_folder(folder: Path) -> None:
    """Remove the folder of a trial that the ledger has finished."""
    with durable("clean"):
        remove_folder(folder)
