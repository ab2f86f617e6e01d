"""The state of a search: which trial to start next and what follows when one ends. Knows no Ray."""

import hashlib
import json
import math
import time
from collections import deque
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass, field, replace
from importlib.metadata import version
from pathlib import Path

import numpy as np
from optuna.trial import FrozenTrial, TrialState
from rich.console import Console

from forcetune import __version__
from forcetune.analysis import hypervolume
from forcetune.errors import StoppedError
from forcetune.search.ending import Ending, by_time, spent_by
from forcetune.search.faults import durable
from forcetune.search.hold import SCHEMAS, hold
from forcetune.search.ledger import Ended, Issued, Ledger, current, is_failed, retried_at
from forcetune.search.marking import mark_front
from forcetune.search.meter import Meter
from forcetune.search.note import note
from forcetune.search.outbox import Outbox, remove
from forcetune.search.progress import Progress
from forcetune.search.proposals import Proposal, Proposals, make_proposals
from forcetune.search.stopping import RULES, Stopping
from forcetune.search.worker import Assignment, Cause, Report
from forcetune.spec import Fixed, Study, Trial
from forcetune.stores import mlflow_uri, optuna_uri
from forcetune.tracking import Epoch, Tracker, origin_tags

REPEATS = 100  # proposals in a row that the study already has before the space counts as used up
QUIET_S = 5.0  # that MLflow may be waited for without a word
PATIENCE = 300.0  # seconds that MLflow may be away once all trials have ended
FREE_NODE_LOSSES = 10  # lost nodes of a trial that do not count towards `retries`; a trial may be what kills them


@dataclass
class Running:
    """A trial that is with a worker."""

    proposal: Proposal
    issued: Issued
    facts: Mapping[str, float] = field(default_factory=dict)  # known before training, once the worker has told
    since: float | None = None  # of this attempt, on the monotonic clock; None while no worker has it


