"""MLflow's tables in a new file: complete or absent, whenever the process that makes them is killed."""

import os
import signal
import sqlite3
import subprocess
import sys
from contextlib import closing

import pytest
from shared_constants import REPOSITORY

from forcetune.errors import InputError
from forcetune.tracking import Tracker, schema

# This code opens the store of the current folder, kills itself before the statement whose number it was given, and
# otherwise prints the number of statements.
OPEN_STORE_CODE = """
import os, signal, sqlite3, sys
from sqlalchemy import event
from sqlalchemy.engine import Engine

statements = 0


def count(*ignored):
    global statements
    statements += 1
    if statements == int(sys.argv[1]):
        os.kill(os.getpid(), signal.SIGKILL)


event.listen(Engine, "before_cursor_execute", count)
from forcetune.tracking import Tracker
try:
    from forcetune.tracking import schema
except ImportError:
    pass
else:
    copied = schema._statements
    schema._statements = lambda template: ((count(), text)[1] for text in copied(template))
Tracker("s", f"sqlite:///{os.getcwd()}/mlflow.db")
print(statements)
"""


def open_store(folder, kill_before=0):
    """Open the store in a separate process."""
    return subprocess.run(
        [sys.executable, "-c", OPEN_STORE_CODE, str(kill_before)],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(REPOSITORY)},
        capture_output=True,
        text=True,
    )


@pytest.mark.long
def test_a_store_opens_after_a_kill_while_its_tables_were_made(tmp_path):
    complete = tmp_path / "whole"
    complete.mkdir()
    count = int(open_store(complete).stdout.splitlines()[-1])
    for share in (0.02, 0.5, 0.9, 0.99):
        folder = tmp_path / str(share)
        folder.mkdir()
        assert open_store(folder, int(count * share)).returncode == -signal.SIGKILL
        reopened = open_store(folder)
        assert reopened.returncode == 0, f"killed at {share:.0%}: {reopened.stderr[-1000:]}"


def list_tables(path):
    with closing(sqlite3.connect(path)) as connection:
        return {name for (name,) in connection.execute("select name from sqlite_master where type = 'table'")}


def test_an_empty_file_gets_the_tables(tmp_path, monkeypatch, empty_mlflow):
    monkeypatch.setattr(schema, "_migrate", lambda path, artifacts: path.write_bytes(empty_mlflow.read_bytes()))
    path = tmp_path / "mlflow.db"
    path.touch()
    schema.make_tables(path)
    assert list_tables(path) == list_tables(empty_mlflow)
    Tracker("s", f"sqlite:///{path}")


def test_a_store_that_another_process_made_meanwhile_stays(tmp_path, monkeypatch, empty_mlflow):
    path = tmp_path / "mlflow.db"

    def migrate(template, artifacts):
        template.write_bytes(empty_mlflow.read_bytes())
        with closing(sqlite3.connect(path)) as connection, connection:
            connection.execute("create table other (id integer)")

    monkeypatch.setattr(schema, "_migrate", migrate)
    schema.make_tables(path)
    assert list_tables(path) == {"other"}


def test_an_interruption_while_the_tables_are_copied_leaves_none(tmp_path, monkeypatch, empty_mlflow):
    monkeypatch.setattr(schema, "_migrate", lambda path, artifacts: path.write_bytes(empty_mlflow.read_bytes()))
    statements = schema._statements

    def interrupt(template):
        yield from list(statements(template))[:100]
        raise KeyboardInterrupt

    path = tmp_path / "mlflow.db"
    with monkeypatch.context() as context:
        context.setattr(schema, "_statements", interrupt)
        with pytest.raises(KeyboardInterrupt):
            schema.make_tables(path)
    assert not schema.has_tables(path)
    schema.make_tables(path)
    assert list_tables(path) == list_tables(empty_mlflow)


def alter(path, *statements):
    with closing(sqlite3.connect(path)) as connection, connection:
        for statement in statements:
            connection.execute(statement)


def test_an_incomplete_store_of_an_earlier_version_is_refused(tmp_path, empty_mlflow):
    path = tmp_path / "mlflow.db"
    path.write_bytes(empty_mlflow.read_bytes())
    alter(path, "drop table trace_info", "update alembic_version set version_num = '451aebb31d03'")
    with pytest.raises(InputError, match=r"only a part of MLflow's tables and no run.*remove mlflow.db, mlflow.db-wal"):
        Tracker("s", f"sqlite:///{path}")


def test_a_store_of_another_version_that_has_runs_is_refused(tmp_path, empty_mlflow):
    path = tmp_path / "mlflow.db"
    path.write_bytes(empty_mlflow.read_bytes())
    alter(path, "insert into runs (run_uuid) values ('one')", "update alembic_version set version_num = '451aebb31d03'")
    with pytest.raises(InputError, match=r"has 1 runs, .* another version of MLflow.*mlflow db upgrade"):
        Tracker("s", f"sqlite:///{path}")


def test_a_file_that_is_no_database_is_refused(tmp_path):
    (tmp_path / "mlflow.db").write_text("notes\n" * 1000)
    with pytest.raises(InputError, match=r"mlflow.db cannot be used: .*file is not a database"):
        Tracker("s", f"sqlite:///{tmp_path}/mlflow.db")
