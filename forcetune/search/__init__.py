"""Runs a study: proposes (Optuna), executes (Ray Tune), keeps the ledger."""

import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from types import FrameType
from typing import TYPE_CHECKING

from rich.console import Console

from forcetune import trial
from forcetune.errors import HeldError, InputError, StoppedError
from forcetune.search import environment
from forcetune.spec import Study, Trial
from forcetune.stores import optuna_uri

if TYPE_CHECKING:
    from forcetune.search.doctor import Finding
    from forcetune.search.driver import Driver

AT_LAST = 2.0  # seconds that MLflow gets when a search is interrupted


def check(study: Study) -> list[dict[str, object]]:
    """Load every data set and build every network that the study can ask for; what each of them looks like.

    Raises InputError where one does not load, does not fit the data, keeps no weight at the lowest density, or
    where a class has too few samples for a method's class-balanced batch.
    """
    lowest = min(study.space["density"].values)
    data = ["dataset", "data_root", "train_samples"]
    seen: dict[Trial, dict[str, object]] = {}
    for candidate in _candidates(study, [*data, "model", "width", "small_dense", "layers_from"]):
        try:
            shown = candidate.model_copy(update={"method": "random", "density": lowest})
            if shown not in seen:
                seen[shown] = trial.check(shown)
        except InputError as error:
            raise InputError(f"trial: {error}") from None
    for candidate in _candidates(study, [*data, "method", "samples_per_class", "seed"]):
        try:
            if candidate.balanced:
                trial.check_saliency(candidate)
        except InputError as error:
            raise InputError(f"trial.method {candidate.method}: {error}") from None
    return list({tuple(facts.items()): facts for facts in seen.values()}.values())


def _candidates(study: Study, names: list[str]) -> Iterator[Trial]:
    """A trial for each combination of these fields, the rest at what is required."""
    required = {"dataset": "", "model": "", "method": "random", "density": 1.0}
    for fields in study.combinations([name for name in names if name in study.space]):
        yield Trial(**{**required, **{name: fields[name] for name in names if name in fields}})


def run(study: Study, console: Console, fresh: bool = False) -> None:
    """Search until the study has all its trials or its space is used up; go on where an earlier driver was.

    fresh: archive first what the stores have under the study's name. Nothing is written before the study is
    checked, or started before a trial's resources are known to be there.
    Raises InputError where they are not, HeldError where another driver has the study, StoppedError where a store
    is gone; KeyboardInterrupt on SIGINT and SIGTERM. Whatever it raises, nothing that was done is lost.
    """
    check(study)
    environment.prepare()
    from forcetune.search.archive import archive
    from forcetune.search.driver import open_driver
    from forcetune.search.hold import hold
    from forcetune.search.ledger import known, refuse_changes, taught
    from forcetune.search.proposals import fitting

    uri = optuna_uri()
    with hold(study.study, uri) as held:
        lessons = []
        for other, theirs in taught(study, uri).items():
            fit = fitting(study, theirs)
            told = f"{len(fit)} of {len(theirs)} trials of {other} fit this study, which learns from them"
            console.print(told, soft_wrap=True)
            lessons += fit
        opened = partial(open_driver, study, held.check, console, lessons=lessons)
        if name := archive(study.study, held.check, console, fresh):
            console.print(f"what was there is kept as {name}, in both stores", soft_wrap=True)
        refuse_changes(study, uri)
        driver = opened() if known(study.study, uri) else None
        if driver and driver.finished:
            driver.close()
        else:
            _search(study, console, driver, opened)


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


def _search(study: Study, console: Console, driver: "Driver | None", opened: "Callable[[], Driver]") -> None:
    from forcetune.search import cluster

    with cluster.connected(), _interruptible():
        concurrent = cluster.slots(study.resources)
        driver = driver or opened()
        driver.describe()
        try:
            with driver.progress:
                cluster.run(driver, study.resources, concurrent)
        except BaseException:
            running = driver.hand_back()
            with suppress(StoppedError):  # what ended the search matters more
                driver.close(AT_LAST)
            console.print(f"{running} running trials handed back, {driver.progress.done} of {study.trials} done")
            raise
        driver.close()


@contextmanager
def _interruptible() -> Iterator[None]:
    """SIGTERM ends a search as SIGINT does; entered after Ray has started, which aborts on SIGTERM."""

    def interrupt(number: int, frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