class Driver:
    """Opens both stores and takes the study up where it is; whoever makes one holds the study.

    The order of writes: a trial in the ledger, then its run; at the end what became of it in the ledger, then its
    run, and the ledger's own word last, so that a restart finds everything that is not told and goes on with it.
    MLflow's part is left to the outbox. What a worker says counts only while its attempt is the trial's last.
    """

    def __init__(
        self,
        study: Study,
        ledger: Ledger,
        tracker: Tracker,
        mlflow_uri: str,
        folder: Path,
        progress: Progress,
        references: Mapping[str, float],
        propose: Callable[[list[FrozenTrial]], Proposals] | None = None,
    ) -> None:
        self._study = study
        self.ledger = ledger
        self.tracker = tracker
        self._mlflow_uri = mlflow_uri
        self._folder = folder
        self.progress = progress
        self.most_room = 1  # times what a trial asks for that a node can give
        self.meter = Meter()
        self.devices = 1.0  # of a trial, that device hours count: GPUs, or cores where it has no GPU
        provenance = _provenance(study)
        ledger.claim()
        with durable("parent"):
            self.parent = tracker.open_study(study.directions, provenance)
        folder.mkdir(parents=True, exist_ok=True)
        rows = ledger.trials()
        history = current(rows)
        self._proposals = propose(history) if propose else make_proposals(study, history)
        self._known: set[str] = {trial.user_attrs["key"] for trial in history if "key" in trial.user_attrs}
        self._running: dict[int, Running] = {}
        self._waiting: deque[tuple[int, Running]] = deque()
        self._used_up = False
        self._retries_given_up = False
        self._front: list[tuple[float, ...]] = []  # as its tags were last asked for
        self._count = 0
        self._stopping = Stopping(RULES.get(study.stopping), study.directions)
        self._references = references
        self._ending = Ending(study, references)
        self._began = time.monotonic()
        self._spent = spent_by([])  # by earlier drivers; device hours also by this one
        self._outbox = Outbox(tracker, self.parent, provenance, self._tell, ledger.guard)
        self._outbox.warn = progress.warn
        self._outbox.logged = lambda seconds: self.meter.logged(seconds)
        self._take_up(history)
        self._spent = spent_by(by_time(rows))
        self._clear({f"{trial.number:04d}" for trial in rows if trial.state.is_finished()})

    @property
    def _threads(self) -> int:
        """Of torch's, in each trial: its losses depend on it in their last digits."""
        return max(1, int(self._study.resources.cpus))

    @property
    def name(self) -> str:
        """Of the study."""
        return self._study.study

    @property
    def finished(self) -> bool:
        """Whether nothing runs and nothing is to be started."""
        return not self._running and not self._waiting and self._exhausted

    @property
    def running(self) -> int:
        """Trials handed out and not ended."""
        return len(self._running)

    @property
    def wanted(self) -> int:
        """Trials that could run at once, had they all the room in the world."""
        return len(self._running) + len(self._waiting) + (0 if self._exhausted else self._study.trials - self._count)

    @property
    def ending(self) -> str | None:
        """Why the search has ended before it had all its trials; None where it has not."""
        return self._ending.reason

    @property
    def hopeless(self) -> str | None:
        """Why the search was given up, since too many trials failed; None where it was not, or had all its trials."""
        is_short = self._retries_given_up or (self._count < self._study.trials and not self._used_up)
        return self._ending.failures if is_short else None

    @property
    def hours(self) -> float:
        """How long the study has been searched, by this driver and those before it."""
        return self._spent["hours"] + (time.monotonic() - self._began) / 3600

    def issue(self) -> Assignment | None:
        """The next trial to run: one that was interrupted, else a new one; None where there is none to start."""
        self._give_up_retries()
        if self._waiting:
            number, running = self._waiting.popleft()
            running.issued = replace(running.issued, attempt=running.issued.attempt + 1)
            self.ledger.issue(number, running.issued)
        else:
            began = time.monotonic()
            fresh = None if self._exhausted else self._propose()
            if fresh is None:
                return None
            running = Running(fresh, Issued())
            number = self.ledger.add(fresh)
            self.meter.asked(time.monotonic() - began)
            self._count += 1
            self._outbox.open(number, fresh, self._place(number), adopt=False)
        self._running[number] = running
        running.since = time.monotonic()
        self.progress.started(number, running.proposal.trial)
        return Assignment(
            number=number,
            fields=running.proposal.trial.fields(),
            task=self._study.task,
            attempt=running.issued.attempt,
            mlflow_uri=self._mlflow_uri,
            folder=str(Path.cwd()),
            checkpoints=str(self._place(number)),
            threads=self._threads,
            room=running.issued.room,
        )

    def report(self, number: int, attempt: int, report: Report) -> bool:
        """What a worker tells of its trial before the end; whether the trial ends here all the same, stopped early."""
        if not self._in_force(number, attempt):
            return False
        reason = self._judge(number, report)
        if reason and report.epoch:
            spent = {"train_seconds": report.metrics["train_seconds"]}
            report = replace(report, epoch=replace(report.epoch, metrics={**report.epoch.metrics, **spent}))
        self._record(number, report)
        if reason:
            metrics = {**self._running[number].facts, **_curve(report)[-1].metrics}
            self._end(number, self._outcome(Report(metrics, outcome="stopped", reason=reason)))
        return reason is not None

    def end(self, number: int, attempt: int, report: Report) -> None:
        """What a worker tells last."""
        if not self._in_force(number, attempt):
            return
        self._record(number, report)
        if report.outcome in ("collapsed", "infeasible"):  # a training loop of the user's own says nothing of these
            guessed = {name: value for name, value in self._references.items() if name not in report.metrics}
            self._outbox.add(number, guessed)
            report = replace(report, metrics={**report.metrics, **guessed})
        self._end(number, self._outcome(report))

    def lost(self, number: int, attempt: int, cause: Cause, reason: str) -> None:
        """An attempt that ended without its trial's end: another follows while the trial has retries left.

        An attempt whose node was lost is no retry, the first ten times.
        """
        if not self._in_force(number, attempt):
            return
        running = self._running[number]
        if cause == "node" and running.issued.lost_nodes < FREE_NODE_LOSSES:
            running.issued = replace(running.issued, lost_nodes=running.issued.lost_nodes + 1)
            self._hand_back(number)
            return
        lost = running.issued.lost + 1
        before = running.issued.room
        room = min(2 * before, max(self.most_room, before)) if cause == "memory" else before
        if cause == "time":
            self._end(number, Ended("failed", reason))
        elif lost > self._study.resources.retries:
            self._end(number, Ended("failed", f"{reason}; given up after {running.issued.attempt} attempts"))
        elif cause == "memory" and room == before:
            self._end(number, Ended("failed", f"{reason}; no node has more room for it"))
        else:
            running.issued = replace(running.issued, lost=lost, room=room)
            self._hand_back(number)

    def hand_back(self) -> int:
        """Take all trials from their workers, to be issued again; how many they were."""
        running = list(self._running)
        for number in running:
            self._hand_back(number)
        return len(running)

    def hand_back_one(self, number: int, attempt: int) -> None:
        """Take a trial from its worker, to be issued again."""
        if self._in_force(number, attempt):
            self._hand_back(number)

    def describe(self) -> None:
        """Show the study as it is written now in MLflow, and what it is about in both UIs."""
        told = note(self._study)
        sampled = [name for name, domain in self._study.space.items() if not isinstance(domain, Fixed)]
        self.tracker.describe(self.parent, self._study.model_dump(), self._references, told, sampled)
        self.ledger.describe(told)

    def give_up(self, reason: str) -> None:
        """End all trials that wait to be taken up again as failed, and the study with them."""
        self._used_up = True
        while self._waiting:
            number, running = self._waiting.popleft()
            self._running[number] = running
            self._end(number, Ended("failed", reason))

    def close(self, seconds: float = PATIENCE) -> None:
        """Wait until MLflow has everything; end the parent run if the study is complete.

        Raises StoppedError where MLflow does not take it in time.
        """
        left = self._outbox.drain(min(seconds, QUIET_S))
        if left and seconds > QUIET_S:
            cause = self._outbox.trouble or "it is slow"
            self.progress.warn(f"waits up to {seconds:g} s for MLflow, which lacks a part of {left} trials: {cause}")
            left = self._outbox.drain(seconds - QUIET_S)
        trouble = self._outbox.trouble
        self._outbox.close()
        if left and seconds:
            raise StoppedError(
                f"MLflow has not taken what is known of {left} trials ({trouble or 'it is slow'}); the ledger keeps "
                "it, and the same command hands it over"
            )
        if self.finished and not left:
            with durable("close"):
                self.ledger.confirm()  # the study may be another driver's by now
                self.tracker.settle(self.parent, self._failed)
                self._mark_front()
                self.tracker.close(self.parent)
            for leftover in (self._folder, self._folder.parent):
                with suppress(OSError):
                    leftover.rmdir()

    def _mark_front(self) -> None:
        """Tag the runs on the front; a study does not fail for its tags, which the doctor sets too."""
        try:
            mark_front(self.tracker)
        except Exception as error:  # MLflow's, or whatever a table of odd runs leads to
            self.progress.warn(f"the runs on the front have no tags in MLflow: {error}; `forcetune doctor` sets them")

    def _hand_back(self, number: int) -> None:
        self._count_time(self._running[number])
        self._waiting.append((number, self._running.pop(number)))
        self.progress.handed_back(number)

    def _in_force(self, number: int, attempt: int) -> bool:
        return number in self._running and self._running[number].issued.attempt == attempt

    def _record(self, number: int, report: Report) -> None:
        folder = self._place(number)
        if report.opening or report.trace:
            self.ledger.confirm()  # files are written at once, and the folder may be another driver's by now
        if report.opening:
            opening = report.opening
            self._outbox.attach(number, "masks.npz", opening.masks, folder)
            self._outbox.attach(number, "layers.json", json.dumps(opening.layers, indent=1).encode(), folder)
            attempt = self._running[number].issued.attempt
            tags = {
                "forcetune.device": opening.device,
                "forcetune.devices": f"{self.devices:g}",
                "forcetune.threads": str(self._threads),
                "forcetune.attempt": str(attempt),
            }
            self._outbox.add(number, opening.facts, opening.curve, tags)
            if opening.dataset:
                self._outbox.add_dataset(number, asdict(opening.dataset))
        if report.trace:
            self._outbox.attach(number, "error.json", json.dumps(report.trace, indent=1).encode(), folder)
        if report.epoch:
            self._outbox.add(number, epochs=[report.epoch])
        told = _curve(report)
        self.progress.reported(number, told[-1].step if told else 0)

    def _judge(self, number: int, report: Report) -> str | None:
        """Why the trial is to be stopped after the last epoch that is told; it passed earlier rungs before."""
        running, reason = self._running[number], None
        if report.opening:
            running.facts = report.opening.facts
        for epoch in _curve(report):
            reason = self._stopping.judge(
                number, running.proposal.trial, epoch.step, {**running.facts, **epoch.metrics}
            )
        return reason

    def _outcome(self, report: Report) -> Ended:
        """What became of a trial by its last report; one whose objectives are not finite numbers has failed."""
        assert report.outcome is not None
        if report.outcome == "failed":
            return Ended("failed", report.reason)
        known = report.metrics
        if missing := [name for name in self._study.objectives if name not in known]:
            return Ended("failed", f"the trial reports no {missing[0]}, an objective; it reports {', '.join(known)}")
        values = [float(known[name]) for name in self._study.objectives]
        for name, value in zip(self._study.objectives, values, strict=True):
            if not math.isfinite(value):
                return Ended("failed", f"the objective {name} became {value}")
        return Ended(report.outcome, report.reason, values)

    def _end(self, number: int, ended: Ended) -> None:
        running = self._running[number]
        self._count_time(running)
        spent = {"hours": self.hours, "device_hours": self._spent["device_hours"]}
        record = {**self._outbox.measured(number), "spent": spent}
        ended = replace(ended, time=int(time.time() * 1000), record=record)
        self.ledger.decide(number, ended)
        del self._running[number]
        self._outbox.end(number, ended)
        self._proposals.tell(running.proposal, ended.values, ended.on_front)
        self._ending.ended(ended)
        self.progress.ended(number, running.proposal.trial, ended)
        self._show(number, ended)
        self._give_up_retries()

    def _give_up_retries(self) -> None:
        """End the failed trials that were still to be run again as failed, where no further trial is started."""
        reason = self._why_over
        retried = {number for number, running in self._waiting if not running.issued.attempt}
        if reason is None or not retried:
            return
        waiting = list(self._waiting)
        self._waiting = deque((number, running) for number, running in waiting if number not in retried)
        self._retries_given_up = True
        for number, running in waiting:
            if number in retried:
                self._running[number] = running
                self._end(number, Ended("failed", f"it was not run again, since the search ended before: {reason}"))

    def _failed(self) -> dict[str, bool]:
        """Whether each trial that has ended has failed, by its key."""
        ended = [trial for trial in current(self.ledger.trials()) if trial.state.is_finished()]
        return {trial.user_attrs["key"]: is_failed(trial) for trial in ended if "fields" in trial.user_attrs}

    def _show(self, number: int, ended: Ended) -> None:
        """How far the study is after a trial, to MLflow and to whoever watches."""
        front, volume = self.progress.front, None
        if set(self._study.objectives) <= self._references.keys():
            volume = hypervolume(np.array(front), self._study.directions, self._references) if front else 0.0
        known = {
            "trials_done": self.progress.done,
            "front": len(front),
            "hypervolume": volume,
            "device_hours": self._spent["device_hours"],
        }
        told = {name: float(value) for name, value in known.items() if value is not None}
        self._outbox.show(Epoch(self.progress.done, ended.time or 0, told))
        if front != self._front:  # else its tags stay as they are
            self._front = front
            self._outbox.mark_front(number)
        self.meter.ended(ended.outcome)
        self.meter.stands(self._outbox.waiting, volume)

    def _count_time(self, running: Running) -> None:
        """Add an attempt that is over to what the study has cost."""
        if running.since is not None:
            self._spent["device_hours"] += self.devices * (time.monotonic() - running.since) / 3600
            running.since = None

    def _tell(self, number: int, ended: Ended) -> None:
        """The outbox's last call for a trial: MLflow has it all."""
        self.ledger.tell(number, ended)
        remove(self._place(number))

    def _place(self, number: int) -> Path:
        return self._folder / f"{number:04d}"

    def _take_up(self, history: list[FrozenTrial]) -> None:
        """Count the trials of earlier drivers; deliver those whose end is known, and let the others wait to be run."""
        seen: set[str] = set()
        for trial in history:
            if trial.state == TrialState.PRUNED or "fields" not in trial.user_attrs:
                continue
            key = trial.user_attrs["key"]
            if key in seen:  # written, but a broken connection kept the answer, and so written again
                self.ledger.drop(trial.number)
                continue
            seen.add(key)
            self._count += 1
            self._take_up_one(trial)
        self._ending.take_up(by_time(history))

    def _clear(self, finished: set[str]) -> None:
        """Remove the folders of trials that an earlier driver finished, and was killed before it removed them."""
        for folder in self._folder.iterdir():
            if folder.name in finished:
                remove(folder)

    def _take_up_one(self, trial: FrozenTrial) -> None:
        attrs = trial.user_attrs
        proposal = Proposal(
            Trial(**attrs["fields"]),
            trial.params,
            trial.distributions,
            of=attrs.get("of"),
            marks=attrs.get("marks", {}),
        )
        ended = Ended(**attrs["ended"]) if "ended" in attrs else None
        if not trial.state.is_finished():
            place = self._place(trial.number)
            self._outbox.open(trial.number, proposal, place, adopt=True, retried=retried_at(trial))
            if ended:
                curve = [Epoch(*told) for told in ended.record["curve"]]
                self._outbox.add(trial.number, ended.record["facts"], curve)
                self._outbox.add_dataset(trial.number, ended.record.get("dataset"))
                self._outbox.end(trial.number, ended)
                self._proposals.tell(proposal, ended.values, ended.on_front)
        if ended:
            self.progress.known(proposal.trial, ended)
            for step, _, metrics in ended.record.get("curve", []):
                self._stopping.see(trial.number, proposal.trial, step, {**ended.record["facts"], **metrics})
        else:
            self._waiting.append((trial.number, Running(proposal, Issued(**attrs.get("issued", {})))))

    @property
    def _exhausted(self) -> bool:
        return self._used_up or self._count >= self._study.trials or self._why_over is not None

    @property
    def _why_over(self) -> str | None:
        """Why no further trial is started though the study has not all of them: its budget, patience, or failures."""
        self._ending.spent(self.hours, self._spent["device_hours"])
        return self._ending.reason or self._ending.failures

    def _propose(self) -> Proposal | None:
        for _ in range(REPEATS):
            proposal = self._proposals.ask()
            if proposal is None:
                break
            if proposal.key not in self._known:
                self._known.add(proposal.key)
                return proposal
            self.ledger.add_known(proposal)
            self._proposals.tell(proposal, None)
        self._used_up = True
        return None


