"""Trials on Ray: Tune places them on actors that live on, and says how they end."""

import logging
import os
import pickle
import socket
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, TypeVar, cast

import ray
from ray import tune
from ray._private import state as _ray_state  # the public API for actors asks the dashboard, which a Ray may lack
from ray.tune.schedulers import FIFOScheduler, TrialScheduler
from ray.tune.search import Searcher
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy
from rich.console import Console

from forcetune.errors import InputError
from forcetune.search import environment, placement
from forcetune.search.driver import Driver
from forcetune.search.meter import Meter, RayMeter
from forcetune.search.shares import ExclusiveSlots, FairShare
from forcetune.search.worker import Assignment, Cause, LostError, Report, execute, read_data
from forcetune.spec import AUTO, Priority, ResolvedResources, Study
from forcetune.temporary import make_folder

T = TypeVar("T")
A = TypeVar("A")

REPORT = "report"
SOON = 60.0  # seconds after which somebody who waits is told what for
READING = 300.0  # seconds that a node gets to read the study's data
MANY = 1000  # trials that may wait for a place at once
POLL = 0.2  # seconds between two looks for a slot of one's own
EPOCH = 20.0  # seconds within which a trial should end an epoch, and give way to another study if it must
SWITCH = 0.0005  # seconds that a thread keeps the interpreter: at Python's 5 ms the outbox holds up who feeds the slots
NODE_DEATH_PATIENCE_S = 2.0  # of a worker that is lost: its node may be lost a moment later, as a machine shuts down
NODE_ANSWER_S = 1.0  # for a node's own process to take a connection
TRIES = 3  # failures of Tune's loop in a row, no trial ended between them, before it is given up


def place(study: Study, console: Console) -> ResolvedResources:
    """What a trial occupies, in numbers: for `gpus: auto` a probe takes a whole GPU and sees how many may share one.

    Where there are several kinds it is whichever Ray gives; a trial that finds too little memory is tried again with
    more room. Raises InputError where not even one trial fits, and where the probe fails.
    """
    resources, nodes = study.resources, _nodes()
    if resources.gpus != AUTO:
        return placement.placed(resources, resources.gpus)
    if not any(node.get("GPU") for node in nodes):
        console.print("resources: no GPU here, trials run on the CPU", soft_wrap=True)
        return placement.placed(resources, 0)
    slots(placement.placed(resources, 1))
    memory = _on_a_gpu(placement.measure, placement.largest(study), resources.cpus, console)
    trials = placement.sharing(memory, resources, nodes)
    console.print(placement.told(trials, memory), soft_wrap=True, highlight=False)
    return placement.placed(resources, placement.share(trials))


def _on_a_gpu(call: Callable[[A], T], argument: A, cpus: float, console: Console) -> T:
    """What `call` returns in a process that has a GPU to itself, and that ends with it so that its memory is free."""
    answer = ray.remote(num_gpus=1, num_cpus=cpus, max_calls=1)(call).remote(argument)
    if not ray.wait([answer], timeout=SOON)[0]:
        console.print("resources: the probe for `gpus: auto` waits for a whole GPU, or runs still", soft_wrap=True)
    try:
        found: T = ray.get(answer)
    except ray.exceptions.RayError as error:
        cause = error.cause if isinstance(error, ray.exceptions.RayTaskError) else error
        raise InputError(
            f"resources.gpus: the probe for `auto` failed: {type(cause).__name__}: {cause}. Mend that, or write a "
            "number (0.5: two trials share a GPU), which needs no probe"
        ) from error
    return found


def _nodes() -> list[dict[str, float]]:
    """What each node has."""
    return [node["Resources"] for node in ray.nodes() if node["Alive"]]


def fits(resources: ResolvedResources) -> int:
    """Trials for which the nodes that are there have room at once."""
    return sum(_fit_on(node, resources) for node in _nodes())


def _fit_on(node: Mapping[str, float], resources: ResolvedResources) -> int:
    by_gpus = int(node.get("GPU", 0) / resources.gpus + 1e-9) if resources.gpus else 10**6
    return min(int(node.get("CPU", 0) / resources.cpus + 1e-9), by_gpus)


