"""The one path of a study: checked, searched, its front run again; and what is done with a study that was searched."""

from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console

from forcetune.containment import contained
from forcetune.errors import HeldError, InputError, StoppedError
from forcetune.execution import environment
from forcetune.execution.checking import check_study
from forcetune.execution.session import RaySession
from forcetune.ledger.fail_points import refuse_outside_tests
from forcetune.names import COMPANION
from forcetune.programs import check_program
from forcetune.search.printing import print_line
from forcetune.state_files import check_writable
from forcetune.stores import optuna_uri, state_folder
from forcetune.study import CompanionRuns, Priority, Search, Study, Trial, load_study

if TYPE_CHECKING:
    from forcetune.execution.cost import Cost
    from forcetune.report import StudyResults
    from forcetune.search.doctor import Finding

MAX_ASKS_PER_TRIAL = 10  # of a sampler, for each drawn configuration, since it may propose one twice


def run_study(
    study: Study | Mapping[str, Any] | str | Path,
    *,
    fresh: bool = False,
    priority: Priority = "normal",
    retry_failed: bool = False,
    console: Console | None = None,
) -> "StudyResults":
    """Run a study from Python or from a notebook, or continue it where an earlier run of it ended.

    As with `forcetune search`, the front is run again with fresh seeds where the study has `search.seeds`. Nothing is
    written before the study is checked. After any exception, an interrupt too, all finished work is kept, and the same
    call continues the study.

    Args:
        study: The study: a `Study`, the content of a study file as a dict, or the path of a study file.
        fresh: Whether to archive first what the stores have under the study's name, and to start anew.
        priority: The priority among the studies of a cluster: those of low priority get what the others leave.
        retry_failed: Whether to run the failed trials again, failed re-runs with fresh seeds among them.
        console: Where the progress is shown. By default standard output: a live block on a terminal, a live table in a
            notebook, a line for each trial elsewhere.

    Returns:
        The trials of the study, its front, its figures, and why the search ended early if it did.

    Raises:
        InputError: The study is not valid or cannot be run, or no node has the resources of a trial.
        HeldError: Another driver runs the study.
        StoppedError: A store is gone, or too many trials fail.
        KeyboardInterrupt: The process received SIGINT or SIGTERM.
    """
    checked_study = _validate(study)
    end_reason = search_study(checked_study, console or Console(), fresh, priority, retry_failed)
    from forcetune.report import StudyResults, results

    return StudyResults(**vars(results.load(checked_study.study)), end_reason=end_reason)


def _validate(study: Study | Mapping[str, Any] | str | Path) -> Study:
    """Return the validated study; one that was made by `Study(...)` was only partly validated until now."""
    if isinstance(study, str | Path):
        return load_study(study)
    return Study.from_dict(study.model_dump() if isinstance(study, Study) else study)


