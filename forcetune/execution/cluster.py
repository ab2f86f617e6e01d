"""Trials on Ray: Tune places them on actors, and passes the reports of the actors to the driver."""

import logging
import os
import pickle
import sys
import time
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar, cast

import ray
from ray import tune
from ray.tune.schedulers import FIFOScheduler, TrialScheduler
from ray.tune.search import Searcher

from forcetune.execution import environment
from forcetune.execution.actors import ASSIGNMENT_KEY, REPORT_KEY, Worker, explain_end, explain_loss
from forcetune.execution.nodes import describe_missing, find_max_memory_factor, make_request
from forcetune.execution.ray_meter import RayMeter
from forcetune.execution.shares import ExclusiveSlots
from forcetune.ledger.messages import Assignment, Cause, Report
from forcetune.search.driver import Driver
from forcetune.search.meter import Meter
from forcetune.study import ResolvedResources
from forcetune.temporary import make_folder

ResultT = TypeVar("ResultT")

MAX_PENDING_TRIALS = 1000  # that may wait for an actor at once
SLOT_POLL_S = 0.2  # between two checks for a slot
HAND_BACK_PATIENCE_S = 20.0  # for a trial to end an epoch and make room; then the actor of one is killed
THREAD_SWITCH_S = 0.0005  # at Python's 0.005 s the outbox's thread delays the thread that keeps the slots busy
MAX_TUNE_FAILURES = 3  # of Tune's loop in a row without a trial that ends, before the search is given up


def run(
    driver: Driver,
    resources: ResolvedResources,
    share: ExclusiveSlots,
    worker: type[tune.Trainable] = Worker,
    reuse_actors: bool = True,
) -> None:
    """Hand the driver's trials to actors until the driver has no more trials.

    Raises what the driver raises. After an error of Tune the trials are handed out anew.

    Args:
        driver: The driver of the study.
        resources: The resources of a trial.
        share: The study's slots.
        worker: The class of the actors.
        reuse_actors: Whether an actor runs one trial after the other, as in Tune's TuneConfig.
    """
    driver.max_memory_factor = find_max_memory_factor(resources)
    driver.spending.devices = resources.devices
    driver.meter = RayMeter(driver.name) if environment.is_shared() else Meter()
    with _tune_settings():
        failures = 0
        while not driver.is_finished:
            _wait_for_slot(driver, share)
            searcher = DriverSearcher(driver, share)
            watch = Watch(searcher, resources.max_seconds, lambda: describe_missing(resources))
            try:
                _fit(searcher, watch, resources, worker, reuse_actors)
            except Exception:  # Tune fails where an idle actor is killed, and where Ray ends an actor for its memory
                watch.report_out_of_memory()
                failures = 0 if searcher.ended_trials else failures + 1
                if failures == MAX_TUNE_FAILURES and searcher.error is None:
                    raise
            if searcher.error:
                raise searcher.error
            driver.hand_back()


@contextmanager
def _tune_settings() -> Iterator[None]:
    """Set what Tune and the threads of a search need in this process, and restore it at the end."""
    logger, variable = logging.getLogger("ray.tune"), "TUNE_MAX_PENDING_TRIALS_PG"
    before = logger.level, sys.getswitchinterval(), os.environ.get(variable)
    logger.setLevel(logging.CRITICAL)  # it complains that its files for each trial are missing
    sys.setswitchinterval(THREAD_SWITCH_S)
    # By default Tune asks a searcher for one trial at a time: it would start the second actor only when the first one
    # has a trial, and where that trial ends soon the first actor would take the second trial too.
    os.environ[variable] = str(MAX_PENDING_TRIALS)
    try:
        yield
    finally:
        logger.setLevel(before[0])
        sys.setswitchinterval(before[1])
        if before[2] is None:
            del os.environ[variable]
        else:
            os.environ[variable] = before[2]