def slots(resources: ResolvedResources) -> int:
    """Trials that fit at once, at most `concurrent`. Raises InputError where not even one fits."""
    have, nodes, fit = ray.cluster_resources(), _nodes(), fits(resources)
    if fit < 1:
        raise InputError(
            f"resources: a trial asks for {resources.cpus:g} cpus and {resources.gpus:g} gpus, and no node has them; "
            f"Ray has {have.get('CPU', 0):g} cpus and {have.get('GPU', 0):g} gpus on {len(nodes)} nodes"
        )
    return min(fit, resources.concurrent or fit)


def most_room(resources: ResolvedResources) -> int:
    """How many times what a trial asks for a node can give it; a trial that shares a GPU gets the whole at most."""
    nodes = [node for node in _nodes() if node.get("GPU", 0) >= resources.gpus]
    by_cores = max((int(node.get("CPU", 0) / resources.cpus + 1e-9) for node in nodes), default=1)
    return min(by_cores, int(1 / resources.gpus + 1e-9) or 1) if resources.gpus else by_cores


class Worker(tune.Trainable):
    """An actor that runs one trial after the other; a step is what the trial tells next.

    Tune may set up a second actor for a trial that a waiting one then takes, so nothing happens before a step.
    """

    def setup(self, config: dict[str, Any]) -> None:
        self._reports: Iterator[Report] | None = None

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        self._reports = None
        return True

    def step(self) -> dict[str, Any]:
        if self._reports is None:
            hide_gpus()
            self._reports = execute(Assignment(**self.config))
        report = next(self._reports)
        return {REPORT: report, "done": report.outcome is not None}


def hide_gpus() -> None:
    """Let torch see no GPU in a process to which Ray gave none: `gpus: 0` means the CPU, whatever the machine has."""
    if not ray.get_gpu_ids():
        os.environ["CUDA_VISIBLE_DEVICES"] = ""


def share(study: Study, resources: ResolvedResources, priority: Priority) -> ExclusiveSlots:
    """Of the slots of this Ray what the study has: all of one of its own, of a cluster what others leave it."""
    most = slots(resources)
    if not environment.is_shared():
        return ExclusiveSlots(most)
    return FairShare(study.study, priority, resources.concurrent, lambda: fits(resources))


def ask_nodes(study: Study) -> list[tuple[str, Any]]:
    """Have each node that has room for a trial read the study's data; whom was asked, and what will be the answer.

    A node does so while the driver starts, and in a process that goes on as its first worker.
    """
    places = list(study.combinations([name for name in ("dataset", "data_root") if name in study.space]))
    gpus = study.resources.gpus
    resources = placement.placed(study.resources, 0 if gpus == AUTO else gpus)
    nodes = [node for node in ray.nodes() if node["Alive"] and _fit_on(node["Resources"], resources)]
    return [(node["NodeManagerAddress"], _on_node(node["NodeID"]).remote(places, os.getcwd())) for node in nodes]


def hear_nodes(asked: list[tuple[str, Any]]) -> None:
    """Raise InputError with the node's address where one does not have the data, or says nothing.

    A node that is lost meanwhile is no fault of the study's.
    """
    for address, answer in asked:
        try:
            ray.get(answer, timeout=READING)
        except ray.exceptions.GetTimeoutError:
            raise InputError(f"the node {address} does not read the study's data within {READING:g} s") from None
        except ray.exceptions.RayTaskError as error:
            raise InputError(f"trial.dataset: on the node {address}: {error.cause}") from error
        except ray.exceptions.RayError:
            continue


def _on_node(node: str) -> Any:
    only_there = NodeAffinitySchedulingStrategy(node_id=node, soft=False)
    return ray.remote(num_cpus=0, scheduling_strategy=only_there)(read_data)


