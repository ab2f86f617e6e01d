"""The state of a search, without Ray: which trial starts next, and what follows when a trial ends."""

import hashlib
import json
import time
from collections import deque
from collections.abc import Callable, Collection, Mapping
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path

import numpy as np
from optuna.trial import FrozenTrial, TrialState
from rich.console import Console

from forcetune import __version__
from forcetune.analysis import hypervolume
from forcetune.errors import StoppedError
from forcetune.ledger.driver_lock import SCHEMA_LOCK_NAME, driver_lock
from forcetune.ledger.fail_points import durable
from forcetune.ledger.ledger import Ledger
from forcetune.ledger.messages import Assignment, Attempts, Cause, Proposal, Report, TrialOutcome
from forcetune.ledger.outbox import Outbox, remove_trial_folder
from forcetune.ledger.trials import is_failed, retried_at, select_current
from forcetune.names import NETWORK_FILE
from forcetune.search.attempts import Running, Spending, plan_next_attempt
from forcetune.search.ending import StoppingCriterion, find_uncharged, list_outcomes
from forcetune.search.keeping import KeptWeights
from forcetune.search.marking import mark_front, move_aliases
from forcetune.search.meter import Meter
from forcetune.search.note import render_note
from forcetune.search.printing import print_line
from forcetune.search.progress import Progress
from forcetune.search.proposals import Proposals, make_proposals
from forcetune.search.reports import determine_outcome, list_epochs, make_tags
from forcetune.search.stopping import RULES, EarlyStopping
from forcetune.state_files import list_folder, make_folder, remove_empty_folder, remove_file
from forcetune.stores import mlflow_uri, optuna_uri
from forcetune.study import Fixed, Study, Trial
from forcetune.tracking import Epoch, Tracker, collect_origin_tags

MAX_REPEATED_PROPOSALS = 100  # in a row, which the study already has, before the search space counts as used up
MLFLOW_QUIET_S = 5.0  # for which the driver waits for MLflow without a message
MLFLOW_PATIENCE_S = 300.0  # that MLflow may be away once all trials have ended


