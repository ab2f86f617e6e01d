"""Writes that the database of the ledger refuses, as on a full disk: each ends in one paragraph."""

from pathlib import Path

import optuna
import pytest
from click.testing import CliRunner
from rich.console import Console
from sqlalchemy import event
from sqlalchemy.exc import IntegrityError, OperationalError, ProgrammingError
from sqlalchemy.pool import Pool

from forcetune import run
from forcetune.cli import main
from forcetune.errors import InputError, StoppedError
from forcetune.ledger import ledger as ledger_module
from forcetune.ledger import trials, writes
from forcetune.ledger.ledger import Ledger
from forcetune.ledger.messages import Report
from forcetune.ledger.storage import delete_study, has_study, open_storage, rename_study
from forcetune.ledger.study_attributes import has_retries, load_announced_end, record_announced_end, request_retry
from forcetune.search.announcing import announce_end
from forcetune.search.driver import open_driver
from forcetune.stores import optuna_uri, sqlite_path


@pytest.fixture
def refuse_writes():
    """Return a function that makes SQLite refuse writes to the file of an address, or accept them again."""
    refused_files = set()

    def set_mode(connection, *_):
        file = connection.execute("PRAGMA database_list").fetchone()[2]
        connection.execute(f"PRAGMA query_only = {'on' if file and Path(file).resolve() in refused_files else 'off'}")

    def refuse(uri, refused=True):
        (refused_files.add if refused else refused_files.discard)(sqlite_path(uri).resolve())

    event.listen(Pool, "checkout", set_mode)
    yield refuse
    event.remove(Pool, "checkout", set_mode)


@pytest.fixture
def study(folder, make_study):
    """Return a study whose one trial has failed."""
    study = make_study(search={"trials": 1})
    driver = open_driver(study, lambda: None, Console(quiet=True))
    assignment = driver.issue()
    driver.end(assignment.number, assignment.attempt, Report({}, outcome="failed", reason="it failed"))
    driver.close()
    return study


WRITES = {
    "describe": lambda ledger: ledger.describe("changed " * 1000),
    "rename": lambda ledger: ledger.rename("other"),
    "request_retry": lambda ledger: request_retry("s", optuna_uri()),
    "record_announced_end": lambda ledger: record_announced_end("s", optuna_uri(), {"state": "completed"}),
    "rename_study": lambda ledger: rename_study("s", "other", optuna_uri()),
    "delete_study": lambda ledger: delete_study("s", optuna_uri()),
}


@pytest.mark.parametrize("write", WRITES)
def test_a_refused_write_ends_in_one_paragraph(study, refuse_writes, write):
    ledger = Ledger(study, optuna_uri())
    refuse_writes(optuna_uri())
    with pytest.raises(StoppedError, match=r"the ledger sqlite:.* refuses writes: attempt to write .* run the same"):
        WRITES[write](ledger)
    refuse_writes(optuna_uri(), False)
    assert has_study("s", optuna_uri())
    assert not has_retries("s", optuna_uri())
    assert load_announced_end("s", optuna_uri()) is None
    WRITES[write](ledger)


def test_a_full_database_ends_in_one_paragraph(study, folder):
    def limit_pages(connection, *_):
        connection.execute("PRAGMA max_page_count = 1")  # as many as it has already

    ledger = Ledger(study, optuna_uri())
    event.listen(Pool, "checkout", limit_pages)
    try:
        with pytest.raises(StoppedError, match="refuses writes: database or disk is full. Once it accepts them"):
            ledger.describe("x" * 100_000)
    finally:
        event.remove(Pool, "checkout", limit_pages)


def test_the_claim_of_a_driver_is_refused_in_one_paragraph(study, refuse_writes, monkeypatch):
    ledger = Ledger(study, optuna_uri())
    monkeypatch.setattr(ledger_module, "is_postgresql", lambda uri: True)  # only there a driver claims its study
    refuse_writes(optuna_uri())
    with pytest.raises(StoppedError, match="refuses writes"):
        ledger.claim()
    refuse_writes(optuna_uri(), False)
    ledger.claim()
    ledger.guard()