def _wait_for_slot(driver: Driver, share: ExclusiveSlots) -> None:
    if not share.slots:
        driver.progress.report_wait("other studies use the whole cluster")
    while not share.slots:
        time.sleep(SLOT_POLL_S)


def _fit(
    searcher: "DriverSearcher",
    watch: "Watch",
    resources: ResolvedResources,
    worker: type[tune.Trainable],
    reuse_actors: bool,
) -> None:
    with make_folder("tune") as folder:
        tune.Tuner(
            tune.with_resources(worker, lambda config: make_request(resources, config[ASSIGNMENT_KEY].memory_factor)),
            tune_config=tune.TuneConfig(
                search_alg=searcher,
                scheduler=DriverScheduler(searcher),
                num_samples=10**9,
                reuse_actors=reuse_actors,
                trial_dirname_creator=lambda trial: trial.trial_id,
            ),
            run_config=tune.RunConfig(
                storage_path=str(folder.path),
                verbose=0,
                stop=_LoopStopper(searcher),
                callbacks=[watch],
                checkpoint_config=tune.CheckpointConfig(checkpoint_at_end=False),
            ),
        ).fit()


class DriverSearcher(Searcher):
    """A searcher that passes Tune's questions on to the driver; all state is in the ledger.

    Tune takes an exception of a searcher for the trial's fault, so it is kept in `error` and ends the search.

    Attributes:
        error: The exception that ends the search, None while there is none.
        ended_trials: The number of trials that have ended in this loop of Tune.
    """

    def __init__(self, driver: Driver, share: ExclusiveSlots) -> None:
        super().__init__()
        self._driver = driver
        self._share = share
        self._assignments: dict[str, Assignment] = {}
        self._unplaced: set[str] = set()  # trials that need more resources than others, and wait for them
        self.error: Exception | None = None
        self.ended_trials = 0

    def suggest(self, trial_id: str) -> dict[str, Any] | str | None:
        """Return the config of the next trial; None for no trial now, FINISHED for no further trial."""
        if self.error:
            return str(Searcher.FINISHED)
        self._share.set_wanted(self._driver.wanted)
        if self._unplaced or self._driver.running >= self._share.slots:
            return None  # otherwise the next trials would take the resources that an unplaced one waits for
        assignment = self._guard(self._driver.issue)
        if assignment is None:
            return str(Searcher.FINISHED) if self.error or self._driver.is_finished else None
        self._assignments[trial_id] = assignment
        if assignment.memory_factor > 1:
            self._unplaced.add(trial_id)
        return {ASSIGNMENT_KEY: assignment}

    def mark_placed(self, trial_id: str) -> None:
        """Note that a trial has its actor."""
        self._unplaced.discard(trial_id)

    @property
    def lacks_node(self) -> bool:
        """Whether no node has room for a trial."""
        return not self._share.fits

    def report_wait(self, reason: str) -> None:
        """Print that the search waits, and for what."""
        self._driver.progress.report_wait(reason)

    def postpone(self, placed: Collection[str]) -> None:
        """Count no time yet for the trials that wait for a node, which are all but those that have an actor."""
        for trial_id, assignment in self._assignments.items():
            if trial_id not in placed:
                self._driver.postpone_start(assignment.number, assignment.attempt)

    def handle_report(self, trial_id: str, report: Report) -> bool:
        """Pass a report that is not a trial's last to the driver; return whether the trial goes on."""
        assignment = self._assignments[trial_id]
        is_stopped = self._guard(lambda: self._driver.report(assignment.number, assignment.attempt, report))
        self.ended_trials += bool(is_stopped)
        if not is_stopped and report.epoch and self.surplus > 0:
            self.hand_back(trial_id)
            return False
        return not is_stopped

    @property
    def surplus(self) -> int:
        """The number of trials that run beyond the study's share while other studies want slots."""
        return self._driver.running - self._share.slots if self._share.contested else 0

    @property
    def is_over(self) -> bool:
        """Return whether Tune's loop has nothing more to do: the driver cannot go on, or the study has no slot."""
        return self.error is not None or (self._share.slots == 0 and self._driver.running == 0)

    def hand_back(self, trial_id: str) -> None:
        """Hand a trial back to the driver to make room for another study; later it goes on from its last checkpoint."""
        assignment = self._assignments[trial_id]
        self._unplaced.discard(trial_id)
        self._guard(lambda: self._driver.hand_back_one(assignment.number, assignment.attempt))

    def on_trial_result(self, trial_id: str, result: dict[str, Any]) -> None:
        """Do nothing: the scheduler, which Tune calls first, has passed the result on."""

    def on_trial_complete(self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False) -> None:
        """Tell the driver the last report of a trial that has ended."""
        assignment = self._assignments[trial_id]
        # without an outcome the driver has stopped the trial, or the watch reports why it was lost
        if result and not error and result[REPORT_KEY].outcome:
            self.ended_trials += 1
            self._guard(lambda: self._driver.end(assignment.number, assignment.attempt, result[REPORT_KEY]))
            result[REPORT_KEY].files.clear()  # Tune keeps the last result of every trial in memory

    def report_loss(self, trial_id: str, cause: Cause, reason: str) -> None:
        """Tell the driver that a trial's actor is gone, or of no more use."""
        assignment = self._assignments[trial_id]
        self._unplaced.discard(trial_id)
        self._guard(lambda: self._driver.report_loss(assignment.number, assignment.attempt, cause, reason))

    def _guard(self, call: Callable[[], ResultT]) -> ResultT | None:
        """Call the driver; keep its exception in `error`, and then call it no more."""
        if self.error is None:
            try:
                return call()
            except Exception as error:
                self.error = error
        return None

    def __getstate__(self) -> dict[str, Any]:
        """Return no state for the copy that Tune writes of its searcher: the state is in the ledger."""
        return {}

    def save(self, checkpoint_path: str) -> None:
        """Do nothing: the state is in the ledger."""

    def restore(self, checkpoint_path: str) -> None:
        """Do nothing: the state is in the ledger."""