class Driver:
    """The driver of a study, which takes it up in both stores where it is; its process has the study's lock.

    The order of writes: a trial in the ledger, then its run; at the end the trial's outcome in the ledger, then its
    run, and last the trial's final state in the ledger. So a restart finds every trial without one, and goes on with
    it. The outbox writes to MLflow. What a worker reports counts only while its attempt is the trial's last.

    Args:
        study: The study.
        ledger: The study's ledger.
        tracker: The tracker of the study's experiment.
        progress: The progress that the user sees.
        references: The reference point of the hypervolume, by objective.
        propose: Returns what proposes trials, from the trials that are there; None for the study's own sampler.
        is_recorded: Whether the study is the ledger's record of it, which has no section `search`: the rule by which
            runs keep weights then stays.
        is_charged: Returns whether the study's budget counts a trial with these tags; None where it counts all.

    Attributes:
        ledger: The study's ledger.
        tracker: The tracker of the study's experiment.
        progress: The progress that the user sees.
        max_memory_factor: The largest multiple of a trial's resources that a node can give.
        meter: The measurements of the driver itself.
        spending: The hours and device hours that the study has cost.
        parent: The id of the study's parent run.
    """

    def __init__(
        self,
        study: Study,
        ledger: Ledger,
        tracker: Tracker,
        progress: Progress,
        references: Mapping[str, float],
        propose: Callable[[list[FrozenTrial]], Proposals] | None = None,
        is_recorded: bool = False,
        is_charged: Callable[[Mapping[str, str]], bool] | None = None,
    ) -> None:
        self._study = study
        self._kept_weights = KeptWeights(study)
        self.ledger = ledger
        self.tracker = tracker
        self._folder = ledger.folder
        self.progress = progress
        self.max_memory_factor = 1
        self.meter = Meter()
        self._devices_seen: set[str] = set()
        provenance = _provenance(study)
        ledger.claim()
        with durable("parent"):
            self.parent = tracker.open_study(study.directions, provenance)
            if not is_recorded:
                tracker.set_keep_rule(self.parent, self._kept_weights.keep, self._kept_weights.has_seeds)
        make_folder(self._folder)
        trials = ledger.trials()
        history = select_current(trials)
        self._proposals = propose(history) if propose else make_proposals(study, history)
        self._known_keys: set[str] = {trial.user_attrs["key"] for trial in history if "key" in trial.user_attrs}
        self._running: dict[int, Running] = {}
        self._waiting: deque[tuple[int, Running]] = deque()
        self._is_space_used_up = False
        self._has_given_up_retries = False
        self._tagged_front: list[tuple[float, ...]] = []  # the front when its tags were last requested
        self._trial_count = 0
        self._early_stopping = EarlyStopping(RULES.get(study.stopping), study.directions)
        self._references = references
        self._stopping_criterion = StoppingCriterion(study, references)
        self._is_charged = is_charged or (lambda tags: True)
        self.spending = Spending(list_outcomes(trials), find_uncharged(trials, self._is_charged))
        self._outbox = Outbox(tracker, self.parent, provenance, self._tell, ledger.guard, mark_front)
        self._outbox.warn = progress.warn
        self._outbox.on_delivered = lambda seconds: self.meter.observe_log(seconds)
        self._take_up(history)
        self._remove_leftovers({f"{trial.number:04d}" for trial in trials if trial.state.is_finished()})

    @property
    def name(self) -> str:
        """The name of the study."""
        return self._study.study

    @property
    def is_finished(self) -> bool:
        """Whether no trial runs and no trial is to be started."""
        return not self._running and not self._waiting and self._is_exhausted

    @property
    def running(self) -> int:
        """The number of trials that are issued and have not ended."""
        return len(self._running)

    @property
    def wanted(self) -> int:
        """The number of trials that could run at once if resources had no limit."""
        return (
            len(self._running)
            + len(self._waiting)
            + (0 if self._is_exhausted else self._study.trials - self._trial_count)
        )

    @property
    def end_reason(self) -> str | None:
        """The reason why the search has ended before it had all its trials; None where it has not."""
        return self._stopping_criterion.reason if self._is_short else None

    @property
    def failure_reason(self) -> str | None:
        """The reason why the search was given up after too many failed trials.

        None where it was not given up, or had all its trials.
        """
        return self._stopping_criterion.failure_reason if self._is_short else None

    @property
    def _is_short(self) -> bool:
        """Whether trials, or retries of failed ones, were never started."""
        return self._has_given_up_retries or (self._trial_count < self._study.trials and not self._is_space_used_up)

    def issue(self) -> Assignment | None:
        """Return the next trial to run: an interrupted one, else a new one; None where no trial is to be started."""
        self._give_up_retries()
        if self._waiting:
            number, running = self._waiting.popleft()
            running.attempts = replace(running.attempts, attempt=running.attempts.attempt + 1)
            self.ledger.issue(number, running.attempts)
        else:
            started = time.monotonic()
            proposal = None if self._is_exhausted else self._propose()
            if proposal is None:
                return None
            running = Running(proposal, Attempts())
            number = self.ledger.add(proposal)
            self.meter.observe_ask(time.monotonic() - started)
            self._trial_count += 1
            self._outbox.open(number, proposal, self._trial_folder(number), adopt=False)
        self._running[number] = running
        running.started_at = time.monotonic()
        self.progress.start_trial(number, running.proposal.trial)
        return Assignment(
            number=number,
            trial=running.proposal.trial,
            task=self._study.task,
            attempt=running.attempts.attempt,
            mlflow_uri=self.tracker.uri,
            folder=str(Path.cwd()),
            checkpoints=str(self._trial_folder(number)),
            threads=self._study.resources.threads,
            memory_factor=running.attempts.room,
            sends_weights=self._kept_weights.keep != "none",
        )

    def report(self, number: int, attempt: int, report: Report) -> bool:
        """Record a report that is not the trial's last one, and judge whether the trial is stopped early.

        Args:
            number: The trial's number.
            attempt: The number of the worker's attempt.
            report: The report.

        Returns:
            Whether the trial ends here, stopped early.
        """
        if not self._is_in_force(number, attempt):
            return False
        reason = self._judge(number, report)
        if reason and report.epoch:
            spent = {"train_seconds": report.metrics["train_seconds"]}
            report = replace(report, epoch=replace(report.epoch, metrics={**report.epoch.metrics, **spent}))
        self._record(number, report)
        if reason:
            metrics = {**self._running[number].static_metrics, **list_epochs(report)[-1].metrics}
            stopped = Report(metrics, outcome="stopped", reason=reason)
            self._end(number, determine_outcome(stopped, self._study.objectives))
        return reason is not None

    def end(self, number: int, attempt: int, report: Report) -> None:
        """Record the last report of a trial, and end the trial.

        Args:
            number: The trial's number.
            attempt: The number of the worker's attempt.
            report: The report, which has the outcome.
        """
        if not self._is_in_force(number, attempt):
            return
        reference_metrics: dict[str, float] = {}
        if report.outcome in ("collapsed", "infeasible"):  # a training loop of the user's own has no metrics for these
            reference_metrics = {name: value for name, value in self._references.items() if name not in report.metrics}
        full_report = replace(report, metrics={**report.metrics, **reference_metrics})
        outcome = determine_outcome(full_report, self._study.objectives)
        if not self._kept_weights.add(outcome):
            report = replace(report, files={name: report.files[name] for name in report.files if name != NETWORK_FILE})
        self._record(number, report)
        self._outbox.add(number, reference_metrics)
        self._end(number, outcome)

    def report_loss(self, number: int, attempt: int, cause: Cause, reason: str) -> None:
        """Record that an attempt ended without its trial's end, and do what `plan_next_attempt` says.

        Args:
            number: The trial's number.
            attempt: The number of the attempt.
            cause: Why the attempt ended.
            reason: The same for the user, in words.
        """
        if not self._is_in_force(number, attempt):
            return
        running = self._running[number]
        retries = self._study.resources.retries
        plan = plan_next_attempt(running.attempts, cause, reason, retries, self.max_memory_factor)
        if isinstance(plan, TrialOutcome):
            self._end(number, plan)
        else:
            running.attempts = plan
            self._hand_back(number)

    def postpone_start(self, number: int, attempt: int) -> None:
        """Count no time yet for a trial that waits for a node."""
        if self._is_in_force(number, attempt):
            self._running[number].started_at = time.monotonic()

    def hand_back(self) -> int:
        """Take all trials from their workers, so that they are issued again; return the number of trials."""
        running = list(self._running)
        for number in running:
            self._hand_back(number)
        return len(running)

    def hand_back_one(self, number: int, attempt: int) -> None:
        """Take a trial from its worker, so that it is issued again."""
        if self._is_in_force(number, attempt):
            self._hand_back(number)

    def describe(self) -> None:
        """Write the study file as it is now to MLflow, and the note on the study to MLflow and Optuna Dashboard."""
        note = render_note(self._study)
        sampled = [name for name, domain in self._study.space.items() if not isinstance(domain, Fixed)]
        self.tracker.describe(self.parent, self._study.model_dump(), self._references, note, sampled)
        self.ledger.describe(note)

    def give_up(self, reason: str) -> None:
        """End all trials that wait for another attempt as failed, and the search with them."""
        self._is_space_used_up = True
        self._fail_waiting({number for number, _ in self._waiting}, reason)

    def close(self, seconds: float = MLFLOW_PATIENCE_S) -> None:
        """Wait until MLflow has everything, and end the parent run if the study is finished.

        Args:
            seconds: The longest wait; with 0 it is no error that MLflow lacks something.

        Raises:
            StoppedError: MLflow has not taken everything in time.
        """
        undelivered = self._outbox.drain(min(seconds, MLFLOW_QUIET_S))
        if undelivered and seconds > MLFLOW_QUIET_S:
            cause = self._outbox.last_error or "it is slow"
            self.progress.warn(
                f"waiting up to {seconds:g} s for MLflow, which does not have all data of {undelivered} trials yet: "
                f"{cause}"
            )
            undelivered = self._outbox.drain(seconds - MLFLOW_QUIET_S)
        last_error = self._outbox.last_error
        self._outbox.close()
        if undelivered and seconds:
            raise StoppedError(
                f"MLflow does not have all data of {undelivered} trials ({last_error or 'it is slow'}). The ledger "
                "keeps the data; run the same command again to deliver it"
            )
        if self.is_finished and not undelivered:
            with durable("close"):
                self.ledger.confirm()  # since another driver may have taken over the study
                self.tracker.clean_up_runs(self.parent, self._find_failed)
                self._mark_front()
                self.tracker.close(self.parent)
            for leftover in (self._folder, self._folder.parent):
                remove_empty_folder(leftover)

    def _mark_front(self) -> None:
        """Tag the runs on the front, delete weights that are no longer kept, and move the registry's aliases.

        A study does not fail for any of it, since the doctor does all of it too.
        """
        try:
            mark_front(self.tracker, is_last=True)
            move_aliases(self.name, self.tracker.uri, self.progress.warn)
        except Exception as error:  # MLflow's, or what a table of unusual runs leads to
            self.progress.warn(
                f"the runs on the front could not be tagged in MLflow, or other weights could not be deleted: {error}; "
                f"`forcetune doctor {self.name} --repair` does both"
            )

    def _hand_back(self, number: int) -> None:
        self._count_time(self._running[number])
        self._waiting.append((number, self._running.pop(number)))
        self.progress.remove_trial(number)

    def _is_in_force(self, number: int, attempt: int) -> bool:
        return number in self._running and self._running[number].attempts.attempt == attempt

    def _record(self, number: int, report: Report) -> None:
        folder = self._trial_folder(number)
        if report.trial_started or report.trace or report.files:
            self.ledger.confirm()  # since files are written at once, and another driver may have the folder by now
        if report.trial_started:
            trial_started = report.trial_started
            self._note_device(self._running[number], trial_started.device)
            attempt = self._running[number].attempts.attempt
            tags = make_tags(trial_started, attempt, self.spending.devices, self._study.resources)
            self._outbox.add(number, trial_started.static_metrics, trial_started.curve, tags)
            if trial_started.dataset:
                self._outbox.add_dataset(number, trial_started.dataset)
        for name, content in report.files.items():
            self._outbox.attach(number, name, content, folder)
        if report.trace:
            self._outbox.attach(number, "error.json", json.dumps(report.trace, indent=1).encode(), folder)
        if report.epoch:
            self._outbox.add(number, epochs=[report.epoch])
        curve = list_epochs(report)
        epochs = report.trial_started.epochs if report.trial_started else None
        self.progress.record_epoch(number, curve[-1].step if curve else 0, epochs)

    def _judge(self, number: int, report: Report) -> str | None:
        """Return why the trial is to be stopped after the last epoch of a report; None where it goes on.

        The epochs before belong to rungs that it has passed.
        """
        running, reason = self._running[number], None
        if report.trial_started:
            running.static_metrics = report.trial_started.static_metrics
        for epoch in list_epochs(report):
            reason = self._early_stopping.judge(
                number, running.proposal.trial, epoch.step, {**running.static_metrics, **epoch.metrics}
            )
        return reason

    def _end(self, number: int, outcome: TrialOutcome) -> None:
        running = self._running[number]
        self._count_time(running)
        spent = self.spending.end_trial(self._is_charged(running.proposal.tags))
        record = {**self._outbox.collect_measurements(number), "spent": spent}
        outcome = replace(outcome, time=int(time.time() * 1000), record=record)
        self.ledger.decide(number, outcome)
        del self._running[number]
        self._outbox.end(number, outcome)
        self._proposals.tell(running.proposal, outcome.values, outcome.on_front)
        self._stopping_criterion.add(outcome)
        self.progress.end_trial(number, running.proposal.trial, outcome)
        self._publish_progress(number, outcome)
        self._give_up_retries()

    def _give_up_retries(self) -> None:
        """End the retries that have not begun as failed, where the search starts no further trial."""
        reason = self._over_reason
        retried = {number for number, running in self._waiting if not running.attempts.attempt}
        if reason is None or not retried:
            return
        self._has_given_up_retries = True
        self._fail_waiting(retried, f"not run again, because the search ended first: {reason}")

    def _fail_waiting(self, numbers: Collection[int], reason: str) -> None:
        """End trials that wait for an attempt as failed."""
        waiting = list(self._waiting)
        self._waiting = deque(entry for entry in waiting if entry[0] not in numbers)
        for number, running in waiting:
            if number in numbers:
                self._running[number] = running
                self._end(number, TrialOutcome("failed", reason))

    def _find_failed(self) -> dict[str, bool]:
        """Return for each trial that has ended, by its key, whether it has failed."""
        ended_trials = [trial for trial in select_current(self.ledger.trials()) if trial.state.is_finished()]
        return {trial.user_attrs["key"]: is_failed(trial) for trial in ended_trials if "fields" in trial.user_attrs}

    def _publish_progress(self, number: int, outcome: TrialOutcome) -> None:
        """Publish the study's progress after a trial to MLflow and to the meter."""
        front, volume = self.progress.front, None
        if set(self._study.objectives) <= self._references.keys():
            volume = hypervolume(np.array(front), self._study.directions, self._references) if front else 0.0
        values = {
            "trials_done": self.progress.done,
            "front": len(front),
            "hypervolume": volume,
            "device_hours": self.spending.device_hours,
        }
        metrics = {name: float(value) for name, value in values.items() if value is not None}
        self._outbox.show_progress(Epoch(self.progress.done, outcome.time or 0, metrics))
        if front != self._tagged_front:  # else the tags stay as they are
            self._tagged_front = front
            self._outbox.mark_front(number)
        self.meter.count_trial(outcome.outcome)
        self.meter.observe_progress(self._outbox.waiting, volume)

    def _count_time(self, running: Running) -> None:
        """Add the device hours of an attempt that is over to what the study has cost."""
        device_hours = self.spending.count(running)
        if running.device and device_hours:
            self.meter.count_device_hours(running.device, device_hours)

    def _note_device(self, running: Running, device: str) -> None:
        """Note the device of a trial; warn once where what the study measures comes from devices of several kinds."""
        running.device = device
        is_new, self._devices_seen = device not in self._devices_seen, self._devices_seen | {device}
        if is_new and len(self._devices_seen) == 2 and self._study.measure:
            self.progress.warn(
                f"measure: the trials run on devices of different kinds ({', '.join(sorted(self._devices_seen))}); "
                f"what {self._study.measure} measures of a device, such as a latency, can be compared only within a "
                "kind. `resources: {gpu_type: ...}` keeps the trials on one"
            )

    def _tell(self, number: int, outcome: TrialOutcome) -> None:
        """Finish a trial in the ledger and remove its folder, once MLflow has everything of it."""
        self.ledger.tell(number, outcome)
        remove_trial_folder(self._trial_folder(number))

    def _trial_folder(self, number: int) -> Path:
        return self._folder / f"{number:04d}"

    def _take_up(self, history: list[FrozenTrial]) -> None:
        """Count the trials of earlier drivers, deliver those that have an outcome, and queue the others to be run."""
        seen: set[str] = set()
        for trial in history:
            if trial.state == TrialState.PRUNED or "fields" not in trial.user_attrs:
                continue
            key = trial.user_attrs["key"]
            if key in seen:  # a broken connection lost the answer to a write, so that it was repeated
                self.ledger.drop(trial.number)
                continue
            seen.add(key)
            self._trial_count += 1
            self._take_up_trial(trial)
        self._stopping_criterion.restore(list_outcomes(history))

    def _remove_leftovers(self, finished: set[str]) -> None:
        """Remove the folders that a driver was killed before it removed.

        Args:
            finished: The names of the folders of finished trials.
        """
        for folder in list_folder(self._folder):
            if folder.name in finished:
                remove_trial_folder(folder)

    def _take_up_trial(self, trial: FrozenTrial) -> None:
        attrs = trial.user_attrs
        proposal = Proposal(
            Trial(**attrs["fields"]),
            trial.params,
            trial.distributions,
            parent_key=attrs.get("of"),
            tags=attrs.get("marks", {}),
        )
        outcome = TrialOutcome(**attrs["ended"]) if "ended" in attrs else None
        if not trial.state.is_finished():
            folder = self._trial_folder(trial.number)
            if not outcome:  # the next attempt sends its weights, or ends in another way
                remove_file(folder / NETWORK_FILE)
            self._outbox.open(trial.number, proposal, folder, adopt=True, retried_at=retried_at(trial))
            if outcome:
                curve = [Epoch(*entry) for entry in outcome.record["curve"]]
                self._outbox.add(trial.number, outcome.record["facts"], curve)
                self._outbox.add_dataset(trial.number, outcome.record.get("dataset"))
                self._outbox.end(trial.number, outcome)
                self._proposals.tell(proposal, outcome.values, outcome.on_front)
        if outcome:
            self._kept_weights.add(outcome)
            self.progress.count(proposal.trial, outcome)
            for step, _, metrics in outcome.record.get("curve", []):
                self._early_stopping.record(trial.number, proposal.trial, step, {**outcome.record["facts"], **metrics})
        else:
            self._waiting.append((trial.number, Running(proposal, Attempts(**attrs.get("issued", {})))))

    @property
    def _is_exhausted(self) -> bool:
        return self._is_space_used_up or self._trial_count >= self._study.trials or self._over_reason is not None

    @property
    def _over_reason(self) -> str | None:
        """The reason why no further trial is started before the study has all: its budget, patience or failures."""
        self._stopping_criterion.set_spent(**self.spending.charged)
        return self._stopping_criterion.reason or self._stopping_criterion.failure_reason

    def _propose(self) -> Proposal | None:
        for _ in range(MAX_REPEATED_PROPOSALS):
            proposal = self._proposals.ask()
            if proposal is None:
                break
            if proposal.key not in self._known_keys:
                self._known_keys.add(proposal.key)
                return proposal
            self.ledger.add_repeated(proposal)
            self._proposals.tell(proposal, None)
        self._is_space_used_up = True
        return None