@pytest.mark.parametrize("exists", [False, True])
def test_a_store_that_takes_no_new_study_is_refused(folder, make_study, refuse_writes, exists):
    if exists:
        optuna.create_study(study_name="s", storage=optuna_uri(), directions=["maximize", "minimize"])
    else:
        open_storage(optuna_uri())
    refuse_writes(optuna_uri())
    with pytest.raises(InputError, match=r"the Optuna storage sqlite:.* cannot be used: attempt to write"):
        Ledger(make_study(), optuna_uri())


def test_a_store_without_room_for_tables_is_refused(folder, refuse_writes):
    refuse_writes(optuna_uri())
    with pytest.raises(InputError, match=r"the Optuna storage sqlite:.* cannot be used: attempt to write"):
        open_storage(optuna_uri())


def test_the_move_to_a_full_store_goes_on_later(study, folder, refuse_writes):
    target = f"sqlite:///{folder}/there.db"
    open_storage(target)
    refuse_writes(target)
    result = CliRunner().invoke(main, ["move", "s", "--to", target, "--yes"])
    assert result.exit_code == 1
    assert f"to {target}: attempt to write a readonly database. Run the same command again" in result.stderr
    refuse_writes(target, False)
    assert CliRunner().invoke(main, ["move", "s", "--to", target, "--yes"]).exit_code == 0
    assert has_study("s", target)


def test_a_deletion_goes_on_later(study, refuse_writes):
    refuse_writes(optuna_uri())
    result = CliRunner().invoke(main, ["delete", "s", "--yes"])
    assert result.exit_code == 1
    assert "refuses writes" in result.stderr
    refuse_writes(optuna_uri(), False)
    assert CliRunner().invoke(main, ["delete", "s", "--yes"]).exit_code == 0
    assert not has_study("s", optuna_uri())


def test_a_program_of_a_job_that_was_given_up_is_announced_again(study, make_study, refuse_writes):
    console = Console(record=True, width=1000)
    study = make_study(search={"trials": 2}, on_end=["true"])
    refuse_writes(optuna_uri())
    run.announce_failure(study, "it died", console)
    assert "on_end: the next driver starts the program again: the ledger" in console.export_text()
    with pytest.raises(StoppedError, match="refuses writes"):
        announce_end(study, "failed", "it died", console)


@pytest.mark.parametrize(
    ("error", "attempts"),
    [
        (ProgrammingError("update", {}, Exception("permission denied")), 1),
        (IntegrityError("update", {}, Exception("the name is taken")), 1),
        (OperationalError("update", {}, Exception("server closed the connection")), 3),
    ],
)
def test_a_write_that_is_refused_whenever_it_is_made_is_not_repeated(monkeypatch, error, attempts):
    clock, calls = [0.0], []
    monkeypatch.setattr(writes.time, "monotonic", lambda: clock[0])
    monkeypatch.setattr(writes.time, "sleep", lambda seconds: clock.__setitem__(0, clock[0] + seconds))
    monkeypatch.setattr(writes, "DATABASE_PATIENCE_S", 1.5)

    def write():
        calls.append(clock[0])
        raise optuna.exceptions.StorageInternalError("An exception is raised during the commit.") from error

    with pytest.raises(StoppedError, match=str(error.orig)):
        writes.write_patiently(write, "postgresql://host/database")
    assert len(calls) == attempts


def test_any_other_error_of_the_database_is_one_paragraph(study, monkeypatch):
    def fail(*_):
        raise OperationalError("select", {}, Exception("server closed the connection"))

    monkeypatch.setattr(trials, "read_system_attrs", fail)
    result = CliRunner().invoke(main, ["delete", "s", "--yes"])
    assert result.exit_code == 1
    assert "the database did not answer, or refused a request: (builtins.Exception) server closed" in result.stderr
    assert "Traceback" not in result.output
