"""Runs a study: proposes (Optuna), executes (Ray Tune), keeps the ledger."""

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
from forcetune.spec import Errand, Placed, Priority, Search, Study, Trial, check_reported
from forcetune.stores import absolute, optuna_uri

if TYPE_CHECKING:
    import pandas as pd

    from forcetune.search.cost import Cost
    from forcetune.search.deletion import Contents
    from forcetune.search.doctor import Finding
    from forcetune.search.driver import Driver
    from forcetune.search.proposals import Lesson
    from forcetune.search.shares import Alone

REPEATS = 10  # proposals for each that is wanted: some come up twice
AT_LAST = 2.0  # seconds that MLflow gets when a search is interrupted


@contained()
def check(study: Study) -> list[dict[str, Any]]:
    """Load every data set and build every network that the study can ask for; what each of them looks like.

    Raises InputError where one does not load, does not fit the data, keeps no weight at the lowest density, where
    a saliency batch cannot be had (too few samples of a class) or scored (a single sample), where a function of the
    user's fails, or where an objective or a constraint is a metric that no trial has.
    """
    lowest = min(study.space["density"].values)
    data = ["dataset", "data_root", "train_samples"]
    seen: dict[Trial, dict[str, Any]] = {}
    for candidate in _candidates(study, [*data, "model", "width", "small_dense", "layers_from"]):
        try:
            shown = candidate.model_copy(update={"method": "random", "density": lowest})
            if shown not in seen:
                seen[shown] = trial.check(shown)
        except InputError as error:
            raise InputError(f"trial: {error}") from None
    batches = ["saliency_batch_size", "samples_per_class"]
    for candidate in _candidates(study, [*data, "model", "width", "method", *batches, "seed"]):
        try:
            if candidate.balanced or candidate.saliency_batch_size == 1:
                trial.check_saliency(candidate)
        except InputError as error:
            raise InputError(f"trial.method {candidate.method}: {error}") from None
    check_reported(study, *trial.reported(next(iter(seen)), study.task))
    return list({tuple(facts.items()): facts for facts in seen.values()}.values())


def _candidates(study: Study, names: list[str]) -> Iterator[Trial]:
    """A trial for each combination of these fields, the rest at what is required."""
    required = {"dataset": "", "model": "", "method": "random", "density": 1.0}
    for fields in study.combinations([name for name in names if name in study.space]):
        yield Trial(**{**required, **{name: fields[name] for name in names if name in fields}})


def run(
    study: Study, console: Console, fresh: bool = False, priority: Priority = "normal", retry_failed: bool = False
) -> str | None:
    """Search until the study has all its trials or its space is used up; go on where an earlier driver was.

    Then run the front again with fresh seeds, where the study asks for it. Returns why the search, or its re-runs,
    ended before they were through, None where they are.

    fresh: archive first what the stores have under the study's name; priority: among the studies of a cluster, those
    of low priority get what the others leave; retry_failed: run the failed trials again, re-runs with fresh seeds
    among them. Nothing is written before the study is checked, or started before a trial's resources are known
    to be there.
    Raises InputError where they are not, HeldError where another driver has the study, StoppedError where a store
    is gone or too many trials fail; KeyboardInterrupt on SIGINT and SIGTERM. Whatever it raises, nothing that was
    done is lost.
    """
    environment.prepare()
    with _Cluster(study, console, priority) as cluster:
        cluster.begin()
        return _run(study, console, fresh, retry_failed, cluster)


def _run(study: Study, console: Console, fresh: bool, retry_failed: bool, cluster: "_Cluster") -> str | None:
    facts = check(study)
    from forcetune.search import cost
    from forcetune.search.archive import archive
    from forcetune.search.companions import rerun
    from forcetune.search.driver import open_driver
    from forcetune.search.hold import hold
    from forcetune.search.ledger import known, pending_archive, refuse_changes, request_retry, taught
    from forcetune.search.proposals import fitting, make_proposals

    uri = optuna_uri()
    with hold(study.study, uri) as held:
        lessons = []
        for other, theirs in taught(study, uri).items():
            fit = fitting(study, theirs)
            told = f"{len(fit)} of {len(theirs)} trials of {other} fit this study, which learns from them"
            console.print(told, soft_wrap=True)
            lessons += fit
        if fresh or pending_archive(study.study, uri):
            _check_new(study, lessons)
            cluster.start()  # what is refused is refused before anything is archived
        if name := archive(study.study, held.check, console, fresh):
            console.print(f"what was there is kept as {name}, in both stores", soft_wrap=True)
        refuse_changes(study, uri)
        if not known(study.study, uri):
            cluster.start()  # where a trial finds no room nothing is written
        references = study.references(1 / max(fact["classes"] for fact in facts))
        propose = partial(make_proposals, study, lessons=lessons)
        if retry_failed:  # noted before anything is run, so that a kill does not lose it
            for name in (study.study, study.study + COMPANION):
                request_retry(name, uri)
        driver = open_driver(study, held.check, console, references=references, propose=propose)
        searching = not driver.finished
        cluster.drive(driver)
        if driver.hopeless:
            raise StoppedError(_explain_failures(study, driver.hopeless))
        if driver.ending:
            return f"the search ended by its {driver.ending}"
        if searching:
            cost.report(study, driver.hours, console)
        if study.search.seeds is None:
            return None
        with hold(study.study + COMPANION, uri) as companions:
            return rerun(study, companions.check, console, cluster.drive)