def search_study(
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
    refuse_outside_tests()
    check_program(study.on_end, "on_end")
    environment.prepare()
    with RaySession(study, console, priority) as session:
        session.begin()
        return _run(study, console, fresh, retry_failed, session)


def _run(study: Study, console: Console, fresh: bool, retry_failed: bool, session: RaySession) -> str | None:
    descriptions = check_study(study)
    from forcetune.execution import cost
    from forcetune.ledger.driver_lock import driver_lock
    from forcetune.ledger.recorded_study import load_prior_trials, refuse_changes
    from forcetune.ledger.storage import has_study
    from forcetune.ledger.study_attributes import pending_archive, request_retry
    from forcetune.search.announcing import announce_end
    from forcetune.search.archive import archive
    from forcetune.search.driver import open_driver
    from forcetune.search.proposals import make_proposals, select_fitting

    uri = optuna_uri()
    check_writable(state_folder(uri))
    with driver_lock(study.study, uri) as lock:
        prior_trials = []
        for prior_study, trials in load_prior_trials(study, uri).items():
            fitting = select_fitting(study, trials)
            message = (
                f"{len(fitting)} of {len(trials)} trials of {prior_study} fit this study; the search learns from them"
            )
            print_line(console, message)
            prior_trials += fitting
        if fresh or pending_archive(study.study, uri):
            # a study that cannot be run must be refused before anything is archived
            make_proposals(study, [], prior_trials=prior_trials)
            session.start()
        if name := archive(study.study, lock.check, console, fresh):
            print_line(console, f"the earlier study is kept in both stores under the name {name}")
        refuse_changes(study, uri)
        if not has_study(study.study, uri):
            session.start()  # nothing may be written where no trial fits
        references = study.references(1 / max(description["classes"] for description in descriptions))
        propose = partial(make_proposals, study, prior_trials=prior_trials)
        if retry_failed:  # the request is recorded before any trial runs, so that a kill does not lose it
            for name in (study.study, study.study + COMPANION):
                request_retry(name, uri)
        driver = open_driver(study, lock.check, console, references=references, propose=propose)
        has_work = not driver.is_finished
        session.drive(driver)
        if driver.failure_reason:
            announce_end(study, "failed", driver.failure_reason, console)
            raise StoppedError(_explain_failures(study, driver.failure_reason))
        if driver.end_reason:
            end_reason: str | None = f"the search ended early: {driver.end_reason}"
        else:
            if has_work:
                cost.report(study, driver.spending.hours, console)
            end_reason = _rerun_front(study, console, session, references)
        announce_end(study, "ended early" if end_reason else "completed", end_reason, console)
        return end_reason


def announce_failure(study: Study, reason: str, console: Console) -> None:
    """Start the program of `on_end` for a study whose job was given up, unless its driver has done so itself.

    Args:
        study: The study.
        reason: Why the job was given up.
        console: Where a failure is reported.
    """
    from forcetune.search.announcing import announce_end

    try:
        if study.on_end and not is_over(study):
            announce_end(study, "failed", reason, console)
    except InputError as error:  # the ledger is away, which may be why the driver died
        print_line(console, f"on_end: the program was not started: {error}")
    except StoppedError as error:
        print_line(console, f"on_end: the next driver starts the program again: {error}")


def _rerun_front(study: Study, console: Console, session: RaySession, references: Mapping[str, float]) -> str | None:
    """Run the front again with fresh seeds, where the study asks for it; return why that ended early, if it did."""
    from forcetune.ledger.driver_lock import driver_lock
    from forcetune.search.companions import rerun

    if study.search.seeds is None:
        return None
    with driver_lock(study.study + COMPANION, optuna_uri()) as companion_lock:
        return rerun(study, companion_lock.check, console, session.drive, references)


def _explain_failures(study: Study, reason: str) -> str:
    return (
        f"the search was given up: {reason}. The artifact error.json of the failed runs has the traceback. After you "
        "fix the cause, the same command continues with the remaining trials and counts failures from zero; with "
        "--retry-failed it also runs the failed trials again. A higher `search.max_failures` in the study file allows "
        f"more failed trials ({study.trials} allows all)"
    )


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
    refuse_outside_tests()
    environment.prepare()
    from forcetune.ledger.driver_lock import driver_lock
    from forcetune.search.companions import run_listed_companions

    companion = companion_runs.study.make_companion(Search())
    with RaySession(companion, console, priority) as session:
        session.begin()
        classes = max(description["classes"] for description in check_study(companion_runs.study))
        references = companion_runs.study.references(1 / classes)
        check_writable(state_folder(optuna_uri()))
        with driver_lock(companion.study, optuna_uri()) as lock:
            _refuse_archived(companion_runs.study.study)
            return run_listed_companions(companion_runs, lock.check, console, session.drive, references)


def _refuse_archived(study: str) -> None:
    """Raise InputError where the study is archived, or where a driver was killed while it archived the study."""
    from forcetune import tracking
    from forcetune.ledger.study_attributes import pending_archive
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
    from forcetune.ledger.trials import load_trials, select_current

    trials = select_current(load_trials(companion_runs.study.study + COMPANION, optuna_uri()))
    return {companion_run.key for companion_run in companion_runs.companions} <= {
        frozen_trial.user_attrs.get("key") for frozen_trial in trials if frozen_trial.state.is_finished()
    }


def draw_trials(study: Study, count: int) -> list[Trial]:
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
    from forcetune.ledger.trials import load_trials, select_counted

    finished_trials = [
        frozen_trial
        for frozen_trial in select_counted(load_trials(study.study, optuna_uri()))
        if frozen_trial.state.is_finished()
    ]
    return len(finished_trials) >= study.trials


def is_over(study: Study) -> bool:
    """Return whether no work is left for another driver: the study is complete, or was given up after failures."""
    from forcetune.ledger.trials import load_trials
    from forcetune.search.ending import is_hopeless

    return is_complete(study) or is_hopeless(study, load_trials(study.study, optuna_uri()))


def predict_cost(study: Study) -> "Cost":
    """Predict the cost of a search, and keep the prediction so that the search can print it beside its real cost.

    Args:
        study: The study.

    Returns:
        The predicted cost, from a few measured seconds of the slowest and the fastest trial.

    Raises:
        InputError: A trial fails.
    """
    environment.prepare()
    from forcetune.execution import cost

    try:
        with contained():
            return cost.predict(study)
    except InputError:
        raise
    except Exception as error:  # the user's model, data or method may raise anything
        raise InputError(f"a trial of the study fails: {type(error).__name__}: {error}") from error


def examine_study(name: str, mend: bool = False) -> tuple["list[Finding]", "list[Finding]", str | None]:
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
    from forcetune.ledger.driver_lock import driver_lock
    from forcetune.search import doctor

    try:
        with driver_lock(name, optuna_uri()) as lock:
            return (*doctor.repair(name, lock.check), None) if mend else ([], doctor.examine(name, lock.check), None)
    except HeldError as error:
        if mend:
            raise
        return [], doctor.examine(name, live=True), str(error)


def move_study(name: str, ledger: str | None, runs: str | None, say: Callable[[str], None]) -> None:
    """Move a study and its companion to other stores, as `forcetune.search.moving.move` says."""
    environment.prepare()
    from forcetune.search import moving

    moving.move(name, ledger, runs, say)