def run(
    driver: Driver,
    resources: ResolvedResources,
    share: ExclusiveSlots,
    worker: type[tune.Trainable] = Worker,
    reuse_actors: bool = True,
) -> None:
    """Hand the driver's trials to actors until it has no more; `reuse_actors` as Tune's own.

    Raises what the driver raises; an error of Tune's own makes the trials be handed out anew.
    """
    # Tune asks a searcher for one trial at a time unless told otherwise: the second actor would be started
    # only when the first has a trial, and a trial that ends before that takes the second's place
    os.environ["TUNE_MAX_PENDING_TRIALS_PG"] = str(MANY)
    logging.getLogger("ray.tune").setLevel(logging.CRITICAL)  # it misses its own per-trial files
    driver.most_room = most_room(resources)
    driver.devices = resources.gpus or resources.cpus
    sys.setswitchinterval(SWITCH)
    driver.meter = RayMeter(driver.name) if environment.is_shared() else Meter()
    failures = 0
    while not driver.finished:
        _wait_for_a_slot(driver, share)
        searcher = DriverSearcher(driver, share)
        watch = Watch(searcher, resources.max_seconds)
        try:
            _fit(searcher, watch, resources, worker, reuse_actors)
        except Exception:  # Tune trips over an idle actor that is killed, and over one that Ray ends for its memory
            watch.tell_of_memory()
            failures = 0 if searcher.ended else failures + 1
            if failures == TRIES and searcher.broken is None:
                raise
        if searcher.broken:
            raise searcher.broken
        driver.hand_back()


def _wait_for_a_slot(driver: Driver, share: ExclusiveSlots) -> None:
    if not share.slots:
        driver.progress.waits()
    while not share.slots:
        time.sleep(POLL)


def _fit(
    searcher: "DriverSearcher",
    watch: "Watch",
    resources: ResolvedResources,
    worker: type[tune.Trainable],
    reuse_actors: bool,
) -> None:
    with make_folder("tune") as folder:
        tune.Tuner(
            tune.with_resources(worker, lambda config: _request(resources, config["room"])),
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
                stop=_Over(searcher),
                callbacks=[watch],
                checkpoint_config=tune.CheckpointConfig(checkpoint_at_end=False),
            ),
        ).fit()


class DriverSearcher(Searcher):
    """Tune's questions put to the driver; all state is in the ledger.

    Tune takes what a searcher raises for the trial's fault, so it is kept in `broken` and ends the search.
    """

    def __init__(self, driver: Driver, share: ExclusiveSlots) -> None:
        super().__init__()
        self._driver = driver
        self._share = share
        self._assignments: dict[str, Assignment] = {}
        self._unplaced: set[str] = set()  # that wait for more room than others
        self.broken: Exception | None = None
        self.ended = 0

    def suggest(self, trial_id: str) -> dict[str, Any] | str | None:
        if self.broken:
            return str(Searcher.FINISHED)
        self._share.want(self._driver.wanted)
        if self._unplaced or self._driver.running >= self._share.slots:
            return None  # trials that follow would take the room that one waits for
        assignment = self._kept(self._driver.issue)
        if assignment is None:
            return str(Searcher.FINISHED) if self.broken or self._driver.finished else None
        self._assignments[trial_id] = assignment
        if assignment.room > 1:
            self._unplaced.add(trial_id)
        return dict(vars(assignment))

    def placed(self, trial_id: str) -> None:
        """Its actor has the trial."""
        self._unplaced.discard(trial_id)

    def goes_on(self, trial_id: str, report: Report) -> bool:
        """Hand the driver what a worker tells before the end; whether its trial goes on."""
        of = self._assignments[trial_id]
        stopped = self._kept(lambda: self._driver.report(of.number, of.attempt, report))
        self.ended += bool(stopped)
        if not stopped and report.epoch and self.surplus > 0:
            self.give_way(trial_id)
            return False
        return not stopped

    @property
    def surplus(self) -> int:
        """Trials that run beyond the study's share, and in the way of others."""
        return self._driver.running - self._share.slots if self._share.contested else 0

    @property
    def over(self) -> bool:
        """Whether Tune's loop has nothing more to do: the driver cannot go on, or no slot is the study's."""
        return self.broken is not None or (self._share.slots == 0 and self._driver.running == 0)

    def give_way(self, trial_id: str) -> None:
        """Hand a trial back to make room for another study; it goes on from its last checkpoint when its turn comes."""
        of = self._assignments[trial_id]
        self._unplaced.discard(trial_id)
        self._kept(lambda: self._driver.hand_back_one(of.number, of.attempt))

    def on_trial_result(self, trial_id: str, result: dict[str, Any]) -> None:
        """Nothing: the scheduler, which Tune asks first, has told it."""

    def on_trial_complete(self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False) -> None:
        of = self._assignments[trial_id]
        if result and not error and result[REPORT].outcome:  # stopped, or the watch tells why
            self.ended += 1
            self._kept(lambda: self._driver.end(of.number, of.attempt, result[REPORT]))

    def lost(self, trial_id: str, cause: Cause, reason: str) -> None:
        """The trial's actor is gone, or of no more use."""
        of = self._assignments[trial_id]
        self._unplaced.discard(trial_id)
        self._kept(lambda: self._driver.lost(of.number, of.attempt, cause, reason))

    def _kept(self, call: Callable[[], T]) -> T | None:
        if self.broken is None:
            try:
                return call()
            except Exception as error:
                self.broken = error
        return None

    def __getstate__(self) -> dict[str, Any]:
        """Nothing for the copy that Tune writes of its searcher: what it would save stands in the ledger."""
        return {}

    def save(self, checkpoint_path: str) -> None:
        """Nothing, for the same reason."""

    def restore(self, checkpoint_path: str) -> None:
        """Nothing, for the same reason."""


