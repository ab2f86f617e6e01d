"""`--fresh`: what both stores have of a study goes under a dated name, and the study's own name is free again."""

from collections.abc import Callable
from datetime import date
from itertools import count

from rich.console import Console

from forcetune import tracking
from forcetune.names import COMPANION
from forcetune.search.driver import open_driver
from forcetune.search.driver_lock import driver_lock
from forcetune.search.faults import durable
from forcetune.search.ledger import known, pending_archive, recorded
from forcetune.stores import mlflow_uri, optuna_uri
from forcetune.tracking import Tracker

REASON = "it had not ended when its study was archived"


def archive(study: str, check: Callable[[], None], console: Console, wanted: bool) -> str | None:
    """Archive a study where it is wanted, or where a driver that was killed had begun to; the name it has now.

    Trials that had not ended fail, so that nothing stays RUNNING under the old name. The ledger's new name comes
    last: until then every step is done again by whoever starts the study next. None where there is nothing.

    Raises:
        HeldError: A driver runs the study's companions, which are archived with it; nothing is changed then.
    """
    begun = pending_archive(study, optuna_uri())
    if not (begun or wanted):
        return None
    name = begun or _free(study)
    if known(study, optuna_uri()):
        with driver_lock(study + COMPANION, optuna_uri()) as companions:
            _archive(study, check, companions.check, console, name)
    elif tracking.exists(study, mlflow_uri()):  # its ledger is gone
        Tracker(study, mlflow_uri()).rename(name)
    else:
        return None
    return name


def _archive(
    study: str, check: Callable[[], None], check_companions: Callable[[], None], console: Console, name: str
) -> None:
    renamed = tracking.exists(name, mlflow_uri())
    driver = open_driver(recorded(study, optuna_uri()), check, console, experiment=name if renamed else study)
    driver.ledger.begin_archive(name)
    driver.give_up(REASON)
    driver.close()
    if known(study + COMPANION, optuna_uri()):
        _archive(study + COMPANION, check_companions, check_companions, console, name + COMPANION)
    with durable("experiment archived"):
        driver.tracker.rename(name)
    driver.ledger.rename(name)


def _free(study: str) -> str:
    """The study's name with today's date, and a number where that is taken."""
    dated = f"{study}.{date.today().isoformat()}"
    for number in count(1):
        name = dated if number == 1 else f"{dated}.{number}"
        if not known(name, optuna_uri()) and not tracking.exists(name, mlflow_uri()):
            return name
    raise AssertionError