class DriverScheduler(FIFOScheduler):
    """A scheduler that runs each trial until the driver stops it, and frees the actors that wait for no trial."""

    def __init__(self, searcher: DriverSearcher) -> None:
        super().__init__()
        self._searcher = searcher

    def on_trial_result(self, tune_controller: Any, trial: Any, result: dict[str, Any]) -> str:
        """Return Tune's word for whether a trial goes on after a result that is not its last."""
        is_going_on = self._searcher.handle_report(trial.trial_id, result[REPORT_KEY])
        return str(TrialScheduler.CONTINUE if is_going_on else TrialScheduler.STOP)

    def choose_trial_to_run(self, tune_controller: Any) -> Any:
        """Return the next trial, None where there is none.

        Tune calls this after its searcher, so that without a pending trial no idle actor is needed.
        """
        pending = [trial for trial in tune_controller.get_live_trials() if trial.status == "PENDING"]
        if not pending:
            tune_controller._cleanup_cached_actors(force_all=True)  # Tune itself would keep one with its resources
        return min(pending, key=lambda trial: trial.trial_id, default=None)


class _LoopStopper(tune.Stopper):
    """A stopper that ends Tune's loop, and so frees its actors, once the driver cannot go on or has no slot."""

    def __init__(self, searcher: DriverSearcher) -> None:
        self._searcher = searcher

    def __call__(self, trial_id: str, result: dict[str, Any]) -> bool:
        return False

    def stop_all(self) -> bool:
        return self._searcher.is_over