def open_driver(
    study: Study,
    check: Callable[[], None],
    console: Console,
    experiment: str | None = None,
    references: Mapping[str, float] | None = None,
    propose: Callable[[list[FrozenTrial]], Proposals] | None = None,
    is_recorded: bool = False,
    is_charged: Callable[[Mapping[str, str]], bool] | None = None,
) -> Driver:
    """Return the driver of a study on the stores that the environment names.

    Args:
        study: The study.
        check: Raises HeldError where another driver has the study.
        console: The console for the progress.
        experiment: The name of the MLflow experiment where it differs from the study's.
        references: The reference point of the hypervolume, by objective.
        propose: Returns what proposes trials, from the trials that are there; None for the study's own sampler.
        is_recorded: Whether the study is the ledger's record of it, which has no section `search`: the rule by which
            runs keep weights then stays.
        is_charged: Returns whether the study's budget counts a trial with these tags; None where it counts all.
    """
    uri = optuna_uri()
    with driver_lock(SCHEMA_LOCK_NAME, uri, wait=True), durable("tables"):
        tracker = Tracker(experiment or study.study, mlflow_uri())
    with durable("ledger"):
        ledger = Ledger(study, uri, check)
    if count := ledger.retry():
        print_line(console, f"running {count} failed trials again")
    progress = Progress(study, console)
    return Driver(study, ledger, tracker, progress, references or {}, propose, is_recorded, is_charged)


def _provenance(study: Study) -> dict[str, str]:
    digest = hashlib.sha256(json.dumps(study.identity, sort_keys=True).encode()).hexdigest()[:16]
    packages = {f"forcetune.{name}": version(name) for name in ("torch", "ray", "optuna")}
    return {"forcetune.version": __version__, "forcetune.digest": digest, **packages, **collect_origin_tags()}