def _explain_failures(study: Study, reason: str) -> str:
    return (
        f"the search was given up: {reason}. Where it happened is in the artifact error.json of the failed runs. Once "
        "the cause is mended, the same command goes on with the trials that are left, and counts failures anew; with "
        "--retry-failed it also runs the failed ones again; "
        f"`search.max_failures` in the study file bears more of them ({study.trials}: all)"
    )


def _check_new(study: Study, lessons: "list[Lesson]") -> None:
    """Raise InputError where nothing can be proposed for a study that has no trials."""
    from forcetune.search.proposals import make_proposals

    make_proposals(study, [], lessons=lessons)


def run_companions(errand: Errand, console: Console, priority: Priority = "normal") -> str | None:
    """Run those companions of a study that it lacks, or go on where an earlier driver was.

    Returns why that ended before all were run, None where they are. Raises as `run` does, and loses as little.
    """
    environment.prepare()
    from forcetune.search.companions import run_errand
    from forcetune.search.hold import hold

    companion = errand.study.companion(Search())
    with _Cluster(companion, console, priority) as cluster:
        cluster.begin()
        check(errand.study)
        with hold(companion.study, optuna_uri()) as held:
            _refuse_archived(errand.study.study)
            return run_errand(errand, held.check, console, cluster.drive)


def _refuse_archived(study: str) -> None:
    """Raise InputError where a driver that was killed had begun to archive the study, or another has archived it."""
    from forcetune import tracking
    from forcetune.search.ledger import pending_archive
    from forcetune.stores import mlflow_uri

    if begun := pending_archive(study, optuna_uri()):
        raise InputError(
            f"the study {study!r} was being archived as {begun}, and its companions with it; `forcetune doctor {study} "
            "--repair` finishes that"
        )
    if not tracking.exists(study, mlflow_uri()):
        raise InputError(f"the study {study!r} is no longer in MLflow: it was archived or deleted meanwhile")


def has_run(errand: Errand) -> bool:
    """Whether the ledger has each companion, and what became of it."""
    from forcetune.search.ledger import current, trials_of

    told = current(trials_of(errand.study.study + COMPANION, optuna_uri()))
    return {one.key for one in errand.companions} <= {t.user_attrs.get("key") for t in told if t.state.is_finished()}


def draw(study: Study, count: int) -> list[Trial]:
    """The configurations that a random search of the study would try first, by its seed; fewer where it has fewer."""
    environment.prepare()
    from forcetune.search.proposals import Sampled

    proposals = Sampled(study, [])
    found: dict[str, Trial] = {}
    for _ in range(REPEATS * count):
        if len(found) < count and (proposal := proposals.ask()):
            found.setdefault(proposal.trial.key, proposal.trial)
    return list(found.values())


def is_complete(study: Study) -> bool:
    """Whether the ledger has all of the study's trials, and what became of each."""
    from forcetune.search.ledger import counted, trials_of

    told = [trial for trial in counted(trials_of(study.study, optuna_uri())) if trial.state.is_finished()]
    return len(told) >= study.trials


def is_over(study: Study) -> bool:
    """Return whether nothing is left for another driver: the study is complete, or was given up after failures."""
    from forcetune.search.ending import is_hopeless
    from forcetune.search.ledger import trials_of

    return is_complete(study) or is_hopeless(study, trials_of(study.study, optuna_uri()))


def importance(table: "pd.DataFrame") -> "pd.DataFrame":
    """How much each sampled field has to do with each objective, as `anova.importance` says."""
    from forcetune.search import anova

    return anova.importance(table)