class DriverScheduler(FIFOScheduler):
    """Trials one after the other, each until the driver stops it; actors that wait for none are given back."""

    def __init__(self, searcher: DriverSearcher) -> None:
        super().__init__()
        self._searcher = searcher

    def on_trial_result(self, tune_controller: Any, trial: Any, result: dict[str, Any]) -> str:
        """Tune's question whether a trial goes on after a result that is not its last."""
        goes_on = self._searcher.goes_on(trial.trial_id, result[REPORT])
        return str(TrialScheduler.CONTINUE if goes_on else TrialScheduler.STOP)

    def choose_trial_to_run(self, tune_controller: Any) -> Any:
        """Tune's question which trial is next, asked after its searcher: where there is none, nobody needs an actor."""
        pending = [trial for trial in tune_controller.get_live_trials() if trial.status == "PENDING"]
        if not pending:
            tune_controller._cleanup_cached_actors(force_all=True)  # Tune itself would keep one, and its room with it
        return min(pending, key=lambda trial: trial.trial_id, default=None)


class _Over(tune.Stopper):
    """Ends Tune's loop, and gives its actors back, once the driver cannot go on or has no slot."""

    def __init__(self, searcher: DriverSearcher) -> None:
        self._searcher = searcher

    def __call__(self, trial_id: str, result: dict[str, Any]) -> bool:
        return False

    def stop_all(self) -> bool:
        return self._searcher.over