def open_driver(
    study: Study,
    check: Callable[[], None],
    console: Console,
    experiment: str | None = None,
    references: Mapping[str, float] | None = None,
    propose: Callable[[list[FrozenTrial]], Proposals] | None = None,
) -> Driver:
    """The driver of a study on the stores of the environment; its MLflow experiment may go by another name.

    references: of the hypervolume, by objective; propose: from the trials that are there to what proposes the next,
    the study's own sampler where it is not given.
    """
    uri = optuna_uri()
    with hold(SCHEMAS, uri, wait=True), durable("tables"):
        tracker = Tracker(experiment or study.study, mlflow_uri())
    with durable("ledger"):
        ledger = Ledger(study, uri, check)
    if count := ledger.retry():
        console.print(f"{count} failed trials are run again", soft_wrap=True, highlight=False)
    progress = Progress(study, console)
    return Driver(study, ledger, tracker, mlflow_uri(), ledger.folder, progress, references or {}, propose)


def _curve(report: Report) -> list[Epoch]:
    """The epochs that a report tells of, those of earlier attempts first."""
    return [*(report.opening.curve if report.opening else []), *([report.epoch] if report.epoch else [])]


def _provenance(study: Study) -> dict[str, str]:
    digest = hashlib.sha256(json.dumps(study.identity, sort_keys=True).encode()).hexdigest()[:16]
    packages = {f"forcetune.{name}": version(name) for name in ("torch", "ray", "optuna")}
    return {"forcetune.version": __version__, "forcetune.digest": digest, **packages, **origin_tags()}
