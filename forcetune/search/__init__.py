"""The search of a study: it proposes trials (Optuna), executes them (Ray Tune) and keeps the ledger."""

import signal
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from functools import partial
from types import FrameType
from typing import TYPE_CHECKING, Any, Self

from rich.console import Console

from forcetune import trial
from forcetune.containment import contained
from forcetune.errors import HeldError, InputError, StoppedError
from forcetune.names import COMPANION
from forcetune.search import environment
from forcetune.spec import CompanionRuns, Priority, ResolvedResources, Search, Study, Trial, check_reported
from forcetune.stores import absolute_uri, optuna_uri

if TYPE_CHECKING:
    import pandas as pd

    from forcetune.search.cost import Cost
    from forcetune.search.deletion import Contents
    from forcetune.search.doctor import Finding
    from forcetune.search.driver import Driver
    from forcetune.search.proposals import PriorTrial
    from forcetune.search.shares import ExclusiveSlots

MAX_ASKS_PER_TRIAL = 10  # of a sampler, for each drawn configuration, since it may propose one twice
INTERRUPT_MLFLOW_PATIENCE_S = 2.0  # for MLflow to take what is due when a search is interrupted


@contained()
def check(study: Study) -> list[dict[str, Any]]:
    """Load every data set and build every network that the study can propose.

    Args:
        study: The study.

    Returns:
        The description of each network on each data set, as `trial.check` returns it; each one once.

    Raises:
        InputError: A data set does not load; a network does not fit the data, or keeps no weight at the lowest density;
            a saliency batch cannot be drawn (too few samples of a class) or scored (a single sample); a function of the
            user fails; or an objective or a constraint is a metric that no trial reports.
    """
    lowest_density = min(study.space["density"].values)
    data_fields = ["dataset", "data_root", "train_samples"]
    descriptions: dict[Trial, dict[str, Any]] = {}
    for candidate in _list_candidates(study, [*data_fields, "model", "width", "small_dense", "layers_from"]):
        try:
            sparsest = candidate.model_copy(update={"method": "random", "density": lowest_density})
            if sparsest not in descriptions:
                descriptions[sparsest] = trial.check(sparsest)
        except InputError as error:
            raise InputError(f"trial: {error}") from None
    batch_fields = ["saliency_batch_size", "samples_per_class"]
    for candidate in _list_candidates(study, [*data_fields, "model", "width", "method", *batch_fields, "seed"]):
        try:
            if candidate.saliency_samples_per_class or candidate.saliency_batch_size == 1:
                trial.check_saliency(candidate)
        except InputError as error:
            raise InputError(f"trial.method {candidate.method}: {error}") from None
    check_reported(study, *trial.find_reported_metrics(next(iter(descriptions)), study.task))
    return list({tuple(description.items()): description for description in descriptions.values()}.values())


def _list_candidates(study: Study, names: list[str]) -> Iterator[Trial]:
    """Yield a trial for each combination of the values of these fields; other fields have a value that is valid."""
    required = {"dataset": "", "model": "", "method": "random", "density": 1.0}
    for fields in study.combinations([name for name in names if name in study.space]):
        yield Trial(**{**required, **{name: fields[name] for name in names if name in fields}})


def run(
    study: Study, console: Console, fresh: bool = False, priority: Priority = "normal", retry_failed: bool = False
) -> str | None:
    """Search until the study has all its trials or its space is used up; go on where an earlier driver ended.

    After that, run the front again with fresh seeds, where the study has `search.seeds`. Nothing is written before the
    study is checked, and nothing is started before the resources of a trial were found. After any exception all
    finished work is kept.

    Args:
        study: The study.
        console: Where the progress is shown.
        fresh: Whether to archive first what the stores have under the study's name.
        priority: The priority among the studies of a cluster: those of low priority get what the others leave.
        retry_failed: Whether to run the failed trials again, failed re-runs with fresh seeds among them.

    Returns:
        Why the search, or its re-runs, ended early; None where all trials were run.

    Raises:
        InputError: The study cannot be run, or no node has the resources of a trial.
        HeldError: Another driver runs the study.
        StoppedError: A store is gone, or too many trials fail.
        KeyboardInterrupt: The process received SIGINT or SIGTERM.
    """
    environment.prepare()
    with _Cluster(study, console, priority) as cluster:
        cluster.begin()
        return _run(study, console, fresh, retry_failed, cluster)