class Watch(tune.Callback):
    """A callback of Tune that kills the actors of trials that take too long, and reports why an actor was lost.

    Args:
        searcher: The searcher to which losses are reported.
        max_seconds: The longest time of a trial, in seconds; None for no limit.
        describe_missing: Returns what no node has, while none has room for a trial.
    """

    def __init__(
        self, searcher: DriverSearcher, max_seconds: float | None, describe_missing: Callable[[], str]
    ) -> None:
        self._searcher = searcher
        self._max_seconds = max_seconds
        self._describe_missing = describe_missing
        self._has_reported_wait = False
        self._started: dict[str, tuple[float, Any]] = {}  # the start of each trial, and its actor
        self._overdue: set[str] = set()
        self._yielding: set[str] = set()  # trials whose actors were killed to make room
        self._last_within_share = time.monotonic()

    def on_trial_start(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        """Note when a trial started, and on which actor."""
        self._searcher.mark_placed(trial.trial_id)
        self._started[trial.trial_id] = time.monotonic(), trial.temporary_state.ray_actor

    def on_step_begin(self, iteration: int, trials: list[Any], **info: Any) -> None:
        """Hand trials back where the share became smaller, and end those that take too long."""
        self._make_room()
        self._wait_for_node()
        if self._max_seconds is None:
            return
        for trial_id, (started, actor) in self._started.items():
            if trial_id not in self._overdue and time.monotonic() > started + self._max_seconds:
                self._overdue.add(trial_id)
                ray.kill(actor)

    def _make_room(self) -> None:
        """Kill the actor of the trial that has run shortest, where no trial makes room at the end of an epoch."""
        now = time.monotonic()
        if self._searcher.surplus <= len(self._yielding):
            self._last_within_share = now
        elif now > self._last_within_share + HAND_BACK_PATIENCE_S:
            running = {
                trial_id: started for trial_id, (started, _) in self._started.items() if trial_id not in self._yielding
            }
            if running:
                latest = max(running, key=lambda trial_id: running[trial_id])
                self._yielding.add(latest)
                ray.kill(self._started[latest][1])

    def _wait_for_node(self) -> None:
        """Say once that no node has room for a trial, and count no time for trials that wait for one."""
        if not self._searcher.lacks_node:
            self._has_reported_wait = False
            return
        if not self._has_reported_wait:
            self._searcher.report_wait(self._describe_missing())
            self._has_reported_wait = True
        self._searcher.postpone(self._started)

    def report_out_of_memory(self) -> None:
        """Report the trials whose actors Ray has ended because their node was out of memory."""
        references = {actor.__ray_ready__.remote(): trial_id for trial_id, (_, actor) in self._started.items()}
        ready, _ = ray.wait(list(references), num_returns=len(references), timeout=1) if references else ([], [])
        for reference in ready:
            try:
                ray.get(reference)
            except ray.exceptions.OutOfMemoryError as error:
                self._searcher.report_loss(references[reference], *explain_loss(error))
            except ray.exceptions.RayError:
                continue

    def on_trial_complete(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        """Forget a trial that has ended."""
        self._started.pop(trial.trial_id, None)
        self._yielding.discard(trial.trial_id)

    def on_trial_error(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        """Report why a trial was lost, unless it was to be handed back."""
        _, actor = self._started.pop(trial.trial_id, (0.0, None))
        if trial.trial_id in self._yielding:
            self._yielding.discard(trial.trial_id)
            self._searcher.hand_back(trial.trial_id)
        elif trial.trial_id in self._overdue:
            self._searcher.report_loss(trial.trial_id, "time", f"it took longer than max_seconds {self._max_seconds:g}")
        else:
            self._searcher.report_loss(trial.trial_id, *explain_end(_read_error(trial), actor))


def _read_error(trial: Any) -> Exception | None:
    """Return the error with which Tune lost a trial, None where Tune kept none.

    Tune's `get_pickled_error` reads a copy of it, which Tune makes some time later.
    """
    path = trial.pickled_error_file
    return cast(Exception, pickle.loads(Path(path).read_bytes())) if path and Path(path).exists() else None
