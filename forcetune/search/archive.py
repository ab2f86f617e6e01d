"""`--fresh`: a study is renamed in both stores to a dated name, so that its own name is free again."""

from collections.abc import Callable
from datetime import date
from itertools import count

from rich.console import Console

from forcetune import tracking
from forcetune.ledger.driver_lock import driver_lock
from forcetune.ledger.fail_points import durable
from forcetune.ledger.recorded_study import load_recorded_study
from forcetune.ledger.storage import has_study
from forcetune.ledger.study_attributes import pending_archive
from forcetune.names import COMPANION
from forcetune.search.driver import open_driver
from forcetune.stores import mlflow_uri, optuna_uri
from forcetune.tracking import Tracker

ARCHIVED_REASON = "the trial had not ended when its study was archived"


def archive(study: str, check: Callable[[], None], console: Console, fresh: bool) -> str | None:
    """Archive a study where this is asked for, or where a driver that was killed had begun to archive it.

    Trials that have not ended become failed trials, so that nothing in the archive stays RUNNING. The study is renamed
    in the ledger last: until then the next driver of the study repeats every step.

    Args:
        study: The name of the study.
        check: Raises HeldError where another driver has the study.
        console: The console for the progress of the study's driver.
        fresh: Whether to archive the study also where no earlier driver had begun to.

    Returns:
        The name of the archived study; None where nothing was archived.

    Raises:
        HeldError: A driver runs the study's companions, which are archived with it; nothing is changed then.
    """
    pending_name = pending_archive(study, optuna_uri())
    if not (pending_name or fresh):
        return None
    name = pending_name or _find_free_name(study)
    if has_study(study, optuna_uri()):
        with driver_lock(study + COMPANION, optuna_uri()) as companions:
            _archive(study, check, companions.check, console, name)
    elif tracking.has_experiment(study, mlflow_uri()):  # somebody has deleted its ledger
        Tracker(study, mlflow_uri()).rename(name)
    else:
        return None
    return name


def _archive(
    study: str, check: Callable[[], None], check_companions: Callable[[], None], console: Console, name: str
) -> None:
    is_renamed = tracking.has_experiment(name, mlflow_uri())
    driver = open_driver(
        load_recorded_study(study, optuna_uri()),
        check,
        console,
        experiment=name if is_renamed else study,
        is_recorded=True,
    )
    driver.ledger.begin_archive(name)
    driver.give_up(ARCHIVED_REASON)
    driver.close()
    if has_study(study + COMPANION, optuna_uri()):
        _archive(study + COMPANION, check_companions, check_companions, console, name + COMPANION)
    with durable("experiment archived"):
        driver.tracker.rename(name)
    driver.ledger.rename(name)


def _find_free_name(study: str) -> str:
    """Return the study's name with today's date, and with a number where a study of that name exists."""
    dated = f"{study}.{date.today().isoformat()}"
    for number in count(1):
        name = dated if number == 1 else f"{dated}.{number}"
        if not has_study(name, optuna_uri()) and not tracking.has_experiment(name, mlflow_uri()):
            return name
    raise AssertionError