def _run(study: Study, console: Console, fresh: bool, retry_failed: bool, cluster: "_Cluster") -> str | None:
    descriptions = check(study)
    from forcetune.search import cost
    from forcetune.search.archive import archive
    from forcetune.search.companions import rerun
    from forcetune.search.driver import open_driver
    from forcetune.search.driver_lock import driver_lock
    from forcetune.search.ledger import has_study, load_prior_trials, pending_archive, refuse_changes, request_retry
    from forcetune.search.proposals import make_proposals, select_fitting

    uri = optuna_uri()
    with driver_lock(study.study, uri) as lock:
        prior_trials = []
        for prior_study, trials in load_prior_trials(study, uri).items():
            fitting = select_fitting(study, trials)
            message = (
                f"{len(fitting)} of {len(trials)} trials of {prior_study} fit this study; the search learns from them"
            )
            console.print(message, soft_wrap=True)
            prior_trials += fitting
        if fresh or pending_archive(study.study, uri):
            _check_new(study, prior_trials)
            cluster.start()  # a study that cannot be run must be refused before anything is archived
        if name := archive(study.study, lock.check, console, fresh):
            console.print(f"the earlier study is kept in both stores under the name {name}", soft_wrap=True)
        refuse_changes(study, uri)
        if not has_study(study.study, uri):
            cluster.start()  # nothing may be written where no trial fits
        references = study.references(1 / max(description["classes"] for description in descriptions))
        propose = partial(make_proposals, study, prior_trials=prior_trials)
        if retry_failed:  # the request is recorded before any trial runs, so that a kill does not lose it
            for name in (study.study, study.study + COMPANION):
                request_retry(name, uri)
        driver = open_driver(study, lock.check, console, references=references, propose=propose)
        has_work = not driver.is_finished
        cluster.drive(driver)
        if driver.failure_reason:
            raise StoppedError(_explain_failures(study, driver.failure_reason))
        if driver.end_reason:
            return f"the search ended early: {driver.end_reason}"
        if has_work:
            cost.report(study, driver.hours, console)
        if study.search.seeds is None:
            return None
        with driver_lock(study.study + COMPANION, uri) as companion_lock:
            return rerun(study, companion_lock.check, console, cluster.drive)


def _explain_failures(study: Study, reason: str) -> str:
    return (
        f"the search was given up: {reason}. The artifact error.json of the failed runs has the traceback. After you "
        "fix the cause, the same command continues with the remaining trials and counts failures from zero; with "
        "--retry-failed it also runs the failed trials again. A higher `search.max_failures` in the study file allows "
        f"more failed trials ({study.trials} allows all)"
    )


def _check_new(study: Study, prior_trials: "list[PriorTrial]") -> None:
    """Raise InputError where no trial can be proposed for the study without its trials."""
    from forcetune.search.proposals import make_proposals

    make_proposals(study, [], prior_trials=prior_trials)


def run_companions(companion_runs: CompanionRuns, console: Console, priority: Priority = "normal") -> str | None:
    """Run the listed companions that a study lacks, or go on where an earlier driver ended.

    After any exception all finished work is kept.

    Args:
        companion_runs: The study and its listed companions.
        console: Where the progress is shown.
        priority: The priority among the studies of a cluster.

    Returns:
        Why the companions ended early, None where all were run.

    Raises:
        InputError: The study cannot be run, or no node has the resources of a trial, or the study is archived.
        HeldError: Another driver runs the companions.
        StoppedError: A store is gone.
        KeyboardInterrupt: The process received SIGINT or SIGTERM.
    """
    environment.prepare()
    from forcetune.search.companions import run_listed_companions
    from forcetune.search.driver_lock import driver_lock

    companion = companion_runs.study.make_companion(Search())
    with _Cluster(companion, console, priority) as cluster:
        cluster.begin()
        check(companion_runs.study)
        with driver_lock(companion.study, optuna_uri()) as lock:
            _refuse_archived(companion_runs.study.study)
            return run_listed_companions(companion_runs, lock.check, console, cluster.drive)