def predict(study: Study) -> "Cost":
    """What a search will cost, and keep it for the search to be held against. Raises InputError where a trial fails."""
    environment.prepare()
    from forcetune.search import cost

    try:
        with contained():
            return cost.predict(study)
    except InputError:
        raise
    except Exception as error:  # the user's own model, data or method may raise anything
        raise InputError(f"a trial of the study fails: {type(error).__name__}: {error}") from error


def examine(name: str, mend: bool = False) -> tuple["list[Finding]", "list[Finding]", str | None]:
    """What disagrees about a study: what was mended, what is left, and who holds the study where a search runs.

    Of a running one only trials that are told are looked at. Raises InputError where the ledger has no such study
    or a store does not answer, HeldError where a running study is to be mended.
    """
    environment.prepare()
    from forcetune.search import doctor
    from forcetune.search.hold import hold

    try:
        with hold(name, optuna_uri()) as held:
            return (*doctor.repair(name, held.check), None) if mend else ([], doctor.examine(name, held.check), None)
    except HeldError as error:
        if mend:
            raise
        return [], doctor.examine(name, live=True), str(error)


def find_contents(name: str) -> "Contents":
    """What `delete` would delete. Raises InputError where neither store has the study."""
    environment.prepare()
    from forcetune.search import deletion

    return deletion.find(name)


def delete(name: str) -> None:
    """Delete a study and its companion from both stores. Raises HeldError where a driver runs one of them."""
    environment.prepare()
    from forcetune.search import deletion

    deletion.delete(name)


def move(name: str, ledger: str | None, runs: str | None, say: Callable[[str], None]) -> None:
    """Move a study and its companion to other stores, as `moving.move` says."""
    environment.prepare()
    from forcetune.search import moving

    targets = _targets(ledger, runs)
    moving.check_targets(*targets)
    moving.move(name, *targets, say=say)


def check_targets(ledger: str | None, runs: str | None) -> None:
    """Raise InputError where a study cannot be moved to these stores, as `moving.check_targets` says."""
    from forcetune.search import moving

    moving.check_targets(*_targets(ledger, runs))


def _targets(ledger: str | None, runs: str | None) -> tuple[str | None, str | None]:
    return ledger and absolute(ledger), runs and absolute(runs)


class _Cluster:
    """Ray, from the first driver that has something to run to the end of the search."""

    def __init__(self, study: Study, console: Console, priority: Priority) -> None:
        self._study = study
        self._console = console
        self._priority = priority
        self._stack = ExitStack()
        self._asked: list[tuple[str, Any]] = []
        self._room: tuple[Placed, Alone] | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self._stack.close()

    def begin(self) -> None:
        """Connect to a cluster, whose nodes have something to do before they are needed; a Ray of our own can wait."""
        if environment.is_shared():
            from forcetune.search import cluster

            self._connect()
            self._asked = cluster.ask_nodes(self._study)

    def start(self) -> tuple[Placed, "Alone"]:
        """Connect; what a trial occupies, and the study's share of the slots.

        Raises InputError where no trial finds room, and where a node of a cluster does not have the data.
        """
        from forcetune.search import cluster

        if self._room is None:
            if not environment.is_shared():
                self._connect()
            resources = cluster.place(self._study, self._console)
            self._room = resources, cluster.share(self._study, resources, self._priority)
            cluster.hear_nodes(self._asked)
        return self._room

    def _connect(self) -> None:
        from forcetune.search.connection import connected

        self._stack.enter_context(connected())
        self._stack.enter_context(_interruptible())

    def drive(self, driver: "Driver") -> None:
        """Run a driver to its end; its trials are handed back where something ends it before that."""
        from forcetune.search import cluster

        if driver.finished:
            driver.close()
            return
        resources, share = self.start()
        driver.describe()
        try:
            with driver.progress, share:
                cluster.run(driver, resources, share)
        except BaseException:
            running = driver.hand_back()
            with suppress(StoppedError):  # what ended the search matters more
                driver.close(AT_LAST)
            with suppress(OSError):  # the disk that is full may be the log's too
                self._console.print(f"{running} running trials handed back, {driver.progress.counted} done")
            raise
        driver.close()


@contextmanager
def _interruptible() -> Iterator[None]:
    """SIGTERM ends a search as SIGINT does; entered after Ray has started, which aborts on SIGTERM."""

    def interrupt(number: int, frame: FrameType | None) -> None:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)  # a job that is stopped hears of it twice
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
