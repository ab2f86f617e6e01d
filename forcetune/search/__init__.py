"""Runs a study: proposes (Optuna), executes (Ray Tune), keeps the ledger."""

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from rich.console import Console

from forcetune import trial
from forcetune.errors import InputError
from forcetune.search import environment
from forcetune.spec import Study, Trial
from forcetune.stores import mlflow_uri, optuna_uri


def check(study: Study) -> list[dict[str, object]]:
    """Load every data set and build every network that the study can ask for; what each of them looks like.

    Raises InputError where one does not load, does not fit the data, or keeps no weight at the lowest density.
    """
    lowest = min(study.space["density"].values)
    shaping = [name for name in ("dataset", "data_root", "train_samples", "model", "width") if name in study.space]
    seen: dict[Trial, dict[str, object]] = {}
    for fields in study.combinations(shaping):
        shaped = {name: fields[name] for name in shaping if name in fields}
        candidate = Trial(**shaped, method="random", density=lowest)
        if candidate not in seen:
            try:
                seen[candidate] = trial.check(candidate)
            except InputError as error:
                raise InputError(f"trial: {error}") from None
    return list(seen.values())


def run(study: Study, console: Console) -> None:
    """Search until the study has all its trials or its space is used up.

    Nothing is written before the study is checked and a trial's resources are known to be there.
    Raises InputError where they are not; KeyboardInterrupt on SIGINT and SIGTERM, what was started kept.
    """
    check(study)
    environment.prepare()
    from forcetune.search import cluster
    from forcetune.search.driver import Driver
    from forcetune.search.ledger import Ledger, refuse_changes
    from forcetune.search.progress import Progress
    from forcetune.tracking import Tracker

    refuse_changes(study, optuna_uri())
    with cluster.connected(), _interruptible():
        concurrent = cluster.slots(study.resources)
        tracker = Tracker(study.study, mlflow_uri())
        progress = Progress(study, console)
        driver = Driver(study, Ledger(study, optuna_uri()), tracker, mlflow_uri(), progress)
        if not driver.finished:
            with progress:
                cluster.run(driver, study.resources, concurrent)
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