def _refuse_archived(study: str) -> None:
    """Raise InputError where the study is archived, or where a driver was killed while it archived the study."""
    from forcetune import tracking
    from forcetune.search.ledger import pending_archive
    from forcetune.stores import mlflow_uri

    if archive_name := pending_archive(study, optuna_uri()):
        raise InputError(
            f"the archiving of the study {study!r} and its companions as {archive_name} was interrupted; "
            f"`forcetune doctor {study} --repair` completes it"
        )
    if not tracking.has_experiment(study, mlflow_uri()):
        raise InputError(f"the study {study!r} is no longer in MLflow: it was archived or deleted in the meantime")


def has_run(companion_runs: CompanionRuns) -> bool:
    """Return whether the ledger has each listed companion, and its outcome."""
    from forcetune.search.ledger import load_trials, select_current

    trials = select_current(load_trials(companion_runs.study.study + COMPANION, optuna_uri()))
    return {companion_run.key for companion_run in companion_runs.companions} <= {
        frozen_trial.user_attrs.get("key") for frozen_trial in trials if frozen_trial.state.is_finished()
    }


def draw(study: Study, count: int) -> list[Trial]:
    """Return the configurations that a random search of the study tries first, by the study's seed.

    Args:
        study: The study.
        count: The number of configurations; fewer are returned where the space has fewer.
    """
    environment.prepare()
    from forcetune.search.proposals import SampledProposals

    proposals = SampledProposals(study, [])
    configurations: dict[str, Trial] = {}
    for _ in range(MAX_ASKS_PER_TRIAL * count):
        if len(configurations) < count and (proposal := proposals.ask()):
            configurations.setdefault(proposal.trial.key, proposal.trial)
    return list(configurations.values())


def is_complete(study: Study) -> bool:
    """Return whether the ledger has all of the study's trials, and the outcome of each."""
    from forcetune.search.ledger import load_trials, select_counted

    finished_trials = [
        frozen_trial
        for frozen_trial in select_counted(load_trials(study.study, optuna_uri()))
        if frozen_trial.state.is_finished()
    ]
    return len(finished_trials) >= study.trials


def is_over(study: Study) -> bool:
    """Return whether no work is left for another driver: the study is complete, or was given up after failures."""
    from forcetune.search.ending import is_hopeless
    from forcetune.search.ledger import load_trials

    return is_complete(study) or is_hopeless(study, load_trials(study.study, optuna_uri()))


def importance(table: "pd.DataFrame") -> "pd.DataFrame":
    """Return the importance of each sampled field for each objective, by conditional PED-ANOVA.

    Args:
        table: The trials of one study, as `results.load` returns them.

    Returns:
        One row a sampled field and one column a target, as `anova.importance` returns them.

    Raises:
        InputError: Fewer than ten trials report all objectives, or the study samples no field.
    """
    from forcetune.search import anova

    return anova.importance(table)


def predict(study: Study) -> "Cost":
    """Predict the cost of a search, and keep the prediction so that the search can print it beside its real cost.

    Args:
        study: The study.

    Returns:
        The predicted cost, from a few measured seconds of the slowest and the fastest trial.

    Raises:
        InputError: A trial fails.
    """
    environment.prepare()
    from forcetune.search import cost

    try:
        with contained():
            return cost.predict(study)
    except InputError:
        raise
    except Exception as error:  # the user's model, data or method may raise anything
        raise InputError(f"a trial of the study fails: {type(error).__name__}: {error}") from error


def examine(name: str, mend: bool = False) -> tuple["list[Finding]", "list[Finding]", str | None]:
    """Find the disagreements between the two stores about a study, and mend them where it is asked for.

    While a search runs, only finished trials are examined.

    Args:
        name: The name of the study.
        mend: Whether to mend what can be mended.

    Returns:
        The findings that were mended, those that are left, and the driver that runs the study, None where none does.

    Raises:
        InputError: The ledger has no such study, or a store does not answer.
        HeldError: The study runs, and `mend` is set.
    """
    environment.prepare()
    from forcetune.search import doctor
    from forcetune.search.driver_lock import driver_lock

    try:
        with driver_lock(name, optuna_uri()) as lock:
            return (*doctor.repair(name, lock.check), None) if mend else ([], doctor.examine(name, lock.check), None)
    except HeldError as error:
        if mend:
            raise
        return [], doctor.examine(name, live=True), str(error)