class Watch(tune.Callback):
    """Sees which trials take too long, kills their actors, and says why an actor was lost."""

    def __init__(self, searcher: DriverSearcher, max_seconds: float | None) -> None:
        self._searcher = searcher
        self._max_seconds = max_seconds
        self._started: dict[str, tuple[float, Any]] = {}  # when, and its actor
        self._overdue: set[str] = set()
        self._yielding: set[str] = set()
        self._within_share = time.monotonic()

    def on_trial_start(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        self._searcher.placed(trial.trial_id)
        self._started[trial.trial_id] = time.monotonic(), trial.temporary_state.ray_actor

    def on_step_begin(self, iteration: int, trials: list[Any], **info: Any) -> None:
        self._give_way()
        if self._max_seconds is None:
            return
        for trial_id, (started, actor) in self._started.items():
            if trial_id not in self._overdue and time.monotonic() > started + self._max_seconds:
                self._overdue.add(trial_id)
                ray.kill(actor)

    def _give_way(self) -> None:
        """Take its actor from the trial that has run shortest, where none gives way at the end of an epoch."""
        now = time.monotonic()
        if self._searcher.surplus <= len(self._yielding):
            self._within_share = now
        elif now > self._within_share + EPOCH:
            running = {one: started for one, (started, _) in self._started.items() if one not in self._yielding}
            if running:
                latest = max(running, key=lambda one: running[one])
                self._yielding.add(latest)
                ray.kill(self._started[latest][1])

    def tell_of_memory(self) -> None:
        """Tell of the trials whose actors Ray has ended since their node was out of memory."""
        asked = {actor.__ray_ready__.remote(): trial_id for trial_id, (_, actor) in self._started.items()}
        dead, _ = ray.wait(list(asked), num_returns=len(asked), timeout=1) if asked else ([], [])
        for answer in dead:
            try:
                ray.get(answer)
            except ray.exceptions.OutOfMemoryError as error:
                self._searcher.lost(asked[answer], *_why(error))
            except ray.exceptions.RayError:
                continue

    def on_trial_complete(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        self._started.pop(trial.trial_id, None)
        self._yielding.discard(trial.trial_id)

    def on_trial_error(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        _, actor = self._started.pop(trial.trial_id, (0.0, None))
        if trial.trial_id in self._yielding:
            self._yielding.discard(trial.trial_id)
            self._searcher.give_way(trial.trial_id)
        elif trial.trial_id in self._overdue:
            self._searcher.lost(trial.trial_id, "time", f"it took longer than max_seconds {self._max_seconds:g}")
        else:
            error = _read_error(trial)
            cause, reason = _why(error)
            if actor and not isinstance(error, ray.exceptions.RayTaskError) and cause == "lost" and _lost_node(actor):
                cause, reason = "node", "its node was lost (preempted, switched off or out of reach)"
            self._searcher.lost(trial.trial_id, cause, reason)


def _read_error(trial: Any) -> Exception | None:
    """Return the error with which Tune lost a trial, None where Tune kept none.

    Tune's own `get_pickled_error` reads it where Tune copies it to, some time later.
    """
    path = trial.pickled_error_file
    return cast(Exception, pickle.loads(Path(path).read_bytes())) if path and Path(path).exists() else None


def _lost_node(actor: Any) -> bool:
    """Return whether an actor that is gone has taken its node with it, or the node the actor."""
    address = _ray_state.actors(actor._actor_id.hex()).get("Address", {})
    deadline = time.monotonic() + NODE_DEATH_PATIENCE_S
    while not (lost := not _is_reachable(address.get("NodeID"))) and time.monotonic() < deadline:
        time.sleep(POLL)
    return lost


def _is_reachable(node_id: str | None) -> bool:
    """Return whether a node is alive for Ray and takes a connection: Ray itself notices a death up to 15 s later."""
    if not node_id:  # an actor that was never placed
        return True
    node = next((node for node in ray.nodes() if node["NodeID"] == node_id), None)
    if node is None or not node["Alive"]:
        return False
    try:
        socket.create_connection((node["NodeManagerAddress"], node["NodeManagerPort"]), NODE_ANSWER_S).close()
    except OSError:
        return False
    return True


def _why(error: Exception | None) -> tuple[Cause, str]:
    """The cause and the words for the error with which Tune lost a trial."""
    found = error.cause if isinstance(error, ray.exceptions.RayTaskError) else error
    if isinstance(found, LostError):
        return found.cause, found.reason
    if isinstance(found, ray.exceptions.OutOfMemoryError) or "OUT_OF_MEMORY" in str(found):
        return "memory", "Ray ended its worker, since the node was out of memory"
    if found is None or isinstance(found, ray.exceptions.RayActorError):  # Tune keeps none of Ray's other errors
        return "lost", "its worker ended without a word (killed, out of memory, or its node is gone)"
    return "lost", f"its worker failed: {type(found).__name__}: {found}".splitlines()[0]


def _request(resources: ResolvedResources, room: int) -> tune.PlacementGroupFactory:
    gpus = min(resources.gpus * room, max(resources.gpus, 1))
    return tune.PlacementGroupFactory([{"CPU": resources.cpus * room, "GPU": gpus}])