def find_contents(name: str) -> "Contents":
    """Return what `delete` would delete.

    Args:
        name: The name of the study.

    Raises:
        InputError: Neither store has the study.
    """
    environment.prepare()
    from forcetune.search import deletion

    return deletion.find(name)


def delete(name: str) -> None:
    """Delete a study and its companion from both stores.

    Args:
        name: The name of the study.

    Raises:
        HeldError: A driver runs the study or its companion.
    """
    environment.prepare()
    from forcetune.search import deletion

    deletion.delete(name)


def move(name: str, ledger: str | None, runs: str | None, say: Callable[[str], None]) -> None:
    """Move a study and its companion to other stores; after a kill the same command goes on.

    Args:
        name: The name of the study.
        ledger: The address of the Optuna storage that gets the trials; None leaves the trials where they are.
        runs: The address of the MLflow store that gets the runs; None leaves the runs where they are.
        say: Called with a line of text for what was done.

    Raises:
        InputError: There is no such study, a store cannot be used, or it has another study of that name.
        HeldError: A driver runs the study or its companion.
        StoppedError: A copy differs from its source; both are kept.
    """
    environment.prepare()
    from forcetune.search import moving

    ledger, runs = (None if uri is None else absolute_uri(uri) for uri in (ledger, runs))
    moving.check_targets(ledger, runs)
    moving.move(name, ledger, runs, say)


class _Cluster:
    """Ray, connected from the first driver that has trials to run until the end of the search."""

    def __init__(self, study: Study, console: Console, priority: Priority) -> None:
        self._study = study
        self._console = console
        self._priority = priority
        self._stack = ExitStack()
        self._data_reads: list[tuple[str, Any]] = []
        self._placement: tuple[ResolvedResources, ExclusiveSlots] | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self._stack.close()

    def begin(self) -> None:
        """Connect to a cluster, and let its nodes read the data; a Ray of this process is started later."""
        if environment.is_shared():
            from forcetune.search import cluster

            self._connect()
            self._data_reads = cluster.start_data_reads(self._study)

    def start(self) -> tuple[ResolvedResources, "ExclusiveSlots"]:
        """Connect, once; return the resources of a trial, and the study's share of the slots.

        Raises:
            InputError: No trial fits, or a node of a cluster does not have the data.
        """
        from forcetune.search import cluster

        if self._placement is None:
            if not environment.is_shared():
                self._connect()
            resources = cluster.resolve_resources(self._study, self._console)
            self._placement = resources, cluster.assign_slots(self._study, resources, self._priority)
            cluster.check_data_reads(self._data_reads)
        return self._placement

    def _connect(self) -> None:
        from forcetune.search.connection import connect_ray

        self._stack.enter_context(connect_ray())
        self._stack.enter_context(_interruptible())

    def drive(self, driver: "Driver") -> None:
        """Run a driver to its end; hand its trials back where an exception ends it early."""
        from forcetune.search import cluster

        if driver.is_finished:
            driver.close()
            return
        resources, share = self.start()
        driver.describe()
        try:
            with driver.progress, share:
                cluster.run(driver, resources, share)
        except BaseException:
            running = driver.hand_back()
            with suppress(StoppedError):  # the exception that ended the search matters more
                driver.close(INTERRUPT_MLFLOW_PATIENCE_S)
            with suppress(OSError):  # a full disk may be the log's too
                self._console.print(f"{running} running trials handed back, {driver.progress.done_of_total} done")
            raise
        driver.close()


@contextmanager
def _interruptible() -> Iterator[None]:
    """Let SIGTERM end a search as SIGINT does. Enter this after Ray has started: Ray by itself aborts on SIGTERM."""

    def interrupt(number: int, frame: FrameType | None) -> None:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)  # a job that is stopped receives the signal twice
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
